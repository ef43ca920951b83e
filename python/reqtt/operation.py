"""A contract for both sides: a topic with captures, what is asked, and what is answered, declared once.

Owns the way from captures to a topic and the check of a handler against the contract. The request itself is
`Requester.request`, the handler's specification that of `@responder`.
"""

from __future__ import annotations

import copy
import enum
import inspect
import sys
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from reqtt import codecs
from reqtt._core import Response
from reqtt.errors import InvalidTopic
from reqtt.responder import (
    ResponderOptions,
    ResponderSpec,
    _bind,
    _check_options,
    attach,
    parse,
    specifier,
)
from reqtt.retry import Retry, check_retry

if TYPE_CHECKING:
    from reqtt._core import Call
    from reqtt.client import Properties
    from reqtt.requester import Requester

__all__ = ["Declared", "HandlerDecorator", "Operation", "operation"]

P = ParamSpec("P")
HP = ParamSpec("HP")
Q = TypeVar("Q")
R = TypeVar("R")
S = TypeVar("S")

Capture: TypeAlias = str | int | uuid.UUID | enum.Enum
"""What goes into one level of a topic."""

_EMPTY: Final = inspect.Parameter.empty


class CallOptions(TypedDict, total=False):
    """What an operation may say of each of its requests: options of `Requester.request`."""

    timeout: float | None
    qos: int | None
    user_properties: Properties
    message_expiry_interval: int | None
    correlation_data: bytes | None
    response_topic: str | None
    fail_fast: bool
    retry: Retry | Literal[False] | None
    hedge: float | Literal["p95"] | None


