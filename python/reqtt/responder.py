"""From a function to a responder: the decorator, the binding of arguments, and the runner of one request.

Owns what happens between a request and its outcome. Knows nothing of connections, acknowledgements,
duplicates, expiry or concurrency: those are facts in the specification, and the core acts on them.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import inspect
import logging
import math
import re
import sys
import typing
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypedDict,
    TypeVar,
    get_args,
    get_origin,
)

from reqtt import codecs
from reqtt._core import Request, Response, parse_filter
from reqtt._status import error_reply, is_azure, wire_status
from reqtt.dependencies import Bound, Depends, Open, bind, closing, depends_in, resolving
from reqtt.errors import (
    DecodeError,
    InvalidTopic,
    RemoteError,
    RequestError,
    ResponseTimeout,
)

if TYPE_CHECKING:
    import msgspec

    from reqtt import Client
    from reqtt._workers import Workers
    from reqtt.journal import Journal
    from reqtt.lifespan import Lifespan
    from reqtt.serving import Responder
    from reqtt.streaming import Control
else:
    from reqtt import _msgspec as msgspec

__all__ = ["Middleware", "ResponderSpec", "compile_runner", "responder"]

_log = logging.getLogger("reqtt.responder")

F = TypeVar("F", bound=Callable[..., Any])

CallNext: TypeAlias = Callable[[Request], Awaitable[Response]]
Middleware: TypeAlias = Callable[[Request, CallNext], Awaitable[Response]]
"""`async def (request, call_next) -> Response`: runs around the handler; the first one is outermost.

An object with a method `for_responder(spec)` is asked for one for each handler: so it learns the filter.
"""

Runner: TypeAlias = Callable[[Request], Coroutine[Any, Any, int | None]]
"""Answers one request, and gives the status of the answer."""
Reply: TypeAlias = tuple[bytes, int, str | None, int | None, Sequence[tuple[str, str]]]

ATTRIBUTE: Final = "__reqtt_responder__"
_EMPTY: Final = inspect.Parameter.empty


# --- the specification ----------------------------------------------------------------------------


_Kind: TypeAlias = Literal["request", "client", "app", "dependency", "capture", "body", "default"]


@dataclass(frozen=True, slots=True)
class _Argument:
    """What fills one parameter of a handler."""

    name: str
    source: _Kind
    annotation: Any
    default: Any
    by_keyword: bool
    dependency: Bound | None = None


@dataclass(frozen=True, slots=True)
class ResponderSpec:
    """What `@responder` says about a handler. Found as `handler.__reqtt_responder__`.

    `mqtt_filter` is what is subscribed, `topic_filter` what was written, `captures` the names in it. `also`
    holds the specifications of further `@responder` lines on the same function. `tags`, `middleware` and
    `lifespans` are those of the routers above it, the outermost first.
    """

    handler: Callable[..., Any]
    topic_filter: str
    mqtt_filter: str
    captures: tuple[str, ...]
    qos: int = 1
    group: str | None = None
    concurrency: int = 16
    timeout: float | None = None
    ack: Literal["after_response", "on_receipt"] = "after_response"
    deduplicate: bool | Literal["disk"] = True
    without_response_topic: Literal["run", "ignore"] = "run"
    allowed_response_topics: tuple[str, ...] = ("#",)
    retained: bool = False
    arguments: tuple[_Argument, ...] = field(default=(), repr=False)
    returns: Any = field(default=_EMPTY, repr=False)
    also: tuple[ResponderSpec, ...] = field(default=(), repr=False)
    tags: tuple[str, ...] = ()
    middleware: tuple[Middleware, ...] = field(default=(), repr=False)
    lifespans: tuple[Lifespan, ...] = field(default=(), repr=False)

    @property
    def streams(self) -> bool:
        """Whether the handler is an async generator."""
        return inspect.isasyncgenfunction(_body(self.handler))

    content_type: str | None = None  # of what it returns; None: what the annotation says

    @property
    def name(self) -> str:
        """The handler's name for logs and errors."""
        return name_of(self.handler)


class ResponderOptions(TypedDict, total=False):
    """The options of `@responder`."""

    qos: int
    group: str | None
    concurrency: int
    timeout: float | None
    ack: Literal["after_response", "on_receipt"]
    deduplicate: bool | Literal["disk"]
    without_response_topic: Literal["run", "ignore"]
    allowed_response_topics: Sequence[str]
    retained: bool


