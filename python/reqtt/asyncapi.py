"""An AsyncAPI 3.0 document of what a responder answers: filters, payloads, errors, from the annotations.

    document([power, energy], title="Lights", version="1.0.0", servers={"home": "mqtts://broker:8883"})

Owns the document. What an annotation means on the wire is in `reqtt.codecs`, and its JSON schema comes from
`reqtt._schemas`. The words are AsyncAPI's: a responder *receives* on a channel, and replies.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

from reqtt import codecs
from reqtt._core import Response
from reqtt._schemas import Schemas
from reqtt._status import PROBLEM_JSON
from reqtt.responder import ResponderSpec
from reqtt.router import collect
from reqtt.serving import Responder

__all__ = ["document", "page", "render"]

Document: TypeAlias = dict[str, Any]

_EMPTY: Final = inspect.Parameter.empty
_BINDING: Final = {"bindingVersion": "0.2.0"}

_PROTOCOLS: Final = {"mqtt": "mqtt", "mqtts": "secure-mqtt", "ws": "ws", "wss": "wss"}

_CORRELATION_DATA: Final = "Opaque bytes of the requester, up to 65,535; the response carries the same."
_RESPONSE_TOPIC: Final = "Where the requester waits. Without it the request runs, and nothing is sent back."


def document(
    handlers: Any,
    *,
    title: str,
    version: str,
    description: str | None = None,
    servers: str | Mapping[str, str] | None = None,
) -> Document:
    """The AsyncAPI 3.0 document of handlers, ready for `json.dump`.

    A handler is an operation: its docstring the text, its filter the address, its captures the parameters,
    its annotations the schemas. A `+` or `#` in a filter becomes a parameter, too, as AsyncAPI knows no
    wildcards. The reply goes to the Response Topic of the request (MQTT 5.0, section 4.10).

    Args:
        handlers: what `Responder` takes, or a `Responder`.
        title: the name of the application.
        version: of the application, not of AsyncAPI.
        description: more words; CommonMark.
        servers: a URL, or several by name. A password in it is left out. None: that of a `Responder`.

    Raises:
        TypeError, ValueError: what is no handler or no URL of a broker; no title or version.

    Example:
        json.dump(document([power], title="Lights", version="1.0.0"), sys.stdout, indent=2)
    """
    for name, text in (("title", title), ("version", version)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} must be a text that is not empty, not {text!r}")
    if isinstance(handlers, Responder):
        # Without those by which it answers discovery.
        presence = handlers._presence
        specs = handlers._specs if presence is None else list(presence._specs)
        if servers is None and not (url := handlers.client._connection.url).startswith("unix:"):
            servers = url
    else:
        specs = collect(handlers)

    info = {"title": title, "version": version}
    if description:
        info["description"] = description
    made: Document = {"asyncapi": "3.0.0", "info": info}
    found = _servers(servers)
    if found:
        made["servers"] = found
    parts = _Parts(specs)
    made["channels"] = parts.channels
    made["operations"] = parts.operations
    made["components"] = parts.components
    if any("security" in server for server in found.values()):
        made["components"]["securitySchemes"] = {"userPassword": {"type": "userPassword"}}
    return made


def page(document: Document) -> str:
    """The document as one HTML page that needs nothing else: no script, no network.

    Path("lights.html").write_text(page(document([power], title="Lights", version="1.0.0")))
    """
    from reqtt._asyncapi_page import page

    return page(document)


def render(
    handlers: Any,
    *,
    title: str,
    version: str = "0.0.0",
    description: str | None = None,
    servers: str | Mapping[str, str] | None = None,
    form: Literal["json", "html"] = "json",
) -> str:
    """The document as text, JSON or a page; raises what `document` raises.

    print(render(module, title="Lights", form="html"))
    """
    if form not in ("json", "html"):
        raise ValueError(f'form must be "json" or "html", not {form!r}')
    made = document(handlers, title=title, version=version, description=description, servers=servers)
    return page(made) if form == "html" else json.dumps(made, indent=2, ensure_ascii=False)


# --- servers --------------------------------------------------------------------------------------


def _servers(servers: str | Mapping[str, str] | None) -> dict[str, Document]:
    if servers is None:
        return {}
    named = {"broker": servers} if isinstance(servers, str) else servers
    if not isinstance(named, Mapping):
        raise TypeError(f"servers must be a URL, or a mapping of names to URLs, not {type(servers).__name__}")
    return {_identifier(name): _server(url) for name, url in named.items()}


def _server(url: str) -> Document:
    if not isinstance(url, str):
        raise TypeError(f"a server must be a URL, not {type(url).__name__}")
    parts = urlsplit(url)
    # The URL itself may hold a password: it is not shown.
    if parts.scheme not in _PROTOCOLS:
        raise ValueError(
            f"a server with the scheme {parts.scheme!r} cannot be documented: use mqtt, mqtts, ws or wss"
        )
    host = parts.netloc.rpartition("@")[2]
    if not host:
        raise ValueError(f"a server needs a host: write {parts.scheme}://broker.example")
    server: Document = {"host": host, "protocol": _PROTOCOLS[parts.scheme], "protocolVersion": "5"}
    if parts.path.strip("/"):
        server["pathname"] = parts.path
    if "@" in parts.netloc:
        server["security"] = [{"$ref": "#/components/securitySchemes/userPassword"}]
    return server


# --- channels, operations, messages ---------------------------------------------------------------


class _Parts:
    """What the handlers become."""

    def __init__(self, specs: Sequence[ResponderSpec]) -> None:
        bodies = [_body(spec) for spec in specs]
        self._schemas = Schemas(
            [(body, "validation") for body in bodies if body is not _EMPTY]
            + [(spec.returns, "serialization") for spec in specs if _says_something(spec.returns)],
            reserved=["Problem"],
        )
        self.channels: dict[str, Document] = {}
        self.operations: dict[str, Document] = {}
        self._messages: dict[str, Document] = {}
        for spec, body in zip(specs, bodies, strict=True):
            self._add(spec, body)
        self._messages["error"] = _error()
        self.components: Document = {
            "messages": self._messages,
            "schemas": {**self._schemas.components, "Problem": _PROBLEM},
        }

    def _add(self, spec: ResponderSpec, body: Any) -> None:
        name = _unused(_identifier(spec.name.rpartition(".")[2]), self.operations)
        channel = self._channel(spec)
        request, reply = f"{name}Request", f"{name}Response"
        self._messages[request] = _request(self._schemas, spec, body)
        self._messages[reply] = _response(self._schemas, spec)
        self.channels[channel]["messages"][request] = _ref("components", "messages", request)
        replies = _unused(f"{name}Reply", self.channels)
        self.channels[replies] = {
            "address": None,
            "title": f"Response Topic of {name}",
            "description": "Chosen by the requester.",
            "messages": {
                reply: _ref("components", "messages", reply),
                "error": _ref("components", "messages", "error"),
            },
        }
        self.operations[name] = {
            "action": "receive",
            "channel": _ref("channels", channel),
            **_words(spec),
            "messages": [_ref("channels", channel, "messages", request)],
            "reply": {
                "address": {
                    "location": "$message.header#/responseTopic",
                    "description": "MQTT 5 property Response Topic",
                },
                "channel": _ref("channels", replies),
                "messages": [
                    _ref("channels", replies, "messages", reply),
                    _ref("channels", replies, "messages", "error"),
                ],
            },
            "bindings": {"mqtt": {"qos": spec.qos, "retain": False, **_BINDING}},
        }
        if spec.group is not None:
            self.operations[name]["x-shared-subscription"] = spec.group

    def _channel(self, spec: ResponderSpec) -> str:
        """The channel of a filter; two groups may share one."""
        address, parameters = _address(spec)
        for name, channel in self.channels.items():
            if channel["address"] == address:
                return name
        name = _unused(_identifier(address.replace("{", "").replace("}", "")), self.channels)
        self.channels[name] = {"address": address, "messages": {}}
        if parameters:
            self.channels[name]["parameters"] = parameters
        return name


def _words(spec: ResponderSpec) -> Document:
    words: Document = {"title": spec.name.rpartition(".")[2].replace("_", " ")}
    summary, _, rest = (inspect.getdoc(spec.handler) or "").partition("\n")
    if summary.strip():
        words["summary"] = summary.strip()
    if rest.strip():
        words["description"] = rest.strip()
    if spec.tags:
        words["tags"] = [{"name": tag} for tag in spec.tags]
    return words


def _address(spec: ResponderSpec) -> tuple[str, dict[str, Document]]:
    """The filter in AsyncAPI's words, and what fills its braces."""
    annotations = {argument.name: argument.annotation for argument in spec.arguments}
    levels, parameters = [], {}
    for number, level in enumerate(spec.topic_filter.split("/"), 1):
        if level in ("+", "#"):
            name = _unused("rest" if level == "#" else f"level{number}", spec.captures)
            text = "All further levels" if level == "#" else "Any level"
            parameters[name] = {"description": text}
            level = f"{{{name}}}"
        elif level.startswith("{") and level.endswith("}"):
            name, _, rest = level[1:-1].partition(":")
            parameters[name] = _parameter(annotations.get(name, _EMPTY), several=rest == "#")
            level = f"{{{name}}}"
        levels.append(level)
    return "/".join(levels), parameters


