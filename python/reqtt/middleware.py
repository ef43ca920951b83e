"""Middleware of a requester: what runs around each request that is sent.

`Requester.request` is native. Only a requester with middleware has the Python one of this module.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from reqtt import _core
from reqtt._core import Response

if TYPE_CHECKING:
    from reqtt.codecs import Payload

__all__ = ["OutgoingRequest", "RequesterMiddleware", "layered"]


@dataclass(frozen=True, repr=False)
class OutgoingRequest:
    """A request before it is sent, as the middleware of a requester sees it. `replace` makes another one.

    The fields are the arguments of `Requester.request`, which checks them when it is sent. None: the
    requester's own. `user_properties` are pairs, in order. `options` holds what else `request` was given.

        async def with_token(request: OutgoingRequest, call_next):
            properties = (*request.user_properties, ("token", TOKEN))
            return await call_next(request.replace(user_properties=properties))
    """

    topic: str
    payload: Payload = None
    timeout: float | None = None
    qos: int | None = None
    content_type: str | None = None
    payload_format_indicator: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    message_expiry_interval: int | None = None
    correlation_data: bytes | None = None
    response_topic: str | None = None
    fail_fast: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: Any = self.user_properties
        if type(given) is not tuple:
            pairs = given.items() if isinstance(given, Mapping) else given or ()
            object.__setattr__(self, "user_properties", tuple(pairs))

    def __repr__(self) -> str:
        # The rest may hold secrets.
        return f"<reqtt.OutgoingRequest {self.topic!r}>"

    def replace(self, **changes: Any) -> Self:
        """The same request with other values in some fields. Raises `TypeError` for a field that is none.

        return await call_next(request.replace(timeout=0.5, qos=0))
        """
        return replace(self, **changes)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {name: getattr(self, name) for name in _ARGUMENTS}
        arguments.update(self.options)
        return arguments


_FIELDS = tuple(OutgoingRequest.__dataclass_fields__)
_ARGUMENTS = tuple(name for name in _FIELDS if name not in ("topic", "payload", "options"))

_CallNext: TypeAlias = Callable[[OutgoingRequest], Awaitable[Response]]
RequesterMiddleware: TypeAlias = Callable[[OutgoingRequest, _CallNext], Awaitable[Response]]
"""`async def (request, call_next) -> Response`: runs around each request; the first one is outermost."""


def layered(
    send: Callable[..., Awaitable[Response]], middleware: Sequence[RequesterMiddleware]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A `request` that goes through the middleware, and then to `send`."""
    for layer in middleware:
        if not callable(layer):
            raise TypeError(f"middleware must be `async def (request, call_next) -> Response`, not {layer!r}")

    def innermost(request: OutgoingRequest) -> Awaitable[Response]:
        if not isinstance(request, OutgoingRequest):
            raise TypeError(f"call_next takes the request, or request.replace(...), not {request!r:.80}")
        return send(request.topic, request.payload, **request._arguments())

    known = inspect.signature(_core.Requester.request).parameters.keys() - {"self"}
    chain: _CallNext = innermost
    for layer in reversed(middleware):
        chain = functools.partial(_call_layer, layer, chain)

    def request(
        topic: str, payload: Payload = None, *, response_type: Any = None, **options: Any
    ) -> Coroutine[Any, Any, Any]:
        if unknown := options.keys() - known:
            raise TypeError(f"request() got an unexpected keyword argument {min(unknown)!r}")
        _core.check_topic(topic)
        fields = {name: options.pop(name) for name in _ARGUMENTS if name in options}
        outgoing = OutgoingRequest(topic, payload, **fields, options=options)
        return _run(chain, outgoing, response_type)

    return request


async def _run(chain: _CallNext, request: OutgoingRequest, response_type: Any) -> Any:
    response = await chain(request)
    if not isinstance(response, Response):
        raise TypeError(f"a middleware of the requester gave no Response, but {response!r:.80}")
    return response if response_type is None else response.decode(response_type)


def _call_layer(
    layer: RequesterMiddleware, call_next: _CallNext, request: OutgoingRequest
) -> Awaitable[Response]:
    return layer(request, call_next)
