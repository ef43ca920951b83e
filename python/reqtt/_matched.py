"""Requests whose responses a matcher recognizes: who waits where, in which order, and how each one ends.

The counterpart of the native requests for responders without Correlation Data; it uses a client as anybody
may. What a response looks like is the matcher's business (`reqtt.correlate`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Coroutine, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reqtt import _core, codecs
from reqtt._status import error_from_response, remote_error
from reqtt.correlate import Expected, Matcher
from reqtt.errors import (
    ClientClosed,
    NoMatchingSubscribers,
    Phase,
    ReqttError,
    RequestError,
    ResponseTimeout,
)

if TYPE_CHECKING:
    from reqtt.client import Client, Properties
    from reqtt.codecs import Payload
    from reqtt.retry import Retry

_log = logging.getLogger("reqtt.correlate")

# Response topics that stay subscribed although nobody waits there: few, but enough for a house.
_IDLE = 256

_NO_SUBSCRIBERS = 0x10

_MISSING: dict[Phase, str] = {
    "connect": "there is no connection to the broker",
    "subscribe": "the broker has not acknowledged the subscription to where the response comes",
    "publish": "it waits behind another request with the same key, or for its acknowledgement",
    "response": "the request was sent, but nothing that the matcher takes for its response has come",
}


@dataclass(slots=True)
class _Asked:
    """A request on its way."""

    topic: str
    payload: bytes
    expected: Expected
    response_type: Any
    timeout: float
    fail_fast: bool
    started: float
    options: dict[str, Any]
    expiry: int | None
    phase: Phase = "publish"


class Matched:
    """The requests of one requester."""

    def __init__(
        self,
        client: Client,
        matcher: Matcher,
        *,
        qos: int,
        response_qos: int | None,
        timeout: float,
        max_pending_requests: int,
    ) -> None:
        if not isinstance(matcher, Matcher):
            raise TypeError(
                f"correlation={matcher!r} is no matcher: use 'data', 'topic', or an object with expect() and"
                " key(), e.g. reqtt.correlate.tasmota()"
            )
        self._client = client
        self._matcher = matcher
        self._qos = qos
        self._response_qos = 1 if response_qos is None else response_qos
        self._timeout = timeout
        self._room = asyncio.Semaphore(max_pending_requests)
        self._turns = _Turns()
        self._places: dict[str, _Place] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._state = "not open: use `async with Requester(...) as req:`"

    def open(self) -> None:
        self._state = ""

    def request(
        self,
        topic: str,
        payload: Payload = None,
        *,
        response_type: Any = None,
        timeout: float | None = None,
        qos: int | None = None,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        user_properties: Properties | None = None,
        message_expiry_interval: int | None = None,
        correlation_data: bytes | None = None,
        response_topic: str | None = None,
        fail_fast: bool = True,
        retry: Retry | Literal[False] | None = None,
        hedge: object = None,
    ) -> Coroutine[Any, Any, Any]:
        """As `Requester.request`, but for `correlation_data` and `response_topic`; it begins when awaited."""
        if self._state == "closed":
            raise ClientClosed("the requester is closed: open a new one")
        if self._state:
            raise ReqttError(f"the requester is {self._state}")
        if correlation_data is not None or response_topic is not None:
            raise ValueError(
                "correlation_data= and response_topic= are for responders that return them:"
                " leave them out, or open the requester without correlation="
            )
        if retry or hedge is not None:
            raise ValueError(
                "retry= and hedge= need Correlation Data, or a late answer would count for the next attempt:"
                " leave them out"
            )
        _core.check_topic(topic)
        timeout = self._timeout if timeout is None else timeout
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout={timeout} cannot be kept: use a finite number of seconds above 0")
        if message_expiry_interval is not None and message_expiry_interval < 1:
            raise ValueError("message_expiry_interval is whole seconds, from 1")
        if response_type is not None:
            codecs.compile_decoder(response_type)
        qos = self._qos if qos is None else qos
        if qos not in (0, 1, 2):
            raise ValueError(f"qos={qos} does not exist: use 0, 1 or 2")
        encoded, kind, indicator = codecs.encode(payload, content_type)
        data = bytes(encoded)
        expected = self._matcher.expect(topic, data)
        _core.check_filter(expected.topic_filter)
        return self._ask(
            _Asked(
                topic,
                data if expected.payload is None else expected.payload,
                expected,
                response_type,
                timeout,
                fail_fast,
                asyncio.get_running_loop().time(),
                {
                    "qos": qos,
                    "content_type": kind if content_type is None else content_type,
                    "payload_format_indicator": (
                        indicator if payload_format_indicator is None else payload_format_indicator
                    ),
                    "user_properties": () if user_properties is None else user_properties,
                },
                message_expiry_interval,
            )
        )

    async def _ask(self, asked: _Asked) -> Any:
        # A task of its own, so that closing can end it without cancelling its caller.
        task = asyncio.ensure_future(self._within_timeout(asked))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._state == "closed" and (caller is None or not caller.cancelling()):
                raise ClientClosed("the requester was closed while this waited") from None
            raise

    async def _within_timeout(self, asked: _Asked) -> Any:
        try:
            async with asyncio.timeout_at(asked.started + asked.timeout) as limit:
                async with self._room, self._turns.turn((asked.expected.topic_filter, asked.expected.key)):
                    response = await self._exchange(asked)
        except TimeoutError:
            if not limit.expired():
                raise
            phase = asked.phase if self._client.connected else "connect"
            raise ResponseTimeout(
                f'no response from "{asked.topic}" within {asked.timeout:g} s (phase: {phase}):'
                f" {_MISSING[phase]}",
                topic=asked.topic,
                timeout=asked.timeout,
                phase=phase,
            ) from None
        return response if asked.response_type is None else response.decode(asked.response_type)

    async def _exchange(self, asked: _Asked) -> _core.Response:
        expected = asked.expected
        asked.phase = "subscribe"
        place = self._place(expected.topic_filter)
        place.users += 1
        try:
            await asyncio.shield(place.ready)
            answer = place.expect(asked)
            asked.phase = "publish"
            await self._publish(asked, answer)
            asked.phase = "response"
            return await answer
        finally:
            place.forget(expected.key)
            place.users -= 1

    async def _publish(self, asked: _Asked, answer: asyncio.Future[_core.Response]) -> None:
        """Until it is acknowledged, or answered: a fast responder is ahead of the PUBACK."""
        left = asked.started + asked.timeout - asyncio.get_running_loop().time()
        expiry = max(1, math.ceil(left))
        if asked.expiry is not None:
            expiry = min(expiry, asked.expiry)
        published = asyncio.ensure_future(
            self._client.publish(asked.topic, asked.payload, message_expiry_interval=expiry, **asked.options)
        )
        published.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait((published, answer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not published.done():
                published.cancel()
        if answer.done():
            return
        puback = published.result()
        if puback.reason_code == _NO_SUBSCRIBERS and asked.fail_fast:
            raise NoMatchingSubscribers(
                f'nobody subscribes to "{asked.topic}" (PUBACK 0x10 No matching subscribers): start the'
                " responder, or check the topic (fail_fast=False waits for a response all the same)",
                topic=asked.topic,
                reason_string=puback.reason_string,
            )

    def _place(self, topic_filter: str) -> _Place:
        place = self._places.pop(topic_filter, None)
        if place is None or place.over:
            idle = [found for found in self._places.values() if not found.users]
            for found in idle[: max(0, len(idle) - _IDLE + 1)]:
                del self._places[found.topic_filter]
                found.task.cancel()
            place = _Place(self._client, self._matcher, topic_filter, self._response_qos)
        # The one that was used last is the last to go.
        self._places[topic_filter] = place
        return place

    async def drain(self) -> None:
        """Until no request is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """Ends requests with `ClientClosed`, and unsubscribes."""
        self._state = "closed"
        places = [place.task for place in self._places.values()]
        self._places.clear()
        ending = [*self._under_way, *places]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