class _Contract(Generic[R]):
    """What an operation is, however it was declared."""

    def __init__(
        self, topic_filter: str, request: Any, response: Any, content_type: str | None, options: CallOptions
    ) -> None:
        if not isinstance(topic_filter, str):
            raise TypeError('the topic must be a str: write operation("cmnd/{device}/power", ...)')
        self.topic_filter = topic_filter
        self.content_type = content_type
        _, self._captures = parse(topic_filter)
        self._levels = topic_filter.split("/")
        if wild := [level for level in self._levels if level in ("+", "#")]:
            raise InvalidTopic(
                f'invalid topic "{topic_filter}": nothing fills {wild[0]} in a request: name it,'
                f" {'{rest:#}' if wild[0] == '#' else '{name}'}"
            )
        if "body" in self._captures:
            raise InvalidTopic(
                f'invalid topic "{topic_filter}": body is the payload: name the capture otherwise'
            )
        self._set_types(request, response)
        self._options = _checked(options)

    def _set_types(self, request: Any, response: Any) -> None:
        self.request_type = request
        self.response_type = response
        self._encode = None if request is None else codecs.compile_encoder(request, self.content_type)
        if request is not None:
            codecs.compile_decoder(request)
        if response is not None:
            codecs.compile_decoder(response)
            codecs.compile_encoder(response, self.content_type)

    def __repr__(self) -> str:
        asks = "" if self.request_type is None else f"{_shown(self.request_type)} "
        answers = "Response" if self.response_type is None else _shown(self.response_type)
        return f'<reqtt operation "{self.topic_filter}": {asks}-> {answers}>'

    def topic(self, /, **captures: Capture) -> str:
        """The topic name for these captures (section 4.7).

        Raises:
            InvalidTopic: a capture is empty, or holds `/ + #` or NUL; `{rest:#}` may hold `/`.
            TypeError: a capture that is missing or unknown, or is no str, int, UUID or Enum.

        Example:
            set_power.topic(device="lamp")  # "cmnd/lamp/power"
        """
        if captures.keys() != set(self._captures):
            missing = [name for name in self._captures if name not in captures]
            wrong = (
                f"{missing[0]!r} is missing" if missing else f"{_first_unknown(captures, self._captures)!r}"
            )
            raise TypeError(
                f"{self!r} takes {_listed(self._captures)}: {wrong}{'' if missing else ' is none'}"
            )
        levels = []
        for level in self._levels:
            name, many = level[1:-1].removesuffix(":#"), level.endswith(":#}")
            captured = level.startswith("{") and name in captures
            levels.append(_level(name, captures[name], many) if captured else level)
        return "/".join(levels)

    def options(self, **options: Unpack[CallOptions]) -> Self:
        """The same operation with other options for its requests: those of `Requester.request`.

        Raises:
            ValueError, TypeError: an option out of range, or none.

        Example:
            state = await set_power.options(timeout=2)(req, device="lamp", body=Power(on=True))
        """
        changed = copy.copy(self)
        changed._options = self._options | _checked(options)
        return changed

    @property
    def responder(self) -> HandlerDecorator[R]:
        """Decorates the handler of this operation: `@set_power.responder`, or with the options of
        `reqtt.responder`, `@set_power.responder(group="lights")`.

        The handler takes what one of `@responder` takes; what it says of its arguments and its result has to
        be what the operation says, else it is a TypeError at the decorator. What it leaves unsaid, the
        operation says.

            @set_power.responder
            async def power(device: str, body: Power) -> State: ...
        """
        return HandlerDecorator(self, {})

    def _ask(self, requester: Requester, body: Any, captures: dict[str, Any]) -> Call[R]:
        if not hasattr(requester, "request"):
            raise TypeError(f"{self!r} takes the requester first, not {requester!r:.80}")
        topic = self.topic(**captures)
        payload, content_type, indicator = self._payload(body)
        call: Call[R] = requester.request(
            topic,
            payload,
            response_type=self.response_type,
            content_type=content_type,
            payload_format_indicator=indicator,
            **self._options,
        )
        return call

    def _payload(self, body: Any) -> codecs.Encoded:
        if self._encode is None:
            if body is not None:
                raise TypeError(f"{self!r} has no body")
            return b"", None, None
        expected = self.request_type
        if isinstance(expected, type) and not _is_alias(expected) and not _fits(body, expected):
            raise TypeError(f"{self!r}: body must be {_shown(expected)}, not {type(body).__name__}")
        return self._encode(body)

    def _specify(self, handler: Any, frame: FrameType, options: ResponderOptions) -> ResponderSpec:
        qos = self._options.get("qos")
        given: ResponderOptions = options if qos is None else {"qos": qos, **options}
        spec = specifier(self.topic_filter, **given)(handler, frame)
        arguments = []
        for argument in spec.arguments:
            expected = _EMPTY
            if argument.source == "body":
                if self.request_type is None:
                    raise TypeError(f"{spec.name}: nothing fills {argument.name!r}: {self!r} has no body")
                expected = self.request_type
            elif argument.source == "capture":
                expected = self._capture_type(argument.name)
            found = argument.annotation
            if expected is not _EMPTY and found is _EMPTY:
                argument = replace(argument, annotation=expected)
            elif expected is not _EMPTY and found not in (expected, Any, object):
                raise TypeError(
                    f"{spec.name}: {argument.name!r} is {_shown(found)}, and {self!r} says {_shown(expected)}"
                )
            arguments.append(argument)
        sources = {argument.source for argument in arguments}
        if self.request_type is not None and not sources & {"body", "request"}:
            raise TypeError(
                f"{spec.name} takes no body: {self!r} needs `body: {_shown(self.request_type)}`, or a Request"
            )
        returns = self.response_type if spec.returns is _EMPTY else spec.returns
        if self.response_type is not None and returns not in (self.response_type, Response, Any, object):
            raise TypeError(
                f"{spec.name} returns {_shown(returns)}, and {self!r} says {_shown(self.response_type)}"
            )
        return replace(
            spec,
            arguments=tuple(arguments),
            returns=_EMPTY if returns is None else returns,
            content_type=self.content_type,
        )

    def _capture_type(self, name: str) -> Any:
        return _EMPTY


