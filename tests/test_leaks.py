"""What stays behind: memory, threads, descriptors. `make leaks` asks a million times."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import reqtt
from support import leaks
from support.footprint import descriptors, native_threads


def threads_and_descriptors() -> tuple[int, int, int]:
    return threading.active_count(), native_threads(), descriptors()


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
    before = threads_and_descriptors()
    for _ in range(1_000):
        await open_and_close()
    assert threads_and_descriptors() == before
