"""Rows P1-P9 and P14-P23: a responder, seen by a peer that knows only Response Topic and Correlation Data."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import Request, RequestError, responder
from support import case, client_must
from support.packets import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Packet,
)
from support.proxy import Proxy, Record
from support.waiting import run_script

Factory = Callable[..., Awaitable[Any]]


async def acked(proxy: Proxy, delivery: Record) -> Record:
    """The PUBACK that the responder sent for this delivery."""
    return await proxy.wait_for(
        lambda r: (
            r.direction == "up"
            and r.packet.type is PUBACK
            and r.packet.packet_id == delivery.packet.packet_id
        ),
        after=delivery.index,
    )


def echo(topic_filter: str, **options: Any) -> Any:
    @responder(topic_filter, **options)
    async def handler(body: bytes) -> bytes:
        return body

    return handler


@case("P1")
async def test_a_request_gets_one_publish_with_its_correlation_data(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    seen: list[str] = []

    @responder(f"{topic}/{{device}}/power")
    async def power(device: str, body: str) -> str:
        seen.append(device)
        return body.lower()

    await serving(proxy, power)
    peer = await raw(broker)
    correlation_data = b"\x00\xff\xfe\x80\x00\xc3\x28\xa0" + uuid.uuid4().bytes[:8]
    response = await peer.request(f"{topic}/lamp/power", "ON", correlation_data=correlation_data)
    assert seen == ["lamp"]
    assert (response.payload, response.correlation_data) == (b"on", correlation_data)
    assert response.user("__stat") is None
    (sent,) = proxy.up(PUBLISH)
    p = sent.packet
    assert (p.topic, p.qos, p.retain) == (response.topic, 1, False)
    assert p.correlation_data == correlation_data
    assert p.response_topic is None
    assert (await acked(proxy, proxy.down(PUBLISH)[0])).index > sent.index


@case("P1")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_response_has_the_qos_of_the_request(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, qos: int
) -> None:
    await serving(proxy, echo(topic, qos=2))
    peer = await raw(broker)
    await peer.request(topic, "x", qos=qos)
    assert [r.packet.qos for r in proxy.up(PUBLISH)] == [qos]


@case("P2")
async def test_a_request_without_correlation_data_gets_a_response_without(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    await serving(proxy, echo(topic))
    peer = await raw(broker)
    response = await peer.request(topic, "x", correlation_data=None)
    assert response.payload == b"x"
    assert "correlation_data" not in response.properties
    assert response.user("__stat") is None


@case("P2")
async def test_an_empty_correlation_data_is_returned_as_it_is(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    await serving(proxy, echo(topic))
    peer = await raw(broker)
    assert (await peer.request(topic, "x", correlation_data=b"")).correlation_data == b""


@case("P3")
@pytest.mark.parametrize("policy", ["run", "ignore"])
async def test_a_message_without_response_topic_is_acknowledged_and_not_answered(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, policy: str
) -> None:
    seen: list[bytes] = []
    options = {} if policy == "run" else {"without_response_topic": policy}

    @responder(topic, **options)
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    await peer.publish(topic, "one way", correlation_data=b"c")
    await acked(proxy, await proxy.wait_down(PUBLISH, topic))
    assert (await peer.request(topic, "both ways")).payload == b"both ways"
    assert seen == ([b"one way"] if policy == "run" else []) + [b"both ways"]
    assert len(proxy.up(PUBLISH)) == 1


async def unanswered(
    proxy: Proxy,
    peer: Any,
    topic: str,
    response_topic: str,
    seen: list[bytes],
    caplog: pytest.LogCaptureFixture,
    good: str | None = None,
) -> None:
    """A request with this Response Topic is acknowledged and logged, no more; the next one is served."""
    # Written into the delivery: a broker may refuse to carry it.
    proxy.rewrite(
        "down",
        lambda p: p.payload == b"bad",
        lambda p: [p.with_properties(response_topic=response_topic)],
        times=1,
    )
    with caplog.at_level(logging.WARNING, "reqtt"):
        await peer.publish(topic, "bad", response_topic="somewhere", correlation_data=b"c")
        await acked(
            proxy, await proxy.wait_for(lambda r: r.direction == "down" and r.packet.payload == b"bad")
        )
    assert any(r.name.startswith("reqtt") and r.levelno == logging.WARNING for r in caplog.records)
    assert (await peer.request(topic, "good", response_topic=good)).payload == b"good"
    assert seen == [b"good"]
    assert len(proxy.up(PUBLISH)) == 1
    assert proxy.accepted == 1


@client_must("MQTT-3.3.2-2", "MQTT-4.5.0-2")
@case("P4")
@pytest.mark.parametrize("response_topic", ["a/+", "a/#", "", "$SYS/x", "$share/g/x"])
async def test_an_unusable_response_topic_is_not_answered(
    proxy: Proxy,
    serving: Factory,
    raw: Factory,
    broker: Any,
    topic: str,
    response_topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[bytes] = []

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        return body

    await serving(proxy, handler)
    await unanswered(proxy, await raw(broker), topic, response_topic, seen, caplog)


@case("P4")
async def test_a_response_topic_outside_the_allow_list_is_not_answered(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    @responder(topic, allowed_response_topics=["clients/#", f"{topic}/allowed/+"])
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    await unanswered(proxy, peer, topic, f"{topic}/elsewhere", seen, caplog, good=f"{topic}/allowed/x")


@case("P4")
async def test_a_response_topic_that_would_come_back_as_a_request_is_not_answered(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    @responder(f"{topic}/#")
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        return body

    await serving(proxy, handler)
    await unanswered(proxy, await raw(broker), f"{topic}/a", f"{topic}/b", seen, caplog)


@case("P6")
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_handler_that_raises_is_a_500_without_inner_detail(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, in_thread: bool
) -> None:
    def work(body: bytes) -> bytes:
        if body == b"bad":
            raise LookupError("the secret")
        return body

    async def work_on_the_loop(body: bytes) -> bytes:
        return work(body)

    await serving(proxy, responder(topic)(work if in_thread else work_on_the_loop))
    peer = await raw(broker)
    response = await peer.request(topic, "bad", correlation_data=b"c1")
    assert response.correlation_data == b"c1"
    assert (response.user("__stat"), response.user("__apErr")) == ("500", "true")
    body = json.loads(response.payload)
    assert response.properties["content_type"] == "application/problem+json"
    assert body["status"] == 500
    everything = response.payload + repr(response.properties).encode()
    for inner in (b"secret", b"Traceback", b"LookupError", b".py"):
        assert inner not in everything
    assert (await peer.request(topic, "good", correlation_data=b"c2")).payload == b"good"


@case("P6")
async def test_our_requester_raises_remote_error_for_a_500(
    proxy: Proxy, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def handler() -> None:
        raise ValueError("inner")

    await serving(proxy, handler)
    req = await requester(proxy)
    with pytest.raises(reqtt.RemoteError) as caught:
        await req.request(topic, b"", timeout=5)
    assert (caught.value.status, caught.value.application) == (500, True)
    assert "inner" not in str(caught.value)


@case("P7")
async def test_request_error_reaches_our_requester_whole(
    proxy: Proxy, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        raise RequestError(404, "no such device: ü", code="E42", data={"device": "x", "n": [1, 2]})

    await serving(proxy, handler)
    req = await requester(proxy)
    with pytest.raises(reqtt.NotFound) as caught:
        await req.request(topic, b"x", timeout=5)
    error = caught.value
    assert isinstance(error, reqtt.RemoteError)
    assert (error.status, error.message, error.code) == (404, "no such device: ü", "E42")
    assert error.data == {"device": "x", "n": [1, 2]}
    assert error.response.correlation_data == proxy.up(PUBLISH, topic)[0].packet.correlation_data


@case("P7")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, reqtt.BadRequest),
        (404, reqtt.NotFound),
        (408, reqtt.RemoteTimeout),
        (415, reqtt.UnsupportedContentType),
        (503, reqtt.RemoteUnavailable),
        (418, reqtt.RemoteError),
        (599, reqtt.RemoteError),
    ],
)
async def test_a_status_has_its_exception(
    proxy: Proxy, serving: Factory, requester: Factory, topic: str, status: int, kind: type[Exception]
) -> None:
    @responder(topic)
    async def handler() -> None:
        raise RequestError(status, "m")

    await serving(proxy, handler)
    req = await requester(proxy)
    with pytest.raises(reqtt.RemoteError) as caught:
        await req.request(topic, timeout=5)
    assert type(caught.value) is kind
    assert caught.value.status == status


@case("P7")
async def test_request_error_is_readable_for_any_peer(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        raise RequestError(404, "no such device", code="E42", data={"device": "x"})

    await serving(proxy, handler)
    peer = await raw(broker)
    response = await peer.request(topic, "x")
    assert (response.user("__stat"), response.user("__stMsg")) == ("404", "no such device")
    assert response.user("AppErrCode") == "E42"
    assert json.loads(response.user("AppErrPayload") or "") == {"device": "x"}
    assert response.properties["content_type"] == "application/problem+json"
    body = json.loads(response.payload)
    assert (body["type"], body["status"], body["code"], body["data"]) == (
        "about:blank",
        404,
        "E42",
        {"device": "x"},
    )
    assert "no such device" in (body["detail"], body["title"])


@case("P8")
async def test_what_can_not_be_decoded_is_400_and_a_wrong_content_type_415(
    proxy: Proxy, serving: Factory, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    seen: list[Any] = []

    @responder(topic)
    async def handler(body: dict[str, int]) -> dict[str, int]:
        seen.append(body)
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    assert (await peer.request(topic, "{not json")).user("__stat") == "400"
    assert (await peer.request(topic, "[1]", correlation_data=b"2")).user("__stat") == "400"
    wrong = await peer.request(topic, "{}", correlation_data=b"3", content_type="text/plain")
    assert wrong.user("__stat") == "415"
    assert seen == []
    missing = await peer.request(topic, '{"a": 1}', correlation_data=b"4")
    assert json.loads(missing.payload) == {"a": 1}
    assert missing.properties["content_type"] == "application/json"
    right = await peer.request(
        topic, '{"a": 2}', correlation_data=b"5", content_type="application/json; charset=utf-8"
    )
    assert json.loads(right.payload) == {"a": 2}
    assert seen == [{"a": 1}, {"a": 2}]
    req = await requester(proxy)
    with pytest.raises(reqtt.BadRequest):
        await req.request(topic, b"{not json", timeout=5)
    with pytest.raises(reqtt.UnsupportedContentType):
        await req.request(topic, b"{}", content_type="text/plain", timeout=5)


class Colour(enum.Enum):
    RED = "red"


@case("P8")
async def test_a_capture_that_does_not_convert_is_404(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    @responder(f"{topic}/{{n}}/{{colour}}/{{rest:#}}")
    async def handler(n: int, colour: Colour, rest: str) -> str:
        return f"{n + 1} {colour.name} {rest}"

    await serving(proxy, handler)
    peer = await raw(broker)
    assert (await peer.request(f"{topic}/1/red/a/b")).payload == b"2 RED a/b"
    assert (await peer.request(f"{topic}/one/red/a", correlation_data=b"2")).user("__stat") == "404"
    assert (await peer.request(f"{topic}/1/blue/a", correlation_data=b"3")).user("__stat") == "404"


@case("P9")
async def test_concurrency_is_reached(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    barrier = asyncio.Barrier(2)

    @responder(topic, concurrency=2)
    async def handler() -> None:
        await asyncio.wait_for(barrier.wait(), 5)

    await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    for i in range(4):
        await peer.publish(topic, response_topic=response_topic, correlation_data=b"%d" % i)
    assert {(await peer.receive()).user("__stat") for _ in range(4)} <= {None, "200", "204"}


@case("P9")
async def test_concurrency_is_not_exceeded(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate, running, most, started = asyncio.Event(), 0, 0, 0

    @responder(topic, concurrency=2)
    async def handler() -> None:
        nonlocal running, most, started
        running, started = running + 1, started + 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    app = await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    for i in range(3):
        await peer.publish(topic, response_topic=response_topic, correlation_data=b"%d" % i)
    await proxy.wait_down(PUBLISH, topic, count=3)
    # A round trip later the third has been seen by the responder too.
    await app.client.publish(f"{topic}/settle")
    assert (running, started) == (2, 2)
    gate.set()
    for _ in range(3):
        await peer.receive()
    assert (most, started) == (2, 3)


@case("P14")
async def test_a_request_that_expires_in_the_queue_is_not_started(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate, seen = asyncio.Event(), []

    @responder(topic, concurrency=1)
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        await gate.wait()
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    properties = {"response_topic": response_topic, "correlation_data": b"1"}
    await peer.publish(topic, "first", **properties)
    await peer.publish(
        topic, "expires", **{**properties, "correlation_data": b"2"}, message_expiry_interval=1
    )
    expires = await proxy.wait_down(PUBLISH, topic, count=2)
    await asyncio.sleep(1.2)
    gate.set()
    await acked(proxy, expires)
    assert (await peer.receive()).payload == b"first"
    assert (await peer.request(topic, "next", correlation_data=b"3")).payload == b"next"
    assert seen == [b"first", b"next"]
    assert len(proxy.up(PUBLISH)) == 2


@case("P14")
async def test_a_result_that_comes_after_the_expiry_is_discarded(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        if body == b"slow":
            await asyncio.sleep(1.3)
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    await peer.publish(
        topic, "slow", response_topic=response_topic, correlation_data=b"1", message_expiry_interval=1
    )
    await acked(proxy, await proxy.wait_down(PUBLISH, topic))
    await asyncio.sleep(max(0.0, proxy.down(PUBLISH, topic)[0].time + 1.5 - time.monotonic()))
    assert (await peer.request(topic, "next", correlation_data=b"2")).payload == b"next"
    assert len(proxy.up(PUBLISH)) == 1


@case("P15")
async def test_the_response_carries_what_remains_of_the_expiry(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    remaining: list[float] = []

    @responder(topic)
    async def handler(request: Request) -> bytes:
        await asyncio.sleep(3)
        left = request.remaining()
        assert left is not None
        remaining.append(left)
        return request.payload

    await serving(proxy, handler)
    peer = await raw(broker)
    await peer.request(topic, "x", message_expiry_interval=10, timeout=8)
    assert 6 <= proxy.up(PUBLISH)[0].packet.properties["message_expiry_interval"] <= 7
    assert 6 <= remaining[0] <= 7


@case("P15")
async def test_a_request_without_expiry_gets_a_response_without(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    await serving(proxy, echo(topic))
    peer = await raw(broker)
    assert "message_expiry_interval" not in (await peer.request(topic, "x")).properties


@case("P16")
async def test_a_handler_that_takes_too_long_is_cancelled_and_answered_408_once(
    proxy: Proxy, serving: Factory, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    cancelled = asyncio.Event()

    @responder(topic, timeout=0.2)
    async def handler(body: bytes) -> bytes:
        if body == b"quick":
            return body
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b"late"

    await serving(proxy, handler)
    peer = await raw(broker)
    began = time.monotonic()
    assert (await peer.request(topic, "slow")).user("__stat") == "408"
    assert 0.18 <= time.monotonic() - began < 1
    await asyncio.wait_for(cancelled.wait(), 1)
    assert (await peer.request(topic, "quick", correlation_data=b"2")).payload == b"quick"
    assert len(proxy.up(PUBLISH)) == 2
    req = await requester(proxy)
    with pytest.raises(reqtt.RemoteTimeout):
        await req.request(topic, b"slow", timeout=5)


@case("P18")
async def test_a_refused_request_filter_is_a_subscribe_error_from_start(
    denying_broker: Any, make_proxy: Factory, topic: str
) -> None:
    broker = denying_broker(subscribe=f"{topic}/no")
    proxy = await make_proxy(broker)
    with pytest.raises(reqtt.SubscribeError) as caught:
        async with reqtt.Responder(proxy.url, [echo(f"{topic}/yes"), echo(f"{topic}/no")]):
            pytest.fail("a responder that can not hear anything must not start")
    assert (caught.value.reason_code, caught.value.topic_filter) == (0x87, f"{topic}/no")
    assert f"{topic}/no" in str(caught.value)
    assert "0x87" in str(caught.value)
    await proxy.until(lambda: not proxy.open_connections)


@case("P19")
async def test_a_handler_can_ask_on_its_own_client_with_a_full_inbound_queue(
    proxy: Proxy,
    client: Factory,
    requester: Factory,
    serving: Factory,
    raw: Factory,
    broker: Any,
    topic: str,
) -> None:
    shared = await client(proxy)
    req = await requester(shared)

    @responder(f"{topic}/outer", concurrency=64)
    async def outer(body: bytes) -> bytes:
        inner = await req.request(f"{topic}/inner", body, timeout=20)
        return b"outer " + bytes(inner.payload)

    await serving(shared, outer)
    backend, peer = await raw(broker), await raw(broker)
    # Nothing is answered until the broker's window to the responder (Mosquitto: 20) is full.
    full = asyncio.Event()

    async def answer(r: Packet) -> bytes:
        await full.wait()
        return b"inner " + r.payload

    await backend.serve(f"{topic}/inner", answer)
    response_topic = await peer.listen()
    for i in range(60):
        await peer.publish(
            f"{topic}/outer", str(i), response_topic=response_topic, correlation_data=b"%d" % i
        )
    await proxy.wait_down(PUBLISH, f"{topic}/outer", count=20)
    full.set()
    responses = [await peer.receive(10) for _ in range(60)]
    assert {r.correlation_data: r.payload for r in responses} == {
        b"%d" % i: b"outer inner %d" % i for i in range(60)
    }
    assert proxy.accepted == 1


@case("P19")
async def test_a_client_that_also_responds_subscribes_its_responses_at_qos_0(
    proxy: Proxy, client: Factory, requester: Factory, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    await peer.serve(f"{topic}/x")
    shared = await client(proxy)
    req = await requester(shared)
    await req.request(f"{topic}/x", b"", timeout=5)
    response_topic = proxy.up(PUBLISH)[0].packet.response_topic
    app = await serving(shared, echo(f"{topic}/y"))
    await req.request(f"{topic}/x", b"", timeout=5)
    assert proxy.down(PUBLISH, response_topic)[-1].packet.qos == 0
    await app.close()
    await req.request(f"{topic}/x", b"", timeout=5)
    asked = [f.qos for r in proxy.up(SUBSCRIBE) for f in r.packet.filters if f.topic_filter == response_topic]
    assert asked == [1, 0, 1]
    assert proxy.down(PUBLISH, response_topic)[-1].packet.qos == 1


@case("P20")
async def test_a_group_shares_the_requests(
    make_proxy: Factory, broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    proxies = [await make_proxy(broker), await make_proxy(broker)]
    for n, p in enumerate(proxies):
        await serving(p, _worker(topic, n))
    peer = await raw(broker)
    response_topic = await peer.listen()
    for i in range(50):
        await peer.publish(topic, str(i), response_topic=response_topic, correlation_data=b"%d" % i)
    answers = [(await peer.receive()).payload.split(b":") for _ in range(50)]
    assert sorted(int(a[1]) for a in answers) == list(range(50))
    assert {a[0] for a in answers} == {b"0", b"1"}
    await peer.ping()
    assert peer.waiting == 0
    for p in proxies:
        assert [f.topic_filter for r in p.up(SUBSCRIBE) for f in r.packet.filters] == [f"$share/g/{topic}"]


def _worker(topic: str, n: int) -> Any:
    @responder(topic, group="g")
    async def handler(body: bytes) -> bytes:
        return b"%d:" % n + body

    return handler


@case("P21")
@pytest.mark.parametrize("retained", [False, True])
async def test_a_retained_request_is_executed_only_on_demand(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, retained: bool
) -> None:
    seen: list[bytes] = []

    @responder(topic, retained=retained)
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        return body

    peer = await raw(broker)
    response_topic = await peer.listen()
    await peer.publish(topic, "stale", retain=True, response_topic=response_topic, correlation_data=b"old")
    try:
        await serving(proxy, handler, reconnect=reqtt.Reconnect(initial=0.05, max=0.1))
        if retained:
            assert (await peer.receive()).payload == b"stale"
        assert (await peer.request(topic, "live", correlation_data=b"1")).payload == b"live"
        if not retained:
            await proxy.wait_down(PUBACK)  # else the response is sent again
            proxy.cut()
            await proxy.wait_down(SUBACK, count=2)
            assert (await peer.request(topic, "again", correlation_data=b"2")).payload == b"again"
        assert seen == ([b"stale", b"live"] if retained else [b"live", b"again"])
    finally:
        await peer.publish(topic, retain=True)


@case("P23")
async def test_close_unsubscribes_finishes_responds_acknowledges_and_disconnects(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate, seen = asyncio.Event(), []

    @responder(topic, concurrency=2)
    async def handler(body: bytes) -> bytes:
        seen.append(body)
        await gate.wait()
        return body

    app = await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    for i in range(3):  # the third waits for a slot: it was received before the UNSUBACK, so it is answered
        await peer.publish(topic, b"%d" % i, response_topic=response_topic, correlation_data=b"%d" % i)
    await proxy.wait_down(PUBLISH, topic, count=3)
    closing = asyncio.ensure_future(app.close())
    await proxy.wait_down(UNSUBACK)
    ack = await peer.publish(topic, "too late", response_topic=response_topic, correlation_data=b"late")
    assert ack is not None
    assert ack.reason_code == 0x10
    assert not closing.done()
    gate.set()
    await closing
    assert sorted([(await peer.receive()).payload for _ in range(3)]) == [b"0", b"1", b"2"]
    assert sorted(seen) == [b"0", b"1", b"2"]
    disconnect = await proxy.wait_up(DISCONNECT)
    assert disconnect.packet.reason_code == 0
    assert len(proxy.up(UNSUBSCRIBE)) == 1
    for delivery in proxy.down(PUBLISH, topic):
        response = next(
            r for r in proxy.up(PUBLISH) if r.packet.correlation_data == delivery.packet.correlation_data
        )
        puback = await acked(proxy, delivery)
        assert response.index < puback.index < disconnect.index
    await peer.ping()
    assert peer.waiting == 0


@case("P23")
async def test_close_without_drain_cancels_the_handlers(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @responder(topic)
    async def handler() -> None:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    app = await serving(proxy, handler)
    peer = await raw(broker)
    await peer.publish(topic, response_topic=await peer.listen(), correlation_data=b"1")
    await asyncio.wait_for(started.wait(), 5)
    began = time.monotonic()
    await app.close(drain=False)
    assert time.monotonic() - began < 1
    await asyncio.wait_for(cancelled.wait(), 1)
    await proxy.until(lambda: not proxy.open_connections)
    answers = [r.packet.user("__stat") for r in proxy.up(PUBLISH)]
    assert answers in ([], ["503"])
    assert len(proxy.up(PUBACK)) == len(answers), "what is not answered is not acknowledged"


@client_must("MQTT-4.6.0-2")
async def test_pubacks_leave_in_the_order_of_arrival_after_their_responses(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gates = {b"%d" % i: asyncio.Event() for i in range(5)}

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        await gates[body].wait()
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    response_topic = await peer.listen()
    for body in gates:
        await peer.publish(topic, body, response_topic=response_topic, correlation_data=body)
    await proxy.wait_down(PUBLISH, topic, count=5)
    for body in reversed(gates):
        gates[body].set()
        assert (await peer.receive()).payload == body
    await proxy.wait_up(PUBACK, count=5)
    deliveries, pubacks = proxy.down(PUBLISH, topic), proxy.up(PUBACK)
    assert [r.packet.packet_id for r in pubacks] == [r.packet.packet_id for r in deliveries]
    assert min(r.index for r in pubacks) > proxy.up(PUBLISH)[-1].index


async def test_ack_on_receipt_precedes_the_response(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    gate = asyncio.Event()

    @responder(topic, ack="on_receipt")
    async def handler(body: bytes) -> bytes:
        await gate.wait()
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    asking = asyncio.ensure_future(peer.request(topic, "x"))
    puback = await acked(proxy, await proxy.wait_down(PUBLISH, topic))
    gate.set()
    await asking
    assert proxy.up(PUBLISH)[0].index > puback.index


async def test_the_most_specific_of_overlapping_responders_runs_once(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    def named(topic_filter: str, name: str) -> Any:
        @responder(topic_filter)
        async def handler() -> str:
            return name

        return handler

    handlers = [named(f"{topic}/#", "any"), named(f"{topic}/+/c", "plus"), named(f"{topic}/b/c", "exact")]
    await serving(proxy, *handlers)
    peer = await raw(broker)
    for n, (name, expected) in enumerate({"b/c": b"exact", "x/c": b"plus", "x/y": b"any"}.items()):
        assert (await peer.request(f"{topic}/{name}", correlation_data=b"%d" % n)).payload == expected
    await peer.ping()
    assert peer.waiting == 0
    assert len(proxy.up(PUBLISH)) == 3


async def test_none_is_an_empty_success_and_a_response_gives_full_control(
    proxy: Proxy, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(f"{topic}/none")
    async def nothing() -> None:
        return None

    @responder(f"{topic}/full")
    async def full() -> reqtt.Response:
        return reqtt.Response(b"\x01", content_type="a/b", user_properties=(("k", "1"), ("k", "2")))

    @responder(f"{topic}/json")
    async def as_json(request: Request) -> dict[str, Any]:
        return {"topic": request.topic, "qos": request.qos, "content_type": request.content_type}

    await serving(proxy, nothing, full, as_json)
    req = await requester(proxy)
    empty = await req.request(f"{topic}/none", timeout=5)
    assert (empty.payload, empty.status) == (b"", 204) or (empty.payload, empty.status) == (b"", 200)
    response = await req.request(f"{topic}/full", timeout=5)
    assert (response.payload, response.content_type) == (b"\x01", "a/b")
    assert [p for p in response.user_properties if p[0] == "k"] == [("k", "1"), ("k", "2")]
    decoded = await req.request(f"{topic}/json", {"a": 1}, response_type=dict, timeout=5)
    assert decoded == {"topic": f"{topic}/json", "qos": 1, "content_type": "application/json"}


async def test_a_responder_is_back_after_a_lost_connection(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    await serving(proxy, echo(topic), reconnect=reqtt.Reconnect(initial=0.05, max=0.1))
    peer = await raw(broker)
    assert (await peer.request(topic, "1", correlation_data=b"1")).payload == b"1"
    await proxy.wait_down(PUBACK)  # else the response is sent again
    proxy.cut()
    await proxy.wait_down(CONNACK, count=2)
    await proxy.wait_down(SUBACK, count=2)
    assert (await peer.request(topic, "2", correlation_data=b"2")).payload == b"2"


@pytest.mark.parametrize("wrong", ["a\0b", "x" * 65_536])
async def test_a_response_that_mqtt_cannot_carry_becomes_a_500(
    loopback: Any, serving: Factory, requester: Factory, topic: str, wrong: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> reqtt.Response:
        return reqtt.Response(b"x", content_type=wrong)

    await serving(loopback, handler)
    req = await requester(loopback)
    with pytest.raises(reqtt.RemoteError, match="internal error") as caught:
        await req.request(topic, timeout=5)
    assert caught.value.status == 500
    with pytest.raises(ValueError, match="content_type"):
        reqtt.Request(topic, content_type=wrong)


@case("P23")
async def test_closing_one_responder_leaves_the_others_of_its_client_alone(
    loopback: Any, client: Factory, serving: Factory, raw: Factory, topic: str
) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    @responder(f"{topic}/slow")
    async def slow(body: bytes) -> bytes:
        begun.set()
        await gate.wait()
        return body

    @responder(f"{topic}/other")
    async def other(body: bytes) -> bytes:
        return body

    shared = await client(loopback)
    await serving(shared, slow)
    closing = await serving(shared, other)
    asked = asyncio.ensure_future((await raw(loopback)).request(f"{topic}/slow", "x"))
    await begun.wait()
    await closing.close(timeout=5)
    gate.set()
    assert (await asked).payload == b"x"


STUCK = """
import asyncio, sys, threading, time
import reqtt

