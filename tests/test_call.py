"""`reqtt.testing.call`: what a handler answers without a broker is what it answers over one."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

import reqtt
from conftest import Broker
from reqtt import Client, Depends, Request, Requester, RequestError, Responder, Response, Router, responder
from reqtt.testing import call
from support import shown


@dataclass
class Reading:
    celsius: float


class Mode(enum.Enum):
    DAY = "day"
    NIGHT = "night"


class Odd:
    """What no codec encodes."""


@responder("text/{name}")
async def text(name: str, body: str = "nothing") -> str:
    return f"{name}: {body}"


@responder("raw")
def raw(body: bytes) -> bytes:
    return body[::-1]


@responder("reading/{room}/{mode}")
async def reading(room: int, mode: Mode, body: Reading) -> dict[str, Any]:
    return {"room": room, "mode": mode.name, "celsius": body.celsius}


@responder("picture/{rest:#}")
async def picture(rest: str, request: Request) -> Response:
    properties = [*request.user_properties, ("rest", rest), ("rest", "again")]
    return Response(b"\x89PNG", content_type="image/png", user_properties=properties)


@responder("nothing")
async def nothing() -> None:
    pass


@responder("error/{status}")
async def error(status: int) -> None:
    raise RequestError(status, "as you wish", code="E1", data={"asked": status})


@responder("broken")
async def broken() -> Odd:
    raise LookupError("inner detail")


@responder("unsendable")
async def unsendable() -> Any:
    return Odd()


@responder("slow", timeout=0.1)
async def slow() -> str:
    await asyncio.sleep(10)
    return "never"


@responder("odd/status")
async def odd_status() -> Response:
    return Response("moved", status=404)


HANDLERS = [text, raw, reading, picture, nothing, error, broken, unsendable, slow, odd_status]

CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("text/a", "hello", {}),
    ("text/a", b"", {}),
    ("text/a", b"\xff", {}),
    ("text/a", "é", {"payload_format_indicator": 1, "content_type": "text/plain; charset=utf-8"}),
    ("text/a", b"<a/>", {"content_type": "application/xml"}),
    ("raw", b"\x00\x01", {}),
    ("raw", b"", {}),
    ("raw", {"a": 1}, {}),
    ("reading/3/night", Reading(21.5), {}),
    ("reading/3/night", {"celsius": "warm"}, {}),
    ("reading/3/night", b"{", {}),
    ("reading/hall/night", Reading(21.5), {}),
    ("reading/3/dusk", Reading(21.5), {}),
    ("picture/a/b", b"", {"user_properties": (("k", "1"), ("k", "2"))}),
    ("picture", b"", {"user_properties": {"k": "1"}}),
    ("picture/", b"", {}),
    ("nothing", b"", {}),
    ("nothing", b"", {"user_properties": (("__protVer", "1.0"),)}),
    ("text/a", "b", {"user_properties": (("__protVer", "1.0"),)}),
    ("error/404", b"", {}),
    ("error/418", b"", {}),
    ("error/200", b"", {}),
    ("broken", b"", {}),
    ("unsendable", b"", {}),
    ("slow", b"", {}),
    ("odd/status", b"", {}),
]


async def outcome(asking: Any) -> dict[str, Any]:
    """All that the one who asks can see, but for what differs from request to request."""
    try:
        found = await asking
    except reqtt.RemoteError as remote:
        seen = vars(remote) | {"text": str(remote), "notes": getattr(remote, "__notes__", [])}
        return seen | {"class": type(remote), "response": fields(seen["response"])}
    return fields(found)


def fields(response: Response) -> dict[str, Any]:
    names = ("payload", "status", "content_type", "payload_format_indicator", "user_properties", "topic")
    return {name: getattr(response, name) for name in names} | {"correlated": response.correlation_data}


@pytest.mark.parametrize(("topic", "payload", "options"), CASES, ids=lambda value: str(value)[:30])
async def test_a_call_ends_like_a_request(
    loopback: Broker, topic: str, payload: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    common = {"response_topic": "answers/1", "correlation_data": b"\x00mine", **options}
    async with Responder(loopback.url, HANDLERS), Requester(loopback.url) as requester:
        asked = await outcome(requester.request(topic, payload, **common))
    called = await outcome(call(HANDLERS, topic, payload, **common))
    assert called == asked


async def test_it_takes_one_handler_and_decodes_the_response() -> None:
    assert (await call(text, "text/lamp", "ON")).text == "lamp: ON"
    assert await call(text, "text/lamp", response_type=str) == "lamp: nothing"
    with pytest.raises(reqtt.DecodeError):
        await call(text, "text/lamp", response_type=dict[str, str])


async def test_it_asks_the_most_specific_handler_like_a_broker_would(loopback: Broker) -> None:
    filters = ["a/+/c", "a/b/#", "+/b/c", "a/#", "x/#", "a/b/+", "a/{x}/{y}/{z:#}"]

    def answering(topic_filter: str) -> Any:
        @responder(topic_filter)
        async def handler() -> str:
            return topic_filter

        return handler

    handlers = [answering(topic_filter) for topic_filter in filters]
    async with Responder(loopback.url, handlers), Requester(loopback.url) as requester:
        for topic in ("a/b/c", "a/b", "a/x/c", "a/x", "b/b/c", "a", "x/y", "a/b/c/d", "a/x/y/z"):
            asked = await requester.request(topic)
            assert (await call(handlers, topic)).text == asked.text, topic


async def test_routers_and_middleware_take_part() -> None:
    house = Router(prefix="house")

    @house.responder("{room}/light")
    async def light(room: str) -> str:
        return room

    async def shout(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        return Response(response.text.upper())

    assert (await call(house, "house/hall/light", middleware=[shout])).text == "HALL"


async def test_what_a_handler_learns_of_its_request() -> None:
    seen: list[Any] = []

    @responder("look")
    async def look(request: Request, client: Client) -> None:
        remaining = request.remaining()
        assert remaining is not None
        seen.extend([request.response_topic, request.qos, round(remaining), client])

    fake: Any = object()
    await call(look, "look", qos=2, timeout=3.2, client=fake, response_topic="mine")
    assert seen == ["mine", 2, 4, fake]
    await call(look, "look", message_expiry_interval=60)
    assert seen[4:] == ["clients/test/responses/call", 1, 60, None]


async def test_dependencies_open_and_close_around_the_handler() -> None:
    steps: list[str] = []

    async def session(app: Responder) -> AsyncIterator[str]:
        steps.append("open")
        yield app.state.name
        steps.append("close")

    @responder("look")
    async def look(name: Annotated[str, Depends(session)]) -> str:
        steps.append("handler")
        return name

    assert (await call(look, "look", state=SimpleNamespace(name="pool"))).text == "pool"
    assert steps == ["open", "handler", "close"]


async def test_a_handler_that_hangs_is_a_timeout() -> None:
    cancelled = asyncio.Event()

    @responder("hang")
    async def hang() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    start = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout, match=r'no response to "hang" within 0\.1 s') as caught:
        await call(hang, "hang", timeout=0.1)
    assert caught.value.phase == "response"
    assert cancelled.is_set()
    assert time.monotonic() - start < 5


async def test_handlers_that_write_to_disk_do_not() -> None:
    @responder("valve", deduplicate="disk")
    async def valve() -> str:
        return "open"

    assert (await call(valve, "valve")).text == "open"


async def test_a_topic_that_nobody_answers() -> None:
    with pytest.raises(
        reqtt.NoMatchingSubscribers, match=r'nobody subscribes to "txt/a": .*answers "text/'
    ) as caught:
        await call(text, "txt/a")
    assert (caught.value.topic, caught.value.reason_code) == ("txt/a", 0x10)


async def test_a_handler_that_streams_is_for_a_broker() -> None:
    @responder("count")
    async def count() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"count streams, and a call has one response: .* requester\.stream"):
        await call(count, "count")


@pytest.mark.parametrize(
    ("arguments", "options", "kind"),
    [
        ((text, "text/+"), {}, reqtt.InvalidTopic),
        ((text, ""), {}, ValueError),
        ((len, "text/a"), {}, TypeError),
        ((text, "text/a"), {"timeout": 0}, ValueError),
        ((text, "text/a"), {"timeout": float("nan")}, ValueError),
        ((text, "text/a"), {"qos": 3}, ValueError),
        ((text, "text/a", Odd()), {}, TypeError),
        ((text, "text/a"), {"middleware": [3]}, TypeError),
        ((text, "text/a"), {"user_properties": [("only",)]}, (TypeError, ValueError)),
    ],
    ids=shown,
)
async def test_a_wrong_argument_is_told(arguments: Any, options: dict[str, Any], kind: Any) -> None:
    with pytest.raises(kind):
        await call(*arguments, **options)
