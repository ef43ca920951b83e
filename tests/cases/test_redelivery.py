"""Rows R19, P11, P12: a request when a connection, a process or an acknowledgement is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import responder
from support import case
from support.packets import CONNACK, PUBACK, PUBLISH, SUBACK, SUBSCRIBE
from support.process import child
from support.proxy import Proxy
from support.raw import RawClient
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.1, jitter=0)


@case("R19")
@pytest.mark.parametrize("lost", ["the PUBLISH", "its PUBACK"])
async def test_an_unacknowledged_request_is_sent_again_within_the_session(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, lost: str
) -> None:
    session = {"client_id": topic, "clean_start": False, "session_expiry_interval": 300}
    req = await requester(proxy, **session, reconnect=QUICK)
    if lost == "its PUBACK":
        proxy.cut_at("down", PUBACK)
    else:
        proxy.cut_at("up", PUBLISH)
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=10))
    await proxy.wait_up(PUBLISH, topic, count=2)
    assert proxy.down(CONNACK)[1].packet.session_present
    first, second = (r.packet for r in proxy.up(PUBLISH, topic))
    assert (first.packet_id, first.correlation_data, first.response_topic, first.payload) == (
        second.packet_id,
        second.correlation_data,
        second.response_topic,
        second.payload,
    )
    assert (first.dup, second.dup) == (False, True)
    assert second.properties["message_expiry_interval"] <= 10
    deliveries = 2 if lost == "its PUBACK" else 1
    for request in [await peer.receive() for _ in range(deliveries)]:
        await peer.respond(request, "answer")
    assert (await waiting).text == "answer"
    following = asyncio.ensure_future(req.request(topic, b"next", timeout=5))
    await peer.respond(await peer.receive(), "next answer")
    assert (await following).text == "next answer"
    stats = req.client.stats()
    assert (stats.pending, stats.duplicates) == (0, deliveries - 1)
    assert len(proxy.up(PUBLISH, topic)) == 3


@case("R19")
@pytest.mark.parametrize("lost", ["the PUBLISH", "its PUBACK"])
async def test_an_unacknowledged_request_is_published_anew_when_the_session_is_gone(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, lost: str
) -> None:
    req = await requester(proxy, reconnect=QUICK)
    if lost == "its PUBACK":
        proxy.cut_at("down", PUBACK)
    else:
        proxy.cut_at("up", PUBLISH)
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=10))
    again = await proxy.wait_up(PUBLISH, topic, count=2)
    first = proxy.up(PUBLISH, topic)[0]
    assert not again.packet.dup
    assert again.packet.correlation_data == first.packet.correlation_data
    assert (
        again.packet.properties["message_expiry_interval"]
        <= first.packet.properties["message_expiry_interval"]
    )
    assert again.index > (await proxy.wait_down(SUBACK, count=2)).index, "the response filter comes first"
    for request in [await peer.receive() for _ in range(2 if lost == "its PUBACK" else 1)]:
        await peer.respond(request, "answer")
    assert (await waiting).text == "answer"
    assert len(proxy.up(PUBLISH, topic)) == 2
    assert len(proxy.up(SUBSCRIBE)) == 2


@case("R19")
async def test_without_resend_an_unacknowledged_request_ends_with_connection_lost(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, resend=False, reconnect=QUICK)
    proxy.cut_at("down", PUBACK)
    with pytest.raises(reqtt.ConnectionLost):
        await req.request(topic, b"x", timeout=10)
    assert (await peer.receive()).payload == b"x"
    waiting = asyncio.ensure_future(req.request(topic, b"y", timeout=10))
    request = await peer.receive()
    assert request.payload == b"y"
    await peer.respond(request, "answer")
    assert (await waiting).text == "answer"
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"x", b"y"]


@case("R19")
async def test_a_request_that_timed_out_while_offline_is_never_sent(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy, reconnect=QUICK)
    await req.request(topic, b"1", timeout=5)
    await proxy.take_offline(req.client)
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        await req.request(topic, b"offline", timeout=0.3)
    assert caught.value.phase == "connect"
    await proxy.accept()
    assert (await req.request(topic, b"2", timeout=5)).payload == b"2"
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"1", b"2"]


@case("P11")
async def test_a_request_is_redelivered_and_answered_after_its_responder_was_killed(
    broker: Any, make_proxy: Factory, requester: Factory, topic: str
) -> None:
    proxy = await make_proxy(broker)  # the responders' side
    req = await requester(broker)
    async with child("responder_process.py", proxy.url, topic, "hang", topic) as first:
        await first.line("READY")
        waiting = asyncio.ensure_future(req.request(topic, b"precious", timeout=30))
        assert await first.line("GOT") == "GOT precious"
        assert await first.end(signal.SIGKILL) == -signal.SIGKILL
    assert not proxy.up(PUBACK)
    assert not waiting.done()
    async with child("responder_process.py", proxy.url, topic, "echo", topic) as second:
        await second.line("READY")
        assert await second.line("GOT") == "GOT precious"
        assert (await waiting).payload == b"precious"
        delivered = proxy.down(PUBLISH, topic)
        assert [r.packet.dup for r in delivered] == [False, True]
        puback = await proxy.wait_up(PUBACK)
        assert puback.index > proxy.up(PUBLISH)[0].index
        assert (await req.request(topic, b"next", timeout=10)).payload == b"next"
        assert await second.end(signal.SIGTERM) == 0


@case("P12")
async def test_a_copy_that_arrives_later_gets_the_stored_response(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def handler(body: bytes) -> str:
        nonlocal runs
        runs += 1
        return f"run {runs}"

    await serving(proxy, handler)
    peer = await raw(broker)
    for _ in range(2):
        response = await peer.request(topic, "x", correlation_data=b"same", message_expiry_interval=30)
        assert (response.payload, response.correlation_data) == (b"run 1", b"same")
    assert runs == 1
    assert len(proxy.up(PUBLISH)) == 2
    other = await peer.request(topic, "x", correlation_data=b"other", message_expiry_interval=30)
    assert other.payload == b"run 2"


@case("P12")
async def test_copies_that_arrive_while_the_handler_runs_share_its_response(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate, runs = asyncio.Event(), 0

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        nonlocal runs
        runs += 1
        await gate.wait()
        return body

    app = await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    for _ in range(3):
        await peer.publish(topic, "x", response_topic=response_topic, correlation_data=b"same")
    await proxy.wait_down(PUBLISH, topic, count=3)
    await app.client.publish(f"{topic}/settle")
    gate.set()
    assert (await peer.receive()).payload == b"x"
    await proxy.wait_up(PUBACK, count=3)
    await peer.ping()
    assert (runs, peer.waiting) == (1, 0)


@case("P12")
async def test_the_same_correlation_data_elsewhere_is_another_request(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    runs = 0

    @responder(f"{topic}/+")
    async def handler(body: bytes) -> str:
        nonlocal runs
        runs += 1
        return str(runs)

    await serving(proxy, handler)
    peer = await raw(broker)
    for response_topic, name in ((f"r/{topic}/1", "a"), (f"r/{topic}/2", "a"), (f"r/{topic}/1", "b")):
        await peer.request(f"{topic}/{name}", response_topic=response_topic, correlation_data=b"same")
    assert runs == 3


@case("P12")
async def test_without_deduplicate_each_copy_runs(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    runs = 0

    @responder(topic, deduplicate=False)
    async def handler(body: bytes) -> str:
        nonlocal runs
        runs += 1
        return str(runs)

    await serving(proxy, handler)
    peer = await raw(broker)
    for _ in range(2):
        await peer.request(topic, correlation_data=b"same")
    assert runs == 2


@case("P12")
async def test_a_broker_that_delivers_everything_twice_changes_nothing(
    loopback: Any, make_proxy: Factory, serving: Factory, requester: Factory, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        nonlocal runs
        runs += 1
        return body

    proxy = await make_proxy(loopback)
    await serving(proxy, handler)
    req = await requester(proxy)
    loopback.loopback.duplicate(True)
    for i in range(5):
        assert (await req.request(topic, b"%d" % i, timeout=5)).payload == b"%d" % i
    assert runs == 5
    await proxy.wait_down(PUBLISH, topic, count=10)  # the broker did deliver twice
    assert req.client.stats().pending == 0
    assert proxy.accepted == 2


@case("P12")
async def test_a_redelivered_request_after_a_cut_runs_once(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate, runs = asyncio.Event(), 0

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        nonlocal runs
        runs += 1
        await gate.wait()
        return body

    app = await serving(
        proxy, handler, client_id=topic, clean_start=False, session_expiry_interval=300, reconnect=QUICK
    )
    peer = await raw(broker)
    response_topic = await peer.listen()
    await peer.publish(topic, "x", response_topic=response_topic, correlation_data=b"c")
    await proxy.wait_down(PUBLISH, topic)
    proxy.cut()
    redelivered = await proxy.wait_down(PUBLISH, topic, count=2)
    assert redelivered.packet.dup
    # It has to be there before the answer, or it gets one of its own.
    await eventually(lambda: app.client.stats().duplicates_suppressed == 1)
    gate.set()
    assert (await peer.receive()).payload == b"x"
    await proxy.wait_up(PUBACK)
    assert (await peer.request(topic, "next", correlation_data=b"n")).payload == b"next"
    assert runs == 2
    assert proxy.accepted == 2, "an acknowledgement for the older connection must not end the new one"
