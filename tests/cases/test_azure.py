"""`interop="azure"`: what the RPC protocol of Azure IoT Operations asks of either side, packet by packet.

The real library is a peer in tests/interop.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from reqtt import RequestError, responder
from support.packets import Packet, Type
from support.proxy import Proxy
from support.raw import RawClient

Factory = Callable[..., Awaitable[Any]]
Pairs = tuple[tuple[str, str], ...]

CORRELATION = b"0123456789abcdef"
CLOCK = re.compile(r"(\d{15}):(\d{5}):\S+")


def stamp(seconds: float = 0, counter: int = 0) -> str:
    return f"{int((time.time() + seconds) * 1000):015}:{counter:05}:elsewhere"


def stamped(text: str) -> str:
    """For words that stand for a time."""
    return {"in an hour": stamp(3600), "the last": stamp(30, 2**64 - 1)}.get(text, text)


def clock(text: str | None) -> tuple[int, int]:
    found = CLOCK.fullmatch(text or "")
    assert found, text
    return int(found[1]), int(found[2])


@pytest.fixture
async def echo(serving: Factory, proxy: Proxy, topic: str) -> reqtt.Responder:
    """A responder of the protocol."""

    @responder(topic, timeout=5)
    async def handler(body: str) -> str:
        if body == "bad":
            raise RequestError(409, "busy", code="in-use", data={"by": "x"})
        if body == "broken":
            raise ValueError("secret detail")
        return body.upper()

    app: reqtt.Responder = await serving(proxy, handler, interop="azure")
    return app


async def answer(peer: Any, topic: str, payload: bytes = b"on", **options: Any) -> Packet:
    options = {"correlation_data": CORRELATION, "message_expiry_interval": 5} | options
    response: Packet = await peer.request(topic, payload, **options)
    return response


# --- as a responder


async def test_an_answer_says_who_when_and_in_which_version(
    echo: Any, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    theirs = stamp(30, 7)
    request = (("__protVer", "1.0"), ("__srcId", "invoker"), ("__ts", theirs))
    response = await answer(peer, topic, user_properties=request)
    assert (response.payload, response.properties.get("correlation_data")) == (b"ON", CORRELATION)
    assert (response.user("__stat"), response.user("__apErr")) == ("200", "false")
    assert response.user("__protVer") == "1.0"
    assert response.user("__srcId") == echo.client.client_id
    # Later than what it has seen, though that is ahead of the clock here.
    assert clock(response.user("__ts")) > clock(theirs)
    assert 1 <= (response.properties.get("message_expiry_interval") or 0) <= 5


async def test_a_request_without_protocol_properties_is_of_version_1(
    echo: Any, raw: Factory, broker: Any, topic: str
) -> None:
    response = await answer(await raw(broker), topic)
    assert (response.payload, response.user("__stat")) == (b"ON", "200")


async def test_what_has_no_place_in_a_request_is_ignored(
    echo: Any, raw: Factory, broker: Any, topic: str
) -> None:
    strange = (("__stat", "500"), ("__propName", "x"), ("__unknown", "x"), ("$partition", "x"))
    response = await answer(await raw(broker), topic, user_properties=strange)
    assert (response.payload, response.user("__stat")) == (b"ON", "200")


REFUSED: dict[str, tuple[dict[str, Any], Pairs, int, tuple[tuple[str, str | None], ...]]] = {
    "no Correlation Data": (
        {"correlation_data": None},
        (),
        400,
        (("__propName", "Correlation Data"),),
    ),
    "Correlation Data of another length": (
        {"correlation_data": b"short"},
        (),
        400,
        (("__propName", "Correlation Data"), ("__propVal", "short")),
    ),
    "Correlation Data that is no text": (
        {"correlation_data": b"a\0b\xff"},
        (),
        400,
        (("__propName", "Correlation Data"), ("__propVal", None)),
    ),
    "Correlation Data with U+0000": (
        {"correlation_data": b"a\0b"},
        (),
        400,
        (("__propName", "Correlation Data"), ("__propVal", None)),
    ),
    "no Message Expiry Interval": (
        {"message_expiry_interval": None},
        (),
        400,
        (("__propName", "Message Expiry"),),
    ),
    "another version": (
        {},
        (("__protVer", "5.0"),),
        505,
        (("__supProtMajVer", "1"), ("__requestProtVer", "5.0")),
    ),
    "no version": (
        {},
        (("__protVer", "one"),),
        505,
        (("__supProtMajVer", "1"), ("__requestProtVer", "one")),
    ),
    "no timestamp": (
        {},
        (("__ts", "yesterday"),),
        400,
        (("__propName", "__ts"), ("__propVal", "yesterday")),
    ),
    "a counter at its end": (
        {},
        (("__ts", "the last"),),
        500,
        (("__propName", "__ts"),),
    ),
    "a clock that is ahead": (
        {},
        (("__ts", "in an hour"),),
        503,
        (("__propName", "__ts"),),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_the_protocol_forbids_is_refused_and_does_not_run(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, what: str
) -> None:
    options, pairs, status, expected = REFUSED[what]
    pairs = tuple((name, stamped(value)) for name, value in pairs)
    ran = []

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        ran.append(body)
        return body

    app = await serving(proxy, handler, interop="azure")
    peer = await raw(broker)
    response = await answer(peer, topic, user_properties=pairs, **options)
    assert (response.user("__stat"), response.user("__apErr")) == (str(status), "false")
    assert response.user("__srcId") == app.client.client_id
    for name, value in expected:
        assert response.user(name) == value
    assert ran == []
    # It costs nobody anything.
    following = await answer(peer, topic, b"next", correlation_data=bytes(16))
    assert following.payload == b"next"
    assert (ran, proxy.accepted) == ([b"next"], 1)


@pytest.mark.parametrize(
    ("payload", "properties", "status", "application", "expected"),
    [
        (b"bad", {}, "500", "true", {"AppErrCode": "in-use", "AppErrPayload": '{"by":"x"}'}),
        (b"broken", {}, "500", "true", {"AppErrCode": None, "__stMsg": "internal error"}),
        (b"\xff", {}, "400", "false", {"__propName": None}),
        (
            b"{}",
            {"content_type": "application/json"},
            "415",
            "false",
            {"__propName": "Content Type", "__propVal": "application/json"},
        ),
    ],
    ids=["application error", "exception", "payload", "content type"],
)
async def test_errors_are_those_that_its_peers_know(
    echo: Any,
    raw: Factory,
    broker: Any,
    topic: str,
    payload: bytes,
    properties: dict[str, Any],
    status: str,
    application: str,
    expected: dict[str, str | None],
) -> None:
    response = await answer(await raw(broker), topic, payload, **properties)
    assert (response.user("__stat"), response.user("__apErr")) == (status, application)
    assert {name: response.user(name) for name in expected} == expected


async def test_a_handler_that_takes_too_long_is_a_408_with_its_time(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    @responder(topic, timeout=0.05)
    async def handler(body: bytes) -> bytes:
        await asyncio.Event().wait()
        return body

    await serving(proxy, handler, interop="azure")
    response = await answer(await raw(broker), topic)
    assert (response.user("__stat"), response.user("__propName")) == ("408", "timeout")
    assert response.user("__propVal") == "PT0.05S"


async def test_a_copy_gets_the_same_answer_and_a_refused_one_too(
    echo: Any, raw: Factory, broker: Any, topic: str
) -> None:
    peer = await raw(broker)
    for pairs in ((), (("__protVer", "9.9"),)):
        data = bytes(16) if pairs else CORRELATION
        first = await answer(peer, topic, user_properties=pairs, correlation_data=data)
        again = await answer(peer, topic, user_properties=pairs, correlation_data=data)
        assert first.user("__ts") == again.user("__ts")
        assert first.user("__stat") == again.user("__stat")


async def test_an_answer_that_the_broker_refuses_costs_nothing(
    loopback: Any, make_proxy: Factory, serving: Factory, raw: Factory, topic: str
) -> None:
    proxy = await make_proxy(loopback)

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        return body

    await serving(proxy, handler, interop="azure")
    loopback.loopback.refuse_publish(0x87, filter=f"{topic}/secret")
    peer = await raw(loopback)
    options = {"correlation_data": bytes(16), "message_expiry_interval": 5}
    await peer.publish(topic, b"on", response_topic=f"{topic}/secret", **options)
    answered = await proxy.wait_up(Type.PUBLISH)
    await proxy.wait_down(Type.PUBACK)
    await proxy.wait_up(Type.PUBACK)
    assert answered.packet.topic == f"{topic}/secret"
    assert (await answer(peer, topic, b"next")).payload == b"next"
    assert proxy.accepted == 1


def test_a_blocking_responder_speaks_it_too(loopback: Any, topic: str) -> None:
    @responder(topic)
    def handler(body: str) -> str:
        return body.upper()

    with (
        reqtt.blocking.Responder(loopback.url, [handler], interop="azure") as app,
        reqtt.blocking.Requester(loopback.url, interop="azure") as req,
    ):
        response = req.request(topic, "on", timeout=5)
    assert dict(response.user_properties)["__srcId"] == app.client.client_id


# --- as a requester


async def test_a_request_says_who_when_and_in_which_version(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str
) -> None:
    req = await requester(proxy, interop="azure")
    before = clock(stamp())
    waiting = asyncio.ensure_future(
        req.request(topic, "on", timeout=2.5, user_properties=[("room", "bedroom")])
    )
    request = await peer.receive()
    theirs = stamp(20)
    await peer.respond(request, b"ON", user_properties=(("__stat", "200"), ("__ts", theirs)))
    assert (await waiting).text == "ON"
    client_id = req.client.client_id
    names = ("__protVer", "__srcId", "$partition", "room")
    assert [request.user(name) for name in names] == ["1.0", client_id, client_id, "bedroom"]
    assert clock(request.user("__ts")) >= before
    assert (
        len(request.properties.get("correlation_data") or b""),
        request.properties.get("message_expiry_interval"),
    ) == (16, 3)
    # What came back is in the past of what goes out next.
    following = asyncio.ensure_future(req.request(topic, "off", timeout=5))
    request = await peer.receive()
    assert clock(request.user("__ts")) > clock(theirs)
    await peer.respond(request, b"OFF")
    assert (await following).text == "OFF"


async def test_a_request_that_is_sent_again_says_the_same(
    proxy: Proxy, requester: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    req = await requester(proxy, interop="azure")
    proxy.drop("up", lambda packet: packet.type is Type.PUBLISH, times=1)
    waiting = asyncio.ensure_future(req.request(topic, "on", timeout=10, fail_fast=False))
    first = await proxy.wait_up(Type.PUBLISH)
    peer = await raw(broker)
    await peer.subscribe(topic)
    proxy.cut()
    request = await peer.receive()
    await peer.respond(request, b"ON")
    assert (await waiting).text == "ON"
    assert request.properties.get("user_properties") == first.packet.properties.get("user_properties")


@pytest.mark.parametrize("name", ["__protVer", "__srcId", "__ts", "$partition"])
async def test_its_properties_are_not_the_callers(requester: Factory, loopback: Any, name: str) -> None:
    req = await requester(loopback, interop="azure")
    with pytest.raises(ValueError, match=f"{re.escape(name)} is written by"):
        req.request("a/b", user_properties=[(name, "x")])
    plain = await requester(loopback)
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await plain.request("a/b", user_properties=[(name, "x")])


async def test_correlation_data_has_16_bytes(requester: Factory, loopback: Any) -> None:
    req = await requester(loopback, interop="azure")
    with pytest.raises(ValueError, match=r"has 5 bytes: with interop=.azure. it takes 16"):
        req.request("a/b", correlation_data=b"short")
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request("a/b", correlation_data=CORRELATION)


ANSWERS: list[tuple[Pairs, bytes, type[reqtt.ReqttError] | bytes, str]] = [
    ((("__stat", "200"), ("__protVer", "1.7"), ("__unknown", "x")), b"ON", b"ON", ""),
    ((("__stat", "204"),), b"", b"", ""),
    ((), b"ON", b"ON", ""),
    ((("__stat", "200"), ("__protVer", "2.0")), b"ON", reqtt.InvalidResponse, "protocol version '2.0'"),
    ((("__protVer", "x"),), b"ON", reqtt.InvalidResponse, "protocol version 'x'"),
    ((("__stat", "x"),), b"", reqtt.InvalidResponse, "no number"),
    ((("__stat", "400"),), b"", reqtt.BadRequest, ""),
    ((("__stat", "400"), ("__propName", "p"), ("__propVal", "v")), b"", reqtt.BadRequest, "p = 'v'"),
    ((("__stat", "400"), ("__propName", "p")), b"", reqtt.BadRequest, "about: p"),
    ((("__stat", "408"), ("__propName", "t"), ("__propVal", "PT1S")), b"", reqtt.RemoteTimeout, "PT1S"),
    ((("__stat", "415"), ("__propName", "Content Type")), b"", reqtt.UnsupportedContentType, "Content Type"),
    ((("__stat", "422"), ("__stMsg", "old")), b"", reqtt.RemoteError, "old"),
    ((("__stat", "500"), ("__apErr", "true"), ("__stMsg", "oops")), b"", reqtt.RemoteError, "oops"),
    ((("__stat", "500"), ("__propName", "p")), b"", reqtt.RemoteError, "about: p"),
    ((("__stat", "503"), ("__propName", "s")), b"", reqtt.RemoteUnavailable, "about: s"),
    ((("__stat", "505"), ("__supProtMajVer", "2 3")), b"", reqtt.RemoteError, "supports: 2 3"),
    ((("__stat", "777"),), b"", reqtt.RemoteError, "777"),
    (
        (("__stat", "200"), ("AppErrCode", "E7"), ("AppErrPayload", "[1]")),
        b"x",
        reqtt.RemoteError,
        "application error E7",
    ),
]


@pytest.mark.parametrize(
    ("pairs", "payload", "expected", "text"), ANSWERS, ids=["-".join(v for _, v in a[0]) for a in ANSWERS]
)
async def test_what_a_response_says_is_understood(
    answered_with: Factory,
    pairs: Pairs,
    payload: bytes,
    expected: type[reqtt.ReqttError] | bytes,
    text: str,
) -> None:
    got = await answered_with(pairs, payload, interop="azure")
    if isinstance(expected, bytes):
        assert got.payload == expected
        return
    assert type(got) is expected, got
    assert text in "\n".join([str(got), *getattr(got, "__notes__", ())])


async def test_an_application_error_in_a_success_is_raised(answered_with: Factory) -> None:
    pairs = (("__stat", "200"), ("AppErrCode", "E7"), ("AppErrPayload", '{"a": 1}'))
    error = await answered_with(pairs, interop="azure")
    assert type(error) is reqtt.RemoteError, error
    assert (error.status, error.application, error.code, error.data) == (200, True, "E7", {"a": 1})
    assert error.response is not None
    assert error.response.payload == b"body"


@pytest.mark.parametrize("where", [reqtt.Requester, reqtt.blocking.Requester])
def test_another_word_is_refused_by_requesters(where: Any) -> None:
    with pytest.raises(ValueError, match="interop='aws' does not exist"):
        where("mqtt://localhost", interop="aws")


@pytest.mark.parametrize("where", [reqtt.Responder, reqtt.blocking.Responder])
def test_another_word_is_refused_by_responders(where: Any) -> None:
    @responder("a")
    def handler(body: bytes) -> bytes:
        return body

    with pytest.raises(ValueError, match="interop='aws' does not exist"):
        where("mqtt://localhost", [handler], interop="aws")


@pytest.mark.parametrize("theirs", ["yesterday", "in an hour", "the last"])
async def test_a_clock_that_cannot_be_read_does_not_cost_the_answer(
    proxy: Proxy, requester: Factory, peer: RawClient, topic: str, theirs: str
) -> None:
    req = await requester(proxy, interop="azure")
    for payload in (b"on", b"off"):
        waiting = asyncio.ensure_future(req.request(topic, payload, timeout=5))
        request = await peer.receive()
        assert clock(request.user("__ts")) < clock(stamp(60))
        await peer.respond(request, payload, user_properties=(("__stat", "200"), ("__ts", stamped(theirs))))
        assert (await waiting).payload == payload


def test_the_page_names_tests_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "azure.md").read_text()))
    there = {
        name
        for path in (root / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 30
    assert named <= there, named - there
