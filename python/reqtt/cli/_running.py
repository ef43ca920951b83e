"""A service in this process: from its first breath to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import reqtt
from reqtt.cli import _exit
from reqtt.serving import on_first_signal

__all__ = ["first_signal", "observed", "serve_until_stopped"]


@contextlib.contextmanager
def first_signal() -> Iterator[asyncio.Future[int]]:
    """A future that the first SIGINT or SIGTERM fulfils with the exit code: 130, or 0. The next one has its
    usual effect.
    """
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def first(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(_exit.INTERRUPTED if number == signal.SIGINT else _exit.OK)

    with on_first_signal(first):
        yield stopped


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


async def observed(
    request: reqtt.Request, call_next: Any, tell: Callable[[int, float], None]
) -> reqtt.Response:
    """The response to a request; `tell` gets its status and the seconds it took, whatever comes of it."""
    began = time.perf_counter()
    status = 500
    try:
        response: reqtt.Response = await call_next(request)
        status = response.status
        return response
    except reqtt.RequestError as error:
        status = error.status
        raise
    except asyncio.CancelledError:
        status = 503
        raise
    finally:
        tell(status, time.perf_counter() - began)
