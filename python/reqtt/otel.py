"""OpenTelemetry: a span for each request and each handler, joined across the broker. Needs `reqtt[otel]`.

    tracing = TracingMiddleware()
    async with Responder(URL, handlers, middleware=[tracing]), Requester(URL, middleware=[tracing]) as req:
        await req.request("cmnd/lamp/power", "ON")

The W3C context travels in the user properties `traceparent` and `tracestate` (section 3.3.2.3.7), and with
OpenTelemetry's default propagators `baggage`, too.

Spans follow OpenTelemetry's conventions for messaging, with one choice of our own: the requester waits for
the response, which is what the tracing specification calls CLIENT and SERVER. PRODUCER and CONSUMER would say
that nobody waits; a request without a Response Topic is a CONSUMER.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reqtt._core import Request, Response, __version__
from reqtt._observed import Names, handler_outcome, request_outcome, waited

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter, Setter
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError("reqtt.otel needs OpenTelemetry: pip install 'reqtt[otel]'") from error

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from reqtt.client import Properties
    from reqtt.responder import ResponderSpec

__all__ = ["TracingMiddleware", "extract", "inject"]


class _Getter(Getter[Sequence[tuple[str, str]]]):
    def get(self, carrier: Sequence[tuple[str, str]], key: str) -> list[str] | None:
        return [value for name, value in carrier if name == key] or None

    def keys(self, carrier: Sequence[tuple[str, str]]) -> list[str]:
        return [name for name, _ in carrier]


class _Setter(Setter[list[tuple[str, str]]]):
    def set(self, carrier: list[tuple[str, str]], key: str, value: str) -> None:
        # A forwarded request brings the context of another span.
        carrier[:] = [pair for pair in carrier if pair[0] != key]
        carrier.append((key, value))


_GETTER, _SETTER = _Getter(), _Setter()


def inject(user_properties: Properties = (), context: Context | None = None) -> tuple[tuple[str, str], ...]:
    """User properties with the current context in them, or with `context`: for what no middleware sees, such
    as `Client.publish`. A context that is there already is replaced.

        await client.publish("event/door", "open", user_properties=inject())
    """
    items: Any = user_properties.items() if hasattr(user_properties, "items") else user_properties
    carrier: list[tuple[str, str]] = list(items)
    propagate.inject(carrier, context, _SETTER)
    return tuple(carrier)


def extract(user_properties: Sequence[tuple[str, str]]) -> Context:
    """The context that a message brought; an empty one where it brought none, or a broken one.

    async for message in messages:
        with tracer.start_as_current_span("event", extract(message.user_properties)): ...
    """
    # Not the current context: that is of whoever opened the connection.
    return propagate.extract(user_properties, Context(), _GETTER)


class TracingMiddleware:
    """Spans for a `Requester` (CLIENT) and a `Responder` (SERVER; CONSUMER where no response is wanted).

    A handler's own request is a child of the handler's span. Names are of low cardinality: `respond <filter>`
    by the filter of the handler, `request <filter>` by the first of `filters` that matches, else `request`.
    Error statuses from 500 on mark the span of a handler as failed, on the requester's side all do.

    Args:
        tracer_provider: None: the global one.
        filters: how requests are called, e.g. `cmnd/{device}/power`; topic filters (section 4.7).
        record_topics: whether a span carries the topic itself, as `messaging.destination.name`.

    Raises:
        InvalidTopic, TypeError: `filters` holds what is none.

    Example:
        tracing = TracingMiddleware(filters=["cmnd/{device}/power"])
        async with Requester("mqtt://localhost:1883", middleware=[tracing]) as req:
            await req.request("cmnd/light-in-bedroom/power", "ON")
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        filters: Iterable[str] = (),
        record_topics: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer("reqtt", __version__, tracer_provider)
        self._names = Names(filters)
        self._record_topics = record_topics

    def __repr__(self) -> str:
        return "TracingMiddleware()"

    def for_responder(self, spec: ResponderSpec) -> Callable[[Request, Any], Awaitable[Response]]:
        """The same for one handler, whose filter it knows. The `Responder` asks for it."""

        async def respond(request: Request, call_next: Any) -> Response:
            return await self._respond(request, call_next, spec)

        return respond

    async def __call__(self, request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        if isinstance(request, Request):
            return await self._respond(request, call_next, None)
        name = self._names.of(request.topic)
        attributes = _attributes("request", "send", name)
        if self._record_topics:
            attributes["messaging.destination.name"] = request.topic
        with self._tracer.start_as_current_span(
            "request" if name is None else f"request {name}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                response = await call_next(request.replace(user_properties=inject(request.user_properties)))
            except BaseException as error:
                outcome = request_outcome(error)
                if isinstance(outcome, int):
                    span.set_attribute("reqtt.status", outcome)
                _failed(span, error, type(error).__name__ if isinstance(outcome, str) else str(outcome))
                raise
            span.set_attribute("reqtt.status", response.status)
            return response

    async def _respond(self, request: Request, call_next: Any, spec: ResponderSpec | None) -> Response:
        name = None if spec is None else spec.topic_filter
        attributes = _attributes("respond", "process", name)
        if spec is not None and spec.group is not None:
            attributes["messaging.consumer.group.name"] = spec.group
        if self._record_topics:
            attributes["messaging.destination.name"] = request.topic
        queue = waited(request)
        if queue is not None:
            attributes["reqtt.queue_time"] = queue
        start = time.perf_counter()
        with self._tracer.start_as_current_span(
            "respond" if name is None else f"respond {name}",
            extract(request.user_properties),
            kind=SpanKind.CONSUMER if request.response_topic is None else SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                response: Response = await call_next(request)
            except BaseException as error:
                outcome = handler_outcome(error, spec, time.perf_counter() - start)
                if isinstance(outcome, int):
                    span.set_attribute("reqtt.status", outcome)
                if isinstance(outcome, str) or outcome >= 500 or outcome == 408:
                    _failed(span, error, type(error).__name__)
                else:
                    # An answer like any other: the requester asked for the wrong thing.
                    span.set_attribute("error.type", str(outcome))
                raise
            span.set_attribute("reqtt.status", response.status)
            if response.status >= 500:
                span.set_attribute("error.type", str(response.status))
                span.set_status(Status(StatusCode.ERROR))
            return response


def _attributes(operation: str, kind: str, name: str | None) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {
        "messaging.system": "mqtt",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    if name is not None:
        attributes["messaging.destination.template"] = name
    return attributes


def _failed(span: Span, error: BaseException, kind: str) -> None:
    span.record_exception(error)
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, str(error)))
