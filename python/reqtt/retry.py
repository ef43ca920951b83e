"""Asking again, and asking twice: what `retry=` and `hedge=` of `Requester.request` do.

Owns how many copies of a request go out, and when. One copy is the native `request`, which comes here only
where one of the two is given: a request without them never sees this module.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from reqtt import _core, codecs
from reqtt.errors import (
    ClientClosed,
    ConnectionLost,
    DecodeError,
    InvalidResponse,
    RemoteError,
    RemoteUnavailable,
    ResponseTimeout,
)

if TYPE_CHECKING:
    from reqtt._core import Call
    from reqtt.requester import Requester

__all__ = ["Retry"]

Cause: TypeAlias = type[Exception] | int

_USUAL: Final[tuple[Cause, ...]] = (ResponseTimeout, ConnectionLost, RemoteUnavailable)
# Of a topic, the latest latencies that "p95" is taken from, how many it needs, and for how many topics.
_WINDOW: Final = 128
_ENOUGH: Final = 20
_TOPICS: Final = 256


@dataclass(frozen=True, slots=True)
class Retry:
    """Asks again where a request failed: `retry=` of `Requester.request`, or of `Requester` for all its own.

    Each attempt has `timeout` seconds. In the pause that follows, an answer to it is still taken; so all of
    it takes at most `attempts * timeout` and the pauses, and that is also the Message Expiry Interval of the
    first copy (section 3.3.2.3.3). A request that was not answered keeps its Correlation Data: a responder
    that has it already runs it once, and answers once. Another member of a shared group knows nothing of the
    first copy, and runs its own. After an error status the next attempt is a request of its own, with other
    Correlation Data unless `correlation_data=` was given.

    This is not what follows a lost connection: there an unacknowledged request is sent again anyway.

    Args:
        attempts: how often it is asked at most, from 1: the first time, too.
        backoff: seconds before the second attempt, from 0; twice that before the third, and so on.
        max_backoff: seconds that a pause has at most, from `backoff`.
        on: exceptions and statuses (400 to 599) after which it is asked again. None: `ResponseTimeout`,
            `ConnectionLost` and `RemoteUnavailable` (503). `ClientClosed` always ends it.
        jitter: the part of a pause that is random, 0 to 1, so that many do not come back in step.

    Raises:
        ValueError, TypeError: an argument out of range.

    Example:
        response = await req.request("cmnd/lamp/power", "ON", timeout=2, retry=reqtt.Retry(attempts=3))
    """

    attempts: int = 3
    backoff: float = 0.2
    max_backoff: float = 5.0
    on: Iterable[Cause] | None = None
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool):
            raise TypeError(f"attempts must be an int, not {self.attempts!r}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, the first time included, not {self.attempts}")
        for name in ("backoff", "max_backoff", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be 0 or more, and finite, not {value}")
        if self.max_backoff < self.backoff:
            raise ValueError(f"max_backoff={self.max_backoff} is below backoff={self.backoff}")
        if self.jitter > 1:
            raise ValueError(f"jitter must be 0 to 1, not {self.jitter}")
        object.__setattr__(self, "on", _USUAL if self.on is None else _causes(self.on))

    def _covers(self, error: Exception) -> bool:
        if isinstance(error, ClientClosed):
            return False
        status = error.status if isinstance(error, RemoteError) else None
        return any(
            cause == status if isinstance(cause, int) else isinstance(error, cause) for cause in self.on or ()
        )

    def _waits(self) -> bool:
        """Whether it is asked again after a timeout."""
        return any(
            not isinstance(cause, int) and issubclass(ResponseTimeout, cause) for cause in self.on or ()
        )

    def _pauses(self) -> Iterator[float]:
        """Seconds after each attempt but the last; nothing after the last."""
        import random  # With `secrets` below 3 ms, for those who use it.

        pause = self.backoff
        for _ in range(self.attempts - 1):
            yield pause * (1 - self.jitter * random.random())
            pause = min(pause * 2, self.max_backoff)
        yield 0.0


def _causes(on: Iterable[Cause]) -> tuple[Cause, ...]:
    if isinstance(on, str | bytes | type) or not isinstance(on, Iterable):
        raise TypeError(f"on must be exceptions and statuses, e.g. (reqtt.ResponseTimeout, 503), not {on!r}")
    causes = tuple(on)
    for cause in causes:
        if isinstance(cause, type) and issubclass(cause, Exception):
            continue
        if not isinstance(cause, int) or isinstance(cause, bool):
            raise TypeError(f"on takes exceptions and statuses, not {cause!r}")
        if not 400 <= cause <= 599:
            raise ValueError(f"on takes the statuses of errors, 400 to 599, not {cause}")
    return causes


_ONCE: Final = Retry(attempts=1)


def check_retry(retry: object) -> None:
    """Raises TypeError for what is no `retry=`."""
    if retry is not None and retry is not False and not isinstance(retry, Retry):
        raise TypeError(f"retry takes a reqtt.Retry, None or False, not {retry!r}")


def start(
    requester: Requester,
    topic: str,
    payload: Any,
    timeout: float,
    retry: object,
    hedge: object,
    options: dict[str, Any],
) -> tuple[Coroutine[Any, Any, Any], Call[Any]]:
    """Sends the first copy; gives what waits for the answer, and that copy. For the native `request`."""
    asking = _Asking(requester, topic, payload, timeout, retry, hedge, options)
    first = asking.send(0)
    return asking.run(first), first


def ask_and_wait(
    requester: Requester, topic: str, payload: Any, timeout: float, retry: Retry, options: dict[str, Any]
) -> Any:
    """The same for a thread without a loop: sends, and waits."""
    return _Asking(requester, topic, payload, timeout, retry, None, options).wait()


def _check_hedge(requester: Requester, hedge: Any, options: dict[str, Any]) -> None:
    if hedge is None:
        return
    if isinstance(hedge, bool) or not (hedge == "p95" or isinstance(hedge, int | float)):
        raise TypeError(f'hedge takes seconds, or "p95", not {hedge!r}')
    if hedge != "p95" and not (hedge > 0 and math.isfinite(hedge)):
        raise ValueError(f"hedge must be above 0 and finite, in seconds, not {hedge}")
    if options.get("correlation_data") is not None:
        raise ValueError("hedge= sends a second request with Correlation Data of its own: give none")
    if requester._correlation == "topic":
        raise ValueError('hedge= needs Correlation Data: it does not go with correlation="topic"')


class _Asking:
    """One question, for as many copies as it takes."""

    def __init__(
        self,
        requester: Requester,
        topic: str,
        payload: Any,
        timeout: float,
        retry: object,
        hedge: Any,
        options: dict[str, Any],
    ) -> None:
        check_retry(retry)
        _check_hedge(requester, hedge, options)
        retry = retry if isinstance(retry, Retry) else _ONCE
        self._requester = requester
        self._topic = topic
        self._timeout = timeout
        self._retry = retry
        self._hedge = hedge
        self._options = options
        # Once, so that all copies are alike.
        self._payload, content_type, indicator = codecs.encode(payload, options.get("content_type"))
        if options.get("content_type") is None:
            options["content_type"] = content_type
        if options.get("payload_format_indicator") is None:
            options["payload_format_indicator"] = indicator
        if isinstance(options.get("user_properties"), Iterator):
            options["user_properties"] = tuple(options["user_properties"])
        self._own_correlation = options.get("correlation_data") is None and retry.attempts > 1
        if self._own_correlation:
            options["correlation_data"] = _correlation_data()
        self._pauses = list(retry._pauses())
        self._waits = retry._waits()

    def _left(self, attempt: int) -> float:
        """Seconds that an answer is good for, from this attempt on."""
        if not self._waits:
            return self._timeout
        return (self._retry.attempts - attempt) * self._timeout + sum(self._pauses[attempt:])

    def send(self, attempt: int) -> Call[Any]:
        return self._ask(self._left(attempt), self._options)

    def _ask(self, timeout: float, options: dict[str, Any]) -> Call[Any]:
        call: Call[Any] = _core.Requester.request(
            self._requester, self._topic, self._payload, timeout=timeout, retry=False, **options
        )
        return call

    async def run(self, call: Call[Any] | None) -> Any:
        for attempt, pause in enumerate(self._pauses):
            if call is None:
                call = self.send(attempt)
            try:
                async with asyncio.timeout(self._end(attempt)) as scope:
                    return await (call if self._hedge is None else self._hedged(call, attempt))
            except Exception as error:
                over = scope.expired() and type(error) is TimeoutError
                left = 0.0 if over else self._pause(error, attempt, pause)
            call = None
            if left:
                await asyncio.sleep(left)
        raise AssertionError("the last attempt ends it")

    def wait(self) -> Any:
        """`run` for a thread without a loop."""
        for attempt, pause in enumerate(self._pauses):
            pending: Any = self.send(attempt)
            try:
                return pending.wait(self._end(attempt))
            except Exception as error:
                # What the request itself ends with says more than that.
                over = type(error) is TimeoutError
                left = 0.0 if over else self._pause(error, attempt, pause)
            del pending
            if left:
                time.sleep(left)
        raise AssertionError("the last attempt ends it")

    def _end(self, attempt: int) -> float | None:
        """Seconds for an attempt and its pause; the native timeout ends the last, and tells its phase."""
        last = attempt == self._retry.attempts - 1
        return self._timeout + self._pauses[attempt] if self._waits and not last else None

    def _pause(self, error: Exception, attempt: int, pause: float) -> float:
        """Seconds until the next attempt; raises where this was the last."""
        if not self._retry._covers(error) or attempt == self._retry.attempts - 1:
            if attempt:
                error.add_note(f"asked {attempt + 1} times")
            raise error
        if isinstance(error, RemoteError) and self._own_correlation:
            # With the same a responder would send the same answer again.
            self._options["correlation_data"] = _correlation_data()
        return pause

    async def _hedged(self, call: Call[Any], attempt: int) -> Any:
        """The answer to this copy, or to a second one that is sent where this one takes too long."""
        started = time.monotonic()
        latencies = self._requester._latencies
        delay = latencies.p95(self._topic) if self._hedge == "p95" else self._hedge
        if delay is None or delay >= self._timeout:
            answer = await call
        else:
            answer = await self._first_of_two(call, delay, self._left(attempt) - delay)
        if self._hedge == "p95":
            latencies.add(self._topic, time.monotonic() - started)
        return answer

    async def _first_of_two(self, call: Call[Any], delay: float, left: float) -> Any:
        calls = [call]
        tasks = [asyncio.ensure_future(call)]
        try:
            await asyncio.wait(tasks, timeout=delay)
            if not tasks[0].done():
                calls.append(self._ask(left, self._options | {"correlation_data": None}))
                tasks.append(asyncio.ensure_future(calls[1]))
            waiting = set(tasks)
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.index):
                    if not waiting or _is_answer(task):
                        return task.result()
        finally:
            for one, task in zip(calls, tasks, strict=True):
                # At once: the next attempt has the same Correlation Data. The task ends a tick later.
                one.close()
                if not task.cancel() and not task.cancelled():
                    # Looked at, so that asyncio does not report it.
                    task.exception()


def _is_answer(task: asyncio.Future[Any]) -> bool:
    """Whether a responder has spoken; what went wrong on the way, or 503, may go right for the other copy."""
    error = task.exception()
    return error is None or (
        isinstance(error, RemoteError | InvalidResponse | DecodeError)
        and not isinstance(error, RemoteUnavailable)
    )


def _correlation_data() -> bytes:
    import secrets

    return secrets.token_urlsafe(12).encode()


class Latencies:
    """How long the answers to hedged requests took lately, by topic."""

    def __init__(self) -> None:
        self._topics: dict[str, deque[float]] = {}

    def add(self, topic: str, seconds: float) -> None:
        window = self._topics.pop(topic, None)
        if window is None:
            window = deque(maxlen=_WINDOW)
            if len(self._topics) >= _TOPICS:
                # The one that was not asked for longest.
                del self._topics[next(iter(self._topics))]
        self._topics[topic] = window
        window.append(seconds)

    def p95(self, topic: str) -> float | None:
        """Of the latest; None while too few are known."""
        window = self._topics.get(topic)
        if window is None or len(window) < _ENOUGH:
            return None
        return sorted(window)[math.ceil(len(window) * 0.95) - 1]
