"""One question to all lamps: answers as they come, the first two, and an error among the answers."""

from __future__ import annotations

import asyncio
from typing import Any

from _broker import broker_url

import reqtt


def lamp(name: str, seconds: float, *, broken: bool = False) -> Any:
    @reqtt.responder("lamps/state")
    async def state() -> dict[str, str]:
        await asyncio.sleep(seconds)
        if broken:
            raise reqtt.RequestError(500, f"the bulb of {name} is broken")
        return {"lamp": name, "state": "ON"}

    return state


async def main(url: str) -> None:
    async with (
        reqtt.Responder(url, [lamp("hall", 0)]),
        reqtt.Responder(url, [lamp("kitchen", 0.1)]),
        reqtt.Responder(url, [lamp("cellar", 0.2, broken=True)]),
        reqtt.Requester(url) as requester,
    ):
        print("as they come, until nobody has answered for half a second:")
        async for answer in requester.gather("lamps/state", stall=0.5, timeout=5):
            # With raise_errors=True the first error is raised instead.
            print(f"  {answer.json() if isinstance(answer, reqtt.Response) else answer}")

        first = await requester.gather("lamps/state", response_type=dict[str, str], max_responses=2)
        print("the first two:", [answer["lamp"] for answer in first if isinstance(answer, dict)])

        print("nobody there:", await requester.gather("curtains/state", timeout=1))


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
