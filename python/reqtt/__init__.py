"""Request/response over MQTT 5: await a response, decorate a responder.

    async with reqtt.Requester("mqtt://localhost:1883") as req:
        response = await req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
        print(response.text)

Names are those of the MQTT 5.0 specification; numbers of sections, here and below, refer to it.
"""

from __future__ import annotations

import warnings as _warnings
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

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
from reqtt.requester import Requester, ResponseTopic
from reqtt.responder import Middleware, Router, responder
from reqtt.serving import Responder

if _TYPE_CHECKING:
    from reqtt import correlate

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
    "Disconnected",
    "Gather",
    "InvalidResponse",
    "InvalidTopic",
    "Message",
    "Middleware",
    "NoMatchingSubscribers",
    "NotFound",
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
    "Responder",
    "Response",
    "ResponseTimeout",
    "ResponseTopic",
    "Router",
    "Scram",
    "Stats",
    "SubscribeError",
    "Subscription",
    "TlsOptions",
    "UnsupportedContentType",
    "Will",
    "__version__",
    "codecs",
    "correlate",
    "responder",
]


def __getattr__(name: str) -> _Any:
    # Few need it, and it takes 1 ms.
    if name == "correlate":
        import importlib

        return importlib.import_module("reqtt.correlate")
    raise AttributeError(f"module 'reqtt' has no attribute {name!r}")


if _DEBUG:
    _warnings.warn(
        "this is a debug build of reqtt, several times slower: build with `maturin develop --release`",
        RuntimeWarning,
        stacklevel=2,
    )
