"""Asking again, and asking twice."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import RequestError, Retry, responder
from reqtt._core import Call
from support.packets import PUBACK, PUBLISH
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.1, jitter=0)
SOON = Retry(attempts=3, backoff=0.01, jitter=0)


@pytest.fixture
async def peer(broker: Any, raw: Factory, topic: str) -> Any:
    """Subscribed to `topic`, and silent."""
    found = await raw(broker)
    await found.subscribe(topic)
    return found


# --- retry


async def test_a_timeout_is_followed_by_the_same_request_once_more(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(
        req.request(topic, {"a": 1}, timeout=0.2, retry=SOON, user_properties=iter([("k", "v")]))
    )
    first, second = await peer.receive(), await peer.receive()
    await peer.respond(second, "answer")
    assert (await waiting).text == "answer"
    assert first.correlation_data == second.correlation_data
    assert first.properties["response_topic"] == second.properties["response_topic"]
    for copy in (first, second):
        assert copy.payload == b'{"a":1}'
        assert copy.properties["content_type"] == "application/json"
        assert copy.user("k") == "v"
    assert req.client.stats().pending == 0
    assert req.client.stats().timeouts == 0


async def test_a_handler_that_takes_longer_than_an_attempt_runs_once_and_its_answer_counts(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def slow() -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.7)
        return f"run {runs}"

    await serving(broker, slow)
    req = await requester(broker)
    retry = Retry(attempts=5, backoff=0.01)
    assert (await req.request(topic, timeout=0.2, retry=retry)).text == "run 1"
    assert runs == 1


async def test_an_answer_in_the_pause_after_an_attempt_is_taken(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    before = time.monotonic()
    retry = Retry(attempts=2, backoff=5, jitter=0)
    waiting = asyncio.ensure_future(req.request(topic, timeout=0.1, retry=retry))
    request = await peer.receive()
    await asyncio.sleep(0.3)
    await peer.respond(request, "late")
    assert (await waiting).text == "late"
    assert time.monotonic() - before < 2
    assert peer.waiting == 0


async def test_the_last_attempt_ends_it_and_all_of_it_is_bounded(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    before = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        await req.request(topic, timeout=0.2, retry=Retry(attempts=3, backoff=0.1, jitter=0))
    # 3 * 0.2 s and pauses of 0.1 and 0.2 s.
    assert 0.85 < time.monotonic() - before < 1.8
    assert caught.value.phase == "response"
    assert caught.value.timeout == pytest.approx(0.2, abs=0.05)
    assert caught.value.__notes__ == ["asked 3 times"]
    assert [(await peer.receive()).topic for _ in range(3)] == [topic] * 3
    await peer.ping()
    assert peer.waiting == 0
    assert req.client.stats().pending == 0


async def test_a_request_expires_when_all_attempts_are_over(
    broker: Any, make_proxy: Factory, requester: Factory, peer: Any, topic: str
) -> None:
    proxy: Proxy = await make_proxy(broker)
    req = await requester(proxy)
    waiting = asyncio.ensure_future(
        req.request(topic, timeout=0.9, retry=Retry(attempts=3, backoff=0.1, jitter=0))
    )
    await proxy.wait_up(PUBLISH, topic)
    # 3 * 0.9 s, 0.1 s and 0.2 s.
    assert proxy.up(PUBLISH, topic)[0].packet.properties["message_expiry_interval"] == 3
    await peer.respond(await peer.receive(), "")
    await waiting


async def test_an_error_status_is_followed_by_a_request_of_its_own(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    seen: list[bytes | None] = []

    @responder(topic)
    async def busy(request: reqtt.Request) -> str:
        seen.append(request.correlation_data)
        if len(seen) < 3:
            raise RequestError(503, "busy")
        return "done"

    await serving(broker, busy)
    req = await requester(broker)
    assert (await req.request(topic, retry=SOON)).text == "done"
    assert len(set(seen)) == 3


async def test_what_retry_does_not_name_is_raised_at_once(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def missing() -> None:
        nonlocal runs
        runs += 1
        raise RequestError(404, "no such lamp")

    await serving(broker, missing)
    req = await requester(broker)
    with pytest.raises(reqtt.NotFound):
        await req.request(topic, retry=SOON)
    assert runs == 1
    with pytest.raises(reqtt.NotFound) as caught:
        await req.request(topic, retry=Retry(attempts=3, backoff=0.01, on=(404,)))
    assert (runs, caught.value.__notes__) == (4, ["asked 3 times"])
    before = time.monotonic()
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(f"{topic}/nobody", retry=Retry(backoff=5))
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(
            f"{topic}/nobody", retry=Retry(attempts=2, backoff=0.01, on=[reqtt.NoMatchingSubscribers])
        )
    assert time.monotonic() - before < 2


async def test_a_timeout_is_final_where_retry_does_not_name_it(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, timeout=0.2, retry=Retry(attempts=5, on=(503,)))
    await peer.receive()
    await peer.ping()
    assert peer.waiting == 0


async def test_a_request_that_was_lost_with_its_connection_is_asked_again_and_runs_once(
    proxy: Proxy, broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def once(body: bytes) -> bytes:
        nonlocal runs
        runs += 1
        return body

    await serving(broker, once)
    req = await requester(proxy, resend=False, reconnect=QUICK)
    proxy.cut_at("down", PUBACK)
    response = await req.request(topic, b"x", timeout=5, retry=SOON)
    assert response.payload == b"x"
    assert len(proxy.up(PUBLISH, topic)) == 2
    assert runs == 1


async def test_the_requesters_own_retry_is_for_all_that_bring_none(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    runs = 0

    @responder(topic)
    async def busy() -> None:
        nonlocal runs
        runs += 1
        raise RequestError(503, "busy")

    await serving(broker, busy)
    req = await requester(broker, retry=Retry(attempts=2, backoff=0.01))
    for options, expected in (({}, 2), ({"retry": False}, 1), ({"retry": SOON}, 3)):
        runs = 0
        with pytest.raises(reqtt.RemoteUnavailable):
            await req.request(topic, **options)
        assert runs == expected


async def test_correlation_data_of_ones_own_is_kept(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, timeout=0.1, retry=SOON, correlation_data=b"mine")
    assert [(await peer.receive()).correlation_data for _ in range(3)] == [b"mine"] * 3


async def test_a_response_type_goes_through(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    @responder(topic)
    async def answer(body: list[int]) -> list[int]:
        return body[::-1]

    await serving(broker, answer)
    req = await requester(broker)
    assert await req.request(topic, [1, 2], response_type=list[int], retry=SOON, hedge=5) == [2, 1]
    with pytest.raises(reqtt.DecodeError):
        await req.request(topic, [1, 2], response_type=list[str], retry=SOON)
    assert (await asyncio.to_thread(req.request_sync, topic, [3], retry=SOON, hedge=5)).json() == [3]


@pytest.mark.parametrize("when", ["attempt", "pause"])
@pytest.mark.parametrize("options", [{"retry": Retry(backoff=5)}, {"hedge": 0.05}], ids=["retry", "hedge"])
async def test_cancelling_it_leaves_nothing(
    broker: Any, requester: Factory, peer: Any, topic: str, when: str, options: dict[str, Any]
) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, timeout=0.3 if when == "pause" else 5, **options))
    await peer.receive()
    if "hedge" in options:
        await peer.receive()
    elif when == "pause":
        await asyncio.sleep(0.4)
    assert req.client.stats().pending > 0
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert req.client.stats().pending == 0


async def test_it_starts_in_the_call_and_letting_go_of_it_gives_it_up(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    call = req.request(topic, retry=SOON, hedge=1)
    assert isinstance(call, Call)
    await peer.receive()
    assert req.client.stats().pending == 1
    del call
    gc.collect()
    assert req.client.stats().pending == 0
    call = req.request(topic, retry=SOON)
    call.close()
    assert req.client.stats().pending == 0
    with pytest.raises(RuntimeError):
        await call


async def test_closing_the_requester_ends_it(broker: Any, requester: Factory, peer: Any, topic: str) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, retry=Retry(on=[Exception], backoff=5), hedge=0.01))
    await peer.receive()
    await peer.receive()
    before = time.monotonic()
    await req.close()
    with pytest.raises(reqtt.ClientClosed):
        await waiting
    assert time.monotonic() - before < 2
    with pytest.raises(reqtt.ClientClosed):
        req.request(topic, retry=SOON)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.5}, TypeError),
        ({"attempts": True}, TypeError),
        ({"backoff": -1}, ValueError),
        ({"backoff": float("nan")}, ValueError),
        ({"backoff": "1"}, TypeError),
        ({"max_backoff": float("inf")}, ValueError),
        ({"backoff": 2, "max_backoff": 1}, ValueError),
        ({"jitter": 1.5}, ValueError),
        ({"on": (200,)}, ValueError),
        ({"on": ("503",)}, TypeError),
        ({"on": reqtt.ResponseTimeout}, TypeError),
        ({"on": 503}, TypeError),
        ({"on": (asyncio.CancelledError,)}, TypeError),
    ],
    ids=str,
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Retry(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retry": 3}, TypeError),
        ({"retry": True}, TypeError),
        ({"hedge": 0}, ValueError),
        ({"hedge": float("nan")}, ValueError),
        ({"hedge": True}, TypeError),
        ({"hedge": "p99"}, TypeError),
        ({"hedge": 1, "correlation_data": b"mine"}, ValueError),
        ({"retry": SOON, "timeout": 0}, ValueError),
        ({"retry": SOON, "qos": 3}, ValueError),
        ({"retry": SOON, "user_properties": 5}, TypeError),
    ],
    ids=str,
)
async def test_a_wrong_argument_raises_in_the_call(
    loopback: Any, requester: Factory, topic: str, options: dict[str, Any], error: type[Exception]
) -> None:
    req = await requester(loopback)
    with pytest.raises(error):
        req.request(topic, **options)
    assert req.client.stats().requests == 0
    with pytest.raises(TypeError, match="retry"):
        reqtt.Requester(loopback.url, retry=3)  # type: ignore[arg-type]


async def test_a_hedge_needs_correlation_data(loopback: Any, requester: Factory, topic: str) -> None:
    req = await requester(loopback, correlation="topic")
    with pytest.raises(ValueError, match="correlation"):
        req.request(topic, hedge=1)


def test_pauses_double_up_to_their_maximum_and_vary() -> None:
    pauses = list(Retry(attempts=6, backoff=1, max_backoff=5, jitter=0)._pauses())
    assert pauses == [1, 2, 4, 5, 5, 0]
    varied = [next(Retry(backoff=1, jitter=0.5)._pauses()) for _ in range(100)]
    assert 0.5 <= min(varied) < max(varied) <= 1


# --- hedge


@pytest.fixture
async def group(broker: Any, raw: Factory, topic: str) -> list[Any]:
    """Two members of a shared group."""
    members = [await raw(broker), await raw(broker)]
    for member in members:
        await member.subscribe(f"$share/lamps/{topic}")
    return members


async def _first(members: list[Any]) -> tuple[Any, Any, Any]:
    """Who got the request, the request, and the other member."""
    await eventually(lambda: any(member.waiting for member in members))
    one, other = members if members[0].waiting else members[::-1]
    return one, await one.receive(), other


async def test_a_hedge_reaches_another_member_of_the_group_and_the_first_answer_counts(
    broker: Any, requester: Factory, group: list[Any], topic: str
) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, "x", hedge=0.1, timeout=5))
    slow, first, other = await _first(group)
    second = await other.receive()
    assert (first.payload, first.correlation_data) != (second.payload, second.correlation_data)
    assert first.payload == second.payload
    await other.respond(second, "quick")
    assert (await waiting).text == "quick"
    assert req.client.stats().pending == 0
    await slow.respond(first, "late")
    await eventually(lambda: req.client.stats().late == 1)
    assert req.client.stats().timeouts == 0


async def test_the_first_copy_may_win_after_all(
    broker: Any, requester: Factory, group: list[Any], topic: str
) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, hedge=0.1, timeout=5))
    one, first, other = await _first(group)
    second = await other.receive()
    await one.respond(first, "first")
    assert (await waiting).text == "first"
    await other.respond(second, "second")
    await eventually(lambda: req.client.stats().late == 1)


async def test_a_quick_answer_needs_no_second_copy(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    for hedge in (0.5, 50):
        waiting = asyncio.ensure_future(req.request(topic, hedge=hedge, timeout=5))
        await peer.respond(await peer.receive(), "quick")
        assert (await waiting).text == "quick"
    await peer.ping()
    assert peer.waiting == 0


@pytest.mark.parametrize("status", [503, 404])
async def test_a_copy_that_is_turned_away_does_not_win(
    broker: Any, requester: Factory, group: list[Any], topic: str, status: int
) -> None:
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, hedge=0.1, timeout=5))
    one, first, other = await _first(group)
    second = await other.receive()
    await other.respond(second, "", user_properties=(("__stat", str(status)),))
    if status == 404:
        # This is an answer.
        with pytest.raises(reqtt.NotFound):
            await waiting
        return
    await asyncio.sleep(0.05)
    await one.respond(first, "answer")
    assert (await waiting).text == "answer"


async def test_both_copies_share_one_timeout(broker: Any, requester: Factory, peer: Any, topic: str) -> None:
    req = await requester(broker)
    before = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, hedge=0.2, timeout=0.5)
    assert 0.45 < time.monotonic() - before < 1.2
    assert req.client.stats().pending == 0


async def test_after_twenty_answers_the_slow_one_gets_a_second_copy(
    broker: Any, requester: Factory, peer: Any, topic: str
) -> None:
    req = await requester(broker)
    for _ in range(20):
        waiting = asyncio.ensure_future(req.request(topic, hedge="p95", timeout=5))
        await peer.respond(await peer.receive(), "")
        await waiting
    assert 0 < req._latencies.p95(topic) < 1
    assert req._latencies.p95("another") is None
    waiting = asyncio.ensure_future(req.request(topic, hedge="p95", timeout=5))
    await peer.receive()
    second = await peer.receive(timeout=2)
    await peer.respond(second, "second")
    assert (await waiting).text == "second"


async def test_each_attempt_has_its_hedge(broker: Any, requester: Factory, peer: Any, topic: str) -> None:
    req = await requester(broker)
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, hedge=0.1, timeout=0.3, retry=Retry(attempts=2, backoff=0.01))
    asked = [(await peer.receive()).correlation_data for _ in range(4)]
    assert asked[0] == asked[2]
    assert len(set(asked)) == 3
    assert req.client.stats().pending == 0


def test_latencies_are_bounded_and_the_latest() -> None:
    from reqtt.retry import Latencies

    latencies = Latencies()
    for number in range(1000):
        latencies.add(f"topic {number}", 1)
    assert len(latencies._topics) == 256
    for number in range(1000):
        latencies.add("one", number)
    assert len(latencies._topics) == 256
    assert latencies.p95("one") == pytest.approx(872 + 0.95 * 128, abs=1.5)
