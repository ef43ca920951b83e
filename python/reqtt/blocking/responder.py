"""The responder for threads: plain functions answer, each request in a worker thread.

Which requests run, how many at a time, what is a duplicate and when it is acknowledged is decided in the
core; what a request goes through is in `reqtt.responder`. Its steps are coroutines, which never wait here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, Unpack

from reqtt import _core
from reqtt._status import is_azure
from reqtt.blocking.client import Client, own_or_shared, wait
from reqtt.errors import ClientClosed, ConnectionLost, ReqttError
from reqtt.responder import ResponderSpec, _body, _error, compile_runner
from reqtt.router import collect
from reqtt.serving import _journal_file, open_responder

if TYPE_CHECKING:
    from types import TracebackType

    from reqtt._core import Request, Response
    from reqtt._options import ClientOptions
    from reqtt.journal import Journal

__all__ = ["Middleware", "Responder"]

_log = logging.getLogger("reqtt.responder")

T = TypeVar("T")

Middleware: TypeAlias = Callable[["Request", Callable[["Request"], "Response"]], "Response"]
"""`def (request, call_next) -> Response`: runs around the handler; the first one is outermost."""

_STOP_LOOKS_EVERY = 0.1


class Responder:
    """Answers requests with plain functions, over a `Client` of its own (given a URL) or a shared one.

    Handlers are `def`: each request runs in a worker thread, at most `concurrency` of one handler at a time.
    A handler may make requests of its own, on the same client. Acknowledgement, duplicates, groups and
    timeouts are those of `reqtt.Responder`. Entering connects and subscribes: `ConnectError` and
    `SubscribeError` surface there. Leaving drains: unsubscribe, finish and answer all that was received,
    acknowledge, disconnect.

    Args:
        client: a URL, or a `reqtt.blocking.Client` to share.
        handlers: functions under `@responder`, modules or objects that hold such, or `Router`s.
        group: puts handlers that name none into one shared subscription (section 4.8.2).
        middleware: `def (request, call_next) -> Response`, around every handler; the first is outermost.
        interop: as in `reqtt.Responder`.
        deduplicate_file: where `@responder(deduplicate="disk")` keeps requests and answers, as in
            `reqtt.Responder`.
        client_options: those of `reqtt.Client`, where a URL is given.

    Raises:
        TypeError: an `async def` handler or middleware; a handler with dependencies, or under a router with a
            lifespan; something that is no handler; client options beside a
            `Client`.
        ValueError: no handler, or two for one filter and group; an argument out of range.
        ReqttError: `deduplicate_file` cannot be read or written, or is in use; on entering.

    Example:
        with reqtt.blocking.Responder("mqtt://localhost:1883", [power]) as app:
            app.serve_forever()
    """

    def __init__(
        self,
        client: Client | str,
        handlers: Any,
        *,
        group: str | None = None,
        middleware: Sequence[Middleware] = (),
        interop: Literal["plain", "azure"] = "plain",
        deduplicate_file: str | os.PathLike[str] | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        self._specs: list[ResponderSpec] = collect(handlers, group=group)
        if not self._specs:
            raise ValueError("no handler is given: decorate a function with @responder('filter')")
        self.client, self._owns_client = own_or_shared(client, client_options)
        as_client: Any = self.client
        as_app: Any = self
        given_id = client_options.get("client_id")
        self._file = _journal_file(self._specs, deduplicate_file, given_id, as_client)
        self._journal: Journal | None = None
        self._azure = is_azure(interop)
        layers = [_layer(layer) for layer in middleware]
        self._runners = [
            compile_runner(
                replace(spec, handler=_in_this_thread(spec), timeout=None),
                client=as_client,
                workers=None,
                middleware=layers,
                interop=interop,
                journal=self._opened_journal,
                app=as_app,
            )
            for spec in self._specs
        ]
        self._inbox = _core.Inbox()
        self._ids: list[int] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._most = sum(spec.concurrency for spec in self._specs)
        self._running: set[Request] = set()
        self._deadlines = _Deadlines(self._azure)
        self._entered = False
        self._closing: Future[None] | None = None
        self._stop = False
        self._raised: BaseException | None = None

    def __repr__(self) -> str:
        filters = ", ".join(spec.topic_filter for spec in self._specs)
        return f"<reqtt.blocking.Responder [{filters}] on {self.client!r}>"

    def __enter__(self) -> Self:
        if self._closing is not None:
            raise ClientClosed("the responder is closed: open a new one")
        self._inbox = _core.Inbox()
        self._ids.clear()
        if self._file is not None:
            # First of all: without it nothing may run.
            self._journal = _open_journal(self._file)
        try:
            if self._owns_client or not self.client.connected:
                self.client.connect()
            try:
                self._subscribe()
            except BaseException:
                self.client._connection.close_responders(self._ids)
                if self._owns_client:
                    self.client.close(drain=False)
                raise
        except BaseException:
            self._inbox.close()
            self._close_journal()
            raise
        self._entered = True
        self.client._responders.add(self)
        with self._lock:
            self._start_thread()
        return self

    def _subscribe(self) -> None:
        calls = []
        for spec in self._specs:
            number, call = open_responder(self.client._connection, spec, self._inbox, azure=self._azure)
            self._ids.append(number)
            calls.append(call)
        for call in calls:
            wait(call)

    def _opened_journal(self) -> Journal:
        if self._journal is None:
            raise ReqttError("the responder is closed")
        return self._journal

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    def _start_thread(self) -> None:
        name = f"reqtt-worker_{len(self._threads)}"
        # Daemons: a handler that hangs must not keep a drained process alive.
        thread = threading.Thread(target=self._work, args=(list(self._ids),), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, ids: list[int]) -> None:
        """Takes requests until the end. Whoever leaves nobody behind that waits starts another thread."""
        places = {number: (self._runners[at], self._specs[at].timeout) for at, number in enumerate(ids)}
        while True:
            taken: Any = self._inbox.take()
            if taken is None:
                return
            number, request = taken
            with self._lock:
                self._running.add(request)
                if not self._inbox.idle and len(self._threads) < self._most and self._closing is None:
                    self._start_thread()
            runner, timeout = places[number]
            try:
                with self._deadlines.watch(request, timeout):
                    contextvars.copy_context().run(_run, runner(request))
            except Exception as error:
                # What was late for a responder that is closed.
                _log.debug("%r: after the end: %s", self, error)
            except BaseException as error:
                # SystemExit or KeyboardInterrupt, after it was answered: for whoever serves.
                self._raised = error
            with self._lock:
                self._running.discard(request)
            # What they hold must not live until the next one comes.
            del taken, request

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Serves until SIGINT, SIGTERM or `close()`; a signal drains first. A second signal stops at once.

        Signals are for the main thread. Raises `ConnectionLost` when there will be no other connection,
        `RuntimeError` outside `with`.

            with reqtt.blocking.Responder("mqtt://localhost", handlers, client_id="lights") as app:
                app.serve_forever()
        """
        if not self._entered:
            raise RuntimeError("the responder is not open: use `with Responder(...) as app:`")
        news = self.client.events()
        with self._stopped_by_signals():
            while not self._stop and self._closing is None:
                if self._raised is not None:
                    raise self._raised
                lost = self.client._lost
                if lost is not None:
                    raise lost
                # Signal handlers run meanwhile.
                with contextlib.suppress(TimeoutError, ClientClosed):
                    news.get(_STOP_LOOKS_EVERY)
        self.close()

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM stops; the next has its usual effect."""
        before: dict[int, Any] = {}

        def restore() -> None:
            while before:
                number, handler = before.popitem()
                # None: not set from Python, so that Python cannot set it again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        def first(*_: object) -> None:
            restore()
            self._stop = True

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, first)
        try:
            yield
        finally:
            restore()

    def close(self, *, drain: bool = True, timeout: float = 30) -> None:
        """Unsubscribes (section 3.10), then finishes, answers and acknowledges what came before the UNSUBACK.

        After `timeout` seconds, at once with `drain=False`, what still runs is answered with 503; a thread
        cannot be cancelled, so its late result is dropped. Disconnects if the client is this responder's own.
        Closing twice waits for the first.

            app = stack.enter_context(reqtt.blocking.Responder(client, handlers))
            app.close(timeout=5)
        """
        with self._lock:
            first = self._closing is None
            if first:
                # Raises on a loop's thread or after fork(), before anything has changed.
                drained = self._drain()
                self._closing = Future()
            closing = self._closing
            assert closing is not None
        if not first:
            if threading.current_thread() not in self._threads:
                closing.result()
            return
        try:
            self._close(drained, drain, timeout)
        finally:
            closing.set_result(None)

    def _drain(self) -> _core.Call[None] | None:
        if self._ids and self.client._lost is None:
            with contextlib.suppress(ClientClosed, ConnectionLost):
                return self.client._connection.drain(self._ids)
        return None

    def _close(self, drained: _core.Call[None] | None, drain: bool, timeout: float) -> None:
        connection = self.client._connection
        try:
            if drained is not None:
                try:
                    if drain and timeout > 0:
                        with contextlib.suppress(TimeoutError, ClientClosed, ConnectionLost):
                            wait(drained, timeout)
                finally:
                    # Else each handler that is given up makes room for the next.
                    connection.stop_responders(self._ids)
                    self._give_up()
                    connection.close_responders(self._ids)
        finally:
            self.client._responders.discard(self)
            self._inbox.close()
            self._deadlines.close()
            self._close_journal()
            if self._owns_client:
                self.client._disconnect()

    def _give_up(self) -> None:
        with self._lock:
            running = list(self._running)
        for request in running:
            request._reply(*_error(503, "responder is shutting down", self._azure, application=False))


def _in_this_thread(spec: ResponderSpec) -> Callable[..., Any]:
    """A handler as the steps around it want it: a coroutine function, which never waits."""
    handler = spec.handler
    if inspect.iscoroutinefunction(_body(handler)):
        raise TypeError(
            f"{spec.name} is `async def`: handlers of reqtt.blocking.Responder are plain functions, or use"
            " reqtt.Responder"
        )

    if spec.lifespans or any(argument.dependency is not None for argument in spec.arguments):
        raise TypeError(f"{spec.name}: dependencies and lifespans need reqtt.Responder")

    @functools.wraps(handler)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            result = handler(*args, **kwargs)
        except asyncio.CancelledError as error:
            # Nobody has cancelled the handler: it waited for something that was.
            raise RuntimeError("cancelled") from error
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{spec.name} returned something to await: there is no event loop here")
        return result

    return run


def _layer(middleware: Middleware) -> Any:
    if not callable(middleware) or inspect.iscoroutinefunction(_body(middleware)):
        raise TypeError(f"middleware must be `def (request, call_next) -> Response`, not {middleware!r}")

    async def layer(request: Request, call_next: Any) -> Response:
        return middleware(request, lambda request: _run(call_next(request)))

    return layer


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("something waits for an event loop, which is not here")


def _open_journal(path: Any) -> Journal:
    # Imported by those who need it: SQLite takes 3 ms.
    from reqtt.journal import Journal

    class InThread(Journal):
        """Who asks it waits in his thread."""

        async def _do(self, operation: Any) -> Any:
            future: Future[Any] = Future()
            self._jobs.put((operation, future))
            return future.result()

    return InThread(path)


class _Deadlines:
    """Answers 408 for handlers that are late, in a thread of its own from the first one on."""

    def __init__(self, azure: bool) -> None:
        self._azure = azure
        self._changed = threading.Condition()
        # By the thread that the handler runs in.
        self._running: dict[int, tuple[float, float, Request]] = {}
        self._wakes: float | None = None
        self._started = False
        self._over = False

    @contextlib.contextmanager
    def watch(self, request: Request, seconds: float | None) -> Iterator[None]:
        """While it is entered, `request` is answered after so many seconds."""
        if seconds is None:
            yield
            return
        me, due = threading.get_ident(), time.monotonic() + seconds
        with self._changed:
            if not self._started:
                self._started = True
                threading.Thread(target=self._watch, name="reqtt-deadlines", daemon=True).start()
            self._running[me] = (due, seconds, request)
            if self._wakes is None or due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._running.pop(me, None)

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()

    def _watch(self) -> None:
        while (late := self._next()) is not None:
            seconds, request = late
            message = f"handler did not finish within {seconds:g} s"
            # Nothing where it is answered.
            request._reply(*_error(408, message, self._azure, application=False))
            del late, request

    def _next(self) -> tuple[float, Request] | None:
        with self._changed:
            while not self._over:
                first = min(self._running, key=lambda thread: self._running[thread][0], default=None)
                if first is None:
                    self._wakes = None
                    self._changed.wait()
                    continue
                due, seconds, request = self._running[first]
                left = due - time.monotonic()
                if left <= 0:
                    del self._running[first]
                    return seconds, request
                del request
                self._wakes = due
                self._changed.wait(left)
            return None
