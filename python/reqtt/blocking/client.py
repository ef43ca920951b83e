"""A connection that any thread may use: its lifecycle, publish, subscribe and events.

The options are those of `reqtt.Client`, which checks them; the waiting is native.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from reqtt import _core
from reqtt import client as _client
from reqtt.auth import data_from
from reqtt.client import Connected, ConnectionEvent, Disconnected, Reconnecting, Stats
from reqtt.errors import ClientClosed, ConnectionLost, ReqttError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from reqtt._options import ClientOptions
    from reqtt.client import Properties
    from reqtt.codecs import Payload

__all__ = ["Client", "Events", "Subscription", "own_or_shared", "wait"]

T = TypeVar("T")

_EVENTS_KEPT = 1000
_EVENTS = {"connected": Connected, "disconnected": Disconnected, "reconnecting": Reconnecting}


def wait(call: _core.Call[T], timeout: float | None = None) -> T:
    """The result of an operation: without a loop what the native side gives is no `Call`."""
    pending: Any = call
    result: T = pending.wait(timeout)
    return result


class Client:
    """One connection to an MQTT 5 broker without an event loop; threads, requesters and responders share it.

    Entering connects, leaving closes. Options, names and meanings are those of `reqtt.Client`. Credentials
    that are callables, and an `authenticator`, are called in a thread of their own.

    Args:
        url: `mqtt://`, `mqtts://`, `ws://`, `wss://` or `unix://`; `user:password@` is accepted and never
            printed.
        options: those of `reqtt.Client`.

    Raises:
        ValueError, TypeError: an argument out of range; here, before anything is sent.

    Example:
        with reqtt.blocking.Client("mqtt://localhost", client_id="panel-7") as client:
            client.publish("state/panel-7", "ready", retain=True)
            print(client.connack.receive_maximum)
    """

    def __init__(self, url: str = "mqtt://localhost:1883", **options: Unpack[ClientOptions]) -> None:
        # Never connected: it checks the options, and knows how to answer with the credentials.
        self._settings = _client.Client(url, **options)
        self._lock = threading.Lock()
        self._reauthenticating = threading.Lock()
        self._closed = self._opened = False
        self._connecting = 0
        self._final: tuple[Any, ...] | None = None
        self._listeners: weakref.WeakSet[_core.Inbox] = weakref.WeakSet()
        self._responders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._renew()

    def _renew(self) -> None:
        settings, self._questions, self._answering = self._settings, _core.Inbox(), False
        me = weakref.ref(self)
        self._connection = _core.Connection(settings._url, settings._options, self._questions, me)
        for listener in self._listeners:
            self._connection.listen(listener)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<reqtt.blocking.Client {self._connection.url} {self.client_id!r} {state}>"

    def _known(self) -> tuple[Any, ...]:
        return self._final or self._connection.known()

    @property
    def client_id(self) -> str:
        """The client identifier in use; the broker's choice once connected, if it was left to the broker."""
        return self._known()[2] or self._settings.client_id

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return bool(self._known()[0]) and not self._closed

    @property
    def connack(self) -> _core.ConnAck | None:
        """What the broker said when it accepted the latest connection (section 3.2)."""
        connack: _core.ConnAck | None = self._known()[1]
        return connack

    @property
    def _lost(self) -> ConnectionLost | None:
        """Set when there will be no other connection."""
        lost = self._known()[3]
        return None if lost is None else ConnectionLost(f"connection lost: {lost[1]}", reason_code=lost[0])

    def connect(self) -> _core.ConnAck:
        """Connects within `connect_timeout`, and gives the broker's CONNACK (section 3.1).

        Entering `with` does it, too. Raises `ConnectError` when the broker is not there or refuses (it can be
        tried again), `ClientClosed` after `close()`.

            client = reqtt.blocking.Client("mqtt://localhost")
            connack = client.connect()
            print(connack.session_present)
        """
        if self._closed:
            raise ClientClosed("the client is closed: open a new one")
        with self._lock:
            connection = self._connection
            connecting = connection.connect()
            self._connecting += 1
            self._start_answering()
        try:
            connack = wait(connecting)
            self._opened = True
            return connack
        except BaseException:
            with self._lock:
                alone = connection is self._connection and self._connecting == 1
                # To be tried again, unless another thread still waits for this connection.
                if alone and not self._closed and connection.known()[1] is None:
                    connection.detach()
                    self._renew()
            raise
        finally:
            with self._lock:
                self._connecting -= 1

    def _start_answering(self) -> None:
        asks = self._settings._options["ask_credentials"] or self._settings._options["authentication_method"]
        if asks and not self._answering:
            self._answering = True
            answers = (self._questions, weakref.ref(self._connection), self._settings._state)
            threading.Thread(target=_answer, args=answers, name="reqtt-answers", daemon=True).start()

    def reauthenticate(self) -> None:
        """Authenticates again on the open connection, by the `authenticator` of the client (section 4.12.1).

        Raises `ValueError` without an authenticator, `ConnectionLost` when one of the two sides is not
        convinced, or when there is no connection at this moment; `ClientClosed` after `close()`; and what
        `start()` raises.

            with reqtt.blocking.Client("mqtts://broker", authenticator=Scram("panel-7", password)) as client:
                client.reauthenticate()
        """
        authenticator = self._settings._secrets[2]
        if authenticator is None:
            raise ValueError("there is nothing to authenticate again: open the client with authenticator=")
        with self._reauthenticating:
            if self._closed:
                raise ClientClosed("the client is closed: open a new one")
            if not self.connected:
                raise self._lost or ConnectionLost(
                    "there is no connection to authenticate again on:"
                    " the next one authenticates from the start"
                )
            wait(self._connection.reauthenticate(data_from("start", authenticator.start())))

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=exc_type is None)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Disconnects (section 3.14). Pending requests, of all threads, end with `ClientClosed` at once.

        With `drain`, responders on this client first finish and answer what they have received; `timeout`
        (seconds, None: 30) bounds that. Closing twice is nothing. Leaving `with` does it.

            client = reqtt.blocking.Client("mqtt://localhost")
            client.connect()
            client.close(timeout=5)
        """
        if self._closed:
            return
        try:
            with contextlib.suppress(ConnectionLost):
                for responder in list(self._responders):
                    responder.close(drain=drain, timeout=30 if timeout is None else timeout)
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        with self._lock:
            if self._closed:
                return
            final = self._connection.known()
            # Raises on a loop's thread or after fork(), before anything has changed.
            disconnecting = self._connection.disconnect() if self._opened else None
            self._closed, self._final = True, final
        try:
            if disconnecting is not None:
                wait(disconnecting)
        finally:
            self._connection.detach()
            for listener in list(self._listeners):
                listener.end()

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
    ) -> _core.PubAck:
        """Publishes, and gives the broker's PUBACK (0x10 *No matching subscribers* included; section 3.4).

        Takes what `reqtt.Client.publish` takes. Without a connection it waits for the next.

        Raises `InvalidTopic`, `ValueError` and `TypeError` before anything is sent; `PublishError` when the
        broker refuses it (0x80 and above), `PacketTooLarge` when the broker would not take it,
        `ConnectionLost` when there will be no other connection, `ClientClosed` when the client is closed
        meanwhile.

            puback = client.publish("state/lamp", "ON", retain=True)
            if puback.reason_code == 0x10:
                print("nobody listens")
        """
        return wait(
            self._connection.publish(
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
        """Messages that match the filters (section 3.8): `with` subscribes, `for` takes them.

        Takes what `reqtt.Client.subscribe` takes. When `max_queue` messages (1 or more) wait, further QoS 1
        and 2 messages are not acknowledged, so that the broker holds back, and QoS 0 messages are dropped,
        oldest first, and counted in `Subscription.dropped`.

        Raises `InvalidTopic` and `ValueError` here; `SubscribeError` when the broker refuses, `ClientClosed`
        and `ConnectionLost` on entering.

            with client.subscribe("state/+/power") as states:
                for message in states:
                    print(message.topic, message.text)
        """
        settings = self._settings.subscribe(
            *topic_filters,
            qos=qos,
            no_local=no_local,
            retain_as_published=retain_as_published,
            retain_handling=retain_handling,
            subscription_identifier=subscription_identifier,
            max_queue=max_queue,
        )
        return Subscription(self, settings._filters, settings._options, max_queue)

    def events(self) -> Events:
        """What happens to the connection from now on, until the client is closed.

        The latest 1,000 events wait for who takes them. It raises nothing: a loss is an event.

            for event in client.events():
                if isinstance(event, Disconnected):
                    print(event.reason)
        """
        inbox = _core.Inbox(_EVENTS_KEPT)
        with self._lock:
            if self._closed:
                inbox.end()
            else:
                self._connection.listen(inbox)
                self._listeners.add(inbox)
        return Events(inbox)

    def stats(self) -> Stats:
        """The counters of this moment; after `close()` too."""
        stats = self._connection.stats()
        return Stats(**{field.name: stats[field.name] for field in fields(Stats)})


class Subscription(Iterator[_core.Message]):
    """An open subscription: a context manager, and an iterator of `Message`s for one thread or several.

    It ends when it is left, when the client is closed (the iteration stops), or when the broker refuses it
    after a reconnect (the iteration raises `SubscribeError`). `Client.subscribe` makes it (section 3.8).

        with client.subscribe("state/#", qos=0) as states:
            first = states.get(timeout=5)
            for message in states:
                print(message.topic, states.dropped)
    """

    def __init__(self, client: Client, filters: list[str], options: dict[str, Any], max_queue: int) -> None:
        self._client = client
        self._filters = filters
        self._options = options
        self._inbox = _core.Inbox(max_queue)
        self._token: int | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<reqtt.blocking.Subscription {' '.join(self._filters)}>"

    @property
    def dropped(self) -> int:
        """How many QoS 0 messages were dropped because the queue was full."""
        return self._inbox.dropped

    def __enter__(self) -> Self:
        self._token, subscribing = self._client._connection.subscribe(
            self._filters, self._inbox, self._inbox, **self._options
        )
        wait(subscribing)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribes (section 3.10); messages that wait are forgotten. Closing twice is nothing."""
        self._inbox.close()
        if self._token is not None:
            self._client._connection.unsubscribe(self._token)

    def get(self, timeout: float | None = None) -> _core.Message:
        """The next message. Raises `TimeoutError` after `timeout` seconds (above 0; None: never).

        Raises `ClientClosed` where the subscription, or its client, is closed, and what ended it otherwise.

            message = states.get(timeout=5)
        """
        message = self._next(timeout)
        if message is None:
            raise ClientClosed("the subscription is closed: open a new one")
        return message

    def __next__(self) -> _core.Message:
        message = self._next(None)
        if message is None:
            raise StopIteration
        return message

    def _next(self, timeout: float | None) -> _core.Message | None:
        if self._token is None:
            raise RuntimeError("the subscription is not open: use `with client.subscribe(...) as messages:`")
        try:
            message: _core.Message | None = self._inbox.take(timeout)
        except ClientClosed:
            return None
        except ReqttError as error:
            self._error = error
            raise
        except TimeoutError:
            raise TimeoutError(f"no message within {timeout} s") from None
        if message is None and self._error is not None:
            raise self._error
        return message


