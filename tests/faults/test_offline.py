"""What happens to requests and responses while there is no connection, and why there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from faults.lab import Lab, lines
from faults.peers import encode
from reqtt import responder
from support import client_must
from support.packets import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    Packet,
)
from support.proxy import Proxy
from support.raw import RawClient
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.1, jitter=0)
SESSION: dict[str, Any] = {"clean_start": False, "session_expiry_interval": 300}


def expiry(packet: Packet) -> int:
    value = packet.properties["message_expiry_interval"]
    assert isinstance(value, int)
    return value


@client_must("MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-3.3.1-1")
@pytest.mark.parametrize("session", [True, False], ids=["session kept", "session lost"])
async def test_all_that_was_not_acknowledged_goes_out_again_in_order_with_what_remains_of_its_expiry(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, session: bool
) -> None:
    kept = {"client_id": topic, **SESSION} if session else {}
    req = await requester(proxy, reconnect=QUICK, **kept)
    warm = asyncio.ensure_future(req.request(topic, b"warm", timeout=5))
    await peer.respond(await peer.receive())
    await warm
    before = proxy.records[-1].index
    proxy.drop("up", PUBLISH)
    waiting = [asyncio.ensure_future(req.request(topic, b"%d" % i, timeout=10)) for i in range(5)]
    await proxy.wait_up(PUBLISH, topic, count=5, after=before)
    proxy._rules.clear()
    first = proxy.up(PUBLISH, topic)[1:]
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(1.3)  # what is measured: how much of the expiry is left
    await proxy.accept()
    await proxy.wait_up(PUBLISH, topic, count=10, after=before, timeout=5)
    again = proxy.up(PUBLISH, topic)[6:]
    assert [r.packet.payload for r in again] == [b"0", b"1", b"2", b"3", b"4"]
    assert [r.packet.correlation_data for r in again] == [r.packet.correlation_data for r in first]
    assert {r.packet.dup for r in again} == {session}
    assert {expiry(r.packet) for r in first} == {10}
    assert {expiry(r.packet) for r in again} == {9}
    if not session:
        suback = proxy.down(SUBACK)[-1]
        assert suback.index < again[0].index, "the response filter comes first"
        assert len(proxy.up(SUBSCRIBE)) == 2
    for _ in range(5):
        request = await peer.receive()
        await peer.respond(request, request.payload)
    assert [(await w).payload for w in waiting] == [b"0", b"1", b"2", b"3", b"4"]
    assert req.client.stats().pending == 0


@client_must("MQTT-4.3.3-5", "MQTT-4.3.3-6")
async def test_a_qos_2_request_whose_pubrec_is_there_is_released_and_not_published_again(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy, reconnect=QUICK, client_id=topic, **SESSION)
    proxy.cut_at("up", PUBREL)
    assert (await req.request(topic, b"once", qos=2, timeout=5)).payload == b"once"
    await proxy.wait_up(PUBREL, count=2)
    await proxy.wait_down(PUBCOMP)
    assert (await req.request(topic, b"twice", qos=2, timeout=5)).payload == b"twice"
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"once", b"twice"]
    assert proxy.accepted == 2


async def test_requests_that_wait_in_the_session_are_answered_by_the_next_process(lab: Lab) -> None:
    peer = await lab.responder(0)
    wire = await lab.wire()
    async with reqtt.Requester(wire.url) as req:
        await req.request("lab/0/echo", encode("before", 0, 0), timeout=5)
        await peer.kill()
        waiting = [
            asyncio.ensure_future(
                req.request("lab/0/echo", encode(f"while-down-{i}", 0, 9), timeout=20, qos=1 + i % 2)
            )
            for i in range(20)
        ]
        await asyncio.sleep(0.3)
        assert not any(w.done() for w in waiting)
        await peer.start()
        answers = [(await w).payload for w in waiting]
    assert [a.split()[0] for a in answers] == [b"while-down-%d" % i for i in range(20)]
    lives = {a.split()[1] for a in answers}
    assert len(lives) == 1
    runs = [line["run"] for line in lines(peer.log) if "run" in line]
    assert sorted(runs) == sorted(["before", *(f"while-down-{i}" for i in range(20))])


async def test_of_the_requests_made_offline_only_those_still_wanted_are_sent(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy, reconnect=QUICK)
    await req.request(topic, b"before", timeout=5)
    await proxy.take_offline(req.client)
    short = [asyncio.ensure_future(req.request(topic, b"short", timeout=0.2)) for _ in range(20)]
    given_up = [asyncio.ensure_future(req.request(topic, b"cancelled", timeout=5)) for _ in range(20)]
    wanted = [asyncio.ensure_future(req.request(topic, b"%d" % i, timeout=5)) for i in range(20)]
    await asyncio.wait(short)
    assert all(isinstance(s.exception(), reqtt.ResponseTimeout) for s in short)
    for g in given_up:
        g.cancel()
    await asyncio.wait(given_up)
    assert req.client.stats().pending == 20
    await proxy.accept()
    assert [(await w).payload for w in wanted] == [b"%d" % i for i in range(20)]
    sent = [r.packet.payload for r in proxy.up(PUBLISH, topic)]
    assert sent == [b"before", *(b"%d" % i for i in range(20))]


@pytest.mark.parametrize(
    ("reason_code", "final"),
    [(0x8B, False), (0x97, False), (0x9C, False), (0x8E, True), (0x9D, True)],
    ids=["shutting down", "quota exceeded", "use another server", "taken over", "server moved"],
)
async def test_the_brokers_reason_to_hang_up_reaches_events_and_exceptions(
    proxy: Proxy, raw: Factory, broker: Any, topic: str, reason_code: int, final: bool
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    async with reqtt.Requester(proxy.url, reconnect=QUICK) as req, reqtt.Requester(broker.url):
        events = req.client.events()
        proxy.rewrite("down", PUBACK, lambda p: [Packet(DISCONNECT, reason_code=reason_code)], times=1)
        waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=5))
        event = await asyncio.wait_for(anext(events), 5)
        assert isinstance(event, reqtt.Disconnected)
        assert (event.reason_code, event.final) == (reason_code, final)
        if final:
            with pytest.raises(reqtt.ConnectionLost) as caught:
                await asyncio.wait_for(waiting, 1)
            assert caught.value.reason_code == reason_code
            with pytest.raises(reqtt.ConnectionLost) as caught:
                await req.request(topic, b"y", timeout=5)
            assert caught.value.reason_code == reason_code
            assert proxy.accepted == 1
        else:
            assert (await waiting).payload == b"x"
            assert proxy.accepted == 2
        assert req.client.stats().pending == 0


async def test_without_resend_the_exception_tells_why_the_broker_hung_up(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, resend=False, reconnect=QUICK)
    proxy.rewrite("down", PUBACK, lambda p: [Packet(DISCONNECT, reason_code=0x97)], times=1)
    with pytest.raises(reqtt.ConnectionLost) as caught:
        await req.request(topic, b"x", timeout=5)
    assert caught.value.reason_code == 0x97
    await eventually(lambda: req.client.connected)
    assert len(proxy.up(CONNECT)) == 2


async def test_the_response_made_offline_goes_out_on_the_next_connection(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate = asyncio.Event()
    runs = 0

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        nonlocal runs
        runs += 1
        await gate.wait()
        return body

    app = await serving(proxy, handler, client_id=topic, reconnect=QUICK, **SESSION)
    peer = await raw(broker)
    asking = asyncio.ensure_future(
        peer.request(topic, "x", correlation_data=b"c", message_expiry_interval=30, timeout=10)
    )
    await proxy.wait_down(PUBLISH, topic)
    await proxy.take_offline(app.client)
    gate.set()
    await asyncio.sleep(0.1)
    await proxy.accept()
    assert (await asking).payload == b"x"
    await proxy.wait_up(PUBACK)
    assert runs == 1


async def test_an_offline_client_costs_no_more_than_it_holds(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    """Ten thousand requests that nobody can send: each ends in its own time, and nothing goes out later."""
    req = await requester(proxy, reconnect=QUICK)
    await proxy.take_offline(req.client)
    began = time.monotonic()
    calls = [asyncio.ensure_future(req.request(topic, b"x", timeout=0.5)) for _ in range(10_000)]
    await asyncio.wait(calls)
    took = time.monotonic() - began
    assert {type(c.exception()) for c in calls} == {reqtt.ResponseTimeout}
    assert took < 2.5, f"{took:.2f} s"
    assert req.client.stats().pending == 0
    await proxy.accept()
    await eventually(lambda: req.client.connected)
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(topic, b"y", timeout=5)
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"y"]
