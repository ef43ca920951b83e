"""Who waits for which response, for the libraries that leave that to their users: as little as will do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from benchmarks.settings import PATIENCE


class Waiting:
    """A future and a timer for each request, by its Correlation Data."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._futures: dict[bytes, asyncio.Future[bytes]] = {}
        self._numbers = count()
        self._inbox: deque[tuple[bytes, bytes]] = deque()
        self._woken = False

    async def response(self, publish: Callable[[bytes], Awaitable[Any] | None]) -> bytes:
        """Calls `publish` with new Correlation Data, and waits for the response to it."""
        data = next(self._numbers).to_bytes(8, "big")
        future = self._futures[data] = self._loop.create_future()
        timer = self._loop.call_later(PATIENCE, self._give_up, future)
        try:
            sent = publish(data)
            if sent is not None:
                await sent
            payload: bytes = await future
            return payload
        finally:
            timer.cancel()
            del self._futures[data]

    @staticmethod
    def _give_up(future: asyncio.Future[bytes]) -> None:
        if not future.done():
            future.set_exception(TimeoutError())

    def arrived(self, data: bytes, payload: bytes) -> None:
        """On the loop's thread."""
        if (future := self._futures.get(data)) and not future.done():
            future.set_result(payload)

    def arrived_elsewhere(self, data: bytes, payload: bytes) -> None:
        """On another thread; what arrives before the loop looks wakes it once."""
        self._inbox.append((data, payload))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        # First of all: what comes from now on wakes again.
        self._woken = False
        while self._inbox:
            self.arrived(*self._inbox.popleft())
