"""Every case ends as it began: no task, thread or socket left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest


def _sockets() -> set[str]:
    # Sockets only: an event loop or a runtime that lives as long as the process may keep its eventfd.
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _threads() -> set[threading.Thread]:
    # The loop's default executor ends with the loop.
    return {t for t in threading.enumerate() if not t.name.startswith("asyncio_")}


@pytest.fixture(autouse=True)
async def nothing_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    tasks, threads, sockets = asyncio.all_tasks(), _threads(), _sockets()
    yield

    def left() -> list[object]:
        new_tasks = {t for t in asyncio.all_tasks() - tasks if t is not asyncio.current_task()}
        return [*new_tasks, *(_threads() - threads), *(_sockets() - sockets)]

    for _ in range(100):
        if not left():
            return
        await asyncio.sleep(0.02)
        gc.collect()
    pytest.fail(f"left behind after 2 s: {left()}")


@pytest.fixture
def answered_with(
    requester: Callable[..., Awaitable[Any]], peer: Any, proxy: Any, topic: str
) -> Callable[..., Awaitable[Any]]:
    """`await answered_with(pairs, payload, **requester options)`: what a request makes of a raw response with
    these user properties, its Response or what it raises."""

    async def ask(pairs: tuple[tuple[str, str], ...], payload: bytes = b"body", **options: Any) -> Any:
        req = await requester(proxy, **options)
        waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=5))
        await peer.respond(await peer.receive(), payload, user_properties=pairs)
        (result,) = await asyncio.gather(waiting, return_exceptions=True)
        assert req.client.stats().pending == 0
        following = asyncio.ensure_future(req.request(topic, b"y", timeout=5))
        await peer.respond(await peer.receive(), "fine")
        assert (await following).text == "fine"
        assert proxy.accepted == 1
        return result

    return ask
