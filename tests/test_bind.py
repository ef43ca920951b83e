"""From a request to a handler's arguments, and from its outcome to one reply."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import enum
import functools
import json
import logging
import sys
import threading
import types
import typing
import uuid

import pytest

from reqtt import codecs, errors
from reqtt._core import Request, Response
from reqtt._workers import Workers
from reqtt.errors import InvalidTopic, RequestError
from reqtt.responder import ResponderSpec, compile_runner, responder
from reqtt.router import Router, collect

Client = type("Client", (), {"__module__": "reqtt.client"})
CLIENT = Client()

PROBLEM = "application/problem+json"


@dataclasses.dataclass
class Lamp:
    name: str
    level: int = 0


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


def request(payload=b"", topic="t", **properties):
    return Request(topic, payload, response_topic="r", correlation_data=b"c", **properties)


def spec_of(handler, topic_filter="t", **options):
    if not hasattr(handler, "__reqtt_responder__"):
        responder(topic_filter, **options)(handler)
    [spec] = collect(handler)
    return spec


async def run(handler, incoming, topic_filter="t", *, middleware=(), interop="plain", **options):
    spec = spec_of(handler, topic_filter, **options)
    runner = compile_runner(spec, client=CLIENT, workers=None, middleware=middleware, interop=interop)
    await asyncio.create_task(runner(incoming))
    return incoming._outcome


def error_of(outcome):
    kind, payload, status, content_type, indicator, properties = outcome
    assert (kind, content_type, indicator) == ("reply", PROBLEM, 1)
    body = json.loads(payload)
    properties = dict(properties)
    assert properties["__stMsg"] == body["detail"]
    assert "__stat" not in properties
    return status, body["detail"], properties["__apErr"] == "true"


async def bound(handler, topic_filter="t", payload=b"", captures=None, **properties):
    """The result of a handler that returns its arguments."""
    seen = []

    @functools.wraps(handler)
    async def wrapper(*args, **kwargs):
        seen.append(handler(*args, **kwargs))

    outcome = await run(wrapper, request(payload, captures=captures, **properties), topic_filter)
    return seen[0] if seen else outcome


# --- decoration


def test_decorator_returns_the_same_function_with_a_frozen_specification():
    async def handler(device: str, body: bytes) -> bytes:
        return body

    decorated = responder("cmnd/{device}/power", qos=2, group="g", concurrency=3, timeout=2)(handler)
    assert decorated is handler
    spec = handler.__reqtt_responder__
    assert isinstance(spec, ResponderSpec)
    assert (spec.handler, spec.topic_filter, spec.mqtt_filter) == (
        handler,
        "cmnd/{device}/power",
        "cmnd/+/power",
    )
    assert (spec.captures, spec.qos, spec.group, spec.concurrency, spec.timeout) == (
        ("device",),
        2,
        "g",
        3,
        2.0,
    )
    assert (spec.ack, spec.deduplicate, spec.without_response_topic) == ("after_response", True, "run")
    assert (spec.allowed_response_topics, spec.retained) == (("#",), False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.qos = 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"qos": 3}, ValueError),
        ({"qos": -1}, ValueError),
        ({"qos": True}, TypeError),
        ({"qos": "1"}, TypeError),
        ({"group": ""}, ValueError),
        ({"group": "a/b"}, ValueError),
        ({"group": "a+"}, ValueError),
        ({"group": "#"}, ValueError),
        ({"group": 1}, TypeError),
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.5}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"ack": "later"}, ValueError),
        ({"without_response_topic": "maybe"}, ValueError),
        ({"deduplicate": 1}, TypeError),
        ({"retained": "no"}, TypeError),
        ({"allowed_response_topics": "clients/#"}, TypeError),
        ({"allowed_response_topics": [1]}, TypeError),
        ({"allowed_response_topics": ["a/{b}"]}, InvalidTopic),
        ({"allowed_response_topics": ["a#"]}, InvalidTopic),
    ],
)
def test_option_out_of_range_is_refused_at_decoration(options, error):
    with pytest.raises(error, match=next(iter(options)) if error is not InvalidTopic else None):
        responder("t", **options)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+", "$share/g/t"])
def test_invalid_filter_is_refused_at_decoration(topic_filter):
    with pytest.raises(InvalidTopic):
        responder(topic_filter)


def test_decorator_without_a_filter_says_how_to_write_it():
    with pytest.raises(TypeError, match=r'@responder\("'):
        responder(lambda body: body)


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (lambda a, b: None, "'a'"),
        (lambda body, a: None, "'a'"),
        (lambda device, body, *, extra: None, "'extra'"),
        (lambda *args: None, r"\*args"),
        (lambda body, **kwargs: None, r"\*\*kwargs"),
    ],
)
def test_argument_that_nothing_can_fill_is_refused_at_decoration(handler, name):
    with pytest.raises(TypeError, match=name):
        responder("cmnd/{device}")(handler)


def test_refusal_says_what_could_fill_the_argument():
    with pytest.raises(TypeError, match=r"\{device\}.*payload.*Request.*Client.*default"):
        responder("cmnd/{device}")(lambda one, two: None)


def test_type_without_codec_is_refused_at_decoration():
    class Socket: ...

    async def takes(body: Socket): ...

    async def gives(body: bytes) -> dict[str, Socket]: ...

    async def captures(device: Socket, body: bytes): ...

    async def ambiguous(body: bytes | dict): ...

    for handler, match in [(takes, "'body'.*no codec"), (captures, "'device'"), (ambiguous, "ambiguous")]:
        with pytest.raises(TypeError, match=match):
            responder("t/{device}")(handler)


def test_generator_that_is_not_async_is_refused_at_decoration():
    def generate(body: bytes):
        yield body

    with pytest.raises(TypeError, match="only async generators stream"):
        responder("t")(generate)


def test_name_that_cannot_be_resolved_is_refused_at_decoration():
    async def handler(body: Nowhere): ...  # noqa: F821

    with pytest.raises(TypeError, match=r"'Nowhere'.*before the handler"):
        responder("t")(handler)


# --- binding


async def test_captures_bind_by_name_and_the_payload_to_body():
    result = await bound(
        lambda body, rest, device: (body, rest, device),
        "cmnd/{device}/{rest:#}",
        b"x",
        {"device": "lamp", "rest": "a/b"},
    )
    assert result == (b"x", "a/b", "lamp")


async def test_single_remaining_parameter_gets_the_payload():
    assert await bound(lambda device, text: (device, text), "c/{device}", b"x", {"device": "d"}) == (
        "d",
        b"x",
    )
    assert await bound(lambda text, limit=3: (text, limit), payload=b"x") == (b"x", 3)
    assert await bound(lambda text=b"y": text, payload=b"x") == b"x"


async def test_request_and_client_bind_by_type():
    def handler(one: Request, two: Client, body):
        return one.topic, two, body

    assert await bound(handler, payload=b"x") == ("t", CLIENT, b"x")


async def test_handler_without_parameters_is_called_without():
    assert await bound(lambda: "called") == "called"


async def test_keyword_only_and_positional_only_parameters_are_filled():
    def handler(device, /, limit=3, *, body: str, request: Request, extra=None):
        return device, limit, body, request.topic, extra

    assert await bound(handler, "c/{device}", b"x", {"device": "d"}) == ("d", 3, "x", "t", None)


async def test_five_parameters_are_filled():
    def handler(a: int, b: float, c, d: bool, body: list[int]):
        return a, b, c, d, body

    captures = {"a": "-7", "b": "1.5", "c": "x", "d": "true"}
    assert await bound(handler, "{a}/{b}/{c}/{d}", b"[1]", captures) == (-7, 1.5, "x", True, [1])


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "007", "007"),
        (typing.Any, "x", "x"),
        (int, "007", 7),
        (float, "1e3", 1000.0),
        (bool, "False", False),
        (bytes, "ü", "ü".encode()),
        (uuid.UUID, "00000000-0000-0000-0000-000000000001", uuid.UUID(int=1)),
        (Color, "red", Color.RED),
        (Level, "1", Level.LOW),
        (typing.Literal["a", 1], "1", 1),
        (int | None, "5", 5),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
    ],
)
async def test_capture_is_converted_by_its_annotation(annotation, text, value):
    def handler(x, body): ...

    handler.__annotations__ = {"x": annotation}
    seen = []

    async def record(x, body):
        seen.append(x)

    record.__annotations__ = {"x": annotation}
    assert (await run(record, request(captures={"x": text}), "{x}"))[2] == 204
    assert seen == [value]
    assert type(seen[0]) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "x"),
        (int, ""),
        (int, "1_0"),
        (int, " 1"),
        (int, "٣"),
        (int, "1 "),
        (int, "9" * 10_000),
        (float, "nan"),
        (float, "x"),
        (bool, "2"),
        (uuid.UUID, "x"),
        (Color, "blue"),
        (typing.Literal["a"], "b"),
        (datetime.date, "tomorrow"),
    ],
)
async def test_capture_that_does_not_convert_is_a_404_and_the_handler_does_not_run(annotation, text):
    async def handler(lamp, body):
        raise AssertionError

    handler.__annotations__ = {"lamp": annotation}
    status, message, application = error_of(await run(handler, request(captures={"lamp": text}), "{lamp}"))
    assert (status, application) == (404, False)
    assert message.startswith("no such lamp")
    assert len(message) < 200


async def test_annotations_local_to_a_function_are_resolved():
    class Local(typing.TypedDict):
        a: int

    @responder("t")
    async def handler(body: Local) -> Local:
        return {"a": body["a"] + 1}

    assert (await run(handler, request(b'{"a":1}')))[1] == b'{"a":2}'


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (str, b"x", "x"),
        (dict, b'{"a":1}', {"a": 1}),
        (Lamp, b'{"name":"x"}', Lamp("x")),
        (bytearray, b"x", bytearray(b"x")),
        (Lamp | None, b"", None),
    ],
)
async def test_payload_is_decoded_by_the_annotation(annotation, payload, value):
    def handler(body):
        return (body,)

    handler.__annotations__ = {"body": annotation}
    assert await bound(handler, payload=payload) == (value,)


async def test_empty_payload_takes_the_default():
    def handler(body: dict = None):  # noqa: RUF013
        return (body,)

    assert await bound(handler) == (None,)
    assert await bound(handler, payload=b"{}") == ({},)


async def test_payload_that_cannot_be_decoded_is_a_400_that_names_the_field():
    async def handler(body: Lamp):
        raise AssertionError

    status, message, application = error_of(await run(handler, request(b'{"name":1}')))
    assert (status, application) == (400, False)
    assert "$.name" in message


async def test_wrong_content_type_is_a_415_that_names_the_property():
    async def handler(body: Lamp):
        raise AssertionError

    outcome = await run(handler, request(b"{}", content_type="image/png"))
    assert error_of(outcome)[::2] == (415, False)
    assert ("__propName", "Content Type") in outcome[5]
    assert ("__propVal", "image/png") in outcome[5]


async def test_request_decoded_in_the_handler_answers_like_a_bound_body():
    async def handler(request: Request):
        codecs.decode_request(request.payload, Lamp, request.content_type)

    assert error_of(await run(handler, request(b"{")))[::2] == (400, False)
    assert error_of(await run(handler, request(b"{}", content_type="image/png")))[::2] == (415, False)


# --- results


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (b"x", (b"x", 200, None, None)),
        (bytearray(b"x"), (b"x", 200, None, None)),
        ("x", (b"x", 200, "text/plain", 1)),
        ({"a": 1}, (b'{"a":1}', 200, "application/json", 1)),
        (Lamp("x"), (b'{"name":"x","level":0}', 200, "application/json", 1)),
        (0, (b"0", 200, "application/json", 1)),
        (None, (b"", 204, None, None)),
        (b"", (b"", 204, None, None)),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_result_is_encoded_by_its_type(result, reply, threaded):
    def in_thread(body):
        return result

    async def on_loop(body):
        return result

    outcome = await run(in_thread if threaded else on_loop, request())
    assert outcome == ("reply", *reply, ())


async def test_result_is_encoded_by_the_return_annotation():
    async def handler(body) -> typing.Literal["on", "off"]:
        return "on"

    assert (await run(handler, request()))[1:4] == (b'"on"', 200, "application/json")


async def test_response_gives_full_control():
    async def handler(body) -> Response:
        return Response(
            b"x",
            status=202,
            content_type="a/b",
            payload_format_indicator=0,
            user_properties=[("k", "1"), ("__stat", "200"), ("k", "2")],
        )

    assert await run(handler, request()) == ("reply", b"x", 202, "a/b", 0, (("k", "1"), ("k", "2")))


@pytest.mark.parametrize("result", [object(), {"a": object()}, "\ud800"])
async def test_result_that_cannot_be_encoded_is_a_500_and_logged(result, caplog):
    async def handler(body):
        return result

    assert error_of(await run(handler, request())) == (500, "internal error", True)
    assert [(record.name, record.levelname) for record in caplog.records] == [("reqtt.responder", "ERROR")]


# --- errors


@pytest.mark.parametrize("threaded", [False, True])
async def test_request_error_reaches_the_requester(threaded, caplog):
    def in_thread(body):
        raise RequestError(409, "busy", code="E1", data={"retry": 3})

    async def on_loop(body):
        in_thread(body)

    outcome = await run(in_thread if threaded else on_loop, request())
    assert error_of(outcome) == (409, "busy", True)
    assert json.loads(outcome[1])["data"] == {"retry": 3}
    assert ("AppErrCode", "E1") in outcome[5]
    assert not caplog.records


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("hunter2"),
        StopIteration(),
        TimeoutError(),
        errors.ClientClosed(),
        errors.DecodeError("hunter2"),
    ],
    ids=repr,
)
async def test_any_other_exception_is_a_500_without_detail_and_logged_with_traceback(threaded, error, caplog):
    def in_thread(body):
        raise error

    async def on_loop(body):
        raise error

    outcome = await run(in_thread if threaded else on_loop, request(b"payload"), timeout=5)
    assert error_of(outcome) == (500, "internal error", True)
    assert b"hunter2" not in outcome[1]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("reqtt.responder", logging.ERROR)
    assert record.exc_info
    assert "payload" not in record.getMessage()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ResponseTimeout("hunter2", topic="x", timeout=1, phase="response"), 504),
        (errors.NotFound("hunter2", status=404), 502),
        (errors.RemoteError("hunter2", status=500), 502),
    ],
)
async def test_failure_of_the_handlers_own_request_becomes_502_or_504(error, status):
    async def handler(body):
        raise error

    outcome = await run(handler, request())
    assert error_of(outcome)[::2] == (status, True)
    assert b"hunter2" not in outcome[1]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
async def test_exit_is_answered_and_raised(error, caplog):
    async def handler(body):
        raise error

    incoming = request()
    runner = compile_runner(spec_of(handler), client=None, workers=None)
    with pytest.raises(type(error)):
        await runner(incoming)
    assert error_of(incoming._outcome)[0] == 500


async def test_azure_peers_get_500_with_the_original_status():
    async def handler(body):
        raise RequestError(404, "no such device")

    outcome = await run(handler, request(), interop="azure")
    assert outcome[2] == 500
    assert ("AppErrCode", "404") in outcome[5]


async def test_response_that_cannot_be_sent_becomes_a_500(caplog):
    class Narrow:
        topic, payload, content_type, outcome = "t", b"", None, None

        def _reply(self, payload, status, *rest):
            if payload == b"large":
                raise errors.PacketTooLarge("m", size=2, maximum=1)
            self.outcome = status

    async def handler(body):
        return b"large"

    incoming = Narrow()
    await compile_runner(spec_of(handler), client=None, workers=None)(incoming)
    assert incoming.outcome == 500


# --- time


async def test_handler_that_takes_too_long_is_cancelled_and_answered_with_408():
    cancelled = []

    async def handler(body):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    assert error_of(await run(handler, request(), timeout=0.01)) == (
        408,
        "handler did not finish within 0.01 s",
        False,
    )
    assert cancelled == [True]


@pytest.mark.parametrize("late", ["result", "error"])
async def test_late_outcome_of_a_timed_out_handler_is_dropped(late):
    async def handler(body):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if late == "error":
                raise ValueError from None
            return b"late"

    assert error_of(await run(handler, request(), timeout=0.01))[0] == 408


async def test_thread_that_takes_too_long_is_answered_with_408():
    release = threading.Event()

    def handler(body):
        release.wait(10)
        return b"late"

    try:
        assert error_of(await run(handler, request(), timeout=0.01))[0] == 408
    finally:
        release.set()


async def test_handler_within_its_time_is_answered_as_usual():
    async def handler(body):
        await asyncio.sleep(0)
        return b"x"

    assert (await run(handler, request(), timeout=10))[1:3] == (b"x", 200)


async def test_cancelled_task_answers_503_and_stays_cancelled():
    started = asyncio.Event()

    async def handler(body):
        started.set()
        await asyncio.Event().wait()

    incoming = request()
    runner = compile_runner(spec_of(handler, timeout=10), client=None, workers=None)
    task = asyncio.create_task(runner(incoming))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert error_of(incoming._outcome) == (503, "responder is shutting down", False)


async def test_cancelled_future_within_the_handler_is_its_own_failure(caplog):
    async def handler(body):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert error_of(await run(handler, request()))[0] == 500


# --- threads and wrappers


async def test_plain_function_runs_in_a_worker_with_the_context():
    variable = contextvars.ContextVar("variable")
    variable.set("here")

    def handler(body):
        return f"{threading.current_thread().name} {variable.get()}"

    workers = Workers(1)
    incoming = request()
    await compile_runner(spec_of(handler), client=None, workers=workers)(incoming)
    workers.shutdown()
    assert incoming._outcome[1] == b"reqtt-worker_0 here"


async def test_wrapped_handlers_keep_their_parameters():
    def logged(handler):
        @functools.wraps(handler)
        def wrapper(*args, **kwargs):
            return handler(*args, **kwargs)

        return wrapper

    @responder("c/{device}")
    @logged
    async def handler(device: int, body: str) -> str:
        return f"{device} {body}"

    assert (await run(handler, request(b"x", captures={"device": "4"})))[1] == b"4 x"


async def test_partial_and_callable_object_are_handlers():
    async def scale(factor, body: int) -> int:
        return factor * body

    class Doubler:
        async def __call__(self, body: int) -> int:
            return 2 * body

    assert (await run(functools.partial(scale, 3), request(b"2")))[1] == b"6"
    assert (await run(Doubler(), request(b"2")))[1] == b"4"


# --- middleware


async def test_middleware_runs_in_order_around_the_handler():
    order = []

    def layer(name):
        async def middleware(request, call_next):
            order.append(name)
            response = await call_next(request)
            order.append(response.payload)
            return Response(response.payload + name.encode(), status=response.status)

        return middleware

    async def handler(body: str) -> str:
        order.append("handler")
        return "x"

    outcome = await run(handler, request(), middleware=[layer("a"), layer("b")])
    assert order == ["a", "b", "handler", b"x", b"xb"]
    assert outcome[1:3] == (b"xba", 200)


async def test_middleware_may_answer_instead_of_the_handler():
    async def gate(request, call_next):
        raise RequestError(403, "not you")

    async def handler(body):
        raise AssertionError

    assert error_of(await run(handler, request(), middleware=[gate])) == (403, "not you", True)


async def test_middleware_sees_what_the_handler_raises():
    async def forgiving(request, call_next):
        try:
            return await call_next(request)
        except RequestError as error:
            return Response(str(error.status).encode())

    async def handler(body: dict):
        raise RequestError(409, "busy")

    assert (await run(handler, request(b"{}"), middleware=[forgiving]))[1] == b"409"
    assert (await run(handler, request(b"{"), middleware=[forgiving]))[1] == b"400"


# --- collection


class Lights:
    def __init__(self):
        self.names = []

    @responder("lights/{name}")
    async def switch(self, name: str, body: str) -> str:
        self.names.append(name)
        return body


def make(topic_filter, **options):
    async def handler(body): ...

    handler.__qualname__ = f"handler_{topic_filter}"
    return responder(topic_filter, **options)(handler)


def filters(handlers, **options):
    return [spec.topic_filter for spec in collect(handlers, **options)]


def test_functions_iterables_and_routers_are_collected():
    router = Router(prefix="site1/")
    router.responder("c")(lambda body: None)
    assert filters([make("a"), (make(name) for name in ("b", "b2")), router]) == ["a", "b", "b2", "site1/c"]
    assert filters(make("a")) == ["a"]


def test_module_is_collected_with_its_routers():
    module = types.ModuleType("handlers")
    inner, outer = Router("inner"), Router("outer")
    inner.responder("x")(lambda body: None)
    outer.include(inner)
    module.power, module.again = make("a"), None
    module.again = module.power
    module.inner, module.outer, module.responder, module.sys = inner, outer, responder, sys
    assert filters(module) == ["a", "outer/inner/x"]


async def test_bound_methods_and_instances_are_collected():
    lights = Lights()
    for handlers in (lights.switch, [lights], lights):
        [spec] = collect(handlers)
        incoming = request(b"on", captures={"name": "x"})
        await compile_runner(spec, client=None, workers=None)(incoming)
        assert incoming._outcome[1] == b"on"
    assert lights.names == ["x", "x", "x"]


def test_method_without_its_instance_is_refused():
    with pytest.raises(TypeError, match="instance"):
        collect([Lights.switch])


def test_two_handlers_for_one_filter_are_refused_by_name():
    with pytest.raises(ValueError, match=r"handler_a/\{x\}.*handler_a/\{y\}"):
        collect([make("a/{x}"), make("a/{y}")])
    with pytest.raises(ValueError, match="in group 'g'"):
        collect([make("a"), make("a", group="g")], group="g")
    assert len(collect([make("a"), make("a", group="g")])) == 2


def test_the_same_handler_twice_is_collected_once():
    handler = make("a")
    assert filters([handler, handler]) == ["a"]


def test_one_function_may_answer_several_filters():
    handler = responder("b")(responder("a")(make("c")))
    assert sorted(filters(handler)) == ["a", "b", "c"]
    assert sorted(filters(responder("b", qos=0)(handler))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "handlers", [lambda body: None, "module:handler", 3, None, {}, Lights, [make("a"), len]]
)
def test_what_is_no_handler_is_refused(handlers):
    with pytest.raises(TypeError, match="handler"):
        collect(handlers)


@pytest.mark.parametrize("handlers", [[], types.ModuleType("empty"), Router("x")], ids=repr)
def test_nothing_to_serve_is_refused(handlers):
    with pytest.raises(ValueError, match="nothing to serve"):
        collect(handlers)


@pytest.mark.parametrize("group", ["", "a/b", "+"])
def test_group_of_the_collection_is_checked(group):
    with pytest.raises(ValueError, match="group"):
        collect(make("a"), group=group)


def test_group_of_the_collection_does_not_replace_a_handlers_own():
    assert [spec.group for spec in collect([make("a"), make("b", group="own")], group="g")] == ["g", "own"]


def test_router_leaves_the_function_as_it_is():
    router = Router("site/{site}")

    @router.responder("power", qos=0)
    async def power(site: str, body: str): ...

    assert not hasattr(power, "__reqtt_responder__")
    [spec] = collect(router)
    assert (spec.topic_filter, spec.mqtt_filter, spec.captures, spec.qos) == (
        "site/{site}/power",
        "site/+/power",
        ("site",),
        0,
    )
    with pytest.raises(TypeError, match="power"):
        collect(power)


def test_router_cannot_include_itself():
    one, two = Router("a"), Router("b")
    one.include(two)
    with pytest.raises(ValueError, match="itself"):
        two.include(one)
