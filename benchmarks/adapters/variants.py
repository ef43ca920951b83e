"""reqtt in other shapes: handlers in worker threads, with a type, or streams; many requesters, connections,
filters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import reqtt
from benchmarks.settings import PATIENCE, Settings


@dataclass
class Body:
    number: str


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stack = AsyncExitStack()
        self.items: reqtt.Stream[reqtt.Response] | None = None

    async def open(self) -> None:
        url, s = f"mqtt://127.0.0.1:{self.settings.port}", self.settings
        clients = [
            await self.stack.enter_async_context(reqtt.Client(url, connect_timeout=30))
            for _ in range(s.connections)
        ]
        requesters = [
            await self.stack.enter_async_context(reqtt.Requester(client, qos=s.qos, timeout=PATIENCE))
            for client, _ in zip(cycle(clients), range(max(s.requesters, s.connections)), strict=False)
        ]
        topics = [f"{s.topic}/{number}" for number in range(s.filters)] if s.filters > 1 else [s.topic]
        if s.handler == "stream":
            self.items = requesters[0].stream(topics[0], timeout=PATIENCE, idle_timeout=PATIENCE)
            return
        # Each has its response topic before anything is measured.
        for requester in requesters:
            await requester.request(topics[0], s.bodies()[0])
        self.requesters, self.topics = cycle(requesters), cycle(topics)

    async def request(self, body: bytes) -> bytes:
        if self.items is not None:
            item = (await anext(self.items)).payload
            # The worker compares: of an item only the length is known.
            return body if len(item) == len(body) else item
        response = await next(self.requesters).request(next(self.topics), body)
        return response.payload


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    async def plain(body: bytes) -> bytes:
        return body

    def worker_thread(body: bytes) -> bytes:
        return body

    async def typed(body: Body) -> Body:
        return body

    async def stream() -> AsyncIterator[bytes]:
        item = settings.bodies()[0]
        while True:
            yield item

    handlers: dict[str, Callable[..., Any]] = {
        "bytes": plain,
        "def": worker_thread,
        "json": typed,
        "stream": stream,
    }

    def decorated(topic: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return reqtt.responder(topic, qos=settings.qos, concurrency=max(16, settings.in_flight))(function)

    def another(topic: str) -> Callable[..., Any]:
        async def echo(body: bytes) -> bytes:
            return body

        return decorated(topic, echo)

    if settings.filters > 1:
        serving = [another(f"{settings.topic}/{number}") for number in range(settings.filters)]
    else:
        serving = [decorated(settings.topic, handlers[settings.handler])]
    async with reqtt.Responder(f"mqtt://127.0.0.1:{settings.port}", serving):
        ready()
        await asyncio.Event().wait()
