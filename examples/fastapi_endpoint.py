"""An HTTP endpoint that asks a device, and turns its errors into HTTP's (needs `fastapi` and `httpx`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from _broker import broker_url
from fastapi import FastAPI, HTTPException

import reqtt


@reqtt.responder("cmnd/{light}/power")
async def power(light: str, body: str) -> str:
    if light != "bedroom":
        raise reqtt.RequestError(404, "no such light")
    return body


def make_app(mqtt_url: str) -> FastAPI:
    requester = reqtt.Requester(mqtt_url, timeout=2)  # One connection for all requests.

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with requester:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.put("/{house}/{light}/{state}")
    async def put(house: str, light: str, state: str) -> dict[str, str]:
        try:
            response = await requester.request(f"{house}/{light}/power", state)
        except reqtt.RemoteError as error:
            raise HTTPException(error.status, error.message) from None
        except (reqtt.NoMatchingSubscribers, reqtt.ResponseTimeout):
            raise HTTPException(503, "nobody there") from None
        return {"light": light, "state": response.text}

    return app


async def main(url: str) -> None:
    app = make_app(url)
    async with (
        reqtt.Responder(url, [power]),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://house") as http,
    ):
        for path in ("/cmnd/bedroom/ON", "/cmnd/cellar/ON", "/nowhere/bedroom/ON"):
            answer = await http.put(path)
            print(f"PUT {path:<20} {answer.status_code} {answer.text}")


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
