"""The exceptions of reqtt. Owns their attributes and how they travel; knows nothing of how they come about.

The first positional argument is the ready text; the facts are keyword-only attributes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from reqtt._core import Response

__all__ = [
    "BadRequest",
    "ClientClosed",
    "ConnectError",
    "ConnectionLost",
    "DecodeError",
    "InvalidResponse",
    "InvalidTopic",
    "NoMatchingSubscribers",
    "NotFound",
    "PacketTooLarge",
    "PublishError",
    "RemoteError",
    "RemoteTimeout",
    "RemoteUnavailable",
    "ReqttError",
    "RequestError",
    "ResponseTimeout",
    "SubscribeError",
    "UnsupportedContentType",
]

Phase = Literal["connect", "subscribe", "publish", "response"]

_E = TypeVar("_E", bound=BaseException)


def status_phrase(status: int) -> str:
    """The standard words for an HTTP status code (RFC 9110, section 15), or those of its class."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Error" if 400 <= status < 500 else "Server Error" if 500 <= status < 600 else "Error"


def _restore(cls: type[_E], args: tuple[Any, ...], state: dict[str, Any]) -> _E:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def _reduce(error: BaseException) -> tuple[Any, ...]:
    # The default calls `cls(*args)`, which cannot give keyword-only arguments.
    return _restore, (type(error), error.args, error.__dict__)


class ReqttError(Exception):
    """Base of everything that reqtt raises about the network and the other end."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)


class ConnectError(ReqttError, ConnectionError):
    """The connection could not be made: no network, no TLS, or a CONNACK that refuses (section 3.2.2.2).

    Attributes:
        reason_code: the CONNACK's reason code, from 0x80 on; None when there was no CONNACK.
        reason_string: the broker's own words, if it sent any.
    """

    reason_code: int | None
    reason_string: str | None

    def __init__(
        self, message: str, *, reason_code: int | None = None, reason_string: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason_code = reason_code
        self.reason_string = reason_string


class ConnectionLost(ReqttError, ConnectionError):
    """The connection is gone and does not come back, or a request may not be sent again on a new one.

    Attributes:
        reason_code: the DISCONNECT's reason code, if the broker sent one (MQTT 5.0, section 3.14.2.1).
    """

    reason_code: int | None

    def __init__(self, message: str, *, reason_code: int | None = None) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class ClientClosed(ReqttError):
    """The client was closed by its owner, while this call waited or before it began."""

    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(message)


class SubscribeError(ReqttError):
    """The broker refused a SUBSCRIBE (MQTT 5.0, section 3.9.3).

    Attributes:
        topic_filter: the filter as it was sent.
        reason_code: the SUBACK's reason code, from 0x80 on.
        reason_string: the broker's own words, if it sent any.
    """

    topic_filter: str
    reason_code: int
    reason_string: str | None

    def __init__(
        self, message: str, *, topic_filter: str, reason_code: int, reason_string: str | None = None
    ) -> None:
        super().__init__(message)
        self.topic_filter = topic_filter
        self.reason_code = reason_code
        self.reason_string = reason_string


class PublishError(ReqttError):
    """The broker refused a PUBLISH (MQTT 5.0, sections 3.4.2.1 and 3.5.2.1).

    Attributes:
        topic: the topic name as it was sent.
        reason_code: the reason code of the PUBACK or PUBREC.
        reason_string: the broker's own words, if it sent any.
    """

    topic: str
    reason_code: int
    reason_string: str | None

    def __init__(
        self, message: str, *, topic: str, reason_code: int, reason_string: str | None = None
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.reason_code = reason_code
        self.reason_string = reason_string


class NoMatchingSubscribers(PublishError):
    """The broker took the request, and said that nobody subscribes to its topic.

    This is reason code 0x10 of a PUBACK (MQTT 5.0, section 3.4.2.1). Raised at once, without waiting for the
    timeout. A broker need not say it; then the request times out. `fail_fast=False` ignores it.
    """

    def __init__(
        self, message: str, *, topic: str, reason_code: int = 0x10, reason_string: str | None = None
    ) -> None:
        super().__init__(message, topic=topic, reason_code=reason_code, reason_string=reason_string)


class ResponseTimeout(ReqttError, TimeoutError):
    """No response within the time given, all steps together (MQTT 5.0, section 4.10).

    Attributes:
        topic: the request topic.
        timeout: the time given, in seconds.
        phase: how far the request had come: "connect" (no connection), "subscribe" (the response topic was
            not acknowledged), "publish" (the request was not), "response" (it was, and nobody answered).
    """

    topic: str
    timeout: float
    phase: Phase

    def __init__(self, message: str, *, topic: str, timeout: float, phase: Phase) -> None:
        super().__init__(message)
        self.topic = topic
        self.timeout = timeout
        self.phase = phase


class InvalidTopic(ReqttError, ValueError):
    """A topic name or filter that MQTT does not allow (MQTT 5.0, section 4.7). Nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class PacketTooLarge(ReqttError, ValueError):
    """The packet would be larger than the broker takes (MQTT 5.0, section 3.2.2.3.6). Nothing was sent.

    Attributes:
        size: the size of the whole packet, in bytes.
        maximum: the broker's Maximum Packet Size, in bytes.
    """

    size: int
    maximum: int

    def __init__(self, message: str, *, size: int, maximum: int) -> None:
        super().__init__(message)
        self.size = size
        self.maximum = maximum


