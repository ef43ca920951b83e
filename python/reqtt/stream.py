"""The requester's side of a stream: items in order, credit as they are taken, and a word when it leaves.

What goes over the wire is in docs/wire.md. The responder's side is `reqtt.streaming`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from reqtt.errors import InvalidResponse, ReqttError, ResponseTimeout

if TYPE_CHECKING:
    from reqtt._core import Response
    from reqtt.client import Client

__all__ = ["CONTROL_LEVEL", "FIRST_CREDIT", "SILENCE", "Stream", "StreamState"]

T = TypeVar("T")

FIRST_CREDIT: Final = 64
"""How many items may come before any is taken."""
SILENCE: Final = 30.0
"""A responder that says nothing for so many seconds is gone: one that lives asks whether we do."""
CONTROL_LEVEL: Final = "rq-control"
"""The level before the last of every control topic: nothing else may be published to on a peer's word."""

# Of later credit, in items and in bytes: large items must not fill the memory of who is slow.
_MOST_ITEMS: Final = 256
_MOST_BYTES: Final = 4 * 1024 * 1024
# More digits than any stream will ever count.
_DIGITS: Final = 15


class _Start(Protocol):
    def __call__(
        self, item: Callable[[Response | ReqttError], None], end: Callable[[BaseException | None], None], /
    ) -> int: ...


class Stream(AsyncIterator[T], Generic[T]):
    """The items that a responder streams to one request. `Requester.stream` makes it, and sends the request.

    `async for` gives the items in the order in which the responder made them, each once. `aclose()`, leaving
    `async with`, an exception in the wait for an item (a cancellation, a timeout), or letting go of it, as
    `break` does where nothing else holds it, ends it early: the responder is told, and closes its generator.
    It can be used once.

        async with req.stream("logs/heater/follow", response_type=Line) as lines:
            async for line in lines:
                print(line)
    """

    def __init__(self, state: StreamState, start: _Start) -> None:
        self._state = state
        # The native side must not hold this object itself: who lets go of it gives it up.
        state.token = start(state.item, state.end)

    def __repr__(self) -> str:
        return f"<reqtt.Stream of {self._state.taken} items{', over' if self._state.over else ''}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            item: T = await self._state.next()
        except BaseException:
            self._state.leave()
            raise
        return item

    async def aclose(self) -> None:
        """Takes no more items, forgets those that wait, and tells the responder. Closing twice is nothing."""
        self._state.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._state.leave()

    def __del__(self) -> None:
        self._state.leave()


