"""The native module, `src/binding`: its docstrings are those of the Rust side.

Public classes are reached through `reqtt` and `reqtt.testing`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import GenericAlias, SimpleNamespace, TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar, final, overload

from typing_extensions import disjoint_base

from reqtt.client import Client, Properties
from reqtt.codecs import Payload
from reqtt.retry import Retry

__all__ = [
    "DEBUG",
    "Call",
    "ConnAck",
    "Connection",
    "Inbox",
    "LoopbackBroker",
    "Message",
    "Pending",
    "PubAck",
    "Request",
    "Requester",
    "Response",
    "__version__",
    "_ended",
    "_forked",
    "_response",
    "check_filter",
    "check_topic",
    "own_topic",
    "parse_filter",
    "reason_name",
    "route",
    "topic_matches",
    "understands_azure",
]

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

__version__: Final[str]
DEBUG: Final[bool]

@final
class Call(Coroutine[Any, Any, _T_co], Generic[_T_co]):
    """An operation under way. Await it once, by `await`, `create_task`, `gather` or a `TaskGroup`.

    Ending the wait, or letting go of it, gives up what it stands for.
    """

    def __await__(self) -> Generator[Any, Any, _T_co]: ...
    # With another result mypy could not tell what `gather` gives: Python 3.11's takes generators, too.
    def __iter__(self) -> Generator[Any, Any, _T_co]: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any:
        """One step, for the event loop."""

    def throw(
        self,
        type: type[BaseException] | BaseException,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """Ends the wait, and raises what is thrown: how the event loop cancels."""

    def close(self) -> None:
        """Ends the wait."""

    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...

# What stands for a `Call` where there is no loop.
@final
class Pending(Generic[_T_co]):
    """An operation under way. Wait for it once.

    An end of the wait by a signal, or letting go of it, gives up what it stands for.
    """

    def wait(self, timeout: float | None = None) -> _T_co:
        """Its result, or what it raises. `TimeoutError` after `timeout` seconds: then it is given up."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...

@final
class Inbox:
    """What comes one after the other, for any thread that waits for it."""

    def __new__(cls, limit: int | None = None) -> Self: ...
    def take(self, timeout: float | None = None) -> Any:
        """The next one; None at the end. Raises its error, and `TimeoutError` after `timeout` seconds."""

    def end(self) -> None:
        """Nothing more comes in; what has come can still be taken."""

    def close(self) -> None:
        """Nothing more comes in, and what waits is forgotten."""

    @property
    def idle(self) -> int:
        """How many threads wait at this moment."""

    @property
    def dropped(self) -> int:
        """How many QoS 0 messages found no room."""