url, topic = sys.argv[1:]
begun = threading.Event()

@reqtt.responder(topic)
def stuck() -> None:
    begun.set()
    time.sleep(3600)

async def main():
    async with reqtt.Requester(url) as req:
        app = await reqtt.Responder(url, [stuck]).__aenter__()
        waiting = asyncio.create_task(req.request(topic, timeout=30))
        await asyncio.to_thread(begun.wait)
        before = time.monotonic()
        await app.close(timeout=0.3)
        print(time.monotonic() - before < 1.5)
        try:
            await waiting
        except reqtt.RemoteUnavailable as error:
            print(error.message)

asyncio.run(main())
"""


@case("P23")
def test_a_thread_that_hangs_holds_up_neither_the_close_nor_the_end_of_the_process(
    loopback: Any, topic: str
) -> None:
    done = run_script(STUCK, loopback.url, topic, timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nresponder is shutting down\n", "")


async def test_plain_handlers_share_the_threads_that_are_free(
    loopback: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    names, gate = set(), threading.Barrier(5)

    @responder(topic, concurrency=5)
    def handler(body: bytes) -> bytes:
        names.add(threading.current_thread().name)
        if body == b"meet":
            gate.wait(10)
        return body

    await serving(loopback, handler)
    req = await requester(loopback)
    for _ in range(20):
        await req.request(topic, "one by one")
    assert names == {"reqtt-worker_0"}
    await asyncio.gather(*(req.request(topic, "meet", timeout=10) for _ in range(5)))
    assert names == {f"reqtt-worker_{n}" for n in range(5)}
