"""Python programs as child processes whose output a test waits for, and which it can kill."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

HERE = Path(__file__).parent


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._unclaimed: list[str] = []

    async def line(self, start: str, timeout: float = 15) -> str:
        """A line that begins like this and has not been asked for yet, whatever is said before it."""
        return await self._line(lambda line: line.startswith(start), start, timeout)

    async def line_with(self, part: str, timeout: float = 15) -> str:
        """A line that holds this, likewise."""
        return await self._line(lambda line: part in line, part, timeout)

    async def _line(self, fits: Callable[[str], bool], what: str, timeout: float) -> str:
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                while not (found := [line for line in self._unclaimed if fits(line)]):
                    raw = await self.process.stdout.readline()
                    assert raw, f"the process ended with {await self.process.wait()}; it said {self.lines}"
                    self.lines.append(raw.decode().rstrip())
                    self._unclaimed.append(self.lines[-1])
                self._unclaimed.remove(found[0])
                return found[0]
        except TimeoutError:
            raise AssertionError(f"no {what!r} within {timeout} s; it said {self.lines}") from None

    async def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        if self.process.returncode is None:
            self.process.send_signal(how)
        assert self.process.stdout is not None
        await self.process.stdout.read()
        return await self.process.wait()


@asynccontextmanager
async def child(program: str, *arguments: str) -> AsyncIterator[Child]:
    """One of the programs beside this file; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / program),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Child(process)
    try:
        yield running
    finally:
        await running.end()
