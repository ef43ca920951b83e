"""Spans: one trace from the requester through the broker and the handler to what the handler asks itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import reqtt
from reqtt import Client, Request, Requester, RequestError, Response, Router, otel, responder
from reqtt._observed import Names
from reqtt.otel import TracingMiddleware
from support.waiting import eventually, run_script

Factory = Callable[..., Awaitable[Any]]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def all(self) -> list[ReadableSpan]:
        """Those that have ended, the first to start first."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    async def take(self, number: int) -> list[ReadableSpan]:
        """So many, exactly. A responder's span may end after the response has come."""
        await eventually(lambda: len(self.all()) >= number)
        found = self.all()
        assert len(found) == number, [span.name for span in found]
        return found


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.provider.shutdown()


@pytest.fixture
def tracing(spans: Spans) -> TracingMiddleware:
    return TracingMiddleware(spans.provider)


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    return span.context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_request_and_handler_are_one_trace(
    broker: Any, serving: Factory, requester: Factory, topic: str, spans: Spans
) -> None:
    @responder(f"{topic}/{{device}}/power", group="lights")
    async def power(device: str) -> str:
        return device

    tracing = TracingMiddleware(spans.provider, filters=[f"{topic}/+/energy", f"{topic}/{{device}}/power"])
    await serving(broker, power, middleware=[tracing])
    req = await requester(broker, middleware=[tracing])
    with spans.tracer.start_as_current_span("outer"):
        assert (await req.request(f"{topic}/lamp/power", timeout=5)).text == "lamp"
    outer, asked, answered = await spans.take(3)
    assert [parent_of(span) for span in (outer, asked, answered)] == [None, id_of(outer), id_of(asked)]
    assert len({span.context.trace_id for span in (outer, asked, answered)}) == 1
    assert (asked.name, asked.kind) == (f"request {topic}/{{device}}/power", SpanKind.CLIENT)
    assert (answered.name, answered.kind) == (f"respond {topic}/{{device}}/power", SpanKind.SERVER)
    common = {"messaging.system": "mqtt", "messaging.destination.template": f"{topic}/{{device}}/power"}
    assert attributes(asked) == {
        **common,
        "messaging.operation.name": "request",
        "messaging.operation.type": "send",
        "reqtt.status": 200,
    }
    queue = attributes(answered).pop("reqtt.queue_time")
    assert 0 <= queue < 2
    assert attributes(answered) == {
        **common,
        "messaging.operation.name": "respond",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "lights",
        "reqtt.status": 200,
        "reqtt.queue_time": queue,
    }
    assert {span.status.status_code for span in (asked, answered)} == {StatusCode.UNSET}


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_the_context_goes_on_into_what_a_handler_asks(
    broker: Any, serving: Factory, requester: Factory, topic: str, tracing: Any, spans: Spans, kind: str
) -> None:
    req = await requester(broker, middleware=[tracing])

    @responder(f"{topic}/inner")
    async def inner() -> str:
        return "inner"

    @responder(f"{topic}/outer")
    async def outer_async() -> str:
        return (await req.request(f"{topic}/inner")).text

    @responder(f"{topic}/outer")
    def outer_plain() -> str:
        # In a worker thread.
        return req.request_sync(f"{topic}/inner").text  # type: ignore[no-any-return]

    await serving(broker, inner, outer_plain if kind == "def" else outer_async, middleware=[tracing])
    assert (await req.request(f"{topic}/outer")).text == "inner"
    found = await spans.take(4)
    assert [span.name for span in found] == [
        "request",
        f"respond {topic}/outer",
        "request",
        f"respond {topic}/inner",
    ]
    assert [parent_of(span) for span in found] == [None, *(id_of(span) for span in found[:3])]


