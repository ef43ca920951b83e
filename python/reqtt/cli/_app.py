"""The commands by their names, and how every one of them ends. Knows typer; no command's inside."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from reqtt.cli import _exit
from reqtt.cli._output import emit_json, note
from reqtt.cli.asyncapi import asyncapi
from reqtt.cli.bench import bench
from reqtt.cli.broker import broker
from reqtt.cli.check import check
from reqtt.cli.demo import demo
from reqtt.cli.request import request
from reqtt.cli.respond import respond
from reqtt.cli.serve import serve
from reqtt.cli.trace import trace

__all__ = ["app", "run"]

# What a shell reports of a program that SIGPIPE ended.
_BROKEN_PIPE = 141

app = typer.Typer(
    name="reqtt",
    help="Request/response over MQTT 5.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from reqtt import __version__

        typer.echo(f"reqtt {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(_exit.USAGE)


def _guarded(command: Callable[..., int]) -> Callable[..., int]:
    """Its errors become one line and an exit code."""

    @functools.wraps(command)
    def run(**given: object) -> int:
        try:
            return command(**given)
        except BrokenPipeError:
            return _BROKEN_PIPE
        except (TyperException, typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if os.environ.get("REQTT_DEBUG"):
                raise
            note(f"reqtt: {_exit.line_of(error)}")
            if given.get("as_json"):
                emit_json({"error": _exit.as_facts(error)})
            return _exit.code_of(error)

    return run


for _command in (request, respond, serve, broker, check, trace, bench, demo, asyncapi):
    app.command()(_guarded(_command))


def run(arguments: Sequence[str] | None) -> int:
    """Runs a command line, and gives its exit code."""
    code: object
    try:
        code = get_command(app)(args=arguments, prog_name="reqtt", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = "reqtt" if context is None else context.command_path
        note(f"reqtt: {error.format_message().rstrip('.')}: see {path} --help")
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _exit.INTERRUPTED
    if not _flushed():
        return _BROKEN_PIPE
    return code if isinstance(code, int) else _exit.OK


def _flushed() -> bool:
    """Whether stdout took everything; else its last breath must not complain."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
