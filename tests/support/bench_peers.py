"""What a benchmark has to notice: `BENCH_PEER` says what goes wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from benchmarks.settings import Settings

PEER = os.environ.get("BENCH_PEER", "")


class Requester:
    """No broker is asked: each answer is made here."""

    def __init__(self, settings: Settings) -> None:
        self.asked = 0

    async def open(self) -> None:
        if PEER == "broken":
            raise ConnectionError("cannot connect")

    async def request(self, body: bytes) -> bytes:
        await asyncio.sleep(0.001)
        self.asked += 1
        if self.asked > 10 and PEER == "wrong":
            return body[::-1] + b"!"
        if self.asked > 10 and PEER == "deaf":
            raise RuntimeError("deaf")
        return body


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    ready()
    await asyncio.Event().wait()
