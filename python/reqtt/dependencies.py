"""Values that a handler depends on: found by `Annotated[T, Depends(function)]`, made for each request.

What may fill an argument is known once, when a handler is decorated; in which order the functions run, when
its responder is made. A request only runs through that list.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import typing
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from types import FrameType

    from reqtt import Client
    from reqtt._core import Request
    from reqtt.responder import ResponderSpec, Runner, _Argument
    from reqtt.serving import Responder

__all__ = ["Bound", "Depends", "Open", "bind", "closing", "depends_in", "resolving"]

_log = logging.getLogger("reqtt.responder")


class Depends:
    """Fills an argument of a handler with what a function gives: `Annotated[Db, Depends(get_db)]`.

    The function runs before the handler, once for each request, however many ask for it. It may be
    `async def`, or a `def` or a class, which run on the event loop and must not block. A generator, async or
    not, gives what it yields, and goes on when the response was sent; what the handler raised is raised in
    it. What it raises itself is the answer, as if the handler had raised it (`RequestError`); after the
    response it is only logged.

    Its own arguments are captures of the filter by name, `Request`, `Client` and `Responder` by type, other
    `Depends`, or have a default. Raises `TypeError` for what cannot be called; what nothing can fill is a
    `TypeError` where the handler is decorated.

        async def session(app: Responder) -> AsyncIterator[Session]:
            async with app.state.pool.session() as session:
                yield session

        @responder("lamps/{lamp}/rename")
        async def rename(lamp: str, body: str, session: Annotated[Session, Depends(session)]) -> None: ...
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"Depends takes a function, not {function!r}")
        self.function = function

    def __repr__(self) -> str:
        return f"Depends({getattr(self.function, '__qualname__', self.function)})"


def depends_in(annotation: Any) -> Depends | None:
    """The `Depends` of an annotation, if it has one."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *extras = typing.get_args(annotation)
        for extra in extras:
            if extra is Depends:
                raise TypeError("Depends stands without its function: write Depends(function)")
            if isinstance(extra, Depends):
                return extra
    return None


# --- when a handler is decorated ------------------------------------------------------------------


_Kind: TypeAlias = Literal["function", "generator", "async generator"]


class Bound:
    """A function with what fills its arguments."""

    __slots__ = ("arguments", "function", "kind")

    def __init__(self, function: Callable[..., Any], kind: _Kind, arguments: tuple[_Argument, ...]) -> None:
        self.function = function
        self.kind = kind
        self.arguments = arguments


def bind(
    depends: Depends, captures: tuple[str, ...], frame: FrameType, above: tuple[Callable[..., Any], ...] = ()
) -> Bound:
    """Says what fills the arguments of a dependency, and of all that it depends on. Raises TypeError."""
    from reqtt.responder import _argument, _hints, _kind_of, _unwrapped, name_of

    function = depends.function
    name = f"dependency {name_of(function)}"
    if function in above:
        raise TypeError(f"{name} depends on itself")
    above = (*above, function)
    # The annotations of a class are those of its fields.
    inner: Any = function.__init__ if isinstance(function, type) else _unwrapped(function)  # type: ignore[misc]
    hints = _hints(function, inner, frame)
    arguments = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: {parameter} cannot be filled: name each argument")
        try:
            source = _kind_of(parameter, hints, captures)
            if source is None and parameter.default is parameter.empty:
                raise TypeError(
                    "nothing fills it: possible are a capture of the filter, Request, Client, Responder,"
                    " another Depends and a default value"
                )
            arguments.append(_argument(parameter, source or "default", hints, captures, frame, above))
        except TypeError as error:
            raise TypeError(f"{name}: argument {parameter.name!r}: {error}") from None
    return Bound(function, _kind(function), tuple(arguments))


def _kind(function: Any) -> _Kind:
    from reqtt.responder import _body

    body = _body(function)
    if inspect.isasyncgenfunction(body):
        return "async generator"
    return "generator" if inspect.isgeneratorfunction(body) else "function"


# --- when a responder is made ---------------------------------------------------------------------


_Call: TypeAlias = "Callable[[Request, Sequence[Any]], Any]"
_Handle: TypeAlias = "Callable[[Request], Awaitable[Any]]"


class _Steps:
    """The functions in the order in which they run: what one needs has run before it."""

    def __init__(self, client: Client | None, app: Responder | None) -> None:
        self.steps: list[tuple[_Kind, _Call]] = []
        self._places: dict[Callable[..., Any], int] = {}
        self._client = client
        self._app = app

    def place(self, bound: Bound) -> int:
        """Where its value will be."""
        if bound.function not in self._places:
            function = bound.function
            if bound.kind == "generator":
                function = contextlib.contextmanager(function)
            elif bound.kind == "async generator":
                function = contextlib.asynccontextmanager(function)
            call = self.call(function, bound.arguments)
            self._places[bound.function] = len(self.steps)
            self.steps.append((bound.kind, call))
        return self._places[bound.function]

    def call(self, function: Callable[..., Any], arguments: Sequence[_Argument]) -> _Call:
        """(request, values) -> function(arguments)"""
        positional = [self._fill(argument) for argument in arguments if not argument.by_keyword]
        keyword = {argument.name: self._fill(argument) for argument in arguments if argument.by_keyword}
        return lambda request, values: function(
            *[fill(request, values) for fill in positional],
            **{name: fill(request, values) for name, fill in keyword.items()},
        )

    def _fill(self, argument: _Argument) -> _Call:
        from reqtt.responder import _source

        if argument.dependency is not None:
            place = self.place(argument.dependency)
            return lambda request, values: values[place]
        source = _source(argument, self._client, self._app)
        return lambda request, values: source(request)


# By the identity of each request that runs.
Open: TypeAlias = "dict[int, list[_Scope]]"


class _Scope:
    """The generators of one run of a handler, and what was raised there. Middleware may run it again."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.error: BaseException | None = None

    async def close(self) -> None:
        error = self.error
        await self.stack.__aexit__(
            None if error is None else type(error), error, None if error is None else error.__traceback__
        )


