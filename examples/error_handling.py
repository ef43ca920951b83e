"""What can go wrong, and under which exception the one who asked learns of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from _broker import broker_url

import reqtt
from reqtt import RequestError, responder


@dataclass
class Dimming:
    percent: int


@responder("lamp/{name}/dim", timeout=0.2)
async def dim(name: str, body: Dimming) -> Dimming:
    if name == "cellar":
        raise RequestError(404, "no such lamp", code="LAMP", data={"known": ["hall", "attic"]})
    if name == "attic":
        await asyncio.sleep(10)
    # Not for the eyes of others: it is in the log, the requester gets "internal error".
    return Dimming(100 // body.percent)


async def attempt(requester: reqtt.Requester, what: str, *arguments: Any, **options: Any) -> None:
    try:
        response = await requester.request(*arguments, **options)
        print(f"{what:<22} {response.text}")
    except reqtt.RemoteError as error:
        details = {"code": error.code, "data": error.data} if error.code else ""
        print(f"{what:<22} {type(error).__name__} {error.status}: {error.message} {details}".rstrip())
    except (reqtt.NoMatchingSubscribers, reqtt.ResponseTimeout, reqtt.InvalidTopic) as error:
        print(f"{what:<22} {type(error).__name__}")


async def main(url: str) -> None:
    async with reqtt.Responder(url, [dim]), reqtt.Requester(url, timeout=2) as requester:
        await attempt(requester, "all is well", "lamp/hall/dim", Dimming(50))
        await attempt(requester, "no such lamp", "lamp/cellar/dim", Dimming(50))
        await attempt(requester, "a wrong payload", "lamp/hall/dim", {"percent": "half"})
        await attempt(requester, "a wrong Content Type", "lamp/hall/dim", b"", content_type="image/png")
        await attempt(requester, "a handler that fails", "lamp/hall/dim", Dimming(0))
        await attempt(requester, "a handler that hangs", "lamp/attic/dim", Dimming(50))
        await attempt(requester, "a lamp nobody serves", "lamp/hall/blink", fail_fast=True)
        await attempt(requester, "time is up", "lamp/attic/dim", Dimming(50), timeout=0.1)
        await attempt(requester, "a topic with wildcard", "lamp/+/dim", Dimming(50))


if __name__ == "__main__":
    logging.getLogger("reqtt").setLevel(logging.CRITICAL)
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
