"""`reqtt demo`: the main scene, a phone that switches the light in the bedroom on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Annotated

import typer

from reqtt.cli import _exit
from reqtt.cli._output import note
from reqtt.cli._running import first_signal
from reqtt.cli._scene import play

__all__ = ["demo"]


def demo(
    url: Annotated[
        str | None,
        typer.Option("--url", "-u", help="Of a broker; else one in this process.", show_default=False),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page with a lamp on 127.0.0.1, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of the page; else any that is free.", show_default=False),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> int:
    """Play the main scene: a phone switches a bedroom light on, then meets a missing lamp."""
    if web:
        if url is not None:
            raise _exit.CommandError("--web has a broker of its own: leave out --url")
        return asyncio.run(_serve(port or 0, open_browser))
    if port is not None or open_browser:
        raise _exit.CommandError("--port and --open are of the page: add --web")
    with contextlib.ExitStack() as stack:
        if url is None:
            from reqtt.testing import LoopbackBroker

            url = stack.enter_context(LoopbackBroker()).url
        asyncio.run(play(url, typer.echo))
    return _exit.OK


async def _serve(port: int, open_browser: bool) -> int:
    """The page, its lamp and their broker."""
    from reqtt.cli._lamp import ROOM, Lamp
    from reqtt.cli._website import website
    from reqtt.testing import LoopbackBroker

    loop = asyncio.get_running_loop()
    async with LoopbackBroker() as broker, Lamp(broker.url, typer.echo) as lamp:

        def run(wanted: bool) -> None:
            asyncio.run_coroutine_threadsafe(lamp.run(wanted), loop).result(10)

        buttons = {"/lamp/start": lambda: run(True), "/lamp/stop": lambda: run(False)}
        facts = {"broker": broker.ws_url, "room": ROOM}
        origin = "/".join(broker.ws_url.split("/")[:3])
        with contextlib.ExitStack() as stack:
            try:
                address = stack.enter_context(website(port, facts, origin, buttons))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise _exit.CommandError(
                        f"port {port} is taken: leave out --port, or name another"
                    ) from None
                raise
            with first_signal() as stopped:
                typer.echo(f"a lamp and a switch on {address} until Ctrl-C")
                if open_browser:
                    import webbrowser

                    # One of the terminal would hold up the loop.
                    if not await asyncio.to_thread(webbrowser.open, address):
                        note("reqtt: --open found no browser: open the address yourself")
                return await stopped