class DecodeError(ReqttError, ValueError):
    """A payload is not what its type says. The text names the field, never the payload.

    Raised by `decode()`, `json()` and `response_type=`. Raised while the body of a request is bound to a
    handler's argument, it becomes the response 400, or 415 where the Content Type contradicts the type
    (MQTT 5.0, section 3.3.2.3.9).
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidResponse(ReqttError):
    """A response that breaks the protocol: a status that is no number or not final, a broken error body.

    Attributes:
        response: the response as it came.
    """

    response: Response

    def __init__(self, message: str, *, response: Response) -> None:
        super().__init__(message)
        self.response = response


class RemoteError(ReqttError):
    """The responder answered with an error. Subclasses name the usual statuses.

    Attributes:
        status: an HTTP status code, 400 or more (RFC 9110, section 15); 200 where a responder of Azure IoT
            Operations reports an error of its application.
        message: the responder's own words.
        code: the application's own error code, if it gave one.
        data: whatever else the application attached, decoded from JSON; text that is no JSON stays a `str`.
        application: True when the handler failed, False when the request never got that far.
        response: the whole response.
        topic: the request topic, where it is known.

    Example:
        try:
            await requester.request("cmnd/light/power", "ON")
        except reqtt.NotFound as error:
            print(error.message, error.data)
    """

    status: int
    message: str
    code: str | int | None
    data: Any
    application: bool
    response: Response | None
    topic: str | None

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | int | None = None,
        data: Any = None,
        application: bool = False,
        response: Response | None = None,
        topic: str | None = None,
    ) -> None:
        phrase = status_phrase(status)
        text = f"{status} {phrase}" if topic is None else f'{status} {phrase} from "{topic}"'
        super().__init__(text if message in ("", phrase) else f"{text}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.data = data
        self.application = application
        self.response = response
        self.topic = topic


class BadRequest(RemoteError):
    """400: the responder could not read the request; the message names the field."""


class NotFound(RemoteError):
    """404: there is no such thing, or a level of the topic does not convert to what the handler expects."""


class RemoteTimeout(RemoteError):
    """408: the handler took longer than its own `timeout=`. Our own time running out is `ResponseTimeout`."""


class UnsupportedContentType(RemoteError):
    """415: the handler does not read this Content Type (MQTT 5.0, section 3.3.2.3.9)."""


class RemoteUnavailable(RemoteError):
    """503: the responder is shutting down or overloaded; asking again later may help."""


class RequestError(Exception):
    """What a handler raises to answer with an error; the requester gets it as `RemoteError`.

    Args:
        status: an HTTP error status, 400 to 599 (RFC 9110, section 15).
        message: what went wrong, for the requester's eyes.
        code: the application's own error code.
        data: anything that JSON can hold, for the requester's program.

    Raises:
        ValueError: `status` is not 400 to 599.
        TypeError: `status` is no int, or `message` no str.

    Example:
        if device not in LIGHTS:
            raise RequestError(404, "no such device", data={"device": device})
    """

    status: int
    message: str
    code: str | int | None
    data: Any

    def __init__(self, status: int, message: str, *, code: str | int | None = None, data: Any = None) -> None:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"status must be an int, not {type(status).__name__}")
        if not 400 <= status <= 599:
            raise ValueError(f"status must be 400 to 599, not {status}: a success is returned, not raised")
        if not isinstance(message, str):
            raise TypeError(f"message must be a str, not {type(message).__name__}")
        super().__init__(f"{int(status)} {status_phrase(status)}: {message}")
        self.status = int(status)
        self.message = message
        self.code = code
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)
