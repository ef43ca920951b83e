"""`reqtt demo`: the main scene, a phone that switches the light in the bedroom on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer

from reqtt.cli import _exit
from reqtt.cli._scene import play

__all__ = ["demo"]


def demo(
    url: Annotated[
        str | None,
        typer.Option("--url", "-u", help="Of a broker; else one in this process.", show_default=False),
    ] = None,
) -> int:
    """Play the main scene: a phone switches a bedroom light on, then meets a missing lamp."""
    with contextlib.ExitStack() as stack:
        if url is None:
            from reqtt.testing import LoopbackBroker

            url = stack.enter_context(LoopbackBroker()).url
        asyncio.run(play(url, typer.echo))
    return _exit.OK