def responder(
    topic_filter: str,
    *,
    qos: int = 1,
    group: str | None = None,
    concurrency: int = 16,
    timeout: float | None = None,
    ack: Literal["after_response", "on_receipt"] = "after_response",
    deduplicate: bool | Literal["disk"] = True,
    without_response_topic: Literal["run", "ignore"] = "run",
    allowed_response_topics: Sequence[str] = ("#",),
    retained: bool = False,
) -> Callable[[F], F]:
    """Say which requests a function answers (MQTT 5.0, section 4.10). The function itself stays as it is.

    Arguments bind by name and annotation: a capture of the filter by its name, `Request`, `Client` and
    `Responder` by type, `Annotated[T, Depends(function)]` by what the function gives, and `body`, or the
    single parameter that remains, gets the payload, decoded as its annotation says (bytes without one). An
    empty payload takes the default of that parameter where it has one.

    An `async def` with `yield` streams: each item is encoded like a result, by the annotation's item type
    (`AsyncIterator[Reading]`). Its requests are acknowledged on receipt, and `timeout` is for each item.

    `async def` runs on the event loop, `def` in a worker thread. The result is the response: None is an empty
    success, a `Response` is sent as it is, anything else is encoded by the return annotation or by its type.
    `RequestError` is an error response; any other exception is a 500 without detail, and is logged.

    Args:
        topic_filter: `+` and `#` as in MQTT (section 4.7); `{name}` captures one level, `{rest:#}` the rest.
        qos: maximum QoS of the requests, 0 to 2.
        group: shared subscription (section 4.8.2): each request goes to one member of the group.
        concurrency: how many requests may run at a time, from 1.
        timeout: seconds for a handler, above 0; then it is cancelled, and the answer is 408. A worker thread
            cannot be cancelled: its late result is dropped.
        ack: acknowledge a request after its response was sent, or on receipt.
        deduplicate: answer a redelivered request with the stored response instead of running it again.
            "disk" does so after a restart, too (see `Responder`): for what must not run twice. It takes two
            writes to the disk for each request. One that a crash cut short is not run again: it is answered
            with 500, as nobody knows how far it came. Needs a Response Topic and Correlation Data.
        without_response_topic: whether a message that asks for no response runs.
        allowed_response_topics: filters; a request with another Response Topic is not run.
        retained: whether retained requests run (section 3.3.1.3).

    Raises:
        InvalidTopic: the filter is not valid.
        ValueError, TypeError: an option out of range; a parameter that nothing can fill; a generator that is
            not async, or one with deduplicate="disk".

    Example:
        @responder("cmnd/{device}/power")
        async def power(device: str, body: str) -> str:
            return LIGHTS.set(device, body)
    """
    specify = specifier(
        topic_filter,
        qos=qos,
        group=group,
        concurrency=concurrency,
        timeout=timeout,
        ack=ack,
        deduplicate=deduplicate,
        without_response_topic=without_response_topic,
        allowed_response_topics=allowed_response_topics,
        retained=retained,
    )

    def decorate(handler: F) -> F:
        return attach(handler, specify(handler, sys._getframe(1)))

    return decorate


def attach(handler: F, spec: ResponderSpec) -> F:
    """Lets the handler carry its specification, beside those it has for other filters."""
    others = tuple(replace(other, also=()) for other in specs_on(handler) if place(other) != place(spec))
    try:
        setattr(handler, ATTRIBUTE, replace(spec, also=others))
    except AttributeError:
        raise TypeError(
            f"{spec.name} cannot carry a specification: decorate the function, or a method in its class"
        ) from None
    return handler


