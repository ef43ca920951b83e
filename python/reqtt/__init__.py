"""Request/response over MQTT 5: await a response, decorate a responder.

    async with reqtt.Requester("mqtt://localhost:1883") as req:
        response = await req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
        print(response.text)

Names are those of the MQTT 5.0 specification; numbers of sections, here and below, refer to it.
"""

from __future__ import annotations

import typing as _typing
import warnings as _warnings

from reqtt import codecs
from reqtt._core import DEBUG as _DEBUG
from reqtt._core import ConnAck, Message, PubAck, Request, Response, __version__
from reqtt.auth import Authenticator, Scram
from reqtt.client import (
    Client,
    Connected,
    ConnectionEvent,
    Disconnected,
    Properties,
    Reconnect,
    Reconnecting,
    Stats,
    Subscription,
    TlsOptions,
    Will,
)
from reqtt.dependencies import Depends
from reqtt.errors import (
    BadRequest,
    ClientClosed,
    ConnectError,
    ConnectionLost,
    DecodeError,
    InvalidResponse,
    InvalidTopic,
    NoMatchingSubscribers,
    NotFound,
    PacketTooLarge,
    PublishError,
    RemoteError,
    RemoteTimeout,
    RemoteUnavailable,
    ReqttError,
    RequestError,
    ResponseTimeout,
    SubscribeError,
    UnsupportedContentType,
)
from reqtt.gather import Gather
from reqtt.lifespan import Lifespan
from reqtt.operation import Operation, operation
from reqtt.requester import Requester, ResponseTopic
from reqtt.responder import Middleware, responder
from reqtt.retry import Retry
from reqtt.router import Router
from reqtt.serving import Responder
from reqtt.stream import Stream

if _typing.TYPE_CHECKING:
    from reqtt.discovery import Discovery, HandlerInfo, HandlerStats, ResponderInfo, discover
    from reqtt.middleware import OutgoingRequest, RequesterMiddleware

__all__ = [
    "Authenticator",
    "BadRequest",
    "Client",
    "ClientClosed",
    "ConnAck",
    "ConnectError",
    "Connected",
    "ConnectionEvent",
    "ConnectionLost",
    "DecodeError",
    "Depends",
    "Disconnected",
    "Discovery",
    "Gather",
    "HandlerInfo",
    "HandlerStats",
    "InvalidResponse",
    "InvalidTopic",
    "Lifespan",
    "Message",
    "Middleware",
    "NoMatchingSubscribers",
    "NotFound",
    "Operation",
    "OutgoingRequest",
    "PacketTooLarge",
    "Properties",
    "PubAck",
    "PublishError",
    "Reconnect",
    "Reconnecting",
    "RemoteError",
    "RemoteTimeout",
    "RemoteUnavailable",
    "ReqttError",
    "Request",
    "RequestError",
    "Requester",
    "RequesterMiddleware",
    "Responder",
    "ResponderInfo",
    "Response",
    "ResponseTimeout",
    "ResponseTopic",
    "Retry",
    "Router",
    "Scram",
    "Stats",
    "Stream",
    "SubscribeError",
    "Subscription",
    "TlsOptions",
    "UnsupportedContentType",
    "Will",
    "__version__",
    "codecs",
    "discover",
    "operation",
    "responder",
]

# Imported when they are first asked for: they take milliseconds.
_LATER = {
    "Discovery": "discovery",
    "HandlerInfo": "discovery",
    "HandlerStats": "discovery",
    "OutgoingRequest": "middleware",
    "RequesterMiddleware": "middleware",
    "ResponderInfo": "discovery",
    "discover": "discovery",
}

# Type checkers would take it for a name of every kind.
if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = found
        return found


if _DEBUG:
    _warnings.warn(
        "this is a debug build of reqtt, several times slower: build with `maturin develop --release`",
        RuntimeWarning,
        stacklevel=2,
    )
