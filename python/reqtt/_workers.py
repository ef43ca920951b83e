"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["Workers"]

_Job: TypeAlias = tuple["asyncio.Future[Any]", Callable[[], Any]]
_Done: TypeAlias = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Workers:
    """Daemon threads that run functions for one event loop: `ThreadPoolExecutor` joins its threads when the
    interpreter ends, so that a handler which hangs would keep a drained process alive for ever.

    What they finish is told to the loop in batches: waking it costs more than a short function.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Jobs that the loop has not heard the end of.
        self._running = 0
        self._lock = threading.Lock()
        self._done: list[_Done] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """Runs it in the next thread that is free; one that is cancelled before does not run."""
        if self._over:
            raise RuntimeError("the responder is closed")
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.put((future, job))
        self._running += 1
        if len(self._threads) < min(self._running, self._maximum):
            name = f"reqtt-worker_{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        return future

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            self._tell(_outcome(*item))
            # What it holds must not live until the next one comes.
            del item

    def _tell(self, done: _Done) -> None:
        with self._lock:
            self._done.append(done)
            if len(self._done) > 1:
                # The loop has been woken, and has not come yet.
                return
        assert self._loop is not None
        # A loop that is closed waits for nothing.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        self._running -= len(done)
        for future, result, error in done:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def shutdown(self) -> None:
        """Ends the threads, each after what it runs; one that is stuck is left behind."""
        self._over = True
        for _ in self._threads:
            self._jobs.put(None)


def _outcome(future: asyncio.Future[Any], job: Callable[[], Any]) -> _Done:
    if future.cancelled():
        return future, None, None
    try:
        return future, job(), None
    except BaseException as error:
        return future, None, error
