"""Middleware, on both sides in one shape: logging, auth, timing and retry; and what requests carry along."""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import OutgoingRequest, Request, RequestError, Response, responder
from reqtt._core import Requester as NativeRequester
from support.packets import PUBLISH
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]

_log = logging.getLogger("tests.middleware")
TOKEN = "open sesame"


# --- the four examples of the documentation -------------------------------------------------------


async def logged(request: Any, call_next: Any) -> Response:
    try:
        response: Response = await call_next(request)
    except reqtt.RemoteError as error:
        _log.warning("%s: %d %s", request.topic, error.status, error.message)
        raise
    _log.info("%s: %d", request.topic, response.status)
    return response


async def signed(request: OutgoingRequest, call_next: Any) -> Response:
    properties = (*request.user_properties, ("token", TOKEN))
    response: Response = await call_next(request.replace(user_properties=properties))
    return response


async def only_with_token(request: Request, call_next: Any) -> Response:
    token = dict(request.user_properties).get("token", "")
    if not hmac.compare_digest(token, TOKEN):
        raise RequestError(401, "a token is needed")
    request.state.user = "ali baba"
    response: Response = await call_next(request)
    return response


def timed(seconds: list[float]) -> Any:
    async def timed(request: Any, call_next: Any) -> Response:
        started = time.perf_counter()
        try:
            response: Response = await call_next(request)
            return response
        finally:
            seconds.append(time.perf_counter() - started)

    return timed


def again(attempts: int) -> Any:
    async def again(request: Any, call_next: Any) -> Response:
        for _ in range(attempts - 1):
            try:
                response: Response = await call_next(request)
                return response
            except (reqtt.RemoteUnavailable, reqtt.ResponseTimeout):
                await asyncio.sleep(0)
        last: Response = await call_next(request)
        return last

    return again