class Events(Iterator[ConnectionEvent]):
    """What happens to a connection, as `Client.events` gives it; ends when the client is closed.

    events = client.events()
    print(events.get(timeout=5))
    """

    def __init__(self, inbox: _core.Inbox) -> None:
        self._inbox = inbox

    def get(self, timeout: float | None = None) -> ConnectionEvent:
        """The next event. Raises `TimeoutError` after `timeout` seconds, `ClientClosed` at the end."""
        try:
            event = self._next(timeout)
        except TimeoutError:
            raise TimeoutError(f"no event within {timeout} s") from None
        if event is None:
            raise ClientClosed("the client is closed: there are no more events")
        return event

    def __next__(self) -> ConnectionEvent:
        event = self._next(None)
        if event is None:
            raise StopIteration
        return event

    def _next(self, timeout: float | None) -> ConnectionEvent | None:
        found: Any = self._inbox.take(timeout)
        if found is None:
            return None
        name, facts = found
        event: ConnectionEvent = _EVENTS[name](*facts)
        return event


def own_or_shared(client: Client | str, options: Mapping[str, Any]) -> tuple[Client, bool]:
    """A client for `client`, and whether it was made here: then whoever asked has to close it."""
    if isinstance(client, str):
        return Client(client, **options), True
    if not isinstance(client, Client):
        raise TypeError(f"a URL or a reqtt.blocking.Client is needed, not {client!r}")
    if options:
        raise TypeError(
            f"{', '.join(options)}= belong to the Client: give them to Client(...), or a URL here"
        )
    return client, False


def _answer(questions: _core.Inbox, connection: weakref.ref[_core.Connection], state: Any) -> None:
    """Asks the user's code for what only that knows, in this thread, until the connection is over."""
    while (question := questions.take()) is not None:
        asked = connection()
        if asked is None:
            return
        # A loop of this thread's own, as what is asked may be `async def`.
        asyncio.run(state._answer(asked, *question))
        del asked