async def test_the_context_travels_as_w3c_user_properties(
    broker: Any, requester: Factory, raw: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    peer = await raw(broker)
    await peer.subscribe(topic)
    req = await requester(broker, middleware=[tracing])
    remote = otel.extract([("traceparent", PARENT), ("tracestate", "vendor=1")])
    with spans.tracer.start_as_current_span("outer", remote):
        # A context that is forwarded does not stay beside the new one.
        asking = asyncio.ensure_future(
            req.request(topic, user_properties=[("a", "1"), ("traceparent", PARENT), ("a", "2")])
        )
        request = await peer.receive()
    await peer.respond(request, "done")
    assert (await asking).text == "done"
    outer, asked = await spans.take(2)
    sent = f"00-{asked.context.trace_id:032x}-{id_of(asked):016x}-01"
    assert request.user_properties == (
        ("a", "1"),
        ("a", "2"),
        ("traceparent", sent),
        ("tracestate", "vendor=1"),
    )
    assert parent_of(outer) == 0xB7AD6B7169203331
    assert f"{asked.context.trace_id:032x}" == PARENT[3:35]


async def test_without_tracing_a_context_is_passed_through(
    broker: Any, serving: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    """OpenTelemetry's API alone makes no spans, but loses no context."""
    tracing = TracingMiddleware(trace.NoOpTracerProvider())
    req = await requester(broker, middleware=[tracing])

    @responder(f"{topic}/inner")
    async def inner(request: Request) -> list[tuple[str, str]]:
        return list(request.user_properties)

    @responder(f"{topic}/outer")
    async def outer() -> Any:
        return (await req.request(f"{topic}/inner")).json()

    await serving(broker, inner, outer, middleware=[tracing])
    peer = await raw(broker)
    response = await peer.request(f"{topic}/outer", user_properties=(("traceparent", PARENT),))
    assert response.payload == f'[["traceparent","{PARENT}"]]'.encode()
    # Nothing to pass on, nothing sent.
    assert (await req.request(f"{topic}/inner")).json() == []


@pytest.mark.parametrize(
    ("raised", "status", "failed", "kind"),
    [
        (RequestError(404, "no such lamp"), 404, False, "404"),
        (RequestError(503, "not now"), 503, True, "RequestError"),
        (LookupError("kitchen"), 500, True, "LookupError"),
        (TimeoutError("of its own"), 500, True, "TimeoutError"),
    ],
    ids=str,
)
async def test_an_error_is_recorded_on_both_sides(
    broker: Any,
    serving: Factory,
    requester: Factory,
    topic: str,
    tracing: Any,
    spans: Spans,
    raised: Exception,
    status: int,
    failed: bool,
    kind: str,
) -> None:
    @responder(topic)
    async def broken() -> None:
        raise raised

    await serving(broker, broken, middleware=[tracing])
    req = await requester(broker, middleware=[tracing])
    with pytest.raises(reqtt.RemoteError) as caught:
        await req.request(topic)
    assert caught.value.status == status
    asked, answered = await spans.take(2)
    assert attributes(asked)["reqtt.status"] == attributes(answered)["reqtt.status"] == status
    assert (attributes(asked)["error.type"], attributes(answered)["error.type"]) == (str(status), kind)
    # What a requester did wrong is no failure of the responder.
    assert answered.status.is_ok is not failed
    assert [event.name for event in answered.events] == (["exception"] if failed else [])
    assert not asked.status.is_ok
    assert [event.name for event in asked.events] == ["exception"]


async def test_a_handler_that_is_cut_off_says_408_and_one_that_asks_in_vain_504(
    broker: Any, serving: Factory, requester: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    @responder(f"{topic}/slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    req = await requester(broker, middleware=[tracing])

    @responder(f"{topic}/asks")
    async def asks() -> None:
        await req.request(f"{topic}/nobody", timeout=0.05, fail_fast=False)

    await serving(broker, slow, asks, middleware=[tracing])
    for name, status in (("slow", 408), ("asks", 504)):
        with pytest.raises(reqtt.RemoteError) as caught:
            await req.request(f"{topic}/{name}")
        assert caught.value.status == status
    await eventually(lambda: len(spans.all()) == 5)
    assert [attributes(span).get("reqtt.status") for span in spans.all()] == [408, 408, 504, 504, None]
    assert [span.status.is_ok for span in spans.all()] == [False] * 5
    unanswered = spans.all()[-1]
    assert attributes(unanswered)["error.type"] == "ResponseTimeout"


async def test_what_the_broker_and_the_caller_end_is_recorded(
    broker: Any, requester: Factory, raw: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    req = await requester(broker, middleware=[tracing])
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(topic)
    await (await raw(broker)).subscribe(topic)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await req.request(topic)
    kinds = [attributes(span)["error.type"] for span in await spans.take(2)]
    assert kinds == ["NoMatchingSubscribers", "CancelledError"]


async def test_topics_are_recorded_only_when_asked_for(
    broker: Any, serving: Factory, requester: Factory, topic: str, spans: Spans
) -> None:
    @responder(f"{topic}/+")
    async def anything() -> None:
        pass

    tracing = TracingMiddleware(spans.provider, record_topics=True)
    await serving(broker, anything, middleware=[tracing])
    req = await requester(broker, middleware=[tracing])
    await req.request(f"{topic}/secret")
    asked, answered = await spans.take(2)
    assert (asked.name, answered.name) == ("request", f"respond {topic}/+")
    for span in (asked, answered):
        assert attributes(span)["messaging.destination.name"] == f"{topic}/secret"


async def test_a_topic_is_nowhere_else(
    broker: Any, serving: Factory, requester: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    @responder(f"{topic}/+")
    async def anything() -> None:
        pass

    await serving(broker, anything, middleware=[tracing])
    req = await requester(broker, middleware=[tracing])
    await req.request(f"{topic}/secret", "payload-secret")
    assert "secret" not in "".join(span.to_json() for span in await spans.take(2))


@pytest.mark.parametrize(
    "parent", ["", "nonsense", PARENT + "-more", "00-" + "0" * 32 + PARENT[35:], "ff" + PARENT[2:]]
)
async def test_a_broken_context_begins_a_new_trace(
    broker: Any, serving: Factory, raw: Factory, topic: str, tracing: Any, spans: Spans, parent: str
) -> None:
    @responder(topic)
    async def works() -> str:
        return "works"

    await serving(broker, works, middleware=[tracing])
    peer = await raw(broker)
    response = await peer.request(topic, user_properties=(("traceparent", parent), ("tracestate", "=,=")))
    assert response.payload == b"works"
    [answered] = await spans.take(1)
    assert answered.parent is None


async def answer() -> Response:
    return Response("done")


async def test_who_opened_the_connection_is_no_parent(
    broker: Any, serving: Factory, raw: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    @responder(topic)
    async def works() -> None:
        pass

    with spans.tracer.start_as_current_span("main"):
        await serving(broker, works, middleware=[tracing])
        await (await raw(broker)).request(topic)
        # Wherever it runs.
        await tracing(Request("t"), lambda request: answer())
    main, *answered = await spans.take(3)
    assert main.name == "main"
    assert [span.parent for span in answered] == [None, None]


async def test_a_one_way_request_is_consumed_and_joined_by_inject(
    broker: Any, serving: Factory, client: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    @responder(topic)
    async def event() -> None:
        pass

    await serving(broker, event, middleware=[tracing])
    publisher: Client = await client(broker)
    with spans.tracer.start_as_current_span("outer"):
        await publisher.publish(topic, user_properties=otel.inject({"a": "1"}))
    outer, consumed = await spans.take(2)
    assert (consumed.kind, parent_of(consumed)) == (SpanKind.CONSUMER, id_of(outer))
    assert otel.inject([("a", "1")]) == (("a", "1"),)


async def test_the_middleware_of_a_router_knows_the_filter(
    broker: Any, serving: Factory, requester: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    router = Router(topic, middleware=[tracing])

    @router.responder("{device}/power")
    async def power(device: str) -> Response:
        return Response(device, status=207)

    await serving(broker, router)
    req: Requester = await requester(broker)
    await req.request(f"{topic}/lamp/power")
    [answered] = await spans.take(1)
    assert answered.name == f"respond {topic}/{{device}}/power"
    assert attributes(answered)["reqtt.status"] == 207


async def test_time_in_the_queue_is_on_the_span_of_the_handler(
    broker: Any, serving: Factory, requester: Factory, topic: str, tracing: Any, spans: Spans
) -> None:
    @responder(topic, concurrency=1)
    async def one_by_one() -> None:
        await asyncio.sleep(0.1)

    await serving(broker, one_by_one, middleware=[tracing])
    req = await requester(broker)
    await asyncio.gather(req.request(topic), req.request(topic))
    first, second = await spans.take(2)
    assert attributes(first)["reqtt.queue_time"] < 0.09 <= attributes(second)["reqtt.queue_time"] < 1


def test_what_has_a_filter_stands_for_it() -> None:
    names = Names([SimpleNamespace(topic_filter="cmnd/{device}/power"), "cmnd/#", "cmnd/+/energy"])
    assert names.of("cmnd/lamp/power") == "cmnd/{device}/power"
    # The first that matches, not the most specific.
    assert names.of("cmnd/lamp/energy") == "cmnd/#"
    assert names.of("state/lamp") is None


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("otel", "opentelemetry", "reqtt[otel]"), ("prometheus", "prometheus_client", "reqtt[prometheus]")],
)
def test_without_its_extra_one_line_says_how_to_get_it(module: str, missing: str, extra: str) -> None:
    done = run_script(
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "import reqtt\n"
        f"try: import reqtt.{module}\n"
        "except ImportError as error: print(error)"
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert f"pip install '{extra}'" in done.stdout


def test_import_reqtt_loads_none_of_it() -> None:
    modules = "('opentelemetry', 'prometheus_client', 'reqtt.otel', 'reqtt.prometheus', 'reqtt.asyncapi')"
    done = run_script(
        f"import reqtt, sys\nprint([name for name in sys.modules if name.startswith({modules})])"
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("wrong", ["cmnd/#/x", "a/{b", ""])
def test_a_filter_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(reqtt.InvalidTopic):
        TracingMiddleware(filters=[wrong])
    with pytest.raises(TypeError, match=r"write \("):
        TracingMiddleware(filters="cmnd/+/power")
    with pytest.raises(TypeError, match="not 5"):
        TracingMiddleware(filters=[5])  # type: ignore[list-item]