class _Turns:
    """One at a time for each key, in the order of asking."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, key: Hashable) -> Any:
        await self._take(key)
        try:
            yield
        finally:
            self._give(key)

    async def _take(self, key: Hashable) -> None:
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    queue.remove(turn)
            else:
                # It came together with the cancellation: it is the next one's.
                self._give(key)
            raise

    def _give(self, key: Hashable) -> None:
        queue = self._waiting[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]


class _Place:
    """One subscription where responses come, and who waits there."""

    def __init__(self, client: Client, matcher: Matcher, topic_filter: str, qos: int) -> None:
        loop = asyncio.get_running_loop()
        self.topic_filter = topic_filter
        self.users = 0
        self.over = False
        self.ready: asyncio.Future[None] = loop.create_future()
        self._matcher = matcher
        self._waiting: dict[Hashable, tuple[_Asked, asyncio.Future[_core.Response]]] = {}
        self.task = loop.create_task(self._listen(client, qos))

    def expect(self, asked: _Asked) -> asyncio.Future[_core.Response]:
        answer: asyncio.Future[_core.Response] = asyncio.get_running_loop().create_future()
        # Whoever asked may have gone when the error comes.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting[asked.expected.key] = asked, answer
        return answer

    def forget(self, key: Hashable) -> None:
        self._waiting.pop(key, None)

    async def _listen(self, client: Client, qos: int) -> None:
        error: BaseException = ClientClosed()
        try:
            # Retained states are no responses (2: they are not sent). A state that is published with retain
            # while this is subscribed comes without the flag, and may be one.
            async with client.subscribe(self.topic_filter, qos=qos, retain_handling=2) as messages:
                self.ready.set_result(None)
                async for message in messages:
                    self._take(message)
        except ReqttError as lost:
            error = lost
        finally:
            self.over = True
            if not self.ready.done():
                self.ready.set_exception(error)
                self.ready.exception()  # nobody may wait for it
            for _, answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)

    def _take(self, message: _core.Message) -> None:
        if message.retain:
            return
        try:
            key = self._matcher.key(message)
        except Exception:
            _log.exception('the matcher could not read a message on "%s"', message.topic)
            return
        asked, answer = (None, None) if key is None else self._waiting.get(key, (None, None))
        if asked is None or answer is None or answer.done():
            _log.debug('nobody waits for what came on "%s"', message.topic)
            return
        response = _response(message, asyncio.get_running_loop().time() - asked.started)
        error: Exception | None
        try:
            if asked.expected.check is not None and not asked.expected.check(message):
                return
            error = error_from_response(response, asked.topic) if response.user_properties else None
        except RequestError as refused:
            error = remote_error(refused, response, asked.topic)
        except Exception as broken:
            error = broken
        if error is None:
            answer.set_result(response)
        else:
            answer.set_exception(error)


def _response(message: _core.Message, latency: float) -> _core.Response:
    return _core._response(
        message.topic,
        message.payload,
        200 if message.payload else 204,
        latency,
        message.content_type,
        message.payload_format_indicator,
        message.correlation_data,
        message.user_properties,
    )
