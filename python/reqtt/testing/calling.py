"""A handler as a requester would meet it, without a broker: the same binding, codecs, middleware and errors.

Owns what stands for the network here: which handler a topic reaches, and how an outcome becomes a response.
Acknowledgements, duplicates, expiry and access rules are the connection's, and play no part.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from reqtt._core import Request, Response, _response, check_topic, route
from reqtt._status import error_from_response
from reqtt.errors import NoMatchingSubscribers, ReqttError, ResponseTimeout
from reqtt.responder import Middleware, ResponderSpec, compile_runner
from reqtt.router import collect

if TYPE_CHECKING:
    from reqtt.client import Client, Properties
    from reqtt.codecs import Payload

__all__ = ["call"]

T = TypeVar("T")


@overload
async def call(
    handlers: Any,
    topic: str,
    payload: Payload = b"",
    *,
    response_type: None = None,
    timeout: float = 10.0,
    qos: int = 1,
    content_type: str | None = None,
    payload_format_indicator: int | None = None,
    user_properties: Properties = (),
    message_expiry_interval: int | None = None,
    correlation_data: bytes | None = None,
    response_topic: str | None = None,
    client: Client | Any = None,
    state: Any = None,
    middleware: Sequence[Middleware] = (),
    interop: Literal["plain", "azure"] = "plain",
) -> Response: ...
@overload
async def call(
    handlers: Any,
    topic: str,
    payload: Payload = b"",
    *,
    response_type: type[T],
    timeout: float = 10.0,
    qos: int = 1,
    content_type: str | None = None,
    payload_format_indicator: int | None = None,
    user_properties: Properties = (),
    message_expiry_interval: int | None = None,
    correlation_data: bytes | None = None,
    response_topic: str | None = None,
    client: Client | Any = None,
    state: Any = None,
    middleware: Sequence[Middleware] = (),
    interop: Literal["plain", "azure"] = "plain",
) -> T: ...
async def call(
    handlers: Any,
    topic: str,
    payload: Payload = b"",
    *,
    response_type: Any = None,
    timeout: float = 10.0,
    qos: int = 1,
    content_type: str | None = None,
    payload_format_indicator: int | None = None,
    user_properties: Properties = (),
    message_expiry_interval: int | None = None,
    correlation_data: bytes | None = None,
    response_topic: str | None = None,
    client: Client | Any = None,
    state: Any = None,
    middleware: Sequence[Middleware] = (),
    interop: Literal["plain", "azure"] = "plain",
) -> Any:
    """Ask a handler without a broker, and get what a requester would get.

    Arguments bind, payloads are decoded and encoded, and errors become statuses as they do over the network.
    What the connection does (acknowledgements, duplicates, retained and expired requests, allowed Response
    Topics) is left out.

    Args:
        handlers: a function with `@responder`, or whatever else `Responder` takes; the most specific filter
            that matches is asked.
        topic, payload: as in `Requester.request`; so are response_type, qos, content_type,
            payload_format_indicator, user_properties, correlation_data and response_topic.
        timeout: seconds, above 0, until the handler is cancelled; also what `request.remaining()` starts
            from, unless `message_expiry_interval` says otherwise.
        client: what a parameter annotated with `Client` gets.
        state: what handlers and dependencies find as `app.state`; None: an empty namespace. Of a `Responder`
            there are only `state` and `client`; lifespans do not run.
        middleware, interop: as in `Responder`.

    Raises:
        RemoteError: the handler, or the binding of its arguments, answers with an error, e.g. `NotFound`.
        NoMatchingSubscribers: none of the handlers answers this topic.
        ResponseTimeout: the handler is not done in time.
        DecodeError: the response is not what `response_type` says.
        InvalidTopic, ValueError, TypeError: an argument that could not be sent; something that is no handler.

    Example:
        async def test_power_of_an_unknown_lamp():
            with pytest.raises(reqtt.NotFound):
                await call(power, "cmnd/cellar/power", "ON")
    """
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be above 0 and finite, in seconds, not {timeout}")
    check_topic(topic)
    spec, captures = _handler_for(collect(handlers), topic)
    if spec.streams:
        raise TypeError(
            f"{spec.name} streams, and a call has one response: iterate over the function itself, or use"
            " respond_with and requester.stream"
        )
    response_topic = response_topic if response_topic is not None else "clients/test/responses/call"
    request = Request(
        topic,
        payload,
        captures=captures,
        response_topic=response_topic,
        correlation_data=correlation_data or secrets.token_urlsafe(12).encode(),
        content_type=content_type,
        payload_format_indicator=payload_format_indicator,
        user_properties=user_properties,
        message_expiry_interval=message_expiry_interval or math.ceil(timeout),
        qos=qos,
    )
    # What a file would add is that an answer outlives the process.
    spec = replace(spec, deduplicate=bool(spec.deduplicate))
    app: Any = SimpleNamespace(
        client=client, state=SimpleNamespace() if state is None else state, _finishing=set()
    )
    run = compile_runner(spec, client=client, workers=None, middleware=middleware, interop=interop, app=app)
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            await run(request)
    except TimeoutError:
        if not scope.expired():
            raise
        raise ResponseTimeout(
            f'no response to "{topic}" within {timeout:g} s: {spec.name} had not ended',
            topic=topic,
            timeout=timeout,
            phase="response",
        ) from None
    return _answer(request, response_type)


def _handler_for(specs: list[ResponderSpec], topic: str) -> tuple[ResponderSpec, dict[str, str]]:
    """Who is asked, and what its filter captures."""
    found = route([spec.topic_filter for spec in specs], topic)
    if found is None:
        there = ", ".join(f'{spec.name} answers "{spec.topic_filter}"' for spec in specs[:5])
        raise NoMatchingSubscribers(f'nobody subscribes to "{topic}": {there}', topic=topic)
    place, captures = found
    return specs[place], dict(captures)


def _answer(request: Request, response_type: Any) -> Any:
    outcome = request._outcome
    if outcome is None or outcome[0] != "reply":
        raise ReqttError(f'the handler of "{request.topic}" left the request without a response')
    _, payload, status, content_type, indicator, properties = outcome
    if status >= 400 or any(name == "__protVer" for name, _ in request.user_properties):
        properties = (("__stat", str(status)), *properties)
    topic = request.response_topic
    assert topic is not None
    response = _response(
        topic, payload, status, 0.0, content_type, indicator, request.correlation_data, properties
    )
    error = error_from_response(response, request.topic)
    if error is not None:
        raise error
    return response if response_type is None else response.decode(response_type)