@final
class Connection:
    """One connection: not yet open, open, or closed for good."""

    def __new__(
        cls,
        url: str,
        options: dict[str, Any],
        on_event: Callable[[str, tuple[Any, ...]], None] | Inbox,
        client: Callable[[], Any],
    ) -> Self: ...
    @property
    def url(self) -> str:
        """The address, without credentials."""

    def connect(self) -> Call[ConnAck]:
        """Connects; the first call ties the connection to the running loop, or to none where `on_event` is an
        `Inbox`.
        """

    def reauthenticate(self, data: bytes) -> Call[None]:
        """Authenticates again, with the method's first data (section 4.12.1)."""

    def disconnect(self) -> Call[None]:
        """Ends the connection with DISCONNECT 0x00."""

    def detach(self) -> None:
        """Lets go of the loop. Whatever still waits ends with `ClientClosed`."""

    def publish(
        self,
        topic: str,
        payload: Payload = None,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        message_expiry_interval: int | None = None,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        user_properties: Properties | None = None,
    ) -> Call[PubAck]:
        """Publishes; ends with the broker's `PubAck`."""

    def subscribe(
        self,
        topic_filters: Sequence[str],
        push: Callable[[Message, int | None], None] | Inbox,
        fail: Callable[[BaseException], None] | Inbox,
        *,
        qos: int,
        no_local: bool,
        retain_as_published: bool,
        retain_handling: int,
        subscription_identifier: int | None,
    ) -> tuple[int, Call[None]]:
        """Subscribes; gives the subscription's token, and the call that ends with its SUBACKs."""

    def unsubscribe(self, token: int) -> None:
        """Ends a subscription."""

    def acknowledge(self, delivery: int) -> None:
        """Sends the PUBACK or PUBREC of a delivery."""

    def respond(
        self,
        topic_filter: str,
        runner: Callable[[Request], Coroutine[Any, Any, object]] | Inbox,
        *,
        group: str | None,
        qos: int,
        concurrency: int,
        ack_on_receipt: bool,
        deduplicate: bool,
        run_without_response_topic: bool,
        allowed_response_topics: Sequence[str],
        retained: bool,
        azure: bool,
    ) -> tuple[int, Call[None]]:
        """Starts a responder; gives its id, and the call that ends with its SUBACK."""

    def drain(self, responders: Sequence[int]) -> Call[None]:
        """Unsubscribes responders; ends when all that they received is answered."""

    def stop_responders(self, responders: list[int]) -> None:
        """Starts no more handlers of these responders; what waits is answered with 503."""

    def close_responders(self, responders: Sequence[int]) -> None:
        """Forgets responders; what they have not answered stays unacknowledged."""

    def tasks(self, responders: list[int]) -> list[asyncio.Task[None]]:
        """The tasks of these responders' handlers that still run."""

    def known(self) -> tuple[bool, ConnAck | None, str | None, tuple[int | None, str] | None]:
        """What is known of a connection without a loop: whether it is up, its latest CONNACK, its client
        identifier, and reason code and text once it is lost for good.
        """

    def listen(self, inbox: Inbox) -> None:
        """News of a connection without a loop go to `inbox` from now on, while that is held."""

    def answer(
        self,
        question: int,
        *,
        username: str | None = None,
        password: str | bytes | None = None,
        data: bytes | None = None,
        error: str | None = None,
    ) -> None:
        """Answers a question of a connection without a loop by its number."""

    def stats(self) -> dict[str, int]:
        """The counters, by name."""

@disjoint_base
class Requester:
    """The part of a requester that sends requests."""

    def __new__(
        cls,
        *,
        qos: int = 1,
        timeout: float = 10.0,
        response_qos: int | None = None,
        max_pending_requests: int = 10_000,
        resend: bool = True,
        match_by_topic: bool = False,
        azure: bool = False,
        retry: Retry | None = None,
    ) -> Self: ...
    @overload
    def request(
        self,
        topic: str,
        payload: Payload = None,
        *,
        response_type: None = None,
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
        hedge: float | Literal["p95"] | None = None,
    ) -> Call[Response]:
        """Send a request and await its response (MQTT 5.0, section 4.10).

        Arguments are checked in the call, before anything is sent. What it returns is awaited once, by
        `await`, `asyncio.create_task`, `asyncio.gather` or a `TaskGroup`. Cancelling it, or letting go of
        it, frees its slot at once; the responder is not told.

        Args:
            topic: a topic name, without wildcards (section 4.7).
            payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
            response_type: what the payload of the response is decoded to; None: the `Response` itself.
            timeout: seconds, above 0, for all steps: connect, subscribe, publish and the wait. None: the
                requester's.
            qos: 0, 1 or 2; None: the requester's.
            content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
            payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
            user_properties: pairs of text, in order, or a mapping; up to 65,535 bytes each
                (section 3.3.2.3.7).
            message_expiry_interval: whole seconds, from 1; never more is sent than what remains of
                `timeout`, which is also what None sends, rounded up (section 3.3.2.3.3).
            correlation_data: up to 65,535 bytes, not in flight on the same response topic; None: chosen here
                (section 3.3.2.3.6).
            response_topic: for this request only; None: the requester's (section 3.3.2.3.5).
            fail_fast: end with `NoMatchingSubscribers` as soon as the broker says so; False waits
                for a response all the same.
            retry: asks again where it failed; each attempt has `timeout`. None: the requester's; False: not.
            hedge: seconds, above 0, after which a request without an answer is sent a second time, with other
                Correlation Data: another member of a shared group may be faster. The first answer counts, the
                other is dropped. "p95": what 95 % of the latest hedged requests to this topic took at most,
                once 20 of them are known. For what may run twice only.

        Raises:
            InvalidTopic, ValueError, TypeError: an argument that cannot be sent; in the call.
            ResponseTimeout: no response in time; its `phase` says how far the request had come.
            NoMatchingSubscribers: the broker knows of no responder (0x10, section 3.4.2.1).
            RemoteError: the responder answered with an error, e.g. `NotFound`.
            InvalidResponse: a status that is no number, or an error body that cannot be read.
            DecodeError: the payload is not what `response_type` says.
            PublishError, SubscribeError: the broker refused the request, or the response topic.
            PacketTooLarge: the broker takes no packet of this size (section 3.2.2.3.6).
            ConnectionLost: there will be no other connection, or with `resend=False` it broke before the
                PUBACK.
            ClientClosed: the requester or its client was closed.

        Example:
            async with reqtt.Requester("mqtt://localhost:1883") as req:
                response = await req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
                power = await req.request("cmnd/light-in-bedroom/energy", response_type=Energy)
        """

    @overload
    def request(
        self,
        topic: str,
        payload: Payload = None,
        *,
        response_type: type[_T],
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
        hedge: float | Literal["p95"] | None = None,
    ) -> Call[_T]: ...
    # Unions and the other forms that are no `type`.
    @overload
    def request(
        self,
        topic: str,
        payload: Payload = None,
        *,
        response_type: Any,
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
        hedge: float | Literal["p95"] | None = None,
    ) -> Call[Any]: ...
    def _open(self, connection: Connection, response_topic: str | None = None) -> None:
        """Opens it on a connection."""

    def _gather(
        self,
        topic: str,
        payload: Payload,
        item: Callable[[Any], None] | Inbox,
        end: Callable[[BaseException | None], None] | Inbox,
        *,
        timeout: float | None = None,
        stall: float | None = None,
        credit: int | None = None,
        qos: int | None = None,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        user_properties: Properties | None = None,
        message_expiry_interval: int | None = None,
        correlation_data: bytes | None = None,
        response_topic: str | None = None,
        fail_fast: bool = True,
    ) -> int:
        """Sends a request that takes many responses. Each goes to `item(response or RemoteError)`, the end to
        `end(exception or None)`. Gives the token by which it is given up. `credit` makes it a stream, whose
        responder may send so many items; then `timeout` is for the first response only.
        """

    def _give_up(self, token: int) -> None:
        """Ends a gathering."""

    def _drain(self) -> Call[None]:
        """Ends when none of its requests is under way."""

    def _close(self) -> None:
        """Ends its requests with `ClientClosed`, and gives up its response topic."""

