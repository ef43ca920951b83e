"""Rows S1 and S2: one question, many answers."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import RequestError, responder
from support import case
from support.packets import PUBLISH
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


@pytest.fixture
async def lamps(broker: Any, serving: Factory, topic: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """`await lamps(0, 1, None)`: responders that answer after so many seconds; None: not in time."""
    over = asyncio.Event()

    async def start(*delays: float | None) -> None:
        for number, delay in enumerate(delays):

            @responder(topic)
            async def lamp(body: bytes, delay: float | None = delay, number: int = number) -> str:
                await (over.wait() if delay is None else asyncio.sleep(delay))
                return f"lamp {number}"

            await serving(broker, lamp)

    yield start
    over.set()


@case("S1")
async def test_it_ends_with_the_last_response_that_was_asked_for(
    broker: Any, requester: Factory, lamps: Any, topic: str
) -> None:
    await lamps(0, 0.05, 0.1, None)
    req = await requester(broker)
    before = time.monotonic()
    got = [r.text async for r in req.gather(topic, b"", max_responses=3, timeout=5)]
    assert got == ["lamp 0", "lamp 1", "lamp 2"]
    assert time.monotonic() - before < 2
    await eventually(lambda: req.client.stats().pending == 0)


@case("S2")
async def test_it_ends_with_a_stall(broker: Any, requester: Factory, lamps: Any, topic: str) -> None:
    await lamps(0, 0.1, None)
    req = await requester(broker)
    before = time.monotonic()
    responses = await req.gather(topic, stall=0.3, timeout=10)
    assert [r.text for r in responses] == ["lamp 0", "lamp 1"]
    assert 0.35 < time.monotonic() - before < 2


@case("S2")
async def test_it_ends_with_the_timeout_without_an_exception(
    broker: Any, requester: Factory, lamps: Any, topic: str
) -> None:
    await lamps(0, None)
    req = await requester(broker)
    before = time.monotonic()
    assert [r.text for r in await req.gather(topic, timeout=0.5)] == ["lamp 0"]
    assert 0.45 < time.monotonic() - before < 1.5
    assert req.client.stats().pending == 0
    assert req.client.stats().timeouts == 0


async def test_it_ends_when_until_says_so(broker: Any, requester: Factory, lamps: Any, topic: str) -> None:
    await lamps(0, 0.1, None)
    req = await requester(broker)
    responses = await req.gather(topic, timeout=5, until=lambda r: r.text == "lamp 1")
    assert [r.text for r in responses] == ["lamp 0", "lamp 1"]


async def test_nobody_there_is_an_empty_result_at_once(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    before = time.monotonic()
    assert await req.gather(topic, timeout=5) == []
    assert time.monotonic() - before < 2
    assert await req.gather(topic, timeout=0.2, fail_fast=False) == []


async def test_an_error_is_an_item_or_is_raised(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def broken() -> None:
        raise RequestError(404, "no lamp")

    @responder(topic)
    async def works() -> dict[str, int]:
        await asyncio.sleep(0.1)
        return {"level": 3}

    @responder(topic)
    async def odd() -> str:
        await asyncio.sleep(0.2)
        return "no number"

    for handler in (broken, works, odd):
        await serving(broker, handler)
    req = await requester(broker)
    error, level, wrong = await req.gather(topic, response_type=dict[str, int], max_responses=3, timeout=5)
    assert isinstance(error, reqtt.NotFound)
    assert error.message == "no lamp"
    assert level == {"level": 3}
    assert isinstance(wrong, reqtt.DecodeError)
    with pytest.raises(reqtt.NotFound):
        await req.gather(topic, timeout=5, raise_errors=True)
    await eventually(lambda: req.client.stats().pending == 0)


async def test_leaving_early_frees_the_place(broker: Any, requester: Factory, lamps: Any, topic: str) -> None:
    await lamps(0, 0.05, None)
    req = await requester(broker)
    async with req.gather(topic, timeout=60) as responses:
        async for response in responses:
            assert response.text == "lamp 0"
            break
    assert req.client.stats().pending == 0
    gathering = req.gather(topic, timeout=60)
    assert req.client.stats().pending == 1
    del gathering
    gc.collect()
    assert req.client.stats().pending == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await req.gather(topic, timeout=60)
    await eventually(lambda: req.client.stats().pending == 0)


async def test_a_redelivery_counts_once_and_twins_count_twice(
    broker: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    first, second = await raw(broker), await raw(broker)
    await first.subscribe(topic)
    await second.subscribe(topic)
    req = await requester(broker)
    gathering = asyncio.ensure_future(_all(req.gather(topic, timeout=0.6)))
    for peer in (first, second):
        request = await peer.receive()
        # Alike, from two who say nothing of themselves.
        await peer.respond(request, "ON")
        # The same responder again.
        for _ in range(2):
            await peer.respond(request, "mine", user_properties=(("rq-id", peer.client_id),))
    assert sorted(r.text for r in await gathering) == ["ON", "ON", "mine", "mine"]


async def _all(gathering: Any) -> Any:
    return await gathering


async def test_our_responders_say_who_they_are_only_to_who_gathers(
    broker: Any, make_proxy: Factory, requester: Factory, lamps: Any, topic: str
) -> None:
    await lamps(0)
    proxy = await make_proxy(broker)
    req = await requester(proxy)
    [response] = await req.gather(topic, max_responses=1)
    assert [name for name, _ in response.user_properties] == ["rq-id"]
    assert proxy.up(PUBLISH, topic)[0].packet.user("rq-gather") == "1"
    assert (await req.request(topic)).user_properties == ()
    assert proxy.up(PUBLISH, topic)[1].packet.user_properties == ()


async def test_the_connection_ends_it(own_loopback: Any, requester: Factory, topic: str) -> None:
    broker = own_loopback()
    req = await requester(broker)
    gathering = req.gather(topic, timeout=30, fail_fast=False)
    await req.close()
    with pytest.raises(reqtt.ClientClosed):
        await gathering
    with pytest.raises(reqtt.ClientClosed):
        req.gather(topic)


@pytest.mark.parametrize(
    "wrong",
    [{"max_responses": 0}, {"stall": 0}, {"stall": float("nan")}, {"stall": 2, "timeout": 2}, {"timeout": 0}],
    ids=str,
)
async def test_a_wrong_rule_raises_in_the_call(
    loopback: Any, requester: Factory, topic: str, wrong: dict[str, Any]
) -> None:
    req = await requester(loopback)
    with pytest.raises(ValueError, match=r"stall|timeout|max_responses"):
        req.gather(topic, **wrong)
    assert req.client.stats().requests == 0


async def test_until_that_raises_ends_it(broker: Any, requester: Factory, lamps: Any, topic: str) -> None:
    await lamps(0)
    req = await requester(broker)

    def until(response: reqtt.Response) -> bool:
        raise LookupError(response.text)

    with pytest.raises(LookupError, match="lamp 0"):
        await req.gather(topic, until=until)
    assert req.client.stats().pending == 0


@pytest.mark.timeout(120)
async def test_a_thousand_responders(
    own_mosquitto: Callable[..., Any], requester: Factory, topic: str
) -> None:
    broker = own_mosquitto(max_inflight_messages=0, max_queued_messages=0)

    @responder(topic)
    async def answer() -> bytes:
        return b"here"

    apps = [reqtt.Responder(broker.url, [answer]) for _ in range(1000)]
    for app in apps:
        await app.__aenter__()
    try:
        req = await requester(broker)
        before = time.monotonic()
        responses = await req.gather(topic, max_responses=1000, timeout=30)
        assert time.monotonic() - before < 5
        assert len({dict(r.user_properties)["rq-id"] for r in responses}) == 1000
    finally:
        for app in apps:
            await app.close()
