"""An AsyncAPI document as one HTML page. Knows the document alone, and what `reqtt.asyncapi` puts into it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any, Final

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6475; --paper: #fff; --card: #f5f7fa;
  --line: #d9dee7; --mark: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa5b8; --paper: #14181f;
  --card: #1d232d; --line: #333c4a; --mark: #6cb0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; } h1 small { color: var(--soft); font-size: 1rem; font-weight: normal; }
h2 { margin: 2.5rem 0 1rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 1.1rem; } h4 { margin: 1rem 0 .25rem; color: var(--soft); font-size: .85rem;
  text-transform: uppercase; letter-spacing: .05em; }
article { margin: 1rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
code, pre { font: .9em/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
.address { display: block; margin: .25rem 0 .5rem; color: var(--mark); font-size: 1rem; }
.soft { color: var(--soft); }
.tag { padding: .1rem .5rem; border: 1px solid var(--line); border-radius: 1rem; font-size: .8rem; }
table { width: 100%; border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; } td:first-child code { white-space: nowrap; }
th { color: var(--soft); font-weight: normal; font-size: .85rem; }
pre { overflow-x: auto; white-space: pre; } a { color: var(--mark); }
p { margin: .25rem 0; white-space: pre-line; }
"""


def page(document: dict[str, Any]) -> str:
    info = document["info"]
    title = escape(info["title"])
    parts = [
        f"<h1>{title} <small>{escape(info['version'])}</small></h1>",
        _paragraph(info.get("description")),
        '<p class="soft">Request and response over MQTT 5: a request is published to the address with a'
        " Response Topic and Correlation Data, and its response comes back there with the same Correlation"
        " Data.</p>",
        _servers(document.get("servers", {})),
        "<h2>Requests</h2>",
        *(_operation(document, name, operation) for name, operation in document["operations"].items()),
        "<h2>Errors</h2>",
        _errors(document["components"]["messages"]["error"]),
        "<h2>Schemas</h2>",
        *(_component(name, schema) for name, schema in document["components"]["schemas"].items()),
        "<h2>Document</h2><details><summary>AsyncAPI 3.0 as JSON</summary><pre>"
        f"{escape(json.dumps(document, indent=2, ensure_ascii=False))}</pre></details>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _paragraph(text: str | None) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _servers(servers: dict[str, Any]) -> str:
    if not servers:
        return ""
    rows = [
        (
            escape(name),
            f"<code>{escape(server['host'] + server.get('pathname', ''))}</code>",
            escape(f"{server['protocol']}, MQTT {server['protocolVersion']}"),
        )
        for name, server in servers.items()
    ]
    return "<h2>Servers</h2>" + _table(("name", "host", "protocol"), rows)


def _operation(document: dict[str, Any], name: str, operation: dict[str, Any]) -> str:
    channel = _follow(document, operation["channel"])
    tags = "".join(f' <span class="tag">{escape(tag["name"])}</span>' for tag in operation.get("tags", ()))
    facts = [f"QoS up to {operation['bindings']['mqtt']['qos']}"]
    if "x-shared-subscription" in operation:
        facts.append(f"one of the group {operation['x-shared-subscription']} answers")
    parts = [
        f'<article id="{escape(name)}"><h3>{escape(operation["title"])}{tags}</h3>',
        f'<code class="address">{escape(channel["address"])}</code>',
        _paragraph(operation.get("summary")),
        _paragraph(operation.get("description")),
        f'<p class="soft">{escape(", ".join(facts))}</p>',
    ]
    parameters = channel.get("parameters", {})
    if parameters:
        rows = [(f"<code>{escape(key)}</code>", _parameter(value)) for key, value in parameters.items()]
        parts += ["<h4>In the topic</h4>", _table(("name", "is"), rows)]
    for message in operation["messages"]:
        parts += ["<h4>Request</h4>", _message(_follow(document, message))]
    # The error is the same for all.
    response, _ = operation["reply"]["messages"]
    parts += ["<h4>Response</h4>", _message(_follow(document, response))]
    return "".join(parts) + "</article>"


def _errors(message: dict[str, Any]) -> str:
    headers = message["headers"]["properties"]
    rows = [(f"<code>{escape(name)}</code>", escape(value["description"])) for name, value in headers.items()]
    return f"<article>{_message(message)}{_table(('name', 'in the message'), rows)}</article>"


def _parameter(parameter: dict[str, Any]) -> str:
    values = ", ".join(f"<code>{escape(value)}</code>" for value in parameter.get("enum", ()))
    return values or escape(parameter.get("description", ""))


def _message(message: dict[str, Any]) -> str:
    content = f" <code>{escape(message['contentType'])}</code>" if "contentType" in message else ""
    payload = message.get("payload")
    shown = "" if payload is None else f"<p>{_type(payload)}{content}</p>"
    return f"{shown}{_paragraph(message.get('description'))}{_properties(payload)}"


def _component(name: str, schema: dict[str, Any]) -> str:
    return (
        f'<article id="schema-{escape(name)}"><h3>{escape(name)}</h3>{_paragraph(schema.get("description"))}'
        + (_properties(schema) or f"<p>{_type(schema)}</p>")
        + "</article>"
    )


def _properties(schema: Any) -> str:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not properties:
        return ""
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(name)}</code>"
            + ("" if name in required else ' <span class="soft">optional</span>'),
            _type(value),
            escape(value.get("description", "")) if isinstance(value, dict) else "",
        )
        for name, value in properties.items()
    ]
    return _table(("name", "type", "meaning"), rows)


_LIMITS: Final = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "default", "contentEncoding",
)  # fmt: skip


def _type(schema: Any) -> str:
    """A schema in a few words, with a link where it has a name."""
    if not isinstance(schema, dict):
        return "anything" if schema else "nothing"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(item) for item in schema[key])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    kind = schema.get("type", "anything")
    words = " or ".join(kind) if isinstance(kind, list) else kind
    items = schema.get("items")
    if isinstance(items, list):
        words = f"array of ({', '.join(_type(item) for item in items)})"
    elif items is not None:
        words = f"array of {_type(items)}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        words = f"object of {_type(schema['additionalProperties'])}"
    if "format" in schema:
        words += f" ({escape(schema['format'])})"
    limits = [f"{key} {json.dumps(schema[key])}" for key in _LIMITS if key in schema]
    return words + (f' <span class="soft">{escape(", ".join(limits))}</span>' if limits else "")


def _follow(document: dict[str, Any], reference: Any) -> Any:
    """What a reference stands for, through further ones."""
    while isinstance(reference, dict) and "$ref" in reference:
        found: Any = document
        for part in reference["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        reference = found
    return reference