def _parameter(annotation: Any, *, several: bool) -> Document:
    bare = codecs.without_none(annotation)[0]
    parameter: Document = {}
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        parameter["enum"] = [str(member.value) for member in bare]
    elif get_origin(bare) is Literal:
        parameter["enum"] = [str(value) for value in get_args(bare)]
    elif isinstance(bare, type) and bare not in (_EMPTY, str):
        parameter["description"] = bare.__name__
    if several:
        parameter["description"] = "All further levels"
    return parameter


def _request(schemas: Schemas, spec: ResponderSpec, body: Any) -> Document:
    message: Document = {"title": f"Request of {spec.name.rpartition('.')[2]}"}
    if body is _EMPTY:
        whole = any(argument.source == "request" for argument in spec.arguments)
        message["description"] = "Any payload." if whole else "The payload is not read."
    elif codecs.content_of(body) is None:
        message["description"] = "Any payload."
    else:
        message |= _content(schemas, body, "validation")
        argument = next(argument for argument in spec.arguments if argument.source == "body")
        if argument.default is not _EMPTY:
            message["description"] = "The payload may be empty."
    message["headers"] = _headers(responseTopic=_RESPONSE_TOPIC, correlationData=_CORRELATION_DATA)
    message["correlationId"] = _correlation_id()
    message["bindings"] = _bindings(message, responseTopic=_RESPONSE_TOPIC)
    return message


