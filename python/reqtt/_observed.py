"""What tracing and metrics have in common: low-cardinality names of topics, and what became of a request.

Owns words and numbers; knows nothing of OpenTelemetry or Prometheus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reqtt import codecs
from reqtt._core import parse_filter, topic_matches
from reqtt.errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    DecodeError,
    InvalidResponse,
    NoMatchingSubscribers,
    PublishError,
    RemoteError,
    RequestError,
    ResponseTimeout,
    SubscribeError,
)

if TYPE_CHECKING:
    from reqtt._core import Request
    from reqtt.responder import ResponderSpec

__all__ = ["Names", "handler_outcome", "request_outcome", "waited"]

CANCELLED = "cancelled"


class Names:
    """The filters by which request topics are called: a topic itself may be one of millions.

    The first filter that matches names the topic. What has a `topic_filter` stands for that. Raises
    `InvalidTopic` for what is no filter.
    """

    def __init__(self, filters: Iterable[Any]) -> None:
        if isinstance(filters, str | bytes):
            raise TypeError(f"filters must be a sequence of topic filters: write ({filters!r},)")
        names: list[str] = [getattr(item, "topic_filter", item) for item in filters]
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"filters must be topic filters, not {name!r}")
        self._filters = [(parse_filter(name)[0], name) for name in names]

    def of(self, topic: str) -> str | None:
        """The filter as it was written, `{captures}` included; None where none matches."""
        for mqtt_filter, written in self._filters:
            if topic_matches(mqtt_filter, topic):
                return written
        return None


def waited(request: Request) -> float | None:
    """Seconds from the arrival of a request until now; None where it does not expire.

    The core counts the expiry from the arrival, so what is gone of it is the time that the request waited.
    """
    expiry, left = request.message_expiry_interval, request.remaining()
    return None if expiry is None or left is None else max(0.0, expiry - left)


def handler_outcome(error: BaseException, spec: ResponderSpec | None, seconds: float) -> int | str:
    """The status that the requester gets for what a handler raised; "cancelled" where it gets 503 or none."""
    match error:
        case RequestError() | codecs.RequestDecodeError():
            return error.status
        case ResponseTimeout():
            return 504
        case RemoteError():
            return 502
        case asyncio.CancelledError():
            in_time = spec is None or spec.timeout is None or seconds < spec.timeout
            return CANCELLED if in_time else 408
        case _:
            return 500


# The most specific first.
_OUTCOMES: Sequence[tuple[type[BaseException], str]] = (
    (ResponseTimeout, "timeout"),
    (NoMatchingSubscribers, "no_subscribers"),
    (PublishError, "refused"),
    (SubscribeError, "refused"),
    (ConnectError, "connection"),
    (ConnectionLost, "connection"),
    (ClientClosed, "closed"),
    (InvalidResponse, "invalid"),
    (DecodeError, "invalid"),
    (asyncio.CancelledError, CANCELLED),
)


def request_outcome(error: BaseException) -> int | str:
    """What a request ended with: the status of a response, or a word of a short list."""
    if isinstance(error, RemoteError):
        # A peer may send any number.
        return error.status if error.status < 600 else "other"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "error")