async def test_one_middleware_serves_on_both_sides(
    broker: Any, serving: Factory, requester: Factory, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    here: list[float] = []
    there: list[float] = []

    @responder(f"{topic}/ok")
    async def ok() -> str:
        await asyncio.sleep(0.02)
        return "ok"

    @responder(f"{topic}/missing")
    async def missing() -> None:
        raise RequestError(404, "no such lamp")

    await serving(broker, ok, missing, middleware=[logged, timed(there)])
    req = await requester(broker, middleware=[logged, timed(here)])
    with caplog.at_level(logging.INFO, _log.name):
        assert (await req.request(f"{topic}/ok")).text == "ok"
        with pytest.raises(reqtt.NotFound):
            await req.request(f"{topic}/missing")
    texts = [record.getMessage() for record in caplog.records if record.name == _log.name]
    # The handler's exception is a RequestError: only the requester's middleware sees the RemoteError.
    assert texts == [f"{topic}/ok: 200"] * 2 + [f"{topic}/missing: 404 no such lamp"]
    assert len(here) == len(there) == 2
    assert here[0] > there[0] >= 0.015


async def test_a_token_is_added_here_and_checked_there(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    ran: list[str] = []

    @responder(topic)
    async def open_door(request: Request) -> str:
        ran.append(request.state.user)
        return f"open for {request.state.user}"

    await serving(broker, open_door, middleware=[only_with_token])
    stranger, friend = await requester(broker), await requester(broker, middleware=[signed])
    with pytest.raises(reqtt.RemoteError) as caught:
        await stranger.request(topic)
    assert (caught.value.status, caught.value.message, ran) == (401, "a token is needed", [])
    response = await friend.request(topic, user_properties={"lamp": "left"})
    assert (response.text, ran) == ("open for ali baba", ["ali baba"])


async def test_a_retry_calls_the_next_again(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    tries: list[bytes | None] = []

    @responder(f"{topic}/late", deduplicate=False)
    async def late(request: Request) -> str:
        tries.append(request.correlation_data)
        if len(tries) < 3:
            raise RequestError(503, "not yet")
        return "at last"

    inner: list[int] = []

    @responder(f"{topic}/inner")
    async def flaky() -> str:
        inner.append(1)
        if len(inner) < 3:
            raise reqtt.ResponseTimeout("of the lamp itself", topic="lamp", timeout=1, phase="response")
        return "done"

    await serving(broker, late)
    await serving(broker, flaky, middleware=[again(3)])
    req = await requester(broker, middleware=[again(3)])
    assert (await req.request(f"{topic}/late")).text == "at last"
    assert len(set(tries)) == 3
    plain = await requester(broker)
    assert (await plain.request(f"{topic}/inner")).text == "done"
    tries.clear()
    twice = await requester(broker, middleware=[again(2)])
    with pytest.raises(reqtt.RemoteUnavailable):
        await twice.request(f"{topic}/late")
    assert len(tries) == 2


async def test_a_retry_of_the_request_is_inside_its_middleware(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    tries: list[int] = []

    @responder(topic)
    async def late() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise RequestError(503, "not yet")
        return "at last"

    through: list[str] = []

    async def watch(request: OutgoingRequest, call_next: Any) -> Response:
        through.append(request.topic)
        assert "retry" in request.options
        response: Response = await call_next(request)
        return response

    await serving(broker, late)
    req = await requester(broker, middleware=[watch])
    response = await req.request(topic, retry=reqtt.Retry(attempts=3, backoff=0.01))
    assert (response.text, through, len(tries)) == ("at last", [topic], 3)


# --- the requester's side -------------------------------------------------------------------------


async def test_the_request_goes_through_the_layers_in_order_and_can_be_changed(
    proxy: Any, broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(f"{topic}/{{name}}")
    async def echo(name: str, request: Request) -> Response:
        return Response(request.payload, user_properties=[*request.user_properties, ("name", name)])

    seen: list[Any] = []

    def mark(name: str) -> Any:
        async def layer(request: OutgoingRequest, call_next: Any) -> Response:
            seen.append((name, request.topic, request.timeout, request.user_properties))
            response = await call_next(
                request.replace(
                    topic=f"{request.topic}{name}",
                    payload=f"{request.payload!s}{name}",
                    user_properties=(*request.user_properties, (name, "1")),
                    content_type="text/x-marked",
                    timeout=3,
                )
            )
            return Response(response.text + name, user_properties=response.user_properties)

        return layer

    await serving(broker, echo)
    req = await requester(proxy, middleware=[mark("a"), mark("b")], timeout=7)
    response = await req.request(f"{topic}/x", "p", user_properties={"k": "v"})
    assert response.text == "pabba"
    assert response.user_properties == (("k", "v"), ("a", "1"), ("b", "1"), ("name", "xab"))
    assert seen == [
        ("a", f"{topic}/x", None, (("k", "v"),)),
        ("b", f"{topic}/xa", 3, (("k", "v"), ("a", "1"))),
    ]
    [sent] = proxy.up(PUBLISH, f"{topic}/xab")
    assert sent.packet.properties["content_type"] == "text/x-marked"
    assert sent.packet.properties["message_expiry_interval"] == 3


async def test_a_layer_may_answer_by_itself_and_nothing_is_sent(
    proxy: Any, requester: Factory, topic: str
) -> None:
    async def cache(request: OutgoingRequest, call_next: Any) -> Response:
        return Response({"level": 3})

    req = await requester(proxy, middleware=[cache])
    assert await req.request(topic, response_type=dict[str, int]) == {"level": 3}
    with pytest.raises(reqtt.DecodeError):
        await req.request(topic, response_type=list[int])
    assert proxy.up(PUBLISH, topic) == []


async def test_a_request_with_middleware_is_still_typed_and_run_by_all_of_asyncio(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def double(body: int) -> int:
        return 2 * body

    async def through(request: OutgoingRequest, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    await serving(broker, double)
    req = await requester(broker, middleware=[through])
    assert await req.request(topic, 4, response_type=int) == 8
    assert [r.json() for r in await asyncio.gather(*(req.request(topic, n) for n in range(50)))] == [
        2 * n for n in range(50)
    ]
    assert (await asyncio.wait_for(asyncio.create_task(req.request(topic, 1)), 5)).json() == 2
    async with asyncio.TaskGroup() as group:
        task = group.create_task(req.request(topic, 5))
    assert task.result().json() == 10
    assert (await asyncio.to_thread(req.request_sync, topic, 6)).json() == 12
    # Who gathers asks past the middleware.
    assert [r.json() for r in await req.gather(topic, 7, max_responses=1)] == [14]


async def test_cancelling_a_request_in_its_middleware_frees_the_place(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    entered = asyncio.Event()

    @responder(topic)
    async def never() -> None:
        entered.set()
        await asyncio.Event().wait()

    ended: list[str] = []

    async def watch(request: OutgoingRequest, call_next: Any) -> Response:
        try:
            response: Response = await call_next(request)
            return response
        finally:
            ended.append(request.topic)

    app = await serving(broker, never)
    req = await requester(broker, middleware=[watch])
    task = asyncio.create_task(req.request(topic, timeout=30))
    await entered.wait()
    assert req.client.stats().pending == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [topic]
    await eventually(lambda: req.client.stats().pending == 0)
    await app.close(drain=False)


async def test_wrong_arguments_raise_before_anything_is_sent(
    proxy: Any, requester: Factory, topic: str
) -> None:
    async def through(request: OutgoingRequest, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    async def broken(request: OutgoingRequest, call_next: Any) -> Any:
        return "no response"

    async def confused(request: OutgoingRequest, call_next: Any) -> Any:
        return await call_next(request.topic)

    async def misspelt(request: OutgoingRequest, call_next: Any) -> Any:
        return await call_next(request.replace(time_out=3))

    with pytest.raises(TypeError, match="async def"):
        reqtt.Requester(proxy.url, middleware=[3])  # type: ignore[list-item]
    req = await requester(proxy, middleware=[through])
    with pytest.raises(reqtt.InvalidTopic):
        req.request("a/#")
    with pytest.raises(TypeError, match="unexpected keyword argument 'time_out'"):
        req.request(topic, time_out=3)
    with pytest.raises(ValueError, match="timeout"):
        await req.request(topic, timeout=-1)
    with pytest.raises(TypeError, match="gave no Response, but 'no response'"):
        await (await requester(proxy, middleware=[broken])).request(topic)
    with pytest.raises(TypeError, match=r"request\.replace"):
        await (await requester(proxy, middleware=[confused])).request(topic)
    with pytest.raises(TypeError, match="time_out"):
        await (await requester(proxy, middleware=[misspelt])).request(topic)
    assert proxy.up(PUBLISH) == []


async def test_a_requester_without_middleware_keeps_the_native_request(
    loopback: Any, requester: Factory
) -> None:
    plain = await requester(loopback)
    assert "request" not in vars(plain)
    assert type(plain).request is NativeRequester.request


def test_an_outgoing_request_shows_no_secrets() -> None:
    request = OutgoingRequest("door", "secret", user_properties=(("token", TOKEN),))
    assert repr(request) == "<reqtt.OutgoingRequest 'door'>"


# --- what a request carries along -----------------------------------------------------------------


async def test_state_goes_from_middleware_to_a_handler_in_a_thread_and_back(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    seen: list[Any] = []

    async def outer(request: Request, call_next: Any) -> Response:
        response: Response = await asyncio.wait_for(call_next(request), 5)
        seen.append(request.state.answer)
        return response

    async def inner(request: Request, call_next: Any) -> Response:
        request.state.number = int(request.text)
        response: Response = await call_next(request)
        return response

    @responder(topic)
    def in_a_thread(request: Request) -> int:
        request.state.answer = request.state.number + 1
        return int(request.state.answer)

    await serving(broker, in_a_thread, middleware=[outer, inner])
    req = await requester(broker)
    answers = await asyncio.gather(*(req.request(topic, str(n)) for n in range(20)))
    assert [r.json() for r in answers] == list(range(1, 21))
    assert sorted(seen) == list(range(1, 21))


async def test_state_is_let_go_with_the_answer_even_if_it_leads_back(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    @responder(topic)
    async def circle(request: Request) -> str:
        thing = Thing()
        things.append(weakref.ref(thing))
        request.state.thing = thing
        request.state.me = request
        return "done"

    await serving(broker, circle)
    req = await requester(broker)
    assert (await req.request(topic)).text == "done"
    gc.collect()
    assert [thing() for thing in things] == [None]


def test_state_is_there_in_a_unit_test() -> None:
    request = Request("a")
    request.state.user = "me"
    assert request.state.user == "me"
    assert not hasattr(Request("a").state, "user")