@disjoint_base
class Message:
    """One message with its MQTT 5 properties, as it came (section 3.3).

    Made by the library, immutable, and free of the connection: it may be kept, and read in any thread.

        async with client.subscribe("state/+/power") as states:
            async for message in states:
                print(message.topic, message.text, message.user_properties)
    """

    @property
    def topic(self) -> str:
        """The topic name (section 3.3.2.1)."""

    @property
    def payload(self) -> bytes:
        """The payload as it came."""

    @property
    def text(self) -> str:
        """The payload as UTF-8 text. Raises `DecodeError` if it is none."""

    def json(self) -> Any:
        """The payload as JSON, whatever its Content Type. Raises `DecodeError` if it is none."""

    @overload
    def decode(self, type: type[_T]) -> _T:
        """The payload as `type`, by the codec that an annotation would choose (`reqtt.codecs`).

        Raises `DecodeError` if it is none, or if its Content Type contradicts `type` (section 3.3.2.3.9), and
        `TypeError` if there is no codec for `type`.

            reading = response.decode(Reading)
        """

    @overload
    def decode(self, type: Any) -> Any: ...
    @property
    def content_type(self) -> str | None:
        """What the payload is, e.g. `application/json`; None if it does not say (section 3.3.2.3.9)."""

    @property
    def payload_format_indicator(self) -> int | None:
        """1 where the payload is declared to be UTF-8 text, 0 where bytes, else None (section 3.3.2.3.2)."""

    @property
    def message_expiry_interval(self) -> int | None:
        """What was left of its lifetime when it arrived, in whole seconds, if it has an end
        (section 3.3.2.3.3).
        """

    @property
    def response_topic(self) -> str | None:
        """Where a response is expected, if one is (section 3.3.2.3.5)."""

    @property
    def correlation_data(self) -> bytes | None:
        """What ties a response to its request, up to 65,535 bytes (section 3.3.2.3.6)."""

    @property
    def user_properties(self) -> tuple[tuple[str, str], ...]:
        """Name and value pairs, in order; names may repeat (section 3.3.2.3.7)."""

    @property
    def subscription_identifiers(self) -> tuple[int, ...]:
        """The identifiers of the subscriptions that brought it (section 3.3.2.3.8)."""

    @property
    def qos(self) -> int:
        """0, 1 or 2: as it was delivered (section 4.3)."""

    @property
    def retain(self) -> bool:
        """Whether it is a retained message (section 3.3.1.3)."""

    @property
    def dup(self) -> bool:
        """Whether it may have been delivered before (section 3.3.1.1)."""