def specifier(
    topic_filter: str,
    *,
    qos: int = 1,
    group: str | None = None,
    concurrency: int = 16,
    timeout: float | None = None,
    ack: Literal["after_response", "on_receipt"] = "after_response",
    deduplicate: bool | Literal["disk"] = True,
    without_response_topic: Literal["run", "ignore"] = "run",
    allowed_response_topics: Sequence[str] = ("#",),
    retained: bool = False,
) -> Callable[[Callable[..., Any], FrameType], ResponderSpec]:
    """Check the options; what is left is the handler, and the frame in which it was defined."""
    if not isinstance(topic_filter, str):
        raise TypeError('topic_filter must be a str: write @responder("cmnd/{device}/power")')
    mqtt_filter, captures = parse(topic_filter)
    _check_options(qos, group, concurrency, timeout, ack, without_response_topic)
    if not isinstance(deduplicate, bool) and deduplicate != "disk":
        raise TypeError(f'deduplicate must be True, False or "disk", not {deduplicate!r}')
    if not isinstance(retained, bool):
        raise TypeError(f"retained must be True or False, not {retained!r}")
    allowed = _allowed_response_topics(allowed_response_topics)

    def specify(handler: Callable[..., Any], frame: FrameType) -> ResponderSpec:
        arguments, returns = _bind(handler, captures, frame)
        if deduplicate == "disk" and inspect.isasyncgenfunction(_body(handler)):
            raise TypeError(f'{name_of(handler)}: a stream cannot be kept by deduplicate="disk"')
        return ResponderSpec(
            handler=handler,
            topic_filter=topic_filter,
            mqtt_filter=mqtt_filter,
            captures=captures,
            qos=qos,
            group=group,
            concurrency=concurrency,
            timeout=None if timeout is None else float(timeout),
            ack=ack,
            deduplicate=deduplicate,
            without_response_topic=without_response_topic,
            allowed_response_topics=allowed,
            retained=retained,
            arguments=arguments,
            returns=returns,
        )

    return specify


def parse(topic_filter: str) -> tuple[str, tuple[str, ...]]:
    if topic_filter.startswith("$share/"):
        raise InvalidTopic(f'invalid topic "{topic_filter}": leave out $share/, and use group=')
    mqtt_filter, captures = parse_filter(topic_filter)
    return mqtt_filter, tuple(captures)


def _check_options(
    qos: int,
    group: str | None,
    concurrency: int,
    timeout: float | None,
    ack: str,
    without_response_topic: str,
) -> None:
    for option, value in (("qos", qos), ("concurrency", concurrency)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{option} must be an int, not {value!r}")
    if not 0 <= qos <= 2:
        raise ValueError(f"qos must be 0, 1 or 2, not {qos}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    check_group(group)
    if timeout is not None:
        if not isinstance(timeout, int | float) or isinstance(timeout, bool):
            raise TypeError(f"timeout must be seconds, not {timeout!r}")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"timeout must be above 0 and finite, in seconds, not {timeout}")
    if ack not in ("after_response", "on_receipt"):
        raise ValueError(f'ack must be "after_response" or "on_receipt", not {ack!r}')
    if without_response_topic not in ("run", "ignore"):
        raise ValueError(f'without_response_topic must be "run" or "ignore", not {without_response_topic!r}')


def check_group(group: str | None) -> None:
    """A group is one level of `$share/<group>/...` (MQTT 5.0, section 4.8.2, [MQTT-4.8.2-1])."""
    if group is None:
        return
    if not isinstance(group, str):
        raise TypeError(f"group must be a str, not {group!r}")
    if not group or any(character in group for character in "/+#\0"):
        raise ValueError(f"group must be a name without / + #, not {group!r}")


def check_middleware(middleware: Sequence[Middleware]) -> None:
    """Raises TypeError for what cannot be called."""
    for layer in middleware:
        if not callable(layer):
            raise TypeError(f"middleware must be `async def (request, call_next) -> Response`, not {layer!r}")


def _allowed_response_topics(filters: Sequence[str]) -> tuple[str, ...]:
    if isinstance(filters, str | bytes):
        raise TypeError(f"allowed_response_topics must be a sequence of filters: write ({filters!r},)")
    allowed = tuple(filters)
    for topic_filter in allowed:
        if not isinstance(topic_filter, str):
            raise TypeError(f"allowed_response_topics must be filters, not {topic_filter!r}")
        if parse_filter(topic_filter)[0] != topic_filter:
            raise InvalidTopic(f'invalid topic "{topic_filter}": allowed_response_topics take no captures')
    return allowed


def place(spec: ResponderSpec) -> tuple[str, str | None]:
    return spec.mqtt_filter, spec.group


def specs_on(handler: Any) -> tuple[ResponderSpec, ...]:
    spec = getattr(handler, ATTRIBUTE, None)
    return (spec, *spec.also) if isinstance(spec, ResponderSpec) else ()


def is_method(handler: Any) -> bool:
    """Whether a plain function stands in a class body and waits for its instance."""
    if inspect.ismethod(handler) or not inspect.isfunction(handler):
        return False
    scope = handler.__qualname__.rpartition(".")[0]
    if not scope or scope.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(handler).parameters), None)
    return first in ("self", "cls")


def name_of(handler: Any) -> str:
    module = getattr(handler, "__module__", None)
    name = getattr(handler, "__qualname__", None) or repr(handler)
    return f"{module}.{name}" if module else name


