"""The options that all commands have in common, and how typer is told of them in one place."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from reqtt.cli._exit import CommandError
from reqtt.cli._target import Target

__all__ = ["AsJson", "UrlArgument", "with_target"]

_PANEL = "Broker"

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
UrlArgument = Annotated[
    str | None, typer.Argument(metavar="URL", help="Of the broker; see --url.", show_default=False)
]


def _target(
    *,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            "-u",
            envvar="REQTT_URL",
            help="mqtt://, mqtts://, ws://, wss:// or unix://.",
            rich_help_panel=_PANEL,
        ),
    ] = "mqtt://localhost:1883",
    client_id: Annotated[
        str | None, typer.Option(help="Client identifier; else the broker chooses.", rich_help_panel=_PANEL)
    ] = None,
    username: Annotated[
        str | None, typer.Option(envvar="REQTT_USERNAME", help="User name.", rich_help_panel=_PANEL)
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="REQTT_PASSWORD",
            help="Password. Others on this machine see it here: better in the environment; - asks for it.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tls_ca: Annotated[
        str | None, typer.Option(help="PEM file: whom to trust.", rich_help_panel=_PANEL)
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(help="PEM file: own certificate.", rich_help_panel=_PANEL)
    ] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file: own key.", rich_help_panel=_PANEL)] = None,
    tls_server_name: Annotated[
        str | None, typer.Option(help="Name in the broker's certificate.", rich_help_panel=_PANEL)
    ] = None,
    tls_insecure: Annotated[
        bool, typer.Option("--tls-insecure", help="Take any certificate: for tests.", rich_help_panel=_PANEL)
    ] = False,
    connect_timeout: Annotated[float, typer.Option(help="Seconds.", min=0.001, rich_help_panel=_PANEL)] = 5.0,
    qos: Annotated[int, typer.Option(min=0, max=2, help="0, 1 or 2.", rich_help_panel=_PANEL)] = 1,
) -> Target:
    if password == "-":
        password = _ask_password(username)
    return Target(
        url=url,
        client_id=client_id,
        username=username,
        password=password,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
        tls_insecure=tls_insecure,
        connect_timeout=connect_timeout,
        qos=qos,
    )


def _ask_password(username: str | None) -> str:
    """On the terminal, whatever stdin is; never in the clear."""
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            # It says that it would echo.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"Password{f' of {username}' if username else ''}: ", sys.stderr)
    except (getpass.GetPassWarning, EOFError):
        raise CommandError("--password - has no terminal to ask on: set REQTT_PASSWORD") from None


def with_target(command: Callable[..., int]) -> Callable[..., int]:
    """Gives a command the common options; it gets them as `target`."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "target"]
    shared = list(inspect.signature(_target, eval_str=True).parameters.values())

    @functools.wraps(command)
    def run(**given: object) -> int:
        target = _target(**{parameter.name: given.pop(parameter.name) for parameter in shared})  # type: ignore[arg-type]
        return command(target=target, **given)

    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return run
