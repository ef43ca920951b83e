"""The responses to one request, as they come: a table on a terminal, lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import reqtt
from reqtt.cli._output import console, milliseconds, one_line, preview

__all__ = ["live_table"]


class Show(Protocol):
    as_json: bool

    def response(self, response: reqtt.Response, *, line: bool = False) -> None: ...
    def error(self, error: reqtt.ReqttError) -> None: ...


@contextlib.contextmanager
def live_table(show: Show) -> Iterator[Callable[[reqtt.Response | reqtt.ReqttError], None]]:
    """Gives what takes each response. Lines where stdout is no terminal, or JSON was asked for."""
    if show.as_json or not sys.stdout.isatty():

        def add_line(found: reqtt.Response | reqtt.ReqttError) -> None:
            if isinstance(found, reqtt.ReqttError):
                show.error(found)
            else:
                show.response(found, line=True)

        yield add_line
        return

    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    table = Table("#", "who", "status", "latency", "payload", box=None, pad_edge=False)
    with Live(table, console=console(stderr=False), refresh_per_second=20):

        def add_row(found: reqtt.Response | reqtt.ReqttError) -> None:
            number = str(table.row_count + 1)
            response = getattr(found, "response", None) if isinstance(found, reqtt.ReqttError) else found
            who = dict(response.user_properties).get("rq-id", "") if response is not None else ""
            took = milliseconds(response.latency) if response is not None else ""
            if isinstance(found, reqtt.ReqttError):
                status, text = str(getattr(found, "status", "?")), one_line(str(found))
            else:
                status, text = str(found.status), preview(found.payload)
            style = "red" if isinstance(found, reqtt.ReqttError) else "green"
            # Text, not markup: it came over the network.
            table.add_row(number, Text(one_line(who)), Text(status, style=style), took, Text(text))

        yield add_row
