"""Rows R1-R18, R20-R26: what a requester does, seen by its caller and on the wire."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from support import case
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Packet,
)
from support.proxy import Proxy
from support.raw import RawClient
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.1, jitter=0)


async def idle(req: Any) -> None:
    """Nothing pending; a cancellation reaches the I/O thread a moment after its caller has it."""
    await eventually(lambda: req.client.stats().pending == 0, 0.5)


async def settle(req: Any, topic: str) -> None:
    """A PUBLISH and its PUBACK: whatever the client wanted to send before has been sent."""
    await req.client.publish(f"{topic}/settle")


@case("R1")
async def test_a_request_is_one_publish_with_response_topic_and_correlation_data(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic, lambda r: b"re: " + r.payload)
    req = await requester(proxy)
    response = await req.request(topic, "ON", timeout=3)
    assert (response.payload, response.text, response.status) == (b"re: ON", "re: ON", 200)
    (sent,) = proxy.up(PUBLISH)
    p = sent.packet
    assert (p.topic, p.payload, p.qos, p.retain, p.dup) == (topic, b"ON", 1, False, False)
    assert p.response_topic
    assert not set("+#\0") & set(p.response_topic)
    assert p.correlation_data is not None
    assert re.fullmatch(rb"[A-Za-z0-9_-]{16}", p.correlation_data)
    assert response.topic == p.response_topic
    assert response.correlation_data == p.correlation_data
    assert 0 < response.latency < 3


@case("R1")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_request_goes_out_at_the_qos_it_is_given(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str, qos: int
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    assert (await req.request(topic, b"x", qos=qos, timeout=3)).payload == b"x"
    assert [r.packet.qos for r in proxy.up(PUBLISH)] == [qos]


@case("R1")
async def test_correlation_data_differs_for_each_request(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    await asyncio.gather(*(req.request(topic, str(i), timeout=3) for i in range(50)))
    assert len({r.packet.correlation_data for r in proxy.up(PUBLISH, topic)}) == 50


@case("R2")
async def test_the_first_request_waits_for_the_suback(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    proxy.hold("down", SUBACK, seconds=1)
    req = await requester(proxy)
    assert (await req.request(topic, b"x", timeout=5)).payload == b"x"
    suback, request = proxy.down(SUBACK)[0], proxy.up(PUBLISH, topic)[0]
    assert suback.sent is not None
    assert suback.sent - suback.time > 0.9
    assert request.time >= suback.sent


@case("R3")
async def test_later_requests_subscribe_to_nothing(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(f"{topic}/+")
    req = await requester(proxy)
    for i in range(11):
        await req.request(f"{topic}/{i % 3}", str(i), timeout=3)
    assert len(proxy.up(SUBSCRIBE)) == 1
    assert not proxy.up(UNSUBSCRIBE)
    assert len({r.packet.response_topic for r in proxy.up(PUBLISH)}) == 1


@case("R4")
async def test_each_caller_gets_its_own_response_whatever_the_order(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    waiting = [asyncio.ensure_future(req.request(topic, str(i), timeout=10)) for i in range(50)]
    requests = [await peer.receive() for _ in waiting]
    for r in reversed(requests):
        await peer.respond(r, b"re: " + r.payload)
    assert [(await w).text for w in waiting] == [f"re: {i}" for i in range(50)]
    assert req.client.stats().pending == 0


@case("R6")
async def test_a_second_response_is_dropped_and_the_connection_stays(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    waiting = asyncio.ensure_future(req.request(topic, b"1", timeout=5))
    request = await peer.receive()
    await peer.respond(request, "first")
    await peer.respond(request, "second")
    assert (await waiting).text == "first"
    await proxy.wait_down(PUBLISH, request.response_topic, count=2)
    waiting = asyncio.ensure_future(req.request(topic, b"2", timeout=5))
    await peer.respond(await peer.receive(), "third")
    assert (await waiting).text == "third"
    assert req.client.stats().duplicates == 1
    assert proxy.accepted == 1
    assert not proxy.up(DISCONNECT)


@case("R6")
async def test_an_unknown_and_a_retained_response_are_dropped(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    waiting = asyncio.ensure_future(req.request(topic, b"1", timeout=5))
    request = await peer.receive()
    await peer.respond(request, "stranger", correlation_data=b"somebody else's.")
    await peer.respond(request, "no correlation", correlation_data=None)
    proxy.rewrite("down", lambda p: p.payload == b"kept", lambda p: [_retained(p)], times=1)
    await peer.respond(request, "kept")
    await peer.respond(request, "right")
    assert (await waiting).text == "right"
    assert req.client.stats().unmatched >= 2
    assert proxy.accepted == 1


def _retained(p: Packet) -> Packet:
    from dataclasses import replace

    return replace(p, retain=True)


@case("R7")
@pytest.mark.parametrize("timeout", [0.3, 1.0])
async def test_no_response_is_a_timeout_in_time(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, timeout: float
) -> None:
    req = await requester(proxy)
    began = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        await req.request(topic, b"x", timeout=timeout)
    assert timeout - 0.02 <= time.monotonic() - began <= timeout + 0.2
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, reqtt.ReqttError)
    assert (caught.value.topic, caught.value.timeout, caught.value.phase) == (topic, timeout, "response")
    assert topic in str(caught.value)
    stats = req.client.stats()
    assert (stats.pending, stats.timeouts) == (0, 1)
    assert (await peer.receive()).payload == b"x"


@case("R7")
@pytest.mark.parametrize(("held", "phase"), [(SUBACK, "subscribe"), (PUBACK, "publish")])
async def test_the_timeout_covers_every_step_and_names_it(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, held: Any, phase: str
) -> None:
    req = await requester(proxy)
    proxy.drop("down", held)
    began = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        await req.request(topic, b"x", timeout=0.4)
    assert time.monotonic() - began <= 0.6
    assert caught.value.phase == phase
    assert req.client.stats().pending == 0
    assert len(proxy.up(PUBLISH)) == (phase == "publish")


@case("R8")
async def test_a_late_response_is_dropped_and_the_next_request_succeeds(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, b"1", timeout=0.2)
    await peer.respond(await peer.receive(), "late")
    waiting = asyncio.ensure_future(req.request(topic, b"2", timeout=5))
    await peer.respond(await peer.receive(), "in time")
    assert (await waiting).text == "in time"
    stats = req.client.stats()
    assert (stats.late, stats.pending, proxy.accepted) == (1, 0, 1)


@case("R9")
@pytest.mark.parametrize("stage", ["before SUBACK", "before PUBACK", "waiting"])
@pytest.mark.parametrize("how", ["cancel", "asyncio.timeout"])
async def test_a_cancelled_request_leaves_nothing(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, stage: str, how: str
) -> None:
    held = {"before SUBACK": SUBACK, "before PUBACK": PUBACK}.get(stage)
    rule = proxy.hold("down", held) if held else None
    req = await requester(proxy)

    async def ask() -> None:
        async with asyncio.timeout(0.5 if how == "asyncio.timeout" else None):
            await req.request(topic, b"cancelled", timeout=30)

    task = asyncio.ensure_future(ask())
    await proxy.wait_up(SUBSCRIBE if stage == "before SUBACK" else PUBLISH)
    assert req.client.stats().pending == 1
    if how == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            await task
    await idle(req)
    if stage == "before SUBACK":
        await settle(req, topic)  # the cancellation has overtaken the SUBACK
    if rule:
        rule.release()
    if stage != "before SUBACK":
        await peer.respond(await peer.receive(), "too late")
    waiting = asyncio.ensure_future(req.request(topic, b"next", timeout=5))
    request = await peer.receive()
    assert request.payload == b"next"
    await peer.respond(request, "served")
    assert (await waiting).text == "served"
    sent = [r.packet.payload for r in proxy.up(PUBLISH, topic)]
    assert sent == ([b"next"] if stage == "before SUBACK" else [b"cancelled", b"next"])
    assert proxy.accepted == 1


@case("R11")
@pytest.mark.parametrize(("timeout", "expiry"), [(2.3, 3), (2.0, 2), (0.0005, 1), (0.5, 1)])
async def test_the_timeout_travels_as_message_expiry_rounded_up(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str, timeout: float, expiry: int
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    await req.request(topic, b"warm", timeout=3)
    before = len(proxy.up(PUBLISH, topic))
    try:
        await req.request(topic, b"x", timeout=timeout)
    except reqtt.ResponseTimeout:
        assert timeout < 0.1
    await settle(req, topic)
    sent = proxy.up(PUBLISH, topic)[before:]
    # Half a millisecond may be over before anything is sent; what is sent says 1, never 0.
    assert [r.packet.properties["message_expiry_interval"] for r in sent] == [expiry] * len(sent)
    assert sent or timeout < 0.1


@case("R11")
async def test_an_explicit_expiry_is_kept(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    await req.request(topic, b"x", timeout=3, message_expiry_interval=77)
    assert proxy.up(PUBLISH, topic)[0].packet.properties["message_expiry_interval"] == 77


@case("R12")
@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"topic": ""},
        {"topic": "a/+/b"},
        {"topic": "a/#"},
        {"response_topic": "r/+"},
        {"response_topic": "r/#"},
        {"response_topic": ""},
        {"qos": 3},
        {"payload_format_indicator": 2},
    ],
    ids=str,
)
async def test_a_wrong_argument_is_a_value_error_and_sends_nothing(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str, wrong: dict[str, Any]
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    arguments = {"topic": topic, "payload": b"wrong", **wrong}
    with pytest.raises(ValueError):
        await req.request(arguments.pop("topic"), arguments.pop("payload"), **arguments)
    assert req.client.stats().pending == 0
    assert (await req.request(topic, b"right", timeout=3)).payload == b"right"
    assert [r.packet.payload for r in proxy.up(PUBLISH)] == [b"right"]
    assert len(proxy.up(SUBSCRIBE)) == 1
    assert proxy.accepted == 1


@case("R13")
async def test_a_refused_response_filter_is_a_subscribe_error_at_once(
    denying_broker: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    broker = denying_broker(subscribe="clients/panel-7/#")
    proxy = await make_proxy(broker)
    peer = await raw(broker)
    await peer.subscribe(topic)
    req = await requester(proxy, client_id="panel-7")
    began = time.monotonic()
    with pytest.raises(reqtt.SubscribeError) as caught:
        await req.request(topic, b"x", timeout=10)
    assert time.monotonic() - began < 1
    assert caught.value.reason_code == 0x87
    assert caught.value.topic_filter.startswith("clients/panel-7/responses/")
    assert "0x87" in str(caught.value)
    assert "clients/panel-7/responses/" in str(caught.value)
    await settle(req, topic)
    assert not proxy.up(PUBLISH, topic)
    assert req.client.stats().pending == 0
    assert proxy.accepted == 1
    waiting = asyncio.ensure_future(req.request(topic, b"y", response_topic=f"{topic}/mine", timeout=5))
    await peer.respond(await peer.receive(), "ok")
    assert (await waiting).text == "ok"


@case("R14")
async def test_a_refused_publish_is_a_publish_error_and_the_next_request_succeeds(
    denying_broker: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    broker = denying_broker(publish=f"{topic}/secret")
    await _refused_then_served(broker, await make_proxy(broker), requester, raw, topic, 0x87)


@case("R14")
@pytest.mark.parametrize("reason_code", [0x80, 0x83, 0x90, 0x97, 0x99])
async def test_every_refusal_keeps_its_reason_code(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str, reason_code: int
) -> None:
    loopback.loopback.refuse_publish(reason_code, filter=f"{topic}/secret")
    await _refused_then_served(loopback, await make_proxy(loopback), requester, raw, topic, reason_code)


async def _refused_then_served(
    broker: Any, proxy: Proxy, requester: Factory, raw: Factory, topic: str, reason_code: int
) -> None:
    peer = await raw(broker)
    await peer.serve(f"{topic}/open")
    req = await requester(proxy)
    began = time.monotonic()
    with pytest.raises(reqtt.PublishError) as caught:
        await req.request(f"{topic}/secret", b"x", timeout=10)
    assert time.monotonic() - began < 1
    assert (caught.value.reason_code, caught.value.topic) == (reason_code, f"{topic}/secret")
    assert f"0x{reason_code:02x}" in str(caught.value).lower()
    assert not isinstance(caught.value, reqtt.NoMatchingSubscribers)
    assert (await req.request(f"{topic}/open", b"y", timeout=5)).payload == b"y"
    assert proxy.accepted == 1
    assert req.client.stats().pending == 0


@case("R15")
async def test_a_request_fails_fast_when_nobody_subscribes(
    proxy: Proxy, requester: Factory, topic: str
) -> None:
    req = await requester(proxy)
    began = time.monotonic()
    with pytest.raises(reqtt.NoMatchingSubscribers) as caught:
        await req.request(topic, b"x", timeout=10)
    assert time.monotonic() - began < 1
    assert caught.value.reason_code == 0x10
    assert isinstance(caught.value, reqtt.PublishError)
    assert proxy.down(PUBACK)[0].packet.reason_code == 0x10
    assert req.client.stats().pending == 0


@case("R15")
async def test_without_fail_fast_a_request_waits_though_nobody_subscribes(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    req = await requester(proxy)
    began = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, b"x", timeout=0.4, fail_fast=False)
    assert time.monotonic() - began >= 0.38
    waiting = asyncio.ensure_future(req.request(topic, b"y", timeout=5, fail_fast=False))
    await proxy.wait_down(PUBACK, count=2)
    assert proxy.down(PUBACK)[1].packet.reason_code == 0x10
    assert not waiting.done()
    # Somebody who got it another way answers.
    peer = await raw(broker)
    await peer.respond(proxy.up(PUBLISH, topic)[1].packet, "after all")
    assert (await waiting).text == "after all"


@case("R18")
async def test_with_one_slot_the_second_request_goes_out_after_the_first_ends(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, max_pending_requests=1)
    first = asyncio.ensure_future(req.request(topic, b"1", timeout=10))
    request = await peer.receive()
    second = asyncio.ensure_future(req.request(topic, b"2", timeout=10))
    await settle(req, topic)
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"1"]
    await peer.respond(request, "one")
    await peer.respond(await peer.receive(), "two")
    assert [(await first).text, (await second).text] == ["one", "two"]
    response = proxy.down(PUBLISH, request.response_topic)[0]
    assert proxy.up(PUBLISH, topic)[1].index > response.index


@case("R18")
async def test_the_timeout_of_a_request_without_a_slot_runs(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, max_pending_requests=1)
    first = asyncio.ensure_future(req.request(topic, b"1", timeout=10))
    request = await peer.receive()
    began = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, b"2", timeout=0.3)
    assert 0.28 <= time.monotonic() - began <= 0.5
    await peer.respond(request, "one")
    assert (await first).text == "one"
    third = asyncio.ensure_future(req.request(topic, b"3", timeout=10))
    await peer.respond(await peer.receive(), "three")
    assert (await third).text == "three"
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"1", b"3"]


@case("R20")
@pytest.mark.parametrize("hard", [True, False], ids=["RST", "FIN"])
async def test_after_a_lost_session_the_response_filter_comes_first_and_the_response_arrives(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, hard: bool
) -> None:
    req = await requester(proxy, reconnect=QUICK)
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=10))
    request = await peer.receive()
    await proxy.wait_down(PUBACK)
    proxy.cut(hard=hard)
    queued = asyncio.ensure_future(req.request(topic, b"queued", timeout=10))
    suback = await proxy.wait_down(SUBACK, count=2)
    assert not (await proxy.wait_down(CONNACK, count=2)).packet.session_present
    await peer.respond(request, "answer")
    assert (await waiting).text == "answer"
    await peer.respond(await peer.receive(), "second answer")
    assert (await queued).text == "second answer"
    again = proxy.up(PUBLISH, topic)
    assert [r.packet.payload for r in again] == [b"x", b"queued"], "an acknowledged request is not sent again"
    assert again[1].index > suback.index
    assert proxy.up(SUBSCRIBE)[0].packet.filters == proxy.up(SUBSCRIBE)[1].packet.filters
    assert req.client.stats().reconnects == 1


@case("R20")
async def test_the_broker_loses_the_session_it_was_to_keep(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(
        proxy, client_id=topic, clean_start=False, session_expiry_interval=300, reconnect=QUICK
    )
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=10))
    request = await peer.receive()
    await proxy.wait_down(PUBACK)
    loopback.loopback.lose_session()  # everybody's, and it ends their connections
    peer = await raw(loopback)
    assert not (await proxy.wait_down(CONNACK, count=2)).packet.session_present
    await proxy.wait_down(SUBACK, count=2)
    await peer.respond(request, "answer")
    assert (await waiting).text == "answer"


@case("R22")
async def test_close_ends_pending_requests_at_once(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    waiting = [asyncio.ensure_future(req.request(topic, str(i), timeout=30)) for i in range(5)]
    for _ in waiting:
        await peer.receive()
    began = time.monotonic()
    await req.close()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.monotonic() - began < 1
    assert [type(e) for e in ended] == [reqtt.ClientClosed] * 5
    with pytest.raises(reqtt.ClientClosed):
        await req.request(topic, b"after")
    await proxy.wait_up(DISCONNECT)
    await req.close()


@case("R22")
async def test_close_with_drain_waits_for_pending_requests(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=30))
    request = await peer.receive()
    closing = asyncio.ensure_future(req.close(drain=True))
    await peer.respond(request, "still")
    assert (await waiting).text == "still"
    await closing
    assert (await proxy.wait_up(DISCONNECT)).index > proxy.down(PUBLISH)[0].index


@case("R23")
async def test_when_reconnecting_is_given_up_requests_end_with_connection_lost(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, reconnect=reqtt.Reconnect(initial=0.05, max=0.1, give_up_after=0.5))
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=30))
    await peer.receive()
    proxy.refuse()
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectionLost) as caught:
        await waiting
    assert time.monotonic() - began < 2
    assert isinstance(caught.value, ConnectionError)
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectionLost):
        await req.request(topic, b"y", timeout=30)
    assert time.monotonic() - began < 0.5
    assert req.client.stats().pending == 0


@case("R23")
async def test_without_reconnect_a_lost_connection_ends_requests_at_once(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, reconnect=None)
    waiting = asyncio.ensure_future(req.request(topic, b"x", timeout=30))
    await peer.receive()
    began = time.monotonic()
    proxy.cut()
    with pytest.raises(reqtt.ConnectionLost):
        await waiting
    assert time.monotonic() - began < 1
    assert proxy.accepted == 1


@case("R26")
async def test_properties_arrive_in_order_both_ways(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    there = (("b", "2"), ("a", "1"), ("b", "1"), ("", "empty"), ("ä", "☂"))
    back = (("z", "1"), ("y", ""), ("z", "0"), ("z", "1"))
    peer = await raw(broker)
    await peer.subscribe(topic)
    req = await requester(proxy)
    waiting = asyncio.ensure_future(
        req.request(
            topic,
            "ü",
            timeout=5,
            user_properties=there,
            content_type="text/plain; charset=utf-8",
            payload_format_indicator=1,
        )
    )
    request = await peer.receive()
    assert request.user_properties == there
    assert request.properties["content_type"] == "text/plain; charset=utf-8"
    assert request.properties["payload_format_indicator"] == 1
    await peer.respond(
        request, b"{}", user_properties=back, content_type="application/json", payload_format_indicator=1
    )
    response = await waiting
    assert response.user_properties == back
    assert (response.content_type, response.payload_format_indicator) == ("application/json", 1)
    assert response.json() == {}


@case("R26")
async def test_a_response_without_properties_has_none(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    response = await req.request(topic, b"\x00\xff", timeout=3)
    assert (response.content_type, response.user_properties) == (None, ())
    assert not response.payload_format_indicator
    assert response.payload == b"\x00\xff"


async def test_a_correlation_data_in_flight_can_not_be_used_twice(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy)
    first = asyncio.ensure_future(req.request(topic, b"1", correlation_data=b"mine", timeout=5))
    request = await peer.receive()
    assert request.correlation_data == b"mine"
    with pytest.raises(ValueError):
        await req.request(topic, b"2", correlation_data=b"mine", timeout=5)
    await peer.respond(request, "one")
    assert (await first).text == "one"
    assert len(proxy.up(PUBLISH, topic)) == 1


async def test_with_correlation_by_topic_a_response_needs_no_correlation_data(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(topic, lambda r: b"re: " + r.payload, correlation_data=None)
    req = await requester(proxy, correlation="topic")
    responses = await asyncio.gather(*(req.request(topic, str(i), timeout=5) for i in range(5)))
    assert [r.text for r in responses] == [f"re: {i}" for i in range(5)]
    # One at a time: each request follows the response to the one before it.
    order = [r.direction for r in proxy.records if r.packet.type is PUBLISH]
    assert order == ["up", "down"] * 5


async def test_connect_says_who_it_is_and_what_it_can(proxy: Proxy, requester: Factory, topic: str) -> None:
    await requester(proxy, client_id=topic, keep_alive=17, receive_maximum=33, user_properties=(("k", "v"),))
    connect = proxy.up(CONNECT)[0].packet
    assert (connect.protocol_level, connect.client_id, connect.keep_alive, connect.clean_start) == (
        5,
        topic,
        17,
        True,
    )
    assert connect.properties["receive_maximum"] == 33
    assert connect.user_properties == (("k", "v"),)


async def test_request_sync_works_from_another_thread(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer: RawClient = await raw(broker)
    await peer.serve(topic)
    req = await requester(proxy)
    response = await asyncio.to_thread(req.request_sync, topic, b"x", timeout=5)
    assert response.payload == b"x"