class StreamState:
    """What has come, what may still come, and who sends it."""

    def __init__(
        self,
        client: Client,
        give_up: Callable[[int], None],
        *,
        topic: str,
        timeout: float,
        idle_timeout: float | None,
        decode: Callable[[Any, str | None, int | None], Any] | None,
        now: Callable[[], float],
    ) -> None:
        self.token: int | None = None
        self.taken = 0
        self.over = False
        self._client = client
        self._give_up = give_up
        self._topic = topic
        self._timeout = timeout
        self._now = now
        self._until = now() + timeout
        self._idle_timeout = idle_timeout
        self._decode = decode
        self._queue: deque[Any] = deque()
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        # Whose stream it is, and where that one takes credit and cancellation.
        self._id: str | None = None
        self._control: str | None = None
        self._correlation_data: bytes | None = None
        self._seen = 0
        self._largest = 1
        self._granted = FIRST_CREDIT
        self._grant_at = FIRST_CREDIT // 2
        # The consumer has gone before the responder could be told.
        self._left = False

    # --- what comes

    def item(self, outcome: Response | ReqttError) -> None:
        """A response on the wire: an item, the opening, the end, or something that is none of them."""
        if self.over:
            return
        response = getattr(outcome, "response", None) if isinstance(outcome, ReqttError) else outcome
        marks = {} if response is None else dict(response.user_properties)
        mark, identity = marks.get("rq-seq"), marks.get("rq-id", "")
        if response is None or mark is None:
            # Nobody streams: the one response is all there is. Beside a stream it is somebody else's.
            if self._id is None:
                self._only(outcome)
            return
        if self._id is None:
            self._id = identity
            # From here on the time until the first item is counted on this side.
            self._changed.set()
        elif identity != self._id:
            # There is another responder. The first one's items are those that are taken.
            self._refuse(response, identity)
            return
        if not (mark.isascii() and mark.isdigit() and len(mark) <= _DIGITS):
            self._broken(f"a sequence number that is none (rq-seq {mark[:64]!r})", response)
            return
        opened = self._control is not None
        if response.response_topic is not None and not self._learn_control(response):
            return
        number = int(mark)
        if number == 0:
            if opened:
                # It asks whether somebody is still there.
                self._send_credit()
            return
        if number <= self._seen:
            return
        if number != self._seen + 1:
            self._broken(
                f"item {number} where item {self._seen + 1} was expected: what is between them is lost"
                " (a client with session_expiry_interval= misses nothing while it reconnects)",
                response,
            )
            return
        self._seen = number
        self._take_in(outcome, response, number, last="rq-end" in marks)

    def _take_in(
        self, outcome: Response | ReqttError, response: Response, number: int, *, last: bool
    ) -> None:
        if last or isinstance(outcome, ReqttError):
            self.end(outcome if isinstance(outcome, ReqttError) else None, told=last)
        elif number > self._granted:
            self._broken(f"item {number}, although it may send {self._granted}", response)
        elif not self._left:
            self._largest = max(self._largest, len(response.payload))
            self._queue.append(outcome)
            self._changed.set()

    def _only(self, outcome: Response | ReqttError) -> None:
        if isinstance(outcome, ReqttError):
            self.end(outcome)
        else:
            self._queue.append(outcome)
            self.end(None)

    def _learn_control(self, response: Response) -> bool:
        topic = response.response_topic or ""
        levels = topic.split("/")
        if len(levels) < 3 or levels[-2] != CONTROL_LEVEL:
            self._broken(f"a control topic that is none ({topic[:80]!r})", response)
            return False
        self._control, self._correlation_data = topic, response.correlation_data
        if self._left:
            self._cancel()
            self._finish()
            return False
        return True

    def _broken(self, what: str, response: Response) -> None:
        # What came before is still given.
        self.end(InvalidResponse(f'stream from "{self._topic}" has {what}', response=response), told=False)

    def end(self, error: BaseException | None, *, told: bool = True) -> None:
        """The responder, the core, or a broken rule has ended it. `told`: the responder knows."""
        if self.over:
            return
        if self._id is not None and isinstance(error, ResponseTimeout):
            error = ResponseTimeout(
                f'the stream from "{self._topic}" fell silent for {SILENCE:g} s after item {self._seen}:'
                " its responder is gone, or cannot reach this client",
                topic=self._topic,
                timeout=SILENCE,
                phase="response",
            )
            told = False
        self._error = error
        if not told:
            self._cancel()
        self._finish()

    def _finish(self) -> None:
        self.over = True
        self._changed.set()
        if self.token is not None:
            self._give_up(self.token)

    # --- what is taken

    async def next(self) -> Any:
        """The next item; StopAsyncIteration after the last, or what ended it before."""
        while not self.ready():
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self.until()):
                    await self._changed.wait()
            except TimeoutError:
                if not self._changed.is_set():
                    raise self.timed_out() from None
        return self.take()

    def ready(self) -> bool:
        """Whether there is an item; StopAsyncIteration or what ended it, where none will come."""
        if self._queue:
            return True
        if self._error is not None:
            raise self._error
        if self.over or self._left:
            raise StopAsyncIteration
        return False

    def take(self) -> Any:
        """The item that is there, decoded; grants more."""
        response = self._queue.popleft()
        self.taken += 1
        if self.taken >= self._grant_at and not self.over:
            self._grant()
        if self._decode is None:
            return response
        return self._decode(response.payload, response.content_type, response.payload_format_indicator)

    def until(self) -> float | None:
        """When the wait for an item is over."""
        if self._id is not None and self._seen == 0:
            # Before the opening it is the core's timeout, which knows how far the request has come.
            return self._until
        if self._seen > 0 and self._idle_timeout is not None:
            return self._now() + self._idle_timeout
        return None

    def timed_out(self) -> ResponseTimeout:
        if self._seen == 0:
            seconds, what = self._timeout, "no item"
        else:
            seconds, what = self._idle_timeout or 0.0, f"no item after item {self._seen}"
        return ResponseTimeout(
            f'{what} from "{self._topic}" within {seconds:g} s: the responder streams nothing so far',
            topic=self._topic,
            timeout=seconds,
            phase="response",
        )

    # --- what is sent

    def _grant(self) -> None:
        window = max(4, min(_MOST_ITEMS, _MOST_BYTES // self._largest))
        self._grant_at = self.taken + window // 2
        self._granted = max(self._granted, self.taken + window)
        self._send_credit()

    def _send_credit(self) -> None:
        # At QoS 0: it overtakes requests that wait for room, and what is lost the responder asks for again.
        self._tell(self._control, self._id, ("rq-credit", str(self._granted)), qos=0)

    def _cancel(self) -> None:
        self._tell(self._control, self._id, ("rq-cancel", "1"), qos=1)

    def _refuse(self, response: Response, identity: str) -> None:
        levels = (response.response_topic or "").split("/")
        if len(levels) >= 3 and levels[-2] == CONTROL_LEVEL:
            self._tell(response.response_topic, identity, ("rq-cancel", "1"), qos=1)

    def _tell(self, control: str | None, identity: str | None, what: tuple[str, str], *, qos: int) -> None:
        if control is None:
            return
        connack = self._client.connack
        # Nobody waits for the PUBACK: a responder that hears nothing asks. And this may be the garbage
        # collector, in another thread or after the loop.
        with contextlib.suppress(ReqttError, RuntimeError):
            self._client._connection.publish(
                control,
                qos=min(qos, 1 if connack is None else connack.maximum_qos),
                correlation_data=self._correlation_data,
                user_properties=(("rq-id", identity or ""), what),
            )

    def leave(self) -> None:
        """The consumer has gone. The responder is told now, or as soon as it is known where."""
        self._queue.clear()
        self._error = None
        if self.over or self._left:
            return
        self._left = True
        self._changed.set()
        if self._control is not None:
            self._cancel()
        elif self._id is None and self._client.connected:
            # Its opening says where; the request's timeout ends the wait for that.
            return
        self._finish()
