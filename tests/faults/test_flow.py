"""Slow handlers and floods: what is held is bounded, and nobody else has to wait for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

import reqtt
from reqtt import responder
from support.packets import PINGREQ, PINGRESP, PUBACK, PUBLISH
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


async def test_five_hundred_requests_before_a_slow_handler_are_held_by_the_broker_and_pings_go_on(
    loopback: Any, make_proxy: Factory, serving: Factory, requester: Factory, topic: str
) -> None:
    """Not on Mosquitto: 2.0.11 forgets a client's Receive Maximum once acknowledgements come in a row."""
    gate, running, most = asyncio.Event(), 0, 0

    @responder(topic, concurrency=4)
    async def slow(body: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return body

    proxy: Proxy = await make_proxy(loopback)
    app = await serving(proxy, slow, keep_alive=1, receive_maximum=30)
    req = await requester(loopback)
    waiting = [
        asyncio.ensure_future(req.request(topic, b"%d" % i + b" " * 10_000, timeout=30)) for i in range(500)
    ]
    for count in (1, 2, 3):
        await proxy.wait_down(PINGRESP, count=count)
    pings = [r.time for r in proxy.up(PINGREQ)]
    assert all(later - earlier <= 1.05 for earlier, later in pairwise(pings))
    assert len(proxy.down(PUBLISH, topic)) == 30
    gate.set()
    assert [(await w).payload.split()[0] for w in waiting] == [b"%d" % i for i in range(500)]
    held = high = 0
    for record in proxy.records:
        held += record.direction == "down" and record.packet.type is PUBLISH and record.packet.topic == topic
        held -= record.direction == "up" and record.packet.type is PUBACK
        high = max(high, held)
    assert high == 30
    assert most == 4
    assert (proxy.accepted, app.client.stats().reconnects) == (1, 0)


async def test_a_handler_that_blocks_the_loop_does_not_cost_the_connection(
    mosquitto: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    """The broker hangs up after 1.5 s without a packet; the pings do not come from Python's loop."""

    @responder(topic)
    async def blocking() -> str:
        time.sleep(2.2)  # noqa: ASYNC251  # the mistake is the case
        return "done"

    app = await serving(mosquitto, blocking, keep_alive=1)
    req = await requester(mosquitto)
    assert (await req.request(topic, timeout=5)).text == "done"
    await asyncio.sleep(0.1)  # for a Disconnected that is on its way
    assert app.client.stats().reconnects == 0
    assert app.client.connected


@pytest.mark.parametrize("plain", [False, True], ids=["async", "def"])
async def test_a_flood_on_one_filter_does_not_starve_another(
    broker: Any, make_proxy: Factory, serving: Factory, requester: Factory, topic: str, plain: bool
) -> None:
    release, released = threading.Event(), asyncio.Event()
    taken = 0

    @responder(f"{topic}/flood", ack="on_receipt", concurrency=2)
    async def flood() -> None:
        nonlocal taken
        taken += 1
        await released.wait()

    @responder(f"{topic}/flood", ack="on_receipt", concurrency=2)
    def plain_flood() -> None:
        nonlocal taken
        taken += 1
        release.wait(10)

    @responder(f"{topic}/other", concurrency=1)
    def other(body: bytes) -> bytes:
        return body

    proxy: Proxy = await make_proxy(broker)
    await serving(proxy, plain_flood if plain else flood, other)
    req = await requester(broker)
    calls = [asyncio.ensure_future(req.request(f"{topic}/flood", timeout=20)) for _ in range(400)]
    try:
        await proxy.wait_up(PUBACK, count=400)
        for i in range(20):
            response = await req.request(f"{topic}/other", b"%d" % i, timeout=5)
            assert response.latency < 0.5
        # Its acknowledgements do not wait either.
        await proxy.wait_up(PUBACK, count=420)
        assert taken == 2
    finally:
        release.set()
        released.set()
        for call in calls[2:]:
            call.cancel()
        await asyncio.wait(calls)
    assert req.client.stats().pending == 0


async def test_a_slow_handler_holds_back_acknowledgements_but_no_responses_and_only_until_its_request_expires(
    proxy: Proxy, serving: Factory, requester: Factory, broker: Any, topic: str
) -> None:
    gate = asyncio.Event()

    @responder(f"{topic}/slow")
    async def slow() -> None:
        await gate.wait()

    @responder(f"{topic}/fast")
    async def fast(body: bytes) -> bytes:
        return body

    await serving(proxy, slow, fast)
    req = await requester(broker)
    held = asyncio.ensure_future(req.request(f"{topic}/slow", timeout=1))
    first = await proxy.wait_down(PUBLISH, f"{topic}/slow")
    for i in range(10):
        assert (await req.request(f"{topic}/fast", b"%d" % i, timeout=5)).latency < 0.5
    assert not proxy.up(PUBACK), "in the order of arrival"
    with pytest.raises(reqtt.ResponseTimeout):
        await held
    last = await proxy.wait_up(PUBACK, count=11, timeout=2)
    assert proxy.up(PUBACK)[0].packet.packet_id == first.packet.packet_id
    assert last.time - first.time < 2
    gate.set()


async def test_more_qos_0_requests_than_may_wait_are_dropped_and_counted(
    loopback: Any, serving: Factory, raw: Factory, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate, ran = asyncio.Event(), 0

    @responder(topic, concurrency=1)
    async def slow() -> None:
        nonlocal ran
        await gate.wait()
        ran += 1

    app = await serving(loopback, slow)
    peer = await raw(loopback)
    with caplog.at_level(logging.CRITICAL, "reqtt.responder"):
        for i in range(12_000):
            if i % 500 == 499:
                await peer.ping()
            await peer.publish(topic, b"%d" % i, qos=0)
        await eventually(lambda: app.client.stats().requests_received == 12_000)
        assert app.client.stats().requests_dropped == 12_000 - 10_001  # one runs, 10,000 wait
        gate.set()
        await eventually(lambda: ran == 10_001)
