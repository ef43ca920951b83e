"""A handler asks other responders on the connection that it is served by: "night" puts out the lamps."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt

LAMPS = {"hall": "ON", "kitchen": "ON", "cellar": "OFF"}


@reqtt.responder("lamps/{name}")
async def lamp(name: str, body: str) -> str:
    if name not in LAMPS:
        raise reqtt.RequestError(404, "no such lamp")
    LAMPS[name] = body
    return body


async def main(url: str) -> None:
    async with reqtt.Client(url) as client:
        # Of the same client: responses never queue behind requests, so this cannot wait for itself.
        house = reqtt.Requester(client)

        @reqtt.responder("scenes/night")
        async def night(body: list[str], request: reqtt.Request) -> dict[str, str]:
            # What is left of the time of the one who asks bounds the inner requests.
            left = request.remaining() or 5
            states = await asyncio.gather(
                *(house.request(f"lamps/{name}", "OFF", timeout=left) for name in body)
            )
            return {name: state.text for name, state in zip(body, states, strict=True)}

        async with house, reqtt.Responder(client, [lamp, night]), reqtt.Requester(url) as phone:
            response = await phone.request("scenes/night", ["hall", "kitchen"], timeout=5)
            print(f"night: {response.json()}")
            try:
                await phone.request("scenes/night", ["hall", "garden"], timeout=5)
            except reqtt.RemoteError as error:
                print(f"night in the garden: {error.status}, {error.message}")
            print(f"lamps: {LAMPS}")


if __name__ == "__main__":
    import logging

    logging.getLogger("reqtt").setLevel(logging.ERROR)  # It warns of the request that failed.
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
