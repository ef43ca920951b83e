"""100,000 requests at 1,000 in flight on Mosquitto: each response is its caller's, nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import reqtt
from support.footprint import resident
from support.process import child

WARM_UP, TOTAL, IN_FLIGHT = 20_000, 100_000, 1_000
GROWTH = 20 * 1024 * 1024


@pytest.mark.timeout(600)
async def test_a_hundred_thousand_requests_at_a_thousand_in_flight(
    own_mosquitto: Callable[..., Any], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    # 0: no limit. With Debian's defaults Mosquitto drops what it can not queue.
    broker = own_mosquitto(max_inflight_messages=0, max_queued_messages=0)
    async with (
        child("responder_process.py", broker.url, topic, "quiet") as process,
        reqtt.Requester(broker.url) as req,
    ):
        await process.line("READY")

        async def ask(numbers: range) -> int:
            right = 0
            for i in numbers:
                response = await req.request(topic, b"%d" % i, timeout=60)
                assert response.payload == b"%d" % i
                right += 1
            return right

        async def run(begin: int, end: int) -> int:
            async with asyncio.TaskGroup() as group:
                callers = [group.create_task(ask(range(begin + n, end, IN_FLIGHT))) for n in range(IN_FLIGHT)]
            return sum(c.result() for c in callers)

        assert await run(0, WARM_UP) == WARM_UP
        before = resident()
        assert await run(WARM_UP, TOTAL) == TOTAL - WARM_UP
        grown = resident() - before
        stats = req.client.stats()
    assert (stats.pending, stats.responses) == (0, TOTAL)
    assert (stats.late, stats.unmatched, stats.duplicates, stats.timeouts, stats.reconnects) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert grown < GROWTH, f"{grown / 1e6:.1f} MB more than after the warm-up"
    assert not [
        r for r in caplog.records if r.name.startswith("reqtt") and r.levelname in ("WARNING", "ERROR")
    ]
