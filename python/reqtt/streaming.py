"""The responder's side of a stream: runs an async generator, and sends what it yields.

Owns credit, the control topic, and how a stream ends. What goes over the wire is in docs/wire.md; the
requester's side is `reqtt.stream`. Imported by those who have such a handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from reqtt._core import Request, Response, own_topic
from reqtt.errors import ClientClosed, ConnectionLost, PacketTooLarge, PublishError, RequestError
from reqtt.responder import (
    Middleware,
    Reply,
    ResponderSpec,
    Runner,
    _error,
    _failure,
    _Rejected,
    _replier,
    _with_middleware,
)
from reqtt.stream import CONTROL_LEVEL, SILENCE

if TYPE_CHECKING:
    from reqtt._core import Call, Message, PubAck
    from reqtt.client import Client

__all__ = ["Control", "compile_streamer"]

_log = logging.getLogger("reqtt.responder")

# Items under way to the broker: one at a time would wait for a round trip each.
_UNACKNOWLEDGED: Final = 64
# Seconds without a word after which the requester is asked whether it is there; doubled meanwhile.
_FIRST_QUESTION: Final = 1.0
_LATER_QUESTIONS: Final = 8.0
_NO_MATCHING_SUBSCRIBERS: Final = 0x10

_sending: contextvars.ContextVar[_Sending] = contextvars.ContextVar("reqtt stream")


class _Gone(Exception):
    """Nobody takes the items any more."""


class Control:
    """The topic of this client on which requesters grant credit to its streams, and cancel them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.topic = ""
        self.streams: dict[str, _Sending] = {}
        self._token: int | None = None

    async def open(self) -> None:
        """Subscribes; raises `SubscribeError`."""
        client, connack = self.client, self.client.connack
        # A session that persists must find the same topic again, instead of keeping one for each process.
        name = secrets.token_urlsafe(12) if client._options["clean_start"] else str(len(client._responders))
        information = None if connack is None else connack.response_information
        self.topic = own_topic(client.client_id, information, f"{CONTROL_LEVEL}/{name}")
        # At QoS 0: it must not wait behind requests that are not answered yet.
        self._token, subscribed = client._connection.subscribe(
            [self.topic],
            self._push,
            self._fail,
            qos=0,
            no_local=False,
            retain_as_published=True,
            retain_handling=2,
            subscription_identifier=None,
        )
        await subscribed

    def close(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            self.client._connection.unsubscribe(token)

    def _push(self, message: Message, delivery: int | None) -> None:
        if delivery is not None:
            self.client._connection.acknowledge(delivery)
        marks = dict(message.user_properties)
        stream = self.streams.get(marks.get("rq-id", ""))
        if stream is not None and not message.retain:
            stream.hear(marks)

    def _fail(self, error: BaseException) -> None:
        self._token = None
        if not isinstance(error, ClientClosed | ConnectionLost):
            _log.error("streams can no longer be sent: %s", error)


def streamed(spec: ResponderSpec, call: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
    """What sends all that the generator of a call gives."""
    ended = Response()

    async def stream(*arguments: Any) -> Response:
        items: AsyncGenerator[Any, None] = call(*arguments)
        await _sending.get().send_all(items, spec.timeout)
        return ended

    return stream


def compile_streamer(
    spec: ResponderSpec,
    handle: Callable[[Request], Awaitable[Any]],
    *,
    middleware: Sequence[Middleware],
    azure: bool,
    control: Control | None,
) -> Runner:
    """The coroutine function that answers one request with a stream; what `compile_runner` says holds."""
    reply_to = _replier(spec, azure)
    if middleware:
        handle = _with_middleware(handle, reply_to, middleware)

    async def run(request: Request) -> int | None:
        sending = _Sending(request, control, reply_to)
        _sending.set(sending)
        raised: BaseException | None = None
        reply: Reply | None = None
        try:
            reply = reply_to(await handle(request))
        except _ErrorItem as error:
            reply = error.reply
        except _Gone:
            pass
        except Exception as error:
            if sending.interrupted:
                _log.error(
                    "%s failed as it was closed (request on %r)", spec.name, request.topic, exc_info=error
                )
            else:
                reply = _failure(spec, request, error, azure)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if sending.interrupted:
                if task is not None:
                    task.uncancel()
            elif task is not None and task.cancelling():
                raised = error
                reply = _error(503, "responder is shutting down", azure, application=False)
            else:
                reply = _failure(spec, request, error, azure)
        except (KeyboardInterrupt, SystemExit) as error:
            raised = error
            reply = _failure(spec, request, error, azure)
        if sending.silent:
            reply = _error(
                408,
                f"nothing was heard for {SILENCE:g} s on the control topic: the requester must live,"
                " and be allowed to publish there",
                azure,
                application=False,
            )
        sending.end(reply)
        if raised is not None:
            raise raised
        return None if reply is None else reply[1]

    run.__qualname__ = run.__name__ = f"responder {spec.name}"
    return run


class _ErrorItem(Exception):
    """The handler yielded a `Response` that is an error: that is the end."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"status {reply[1]}")
        self.reply = reply


class _Sending:
    """One stream on its way to one requester."""

    def __init__(self, request: Request, control: Control | None, reply_to: Any) -> None:
        self.interrupted = False
        self.silent = False
        self._gone = False
        self._request = request
        self._control = control
        self._reply_to = reply_to
        marks = dict(request.user_properties)
        # Another version is none that we know: its requester gets plain responses.
        self._streams = (
            marks.get("rq-stream") == "1" and request.response_topic is not None and control is not None
        )
        self._credit_text = marks.get("rq-credit", "")
        self._wants_status = "__protVer" in marks
        self._id = ""
        self._count = 0
        self._credit = 0
        self._more = asyncio.Event()
        self._calls: deque[Call[PubAck]] = deque()
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = self._asked = self._loop.time()
        self._patience = _FIRST_QUESTION
        self._timer: asyncio.TimerHandle | None = None
        self._question: asyncio.Task[None] | None = None
        connack = None if control is None else control.client.connack
        self._maximum = None if connack is None else connack.maximum_packet_size

    # --- items

    async def send_all(self, items: AsyncGenerator[Any, None], timeout: float | None) -> None:
        """Until the generator ends, or nobody takes the items. The generator is closed then."""
        self._task = asyncio.current_task()
        try:
            self._open()
            step = items.__anext__ if timeout is None else functools.partial(_within, items, timeout)
            while True:
                try:
                    item = await step()
                except StopAsyncIteration:
                    break
                await self._send(item)
            await self._flush()
        finally:
            self._task = None
            await items.aclose()

    async def _send(self, item: Any) -> None:
        if self.interrupted:
            # The generator went on in spite of its cancellation.
            raise _Gone
        reply = self._reply_to(item)
        payload, status, content_type, indicator, properties = reply
        if status >= 400:
            raise _ErrorItem(reply)
        request, number = self._request, self._count + 1
        if request.response_topic is None:
            await asyncio.sleep(0)
            return
        if self._streams:
            while self._count >= self._credit:
                self._more.clear()
                await self._more.wait()
            properties = [*properties, ("rq-seq", str(number)), ("rq-id", self._id)]
        if self._wants_status:
            properties = [("__stat", str(status)), *properties]
        self._calls.append(request._item(payload, content_type, indicator, properties))
        self._count = number
        if self._maximum is not None and 2 * len(payload) > self._maximum:
            # It may be refused, and what follows must not be sent then.
            await self._flush()
        elif len(self._calls) >= _UNACKNOWLEDGED:
            await self._acknowledged(self._calls.popleft())

    async def _flush(self) -> None:
        while self._calls:
            await self._acknowledged(self._calls.popleft())

    async def _acknowledged(self, call: Call[PubAck]) -> None:
        try:
            puback = await call
        except PacketTooLarge as error:
            # It was the last: see above.
            self._count -= 1
            raise RequestError(500, f"item {self._count + 1} is larger than the broker accepts") from error
        except PublishError as error:
            _log.warning("stream stopped: %s", error)
            raise self._leave() from error
        except (ClientClosed, ConnectionLost) as error:
            raise self._leave() from error
        if puback.reason_code == _NO_MATCHING_SUBSCRIBERS:
            raise self._leave()

    def _leave(self) -> _Gone:
        self.interrupted = self._gone = True
        return _Gone()

    # --- the other side

    def _open(self) -> None:
        control = self._control
        if control is None or not self._streams:
            self._open_plainly()
            return
        if self._id:
            # A middleware asks the handler again.
            return
        text = self._credit_text
        if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) > 0):
            raise _Rejected(400, f"rq-credit is no number from 1 on: {text[:64]!r}")
        self._credit = int(text)
        self._id = secrets.token_urlsafe(12)
        control.streams[self._id] = self
        self._calls.append(self._opening())
        self._timer = self._loop.call_later(_FIRST_QUESTION, self._look)

    def _open_plainly(self) -> None:
        remaining = self._request.remaining()
        if self._request.response_topic is not None and remaining is not None:
            # Then who asked waits no longer, and nothing else would tell.
            self._timer = self._loop.call_later(remaining, self._interrupt_gone)

    def _opening(self) -> Call[PubAck]:
        control = self._control
        topic = None if control is None else control.topic
        return self._request._item(b"", None, None, (("rq-seq", "0"), ("rq-id", self._id)), topic)

    def hear(self, marks: dict[str, str]) -> None:
        """A message on the control topic."""
        self._heard = self._loop.time()
        if "rq-cancel" in marks:
            self._interrupt_gone()
            return
        text = marks.get("rq-credit", "")
        if text.isascii() and text.isdigit() and len(text) <= 15 and int(text) > self._credit:
            self._credit = int(text)
            self._patience = _FIRST_QUESTION
            self._more.set()

    def _look(self) -> None:
        """Once a second: a requester that says nothing is asked, and given up at last."""
        now = self._loop.time()
        if now - self._heard >= SILENCE:
            self.silent = self._interrupt()
            return
        if now - max(self._heard, self._asked) >= self._patience and self._question is None:
            self._asked = now
            self._patience = min(2 * self._patience, _LATER_QUESTIONS)
            self._question = self._loop.create_task(self._ask())
        self._timer = self._loop.call_later(_FIRST_QUESTION, self._look)

    async def _ask(self) -> None:
        try:
            puback = await self._opening()
            if puback.reason_code == _NO_MATCHING_SUBSCRIBERS:
                self._interrupt_gone()
        except (PublishError, ClientClosed, ConnectionLost):
            # An item will tell, or the silence.
            pass
        finally:
            self._question = None

    def _interrupt(self) -> bool:
        if self._task is None or self.interrupted:
            return False
        self.interrupted = True
        self._task.cancel()
        return True

    def _interrupt_gone(self) -> None:
        self._gone = True
        self._interrupt()

    # --- the end

    def end(self, reply: Reply | None) -> None:
        """Sends the end, where somebody waits for it, and lets go of the request."""
        if self._timer is not None:
            self._timer.cancel()
        if self._question is not None:
            self._question.cancel()
        if self._control is not None:
            self._control.streams.pop(self._id, None)
        request = self._request
        try:
            if reply is not None and not self._gone:
                self._send_end(reply)
        except (ClientClosed, ConnectionLost):
            pass
        except Exception as error:
            _log.error("the end of a stream cannot be sent (request on %r)", request.topic, exc_info=error)
        finally:
            request._done()

    def _send_end(self, reply: Reply) -> None:
        request = self._request
        payload, status, content_type, indicator, properties = reply
        if not self._id and self._count == 0:
            # No item was sent: it is a response like any other.
            request._reply(*reply)
            return
        if not self._id and status < 400:
            return
        if status < 400:
            payload, content_type, indicator = b"", None, None
        if self._id:
            marks = [("rq-seq", str(self._count + 1)), ("rq-id", self._id), ("rq-end", "1")]
            properties = [*properties, *marks]
        if status >= 400 or self._wants_status:
            properties = [("__stat", str(status)), *properties]
        # Not awaited: it leaves in its turn, and nothing follows it.
        request._item(payload, content_type, indicator, properties)


async def _within(items: AsyncGenerator[Any, None], seconds: float) -> Any:
    """The next item, within so much of the handler's own time."""
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await anext(items)
    except StopAsyncIteration:
        raise
    except Exception:
        # A TimeoutError of the handler's own is none of ours, so only the scope knows.
        if not scope.expired():
            raise
    raise _Rejected(408, f"handler made no item within {seconds:g} s")
