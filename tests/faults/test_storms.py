"""Cuts in a row, with everything in flight and the session kept: nothing is lost, doubled or swapped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import responder
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.02, max=0.05, jitter=0)
SESSION: dict[str, Any] = {"clean_start": False, "session_expiry_interval": 300}
ROUNDS = 6


@pytest.mark.parametrize("qos", [1, 2])
async def test_cuts_and_cancellations_leave_the_other_requests_alone(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str, qos: int
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy, reconnect=QUICK, client_id=topic, **SESSION)
    for number in range(ROUNDS):
        calls = [
            asyncio.ensure_future(req.request(topic, b"%d" % i, timeout=10, qos=qos)) for i in range(100)
        ]
        await asyncio.sleep(0.004 * number)  # later in the exchange each time
        proxy.cut(hard=number % 2 == 0)
        for call in calls[::2]:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for i, outcome in enumerate(outcomes):
            if i % 2 or not isinstance(outcome, asyncio.CancelledError):
                assert isinstance(outcome, reqtt.Response), outcome
                assert outcome.payload == b"%d" % i
    await eventually(lambda: req.client.stats().in_flight == 0)
    stats = req.client.stats()
    assert (stats.pending, stats.timeouts, stats.unmatched) == (0, 0, 0)
    assert stats.responses + stats.cancelled == ROUNDS * 100


@pytest.mark.parametrize("qos", [1, 2])
async def test_cuts_before_a_responder_cost_no_request_and_no_second_run(
    proxy: Proxy, serving: Factory, requester: Factory, broker: Any, topic: str, qos: int
) -> None:
    ran: list[bytes] = []

    @responder(topic, qos=2, concurrency=7)
    async def handler(body: bytes) -> bytes:
        ran.append(body)
        await asyncio.sleep(0.002)
        return body

    app = await serving(proxy, handler, reconnect=QUICK, client_id=topic, **SESSION)
    req = await requester(broker)
    for number in range(ROUNDS):
        sent = [b"%d-%d" % (number, i) for i in range(60)]
        calls = [asyncio.ensure_future(req.request(topic, body, timeout=10, qos=qos)) for body in sent]
        for _ in range(2):
            await asyncio.sleep(0.005 * number)
            proxy.cut(hard=number % 2 == 0)
        assert [r.payload for r in await asyncio.gather(*calls)] == sent
    assert len(ran) == len(set(ran)) == ROUNDS * 60
    assert app.client.stats().duplicates_suppressed > 0


async def test_with_room_for_one_packet_at_a_time_cuts_lose_nothing(
    own_loopback: Callable[..., Any], make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    broker = own_loopback(receive_maximum=1)
    proxy: Proxy = await make_proxy(broker)
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy, reconnect=QUICK, client_id=topic, **SESSION)
    for _ in range(ROUNDS):
        calls = [req.request(topic, b"%d" % i, timeout=10, qos=1 + i % 2) for i in range(30)]
        waiting = asyncio.gather(*calls)
        await asyncio.sleep(0.004)
        proxy.cut()
        assert [r.payload for r in await waiting] == [b"%d" % i for i in range(30)]
