"""Row X1, and a library that has never heard of reqtt: paho on either side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import RequestError, responder
from support import case
from support.paho_peer import PahoPeer
from support.proxy import Proxy

Factory = Callable[..., Awaitable[Any]]
Pairs = tuple[tuple[str, str], ...]


@case("X1")
@pytest.mark.parametrize(
    ("pairs", "status", "message", "application", "kind"),
    [
        ((("__stat", "500"), ("__apErr", "true"), ("__stMsg", "m")), 500, "m", True, reqtt.RemoteError),
        ((("__stat", "500"), ("__stMsg", "m")), 500, "m", False, reqtt.RemoteError),
        ((("__stat", "404"),), 404, None, False, reqtt.NotFound),
        ((("__stat", "400"), ("__apErr", "false")), 400, None, False, reqtt.BadRequest),
        ((("__stat", "408"),), 408, None, False, reqtt.RemoteTimeout),
        ((("__stat", "415"),), 415, None, False, reqtt.UnsupportedContentType),
        ((("__stat", "503"),), 503, None, False, reqtt.RemoteUnavailable),
        ((("other", "x"), ("__stat", "777"), ("__stMsg", "odd")), 777, "odd", False, reqtt.RemoteError),
    ],
    ids=lambda v: v[-1][1] if isinstance(v, tuple) else "",
)
async def test_an_error_status_is_a_remote_error(
    answered_with: Factory,
    pairs: Pairs,
    status: int,
    message: str | None,
    application: bool,
    kind: type[Exception],
) -> None:
    error = await answered_with(pairs)
    assert type(error) is kind, error
    assert (error.status, bool(error.application)) == (status, application)
    if message is not None:
        assert error.message == message
    assert str(status) in str(error)
    assert (error.response.payload, error.response.user_properties) == (b"body", pairs)


@case("X1")
@pytest.mark.parametrize("value", ["abc", "", "20O", "-1", "5e2", "99999999999999999999"])
async def test_a_status_that_is_no_number_is_an_invalid_response(answered_with: Factory, value: str) -> None:
    error = await answered_with((("__stat", value),))
    assert type(error) is reqtt.InvalidResponse, error
    assert error.response.payload == b"body"


@case("X1")
@pytest.mark.parametrize(
    "pairs", [(), (("__stat", "200"),), (("__stat", "204"),), (("stat", "500"),)], ids=str
)
async def test_no_status_and_a_good_status_are_success(answered_with: Factory, pairs: Pairs) -> None:
    response = await answered_with(pairs)
    assert isinstance(response, reqtt.Response), response
    assert (response.payload, response.user_properties) == (b"body", pairs)


@case("X1")
async def test_status_properties_on_success_only_for_those_who_speak_the_protocol(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        return body

    await serving(proxy, handler)
    peer = await raw(broker)
    assert (await peer.request(topic, "x", correlation_data=b"1")).user("__stat") is None
    spoken = await peer.request(topic, "x", correlation_data=b"2", user_properties=(("__protVer", "1.0"),))
    assert spoken.user("__stat") == "200"


@pytest.mark.parametrize("correlation_data", [b"paho", b"\x00\xff\xfe", bytes(range(200))], ids=len)
async def test_paho_asks_and_reqtt_answers(
    proxy: Proxy, serving: Factory, broker: Any, topic: str, correlation_data: bytes
) -> None:
    @responder(topic)
    async def handler(body: str) -> str:
        if body == "bad":
            raise RequestError(409, "busy", data={"by": "x"})
        return body.upper()

    await serving(proxy, handler)
    async with PahoPeer(broker.port) as paho:
        response = await paho.request(
            topic, b"on", response_topic=f"{topic}/r", correlation_data=correlation_data
        )
        assert response.payload == b"ON"
        assert not response.retain
        assert response.properties.CorrelationData == correlation_data
        error = await paho.request(topic, b"bad", response_topic=f"{topic}/r", correlation_data=b"2")
    assert dict(error.properties.UserProperty)["__stat"] == "409"
    assert error.properties.ContentType == "application/problem+json"
    assert json.loads(error.payload)["data"] == {"by": "x"}


async def test_reqtt_asks_and_paho_answers(proxy: Proxy, requester: Factory, broker: Any, topic: str) -> None:
    async with PahoPeer(broker.port) as paho:
        await paho.serve(topic, bytes.upper)
        req = await requester(proxy)
        responses = await asyncio.gather(*(req.request(topic, f"on {i}", timeout=5) for i in range(20)))
    assert [r.text for r in responses] == [f"ON {i}" for i in range(20)]