@final
class Request(Message):
    """A request as its handler sees it: the message, what its filter captured, and how long there is left.

    Handlers get theirs from the network. One made here is for testing a handler or a middleware without a
    broker.

    Args:
        topic: a topic name, without wildcards (section 4.7).
        payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
        captures: what `{name}` in the filter stands for, by name.
        response_topic: where the response is expected (section 3.3.2.3.5).
        correlation_data: what the response has to carry (section 3.3.2.3.6).
        content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
        payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
        user_properties: pairs of text, in order, or a mapping (section 3.3.2.3.7).
        message_expiry_interval: whole seconds that the requester waits; None: it did not say
            (section 3.3.2.3.3).
        qos: 0, 1 or 2.

    Raises:
        InvalidTopic: `topic` cannot be published to.
        ValueError: another argument is out of range.
        TypeError: no codec can encode the payload, or the user properties are no pairs of text.

    Example:
        @responder("cmnd/{device}/power")
        async def power(request: Request) -> str:
            return f"{request.captures['device']}: {request.remaining()} s left"
    """

    def __new__(
        cls,
        topic: str,
        payload: Payload = None,
        *,
        captures: dict[str, str] | None = None,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        user_properties: Properties | None = None,
        message_expiry_interval: int | None = None,
        qos: int = 1,
    ) -> Self: ...
    @property
    def captures(self) -> dict[str, str]:
        """What each `{name}` in the responder's filter stands for in this topic."""

    @property
    def deadline(self) -> float | None:
        """When the requester stops waiting, in seconds of `time.monotonic()`; None if it did not say."""

    def remaining(self) -> float | None:
        """Seconds that remain until the requester stops waiting, never below 0; None if it did not say.

        async with asyncio.timeout(request.remaining()):
            return await measure()
        """

    @property
    def state(self) -> SimpleNamespace:
        """What middleware leaves for other middleware and for the handler, as attributes of any name. It is
        this request's alone, and is let go when the request is answered.

            async def who_asks(request, call_next):
                request.state.user = await users.find(request)
                return await call_next(request)
        """

    # None in a test only: a handler need not ask.
    @property
    def client(self) -> Client | Any:
        """The client that received it, for requests of the handler's own; None in a test."""

    def _reply(
        self,
        payload: bytes,
        status: int,
        content_type: str | None,
        payload_format_indicator: int | None,
        user_properties: Sequence[tuple[str, str]],
    ) -> None: ...
    def _item(
        self,
        payload: bytes,
        content_type: str | None,
        payload_format_indicator: int | None,
        user_properties: Sequence[tuple[str, str]],
        control: str | None = None,
    ) -> Call[PubAck]:
        """Publishes an item of a stream to the Response Topic; ends with the broker's `PubAck`.
        `control` is where the requester answers the items.
        """

    def _done(self) -> None: ...
    @property
    def _outcome(self) -> tuple[Any, ...] | None:
        """What became of a request made in a test."""

