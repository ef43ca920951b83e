"""`reqtt asyncapi`: what handlers answer, as an AsyncAPI document or a page of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reqtt.cli import _exit
from reqtt.cli._modules import load
from reqtt.cli._output import note

__all__ = ["asyncapi"]


def asyncapi(
    handlers: Annotated[
        str, typer.Argument(metavar="MODULE[:NAME]", help="A module, or the handlers, Router or app in it.")
    ],
    title: Annotated[str | None, typer.Option(help="Of the application; else the module's name.")] = None,
    version: Annotated[str, typer.Option(help="Of the application.")] = "0.0.0",
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]URL", help="Where the application is; may be given more than once."),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="A page instead of JSON.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of stdout.")] = None,
) -> int:
    """Write an AsyncAPI 3.0 document of what handlers answer: filters, payloads, errors."""
    from reqtt.asyncapi import render

    text = render(
        load(handlers),
        title=title or handlers.partition(":")[0],
        version=version,
        servers=_servers(server or []),
        form="html" if html else "json",
    )
    if output is None:
        # JSON and HTML are UTF-8, whatever the terminal is.
        sys.stdout.buffer.write(text.encode() + b"\n")
        sys.stdout.buffer.flush()
        return _exit.OK
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise _exit.CommandError(f"{output} cannot be written: {error.strerror}") from None
    note(f"written: {output}")
    return _exit.OK


def _servers(given: list[str]) -> dict[str, str] | None:
    servers: dict[str, str] = {}
    for number, item in enumerate(given, 1):
        name, equals, url = item.partition("=")
        # A URL may have a = of its own, but not before its scheme.
        if not equals or "://" in name:
            name, url = "broker" if number == 1 else f"broker{number}", item
        if name in servers:
            raise _exit.CommandError(f"--server {name}= is given twice")
        servers[name] = url
    return servers or None
