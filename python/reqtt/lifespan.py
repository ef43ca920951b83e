"""What lives as long as a responder: entered before it subscribes, left after it has drained."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from reqtt.serving import Responder

__all__ = ["Lifespan", "Lifespans", "check_lifespan"]

_log = logging.getLogger("reqtt.responder")

Lifespan: TypeAlias = Callable[["Responder"], AbstractAsyncContextManager[Any]]
"""A function that takes the `Responder` and gives an async context manager."""


def check_lifespan(lifespan: Any) -> None:
    """Raises TypeError for what can be none."""
    if inspect.isasyncgenfunction(lifespan):
        raise TypeError(
            f"lifespan {lifespan!r} is a bare generator: put @contextlib.asynccontextmanager on it"
        )
    if lifespan is not None and (not callable(lifespan) or hasattr(lifespan, "__aenter__")):
        raise TypeError(f"lifespan must be a function app -> async context manager, not {lifespan!r}")


class Lifespans:
    """Those of one responder and its routers, the first outermost.

    They live in a task of their own: a TaskGroup or a timeout scope has to be left in the task that entered
    it, and who closes a responder is seldom who opened it.
    """

    def __init__(self, factories: Iterable[Lifespan]) -> None:
        # A router may be included twice.
        self._factories = tuple(dict.fromkeys(factories))
        self._task: asyncio.Task[None] | None = None

    async def enter(self, app: Responder, on_early_end: Callable[[], object]) -> None:
        """Enters all, or none: raises what one of them raises. `on_early_end` is called if they end without
        having been left.
        """
        if not self._factories:
            return None
        self._leave = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._live(app, ready), name="reqtt lifespan")
        try:
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a lifespan failed while it was cancelled", exc_info=error)
            raise
        if not ready.done():
            return await task
        self._task = task
        task.add_done_callback(lambda task: self._ended(task, on_early_end))
        return None

    async def _live(self, app: Responder, ready: asyncio.Future[None]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for factory in self._factories:
                context = factory(app)
                if not hasattr(context, "__aenter__"):
                    raise TypeError(f"lifespan {factory!r} gave no async context manager, but {context!r}")
                await stack.enter_async_context(context)
            ready.set_result(None)
            await self._leave.wait()

    def _ended(self, task: asyncio.Task[None], on_early_end: Callable[[], object]) -> None:
        if not self._leave.is_set():
            error = None if task.cancelled() else task.exception()
            _log.error("the lifespan of a responder ended before it was left", exc_info=error)
            on_early_end()

    async def leave(self) -> None:
        """Leaves all, the innermost first. Raises what they raise. Leaving twice is nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        self._leave.set()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
