"""reqtt as its README shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import reqtt
from benchmarks.settings import PATIENCE, Settings


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.topic = settings.topic
        self.requester = reqtt.Requester(
            f"mqtt://127.0.0.1:{settings.port}", qos=settings.qos, timeout=PATIENCE
        )

    async def open(self) -> None:
        await self.requester.__aenter__()

    async def request(self, body: bytes) -> bytes:
        response = await self.requester.request(self.topic, body)
        return response.payload


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    @reqtt.responder(settings.topic, qos=settings.qos, concurrency=max(16, settings.in_flight))
    async def echo(body: bytes) -> bytes:
        return body

    async with reqtt.Responder(f"mqtt://127.0.0.1:{settings.port}", [echo]):
        ready()
        await asyncio.Event().wait()
