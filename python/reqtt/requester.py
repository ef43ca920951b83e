"""The requester: who asks, where responses come, and for how long it is open.

`request` itself is native (`reqtt._core.Requester`): it is on the path of every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, Unpack, overload

from reqtt import _core, codecs
from reqtt._status import is_azure
from reqtt.client import Client, own_or_shared
from reqtt.errors import ClientClosed, ReqttError
from reqtt.gather import Gather, GatherState, check_rules
from reqtt.retry import Latencies, Retry, check_retry
from reqtt.stream import FIRST_CREDIT, SILENCE, Stream, StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from reqtt._matched import Matched
    from reqtt._options import ClientOptions, RequestOptions
    from reqtt.codecs import Payload
    from reqtt.correlate import Matcher
    from reqtt.middleware import RequesterMiddleware

__all__ = ["Requester", "ResponseTopic"]

T = TypeVar("T")


class ResponseTopic(Protocol):
    """Chooses a response topic from what the connection is known by (section 4.10.2).

    `response_information` is the broker's, if it sent any; `token` tells requesters of one client apart. The
    result must be a topic name that this client may subscribe to, and that no other requester uses.

        Requester(url, response_topic=lambda client_id, info, token: f"answers/{client_id}/{token}")
    """

    def __call__(self, client_id: str, response_information: str | None, token: str, /) -> str: ...


class Requester(_core.Requester):
    """Sends requests over a `Client` of its own (given a URL) or a shared one, and awaits their responses.

    Entering connects a client of its own, or a shared one that is not connected; what `Client.connect` raises
    surfaces there. Leaving ends pending requests with `ClientClosed`.

    Args:
        client: a URL, or a `Client` to share.
        response_topic: where responses come to: a topic name, or a `ResponseTopic`. None: built from the
            broker's Response Information (section 4.10.2), else `clients/<client id>/responses/<token>`.
            It is subscribed once.
        qos: of the requests, 0 to 2.
        timeout: seconds, above 0, for connect, subscribe, publish and the wait together.
        max_pending_requests: from 1; more wait their turn within their own timeout.
        response_qos: of the subscription to the response topic, 0 to 2. None: 1, or 0 where the client also
            carries responders that acknowledge after the response.
        resend: whether an unacknowledged request is sent again after a reconnect; else it ends with
            `ConnectionLost`.
        correlation: for responders that return no Correlation Data. A `Matcher` recognizes their responses
            (`reqtt.correlate`); it says where they come, so `response_topic`, `resend` and `gather` are not
            for it. "topic": one request at a time on one response topic.
        interop: "azure" for responders that speak the RPC protocol of Azure IoT Operations: requests carry
            what they expect. `correlation_data` then has 16 bytes (docs/azure.md).
        middleware: `async def (request, call_next) -> Response`, around each `request`; the first is
            outermost. The request is an `OutgoingRequest`. With middleware, a request starts when it is
            awaited; `gather` goes without.
        retry: of requests that bring none of their own; None: a request is asked once.
        client_options: those of `Client`, where a URL is given.

    Raises:
        InvalidTopic: `response_topic` cannot be published to.
        ValueError, TypeError: another argument out of range, or one that does not go with a `Matcher`.

    Example:
        async with Requester("mqtt://localhost:1883") as req:
            response = await req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
            print(response.text)
    """

    client: Client

    def __new__(
        cls,
        client: Client | str = "mqtt://localhost:1883",
        *,
        response_topic: str | ResponseTopic | None = None,
        qos: int = 1,
        timeout: float = 10.0,
        max_pending_requests: int = 10_000,
        response_qos: int | None = None,
        resend: bool = True,
        correlation: Literal["data", "topic"] | Matcher = "data",
        interop: Literal["plain", "azure"] = "plain",
        middleware: Sequence[RequesterMiddleware] = (),
        retry: Retry | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> Self:
        if isinstance(correlation, str) and correlation not in ("data", "topic"):
            raise ValueError(f"correlation={correlation!r} does not exist: use 'data', 'topic' or a matcher")
        check_retry(retry)
        return super().__new__(
            cls,
            qos=qos,
            timeout=timeout,
            response_qos=response_qos,
            max_pending_requests=max_pending_requests,
            resend=resend,
            match_by_topic=correlation == "topic",
            azure=is_azure(interop),
            retry=retry or None,
        )

    def __init__(
        self,
        client: Client | str = "mqtt://localhost:1883",
        *,
        response_topic: str | ResponseTopic | None = None,
        qos: int = 1,
        timeout: float = 10.0,
        max_pending_requests: int = 10_000,
        response_qos: int | None = None,
        resend: bool = True,
        correlation: Literal["data", "topic"] | Matcher = "data",
        interop: Literal["plain", "azure"] = "plain",
        middleware: Sequence[RequesterMiddleware] = (),
        retry: Retry | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        if isinstance(response_topic, str):
            _core.check_topic(response_topic)
        elif response_topic is not None and not callable(response_topic):
            raise TypeError(
                "response_topic= takes a topic name,"
                " or a callable (client_id, response_information, token) -> str"
            )
        self.client, self._owns_client = own_or_shared(client, client_options)
        self._response_topic = response_topic
        self._correlation = correlation
        self._latencies = Latencies()
        self._matched: Matched | None = None
        if not isinstance(correlation, str):
            if response_topic is not None or not resend or interop != "plain":
                raise ValueError(
                    "response_topic=, resend= and interop= do not go with a matcher, which says itself where"
                    " responses come: leave them out"
                )
            if retry is not None:
                raise ValueError("retry= does not go with a matcher: ask again where it fails")
            from reqtt._matched import Matched

            self._matched = Matched(
                self.client,
                correlation,
                qos=qos,
                response_qos=response_qos,
                timeout=timeout,
                max_pending_requests=max_pending_requests,
            )
            # In front of the native one, which stays as it is for everybody else.
            self.request = self._matched.request  # type: ignore[method-assign,assignment]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout = timeout
        if middleware:
            from reqtt.middleware import layered

            # Only here: other requesters keep the native one.
            send = self._matched.request if self._matched else functools.partial(type(self).request, self)
            self.request = layered(send, middleware)  # type: ignore[method-assign, assignment]

    def __repr__(self) -> str:
        return f"<reqtt.Requester on {self.client!r}>"

    def _no_matcher(self, what: str) -> None:
        if self._matched is not None:
            raise ValueError(f"{what} needs Correlation Data: open the requester without a matcher")

    async def __aenter__(self) -> Self:
        if self._owns_client or not self.client.connected:
            await self.client.connect()
        self._loop = asyncio.get_running_loop()
        if self._matched is not None:
            self._matched.open()
            return self
        try:
            self._open(self.client._connection, self._topic())
        except BaseException:
            if self._owns_client:
                await self.client.close(drain=False)
            raise
        return self

    def _topic(self) -> str | None:
        if not callable(self._response_topic):
            return self._response_topic
        import secrets  # It takes 2 ms, and few need it.

        connack = self.client.connack
        information = connack.response_information if connack is not None else None
        topic: Any = self._response_topic(self.client.client_id, information, secrets.token_urlsafe(12))
        if not isinstance(topic, str):
            raise TypeError(f"response_topic= gave {topic!r}: a topic name is needed")
        return topic

    @overload
    def gather(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: None = None,
        max_responses: int | None = None,
        stall: float | None = None,
        until: Callable[[_core.Response], bool] | None = None,
        raise_errors: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Gather[_core.Response]: ...
    @overload
    def gather(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: type[T],
        max_responses: int | None = None,
        stall: float | None = None,
        until: Callable[[_core.Response], bool] | None = None,
        raise_errors: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Gather[T]: ...
    def gather(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: Any = None,
        max_responses: int | None = None,
        stall: float | None = None,
        until: Callable[[_core.Response], bool] | None = None,
        raise_errors: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Gather[Any]:
        """Sends one request to all who respond to it, and takes their responses: `async for` as they come, or
        `await` for the list (section 4.10).

        It ends with `timeout`, and earlier by the first of these rules that holds. That nobody answers is an
        empty result, and known at once where the broker says 0x10 *No matching subscribers*. A response that
        is delivered twice counts once. The error of a responder (`RemoteError`, `InvalidResponse`, or
        `DecodeError` with `response_type`) is an item among the others.

        Args:
            topic, payload, response_type: as in `request`.
            max_responses: so many, from 1.
            stall: seconds without another response, above 0 and below `timeout`, once the first is there.
            until: called with each `Response` that is no error; true ends it.
            raise_errors: raise the first error of a responder instead of giving it.
            options: those of `request`. `fail_fast=False` waits although nobody subscribes.

        Raises:
            InvalidTopic, ValueError, TypeError: in the call.
            ResponseTimeout: the request could not be sent in time; and what else `request` raises of the
                connection and the broker.

        Example:
            async for response in req.gather("cmnd/all-lamps/state", timeout=2, stall=0.3):
                print(response.topic, response)
        """
        self._no_matcher("gather()")
        check_rules(max_responses, stall, options.get("timeout"))
        state = GatherState(
            self._give_up,
            max_responses=max_responses,
            until=until,
            raise_errors=raise_errors,
            response_type=response_type,
        )
        return Gather(
            state,
            lambda item, end: self._gather(topic, payload, item, end, stall=stall, **options),
        )

    @overload
    def stream(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: None = None,
        idle_timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream[_core.Response]: ...
    @overload
    def stream(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: type[T],
        idle_timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream[T]: ...
    def stream(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: Any = None,
        idle_timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream[Any]:
        """Sends one request to a responder that streams (an async generator), and takes its items in order.

        Each item comes once, and a lost one is an error. The responder makes no more items than this side
        takes: at most 256 are under way, fewer if they are large. Leaving the loop tells the responder, which
        closes its generator. A responder that does not stream gives one item. Where several respond, the
        first to begin is taken, and the others are told to stop.

        Args:
            topic, payload, response_type: as in `request`.
            idle_timeout: seconds, above 0, for each item after the first; None: as long as the responder is
                there.
            options: those of `request`. `timeout` is for all steps until the first item.

        Raises:
            InvalidTopic, ValueError, TypeError: in the call.
            ResponseTimeout: no first item within `timeout`, or no next one within `idle_timeout`, or the
                responder is gone (30 s of silence).
            RemoteError: the responder failed; after the items that it had sent.
            InvalidResponse: an item is missing, or is numbered by no rule.
            DecodeError: an item is not what `response_type` says.
            ReqttError: what else `request` raises of the connection and the broker.

        Example:
            async for line in req.stream("logs/heater/follow", response_type=str, idle_timeout=60):
                print(line)
        """
        state = self._stream_state(topic, response_type, idle_timeout, options.get("timeout"))
        return Stream(
            state,
            lambda item, end: self._gather(
                topic, payload, item, end, stall=SILENCE, credit=FIRST_CREDIT, **options
            ),
        )

    def _stream_state(
        self, topic: str, response_type: Any, idle_timeout: float | None, timeout: float | None
    ) -> StreamState:
        if idle_timeout is not None and not (idle_timeout > 0 and math.isfinite(idle_timeout)):
            raise ValueError(f"idle_timeout={idle_timeout} is no time: use finite seconds above 0, or None")
        self._no_matcher("stream()")
        if self._correlation == "topic":
            raise ValueError('stream() needs Correlation Data: open a requester without correlation="topic"')
        loop = asyncio._get_running_loop()
        return StreamState(
            self.client,
            self._give_up,
            topic=topic,
            timeout=self._timeout if timeout is None else timeout,
            idle_timeout=idle_timeout,
            decode=None if response_type is None else codecs.compile_decoder(response_type),
            now=time.monotonic if loop is None else loop.time,
        )

    def request_sync(self, topic: str, payload: Payload = b"", **options: Any) -> Any:
        """`request` for a thread that has no event loop: waits there, while the requester's loop works.

        Takes what `request` takes, `retry` and `hedge` too, returns and raises the same. On the loop's own
        thread it would wait for itself: a RuntimeError there. `KeyboardInterrupt` gives the request up at
        once.

            response = await asyncio.to_thread(req.request_sync, "cmnd/lamp/power", "ON")
        """
        loop = self._loop
        if loop is None:
            raise ReqttError("the requester is not open: use `async with Requester(...) as req:`")
        if asyncio._get_running_loop() is loop:
            raise RuntimeError(
                "request_sync() would block the event loop that has to do the work: await request() here,"
                " or call request_sync() from another thread"
            )

        async def ask() -> Any:
            return await self.request(topic, payload, **options)

        future = asyncio.run_coroutine_threadsafe(ask(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """Ends pending requests with `ClientClosed`, and the client if it is this requester's own.

        With `drain`, waits for them first, at most `timeout` seconds (None: as long as their own timeouts).
        Unsubscribes from the response topic (section 3.10) on a shared client. Closing twice is nothing.

            waiting = asyncio.ensure_future(req.request("cmnd/kettle/boil"))
            await req.close(drain=True, timeout=60)
            print(waiting.result().text)
        """
        if drain and self._loop is not None:
            with contextlib.suppress(TimeoutError, ClientClosed):
                async with asyncio.timeout(timeout):
                    await (self._drain() if self._matched is None else self._matched.drain())
        self._close()
        if self._matched is not None:
            await self._matched.close()
        if self._owns_client:
            await self.client.close(drain=False)
