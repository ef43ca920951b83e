"""Log lines that people and programs can read: `time level logger message name=value ...`, or JSON."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

__all__ = ["facts", "set_up"]

# What the records of `reqtt.responder` say of a request.
_FIELDS = ("responder", "topic_filter", "topic")


def facts(**values: Any) -> dict[str, Any]:
    """For `extra=`: what a line says besides its message."""
    return {"reqtt_facts": values}


class _Lines(logging.Formatter):
    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        values = {**self._context, **getattr(record, "reqtt_facts", {})}
        named = "".join(f" {name}={_quoted(value)}" for name, value in values.items())
        text = f"{_time(record)} {record.levelname:<7} {record.name} {_line(record.getMessage())}{named}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _JsonLines(logging.Formatter):
    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._context,
            **{name: getattr(record, name) for name in _FIELDS if hasattr(record, name)},
            **getattr(record, "reqtt_facts", {}),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _line(text: str) -> str:
    return text.replace("\n", " ")


def _quoted(value: Any) -> str:
    text = str(value)
    plain = text and not any(character in text for character in ' "=') and text.isprintable()
    return text if plain else json.dumps(text)


def set_up(*, as_json: bool, level: str = "INFO", **context: Any) -> None:
    """All that is logged from now on goes to stderr, one line each; `context` is in every one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(context) if as_json else _Lines(context))
    logging.basicConfig(level=level, handlers=[handler], force=True)
