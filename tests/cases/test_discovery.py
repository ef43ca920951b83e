"""Discovery: one question lists every live responder, with what it serves and how often it was asked."""

from __future__ import annotations

import asyncio
import datetime
import gc
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import pytest

import reqtt
from reqtt import Depends, Discovery, RequestError, Responder, Router, discover, responder
from reqtt.discovery import LATENCY_BUCKETS, _Count
from support.packets import SUBSCRIBE

Factory = Callable[..., Awaitable[Any]]


@pytest.fixture
def prefix(topic: str) -> str:
    return f"{topic}/discovery"


def echo(topic_filter: str, **options: Any) -> Any:
    @responder(topic_filter, **options)
    async def handler(body: bytes) -> bytes:
        return body

    return handler


async def test_one_gather_lists_every_live_responder(
    broker: Any, serving: Factory, requester: Factory, topic: str, prefix: str
) -> None:
    site = Router(topic, tags=["lights", "indoor"])
    site.responder("{lamp}/power", qos=2, group="lamps")(lambda lamp: lamp)
    before = datetime.datetime.now(datetime.UTC)
    lights = [
        await serving(broker, site, discovery=Discovery("lights", version="1.4.0", prefix=prefix))
        for _ in range(2)
    ]
    heating = await serving(
        broker, echo(f"{topic}/heating"), group="all", discovery=Discovery("heating", prefix=prefix)
    )
    req = await requester(broker)

    found = await discover(req, prefix=prefix, timeout=3, stall=0.5)
    assert [(info.name, info.version) for info in found] == [
        ("heating", ""),
        ("lights", "1.4.0"),
        ("lights", "1.4.0"),
    ]
    assert len({info.id for info in found}) == 3
    [handler] = found[0].handlers
    assert (handler.filter, handler.qos, handler.group, handler.tags) == (f"{topic}/heating", 1, "all", ())
    [handler] = found[1].handlers
    assert (handler.filter, handler.qos, handler.group, handler.tags, handler.stats) == (
        f"{topic}/{{lamp}}/power",
        2,
        "lamps",
        ("lights", "indoor"),
        None,
    )
    started = found[1].started
    assert started is not None
    assert before <= started <= datetime.datetime.now(datetime.UTC)

    named = await discover(req, name="lights", prefix=prefix, timeout=3, stall=0.5)
    assert named == found[1:]
    began = time.monotonic()
    assert await discover(req, name="lights", id=found[2].id, prefix=prefix, timeout=5) == [found[2]]
    # One is enough where only one can answer; nobody is known at once.
    assert await discover(req, name="lights", id="gone", prefix=prefix, timeout=5) == []
    assert await discover(req, name="doors", prefix=prefix, timeout=5) == []
    assert time.monotonic() - began < 3

    await lights[0].close()
    await heating.close()
    assert len(await discover(req, prefix=prefix, timeout=3, stall=0.3)) == 1


async def test_a_peer_without_reqtt_reads_the_answers(
    broker: Any, serving: Factory, raw: Factory, topic: str, prefix: str
) -> None:
    await serving(broker, echo(topic), discovery=Discovery("echo", version="2", prefix=prefix))
    peer = await raw(broker)
    response = await peer.request(f"{prefix}/ping", b"")
    assert response.properties["content_type"] == "application/json"
    body = json.loads(response.payload)
    assert (body["type"], body["name"], body["version"]) == ("reqtt.discovery.v1", "echo", "2")
    response = await peer.request(f"{prefix}/stats/echo/{body['id']}", b"")
    [handler] = json.loads(response.payload)["handlers"]
    assert handler["filter"] == topic
    assert handler["stats"] == {
        "requests": 0,
        "errors": 0,
        "timeouts": 0,
        "seconds": 0.0,
        "latency": [0] * (len(LATENCY_BUCKETS) + 1),
    }
    response = await peer.request(f"{prefix}/shutdown", b"")
    assert response.user("__stat") == "404"
    # It does not count itself, nor list its own filters.
    response = await peer.request(f"{prefix}/info", b"")
    assert [spec["filter"] for spec in json.loads(response.payload)["handlers"]] == [topic]


