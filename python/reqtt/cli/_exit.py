"""How a command ends: the exit code and the one line for each error. Knows no command."""

from __future__ import annotations

from typing import Any, Final

import reqtt
from reqtt.cli._output import one_line

__all__ = [
    "CONNECTION",
    "INTERRUPTED",
    "NOBODY",
    "OK",
    "REMOTE",
    "TIMEOUT",
    "USAGE",
    "CommandError",
    "as_facts",
    "code_of",
    "line_of",
]

OK: Final = 0
REMOTE: Final = 1
USAGE: Final = 2
TIMEOUT: Final = 3
NOBODY: Final = 4
CONNECTION: Final = 5
INTERRUPTED: Final = 130
# A defect of this program, by the name that sysexits.h has for it.
SOFTWARE: Final = 70


class CommandError(Exception):
    """What a command itself has to complain about: the ready line, and the exit code."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


# The first that fits; a class stands before its bases.
_CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (reqtt.RemoteError, REMOTE),
    (reqtt.InvalidResponse, REMOTE),
    (reqtt.DecodeError, REMOTE),
    (reqtt.ResponseTimeout, TIMEOUT),
    (reqtt.NoMatchingSubscribers, NOBODY),
    (reqtt.PublishError, CONNECTION),
    (reqtt.SubscribeError, CONNECTION),
    (ConnectionError, CONNECTION),
    (reqtt.ClientClosed, CONNECTION),
    (TimeoutError, TIMEOUT),
    (ValueError, USAGE),
    (TypeError, USAGE),
    (OSError, USAGE),
    (reqtt.ReqttError, CONNECTION),
)


# The library's advice in the words of the command line.
_OPTIONS: Final = {"fail_fast=False": "--no-fail-fast", "response_topic=": "--response-topic"}


def code_of(error: BaseException) -> int:
    """The exit code."""
    if isinstance(error, CommandError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), SOFTWARE)


def line_of(error: BaseException) -> str:
    """What went wrong, in one line without control characters."""
    if code_of(error) == SOFTWARE:
        return one_line(
            f"unexpected {type(error).__name__}: {error} (REQTT_DEBUG=1 shows where; please report it)"
        )
    text = one_line(str(error)) or type(error).__name__
    for keyword, option in _OPTIONS.items():
        text = text.replace(keyword, option)
    if isinstance(error, reqtt.RemoteError) and error.data is not None:
        text = f"{text} {one_line(repr(error.data))}"
    return text


def as_facts(error: BaseException) -> dict[str, Any]:
    """The same for a program."""
    facts: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": code_of(error)}
    for name in ("status", "code", "data", "phase", "topic", "topic_filter", "reason_code"):
        value = getattr(error, name, None)
        if value is not None and not (isinstance(error, CommandError)):
            facts[name] = value
    if isinstance(error, reqtt.RemoteError):
        facts["message"] = error.message
    return facts
