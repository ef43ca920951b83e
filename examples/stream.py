"""A stream: the kettle tells its temperature until it boils, and stops when nobody looks any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from _broker import broker_url

import reqtt


@dataclass
class Reading:
    celsius: int


@reqtt.responder("cmnd/{kettle}/boil")
async def boil(kettle: str) -> AsyncIterator[Reading]:
    try:
        for celsius in range(20, 101, 20):
            yield Reading(celsius)
            await asyncio.sleep(0.05)
    finally:
        print(f"{kettle}: off")


async def main(url: str) -> None:
    async with reqtt.Responder(url, [boil]), reqtt.Requester(url) as requester:
        async for reading in requester.stream("cmnd/kettle-1/boil", response_type=Reading):
            print(f"kettle-1: {reading.celsius} °C")
        async for reading in requester.stream("cmnd/kettle-2/boil", response_type=Reading):
            print(f"kettle-2: {reading.celsius} °C, that is enough")
            break


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
