"""What stays behind: memory, threads, descriptors. `make leaks` asks a million times."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

import reqtt
from support import leaks
from support.footprint import descriptors, native_threads
from support.waiting import eventually


@reqtt.responder("echo")
async def echo(payload: bytes) -> bytes:
    return payload


def threads_and_descriptors() -> tuple[int, int, int]:
    return threading.active_count(), native_threads(), descriptors()


async def at_rest() -> tuple[int, int, int]:
    """The same twice in a row: a broker in this process closes its side of a connection a moment later."""
    while True:
        seen = threads_and_descriptors()
        await asyncio.sleep(0.1)
        if threads_and_descriptors() == seen:
            return seen


@pytest.mark.timeout(300)
async def test_timeouts_cancellations_and_cuts_leave_nothing_behind() -> None:
    outcomes, grown, stats = await leaks.run(100_000, 10)
    assert outcomes == {"answered": 80_000, "timeout": 10_000, "cancelled": 10_000}
    assert (stats.pending, stats.reconnects) == (0, 10)
    assert grown < leaks.LIMIT


async def test_a_thousand_connections_leave_nothing_behind(broker: Any) -> None:
    async def open_and_close() -> None:
        async with reqtt.Client(broker.url):
            pass

    await open_and_close()
    before = await at_rest()
    for _ in range(1_000):
        await open_and_close()
    assert await at_rest() == before


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
async def test_a_large_payload_is_lent_not_kept(own_loopback: Any, scheme: str) -> None:
    """The loop's own thread gives it back, or the I/O thread, which must not touch Python's memory."""
    broker = own_loopback()
    body = bytes(range(256)) * 4096
    before = sys.getrefcount(body)

    url = broker.url if scheme == "mqtt" else broker.loopback.ws_url
    async with reqtt.Responder(url, [echo]), reqtt.Requester(url) as req:
        for _ in range(10):
            assert (await req.request("echo", body)).payload == body
        with pytest.raises(reqtt.NoMatchingSubscribers):
            await req.request("nobody", body)
        # What comes back from the I/O thread is let go of with the next event.
        await req.request("echo", b"small")
        await eventually(lambda: sys.getrefcount(body) == before)


async def test_a_lent_payload_that_was_never_sent_comes_back(own_loopback: Any) -> None:
    broker = own_loopback()
    body = bytes(1_000_000)
    before = sys.getrefcount(body)
    async with reqtt.Requester(broker.url, reconnect=reqtt.Reconnect(initial=30, max=30)) as req:
        broker.loopback.cut()
        await eventually(lambda: not req.client.connected)
        with pytest.raises(reqtt.ResponseTimeout):
            await req.request("echo", body, timeout=0.1)
        await eventually(lambda: sys.getrefcount(body) == before)