@final
class Response(Message):
    """The answer to a request, or what a handler returns for full control of it (section 4.10).

    A requester gets one for a success only: an error status is raised as `RemoteError`. It can be pickled.

    Args:
        payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
        status: an HTTP status, 200 to 599 (RFC 9110, section 15); None: 200.
        content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
        payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
        user_properties: pairs of text, in order, or a mapping; at most 65,535 bytes each (section 3.3.2.3.7).

    Raises:
        ValueError: `status`, the indicator or a text is out of range.
        TypeError: no codec can encode the payload, or the user properties are no pairs of text.

    Example:
        @responder("cmnd/camera/picture")
        def picture() -> Response:
            return Response(CAMERA.jpeg(), content_type="image/jpeg")
    """

    def __new__(
        cls,
        payload: Payload = None,
        *,
        status: int | None = None,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        user_properties: Properties | None = None,
    ) -> Self: ...
    @property
    def status(self) -> int:
        """The status (RFC 9110, section 15): what the responder gave, else 200, or 204 without a payload."""

    @property
    def latency(self) -> float:
        """Seconds from the call of `request` to the arrival; 0.0 where it did not come from the network."""

    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class ConnAck:
    """What the broker said when it accepted the connection (section 3.2), by the specification's names.

    Where the broker left a property out, it has the specification's default.

        async with Client("mqtt://localhost") as client:
            if client.connack.maximum_packet_size is not None:
                print("at most", client.connack.maximum_packet_size, "bytes")
    """

    @property
    def session_present(self) -> bool:
        """Whether the broker kept a session for this client."""

    @property
    def reason_code(self) -> int:
        """0x00 (section 3.2.2.2)."""

    @property
    def reason_string(self) -> str | None:
        """The broker's own words, if it sent any."""

    @property
    def assigned_client_identifier(self) -> str | None:
        """The client identifier that the broker chose."""

    @property
    def session_expiry_interval(self) -> int | None:
        """Seconds the broker keeps the session; None: as asked for."""

    @property
    def receive_maximum(self) -> int:
        """How many QoS 1 and 2 messages may be unacknowledged towards the broker."""

    @property
    def maximum_qos(self) -> int:
        """The highest QoS that the broker takes."""

    @property
    def retain_available(self) -> bool:
        """Whether retained messages are available."""

    @property
    def maximum_packet_size(self) -> int | None:
        """The largest packet that the broker takes, in bytes; None: no limit."""

    @property
    def topic_alias_maximum(self) -> int:
        """The highest topic alias that the broker takes."""

    @property
    def user_properties(self) -> tuple[tuple[str, str], ...]:
        """Name and value pairs, in order; names may repeat."""

    @property
    def wildcard_subscription_available(self) -> bool:
        """Whether filters may hold wildcards."""

    @property
    def subscription_identifiers_available(self) -> bool:
        """Whether subscriptions may carry an identifier."""

    @property
    def shared_subscription_available(self) -> bool:
        """Whether `$share/...` works."""

    @property
    def server_keep_alive(self) -> int | None:
        """Keep alive in seconds, where the broker overrides it; else None."""

    @property
    def response_information(self) -> str | None:
        """The base of a permitted Response Topic, if the broker gave one (section 3.2.2.3.15)."""

    @property
    def server_reference(self) -> str | None:
        """Another server to use, if the broker named one (section 4.11)."""

@final
class PubAck:
    """How the broker took a publish (section 3.4); for QoS 2 it is what the PUBREC said (section 3.5).

    puback = await client.publish("state/lamp", "ON")
    if puback.reason_code == 0x10:
        print("nobody listens")
    """

    @property
    def reason_code(self) -> int:
        """0x00, or 0x10 where nobody subscribes (section 3.4.2.1). An error is raised, not returned."""

    @property
    def reason_string(self) -> str | None:
        """The broker's own words, if it sent any."""

