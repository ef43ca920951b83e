"""The responder's lifecycle: connect, subscribe, serve, drain.

What a single request goes through is in `reqtt.responder`; which requests may run is decided in the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from reqtt._status import is_azure
from reqtt._workers import Workers
from reqtt.client import Client, own_or_shared
from reqtt.errors import ClientClosed, ConnectionLost, ReqttError
from reqtt.lifespan import Lifespan, Lifespans, check_lifespan
from reqtt.responder import Middleware, ResponderSpec, compile_runner
from reqtt.router import collect

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from reqtt import _core
    from reqtt._options import ClientOptions
    from reqtt.discovery import Discovery, Presence
    from reqtt.journal import Journal
    from reqtt.streaming import Control

__all__ = ["Responder"]

# How long handlers have to end after they were cancelled, in seconds.
_CANCEL_PATIENCE = 1.0


class Responder:
    """Answers requests with handlers, over a `Client` of its own (given a URL) or a shared one.

    Entering connects and subscribes: `ConnectError` and `SubscribeError` surface there. Leaving drains:
    unsubscribe, finish and answer all that was received, acknowledge, disconnect.

    Args:
        client: a URL, or a `Client` to share.
        handlers: functions under `@responder`, modules or objects that hold such, or `Router`s.
        group: puts handlers that name none into one shared subscription (`$share/<group>/...`, section
            4.8.2).
        middleware: wraps every handler; the first is outermost.
        state: what handlers and dependencies find as `app.state`; None: an empty namespace, to be filled by
            the lifespan for example.
        lifespan: a function that takes this `Responder` and gives an async context manager. It is entered
            when the client is connected and nothing is subscribed yet, and left when all is answered and the
            client is still connected; what it raises surfaces from entering or closing. One that ends
            before ends `serve_forever`.
        discovery: answers who this is, what it serves and how often it was asked. None: it does not.
        interop: "azure" for requesters that speak the RPC protocol of Azure IoT Operations: answers carry
            what they expect, and what the protocol forbids is refused (docs/azure.md).
        deduplicate_file: where `@responder(deduplicate="disk")` keeps requests and answers, for their Message
            Expiry Interval (24 hours without one); at most 100,000 requests and 256 MiB, then the oldest
            answers go. None: below `$XDG_STATE_HOME`, by `client_id`.
        client_options: those of `Client`, where a URL is given.

    Raises:
        TypeError: something that is no handler, middleware or lifespan; client options beside a `Client`.
        ValueError: no handler, or two for one filter and group; an argument out of range. On entering:
            another responder on this client answers the same discovery.
        ReqttError: `deduplicate_file` cannot be read or written, or is in use; on entering.

    Example:
        async with Responder("mqtt://localhost:1883", [power]) as app:
            await app.serve_forever()
    """

    def __init__(
        self,
        client: Client | str,
        handlers: Any,
        *,
        group: str | None = None,
        middleware: Sequence[Middleware] = (),
        state: Any = None,
        lifespan: Lifespan | None = None,
        discovery: Discovery | None = None,
        interop: Literal["plain", "azure"] = "plain",
        deduplicate_file: str | os.PathLike[str] | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        self._specs: list[ResponderSpec] = collect(handlers, group=group)
        if not self._specs:
            raise ValueError("no handler is given: decorate a function with @responder('filter')")
        check_lifespan(lifespan)
        self.state: Any = SimpleNamespace() if state is None else state
        outer = () if lifespan is None else (lifespan,)
        self._lifespans = Lifespans((*outer, *(own for spec in self._specs for own in spec.lifespans)))
        # Requests that are answered, and whose dependencies are being closed.
        self._finishing: set[asyncio.Task[Any]] = set()
        self.client, self._owns_client = own_or_shared(client, client_options)
        self._ids: list[int] = []
        self._stop: asyncio.Event | None = None
        self._closing: asyncio.Task[None] | None = None
        self._file = _journal_file(
            self._specs, deduplicate_file, client_options.get("client_id"), self.client
        )
        self._journal: Journal | None = None
        self._presence: Presence | None = None
        if discovery is not None:
            # Imported by those who need it.
            from reqtt.discovery import Presence

            self._presence = Presence(discovery, self._specs)
        self._azure = is_azure(interop)
        # Compiled now: a middleware that is none must not surface with the first request.
        self._workers = _workers(self._specs)
        self._control = _control(self._specs, self.client)
        self._runners = [
            compile_runner(
                spec,
                client=self.client,
                workers=self._workers,
                middleware=tuple(middleware),
                interop=interop,
                journal=self._opened_journal,
                control=self._control,
                app=self,
                around=None if self._presence is None else self._presence.counting(number),
            )
            for number, spec in enumerate(self._specs)
        ]
        if self._presence is not None:
            own = self._presence.handlers()
            self._specs += own
            self._runners += [compile_runner(spec, client=self.client, workers=None) for spec in own]

    def __repr__(self) -> str:
        filters = ", ".join(spec.topic_filter for spec in self._specs)
        return f"<reqtt.Responder [{filters}] on {self.client!r}>"

    async def __aenter__(self) -> Self:
        if self._closing is not None:
            raise ClientClosed("the responder is closed: open a new one")
        self._stop = asyncio.Event()
        if self._file is not None:
            # Imported by those who need it: SQLite takes 3 ms.
            from reqtt.journal import Journal

            # First of all: without it nothing may run.
            self._journal = await asyncio.to_thread(Journal, self._file)
        try:
            if self._owns_client or not self.client.connected:
                await self.client.connect()
            try:
                if self._presence is not None:
                    self._presence.take_place(self.client)
                await self._lifespans.enter(self, self._stop.set)
                await self._subscribe()
            except BaseException:
                self.client._connection.close_responders(self._ids)
                if self._presence is not None:
                    self._presence.leave_place(self.client)
                if self._control is not None:
                    self._control.close()
                try:
                    await self._lifespans.leave()
                finally:
                    if self._owns_client:
                        await self.client.close(drain=False)
                raise
        except BaseException:
            await self._close_journal()
            raise
        self.client._responders.add(self)
        return self

    def _opened_journal(self) -> Journal:
        if self._journal is None:
            raise ReqttError("the responder is closed")
        return self._journal

    async def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            await asyncio.to_thread(journal.close)

    async def _subscribe(self) -> None:
        if self._control is not None:
            await self._control.open()
        calls = []
        for spec, runner in zip(self._specs, self._runners, strict=True):
            number, call = open_responder(self.client._connection, spec, runner, azure=self._azure)
            self._ids.append(number)
            calls.append(call)
        for call in calls:
            await call

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def serve_forever(self) -> None:
        """Serves until SIGINT, SIGTERM or `close()`; a signal drains first. A second signal stops at once.

        Raises `ConnectionLost` when there will be no other connection, `RuntimeError` outside `async with`.

            async with Responder("mqtt://localhost", handlers, client_id="lights") as app:
                await app.serve_forever()
        """
        stop = self._stop
        if stop is None:
            raise RuntimeError("the responder is not open: use `async with Responder(...) as app:`")
        ended = asyncio.ensure_future(self.client._state.ended())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            with on_first_signal(lambda _: stop.set()):
                await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
                if self.client._state.lost is not None:
                    raise self.client._state.lost
                await self.close()
        finally:
            for task in (ended, stopped):
                task.cancel()

    async def close(self, *, drain: bool = True, timeout: float = 30) -> None:
        """Unsubscribes (section 3.10), then finishes, answers and acknowledges what came before the UNSUBACK.

        After `timeout` seconds handlers that still run are cancelled and answer 503. With `drain=False` they
        are cancelled at once. Disconnects if the client is this responder's own. Closing twice waits for the
        first.

            app = await stack.enter_async_context(Responder(client, handlers))
            await app.close(timeout=5)
        """
        if self._closing is None:
            # Raises on another loop or after fork(), before anything has changed.
            drained = self._drain()
            self._closing = asyncio.ensure_future(self._close(drained, drain, timeout))
        await asyncio.shield(self._closing)

    def _drain(self) -> Awaitable[None] | None:
        if self._ids and self.client._state.lost is None:
            with contextlib.suppress(ClientClosed, ConnectionLost):
                return self.client._connection.drain(self._ids)
        return None

    async def _close(self, drained: Awaitable[None] | None, drain: bool, timeout: float) -> None:
        connection = self.client._connection
        try:
            if drained is not None:
                with contextlib.suppress(TimeoutError, ClientClosed, ConnectionLost):
                    async with asyncio.timeout(timeout if drain else 0):
                        await drained
                # Else each handler that is cancelled makes room for the next.
                connection.stop_responders(self._ids)
                await self._cancel_handlers()
                connection.close_responders(self._ids)
        finally:
            self._ids.clear()
            if self._control is not None:
                self._control.close()
            self.client._responders.discard(self)
            if self._presence is not None:
                self._presence.leave_place(self.client)
            if self._workers is not None:
                # A thread that is stuck is left behind: it must not hold up the end.
                self._workers.shutdown()
            if self._stop is not None:
                self._stop.set()
            try:
                await self._finish(timeout if drain else _CANCEL_PATIENCE)
                await self._lifespans.leave()
            finally:
                try:
                    await self._close_journal()
                finally:
                    if self._owns_client:
                        await self.client._disconnect()

    async def _finish(self, timeout: float) -> None:
        """Waits for what follows the responses."""
        if self._finishing:
            _, late = await asyncio.wait(self._finishing, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_PATIENCE)

    async def _cancel_handlers(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in self.client._connection.tasks(self._ids) if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_PATIENCE)


def _workers(specs: list[ResponderSpec]) -> Workers | None:
    threads = sum(
        spec.concurrency for spec in specs if not (spec.streams or inspect.iscoroutinefunction(spec.handler))
    )
    return Workers(threads) if threads else None


def _control(specs: list[ResponderSpec], client: Client) -> Control | None:
    if not any(spec.streams for spec in specs):
        return None
    from reqtt.streaming import Control

    return Control(client)


def _journal_file(
    specs: list[ResponderSpec], given: str | os.PathLike[str] | None, client_id: str | None, client: Client
) -> Path | None:
    """The file, where a handler needs one."""
    wanting = [spec for spec in specs if spec.deduplicate == "disk"]
    if not wanting:
        if given is not None:
            raise ValueError('deduplicate_file= is for handlers with deduplicate="disk": there is none')
        return None
    if given is not None:
        from pathlib import Path

        return Path(given)
    client_id = client_id or client.client_id
    if not client_id:
        raise ValueError(
            f'{wanting[0].name}: deduplicate="disk" needs a client_id, by which a restart finds its file,'
            " or deduplicate_file="
        )
    from reqtt.journal import default_path

    return default_path(client_id)


@contextlib.contextmanager
def on_first_signal(tell: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Tells of the first SIGINT or SIGTERM; the next has its usual effect."""
    loop = asyncio.get_running_loop()
    installed: list[signal.Signals] = []

    def restore() -> None:
        while installed:
            loop.remove_signal_handler(installed.pop())

    def first(number: signal.Signals) -> None:
        restore()
        tell(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not on Windows' loops: there Ctrl-C cancels the main task, which drains on its way out.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, first, number)
                installed.append(number)
    try:
        yield
    finally:
        restore()


def open_responder(
    connection: _core.Connection, spec: ResponderSpec, runner: Any, *, azure: bool
) -> tuple[int, _core.Call[None]]:
    """Subscribes for one handler; gives its number, and what to wait for."""
    return connection.respond(
        spec.topic_filter,
        runner,
        group=spec.group,
        qos=spec.qos,
        concurrency=spec.concurrency,
        # A stream may last for ever: its request would take room in the broker's in-flight window.
        ack_on_receipt=spec.streams or spec.ack == "on_receipt",
        deduplicate=bool(spec.deduplicate),
        run_without_response_topic=spec.without_response_topic == "run",
        allowed_response_topics=list(spec.allowed_response_topics),
        retained=spec.retained,
        azure=azure,
    )
