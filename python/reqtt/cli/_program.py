"""A program that answers requests: payload on its stdin, response from its stdout. There is no shell, and
nothing of a request is ever part of the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys

import reqtt
from reqtt.cli._exit import CommandError

__all__ = ["Program"]


class Program:
    """Runs it once for each request. Raises `CommandError` where there is no such program."""

    def __init__(self, command: str) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise CommandError(f"--exec {command!r}: {error}") from None
        if not words:
            raise CommandError("--exec needs a program")
        path = shutil.which(words[0])
        if path is None:
            raise CommandError(f"--exec {words[0]}: there is no such program on the PATH")
        self._words = [path, *words[1:]]

    async def __call__(self, request: reqtt.Request) -> bytes:
        """What it wrote. Raises `RequestError`: 500 where it fails, 408 when the requester waits no more."""
        environment = {**os.environ, "REQTT_TOPIC": request.topic}
        # For the responder's own eyes alone.
        environment.pop("REQTT_PASSWORD", None)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                # It may have children: they end with it.
                start_new_session=True,
            )
        except OSError as error:
            raise reqtt.RequestError(500, "the program cannot be started") from error
        try:
            async with asyncio.timeout(request.remaining()):
                output, _ = await process.communicate(request.payload)
        except TimeoutError:
            raise reqtt.RequestError(408, "the program took longer than the requester waits") from None
        finally:
            await _end(process)
        if process.returncode != 0:
            raise reqtt.RequestError(500, f"the program failed with {process.returncode}")
        return output


async def _end(process: asyncio.subprocess.Process) -> None:
    """Of what it started, too, if it did not end by itself."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