async def test_counts_and_latencies_are_those_of_the_requests(
    broker: Any, serving: Factory, requester: Factory, topic: str, prefix: str
) -> None:
    @responder(f"{topic}/mixed", timeout=0.05)
    async def mixed(body: str) -> str:
        match body:
            case "fail":
                raise RuntimeError("secret detail")
            case "refuse":
                raise RequestError(409, "busy")
            case "sleep":
                await asyncio.Event().wait()
        return body

    async def lingering() -> AsyncIterator[None]:
        yield
        # After the answer, and so not of its latency.
        await asyncio.sleep(0.3)

    @responder(f"{topic}/slow")
    def slow(value: Annotated[None, Depends(lingering)]) -> None:
        time.sleep(0.03)

    await serving(broker, mixed, slow, discovery=Discovery("mixed", prefix=prefix))
    req = await requester(broker)
    for body in ("fine", "fine", "fail", "refuse", "sleep"):
        try:
            await req.request(f"{topic}/mixed", body)
        except reqtt.RemoteError as error:
            assert error.status in (500, 409, 408)  # noqa: PT017
    await asyncio.gather(*(req.request(f"{topic}/slow") for _ in range(3)))
    [info] = await discover(req, stats=True, name="mixed", prefix=prefix, timeout=3, stall=0.2)
    first, second = (handler.stats for handler in info.handlers)
    assert (first.requests, first.errors, first.timeouts) == (5, 3, 1)
    assert (second.requests, second.errors, second.timeouts) == (3, 0, 0)
    assert sum(first.latency) == 5
    assert sum(first.latency[LATENCY_BUCKETS.index(0.05) + 1 :]) == 1
    assert 0.05 <= first.seconds < 1
    assert sum(second.latency[: LATENCY_BUCKETS.index(0.025) + 1]) == 0
    assert 0.09 <= second.seconds < 0.9


async def test_it_is_off_by_default(proxy: Any, serving: Factory, requester: Factory, topic: str) -> None:
    await serving(proxy, echo(topic))
    filters = [f.topic_filter for record in proxy.up(SUBSCRIBE) for f in record.packet.filters]
    assert filters == [topic]


async def test_a_broker_that_refuses_the_prefix_says_so(denying_broker: Any, topic: str, prefix: str) -> None:
    broker = denying_broker(subscribe=f"{prefix}/+")
    with pytest.raises(reqtt.SubscribeError) as caught:
        async with Responder(broker.url, echo(topic), discovery=Discovery("echo", prefix=prefix)):
            raise AssertionError
    assert caught.value.topic_filter == f"{prefix}/+"
    assert "0x87" in str(caught.value)