class Operation(_Contract[R], Generic[Q, R]):
    """An operation by its types: `operation(topic, request=..., response=...)` makes it.

    Called with a requester it asks. Called with a function, as a decorator, it takes the types of the
    captures from there, too.

        set_power = reqtt.operation("cmnd/{device}/power", request=Power, response=State)
        state = await set_power(req, device="lamp", body=Power(on=True))
    """

    @overload
    def __call__(self: Operation[None, R], requester: Requester, /, **captures: Capture) -> Call[R]: ...
    @overload
    def __call__(self, requester: Requester, /, *, body: Q, **captures: Capture) -> Call[R]: ...
    @overload
    def __call__(
        self: Operation[None, Response], declaration: Callable[P, Coroutine[Any, Any, S]], /
    ) -> Declared[P, S]: ...
    @overload
    def __call__(self, declaration: Callable[P, Coroutine[Any, Any, R]], /) -> Declared[P, R]: ...
    def __call__(self, first: Any, /, *, body: Any = None, **captures: Any) -> Any:
        """Asks: sends the request at once, and gives what is awaited for the answer.

        Args:
            first: the requester.
            body: the payload, of the type that the operation says.
            captures: what goes into the topic: str, int, UUID or Enum.

        Raises:
            InvalidTopic: a capture is empty, or holds `/ + #` or NUL; nothing was sent.
            TypeError: another body, a capture too many or too few.
            DecodeError: the answer is not what the operation says; the text names the field.
            ReqttError: what else `Requester.request` raises.

        Example:
            state = await set_power(req, device="lamp", body=Power(on=True))
        """
        if inspect.isroutine(first):
            return Declared(self, first, sys._getframe(1))
        return self._ask(first, body, captures)


