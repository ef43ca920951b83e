"""A service in this process: from its first breath to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import reqtt
from reqtt.cli import _exit

__all__ = ["first_signal", "serve_until_stopped"]


@contextlib.contextmanager
def first_signal() -> Iterator[asyncio.Future[int]]:
    """A future that the first SIGINT or SIGTERM fulfils with the exit code: 130, or 0. The next one has its
    usual effect.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    installed: list[signal.Signals] = []

    def restore() -> None:
        while installed:
            loop.remove_signal_handler(installed.pop())

    def first(code: int) -> None:
        restore()
        if not stopped.done():
            stopped.set_result(code)

    if threading.current_thread() is threading.main_thread():
        for number, code in ((signal.SIGINT, _exit.INTERRUPTED), (signal.SIGTERM, _exit.OK)):
            # Not on Windows' loops: there Ctrl-C cancels the main task, which drains on its way out.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, first, code)
                installed.append(number)
    try:
        yield stopped
    finally:
        restore()


async def serve_until_stopped(
    app: reqtt.Responder, ready: Callable[[], None], *also: asyncio.Future[int]
) -> int:
    """Serves until a signal, or until one of `also` gives the exit code; then drains."""
    async with app:
        ready()
        with first_signal() as stopped:
            waiting = {stopped, *also}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
