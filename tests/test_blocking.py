"""reqtt.blocking: the same as the rest, in threads that have no event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest

import reqtt
from reqtt import RequestError, blocking, responder
from support.gate import Gate, ScramDoor
from support.waiting import eventually_blocking, run_script

Serve = Callable[..., None]


@contextlib.contextmanager
def on_a_loop(url: str, *handlers: Any) -> Iterator[reqtt.Responder]:
    """A `reqtt.Responder` on a loop in a thread of its own."""
    app, ready, over = reqtt.Responder(url, list(handlers)), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with app:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        assert ready.wait(10)
        yield app
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture
def serve(broker: Any) -> Iterator[Serve]:
    """`serve(handler, ...)`: answered on a loop elsewhere."""
    with contextlib.ExitStack() as stack:
        yield lambda *handlers: stack.enter_context(on_a_loop(broker.url, *handlers)) and None


@pytest.fixture
def req(broker: Any) -> Iterator[blocking.Requester]:
    with blocking.Requester(broker.url) as req:
        yield req


def echo_on(topic: str) -> Any:
    @responder(topic, concurrency=64)
    async def echo(body: bytes) -> bytes:
        return body

    return echo


# --- requests ---------------------------------------------------------------------------------------


def test_a_request_gives_its_response(broker: Any, serve: Serve, topic: str) -> None:
    serve(echo_on(topic))
    with blocking.Requester(broker.url, client_id=f"panel-{os.getpid()}") as req:
        response = req.request(topic, "ON", timeout=5)
        assert (response.text, response.status) == ("ON", 200)
        assert 0 < response.latency < 5
        assert req.request(topic, [1, 2], response_type=list[int], timeout=5) == [1, 2]
        assert (req.client.client_id, req.client.connected) == (f"panel-{os.getpid()}", True)
        assert req.client.connack is not None
        stats = req.client.stats()
        assert (stats.requests, stats.responses, stats.pending) == (2, 2, 0)
    assert not req.client.connected
    assert req.client.stats().responses == 2


def test_a_remote_error_is_raised(serve: Serve, req: blocking.Requester, topic: str) -> None:
    @responder(topic)
    async def refuse() -> None:
        raise RequestError(404, "no such lamp", data={"lamp": 7})

    serve(refuse)
    with pytest.raises(reqtt.NotFound, match="no such lamp") as caught:
        req.request(topic, timeout=5)
    assert caught.value.data == {"lamp": 7}


def test_a_response_of_another_type_is_a_decode_error(
    serve: Serve, req: blocking.Requester, topic: str
) -> None:
    serve(echo_on(topic))
    with pytest.raises(reqtt.DecodeError):
        req.request(topic, "{", response_type=dict[str, int], timeout=5)


def test_nobody_there_is_known_at_once(req: blocking.Requester, topic: str) -> None:
    before = time.monotonic()
    with pytest.raises(reqtt.NoMatchingSubscribers):
        req.request(topic, timeout=5)
    assert time.monotonic() - before < 2


def test_a_timeout_ends_the_wait_and_frees_the_slot(req: blocking.Requester, topic: str) -> None:
    before = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout) as caught:
        req.request(topic, timeout=0.3, fail_fast=False)
    assert 0.29 < time.monotonic() - before < 1
    assert caught.value.phase == "response"
    assert (req.client.stats().pending, req.client.stats().timeouts) == (0, 1)


def test_a_request_is_asked_again(broker: Any, serve: Serve, topic: str) -> None:
    asked: list[bytes | None] = []

    @responder(f"{topic}/busy")
    async def busy(request: reqtt.Request) -> str:
        asked.append(request.correlation_data)
        if len(asked) < 3:
            raise RequestError(503, "busy")
        return "done"

    serve(busy)
    retry = reqtt.Retry(attempts=3, backoff=0.01)
    with blocking.Requester(broker.url, retry=retry) as req:
        assert req.request(f"{topic}/busy", timeout=5).text == "done"
        # Errors get other Correlation Data, or the responder would answer as before.
        assert len(set(asked)) == 3
        asked.clear()
        with pytest.raises(reqtt.RemoteUnavailable) as caught:
            req.request(f"{topic}/busy", timeout=5, retry=reqtt.Retry(attempts=2, backoff=0.01))
        assert caught.value.__notes__ == ["asked 2 times"]
        asked.clear()
        with pytest.raises(reqtt.RemoteUnavailable):
            req.request(f"{topic}/busy", timeout=5, retry=False)
        assert len(asked) == 1


def test_an_attempt_that_nobody_answers_is_followed_by_one_with_the_same_correlation_data(
    broker: Any, req: blocking.Requester, topic: str
) -> None:
    with blocking.Client(broker.url) as peer, peer.subscribe(topic) as requests:
        retry = reqtt.Retry(attempts=2, backoff=0.01)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(req.request, topic, "x", timeout=0.3, retry=retry)
            first, second = requests.get(5), requests.get(5)
            assert first.correlation_data == second.correlation_data
            assert second.response_topic is not None
            peer.publish(second.response_topic, "late", correlation_data=second.correlation_data)
            assert asking.result(5).text == "late"
        with pytest.raises(reqtt.ResponseTimeout, match="response") as caught:
            req.request(topic, "x", timeout=0.05, retry=retry)
        assert caught.value.__notes__ == ["asked 2 times"]
    assert req.client.stats().pending == 0


@pytest.mark.parametrize(
    ("topic_name", "options", "error"),
    [
        ("a/#", {}, reqtt.InvalidTopic),
        ("a", {"timeout": 0}, ValueError),
        ("a", {"qos": 3}, ValueError),
        ("a", {"response_topic": "a/+"}, reqtt.InvalidTopic),
        ("a", {"time_out": 1}, TypeError),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(
    req: blocking.Requester, topic_name: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        req.request(topic_name, **options)
    assert req.client.stats().requests == 0


def test_wrong_options_are_told_when_a_requester_is_made() -> None:
    with pytest.raises(ValueError, match="correlation"):
        blocking.Requester(correlation="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Matchers need an event loop.*reqtt\.Requester"):
        blocking.Requester(correlation=reqtt.correlate.tasmota())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"reqtt\.blocking\.Client"):
        blocking.Requester(reqtt.Client())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keep_alive"):
        blocking.Requester(blocking.Client(), keep_alive=3)
    with pytest.raises(ValueError, match="keep_alive"):
        blocking.Client(keep_alive=100_000)


def test_requests_of_many_threads_are_not_mixed_up(
    broker: Any, serve: Serve, req: blocking.Requester, topic: str
) -> None:
    serve(echo_on(topic))

    def ask(thread: int) -> int:
        for number in range(500):
            asked = f"{thread}/{number}"
            assert req.request(topic, asked, timeout=20).text == asked
        return 500

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 4000
    stats = req.client.stats()
    assert (stats.responses, stats.pending, stats.unmatched) == (4000, 0, 0)


def test_another_thread_computes_while_a_request_waits(req: blocking.Requester, topic: str) -> None:
    over = threading.Event()
    done = 0

    def compute() -> None:
        nonlocal done
        while not over.is_set():
            sum(range(1000))
            done += 1

    thread = threading.Thread(target=compute)
    thread.start()
    before = done
    time.sleep(0.5)
    beside_a_sleep, before = done - before, done
    with pytest.raises(reqtt.ResponseTimeout):
        req.request(topic, timeout=0.5, fail_fast=False)
    beside_a_request = done - before
    over.set()
    thread.join()
    # A thread that waited with the interpreter would leave it nothing.
    assert beside_a_request > beside_a_sleep / 4


def test_a_close_ends_the_requests_of_all_threads(broker: Any, topic: str) -> None:
    req = blocking.Requester(broker.url).__enter__()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(req.request, topic, timeout=20, fail_fast=False) for _ in range(4)]
        eventually_blocking(lambda: req.client.stats().pending == 4)
        before = time.monotonic()
        req.close()
        for request in waiting:
            with pytest.raises(reqtt.ClientClosed):
                request.result(5)
        assert time.monotonic() - before < 2
    with pytest.raises(reqtt.ClientClosed):
        req.request(topic)
    req.close()


def test_a_close_that_drains_waits_for_requests(
    broker: Any, serve: Serve, req: blocking.Requester, topic: str
) -> None:
    asked = threading.Event()

    @responder(topic)
    async def slow() -> str:
        asked.set()
        await asyncio.sleep(0.3)
        return "done"

    serve(slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(req.request, topic, timeout=20)
        assert asked.wait(5)
        req.close(drain=True)
        assert waiting.result(5).text == "done"


def test_before_it_is_opened_a_call_says_what_to_do(topic: str) -> None:
    req = blocking.Requester()
    with pytest.raises(reqtt.ReqttError, match="not open"):
        req.request(topic)
    with pytest.raises(reqtt.ReqttError, match="not connected"):
        blocking.Client().publish(topic)
    with pytest.raises(RuntimeError, match=r"with client\.subscribe"):
        blocking.Client().subscribe(topic).get()
    req.close()


def test_a_connect_that_fails_can_be_tried_again(loopback: Any) -> None:
    loopback.loopback.refuse_connect(0x87)
    client = blocking.Client(loopback.url)
    with pytest.raises(reqtt.ConnectError) as caught:
        client.connect()
    assert caught.value.reason_code == 0x87
    loopback.loopback.refuse_connect(None)
    with client:
        assert client.connected
    with pytest.raises(reqtt.ClientClosed):
        client.connect()


def test_a_lost_connection_is_made_again_and_the_request_answered(loopback: Any, topic: str) -> None:
    with blocking.Client(loopback.url) as client, blocking.Requester(client) as req:
        events = client.events()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(req.request, topic, "ON", timeout=20, fail_fast=False)
            eventually_blocking(lambda: client.stats().pending == 1 and client.stats().in_flight == 0)
            loopback.loopback.cut()
            assert isinstance(events.get(5), reqtt.Disconnected)
            assert isinstance(events.get(5), reqtt.Reconnecting)
            assert isinstance(events.get(5), reqtt.Connected)
            assert client.stats().reconnects == 1
            with pytest.raises(TimeoutError, match="no event"):
                events.get(0.05)
            client.close()
            with pytest.raises(reqtt.ClientClosed):
                waiting.result(5)
        assert list(events) == []


def test_when_there_will_be_no_other_connection_calls_say_so(own_loopback: Any, topic: str) -> None:
    broker = own_loopback()
    with blocking.Requester(broker.url, reconnect=None) as req:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(req.request, topic, timeout=20, fail_fast=False)
            eventually_blocking(lambda: req.client.stats().pending == 1)
            broker.loopback.stop()
            with pytest.raises(reqtt.ConnectionLost):
                waiting.result(5)
        with pytest.raises(reqtt.ConnectionLost):
            req.request(topic)


def test_credentials_are_asked_for_before_each_connect(own_loopback: Any, topic: str) -> None:
    broker = own_loopback(username="panel", password="secret")
    asked: list[str] = []

    def password() -> str:
        asked.append(threading.current_thread().name)
        return "secret"

    async def username() -> str:
        return "panel"

    with blocking.Client(broker.url, username=username, password=password) as client:
        events = client.events()
        broker.loopback.cut()
        while not isinstance(events.get(5), reqtt.Connected):
            pass
        assert len(asked) == 2
        assert "MainThread" not in asked

    def broken() -> str:
        raise KeyError("none")

    with pytest.raises(reqtt.ConnectError, match="password= raised KeyError"):
        blocking.Client(broker.url, username="panel", password=broken).connect()


async def test_an_authenticator_proves_who_it_is_and_again(session_mosquitto: Any, topic: str) -> None:
    pytest.importorskip("scramp")

    def use(url: str) -> None:
        scram = reqtt.Scram("panel", "secret")
        with blocking.Client(url, authenticator=scram) as client:
            client.reauthenticate()
            assert client.publish(topic).reason_code == 0x10
        with pytest.raises(reqtt.ConnectError):
            blocking.Client(url, authenticator=reqtt.Scram("panel", "wrong")).connect()
        with pytest.raises(ValueError, match="authenticator="):
            blocking.Client(url).reauthenticate()

    async with Gate(ScramDoor({"panel": "secret"}), session_mosquitto.port) as gate:
        await asyncio.to_thread(use, gate.url)


# --- event loops ------------------------------------------------------------------------------------


async def test_on_a_loops_thread_a_call_is_refused(loopback: Any, topic: str) -> None:
    def opened() -> tuple[blocking.Requester, blocking.Subscription]:
        req = blocking.Requester(loopback.url).__enter__()
        return req, req.client.subscribe(topic).__enter__()

    req, messages = await asyncio.to_thread(opened)
    calls: list[Callable[[], Any]] = [
        lambda: req.request(topic, timeout=1),
        lambda: req.gather(topic, timeout=1),
        lambda: req.client.publish(topic),
        lambda: messages.get(1),
        lambda: req.client.subscribe(topic).__enter__(),
        blocking.Client(loopback.url).connect,
        blocking.Responder(loopback.url, [echo_in_thread_on(topic)]).__enter__,
        req.client.close,
        req.close,
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"would stop the event loop.*to_thread"):
            call()
    assert req.client.connected
    assert (await asyncio.to_thread(req.client.publish, topic)).reason_code == 0
    await asyncio.to_thread(req.close)


async def test_in_an_async_handler_a_call_is_refused(
    loopback: Any, requester: Any, serving: Any, topic: str
) -> None:
    outer = await asyncio.to_thread(blocking.Requester(loopback.url).__enter__)

    @responder(topic)
    async def handler() -> str:
        with pytest.raises(RuntimeError, match="would stop the event loop"):
            outer.request(topic, timeout=1)
        return "refused"

    await serving(loopback, handler)
    req = await requester(loopback)
    assert (await req.request(topic, timeout=5)).text == "refused"
    await asyncio.to_thread(outer.close)


async def test_a_plain_handler_of_a_loops_responder_may_call(
    loopback: Any, requester: Any, serving: Any, topic: str
) -> None:
    with contextlib.ExitStack() as stack:
        outer = await asyncio.to_thread(stack.enter_context, blocking.Requester(loopback.url))

        @responder(f"{topic}/outer")
        def handler(body: str) -> str:
            return outer.request(f"{topic}/inner", body, timeout=5).text

        @responder(f"{topic}/inner")
        async def inner(body: str) -> str:
            return body.upper()

        await serving(loopback, handler, inner)
        req = await requester(loopback)
        assert (await req.request(f"{topic}/outer", "on", timeout=5)).text == "ON"
        await asyncio.to_thread(stack.pop_all().close)


async def test_a_cell_of_a_notebook_may_call(
    loopback: Any, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel: Any = types.ModuleType("ipykernel.kernelapp")
    kernel.IPKernelApp = type("IPKernelApp", (), {"initialized": staticmethod(lambda: True)})
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    with on_a_loop(loopback.url, echo_on(topic)), blocking.Requester(loopback.url) as req:
        assert req.request(topic, "ON", timeout=5).text == "ON"
    kernel.IPKernelApp.initialized = staticmethod(lambda: False)
    with pytest.raises(RuntimeError, match="would stop the event loop"):
        blocking.Client(loopback.url).connect()


# --- gather, publish, subscribe ---------------------------------------------------------------------


@pytest.fixture
def lamps(serve: Serve, topic: str) -> Callable[..., None]:
    """`lamps(0, 0.1)`: responders that answer after so many seconds."""

    def start(*delays: float) -> None:
        for number, delay in enumerate(delays):

            @responder(topic)
            async def lamp(delay: float = delay, number: int = number, body: bytes = b"") -> str:
                await asyncio.sleep(delay)
                return f"lamp {number}"

            serve(lamp)

    return start


def test_gather_gives_responses_as_they_come(req: blocking.Requester, serve: Serve, topic: str) -> None:
    seen = threading.Event()

    @responder(topic)
    async def quick() -> str:
        return "quick"

    @responder(topic)
    async def slow() -> str:
        await asyncio.to_thread(seen.wait, 10)
        return "slow"

    serve(quick)
    serve(slow)
    responses = req.gather(topic, max_responses=2, timeout=10)
    first = next(responses)
    assert isinstance(first, reqtt.Response)
    assert first.text == "quick"
    seen.set()
    assert [item.text for item in responses if isinstance(item, reqtt.Response)] == ["slow"]
    assert req.client.stats().pending == 0


def test_gather_ends_by_stall_timeout_and_until(req: blocking.Requester, lamps: Any, topic: str) -> None:
    lamps(0, 0, 5)
    before = time.monotonic()
    assert len(list(req.gather(topic, timeout=20, stall=0.5))) == 2
    assert 0.5 < time.monotonic() - before < 4.5
    assert len(list(req.gather(topic, timeout=0.8))) == 2
    seen = list(req.gather(topic, timeout=20, until=lambda response: response.text == "lamp 0"))
    assert isinstance(seen[-1], reqtt.Response)
    assert seen[-1].text == "lamp 0"
    with pytest.raises(ValueError, match="stall"):
        req.gather(topic, timeout=1, stall=2)


def test_gather_ends_early_and_frees_its_place(req: blocking.Requester, lamps: Any, topic: str) -> None:
    lamps(0, 0, 5)
    with req.gather(topic, timeout=20) as responses:
        next(responses)
        assert req.client.stats().pending == 1
    assert req.client.stats().pending == 0
    responses = req.gather(topic, timeout=20)
    next(responses)
    del responses
    assert req.client.stats().pending == 0


def test_gather_of_nobody_is_empty(req: blocking.Requester, topic: str) -> None:
    before = time.monotonic()
    assert list(req.gather(topic, timeout=5)) == []
    assert time.monotonic() - before < 2


def test_gather_decodes_and_raises_errors_if_asked(req: blocking.Requester, serve: Serve, topic: str) -> None:
    @responder(topic)
    async def good() -> dict[str, int]:
        return {"watts": 5}

    @responder(topic)
    async def bad() -> None:
        raise RequestError(404, "no such lamp")

    serve(good)
    serve(bad)
    got = list(req.gather(topic, response_type=dict[str, int], max_responses=2, timeout=5))
    assert {"watts": 5} in got
    assert [item for item in got if isinstance(item, reqtt.NotFound)]
    with pytest.raises(reqtt.NotFound):
        list(req.gather(topic, max_responses=2, timeout=5, raise_errors=True))


def test_a_stream_gives_items_in_order_and_its_error(
    req: blocking.Requester, serve: Serve, topic: str
) -> None:
    @responder(f"{topic}/count")
    async def count(body: int) -> AsyncGenerator[int]:
        for number in range(body):
            yield number
        if body == 2:
            raise RequestError(409, "no more")

    serve(count)
    with req.stream(f"{topic}/count", 1_000, response_type=int, timeout=5) as items:
        assert list(items) == list(range(1_000))
    items = req.stream(f"{topic}/count", 2, response_type=int, timeout=5)
    assert (next(items), next(items)) == (0, 1)
    with pytest.raises(reqtt.RemoteError, match="no more"):
        next(items)
    assert list(req.stream(f"{topic}/count", 0, timeout=5)) == []
    with pytest.raises(reqtt.NoMatchingSubscribers):
        next(req.stream(f"{topic}/nobody", timeout=5))


def test_leaving_a_stream_closes_its_generator(req: blocking.Requester, serve: Serve, topic: str) -> None:
    closed = threading.Event()

    @responder(topic)
    async def forever() -> AsyncGenerator[str]:
        try:
            while True:
                yield "tick"
        finally:
            closed.set()

    serve(forever)
    for item in req.stream(topic, timeout=5):
        assert item.text == "tick"
        break
    assert closed.wait(1)
    eventually_blocking(lambda: req.client.stats().pending == 0)


def test_a_stream_that_falls_silent_times_out(req: blocking.Requester, serve: Serve, topic: str) -> None:
    @responder(topic)
    async def once(body: int) -> AsyncGenerator[str]:
        if body:
            yield "first"
        await asyncio.Event().wait()

    serve(once)
    items = req.stream(topic, 1, timeout=5, idle_timeout=0.05)
    assert next(items).text == "first"
    with pytest.raises(reqtt.ResponseTimeout, match="no item after item 1"):
        next(items)
    with pytest.raises(reqtt.ResponseTimeout, match=r"no item .* within 0.2 s"):
        next(req.stream(topic, 0, timeout=0.2))


def test_publish_gives_the_puback(broker: Any, topic: str) -> None:
    with blocking.Client(broker.url) as client:
        assert client.publish(topic, "x").reason_code == 0x10
        with client.subscribe(topic):
            assert client.publish(topic, "x", qos=2).reason_code == 0
        assert client.publish(topic, "x", qos=0).reason_code == 0
        with pytest.raises(reqtt.InvalidTopic):
            client.publish("a/+")


def test_a_refusal_is_raised(denying_broker: Any) -> None:
    broker = denying_broker(publish="denied/#", subscribe="closed/#")
    with blocking.Client(broker.url) as client:
        with pytest.raises(reqtt.PublishError) as caught:
            client.publish("denied/a")
        assert caught.value.reason_code == 0x87
        if broker.kind == "loopback":
            with pytest.raises(reqtt.SubscribeError):
                client.subscribe("closed/a").__enter__()
        assert client.connected


def test_a_subscription_gives_messages_until_it_is_closed(broker: Any, topic: str) -> None:
    with blocking.Client(broker.url) as client:
        with client.subscribe(f"{topic}/+") as messages:
            for number in range(50):
                client.publish(f"{topic}/{number}", str(number), qos=number % 3)
            assert [messages.get(5).text for _ in range(50)] == [str(number) for number in range(50)]
            with pytest.raises(TimeoutError, match=r"no message within 0\.05 s"):
                messages.get(0.05)
        assert list(messages) == []
        with pytest.raises(reqtt.ClientClosed, match="subscription is closed"):
            messages.get(1)
        assert client.publish(f"{topic}/0").reason_code == 0x10


def test_a_close_of_the_client_ends_a_waiting_iteration(broker: Any, topic: str) -> None:
    client = blocking.Client(broker.url)
    client.connect()
    messages = client.subscribe(topic).__enter__()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [message.text for message in messages])
        client.publish(topic, "last")
        client.close()
        assert waiting.result(5) == ["last"]


def test_messages_beyond_the_queue_are_held_back_or_dropped(broker: Any, topic: str) -> None:
    with blocking.Client(broker.url) as client, blocking.Client(broker.url) as other:
        with client.subscribe(topic, max_queue=5) as messages:
            for number in range(30):
                other.publish(topic, str(number), qos=1)
            assert [messages.get(5).text for _ in range(30)] == [str(number) for number in range(30)]
            assert messages.dropped == 0
        with client.subscribe(topic, max_queue=5, qos=0) as messages:
            for number in range(30):
                other.publish(topic, str(number), qos=1)
            eventually_blocking(lambda: messages.dropped == 25)
            assert [messages.get(5).text for _ in range(5)] == [str(number) for number in range(25, 30)]


# --- responders -------------------------------------------------------------------------------------


def echo_in_thread_on(topic: str) -> Any:
    @responder(topic)
    def echo(body: bytes) -> bytes:
        return body

    return echo


def test_handlers_run_in_worker_threads(broker: Any, req: blocking.Requester, topic: str) -> None:
    @responder(f"{topic}/{{device}}/power")
    def power(device: str, body: str, request: reqtt.Request, client: blocking.Client) -> dict[str, Any]:
        assert request.client is client
        return {"device": device, "body": body, "thread": threading.current_thread().name}

    with blocking.Responder(broker.url, [power]):
        answer = req.request(f"{topic}/lamp/power", "ON", timeout=5).json()
    assert (answer["device"], answer["body"]) == ("lamp", "ON")
    assert answer["thread"].startswith("reqtt-worker")
    eventually_blocking(lambda: not [t for t in threading.enumerate() if t.name.startswith("reqtt-worker")])


def test_many_threads_ask_a_responder_of_many_threads(
    broker: Any, req: blocking.Requester, topic: str
) -> None:
    def ask(thread: int) -> None:
        for number in range(100):
            asked = f"{thread}/{number}"
            assert req.request(topic, asked, timeout=20).text == asked

    with blocking.Responder(broker.url, [echo_in_thread_on(topic)]), ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_no_more_run_than_concurrency_says(broker: Any, req: blocking.Requester, topic: str) -> None:
    lock, running, most = threading.Lock(), 0, 0

    @responder(topic, concurrency=2)
    def handler() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    with blocking.Responder(broker.url, [handler]), ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: req.request(topic, timeout=10), range(6)))
    assert most == 2


def test_what_a_handler_raises_is_the_answer(broker: Any, req: blocking.Requester, topic: str) -> None:
    @responder(topic)
    def handler(body: str) -> str:
        match body:
            case "refuse":
                raise RequestError(404, "no such lamp")
            case "cancel":
                raise asyncio.CancelledError
            case "stop":
                raise StopIteration
            case _:
                raise KeyError("inner detail")

    with blocking.Responder(broker.url, [handler]):
        with pytest.raises(reqtt.NotFound, match="no such lamp"):
            req.request(topic, "refuse", timeout=5)
        for wrong in ("cancel", "stop", "else"):
            with pytest.raises(reqtt.RemoteError) as caught:
                req.request(topic, wrong, timeout=5)
            assert (caught.value.status, "detail" in str(caught.value)) == (500, False)


def test_a_handler_that_is_late_is_answered_for_it(broker: Any, req: blocking.Requester, topic: str) -> None:
    over = threading.Event()

    @responder(topic, timeout=0.2)
    def handler(body: str) -> str:
        if body == "slow":
            over.wait(5)
        return body

    with blocking.Responder(broker.url, [handler]) as app:
        with pytest.raises(reqtt.RemoteTimeout, match=r"0\.2 s"):
            req.request(topic, "slow", timeout=5)
        assert req.request(topic, "quick", timeout=5).text == "quick"
        over.set()
        assert req.request(topic, "quick", timeout=5).text == "quick"
        assert app.client.stats().responses_sent == 3


def test_a_handler_makes_requests_on_its_own_client(broker: Any, req: blocking.Requester, topic: str) -> None:
    with blocking.Client(broker.url) as client, blocking.Requester(client) as inner:

        @responder(f"{topic}/outer", concurrency=2)
        def outer(body: str) -> str:
            return inner.request(f"{topic}/inner", body, timeout=5).text

        @responder(f"{topic}/inner")
        def shout(body: str) -> str:
            return body.upper()

        with blocking.Responder(client, [outer, shout]), ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda n: req.request(f"{topic}/outer", f"on {n}", timeout=10).text, range(40))
            assert list(answers) == [f"ON {n}" for n in range(40)]


def test_a_duplicate_runs_once(loopback: Any, topic: str) -> None:
    ran: list[str] = []

    @responder(topic)
    def handler(body: str) -> str:
        ran.append(body)
        return body

    with blocking.Responder(loopback.url, [handler]) as app, blocking.Requester(loopback.url) as req:
        loopback.loopback.duplicate(True)
        assert req.request(topic, "ON", timeout=5).text == "ON"
        eventually_blocking(lambda: app.client.stats().duplicates_suppressed == 1)
        assert ran == ["ON"]


def test_a_duplicate_runs_once_even_after_a_restart(loopback: Any, topic: str, tmp_path: Any) -> None:
    ran: list[str] = []

    @responder(topic, deduplicate="disk")
    def handler(body: str) -> str:
        ran.append(body)
        return "done"

    with blocking.Requester(loopback.url) as req:
        for _ in range(2):
            with blocking.Responder(loopback.url, [handler], deduplicate_file=tmp_path / "answers"):
                options: Any = {"correlation_data": b"one", "response_topic": f"{topic}/answer"}
                assert req.request(topic, "ON", timeout=5, **options).text == "done"
    assert ran == ["ON"]


def test_middleware_wraps_handlers(broker: Any, req: blocking.Requester, topic: str) -> None:
    seen: list[str] = []

    def outer(request: reqtt.Request, call_next: Any) -> reqtt.Response:
        seen.append("outer")
        response: reqtt.Response = call_next(request)
        return reqtt.Response(response.text + "!")

    def inner(request: reqtt.Request, call_next: Any) -> reqtt.Response:
        seen.append("inner")
        response: reqtt.Response = call_next(request)
        return response

    with blocking.Responder(broker.url, [echo_in_thread_on(topic)], middleware=[outer, inner]):
        assert req.request(topic, "ON", timeout=5).text == "ON!"
    assert seen == ["outer", "inner"]


def test_what_needs_a_loop_is_refused_when_a_responder_is_made(topic: str) -> None:
    with pytest.raises(TypeError, match=r"async def.*reqtt\.Responder"):
        blocking.Responder("mqtt://localhost", [echo_on(topic)])

    def who() -> str:
        return "nobody"

    @responder(topic)
    def dependent(user: Annotated[str, reqtt.Depends(who)]) -> str:
        return user

    with pytest.raises(TypeError, match="dependencies and lifespans"):
        blocking.Responder("mqtt://localhost", [dependent])

    async def layer(request: reqtt.Request, call_next: Any) -> reqtt.Response:
        response: reqtt.Response = await call_next(request)
        return response

    with pytest.raises(TypeError, match="middleware must be"):
        blocking.Responder(
            "mqtt://localhost",
            [echo_in_thread_on(topic)],
            middleware=[layer],  # type: ignore[list-item]
        )


def test_a_handler_that_returns_a_coroutine_is_an_error(
    broker: Any, req: blocking.Requester, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def later() -> str:
        return "never"

    @responder(topic)
    def handler() -> Any:
        return later()

    with blocking.Responder(broker.url, [handler]), pytest.raises(reqtt.RemoteError):
        req.request(topic, timeout=5)
    assert "something to await" in caplog.text


def test_a_close_finishes_what_runs(broker: Any, req: blocking.Requester, topic: str) -> None:
    started = threading.Event()

    @responder(topic)
    def handler() -> str:
        started.set()
        time.sleep(0.3)
        return "done"

    app = blocking.Responder(broker.url, [handler]).__enter__()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(req.request, topic, timeout=10)
        assert started.wait(5)
        app.close()
        assert waiting.result(5).text == "done"
    app.close()
    with pytest.raises(reqtt.ClientClosed):
        app.__enter__()


@pytest.mark.parametrize("options", [{"timeout": 0.2}, {"drain": False}])
def test_a_close_that_does_not_wait_answers_for_what_runs(
    broker: Any, req: blocking.Requester, topic: str, options: dict[str, Any]
) -> None:
    started, over = threading.Event(), threading.Event()

    @responder(topic)
    def handler() -> str:
        started.set()
        over.wait(10)
        return "late"

    app = blocking.Responder(broker.url, [handler]).__enter__()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(req.request, topic, timeout=10)
        assert started.wait(5)
        before = time.monotonic()
        app.close(**options)
        assert time.monotonic() - before < 2
        with pytest.raises(reqtt.RemoteUnavailable):
            waiting.result(5)
        over.set()


def test_a_refused_filter_surfaces_on_entering(own_loopback: Any, topic: str) -> None:
    broker = own_loopback()
    broker.loopback.refuse_subscribe(0x87, filter="#")
    app = blocking.Responder(broker.url, [echo_in_thread_on(topic)])
    with pytest.raises(reqtt.SubscribeError):
        app.__enter__()
    assert broker.loopback.connections() == []


def test_serving_ends_with_a_close_from_another_thread(loopback: Any, topic: str) -> None:
    with blocking.Responder(loopback.url, [echo_in_thread_on(topic)]) as app:
        threading.Timer(0.1, app.close).start()
        app.serve_forever()
    with pytest.raises(RuntimeError, match="not open"):
        blocking.Responder(loopback.url, [echo_in_thread_on(topic)]).serve_forever()


def test_serving_ends_with_what_ends_a_program(loopback: Any, topic: str) -> None:
    @responder(topic)
    def handler() -> None:
        raise SystemExit(3)

    with blocking.Requester(loopback.url) as req, ThreadPoolExecutor(1) as pool:
        with blocking.Responder(loopback.url, [handler]) as app:
            asking = pool.submit(req.request, topic, timeout=10)
            with pytest.raises(SystemExit):
                app.serve_forever()
        with pytest.raises(reqtt.RemoteError):
            asking.result(5)


def test_serving_raises_when_the_connection_is_lost_for_good(own_loopback: Any, topic: str) -> None:
    broker = own_loopback()
    with blocking.Responder(broker.url, [echo_in_thread_on(topic)], reconnect=None) as app:
        threading.Timer(0.1, broker.loopback.stop).start()
        with pytest.raises(reqtt.ConnectionLost):
            app.serve_forever()


# --- signals, forks, the end ------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, statistics, sys, threading, time
import reqtt
from reqtt import blocking

def interrupted(call, begun=lambda: True):
    took, ready = [], threading.Event()
    def interrupt():
        ready.wait()
        while not begun():
            time.sleep(0.01)
        time.sleep(0.1)
        took.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        ready.set()
        call()
    except KeyboardInterrupt:
        took.append(time.monotonic())
    thread.join()
    return took[1] - took[0]

url, silent, topic = sys.argv[1:]
with blocking.Requester(url) as req:
    pending = lambda: req.client.stats().pending
    waits = [
        interrupted(lambda: req.request(topic, timeout=20, fail_fast=False), pending) for _ in range(5)
    ]
    assert req.client.stats().pending == 0, req.client.stats()
    while req.client.stats().cancelled < 5:
        time.sleep(0.01)
    waits.append(interrupted(lambda: list(req.gather(topic, timeout=20, fail_fast=False)), pending))
    assert req.client.stats().pending == 0
    with req.client.subscribe(topic) as messages:
        waits.append(interrupted(messages.get))
        req.client.publish(topic, "still there")
        assert messages.get(5).text == "still there"
    # Still usable.
    assert req.client.publish(topic).reason_code == 0x10

    def ask():
        try:
            req.request(topic, timeout=20, fail_fast=False)
        except reqtt.ClientClosed:
            ended.set()
    ended = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    while not req.client.stats().pending:
        time.sleep(0.01)
    waits.append(interrupted(lambda: req.close(drain=True)))
    assert ended.wait(5)
    assert not req.client.connected

client = blocking.Client(silent, connect_timeout=20)
waits.append(interrupted(client.connect))
waits.append(interrupted(client.connect))
client.close()
print(statistics.median(waits), max(waits))
"""