class Declared(_Contract[R], Generic[P, R]):
    """An operation with the signature of a function: `@operation(topic)` makes it.

    Called with a requester, and then like that function, it asks. The body of the function never runs.

        @reqtt.operation("cmnd/{device}/power")
        async def set_power(device: str, body: Power) -> State:
            raise NotImplementedError

        state = await set_power(req, device="lamp", body=Power(on=True))
    """

    def __init__(self, contract: _Contract[Any], declaration: Callable[..., Any], frame: FrameType) -> None:
        self.__dict__.update(contract.__dict__)
        arguments, returns = _bind(declaration, self._captures, frame)
        name = declaration.__qualname__
        self._types: dict[str, Any] = {}
        body: Any = None
        for argument in arguments:
            if argument.source == "capture":
                self._types[argument.name] = argument.annotation
            elif argument.source == "body":
                body = bytes if argument.annotation is _EMPTY else argument.annotation
                self._body = argument.name
            else:
                raise TypeError(f"{name}: {argument.name!r} is neither a capture nor the body")
        if missing := [capture for capture in self._captures if capture not in self._types]:
            raise TypeError(f"{name} does not take {missing[0]!r}, which {self!r} captures")
        for what, given, found in (
            ("body", contract.request_type, body),
            ("result", contract.response_type, returns),
        ):
            if given is not None and found not in (given, _EMPTY):
                raise TypeError(
                    f"{name}: its {what} is {_shown(found)}, and {contract!r} says {_shown(given)}"
                )
        self._set_types(body, contract.response_type if returns is _EMPTY else returns)
        self._signature = inspect.signature(declaration)
        self.__doc__ = declaration.__doc__
        self.__name__ = declaration.__name__
        self.__qualname__ = name
        self.__module__ = declaration.__module__

    def __call__(self, requester: Requester, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Asks: see `Operation`.

        state = await set_power(req, "lamp", Power(on=True))
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        body = None if self.request_type is None else bound.arguments.pop(self._body)
        return self._ask(requester, body, bound.arguments)

    def _capture_type(self, name: str) -> Any:
        return self._types[name]


class HandlerDecorator(Generic[R]):
    """What `responder` of an operation gives: decorates a handler, or takes the options for it first.

    @set_power.responder(group="lights")
    async def power(device: str, body: Power) -> State: ...
    """

    def __init__(self, contract: _Contract[R], options: ResponderOptions) -> None:
        self._contract = contract
        self._options = options

    @overload
    def __call__(
        self, handler: Callable[HP, Coroutine[Any, Any, R]], /
    ) -> Callable[HP, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, handler: Callable[HP, Coroutine[Any, Any, Response]], /
    ) -> Callable[HP, Coroutine[Any, Any, Response]]: ...
    @overload
    def __call__(self, handler: Callable[HP, R], /) -> Callable[HP, R]: ...
    @overload
    def __call__(self, handler: Callable[HP, Response], /) -> Callable[HP, Response]: ...
    @overload
    def __call__(self, /, **options: Unpack[ResponderOptions]) -> HandlerDecorator[R]: ...
    def __call__(self, handler: Any = None, /, **options: Unpack[ResponderOptions]) -> Any:
        """Attaches the specification, and gives the same function; or takes the options.

        Raises:
            TypeError: the handler does not do what the operation says.
            ValueError: an option out of range.
        """
        if handler is None:
            return HandlerDecorator(self._contract, self._options | options)
        return attach(handler, self._contract._specify(handler, sys._getframe(1), self._options | options))


@overload
def operation(
    topic: str,
    *,
    request: type[Q],
    response: type[R],
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[Q, R]: ...
@overload
def operation(
    topic: str,
    *,
    request: type[Q],
    response: None = None,
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[Q, Response]: ...
@overload
def operation(
    topic: str,
    *,
    request: None = None,
    response: type[R],
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[None, R]: ...
@overload
def operation(
    topic: str,
    *,
    request: None = None,
    response: None = None,
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[None, Response]: ...
@overload
def operation(
    topic: str,
    *,
    request: Any = None,
    response: Any = None,
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[Any, Any]: ...
def operation(
    topic: str,
    *,
    request: Any = None,
    response: Any = None,
    content_type: str | None = None,
    **options: Unpack[CallOptions],
) -> Operation[Any, Any]:
    """Declares what is asked and answered on a topic, for both sides (section 4.10).

    The result is called with a requester: `await set_power(req, device="lamp", body=Power(...))`. Its
    `responder` decorates the handler, and checks it. As a decorator of a function without a body it takes the
    types from there, those of the captures, too:

        @reqtt.operation("cmnd/{device}/power")
        async def set_power(device: str, body: Power) -> State:
            raise NotImplementedError

    Args:
        topic: a topic name (section 4.7); `{name}` captures one level, `{rest:#}` the rest.
        request: the type of the payload; None: it has none.
        response: the type of the answer; None: the `Response` as it comes.
        content_type: what request and response are encoded as (section 3.3.2.3.9); None: what the types say.
        options: `timeout`, `qos`, `retry`, `hedge` and others of `Requester.request`, for each request.
            `qos` is the handler's, too.

    Raises:
        InvalidTopic: the topic is not valid, or has a wildcard that no capture names.
        ValueError: an option out of range, or no codec for the Content Type.
        TypeError: no codec for a type; an unknown option.

    Example:
        set_power = reqtt.operation("cmnd/{device}/power", request=Power, response=State)

        @set_power.responder
        async def power(device: str, body: Power) -> State: ...

        state = await set_power(req, device="lamp", body=Power(on=True))
    """
    return Operation(topic, request, response, content_type, options)


def _checked(options: CallOptions) -> CallOptions:
    if unknown := options.keys() - CallOptions.__annotations__.keys():
        raise TypeError(
            f"an operation has no option {min(unknown)!r}: there are {_listed(CallOptions.__annotations__)}"
        )
    qos, timeout = options.get("qos"), options.get("timeout")
    _check_options(1 if qos is None else qos, None, 1, timeout, "after_response", "run")
    check_retry(options.get("retry"))
    return options


def _level(name: str, value: Any, many: bool) -> str:
    """A capture as it stands in the topic: what the handler's conversion reads."""
    plain = value.value if isinstance(value, enum.Enum) else value
    if isinstance(plain, bool):
        plain = "true" if plain else "false"
    if not isinstance(plain, str | int | uuid.UUID):
        raise TypeError(f"{name} must be a str, int, UUID or Enum, not {type(value).__name__}")
    text = str(plain)
    if not text or any(character in text for character in ("+#\0" if many else "/+#\0")):
        what = "is empty" if not text else f"{text[:64]!r} holds one of {'+ #' if many else '/ + #'} or NUL"
        raise InvalidTopic(f"invalid {name} for a topic: it {what}")
    return text


def _fits(body: Any, expected: Any) -> bool:
    if expected is float:
        expected = (float, int)
    elif expected is bytes:
        expected = (bytes, bytearray, memoryview)
    try:
        return isinstance(body, expected)
    except TypeError:
        # A TypedDict, a protocol: no class to ask.
        return True


def _is_alias(annotation: Any) -> bool:
    return bool(getattr(annotation, "__args__", None))


def _first_unknown(captures: dict[str, Any], known: tuple[str, ...]) -> str:
    return next(name for name in captures if name not in known)


def _listed(names: Any) -> str:
    return ", ".join(names) if names else "no captures"


def _shown(annotation: Any) -> str:
    if annotation is _EMPTY:
        return "not said"
    return (
        annotation.__name__ if isinstance(annotation, type) and not _is_alias(annotation) else str(annotation)
    )