@disjoint_base
class LoopbackBroker:
    """An MQTT 5 broker on 127.0.0.1, on a thread of its own, with faults on demand."""

    def __new__(
        cls,
        *,
        port: int = 0,
        ws_port: int = 0,
        username: str | None = None,
        password: str | None = None,
        response_information: str | None = None,
        receive_maximum: int | None = None,
        maximum_packet_size: int | None = None,
        maximum_qos: int | None = None,
        topic_alias_maximum: int = 0,
        server_keep_alive: int | None = None,
        shared_subscription_available: bool = True,
        wildcard_subscription_available: bool = True,
        subscription_identifiers_available: bool = True,
        retain_available: bool = True,
        no_matching_subscribers: bool = True,
        record: bool = False,
    ) -> Self: ...
    def start(self) -> None:
        """Listens. Nothing where it runs already. Raises `OSError` where a port is taken."""

    def stop(self) -> None:
        """Closes every connection and forgets every session."""

    @property
    def port(self) -> int:
        """The TCP port."""

    @property
    def ws_port(self) -> int:
        """The WebSocket port."""

    @property
    def url(self) -> str:
        """The address over TCP, `mqtt://127.0.0.1:<port>`."""

    @property
    def ws_url(self) -> str:
        """The address over WebSocket, `ws://127.0.0.1:<ws_port>/mqtt`."""

    def cut(self) -> None:
        """Drops every connection, without DISCONNECT. Sessions stay for their expiry; wills are published."""

    def disconnect(self, reason_code: int = 0x8B) -> None:
        """Sends DISCONNECT with this reason code to everyone, and closes (section 3.14)."""

    def stall(self, duration: float) -> None:
        """Neither reads nor writes for `duration` seconds, then goes on. Returns at once; 0 ends it."""

    def delay(self, duration: float) -> None:
        """Every packet leaves `duration` seconds later, order kept. 0 ends it, and lets go what waits."""

    def delay_suback(self, duration: float) -> None:
        """Only SUBACKs are `duration` seconds late; other packets overtake them. 0 ends it."""

    def refuse_connect(self, reason_code: int | None) -> None:
        """New clients get a CONNACK with this reason code, until None (section 3.2.2.2)."""

    def refuse_publish(self, reason_code: int | None, filter: str = "#") -> None:
        """What is published to a topic that `filter` matches gets this reason code, and goes nowhere. None
        ends the rule.
        """

    def refuse_subscribe(self, reason_code: int | None, filter: str = "#") -> None:
        """A SUBSCRIBE of `filter`, or of one that it matches, gets this reason code. None ends the rule."""

    def redeliver(self) -> None:
        """Sends again, with DUP, every QoS 1 or 2 PUBLISH that a connected client has not acknowledged."""

    def duplicate(self, on: bool) -> None:
        """Every PUBLISH to a subscriber goes out twice, the second as a message of its own."""

    def lose_session(self) -> None:
        """Forgets all sessions, and cuts every connection. Retained messages stay."""

    def drop_puback(self, on: bool) -> None:
        """Messages are routed, but their publishers get no PUBACK or PUBREC."""

    def set_response_information(self, value: str | None) -> None:
        """The Response Information of later CONNACKs, for clients that ask for it (section 3.2.2.3.15)."""

    def set_accepting(self, accepting: bool) -> None:
        """False: new connections are closed at once."""

    def connections(self) -> list[str]:
        """The client identifiers that are connected, sorted."""

    def subscriptions(self) -> list[tuple[str, str, int]]:
        """Client identifier, filter and granted QoS of every subscription, sorted."""

    def _recorded(self) -> list[tuple[str, bool, bytes]]:
        """The latest packets: client identifier, whether the broker sent it, and its bytes."""

    def clear_packets(self) -> None:
        """Forgets the packets recorded so far."""

    def stats(self) -> dict[str, Any]:
        """Counters since the start (`received`, `sent`, `dropped`, and by packet type), and sizes now
        (`queued`, `in_flight`, `sessions`).
        """

def parse_filter(text: str) -> tuple[str, list[str]]:
    """The MQTT filter of `text`, and the names of its captures."""

def check_topic(topic: str) -> None:
    """Raises `InvalidTopic` unless `topic` can be published to."""

def check_filter(topic_filter: str) -> None:
    """Raises `InvalidTopic` unless `topic_filter` can be subscribed to."""

def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic` matches `topic_filter` (MQTT 5.0, section 4.7)."""

def route(filters: Sequence[str], topic: str) -> tuple[int, list[tuple[str, str]]] | None:
    """Which of these filters answers `topic`, the most specific: its place, and what it captures."""

def own_topic(client_id: str, response_information: str | None, name: str) -> str:
    """The topic `name` below the place where this client may receive what others address to it."""

def understands_azure(version: str) -> bool:
    """Whether a version of the RPC protocol of Azure IoT Operations, such as `1.0`, is understood."""

def reason_name(reason_code: int) -> str:
    """The standard's name of a reason code, e.g. `Not authorized`."""

def _response(
    topic: str,
    payload: bytes,
    status: int,
    latency: float,
    content_type: str | None,
    payload_format_indicator: int | None,
    correlation_data: bytes | None,
    user_properties: Sequence[tuple[str, str]],
) -> Response:
    """What pickle and copy make a response from."""

def _ended() -> None:
    """Called by `atexit`: afterwards no native thread comes in."""

def _forked() -> None:
    """Called in the child of a fork, by `os.register_at_fork`."""