def resolving(
    spec: ResponderSpec,
    client: Client | None,
    app: Responder | None,
    runs: Callable[[_Call], Callable[..., Awaitable[Any]]],
) -> tuple[_Handle, Open | None]:
    """A handler that gets its dependencies first, and, where there are generators, the place of those that
    are open. `runs` makes a coroutine function of the bare call.
    """
    plan = _Steps(client, app)
    handler = runs(plan.call(spec.handler, spec.arguments))
    steps = tuple(plan.steps)

    async def handle(request: Request) -> Any:
        values: list[Any] = []
        for _, call in steps:
            value = call(request, values)
            values.append(await value if type(value) is CoroutineType else value)
        return await handler(request, values)

    if all(kind == "function" for kind, _ in steps):
        return handle, None

    opened: Open = {}

    async def handle_and_keep(request: Request) -> Any:
        scopes = opened.get(id(request))
        if scopes is None:
            raise RuntimeError("call_next was called when the request was answered already")
        scope = _Scope()
        scopes.append(scope)
        values: list[Any] = []
        try:
            for kind, call in steps:
                value = call(request, values)
                if kind == "function":
                    if type(value) is CoroutineType:
                        value = await value
                elif kind == "async generator":
                    value = await scope.stack.enter_async_context(value)
                else:
                    value = scope.stack.enter_context(value)
                values.append(value)
            return await handler(request, values)
        except BaseException as error:
            scope.error = error
            raise

    return handle_and_keep, opened


def closing(run: Runner, spec: ResponderSpec, opened: Open, app: Responder | None) -> Runner:
    """The runner, and then what it opened is closed: the requester has its response by then."""
    finishing: set[Any] = set() if app is None else app._finishing

    async def run_and_close(request: Request) -> int | None:
        scopes = opened[id(request)] = []
        try:
            return await run(request)
        finally:
            del opened[id(request)]
            if scopes:
                # The connection does not count an answered request any more: the responder waits for this.
                task = asyncio.current_task()
                finishing.add(task)
                try:
                    for scope in reversed(scopes):
                        await _close(scope, spec, request)
                finally:
                    finishing.discard(task)

    return run_and_close


async def _close(scope: _Scope, spec: ResponderSpec, request: Request) -> None:
    try:
        await scope.close()
    except Exception as error:
        from reqtt.responder import facts

        _log.error(
            "%s: a dependency failed while it was closed (request on %r)",
            spec.name,
            request.topic,
            exc_info=error,
            extra=facts(spec, request),
        )
    except asyncio.CancelledError as error:
        # The handler's own end, thrown in and come back.
        if error is not scope.error:
            raise