def test_ctrl_c_ends_every_wait_at_once(broker: Any, topic: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run_script(INTERRUPTED, broker.url, f"mqtt://127.0.0.1:{silent.getsockname()[1]}", topic)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    median, longest = map(float, done.stdout.split())
    assert median < 0.05
    assert longest < 0.5


SERVING = """
import os, signal, sys, threading, time
from reqtt import blocking, responder

@responder(sys.argv[2])
def handler() -> str:
    started.set()
    time.sleep(0.3)
    return "done"

started = threading.Event()
before = signal.getsignal(signal.SIGTERM)
answers = []
with blocking.Requester(sys.argv[1]) as req, blocking.Responder(sys.argv[1], [handler]) as app:
    def ask():
        answers.append(req.request(sys.argv[2], timeout=10).text)
    asking = threading.Thread(target=ask)
    asking.start()
    def stop():
        started.wait(5)
        while signal.getsignal(signal.SIGTERM) == before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=stop).start()
    app.serve_forever()
    asking.join()
assert signal.getsignal(signal.SIGTERM) == before
print(answers)
"""


def test_a_signal_drains_first(broker: Any, topic: str) -> None:
    done = run_script(SERVING, broker.url, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['done']\n", "")


FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")
from reqtt import blocking

url, topic = sys.argv[1:]
with blocking.Requester(url) as req, req.client.subscribe(topic) as messages:
    child = os.fork()
    if not child:
        for call in (
            lambda: req.request(topic), lambda: req.client.publish(topic), messages.get, req.client.close,
        ):
            try:
                call()
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                os._exit(1)
        with blocking.Client(url) as client:
            client.publish(topic, "child")
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert messages.get(5).text == "child"
    req.client.publish(topic, "parent")
    assert messages.get(5).text == "parent"
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_fork_the_old_client_says_so_and_a_new_one_works(broker: Any, topic: str) -> None:
    done = run_script(FORKED, broker.url, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "both\n", "")


LEFT_OPEN = """
import sys, threading, time
from reqtt import blocking, responder

url, topic = sys.argv[1:]

@responder(topic + "/served")
def handler() -> None:
    started.set()
    time.sleep(60)

started = threading.Event()
req = blocking.Requester(url).__enter__()
app = blocking.Responder(url, [handler]).__enter__()
messages = req.client.subscribe(topic + "/state").__enter__()

def ask(name):
    req.request(topic + name, timeout=60, fail_fast=False)
def listen():
    for message in messages:
        pass
def tell():
    while True:
        req.client.publish(topic + "/state", b"x" * 100, qos=0)
for target, arguments in (ask, ("/served",)), (ask, ("/nobody",)), (listen, ()), (tell, ()), (tell, ()):
    threading.Thread(target=target, args=arguments, daemon=True).start()
assert started.wait(10)
print("over")
"""


@pytest.mark.parametrize("round", range(3))
def test_the_interpreter_ends_with_everything_left_open(broker: Any, topic: str, round: int) -> None:
    before = time.monotonic()
    done = run_script(LEFT_OPEN, broker.url, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
    assert time.monotonic() - before < 8


def test_nothing_refers_to_a_client_that_nobody_holds(loopback: Any, topic: str) -> None:
    req = blocking.Requester(loopback.url).__enter__()
    app = blocking.Responder(loopback.url, [echo_in_thread_on(topic)]).__enter__()
    assert req.request(topic, "ON", timeout=5).text == "ON"
    app.close()
    kept = [weakref.ref(item) for item in (req, req.client, app, app.client)]
    del req, app
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4
    eventually_blocking(lambda: loopback.loopback.connections() == [])


def test_threads_do_not_grow(loopback: Any, topic: str) -> None:
    def use() -> int:
        with (
            blocking.Responder(loopback.url, [echo_in_thread_on(topic)]),
            blocking.Requester(loopback.url, password=lambda: "x", username="y") as req,
        ):
            req.request(topic, timeout=5)
        return threading.active_count()

    use()
    eventually_blocking(lambda: not [t for t in threading.enumerate() if t.name.startswith("reqtt-")])
    before = threading.active_count()
    for _ in range(10):
        use()
    eventually_blocking(lambda: threading.active_count() == before)


def test_it_is_found_without_being_imported() -> None:
    done = run_script(
        "import reqtt, sys; assert 'reqtt.blocking' not in sys.modules; reqtt.blocking.Requester"
    )
    assert (done.returncode, done.stderr) == (0, "")