# --- which argument comes from where --------------------------------------------------------------


def _bind(
    handler: Callable[..., Any], captures: tuple[str, ...], frame: FrameType
) -> tuple[tuple[_Argument, ...], Any]:
    """What fills each parameter, and the return annotation. Raises TypeError where nothing fills one."""
    if not callable(handler):
        raise TypeError(f"@responder decorates a function, not {handler!r}")
    name = name_of(handler)
    inner = _unwrapped(handler)
    if inspect.isgeneratorfunction(_body(handler)):
        raise TypeError(f"{name}: only async generators stream: write `async def` with `yield`")
    hints = _hints(handler, inner, frame)
    parameters = list(inspect.signature(handler).parameters.values())
    if is_method(handler):
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: {parameter} cannot be filled: name each argument")

    sources: dict[str, _Kind] = {}
    remaining: list[inspect.Parameter] = []
    for parameter in parameters:
        try:
            source = _kind_of(parameter, hints, captures)
        except TypeError as error:
            raise TypeError(f"{name}: argument {parameter.name!r}: {error}") from None
        if source is not None:
            sources[parameter.name] = source
        elif parameter.name == "body":
            sources[parameter.name] = "body"
        else:
            remaining.append(parameter)

    required = [parameter for parameter in remaining if parameter.default is _EMPTY]
    if "body" not in sources.values():
        if len(required) == 1:
            sources[required.pop().name] = "body"
        elif not required and len(remaining) == 1:
            sources[remaining[0].name] = "body"
    if required:
        raise TypeError(_unfilled(name, required[0].name, captures, "body" in sources.values()))

    arguments = []
    for parameter in parameters:
        source = sources.get(parameter.name, "default")
        try:
            arguments.append(_argument(parameter, source, hints, captures, frame))
        except TypeError as error:
            raise TypeError(f"{name}: argument {parameter.name!r}: {error}") from None
    returns = hints.get("return", _EMPTY)
    if inspect.isasyncgenfunction(_body(handler)):
        returns = next(iter(get_args(codecs.without_extras(returns))), _EMPTY)
    try:
        _encoder(returns)
    except TypeError as error:
        raise TypeError(f"{name}: result: {error}") from None
    return tuple(arguments), returns


def _unfilled(handler: str, argument: str, captures: tuple[str, ...], has_body: bool) -> str:
    names = ", ".join(f"{{{capture}}}" for capture in captures)
    could = [f"a capture of the filter ({names})" if captures else f"a capture {{{argument}}} in the filter"]
    if not has_body:
        could.append("the payload (name it body)")
    could.append("the request (annotate it with Request)")
    could.append("the client (annotate it with Client)")
    could.append("a dependency (annotate it with Annotated[..., Depends(function)])")
    could.append("a default value")
    return (
        f"{handler}: nothing fills argument {argument!r}: possible are "
        + ", ".join(could[:-1])
        + f" and {could[-1]}"
    )


def _kind_of(parameter: inspect.Parameter, hints: dict[str, Any], captures: tuple[str, ...]) -> _Kind | None:
    """What fills a parameter by its annotation or by its name, if that says it."""
    annotation = hints.get(parameter.name)
    if isinstance(parameter.default, Depends):
        raise TypeError("Depends goes into the annotation: Annotated[..., Depends(function)]")
    if depends_in(annotation) is not None:
        return "dependency"
    plain = codecs.without_extras(annotation)
    if isinstance(plain, type) and issubclass(plain, Request):
        return "request"
    if _is_ours(plain, "Client"):
        return "client"
    if _is_ours(plain, "Responder"):
        return "app"
    return "capture" if parameter.name in captures else None


def _argument(
    parameter: inspect.Parameter,
    source: _Kind,
    hints: dict[str, Any],
    captures: tuple[str, ...],
    frame: FrameType,
    above: tuple[Callable[..., Any], ...] = (),
) -> _Argument:
    """Raises TypeError where the parameter cannot be filled in this way. `above` depend on it."""
    annotation = hints.get(parameter.name, _EMPTY)
    depends = depends_in(annotation) if source == "dependency" else None
    argument = _Argument(
        name=parameter.name,
        source=source,
        annotation=annotation,
        default=parameter.default,
        by_keyword=parameter.kind is parameter.KEYWORD_ONLY,
        dependency=None if depends is None else bind(depends, captures, frame, above),
    )
    if depends is None:
        _source(argument, None)
    return argument


