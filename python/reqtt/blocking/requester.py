"""The requester for threads. What a request is made of is checked by `reqtt.Requester`'s native part; the
waiting is native, too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Unpack, cast, overload

from reqtt import _core
from reqtt import client as _client
from reqtt import requester as _requester
from reqtt.blocking.client import Client, own_or_shared, wait
from reqtt.errors import ClientClosed, ReqttError
from reqtt.gather import GatherState, check_rules
from reqtt.retry import Retry, ask_and_wait, check_retry
from reqtt.stream import FIRST_CREDIT, SILENCE, StreamState

if TYPE_CHECKING:
    from types import TracebackType

    from reqtt._options import ClientOptions, RequestOptions
    from reqtt.codecs import Payload
    from reqtt.requester import ResponseTopic

__all__ = ["Gather", "Requester", "Stream"]

T = TypeVar("T")


class Requester:
    """Sends requests over a `Client` of its own (given a URL) or a shared one, and waits for their responses.

    Any number of threads may ask at a time. Entering connects a client of its own, or a shared one that is
    not connected; what `Client.connect` raises surfaces there. Leaving ends pending requests with
    `ClientClosed`. Arguments are those of `reqtt.Requester`.

    Args:
        client: a URL, or a `reqtt.blocking.Client` to share.
        response_topic: where responses come to: a topic name, or a `ResponseTopic`. None: built from the
            broker's Response Information (section 4.10.2), else `clients/<client id>/responses/<token>`.
        qos: of the requests, 0 to 2.
        timeout: seconds, above 0, for connect, subscribe, publish and the wait together.
        max_pending_requests: from 1; more wait their turn within their own timeout.
        response_qos: of the subscription to the response topic, 0 to 2. None: 1, or 0 where the client also
            carries responders that acknowledge after the response.
        resend: whether an unacknowledged request is sent again after a reconnect; else it ends with
            `ConnectionLost`.
        correlation: "topic" is for responders that return no Correlation Data: one request at a time. A
            matcher needs an event loop, and so `reqtt.Requester`.
        interop: as in `reqtt.Requester`.
        retry: of requests that bring none of their own; None: a request is asked once.
        client_options: those of `reqtt.Client`, where a URL is given.

    Raises:
        InvalidTopic: `response_topic` cannot be published to.
        ValueError, TypeError: another argument out of range.

    Example:
        with reqtt.blocking.Requester("mqtt://localhost:1883") as req:
            print(req.request("cmnd/light-in-bedroom/power", "ON", timeout=2).text)
    """

    client: Client

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
        correlation: Literal["data", "topic"] = "data",
        interop: Literal["plain", "azure"] = "plain",
        retry: Retry | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        if correlation not in ("data", "topic"):
            raise ValueError(
                f"correlation={correlation!r} does not go here: use 'data' or 'topic'. Matchers need an event"
                " loop: give them to reqtt.Requester"
            )
        check_retry(retry)
        self._retry = retry
        self.client, self._owns_client = own_or_shared(client, client_options)
        # Never entered: it checks the arguments, and its native part asks.
        self._asks = _requester.Requester(
            self.client._settings,
            response_topic=response_topic,
            qos=qos,
            timeout=timeout,
            max_pending_requests=max_pending_requests,
            response_qos=response_qos,
            resend=resend,
            correlation=correlation,
            interop=interop,
        )
        self._asks.client = cast("_client.Client", self.client)
        self._opened = False

    def __repr__(self) -> str:
        return f"<reqtt.blocking.Requester on {self.client!r}>"

    def __enter__(self) -> Self:
        if self._owns_client or not self.client.connected:
            self.client.connect()
        try:
            self._asks._open(self.client._connection, self._asks._topic())
        except BaseException:
            if self._owns_client:
                self.client.close(drain=False)
            raise
        self._opened = True
        return self

    @overload
    def request(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: None = None,
        retry: Retry | Literal[False] | None = None,
        **options: Unpack[RequestOptions],
    ) -> _core.Response: ...
    @overload
    def request(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: type[T],
        retry: Retry | Literal[False] | None = None,
        **options: Unpack[RequestOptions],
    ) -> T: ...
    # Unions and the other forms that are no `type`.
    @overload
    def request(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: Any,
        retry: Retry | Literal[False] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Any: ...
    def request(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        response_type: Any = None,
        retry: Retry | Literal[False] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Any:
        """Send a request and wait for its response (MQTT 5.0, section 4.10).

        Takes, returns and raises what awaiting `reqtt.Requester.request` does, `hedge=` aside. Other threads
        run meanwhile. `KeyboardInterrupt` ends the wait and frees its slot at once; the responder is not
        told. On a thread that runs an event loop it is a `RuntimeError`.

            response = req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
            power = req.request("cmnd/light-in-bedroom/energy", response_type=Energy)
        """
        retry = self._retry if retry is None else retry
        if not retry:
            return wait(self._asks.request(topic, payload, response_type=response_type, **options))
        timeout = options.pop("timeout", None)
        return ask_and_wait(
            self._asks,
            topic,
            payload,
            self._asks._timeout if timeout is None else timeout,
            retry,
            {"response_type": response_type, **options},
        )

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
        """Sends one request to all who respond to it, and takes their responses: `for` as they come, `list()`
        for all of them (section 4.10).

        Takes what `reqtt.Requester.gather` takes, and ends by the same rules: with `timeout`, after
        `max_responses`, after `stall` seconds without another one, or when `until(response)` is true. That
        nobody answers is an empty result. Raises what `reqtt.Requester.gather` raises.

            for response in req.gather("cmnd/all-lamps/state", timeout=2, stall=0.3):
                print(response.topic, response)
        """
        check_rules(max_responses, stall, options.get("timeout"))
        state = GatherState(
            self._asks._give_up,
            max_responses=max_responses,
            until=until,
            raise_errors=raise_errors,
            response_type=response_type,
        )
        inbox = _core.Inbox()
        state.token = self._asks._gather(topic, payload, inbox, inbox, stall=stall, **options)
        return Gather(state, inbox)

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
        """Sends one request to a responder that streams, and takes its items in order.

        Takes and raises what `reqtt.Requester.stream` does. The responder is only heard while the thread
        waits for an item: one that takes none for 30 s is taken for gone.

            for line in req.stream("logs/heater/follow", response_type=str, idle_timeout=60):
                print(line)
        """
        state = self._asks._stream_state(topic, response_type, idle_timeout, options.get("timeout"))
        inbox = _core.Inbox()
        state.token = self._asks._gather(
            topic, payload, inbox, inbox, stall=SILENCE, credit=FIRST_CREDIT, **options
        )
        return Stream(state, inbox)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """Ends pending requests, of all threads, with `ClientClosed`, and the client if it is this
        requester's own.

        With `drain`, waits for them first, at most `timeout` seconds (None: as long as their own timeouts).
        Unsubscribes from the response topic (section 3.10) on a shared client. Closing twice is nothing.

            req.close(drain=True, timeout=60)
        """
        try:
            if drain and self._opened:
                with contextlib.suppress(TimeoutError, ClientClosed):
                    wait(self._asks._drain(), timeout)
            self._asks._close()
        finally:
            if self._owns_client:
                self.client.close(drain=False)


class _Items(Iterator[T], Generic[T]):
    """What comes for one request, for one thread."""

    _state: GatherState | StreamState

    def __init__(self, state: GatherState | StreamState, inbox: _core.Inbox) -> None:
        self._state = state
        self._inbox = inbox

    def __next__(self) -> T:
        try:
            while not self._state.ready():
                self._hear()
            item: T = self._state.take()
        except StopAsyncIteration:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        return item

    def _hear(self, patience: float | None = None) -> None:
        """Takes in what comes next; TimeoutError after so many seconds."""
        try:
            outcome: Any = self._inbox.take(patience)
        except ReqttError as error:
            self._state.end(error)
            return
        if outcome is None:
            self._state.end(None)
        else:
            self._state.item(outcome)

    def close(self) -> None:
        """Takes no more, and forgets what waits. Closing twice is nothing."""
        self._state.leave()
        self._inbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Gather(_Items["T | ReqttError"], Generic[T]):
    """The responses to one request, for one thread. `Requester.gather` makes it, and sends the request.

    `for` gives them as they come, `list()` all that come until the end. `close()`, leaving `with`, or letting
    go of it ends it early and frees its place. It can be used once.

        with req.gather("cmnd/all-lamps/power", "OFF", timeout=2) as responses:
            for response in responses:
                print(response)
    """

    def __repr__(self) -> str:
        over = ", over" if self._state.over else ""
        return f"<reqtt.blocking.Gather of {self._state.taken} responses{over}>"


class Stream(_Items[T], Generic[T]):
    """The items that a responder streams to one request, for one thread. `Requester.stream` makes it.

    `for` gives the items in the order in which the responder made them, each once. `close()`, leaving `with`,
    an exception in the wait for an item, or letting go of it ends it early: the responder is told, and closes
    its generator. It can be used once.

        with req.stream("logs/heater/follow", response_type=Line) as lines:
            for line in lines:
                print(line)
    """

    _state: StreamState

    def __repr__(self) -> str:
        over = ", over" if self._state.over else ""
        return f"<reqtt.blocking.Stream of {self._state.taken} items{over}>"

    def _hear(self, patience: float | None = None) -> None:
        until = self._state.until()
        try:
            super()._hear(None if until is None else max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise self._state.timed_out() from None
