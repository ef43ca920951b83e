"""One connection to a broker: its lifecycle, its events, publish and subscribe.

Owns when the connection opens and closes. Requests and responses go through `Requester` and `Responder`,
which share it; what MQTT means is decided in the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from reqtt import _core
from reqtt.auth import Authenticator, Text, answer_to, credential, data_from, finish
from reqtt.errors import ClientClosed, ConnectionLost

if TYPE_CHECKING:
    from types import TracebackType

    from reqtt.codecs import Payload
    from reqtt.discovery import Presence

__all__ = [
    "Client",
    "Connected",
    "ConnectionEvent",
    "Disconnected",
    "Properties",
    "Reconnect",
    "Reconnecting",
    "Stats",
    "Subscription",
    "TlsOptions",
    "Will",
]

Password: TypeAlias = str | bytes | Callable[[], str | bytes | Awaitable[str | bytes]] | None
"""A password, or what gives it (`def` or `async def`) before each connect: a token that is renewed."""

Properties: TypeAlias = Sequence[tuple[str, str]] | Mapping[str, str]
"""User properties: pairs of text, in order; names may repeat (section 3.3.2.3.7). A mapping will do where
they do not."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How TLS is done, for `mqtts://` and `wss://`. TLS 1.2 is the least.

    `ca`, `cert` and `key` are paths, or PEM text or bytes. `ca` replaces the system's authorities; `cert` and
    `key` are the client's own. `server_name` is the name that the certificate must have, where it is not the
    URL's host. `verify=False` takes any certificate: for tests only, and it is logged at WARNING.

        Client("mqtts://broker:8883", tls=TlsOptions(ca="ca.pem", cert="me.pem", key="me.key"))
    """

    ca: str | os.PathLike[str] | bytes | None = None
    cert: str | os.PathLike[str] | bytes | None = None
    key: str | os.PathLike[str] | bytes | None = None
    alpn: Sequence[str] = ()
    server_name: str | None = None
    verify: bool = True

    def __repr__(self) -> str:
        # A key given as text must not end up in a log.
        alpn = tuple(self.alpn)
        return f"TlsOptions(server_name={self.server_name!r}, alpn={alpn!r}, verify={self.verify})"


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes when this client goes without a DISCONNECT (section 3.1.2.5).

    `delay_interval` and `message_expiry_interval` are whole seconds, `qos` is 0, 1 or 2, `payload` is encoded
    as for `publish`. With `response_topic` and `correlation_data` the will is itself a request: whoever takes
    care of it can say so. What is out of range is a `ValueError` from `Client`.

        Will("state/panel-7", "gone", retain=True, response_topic="state/panel-7/seen")
    """

    topic: str
    payload: Payload = b""
    qos: int = 1
    retain: bool = False
    delay_interval: int = 0
    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a lost connection is made again: the delay doubles from `initial` to `max` seconds, less a random
    part of up to `jitter` (0 to 1) of it. It starts anew once a connection has lasted four times its delay,
    so that two clients of one identifier do not fight for their session. After `give_up_after` seconds
    without a connection (None: never) everything that waits, and everything new, ends with `ConnectionLost`.

        Client("mqtt://broker", reconnect=Reconnect(initial=0.5, give_up_after=60))
    """

    initial: float = 0.1
    max: float = 30
    jitter: float = 0.5
    give_up_after: float | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is up, for the first time or again (section 3.2). See `Client.events`."""

    connack: _core.ConnAck
    client_id: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone. `reason_code` is the broker's, if it sent a DISCONNECT (section 3.14).

    `final` says that no other attempt follows: everything that waits has ended with `ConnectionLost`.
    """

    reason_code: int | None
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """Attempt number `attempt`, counted from 1 since the loss, starts in `delay` seconds. See `Reconnect`."""

    attempt: int
    delay: float


ConnectionEvent: TypeAlias = Connected | Disconnected | Reconnecting
"""What `Client.events` yields."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has done so far. `pending` and `in_flight` are of this moment, the rest only grows.

    `late` responses came for requests that had ended by timeout or cancellation, `duplicates` for requests
    already answered, `unmatched` for none that is known; `retained` ones are never responses.

        stats = client.stats()
        print(stats.pending, "requests under way,", stats.timeouts, "ran out of time")
    """

    pending: int
    in_flight: int
    requests: int
    responses: int
    late: int
    unmatched: int
    duplicates: int
    retained: int
    timeouts: int
    cancelled: int
    requests_received: int
    responses_sent: int
    duplicates_suppressed: int
    requests_dropped: int
    reconnects: int
    bytes_sent: int
    bytes_received: int

    @property
    def bytes(self) -> int:
        """Bytes written and read."""
        return self.bytes_sent + self.bytes_received


class _Connection:
    """What is known of the connection; told by the native side, which must not hold the `Client` itself."""

    def __init__(
        self, client_id: str, username: Text, password: Password, authenticator: Authenticator | None
    ) -> None:
        self.client_id = client_id
        self._username = username
        self._password = password
        self._authenticator = authenticator
        self._asked: set[asyncio.Task[None]] = set()
        self.reauthentication: asyncio.Task[None] | None = None
        self.connected = False
        self.connecting = 0
        self.connack: _core.ConnAck | None = None
        self.lost: ConnectionLost | None = None
        self.listeners: weakref.WeakSet[_EventStream] = weakref.WeakSet()
        self.waiters: set[asyncio.Future[None]] = set()

    def on_event(self, kind: str, facts: tuple[Any, ...]) -> None:
        if kind == "ask":
            self.stop_asking()
            task = asyncio.ensure_future(self._answer(*facts))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            return
        event: ConnectionEvent
        if kind == "connected":
            event = Connected(*facts)
            self.connected, self.connack, self.client_id = True, event.connack, event.client_id
        elif kind == "disconnected":
            event = Disconnected(*facts)
            self.connected = False
            if event.final:
                self.lost = ConnectionLost(f"connection lost: {event.reason}", reason_code=event.reason_code)
                self.wake()
        else:
            event = Reconnecting(*facts)
        for listener in list(self.listeners):
            listener.put(event)

    def stop_asking(self) -> None:
        """Nobody wants the answer any more."""
        for task in self._asked:
            task.cancel()

    async def _answer(self, bridge: Any, number: int, kind: str, data: bytes | None) -> None:
        """Asks the user's code, and hands its answer down; what it raises refuses the connection."""
        try:
            answer = await self._credentials() if kind == "connect" else self._reply(kind, data)
            bridge.answer(number, **answer)
        except asyncio.CancelledError:
            # By us, or by what was asked: only then is somebody waiting.
            bridge.answer(number, error="what was asked was cancelled")
            raise
        except Exception as error:
            bridge.answer(number, error=str(error))

    async def _credentials(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        if callable(self._username):
            answer["username"] = await credential("username", self._username, (str,))
        if callable(self._password):
            answer["password"] = await credential("password", self._password, (str, bytes))
        if self._authenticator is not None:
            answer["data"] = answer_to("start", self._authenticator.start)
        return answer

    def _reply(self, kind: str, data: bytes | None) -> dict[str, Any]:
        if data is None:
            reply = b""
        else:
            assert self._authenticator is not None
            reply = answer_to("challenge", self._authenticator.challenge, data)
        if kind == "challenge":
            return {"data": reply}
        finish(self._authenticator)
        return {}

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def ended(self) -> None:
        """Until the connection is lost for good, or closed."""
        if self.lost is not None:
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        finally:
            self.waiters.discard(waiter)


# A connection that comes and goes makes 30 events a second, each with a CONNACK of up to maximum_packet_size.
_EVENTS_KEPT = 1000


class _EventStream(AsyncIterator[ConnectionEvent]):
    """Events since it was made, the latest of them; ends when the client is closed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[ConnectionEvent | None] = asyncio.Queue()

    def put(self, event: ConnectionEvent | None) -> None:
        if self._queue.qsize() == _EVENTS_KEPT:
            self._queue.get_nowait()
        self._queue.put_nowait(event)

    async def __anext__(self) -> ConnectionEvent:
        event = await self._queue.get()
        if event is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return event


class Client:
    """One connection to an MQTT 5 broker; requesters and responders share it.

    Entering connects, leaving closes. Where not said otherwise, names and meanings are those of CONNECT
    (section 3.1).

    Args:
        url: `mqtt://`, `mqtts://`, `ws://`, `wss://` or `unix://`; `user:password@` is accepted and never
            printed.
        client_id: None lets the broker choose.
        username, password: may be callables (`def` or `async def`), which are asked before each connect.
        tls: `TlsOptions`, for `mqtts://` and `wss://`; None or True: their defaults.
        keep_alive: whole seconds, 0 to 65,535; 0: off.
        connect_timeout: seconds, above 0.
        clean_start: False resumes the broker's session of this `client_id`.
        session_expiry_interval: whole seconds that the broker keeps the session without a connection.
        receive_maximum: 1 to 65,535; bounds the QoS 1 and 2 messages on their way to this client.
        maximum_packet_size: the largest packet that the broker may send, in bytes, from 128.
        topic_alias_maximum: 0 to 65,535; how many topics the broker may abbreviate.
        request_response_information: asks for the base of a permitted Response Topic (section 3.1.2.11.6).
        will: published by the broker when this client goes away without a DISCONNECT.
        user_properties: pairs of text, in order, or a mapping.
        reconnect: how a lost connection is made again; None: it is not.
        authenticator: enhanced authentication (section 4.12).

    Raises:
        ValueError, TypeError: an argument out of range; here, before anything is sent.

    Example:
        async with Client("mqtt://localhost", client_id="panel-7") as client:
            await client.publish("state/panel-7", "ready", retain=True)
            print(client.connack.receive_maximum)
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_options",
        "_presences",
        "_responders",
        "_secrets",
        "_state",
        "_url",
    )

    def __init__(
        self,
        url: str = "mqtt://localhost:1883",
        *,
        client_id: str | None = None,
        username: Text = None,
        password: Password = None,
        tls: TlsOptions | bool | None = None,
        keep_alive: int = 30,
        connect_timeout: float = 5,
        clean_start: bool = True,
        session_expiry_interval: int = 0,
        receive_maximum: int = 1024,
        maximum_packet_size: int = 16 * 1024 * 1024,
        topic_alias_maximum: int = 0,
        request_response_information: bool = True,
        will: Will | None = None,
        user_properties: Properties = (),
        reconnect: Reconnect | None = Reconnect(),
        authenticator: Authenticator | None = None,
    ) -> None:
        if authenticator is not None and not isinstance(authenticator, Authenticator):
            raise TypeError(
                "authenticator= needs method, start() and challenge(data): see reqtt.Authenticator"
            )
        self._options: dict[str, Any] = {
            "client_id": client_id,
            "username": None if callable(username) else username,
            "password": None if callable(password) else password,
            "ask_credentials": callable(username) or callable(password),
            "authentication_method": None if authenticator is None else authenticator.method,
            "tls": tls,
            "keep_alive": keep_alive,
            "connect_timeout": connect_timeout,
            "clean_start": clean_start,
            "session_expiry_interval": session_expiry_interval,
            "receive_maximum": receive_maximum,
            "maximum_packet_size": maximum_packet_size,
            "topic_alias_maximum": topic_alias_maximum,
            "request_response_information": request_response_information,
            "will": will,
            "user_properties": user_properties,
            "reconnect": reconnect,
        }
        self._secrets = (username, password, authenticator)
        self._url = url
        self._closed = False
        self._responders: weakref.WeakSet[Any] = weakref.WeakSet()
        # Of the responders that are open or being opened.
        self._presences: weakref.WeakSet[Presence] = weakref.WeakSet()
        self._renew()

    def _renew(self, listeners: weakref.WeakSet[_EventStream] | None = None) -> None:
        self._state = _Connection(self._options["client_id"] or "", *self._secrets)
        if listeners is not None:
            self._state.listeners = listeners
        self._connection = _core.Connection(self._url, self._options, self._state.on_event, weakref.ref(self))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<reqtt.Client {self._connection.url} {self.client_id!r} {state}>"

    @property
    def client_id(self) -> str:
        """The client identifier in use; the broker's choice once connected, if it was left to the broker."""
        return self._state.client_id

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._state.connected and not self._closed

    @property
    def connack(self) -> _core.ConnAck | None:
        """What the broker said when it accepted the latest connection (section 3.2)."""
        return self._state.connack

    async def connect(self) -> _core.ConnAck:
        """Connects within `connect_timeout`, and gives the broker's CONNACK (section 3.1).

        Entering `async with` does it, too. Raises `ConnectError` when the broker is not there or refuses (it
        can be tried again), `ClientClosed` after `close()`.

            client = Client("mqtt://localhost")
            connack = await client.connect()
            print(connack.session_present)
        """
        if self._closed:
            raise ClientClosed("the client is closed: open a new one")
        state = self._state
        state.connecting += 1
        try:
            return await self._connection.connect()
        except BaseException:
            # Free for another loop, unless somebody else still waits for this connection.
            if state is self._state and state.connack is None and state.connecting == 1:
                self._connection.detach()
                state.stop_asking()
                self._renew(state.listeners)
            raise
        finally:
            state.connecting -= 1

    async def reauthenticate(self) -> None:
        """Authenticates again on the open connection, by the `authenticator` of the client (section 4.12.1).

        Messages flow meanwhile. When it fails, or takes longer than `connect_timeout`, the connection is
        closed, and the next one authenticates from the start. Calls at the same time follow one another.

        Raises `ValueError` without an authenticator, `ConnectionLost` when one of the two sides is not
        convinced, or when there is no connection at this moment; `ClientClosed` after `close()`; and what
        `start()` raises.

            async with Client("mqtts://broker", authenticator=Scram("panel-7", password)) as client:
                await client.reauthenticate()
        """
        authenticator, state = self._secrets[2], self._state
        if authenticator is None:
            raise ValueError("there is nothing to authenticate again: open the client with authenticator=")
        while state.reauthentication is not None and not state.reauthentication.done():
            await asyncio.wait([state.reauthentication])
        if self._closed:
            raise ClientClosed("the client is closed: open a new one")
        if not state.connected:
            # start() would disturb the authentication of a connection that is being made.
            raise state.lost or ConnectionLost(
                "there is no connection to authenticate again on: the next one authenticates from the start"
            )
        first = data_from("start", authenticator.start())
        running = asyncio.ensure_future(self._connection.reauthenticate(first))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        state.reauthentication = running
        # Not awaited itself: it goes on when nobody waits any more, as the broker does not know of that.
        await asyncio.wait([running])
        running.result()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(drain=exc_type is None)

    async def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Disconnects (section 3.14). Pending requests end with `ClientClosed` at once.

        With `drain`, responders on this client first finish and answer what they have received; `timeout`
        (seconds, None: 30) bounds that. Closing twice is nothing. Leaving `async with` does it.

            client = Client("mqtt://localhost")
            await client.connect()
            await client.close(timeout=5)
        """
        if self._closed:
            return
        responders = list(self._responders)
        try:
            with contextlib.suppress(ConnectionLost):
                for responder in responders:
                    await responder.close(drain=drain, timeout=30 if timeout is None else timeout)
        finally:
            # A drain that is cancelled must not leave the connection behind.
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._closed:
            return
        # Raises on another loop or after fork(), before anything has changed.
        disconnected = self._connection.disconnect() if self._state.connack is not None else None
        self._closed = True
        try:
            if disconnected is not None:
                await disconnected
        finally:
            self._connection.detach()
            self._state.stop_asking()
            self._state.connected = False
            self._state.wake()
            for listener in list(self._state.listeners):
                listener.put(None)

    def publish(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str | None = None,
        payload_format_indicator: int | None = None,
        message_expiry_interval: int | None = None,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        user_properties: Properties = (),
    ) -> _core.Call[_core.PubAck]:
        """Publishes, and gives the broker's PUBACK (0x10 *No matching subscribers* included; section 3.4).

        `payload` goes as it is if bytes, as text if str, else as JSON, and says what it is unless
        `content_type` and `payload_format_indicator` (0 bytes, 1 UTF-8 text) do. `qos` is 0, 1 or 2.
        `message_expiry_interval` is in whole seconds, `correlation_data` has at most 65,535 bytes. Without a
        connection it waits for the next.

        Raises `InvalidTopic`, `ValueError` and `TypeError` in the call; `PublishError` when the broker
        refuses it (0x80 and above), `PacketTooLarge` when the broker would not take it, `ConnectionLost` when
        there will be no other connection, `ClientClosed` when the client is closed meanwhile.

            puback = await client.publish("state/lamp", "ON", retain=True)
            if puback.reason_code == 0x10:
                print("nobody listens")
        """
        return self._connection.publish(
            topic,
            payload,
            qos=qos,
            retain=retain,
            content_type=content_type,
            payload_format_indicator=payload_format_indicator,
            message_expiry_interval=message_expiry_interval,
            response_topic=response_topic,
            correlation_data=correlation_data,
            user_properties=user_properties,
        )

    def subscribe(
        self,
        *topic_filters: str,
        qos: int = 1,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
        subscription_identifier: int | None = None,
        max_queue: int = 1000,
    ) -> Subscription:
        """Messages that match the filters (section 3.8): `async with` subscribes, `async for` takes them.

        `qos` (0, 1 or 2) is the highest that the broker uses. `retain_handling` (section 3.8.3.1): 0 sends
        retained messages, 1 only for a new subscription, 2 never. `subscription_identifier` is 1 to
        268,435,455. When `max_queue` messages (1 or more) wait, further QoS 1 and 2 messages are not
        acknowledged, so that the broker holds back, and QoS 0 messages are dropped, oldest first, and counted
        in `Subscription.dropped`.

        Raises `InvalidTopic` and `ValueError` here; `SubscribeError` when the broker refuses, `ClientClosed`
        and `ConnectionLost` on entering.

            async with client.subscribe("state/+/power") as states:
                async for message in states:
                    print(message.topic, message.text)
        """
        if not topic_filters:
            raise ValueError("subscribe() needs a topic filter, e.g. subscribe('state/#')")
        for topic_filter in topic_filters:
            _core.check_filter(topic_filter)
        if max_queue < 1:
            raise ValueError(f"max_queue={max_queue} holds nothing: use 1 or more")
        if retain_handling not in (0, 1, 2):
            raise ValueError(
                f"retain_handling={retain_handling} does not exist: use 0, 1 or 2 (section 3.8.3.1)"
            )
        if subscription_identifier is not None and not 1 <= subscription_identifier <= 268_435_455:
            raise ValueError("subscription_identifier is 1 to 268,435,455 (section 3.8.2.1.2)")
        options = {
            "qos": qos,
            "no_local": no_local,
            "retain_as_published": retain_as_published,
            "retain_handling": retain_handling,
            "subscription_identifier": subscription_identifier,
        }
        return Subscription(self, list(topic_filters), options, max_queue)

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """What happens to the connection from now on, until the client is closed.

        The latest 1,000 events wait for who takes them. It raises nothing: a loss is an event.

            async for event in client.events():
                if isinstance(event, Disconnected):
                    print(event.reason)
        """
        stream = _EventStream()
        self._state.listeners.add(stream)
        if self._closed:
            stream.put(None)
        return stream

    def stats(self) -> Stats:
        """The counters of this moment; after `close()` too."""
        stats = self._connection.stats()
        return Stats(**{field.name: stats[field.name] for field in fields(Stats)})


class Subscription:
    """An open subscription: an async context manager, and an async iterator of `Message`s.

    It ends when it is left, when the client is closed (the iteration stops), or when the broker refuses it
    after a reconnect (the iteration raises `SubscribeError`). `Client.subscribe` makes it (section 3.8).

        async with client.subscribe("state/#", qos=0) as states:
            async for message in states:
                print(message.topic, states.dropped)
    """

    def __init__(self, client: Client, filters: list[str], options: dict[str, Any], max_queue: int) -> None:
        self.dropped = 0
        """How many QoS 0 messages were dropped because the queue was full."""
        self._client = client
        self._filters = filters
        self._options = options
        self._max_queue = max_queue
        self._queue: deque[_core.Message] = deque()
        # Taken in, but beyond `max_queue`: not acknowledged yet.
        self._held: deque[tuple[_core.Message, int]] = deque()
        self._changed = asyncio.Event()
        self._token: int | None = None
        self._error: BaseException | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"<reqtt.Subscription {' '.join(self._filters)}>"

    async def __aenter__(self) -> Self:
        self._token, subscribed = self._client._connection.subscribe(
            self._filters, self._push, self._fail, **self._options
        )
        await subscribed
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribes (section 3.10); messages that wait are forgotten. Closing twice is nothing."""
        self._over = True
        if self._token is not None:
            for _, delivery in self._held:
                self._client._connection.acknowledge(delivery)
            self._client._connection.unsubscribe(self._token)
            self._token = None
        self._held.clear()
        self._queue.clear()
        self._changed.set()

    def _push(self, message: _core.Message, delivery: int | None) -> None:
        if self._over:
            if delivery is not None:
                self._client._connection.acknowledge(delivery)
            return
        if len(self._queue) < self._max_queue:
            self._queue.append(message)
            if delivery is not None:
                self._client._connection.acknowledge(delivery)
        elif delivery is not None:
            self._held.append((message, delivery))
        else:
            self._drop_oldest(message)
        self._changed.set()

    def _drop_oldest(self, message: _core.Message) -> None:
        self.dropped += 1
        for index, waiting in enumerate(self._queue):
            if waiting.qos == 0:
                del self._queue[index]
                self._queue.append(message)
                return

    def _fail(self, error: BaseException) -> None:
        self._token = None
        self._error = None if isinstance(error, ClientClosed) else error
        self._over = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _core.Message:
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            if self._token is None:
                raise RuntimeError(
                    "the subscription is not open: use `async with client.subscribe(...) as messages:`"
                )
            self._changed.clear()
            await self._changed.wait()
        message = self._queue.popleft()
        if self._held:
            held, delivery = self._held.popleft()
            self._queue.append(held)
            self._client._connection.acknowledge(delivery)
        return message


def own_or_shared(client: Client | str, options: Mapping[str, Any]) -> tuple[Client, bool]:
    """A client for `client`, and whether it was made here: then whoever asked has to close it."""
    if not isinstance(client, Client):
        return Client(client, **options), True
    if options:
        raise TypeError(
            f"{', '.join(options)}= belong to the Client: give them to Client(...), or a URL here"
        )
    return client, False