def _is_ours(annotation: Any, name: str) -> bool:
    # By name: their modules import this one.
    return isinstance(annotation, type) and any(
        cls.__name__ == name and cls.__module__.partition(".")[0] == "reqtt" for cls in annotation.__mro__
    )


def _body(handler: Any) -> Any:
    """What a call runs. Not what it wraps: a `def` around an `async def` is a `def`."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else type(handler).__call__


def _unwrapped(handler: Callable[..., Any]) -> Any:
    """The function behind `functools.wraps`, `functools.partial`, a bound method or `__call__`."""
    inner: Any = handler
    while True:
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        elif inspect.ismethod(inner):
            inner = inner.__func__
        elif not inspect.isroutine(inner) and not isinstance(inner, type) and callable(inner):
            inner = type(inner).__call__
        else:
            return inner


def _hints(handler: Callable[..., Any], inner: Any, frame: FrameType) -> dict[str, Any]:
    # Under `from __future__ import annotations` a name may be local to where the handler is defined.
    names = dict(frame.f_locals) if frame.f_locals is not frame.f_globals else {}
    code, closure = getattr(inner, "__code__", None), getattr(inner, "__closure__", None)
    for variable, cell in zip(getattr(code, "co_freevars", ()), closure or (), strict=False):
        try:
            names.setdefault(variable, cell.cell_contents)
        except ValueError:
            continue
    try:
        # From Python 3.14 on, looking at the annotations evaluates them.
        if not getattr(inner, "__annotations__", None):
            return {}
        return typing.get_type_hints(inner, localns=names, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{name_of(handler)}: an annotation cannot be resolved ({error}): define or import it before"
            " the handler, and not under TYPE_CHECKING"
        ) from None


# --- from a request to arguments ------------------------------------------------------------------


class _Rejected(RequestError):
    """The request never reached the handler. Middleware sees it as the RequestError that it is."""

    def __init__(self, status: int, message: str, *, about: tuple[str, str | None] | None = None) -> None:
        super().__init__(status, message)
        self.about = about


Source: TypeAlias = Callable[[Request], Any]


def _source(argument: _Argument, client: Client | None, app: Responder | None = None) -> Source:
    """The function that takes one argument out of a request."""
    annotation = Any if argument.annotation is _EMPTY else argument.annotation
    match argument.source:
        case "request":
            return lambda request: request
        case "client":
            return lambda request: client
        case "app":
            return lambda request: app
        case "default":
            return lambda request: argument.default
        case "capture":
            return _capture_source(argument.name, annotation)
        case "body":
            return _body_source(bytes if argument.annotation is _EMPTY else annotation, argument.default)
        case "dependency":
            raise TypeError("this kind of handler takes no dependencies")


def _body_source(annotation: Any, default: Any) -> Source:
    if annotation is bytes and default is _EMPTY:
        return lambda request: request.payload
    decoder = codecs.compile_decoder(annotation)

    def body(request: Request) -> Any:
        payload = request.payload
        if not payload and default is not _EMPTY:
            return default
        content_type = request.content_type
        try:
            return decoder(payload, content_type, request.payload_format_indicator)
        except DecodeError as error:
            status = codecs.request_error(error).status
            about = ("Content Type", content_type) if status == 415 else None
            raise _Rejected(status, str(error), about=about) from None

    return body


def _capture_source(name: str, annotation: Any) -> Source:
    convert = _capture_converter(annotation)
    if convert is None:
        return lambda request: request.captures[name]
    words = _CAPTURE_WORDS.get(codecs.without_none(annotation)[0])
    expected = f" (expected {words})" if words else ""
    convert_text: Callable[[str], Any] = convert

    def capture(request: Request) -> Any:
        text = request.captures[name]
        try:
            return convert_text(text)
        except (ValueError, KeyError, msgspec.MsgspecError):
            raise _Rejected(404, f'no such {name}: "{text[:64]}"{expected}') from None

    return capture


_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_CAPTURE_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    uuid.UUID: "a UUID",
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _capture_converter(annotation: Any) -> Callable[[str], Any] | None:
    """From the text of a topic level to a value; ValueError or KeyError where it is none. None: as it is."""
    bare, _ = codecs.without_none(annotation)
    constrained = annotation is not bare and get_origin(annotation) is typing.Annotated
    if not constrained:
        if bare in (str, Any, object):
            return None
        if bare is int:
            return _to_int
        if bare is bool:
            return lambda text: _BOOLEANS[text.lower()]
        if bare is bytes:
            return str.encode
        if bare is uuid.UUID:
            return uuid.UUID
        if isinstance(bare, type) and issubclass(bare, enum.Enum):
            return {str(member.value): member for member in bare.__members__.values()}.__getitem__
        if get_origin(bare) is Literal:
            return {str(value): value for value in get_args(bare)}.__getitem__
    try:
        codecs.require_codec(annotation)
    except TypeError:
        raise TypeError(f"a topic level does not convert to {annotation}: take str") from None
    return functools.partial(_convert, annotation)


def _to_int(text: str) -> int:
    # `int` alone also takes "1_0", " 1" and digits of other scripts: several topics for one thing.
    if not _INTEGER.match(text):
        raise ValueError
    return int(text)


def _convert(annotation: Any, text: str) -> Any:
    value = msgspec.convert(text, annotation, strict=False)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _caller(
    spec: ResponderSpec, client: Client | None, app: Responder | None = None
) -> Callable[[Request], Any]:
    """request -> handler(arguments). The usual shapes are written out: a layer costs 0.05-0.1 us."""
    handler = spec.handler
    sources = {argument.name: _source(argument, client, app) for argument in spec.arguments}
    by_keyword = [argument.name for argument in spec.arguments if argument.by_keyword]
    keyword = {name: sources.pop(name) for name in by_keyword}
    positional = list(sources.values())
    if keyword:
        return lambda request: handler(
            *[source(request) for source in positional],
            **{name: source(request) for name, source in keyword.items()},
        )
    match positional:
        case []:
            return lambda request: handler()
        case [only]:
            argument = spec.arguments[0]
            if (
                argument.source == "body"
                and argument.annotation in (bytes, _EMPTY)
                and argument.default is _EMPTY
            ):
                return lambda request: handler(request.payload)
            if argument.source == "request":
                return handler
            return lambda request: handler(only(request))
        case [first, second]:
            return lambda request: handler(first(request), second(request))
        case _:
            return lambda request: handler(*[source(request) for source in positional])


# --- from a result to a reply ---------------------------------------------------------------------


def _encoder(returns: Any, content_type: str | None = None) -> codecs.Encoder:
    if returns is _EMPTY or returns is None or returns is Response:
        returns = Any
    return codecs.compile_encoder(returns, content_type)


def _replier(spec: ResponderSpec, interop_azure: bool) -> Callable[[Any], Reply]:
    encoder = _encoder(spec.returns, spec.content_type)

    def reply(result: Any) -> Reply:
        if isinstance(result, Response):
            properties = result.user_properties
            if any(key == "__stat" for key, _ in properties):
                # A response that is passed on; the status is written anew.
                properties = tuple(pair for pair in properties if pair[0] != "__stat")
            return (
                result.payload,
                wire_status(result.status, interop_azure),
                result.content_type,
                result.payload_format_indicator,
                properties,
            )
        payload, content_type, indicator = encoder(result)
        # The same rule as the requester's, which sees no status on a success.
        return payload, 200 if payload else 204, content_type, indicator, ()

    return reply


def _error(
    status: int,
    message: str,
    interop_azure: bool,
    *,
    application: bool,
    code: str | int | None = None,
    data: Any = None,
    about: tuple[str, str | None] | None = None,
) -> Reply:
    payload, content_type, properties = error_reply(
        status,
        message,
        code=code,
        data=data,
        application=application,
        prop_name=about[0] if about else None,
        prop_value=about[1] if about else None,
        interop_azure=interop_azure,
    )
    return payload, wire_status(status, interop_azure), content_type, 1, properties


def facts(spec: ResponderSpec, request: Request) -> dict[str, str]:
    """The fields of a log record, for logs that are no text."""
    return {"responder": spec.name, "topic_filter": spec.topic_filter, "topic": request.topic}


def _failure(spec: ResponderSpec, request: Request, error: BaseException, interop_azure: bool) -> Reply:
    """What the requester learns of an exception. Inner detail stays in the log."""
    match error:
        case _Rejected():
            _log.debug(
                "%s: request on %r rejected: %s", spec.name, request.topic, error, extra=facts(spec, request)
            )
            return _error(error.status, error.message, interop_azure, application=False, about=error.about)
        case RequestError():
            return _error(
                error.status, error.message, interop_azure, application=True, code=error.code, data=error.data
            )
        case codecs.RequestDecodeError():
            return _error(error.status, str(error), interop_azure, application=False)
        case ResponseTimeout():
            _log.warning(
                "%s: its own request to %r timed out (request on %r)",
                spec.name,
                error.topic,
                request.topic,
                extra=facts(spec, request),
            )
            return _error(504, "a request of the handler timed out", interop_azure, application=True)
        case RemoteError():
            _log.warning(
                "%s: its own request failed with status %d (request on %r)",
                spec.name,
                error.status,
                request.topic,
                extra=facts(spec, request),
            )
            return _error(502, "a request of the handler failed", interop_azure, application=True)
        case _:
            _log.error(
                "%s failed (request on %r)",
                spec.name,
                request.topic,
                exc_info=error,
                extra=facts(spec, request),
            )
            return _error(500, "internal error", interop_azure, application=True)


# --- the runner -----------------------------------------------------------------------------------


def compile_runner(
    spec: ResponderSpec,
    *,
    client: Client | None,
    workers: Workers | None,
    middleware: Sequence[Middleware] = (),
    interop: Literal["plain", "azure"] = "plain",
    journal: Callable[[], Journal] | None = None,
    control: Control | None = None,
    app: Responder | None = None,
    around: Callable[[Runner], Runner] | None = None,
) -> Runner:
    """The coroutine function that answers one request; to be run as a task of its own. Plain functions run in
    `workers`, without them in the threads of the loop. `journal` gives what keeps answers beyond the life of
    the process, where the handler asks for that; `control` is for streams. `middleware` goes around that of
    the routers, and `around` around all that ends with the answer.

    It ends each request with one `_reply` or `_done`, and raises nothing but CancelledError,
    KeyboardInterrupt and SystemExit, after having answered.
    """
    middleware = (*middleware, *spec.middleware)
    check_middleware(middleware)
    middleware = [_for_responder(layer, spec) for layer in middleware]
    azure = is_azure(interop)
    reply_to = _replier(spec, azure)
    handle, opened = _handle(spec, client, workers, app)
    if spec.streams:
        from reqtt.streaming import compile_streamer

        runner: Runner = compile_streamer(spec, handle, middleware=middleware, azure=azure, control=control)
        return _complete(runner, spec, around, opened, app)
    if middleware:
        handle = _with_middleware(handle, reply_to, middleware)
    if spec.timeout is not None:
        handle = _with_timeout(handle, spec.timeout)
    if spec.deduplicate != "disk":
        journal = None
    elif journal is None:
        raise ValueError(f'{spec.name}: deduplicate="disk" needs a Responder that has a file')

    async def run(request: Request) -> int:
        raised: BaseException | None = None
        try:
            result = await handle(request)
            if type(result) is bytes:
                reply: Reply = (result, 200 if result else 204, None, None, ())
            else:
                reply = reply_to(result)
        except Exception as error:
            reply = _failure(spec, request, error, azure)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # From outside: the responder does not wait for this handler any longer.
                raised = error
                reply = _error(503, "responder is shutting down", azure, application=False)
            else:
                # The handler awaited something that was cancelled: its own fault.
                reply = _failure(spec, request, error, azure)
        except (KeyboardInterrupt, SystemExit) as error:
            raised = error
            reply = _failure(spec, request, error, azure)
        if journal is not None:
            await _record(journal(), spec, request, reply)
        try:
            request._reply(*reply)
        except Exception as error:
            _send_failed(spec, request, error, azure)
        if raised is not None:
            raise raised
        return reply[1]

    runner = run if journal is None else _once(run, spec, azure, journal)
    return _complete(runner, spec, around, opened, app)


def _complete(
    runner: Runner,
    spec: ResponderSpec,
    around: Callable[[Runner], Runner] | None,
    opened: Open | None,
    app: Responder | None,
) -> Runner:
    if around is not None:
        runner = around(runner)
    if opened is not None:
        runner = closing(runner, spec, opened, app)
    runner.__qualname__ = runner.__name__ = f"responder {spec.name}"
    return runner


def _once(run: Runner, spec: ResponderSpec, azure: bool, journal: Callable[[], Journal]) -> Runner:
    """Runs what is new, and only once it is on disk; the rest is answered from there."""

    async def run_once(request: Request) -> int | None:
        if request.correlation_data is None or request.response_topic is None:
            # Nothing tells a copy of it from another request.
            return await run(request)
        try:
            answer = await journal().begin(request)
        except asyncio.CancelledError:
            await journal().forget(request)
            request._reply(*_error(503, "responder is shutting down", azure, application=False))
            raise
        except Exception as error:
            _log.error(
                "%s: request on %s not run: it cannot be recorded",
                spec.name,
                request.topic,
                exc_info=error,
                extra=facts(spec, request),
            )
            request._reply(
                *_error(503, "the request cannot be recorded, and was not run", azure, application=False)
            )
            return 503
        if answer is None:
            return await run(request)
        if isinstance(answer, tuple):
            request._reply(*answer)
            status: int = answer[1]
            return status
        else:
            _log.error(
                "%s: request on %s came again: it was interrupted, and is not run",
                spec.name,
                request.topic,
                extra=facts(spec, request),
            )
            message = "interrupted before it was answered: whether the request took effect is not known"
            request._reply(*_error(500, message, azure, application=True))
            return 500

    return run_once


async def _record(journal: Journal, spec: ResponderSpec, request: Request, reply: Reply) -> None:
    """Keeps an answer for copies of the request. Without it they are answered as interrupted, and not run."""
    try:
        await journal.finish(request, reply)
    except asyncio.CancelledError:
        # The handler is done, and so is its request: it is answered all the same.
        pass
    except Exception as error:
        _log.error(
            "%s: the answer to %s cannot be recorded",
            spec.name,
            request.topic,
            exc_info=error,
            extra=facts(spec, request),
        )


def _send_failed(spec: ResponderSpec, request: Request, error: Exception, azure: bool) -> None:
    """The response cannot be sent, e.g. it is too large: answer 500, or at least let the request go."""
    try:
        request._reply(*_failure(spec, request, error, azure))
    except Exception:
        request._done()


def _handle(
    spec: ResponderSpec, client: Client | None, workers: Workers | None, app: Responder | None
) -> tuple[Callable[[Request], Awaitable[Any]], Open | None]:
    """What runs a handler, and the place of the dependencies that it leaves open, where it has such."""
    if any(argument.dependency is not None for argument in spec.arguments):
        return resolving(spec, client, app, lambda call: _as_coroutine(spec, call, workers))
    return _as_coroutine(spec, _caller(spec, client, app), workers), None


def _as_coroutine(
    spec: ResponderSpec, call: Callable[..., Any], workers: Workers | None
) -> Callable[..., Awaitable[Any]]:
    if spec.streams:
        from reqtt.streaming import streamed

        return streamed(spec, call)
    if inspect.iscoroutinefunction(_body(spec.handler)):
        return call

    def call_in_thread(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except StopIteration as error:
            # A future cannot carry it: the handler would never end.
            raise RuntimeError("handler raised StopIteration") from error

    async def handle(*arguments: Any) -> Any:
        job = functools.partial(contextvars.copy_context().run, call_in_thread, *arguments)
        if workers is not None:
            result = await workers.run(job)
        else:
            result = await asyncio.get_running_loop().run_in_executor(None, job)
        # A `def` around an `async def`.
        return await result if inspect.isawaitable(result) else result

    return handle


def _with_middleware(
    handle: Callable[[Request], Awaitable[Any]],
    reply_to: Callable[[Any], Reply],
    middleware: Sequence[Middleware],
) -> Callable[[Request], Awaitable[Any]]:
    async def innermost(request: Request) -> Response:
        result = await handle(request)
        if isinstance(result, Response):
            return result
        payload, status, content_type, indicator, properties = reply_to(result)
        return Response(
            payload,
            status=status,
            content_type=content_type,
            payload_format_indicator=indicator,
            user_properties=properties,
        )

    chain: CallNext = innermost
    for layer in reversed(middleware):
        chain = functools.partial(_call_layer, layer, chain)
    return chain


def _for_responder(layer: Middleware, spec: ResponderSpec) -> Middleware:
    make: Callable[[ResponderSpec], Middleware] | None = getattr(layer, "for_responder", None)
    return layer if make is None else make(spec)


def _call_layer(layer: Middleware, call_next: CallNext, request: Request) -> Awaitable[Response]:
    return layer(request, call_next)


def _with_timeout(
    handle: Callable[[Request], Awaitable[Any]], seconds: float
) -> Callable[[Request], Awaitable[Any]]:
    message = f"handler did not finish within {seconds:g} s"
    about = ("timeout", f"PT{seconds:g}S")  # A duration as in ISO 8601.

    async def handle_in_time(request: Request) -> Any:
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                result = await handle(request)
        except Exception:
            # A TimeoutError of the handler's own is none of ours, so only the scope knows.
            if not scope.expired():
                raise
        else:
            if not scope.expired():
                return result
        raise _Rejected(408, message, about=about)

    return handle_in_time
