"""What is written to stdout and stderr. What came over the network is written in a form that a terminal
does not take for commands.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    import reqtt

__all__ = [
    "console",
    "emit",
    "emit_json",
    "milliseconds",
    "note",
    "one_line",
    "payload_facts",
    "preview",
    "printable",
    "response_facts",
]

# Without tab and newline. A terminal acts on these, those of the upper half and of direction included.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """With control characters spelled out."""
    return _CONTROL.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """In one line."""
    return printable(" ".join(text.split("\n")).replace("\t", " ").strip())


def preview(payload: bytes, width: int = 60) -> str:
    """The beginning of a payload, for a line of its own."""
    try:
        text = one_line(payload[: 4 * width].decode())
    except UnicodeDecodeError as error:
        # Cut in the middle of a character, or no text at all.
        if error.start < 4 * width - 4 or len(payload) <= 4 * width:
            return f"{len(payload)} bytes"
        text = one_line(payload[: error.start].decode())
    return text if len(text) <= width else text[: width - 3] + "..."


def milliseconds(seconds: float) -> str:
    """A duration, in the usual unit."""
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def emit(payload: bytes, *, line: bool = False) -> None:
    """A payload on stdout: as it is into a pipe, or harmless and with a newline on a terminal."""
    out = sys.stdout.buffer
    if sys.stdout.isatty():
        try:
            text = printable(payload.decode())
        except UnicodeDecodeError:
            text = f"{len(payload)} bytes that are no text: write them to a file with >"
        out.write(text.encode() + b"\n")
    else:
        out.write(payload + b"\n" if line else payload)
    out.flush()


def emit_json(value: Any, *, indent: int | None = None) -> None:
    """A value as JSON on stdout, in one line unless `indent`."""
    text = json.dumps(value, ensure_ascii=not _is_utf8(), indent=indent, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def note(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{one_line(text)}\n")
    sys.stderr.flush()


def console(*, stderr: bool = True) -> Console:
    """A terminal, or what stands for one: rich looks at NO_COLOR, TERM and COLUMNS."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def payload_facts(payload: bytes) -> dict[str, Any]:
    """As text where it is UTF-8, else as base64."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload": None, "payload_base64": base64.b64encode(payload).decode()}


def response_facts(response: reqtt.Response) -> dict[str, Any]:
    """A response for a program."""
    return {
        "status": response.status,
        **payload_facts(response.payload),
        "topic": response.topic,
        "content_type": response.content_type,
        "correlation_data": _text(response.correlation_data),
        "user_properties": [list(pair) for pair in response.user_properties],
        "latency_ms": round(response.latency * 1000, 3),
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "backslashreplace")