def _response(schemas: Schemas, spec: ResponderSpec) -> Document:
    message: Document = {"title": f"Response of {spec.name.rpartition('.')[2]}"}
    if spec.returns is None or spec.returns is type(None):
        message["description"] = "Empty."
        message["payload"] = {"type": "string", "maxLength": 0}
    elif _says_something(spec.returns):
        message |= _content(schemas, spec.returns, "serialization")
        if codecs.without_none(spec.returns)[1]:
            message["description"] = "The payload may be empty."
    else:
        message["description"] = "Any payload."
    message["headers"] = _headers(correlationData=_CORRELATION_DATA)
    message["correlationId"] = _correlation_id()
    message["bindings"] = _bindings(message)
    return message


def _error() -> Document:
    message: Document = {
        "title": "Error",
        "description": "Any failure (RFC 9457). The user properties say the same as the payload.",
        "contentType": PROBLEM_JSON,
        "payload": _ref("components", "schemas", "Problem"),
        "headers": _headers(
            correlationData=_CORRELATION_DATA,
            __stat="User property: an HTTP status from 400 on.",
            __stMsg="User property: what went wrong, in words.",
            __apErr='User property: "true" if the handler failed, "false" if the request never got that far.',
            AppErrCode="User property: the application's own code, if it gave one.",
            AppErrPayload="User property: further data as JSON text, if there are any.",
        ),
        "correlationId": _correlation_id(),
    }
    message["headers"]["required"] = ["__stat"]
    message["x-payload-format-indicator"] = 1
    message["bindings"] = _bindings(message)
    return message


_PROBLEM: Final = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "description": "The words for the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What went wrong, for a person."},
        "code": {"type": ["string", "integer"], "description": "The application's own code."},
        "data": {"description": "Whatever else the application attached."},
    },
}


def _content(schemas: Schemas, annotation: Any, mode: Literal["validation", "serialization"]) -> Document:
    """Payload schema and Content Type of an annotation; nothing where it goes by the value."""
    content = codecs.content_of(annotation)
    if content is None:
        return {}
    content_type, indicator = content
    found: Document = {"payload": schemas.of(annotation, mode), "contentType": content_type}
    if indicator is not None:
        found["x-payload-format-indicator"] = indicator
    return found


def _headers(**described: str) -> Document:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in described.items()},
    }


def _correlation_id() -> Document:
    return {
        "location": "$message.header#/correlationData",
        "description": "MQTT 5 property Correlation Data",
    }


def _bindings(message: Document, **more: str) -> Document:
    """The MQTT 5 properties of a message. Takes the indicator that `_content` left behind."""
    mqtt: Document = {"correlationData": {"type": "string", "description": _CORRELATION_DATA}}
    indicator = message.pop("x-payload-format-indicator", None)
    if indicator is not None:
        mqtt["payloadFormatIndicator"] = indicator
    for name, text in more.items():
        mqtt[name] = {"type": "string", "description": text}
    return {"mqtt": {**mqtt, **_BINDING}}


# --- small ----------------------------------------------------------------------------------------


def _body(spec: ResponderSpec) -> Any:
    """The annotation of the argument that gets the payload."""
    for argument in spec.arguments:
        if argument.source == "body":
            return bytes if argument.annotation is _EMPTY else argument.annotation
    return _EMPTY


def _says_something(returns: Any) -> bool:
    """Whether a return annotation tells what the payload is."""
    return returns not in (_EMPTY, Response) and codecs.content_of(returns) is not None


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)}


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", str(text)).strip("_") or "_"


def _unused(name: str, taken: Iterable[str]) -> str:
    names = set(taken)
    candidate, number = name, 1
    while candidate in names:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
