"""`reqtt broker`: the loopback broker, for demos and tests."""

from __future__ import annotations

import asyncio
import errno
from typing import Annotated

import typer

from reqtt.cli import _exit
from reqtt.cli._options import AsJson
from reqtt.cli._output import emit_json, note
from reqtt.cli._running import first_signal

__all__ = ["broker"]


def broker(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 1883,
    ws_port: Annotated[int, typer.Option(min=0, max=65535, help="For WebSocket; 0: any that is free.")] = 0,
    username: Annotated[str | None, typer.Option(help="Whom it lets in; else everybody.")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="REQTT_PASSWORD", help="Better in the environment.")
    ] = None,
    response_information: Annotated[
        str | None, typer.Option(help="What it tells clients that ask for it.")
    ] = None,
    silent: Annotated[
        bool, typer.Option("--silent", help="Keep silent about 0x10 No matching subscribers.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Run a small MQTT 5 broker on 127.0.0.1, until Ctrl-C. For demos and tests, never for production."""
    if username is None and password is not None:
        # From the environment: it is meant for the other commands.
        password = None
    if username is not None and password is None:
        raise _exit.CommandError("--username needs a password: set REQTT_PASSWORD")
    from reqtt.testing import LoopbackBroker

    loopback = LoopbackBroker(
        port=port,
        ws_port=ws_port,
        username=username,
        password=password,
        response_information=response_information,
        no_matching_subscribers=not silent,
    )
    try:
        loopback.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE or "in use" in str(error):
            taken = " and ".join(str(number) for number in (port, ws_port) if number)
            raise _exit.CommandError(
                f"port {taken} is taken: --port 0 takes any that is free, --port N another"
            ) from None
        raise
    try:
        return asyncio.run(_run(loopback.url, loopback.ws_url, as_json))
    finally:
        loopback.stop()


async def _run(url: str, ws_url: str, as_json: bool) -> int:
    with first_signal() as stopped:
        if as_json:
            emit_json({"url": url, "ws_url": ws_url})
        else:
            note(f"broker on {url} and {ws_url}, until Ctrl-C")
        return await stopped
