"""Status and error of a response, as user properties and problem+json, both ways. Knows nothing of handlers.

The user properties are those of the Azure IoT Operations RPC protocol, the body is RFC 9457. Reading is
liberal, writing is strict.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from reqtt import _core, codecs
from reqtt.errors import (
    BadRequest,
    InvalidResponse,
    NotFound,
    RemoteError,
    RemoteTimeout,
    RemoteUnavailable,
    ReqttError,
    RequestError,
    UnsupportedContentType,
    status_phrase,
)

if TYPE_CHECKING:
    import msgspec

    from reqtt._core import Response
else:
    from reqtt import _msgspec as msgspec

__all__ = ["PROBLEM_JSON", "error_from_response", "error_reply", "is_azure", "remote_error", "wire_status"]

_log = logging.getLogger("reqtt.responder")

PROBLEM_JSON = "application/problem+json"

# What the Azure SDKs of every language know; .NET alone also has 422.
_AZURE_STATUSES = frozenset({200, 204, 400, 408, 415, 500, 503, 505})

# The length of an MQTT string is two bytes (MQTT 5.0, section 1.5.4).
_MAX_STRING = 65_535

# A receiver may close the connection on these (MQTT 5.0, section 1.5.4).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]+")

_CLASSES: dict[int, type[RemoteError]] = {
    400: BadRequest,
    404: NotFound,
    408: RemoteTimeout,
    415: UnsupportedContentType,
    503: RemoteUnavailable,
}


def error_from_response(response: Response, topic: str | None = None) -> ReqttError | None:
    """The error that a response carries, or None for a success.

    No `__stat`, or one of 200 to 299 without `AppErrCode`, is a success. A number from 400 on is
    a `RemoteError`, anything else an `InvalidResponse`. `topic` is the request topic, for the text of the
    error.
    """
    properties: dict[str, str] = {}
    for key, value in response.user_properties:
        properties.setdefault(key, value)
    where = f' from "{topic}"' if topic is not None else ""
    version = properties.get("__protVer", "1.0")
    if not _core.understands_azure(version):
        return InvalidResponse(
            f"response{where} has protocol version {_shorten(version)!r}: 1.x is understood",
            response=response,
        )
    raw = properties.get("__stat")
    if raw is None:
        return None
    text = raw.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return InvalidResponse(
            f"response{where} has a status that is no number (__stat {_shorten(raw)!r})", response=response
        )
    status = int(text)
    if 200 <= status < 300:
        if "AppErrCode" not in properties:
            return None
        # How executors of Azure IoT Operations report an error of the application.
        return RemoteError(
            properties.get("__stMsg") or f"application error {_shorten(properties['AppErrCode'])}",
            status=status,
            code=properties["AppErrCode"],
            data=_json_or_text(properties.get("AppErrPayload", "null")),
            application=True,
            response=response,
            topic=topic,
        )
    if status < 400:
        return InvalidResponse(
            f"response{where} has a status that is neither success nor error (__stat {status})",
            response=response,
        )

    body, broken = _problem(response)
    message = properties.get("__stMsg", "")
    code: str | int | None = properties.get("AppErrCode")
    data: Any
    payload = properties.get("AppErrPayload")
    if broken and not message and code is None and payload is None:
        return InvalidResponse(
            f"response{where} has status {status} and a body that is no valid {PROBLEM_JSON}",
            response=response,
        )
    if not message:
        message = _text(body.get("detail")) or _text(body.get("title")) or status_phrase(status)
    body_code = body.get("code")
    # A number is text in a user property; the body keeps what it was.
    if isinstance(body_code, str | int) and (code is None or code == str(body_code)):
        code = body_code
    data = body.get("data") if payload is None else _json_or_text(payload)
    error = _CLASSES.get(status, RemoteError)(
        message,
        status=status,
        code=code,
        data=data,
        application=properties.get("__apErr", "").strip().lower() == "true",
        response=response,
        topic=topic,
    )
    supported = properties.get("__supProtMajVer")
    if supported:
        error.add_note(f"major protocol versions that the responder supports: {_shorten(supported)}")
    name = properties.get("__propName")
    if name:
        about = properties.get("__propVal")
        error.add_note(f"about: {name}" if about is None else f"about: {name} = {_shorten(about)!r}")
    return error


def remote_error(refused: RequestError, response: Response, topic: str) -> RemoteError:
    """The error that a matcher has read in a response."""
    return _CLASSES.get(refused.status, RemoteError)(
        refused.message,
        status=refused.status,
        code=refused.code,
        data=refused.data,
        application=True,
        response=response,
        topic=topic,
    )


def error_reply(
    status: int,
    message: str,
    *,
    code: str | int | None = None,
    data: Any = None,
    application: bool,
    prop_name: str | None = None,
    prop_value: str | None = None,
    interop_azure: bool = False,
) -> tuple[bytes, str, list[tuple[str, str]]]:
    """Payload, Content Type and user properties of an error response.

    `__stat` is not among them: it is written from the status given to the reply, see `wire_status`. `data`
    that JSON cannot hold is left out and logged.
    """
    encoded = _encode_data(data)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status_phrase(status),
        "status": status,
        "detail": _utf8(message),
    }
    if code is not None:
        code = code if isinstance(code, int) else _utf8(str(code))
        body["code"] = code
    if encoded is not None:
        body["data"] = msgspec.Raw(encoded)

    properties = [("__stMsg", _mqtt_string(message)), ("__apErr", "true" if application else "false")]
    if prop_name is not None:
        properties.append(("__propName", _mqtt_string(prop_name)))
    if prop_value is not None:
        properties.append(("__propVal", _mqtt_string(prop_value)))
    if code is not None:
        properties.append(("AppErrCode", _mqtt_string(str(code))))
    elif interop_azure and status not in _AZURE_STATUSES:
        properties.append(("AppErrCode", str(status)))
    if encoded is not None and len(encoded) <= _MAX_STRING:
        properties.append(("AppErrPayload", encoded.decode()))
    return msgspec.json.encode(body), PROBLEM_JSON, properties


def is_azure(interop: str) -> bool:
    """Whether the RPC protocol of Azure IoT Operations is asked for."""
    if interop not in ("plain", "azure"):
        raise ValueError(f"interop={interop!r} does not exist: use 'plain' or 'azure'")
    return interop == "azure"


def wire_status(status: int, interop_azure: bool) -> int:
    """The status to send: Azure's peers take an unknown one as a broken response, so it becomes 500."""
    if interop_azure and status not in _AZURE_STATUSES:
        return 200 if 200 <= status < 300 else 500
    return status


def _problem(response: Response) -> tuple[dict[str, Any], bool]:
    """The problem+json body, and whether there is one that cannot be read."""
    if not response.payload or codecs.essence(response.content_type) != PROBLEM_JSON:
        return {}, False
    try:
        body = msgspec.json.decode(response.payload)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return {}, True
    return (body, False) if isinstance(body, dict) else ({}, True)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return text


def _encode_data(data: Any) -> bytes | None:
    if data is None:
        return None
    try:
        return codecs.to_json(data)
    except Exception as error:
        # The data itself stays out of the log: it may be confidential.
        _log.warning(
            "data of an error response left out: JSON cannot hold it (%s in %s)",
            type(error).__name__,
            type(data).__name__,
        )
        return None


def _utf8(text: str) -> str:
    """Without lone surrogates, which UTF-8 cannot hold ([MQTT-1.5.4-1])."""
    return text.encode("utf-8", "replace").decode()


def _mqtt_string(text: str) -> str:
    clean = _CONTROL.sub(" ", text).encode("utf-8", "replace")
    return clean[:_MAX_STRING].decode("utf-8", "ignore")


def _shorten(text: str, limit: int = 64) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
