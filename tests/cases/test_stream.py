"""Rows S4 and S5: one request, a stream of items."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

import reqtt
from reqtt import Request, RequestError, Response, responder
from support import case
from support.footprint import resident
from support.packets import PUBLISH, Packet
from support.raw import RawClient
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


@dataclass
class Source:
    """A handler that streams numbers, and what became of its generators."""

    handler: Any
    made: int = 0
    opened: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)


def numbers(topic: str, count: int | None = 5, *, pause: float | None = None, **options: Any) -> Source:
    """Streams "1", "2", ... without end (None), or `count` of them; waits `pause` before each (None: not)."""
    source = Source(None)

    @responder(topic, **options)
    async def stream() -> AsyncIterator[str]:
        source.opened += 1
        try:
            while count is None or source.made < count:
                if pause is not None:
                    await asyncio.sleep(pause)
                source.made += 1
                yield str(source.made)
        finally:
            source.closed.set()

    source.handler = stream
    return source


async def texts(stream: AsyncIterator[Any]) -> list[str]:
    return [item.text async for item in stream]


def marks(number: int | str, identity: str = "one", **others: str) -> tuple[tuple[str, str], ...]:
    """The user properties of an item."""
    named = ((f"rq-{name}", value) for name, value in others.items())
    return (("rq-seq", str(number)), ("rq-id", identity), *named)


async def within_a_second(closed: asyncio.Event) -> None:
    async with asyncio.timeout(1):
        await closed.wait()


# --- items and the end


@case("S4")
async def test_items_come_in_order_and_then_the_end(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, 5)
    await serving(broker, source.handler)
    req = await requester(broker)
    assert await texts(req.stream(topic, timeout=5)) == ["1", "2", "3", "4", "5"]
    assert source.closed.is_set()
    await eventually(lambda: req.client.stats().pending == 0)


async def test_many_more_items_than_the_first_credit(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, 3000)
    await serving(broker, source.handler)
    req = await requester(broker)
    assert await texts(req.stream(topic)) == [str(number) for number in range(1, 3001)]


@case("S4")
async def test_a_redelivered_item_is_not_repeated(
    broker: Any, peer: RawClient, requester: Factory, topic: str
) -> None:
    req = await requester(broker)
    stream = asyncio.ensure_future(texts(req.stream(topic, timeout=5)))
    request = await peer.receive()
    assert (request.user("rq-stream"), request.user("rq-credit")) == ("1", "64")
    for number in (1, 1, 2, 1, 2, 3):
        await peer.respond(request, f"item {number}", user_properties=marks(number))
    await peer.respond(request, user_properties=marks(4, end="1"))
    assert await stream == ["item 1", "item 2", "item 3"]


@case("S5")
async def test_an_error_comes_after_the_items_before_it(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic + "/{how}")
    async def fails(how: str) -> AsyncIterator[str]:
        yield "1"
        yield "2"
        if how == "raises":
            raise RequestError(409, "no more", code="E7", data={"left": 0})
        if how == "yields":
            yield Response("no more", status=409)  # type: ignore[misc]
        raise ZeroDivisionError("secret detail")

    await serving(broker, fails)
    req = await requester(broker)
    for how, status in (("raises", 409), ("yields", 409), ("breaks", 500)):
        stream = req.stream(f"{topic}/{how}", timeout=5)
        assert [(await anext(stream)).text, (await anext(stream)).text] == ["1", "2"]
        with pytest.raises(reqtt.RemoteError) as caught:
            await anext(stream)
        assert caught.value.status == status
        assert "secret" not in str(caught.value)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    await eventually(lambda: req.client.stats().pending == 0)


async def test_a_generator_that_yields_nothing_is_an_empty_stream(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    await serving(broker, numbers(topic, 0).handler)
    req = await requester(broker)
    assert await texts(req.stream(topic, timeout=5)) == []
    assert (await req.request(topic)).status == 204


async def test_items_are_encoded_and_decoded_by_type(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def readings() -> AsyncIterator[dict[str, int]]:
        yield {"level": 1}
        yield {"level": 2}
        yield Response("three", user_properties=[("unit", "mm")])  # type: ignore[misc]

    await serving(broker, readings)
    req = await requester(broker)
    items = req.stream(topic, response_type=dict[str, int], timeout=5)
    assert [await anext(items), await anext(items)] == [{"level": 1}, {"level": 2}]
    with pytest.raises(reqtt.DecodeError):
        await anext(items)
    *_, last = [item async for item in req.stream(topic)]
    assert (last.text, ("unit", "mm") in last.user_properties) == ("three", True)


async def test_an_item_that_does_not_validate_closes_the_generator(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None, pause=0.01)
    await serving(broker, source.handler)
    req = await requester(broker)
    with pytest.raises(reqtt.DecodeError):
        async for _ in req.stream(topic, response_type=dict[str, int]):
            pass
    await within_a_second(source.closed)


async def test_an_item_that_cannot_be_encoded_ends_the_stream(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def stream() -> AsyncIterator[Any]:
        yield b"1"
        yield object()

    await serving(broker, stream)
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    assert (await anext(items)).payload == b"1"
    with pytest.raises(reqtt.RemoteError, match="500"):
        await anext(items)


async def test_an_item_larger_than_the_broker_takes_is_an_error(
    own_loopback: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    broker = own_loopback(maximum_packet_size=4096)

    @responder(topic)
    async def stream() -> AsyncIterator[bytes]:
        yield b"1"
        yield bytes(5000)
        yield b"3"

    await serving(broker, stream)
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    assert (await anext(items)).payload == b"1"
    with pytest.raises(reqtt.RemoteError, match="item 2 is larger than the broker accepts"):
        await anext(items)


# --- what a foreign peer may send


@pytest.mark.parametrize("garbage", ["x", "", "-1", "1.5", "2", "\u0661", "9" * 40], ids=ascii)
async def test_a_sequence_number_that_is_none_or_wrong_raises(
    broker: Any, peer: RawClient, requester: Factory, topic: str, garbage: str
) -> None:
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    request = await peer.receive()
    await peer.respond(request, "odd", user_properties=marks(garbage))
    with pytest.raises(reqtt.InvalidResponse, match="item 2 where item 1" if garbage == "2" else "rq-seq"):
        await anext(items)
    assert req.client.stats().pending == 0
    # The connection is unharmed.
    asking = asyncio.ensure_future(req.request(topic, timeout=5))
    await peer.respond(await peer.receive(), "fine")
    assert (await asking).text == "fine"
    assert req.client.stats().reconnects == 0


async def test_a_gap_is_raised_after_what_came_before_it(
    broker: Any, peer: RawClient, requester: Factory, topic: str
) -> None:
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    request = await peer.receive()
    control = f"{topic}/rq-control/x"
    await peer.subscribe(control)
    await peer.respond(request, user_properties=marks(0), response_topic=control)
    for number in (1, 2, 5, 6):
        await peer.respond(request, f"item {number}", user_properties=marks(number))
    assert [(await anext(items)).text, (await anext(items)).text] == ["item 1", "item 2"]
    with pytest.raises(reqtt.InvalidResponse, match="item 5 where item 3 was expected") as caught:
        await anext(items)
    assert caught.value.response.text == "item 5"
    told = await peer.receive()
    assert (told.topic, told.user("rq-cancel"), told.user("rq-id")) == (control, "1", "one")
    assert told.correlation_data == request.correlation_data


async def test_more_items_than_the_credit_allows_raise(
    broker: Any, peer: RawClient, requester: Factory, topic: str
) -> None:
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    request = await peer.receive()
    for number in range(1, 70):
        await peer.respond(request, "x", user_properties=marks(number))
    await eventually(lambda: req.client.stats().pending == 0)
    for _ in range(64):
        await anext(items)
    with pytest.raises(reqtt.InvalidResponse, match="item 65, although it may send 64"):
        await anext(items)


async def test_nothing_is_published_to_a_topic_that_is_no_control_topic(
    broker: Any, raw: Factory, requester: Factory, topic: str
) -> None:
    peer = await raw(broker)
    await peer.subscribe(topic, f"{topic}/door")
    req = await requester(broker)
    items = req.stream(topic, timeout=5)
    request = await peer.receive()
    await peer.respond(request, user_properties=marks(0), response_topic=f"{topic}/door")
    with pytest.raises(reqtt.InvalidResponse, match="control topic that is none"):
        await anext(items)
    await req.client.publish(f"{topic}/door", "the only one")
    assert (await peer.receive()).payload == b"the only one"
    assert not peer.waiting


@pytest.mark.parametrize("streams", [False, True], ids=["handler", "raw"])
async def test_a_responder_that_does_not_stream_gives_one_item(
    broker: Any, serving: Factory, raw: Factory, requester: Factory, topic: str, streams: bool
) -> None:
    if streams:
        peer = await raw(broker)
        await peer.serve(topic, lambda request: "only one")
    else:

        @responder(topic)
        async def one() -> str:
            return "only one"

        await serving(broker, one)
    req = await requester(broker)
    assert await texts(req.stream(topic, timeout=5)) == ["only one"]
    await eventually(lambda: req.client.stats().pending == 0)


async def test_an_error_before_the_stream_begins_is_raised(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def count(body: int) -> AsyncIterator[int]:
        for number in range(body):
            yield number

    await serving(broker, count)
    req = await requester(broker)
    with pytest.raises(reqtt.BadRequest):
        await anext(req.stream(topic, "many", content_type="application/json"))
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await anext(req.stream(f"{topic}/nobody"))
    assert [item async for item in req.stream(topic, 3, response_type=int)] == [0, 1, 2]


# --- who knows nothing of streams


async def test_a_plain_peer_gets_the_items_as_plain_responses(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    @responder(topic)
    async def stream(body: str) -> AsyncIterator[str]:
        yield "1"
        yield "2"
        if body == "fail":
            raise RequestError(409, "no more")

    await serving(broker, stream)
    peer = await raw(broker)
    first = await peer.request(topic, "fail", correlation_data=b"c-1")
    second, error = await peer.receive(), await peer.receive()
    assert [first.payload, second.payload] == [b"1", b"2"]
    assert error.user("__stat") == "409"
    for message in (first, second, error):
        assert message.correlation_data == b"c-1"
        assert not [name for name, _ in message.user_properties if name.startswith("rq-")]
        assert message.response_topic is None
    await peer.request(topic, "end", correlation_data=b"c-2")
    assert (await peer.receive()).payload == b"2"
    await peer.ping()
    assert not peer.waiting


async def test_the_first_item_answers_a_plain_request(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None, pause=0.005)
    await serving(broker, source.handler)
    req = await requester(broker)
    assert (await req.request(topic, timeout=1)).text == "1"
    # It ends with the request's expiry.
    await eventually(source.closed.is_set, timeout=3)


async def test_a_version_that_is_not_known_is_a_plain_request(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    await serving(broker, numbers(topic, 2).handler)
    peer = await raw(broker)
    properties = (("rq-stream", "2"), ("rq-credit", "1"))
    assert (await peer.request(topic, user_properties=properties)).user_properties == ()
    assert (await peer.receive()).payload == b"2"


@pytest.mark.parametrize("credit", ["", "0", "-1", "many", "9" * 40])
async def test_a_credit_that_is_none_is_refused(
    broker: Any, serving: Factory, raw: Factory, topic: str, credit: str
) -> None:
    source = numbers(topic, 2)
    await serving(broker, source.handler)
    peer = await raw(broker)
    answer = await peer.request(topic, user_properties=(("rq-stream", "1"), ("rq-credit", credit)))
    assert answer.user("__stat") == "400"
    assert source.opened == 0


async def test_a_request_without_response_topic_runs_the_generator_to_its_end(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    source = numbers(topic, 3)
    await serving(broker, source.handler)
    await (await raw(broker)).publish(topic)
    await eventually(source.closed.is_set)
    assert source.made == 3


async def test_a_raw_requester_can_follow_the_table(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    source = numbers(topic, None)
    await serving(broker, source.handler)
    peer = await raw(broker)
    opening = await peer.request(topic, user_properties=(("rq-stream", "1"), ("rq-credit", "3")))
    assert (opening.user("rq-seq"), opening.payload) == ("0", b"")
    identity, control = opening.user("rq-id"), opening.response_topic
    assert control is not None
    assert [(await peer.receive()).user("rq-seq") for _ in range(3)] == ["1", "2", "3"]

    async def tell(**told: str) -> None:
        named = tuple((f"rq-{name}", value) for name, value in told.items())
        await peer.publish(control, user_properties=named)

    async def items() -> Sequence[str | None]:
        await asyncio.sleep(0.1)
        return [(await peer.receive()).user("rq-seq") for _ in range(peer.waiting)]

    # Of another stream, less than before, garbage: nothing changes.
    await tell(id="another", credit="9")
    await tell(id=identity, credit="2")
    await tell(id=identity, credit="many")
    await tell(id="another", cancel="1")
    await tell()
    assert await items() == []
    await tell(id=identity, credit="5")
    assert await items() == ["4", "5"]
    assert not source.closed.is_set()
    await tell(id=identity, cancel="1")
    await within_a_second(source.closed)
    assert await items() == []


# --- the consumer leaves


async def _break(req: Any, topic: str) -> None:
    async for _ in req.stream(topic):
        break


async def _aclose(req: Any, topic: str) -> None:
    stream = req.stream(topic)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def _context(req: Any, topic: str) -> None:
    async with req.stream(topic) as stream:
        await anext(stream)


async def _cancelled(req: Any, topic: str) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async for _ in req.stream(topic):
            begun.set()

    task = asyncio.ensure_future(consume())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _timeout(req: Any, topic: str) -> None:
    async def consume() -> None:
        async for _ in req.stream(topic):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consume(), 0.2)


async def _exception(req: Any, topic: str) -> None:
    async def consume() -> None:
        async for _ in req.stream(topic):
            raise LookupError

    with pytest.raises(LookupError):
        await consume()


async def _collected(req: Any, topic: str) -> None:
    stream = req.stream(topic)
    await anext(stream)
    del stream
    gc.collect()


@pytest.mark.parametrize("leave", [_break, _aclose, _context, _cancelled, _timeout, _exception, _collected])
async def test_the_generator_is_closed_when_the_consumer_leaves(
    broker: Any,
    serving: Factory,
    requester: Factory,
    topic: str,
    leave: Callable[[Any, str], Awaitable[None]],
) -> None:
    source = numbers(topic, None, pause=0.01)
    await serving(broker, source.handler)
    req = await requester(broker)
    await leave(req, topic)
    await within_a_second(source.closed)
    assert req.client.stats().pending == 0


async def test_the_generator_is_closed_before_its_first_item(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None, pause=3600)
    await serving(broker, source.handler)
    req = await requester(broker)
    with pytest.raises(reqtt.ResponseTimeout, match="no item") as caught:
        await anext(req.stream(topic, timeout=0.3))
    assert (caught.value.phase, caught.value.timeout) == ("response", 0.3)
    await within_a_second(source.closed)
    source.closed.clear()
    # Even before its opening can have come.
    stream = req.stream(topic)
    await stream.aclose()
    await within_a_second(source.closed)
    await eventually(lambda: req.client.stats().pending == 0)


async def test_a_generator_that_waits_for_credit_is_closed(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None)
    await serving(broker, source.handler)
    req = await requester(broker)
    async with req.stream(topic) as stream:
        await anext(stream)
        await eventually(lambda: source.made >= 64)
    await within_a_second(source.closed)


async def test_a_generator_that_ignores_its_cancellation_is_closed_at_its_next_item(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    closed = asyncio.Event()

    @responder(topic)
    async def stubborn() -> AsyncIterator[str]:
        try:
            yield "1"
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
                yield "again"
        finally:
            closed.set()

    await serving(broker, stubborn)
    req = await requester(broker)
    async with req.stream(topic) as stream:
        assert (await anext(stream)).text == "1"
    await within_a_second(closed)


async def test_idle_timeout_is_for_each_item_after_the_first(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    closed = asyncio.Event()

    @responder(topic)
    async def slow() -> AsyncIterator[str]:
        try:
            await asyncio.sleep(0.5)
            yield "1"
            yield "2"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    await serving(broker, slow)
    req = await requester(broker)
    stream = req.stream(topic, timeout=5, idle_timeout=0.3)
    got = [(await anext(stream)).text, (await anext(stream)).text]
    assert got == ["1", "2"]
    with pytest.raises(reqtt.ResponseTimeout, match="no item after item 2") as caught:
        await anext(stream)
    assert caught.value.timeout == 0.3
    await within_a_second(closed)


async def test_a_stream_outlives_the_timeout_of_its_first_item(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, 8, pause=0.2)
    await serving(broker, source.handler)
    req = await requester(broker)
    assert len(await texts(req.stream(topic, timeout=0.5))) == 8


async def test_a_consumer_that_vanished_is_noticed(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    idle, busy = numbers(f"{topic}/idle", None, pause=3600), numbers(f"{topic}/busy", None, pause=0.01)
    await serving(broker, idle.handler, busy.handler)
    for source, name in ((idle, "idle"), (busy, "busy")):
        peer = await raw(broker)
        await peer.request(f"{topic}/{name}", user_properties=(("rq-stream", "1"), ("rq-credit", "9999")))
        await peer.kill()
        # It is asked after a second, and 0x10 is the answer.
        await eventually(source.closed.is_set, timeout=4)


async def test_a_requester_that_says_nothing_is_given_up(
    broker: Any, serving: Factory, raw: Factory, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqtt.streaming.SILENCE", 1.5)
    source = numbers(topic, None)
    await serving(broker, source.handler)
    peer = await raw(broker)
    await peer.request(topic, user_properties=(("rq-stream", "1"), ("rq-credit", "2")))
    await eventually(source.closed.is_set)
    last = await _last(peer)
    assert (last.user("__stat"), last.user("rq-seq"), last.user("rq-end")) == ("408", "3", "1")


async def _last(peer: Any) -> Packet:
    while True:
        message: Packet = await peer.receive()
        if message.user("rq-end"):
            return message


async def test_a_responder_that_says_nothing_is_given_up(
    broker: Any, raw: Factory, requester: Factory, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqtt.requester.SILENCE", 0.5)
    peer = await raw(broker)
    await peer.subscribe(topic)
    req = await requester(broker)
    items = req.stream(topic, timeout=30)
    request = await peer.receive()
    await peer.respond(request, "1", user_properties=marks(1))
    assert (await anext(items)).text == "1"
    with pytest.raises(reqtt.ResponseTimeout, match="fell silent"):
        await anext(items)
    assert req.client.stats().pending == 0


async def test_nobody_answers_within_the_timeout(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        await anext(req.stream(topic, timeout=0.3, fail_fast=False))
    assert (caught.value.phase, caught.value.timeout) == ("response", 0.3)
    assert req.client.stats().pending == 0


async def test_a_control_topic_that_is_refused_is_told(
    denying_broker: Any, serving: Factory, requester: Factory, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(reqtt.SubscribeError, match="rq-control"):
        await serving(denying_broker(subscribe="clients/+/responses/rq-control/+"), numbers(topic).handler)
    broker = denying_broker(publish="clients/+/responses/rq-control/+")
    monkeypatch.setattr("reqtt.streaming.SILENCE", 1.5)
    await serving(broker, numbers(topic, None).handler)
    req = await requester(broker)
    stream = req.stream(topic)
    assert [(await anext(stream)).text for _ in range(64)][-1] == "64"
    with pytest.raises(reqtt.RemoteTimeout, match="be allowed to publish there"):
        await anext(stream)


# --- flow


async def test_the_producer_stops_when_the_consumer_is_slow(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None)
    await serving(broker, source.handler)
    req = await requester(broker)
    async with req.stream(topic) as stream:
        for taken in range(1, 2001):
            assert (await anext(stream)).text == str(taken)
            assert source.made <= taken + 256 + 1
        await asyncio.sleep(0.2)
        made = source.made
        assert made <= 2000 + 256 + 1
        # The questions that come meanwhile bring no more.
        await asyncio.sleep(1.3)
        assert source.made == made
        assert (await anext(stream)).text == "2001"
    await within_a_second(source.closed)


async def test_large_items_get_little_credit(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    made = 0

    @responder(topic)
    async def pictures() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(512 * 1024)

    await serving(broker, pictures)
    req = await requester(broker)
    async with req.stream(topic, timeout=20) as stream:
        for _ in range(80):
            await anext(stream)
        await asyncio.sleep(0.1)
        assert made <= 80 + 8 + 1


@pytest.mark.timeout(60)
async def test_memory_is_flat_over_a_long_stream(
    loopback: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def stream() -> AsyncIterator[bytes]:
        item = bytes(1000)
        for _ in range(60_000):
            yield item

    await serving(loopback, stream)
    req = await requester(loopback)
    before, count = 0, 0
    async for _ in req.stream(topic):
        count += 1
        if count == 10_000:
            before = resident()
        if count % 1000 == 0:
            await asyncio.sleep(0.002)
    assert count == 60_000
    # 50 MB passed meanwhile.
    assert resident() - before < 4 * 2**20


# --- faults


@pytest.mark.parametrize("who", ["requester", "responder"])
async def test_a_reconnect_keeps_order_without_gaps(
    broker: Any, make_proxy: Factory, serving: Factory, requester: Factory, topic: str, who: str
) -> None:
    front = {name: await make_proxy(broker) for name in ("requester", "responder")}
    source = numbers(topic, 2000, pause=0)
    keep = {"session_expiry_interval": 60, "reconnect": reqtt.Reconnect(initial=0.05)}
    await serving(front["responder"], source.handler, **keep)
    req = await requester(front["requester"], **keep)
    got = []
    async for item in req.stream(topic, idle_timeout=10):
        got.append(item.text)
        if len(got) in (300, 900):
            front[who].cut()
    assert got == [str(number) for number in range(1, 2001)]
    assert (front[who].accepted, source.opened) == (3, 1)


async def test_a_redelivered_request_starts_no_second_stream(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    source = numbers(topic, 3, pause=0.05)
    await serving(broker, source.handler)
    peer = await raw(broker)
    response_topic = await peer.listen()

    async def ask() -> None:
        await peer.publish(
            topic,
            response_topic=response_topic,
            correlation_data=b"once",
            user_properties=(("rq-stream", "1"), ("rq-credit", "10")),
        )

    await ask()
    await ask()
    last = await _last(peer)
    assert last.user("rq-seq") == "4"
    await ask()
    await asyncio.sleep(0.2)
    assert (source.opened, source.made) == (1, 3)


async def test_a_group_shares_streams_and_each_keeps_its_own(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    sources = [numbers(topic, None, group="workers") for _ in range(2)]
    for source in sources:
        await serving(broker, source.handler)
    req = await requester(broker)

    async def take() -> list[str]:
        async with req.stream(topic) as stream:
            return [(await anext(stream)).text for _ in range(500)]

    # Brokers hand out requests in turn, or at random: enough of them reach both.
    for _ in range(10):
        for source in sources:
            source.made = 0
            source.closed.clear()
        opened = [source.opened for source in sources]
        assert await take() == [str(number) for number in range(1, 501)]
        [used] = [s for s, before in zip(sources, opened, strict=True) if s.opened > before]
        await within_a_second(used.closed)
    assert all(source.opened for source in sources) or broker.kind == "loopback"


async def test_the_first_of_several_responders_is_taken_and_the_others_stop(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    sources = [numbers(topic, None, pause=0.01) for _ in range(3)]
    for source in sources:
        await serving(broker, source.handler)
    req = await requester(broker)
    async with req.stream(topic) as stream:
        got = [(await anext(stream)).text for _ in range(50)]
        assert got == [str(number) for number in range(1, 51)]
        await eventually(lambda: sum(source.closed.is_set() for source in sources) == 2)
    await eventually(lambda: all(source.closed.is_set() for source in sources))


async def test_a_responder_that_closes_ends_the_stream(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None, pause=0.01)
    app = await serving(broker, source.handler)
    req = await requester(broker)
    stream = req.stream(topic)
    assert (await anext(stream)).text == "1"
    await app.close(drain=False)
    with pytest.raises(reqtt.RemoteUnavailable):
        await texts(stream)
    assert source.closed.is_set()


async def test_closing_the_requester_ends_the_stream(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    source = numbers(topic, None, pause=0.01)
    await serving(broker, source.handler)
    req = await requester(broker)
    stream = req.stream(topic)
    await anext(stream)
    await req.close()
    with pytest.raises(reqtt.ClientClosed):
        await texts(stream)
    # Nobody gives credit: asked once a second, and 0x10 says the rest.
    await asyncio.wait_for(source.closed.wait(), 5)


async def test_requester_and_responder_on_one_client(
    broker: Any, client: Factory, serving: Factory, requester: Factory, topic: str
) -> None:
    shared = await client(broker)
    source = numbers(topic, 500)
    await serving(shared, source.handler)
    req = await requester(shared)
    assert len(await texts(req.stream(topic))) == 500
    assert (await req.request(topic)).status == 204


# --- options


async def test_middleware_runs_around_the_whole_stream(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    seen: list[str] = []

    async def watch(request: Request, call_next: Any) -> Response:
        seen.append("before")
        if request.text == "no":
            raise RequestError(403, "not you")
        response: Response = await call_next(request)
        seen.append("after")
        return response

    source = numbers(topic, 3)
    await serving(broker, source.handler, middleware=[watch])
    req = await requester(broker)
    assert await texts(req.stream(topic)) == ["1", "2", "3"]
    assert seen == ["before", "after"]
    with pytest.raises(reqtt.RemoteError, match="not you"):
        await texts(req.stream(topic, "no"))
    assert source.opened == 1


async def test_the_timeout_of_a_handler_is_for_each_item(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    closed = asyncio.Event()

    @responder(topic, timeout=0.3)
    async def stream() -> AsyncIterator[str]:
        try:
            for _ in range(3):
                await asyncio.sleep(0.15)
                yield "in time"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    await serving(broker, stream)
    req = await requester(broker)
    items = req.stream(topic)
    assert [(await anext(items)).text for _ in range(3)] == ["in time"] * 3
    with pytest.raises(reqtt.RemoteTimeout, match="no item within"):
        await anext(items)
    assert closed.is_set()


async def test_a_stream_holds_no_room_in_the_brokers_window(
    broker: Any, serving: Factory, requester: Factory, make_proxy: Factory, topic: str
) -> None:
    proxy = await make_proxy(broker)
    source = numbers(topic, None, pause=3600, concurrency=40)
    await serving(proxy, source.handler)
    req = await requester(broker)
    streams = [req.stream(topic) for _ in range(40)]
    await eventually(lambda: source.opened == 40)
    await eventually(lambda: len(proxy.down(PUBLISH, topic)) == 40)
    for stream in streams:
        await stream.aclose()
    await eventually(lambda: req.client.stats().pending == 0)


async def test_wrong_use_raises_before_anything_is_sent(
    loopback: Any, requester: Factory, topic: str
) -> None:
    req = await requester(loopback)
    for wrong in ({"idle_timeout": 0}, {"idle_timeout": float("nan")}, {"timeout": -1}, {"qos": 3}):
        with pytest.raises(ValueError, match=r"timeout|qos|seconds"):
            req.stream(topic, **wrong)
    with pytest.raises(reqtt.InvalidTopic):
        req.stream("a/#")
    with pytest.raises(TypeError):
        req.stream(topic, response_type=asyncio.Event)
    assert req.client.stats().requests == 0
    by_topic = await requester(loopback, correlation="topic")
    with pytest.raises(ValueError, match="Correlation Data"):
        by_topic.stream(topic)


def test_a_stream_is_not_kept_on_disk() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"1"

    with pytest.raises(TypeError, match="deduplicate"):
        responder("t", deduplicate="disk")(stream)
