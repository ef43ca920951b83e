"""The requester: who asks, where responses come, and for how long it is open.

`request` itself is native (`reqtt._core.Requester`): it is on the path of every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, Unpack

from reqtt import _core
from reqtt.client import Client
from reqtt.errors import ClientClosed

if TYPE_CHECKING:
    from types import TracebackType

    from reqtt._options import ClientOptions

__all__ = ["Requester", "ResponseTopic"]


class ResponseTopic(Protocol):
    """Chooses a response topic from what the connection is known by (section 4.10.2).

    `response_information` is the broker's, if it sent any; `token` tells requesters of one client apart. The
    result must be a topic name that this client may subscribe to, and that no other requester uses.

        Requester(url, response_topic=lambda client_id, info, token: f"answers/{client_id}/{token}")
    """

    def __call__(self, client_id: str, response_information: str | None, token: str, /) -> str: ...


class Requester(_core.Requester):
    """Sends requests over a `Client` of its own (given a URL) or a shared one, and awaits their responses.

    Responses come to one topic that is subscribed once: built from the broker's Response Information, else
    `clients/<client id>/responses/<token>`, else `response_topic`. `timeout` (seconds, above 0) covers
    subscribe, publish and the wait. `max_pending_requests` bounds what is under way; more wait their turn
    within their own timeout. `resend=False` never sends an unacknowledged request again after a reconnect.
    `response_qos=None` chooses by what else the client carries. `correlation="topic"` is for responders that
    return no Correlation Data: one request at a time. `interop="azure"` marks requests with the Azure IoT
    Operations protocol version. Further keyword arguments are those of `Client`.

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
        correlation: Literal["data", "topic"] = "data",
        interop: Literal["plain", "azure"] = "plain",
        **client_options: Unpack[ClientOptions],
    ) -> Self:
        if correlation not in ("data", "topic"):
            raise ValueError(f"correlation={correlation!r} does not exist: use 'data' or 'topic'")
        if interop not in ("plain", "azure"):
            raise ValueError(f"interop={interop!r} does not exist: use 'plain' or 'azure'")
        return super().__new__(
            cls,
            qos=qos,
            timeout=timeout,
            response_qos=response_qos,
            max_pending_requests=max_pending_requests,
            resend=resend,
            match_by_topic=correlation == "topic",
            azure=interop == "azure",
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
        correlation: Literal["data", "topic"] = "data",
        interop: Literal["plain", "azure"] = "plain",
        **client_options: Unpack[ClientOptions],
    ) -> None:
        if isinstance(response_topic, str):
            _core.check_topic(response_topic)
        elif response_topic is not None and not callable(response_topic):
            raise TypeError("response_topic= takes a topic name, or a callable (client_id, response_information, token) -> str")
        if isinstance(client, Client):
            if client_options:
                raise TypeError(
                    f"{', '.join(client_options)}= belong to the Client: give them to Client(...), or a URL here"
                )
            self.client, self._owns_client = client, False
        else:
            self.client, self._owns_client = Client(client, **client_options), True
        self._response_topic = response_topic

    def __repr__(self) -> str:
        return f"<reqtt.Requester on {self.client!r}>"

    async def __aenter__(self) -> Self:
        if self._owns_client or not self.client.connected:
            await self.client.connect()
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
        connack = self.client.connack
        information = connack.response_information if connack is not None else None
        topic: Any = self._response_topic(self.client.client_id, information, secrets.token_urlsafe(12))
        if not isinstance(topic, str):
            raise TypeError(f"response_topic= gave {topic!r}: a topic name is needed")
        return topic

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """Ends pending requests with `ClientClosed` at once; with `drain`, waits for them first, at most
        `timeout` seconds (None: as long as their own timeouts). Closes the client if it is this requester's
        own. Closing twice is nothing.
        """
        if drain:
            with contextlib.suppress(TimeoutError, ClientClosed):
                async with asyncio.timeout(timeout):
                    await self._drain()
        self._close()
        if self._owns_client:
            await self.client.close(drain=False)
