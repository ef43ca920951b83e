"""Keeps worker processes alive: starts them, starts them again with growing delays, drains and reloads them.
Knows processes; what they serve is in `reqtt.cli._service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Final

from reqtt.cli import _exit
from reqtt.cli._log import facts
from reqtt.cli._running import first_signal
from reqtt.cli._service import Service

__all__ = ["Supervisor"]

_log = logging.getLogger("reqtt.serve")

# Seconds until a dead worker is started again: doubled each time, from the start once one has lived long.
_FIRST_DELAY: Final = 0.5
_LAST_DELAY: Final = 30.0
_LONG: Final = 10.0


class Supervisor:
    """`workers` processes that serve the same. `drain_timeout`: seconds that a worker has to drain; then it
    is killed.
    """

    def __init__(self, service: Service, workers: int, *, drain_timeout: float) -> None:
        self._service = service
        self._workers = workers
        self._patience = drain_timeout
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False
        self._renewing: set[int] = set()
        self._changed = asyncio.Event()
        self._reloads = False

    async def run(self, changes: AsyncIterator[str] | None = None) -> int:
        """Until a signal. Each of `changes` (the name of a file) replaces all workers."""
        self._reloads = changes is not None
        with first_signal() as stopped:
            keeping = [asyncio.ensure_future(self._keep(number)) for number in range(1, self._workers + 1)]
            reloading = asyncio.ensure_future(self._reload(changes)) if changes is not None else None
            try:
                await asyncio.wait({stopped, *keeping}, return_when=asyncio.FIRST_COMPLETED)
                code = stopped.result() if stopped.done() else keeping_result(keeping)
                _log.info("stopping", extra=facts(workers=len(self._running)))
                await self._stop(keeping)
            finally:
                # A second signal: nobody waits any longer.
                for task in (*keeping, *([reloading] if reloading else [])):
                    task.cancel()
                for process in self._running.values():
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
        return code

    async def _stop(self, keeping: list[asyncio.Task[int]]) -> None:
        self._stopping = True
        self._changed.set()
        for process in list(self._running.values()):
            _tell_to_drain(process)
        _, late = await asyncio.wait(keeping, timeout=self._patience)
        if late:
            _log.error("workers did not drain in time, and are killed", extra=facts(workers=len(late)))

    async def _keep(self, number: int) -> int:
        """Gives the exit code with which there is no point in going on."""
        delay = _FIRST_DELAY
        while not self._stopping:
            began = time.monotonic()
            code = await self._one_life(number)
            if self._stopping:
                break
            if number in self._renewing:
                self._renewing.discard(number)
                continue
            if code == _exit.USAGE and not self._reloads:
                # What it is to serve is wrong: it will be the next time.
                return code
            if time.monotonic() - began > _LONG:
                delay = _FIRST_DELAY
            wait = None if code == _exit.USAGE else delay
            again = "with the next change" if wait is None else f"in {wait:g} s"
            _log.error("worker ended", extra=facts(worker=number, code=code, again=again))
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            delay = min(delay * 2, _LAST_DELAY)
        return _exit.OK

    async def _one_life(self, number: int) -> int:
        service = self._service
        client_id = service.target.client_id
        if client_id is not None and self._workers > 1:
            # Two of one name would take the connection from each other.
            service = dataclasses.replace(service, target=service.target.called(f"{client_id}-{number}"))
        service = dataclasses.replace(service, worker=number)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "reqtt.cli._worker",
            stdin=asyncio.subprocess.PIPE,
            # Ctrl-C in the terminal is for the supervisor, which drains them.
            start_new_session=True,
        )
        self._running[number] = process
        try:
            assert process.stdin is not None
            # Not as arguments, which everybody can see: there may be a password in it.
            process.stdin.write(json.dumps(dataclasses.asdict(service)).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            _log.info("worker started", extra=facts(worker=number, worker_pid=process.pid))
            if self._stopping:
                _tell_to_drain(process)
            return await process.wait()
        finally:
            if process.returncode is not None:
                self._running.pop(number, None)

    async def _reload(self, changes: AsyncIterator[str]) -> None:
        async for name in changes:
            _log.info("changed, workers are replaced", extra=facts(file=name))
            for number, process in list(self._running.items()):
                self._renewing.add(number)
                _tell_to_drain(process)
            # Those that wait to be started again.
            self._changed.set()


def keeping_result(keeping: list[asyncio.Task[int]]) -> int:
    """The exit code of the first that gave up."""
    return next(task.result() for task in keeping if task.done())


def _tell_to_drain(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