async def test_prefixes_that_start_with_a_dollar_work_where_the_broker_takes_them(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    await serving(broker, echo(topic), discovery=Discovery("echo", prefix="$reqtt"))
    req = await requester(broker)
    found = await discover(req, prefix="$reqtt", timeout=1, stall=0.2)
    assert [info.name for info in found] == ["echo"]


async def test_the_default_prefix_works(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    await serving(broker, echo(topic), discovery=Discovery("default"))
    req = await requester(broker)
    assert [info.name for info in await discover(req, name="default", timeout=2, stall=0.3)] == ["default"]


async def test_a_handler_for_everything_does_not_take_the_questions(
    broker: Any, serving: Factory, requester: Factory, topic: str, prefix: str
) -> None:
    asked: list[str] = []

    @responder(f"{topic}/#")
    async def everything(request: reqtt.Request) -> str:
        asked.append(request.topic)
        return "everything"

    async def closed(request: reqtt.Request, call_next: Any) -> Any:
        raise RequestError(401, "who are you?")

    await serving(broker, everything, middleware=[closed], discovery=Discovery("all", prefix=prefix))
    req = await requester(broker)
    assert [info.name for info in await discover(req, prefix=prefix, timeout=2, stall=0.2)] == ["all"]
    assert asked == []


async def test_strangers_that_answer_are_left_out(
    broker: Any,
    serving: Factory,
    requester: Factory,
    topic: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @responder(f"{prefix}/info")
    async def garbage() -> str:
        return "hello"

    @responder(f"{prefix}/info")
    async def other() -> dict[str, str]:
        return {"name": "nats", "id": "1", "type": "io.nats.micro.v1.info_response"}

    @responder(f"{prefix}/info")
    async def failing() -> None:
        raise RequestError(403, "no")

    for handler in (garbage, other, failing):
        await serving(broker, handler)
    await serving(broker, echo(topic), discovery=Discovery("echo", prefix=prefix))
    req = await requester(broker)
    found = await discover(req, prefix=prefix, timeout=3, stall=0.5)
    assert [info.name for info in found] == ["echo"]
    warnings = [record for record in caplog.records if record.name == "reqtt.discovery"]
    assert [record.levelno for record in warnings] == [logging.WARNING] * 3


async def test_two_on_one_client_are_refused_unless_their_prefixes_differ(
    broker: Any, client: Factory, requester: Factory, topic: str, prefix: str
) -> None:
    shared = await client(broker)
    async with Responder(shared, echo(f"{topic}/a"), discovery=Discovery("a", prefix=prefix)) as first:
        with pytest.raises(ValueError, match="another responder on this client answers discovery"):
            async with Responder(shared, echo(f"{topic}/b"), discovery=Discovery("b", prefix=prefix)):
                raise AssertionError
        async with Responder(shared, echo(f"{topic}/b"), discovery=Discovery("b", prefix=f"{prefix}2")):
            req = await requester(broker)
            for place, name in ((prefix, "a"), (f"{prefix}2", "b")):
                found = await discover(req, prefix=place, timeout=2, stall=0.2)
                assert [info.name for info in found] == [name]
        await first.close()
        # The place is free again.
        async with Responder(shared, echo(f"{topic}/b"), discovery=Discovery("b", prefix=prefix)):
            pass


async def test_two_that_are_opened_at_once_on_one_client_are_told_the_same(
    broker: Any, client: Factory, topic: str, prefix: str
) -> None:
    shared = await client(broker)
    first, second = (
        Responder(shared, echo(f"{topic}/{name}"), discovery=Discovery(name, prefix=prefix)) for name in "ab"
    )
    opened, refused = await asyncio.gather(first.__aenter__(), second.__aenter__(), return_exceptions=True)
    assert opened is first
    assert isinstance(refused, ValueError)
    assert "another responder on this client answers discovery" in str(refused)
    await first.close()
    # One that was refused holds no place, and may be opened when there is one.
    async with second:
        pass


async def test_one_that_could_not_be_opened_holds_no_place(
    broker: Any, client: Factory, topic: str, prefix: str
) -> None:
    @asynccontextmanager
    async def failing(app: Responder) -> AsyncIterator[None]:
        raise OSError("no lamp")
        yield

    shared = await client(broker)
    broken = Responder(shared, echo(f"{topic}/a"), discovery=Discovery("a", prefix=prefix), lifespan=failing)
    with pytest.raises(OSError, match="no lamp"):
        await broken.__aenter__()
    async with Responder(shared, echo(f"{topic}/b"), discovery=Discovery("b", prefix=prefix)):
        pass


async def test_many_responders_are_found_within_a_second_after_the_last_answer(
    broker: Any, requester: Factory, topic: str, prefix: str
) -> None:
    async with AsyncExitStack() as stack:
        for number in range(60):
            app = Responder(broker.url, echo(f"{topic}/{number}"), discovery=Discovery("many", prefix=prefix))
            await stack.enter_async_context(app)
        req = await requester(broker)
        before = time.monotonic()
        found = await discover(req, prefix=prefix, timeout=8, stall=0.5)
        assert time.monotonic() - before < 3
        assert len({info.id for info in found}) == 60


def test_counting_takes_no_memory_however_many_requests_there_are() -> None:
    count = _Count()
    count.add(500, 0.1)
    gc.collect()
    tracemalloc.start()
    for number in range(20_000):
        count.add(200 if number % 2 else 408, number / 1000)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 2_000
    stats = count.stats()
    assert (stats.requests, stats.errors, stats.timeouts) == (20_001, 10_001, 10_000)
    assert len(stats.latency) == len(LATENCY_BUCKETS) + 1
    # A bound counts what it names: 0.001 s is in the second bucket.
    assert stats.latency[:2] == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": "a/b"}, ValueError),
        ({"name": "+"}, ValueError),
        ({"name": "{a}"}, ValueError),
        ({"name": 3}, TypeError),
        ({"version": 1}, TypeError),
        ({"prefix": ""}, reqtt.InvalidTopic),
        ({"prefix": "a/#"}, reqtt.InvalidTopic),
        ({"prefix": "a/"}, reqtt.InvalidTopic),
        ({"prefix": "a/{b}"}, reqtt.InvalidTopic),
        ({"prefix": "$share"}, reqtt.InvalidTopic),
        ({"prefix": "$share/group/a"}, reqtt.InvalidTopic),
        ({"prefix": 3}, TypeError),
    ],
    ids=str,
)
def test_a_wrong_discovery_is_refused_at_once(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Discovery(**{"name": "lights", **wrong})


async def test_a_wrong_question_raises_before_anything_is_sent(requester: Factory, loopback: Any) -> None:
    req = await requester(loopback)
    for wrong in ({"id": "a"}, {"name": "a/b"}, {"name": "a", "id": "#"}, {"prefix": "a/+"}, {"stall": 3}):
        with pytest.raises(ValueError):
            await discover(req, **wrong)
    assert req.client.stats().requests == 0
