"""The command `reqtt` as a process of its own, to its end or while it runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support.process import Child

COMMAND = (sys.executable, "-W", "error", "-m", "reqtt")


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Without what the one who runs the tests has set."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("REQTT_")}
    return {**found, "NO_COLOR": "1", "COLUMNS": "200", **more}


@dataclass(frozen=True)
class Done:
    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    def complaint(self) -> str:
        """The one line on stderr that says what is wrong."""
        [line] = self.stderr.splitlines()
        assert line.startswith("reqtt: "), self.stderr
        return line


async def run(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 20,
) -> Done:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env or {}),
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin)
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    assert b"Traceback" not in stderr, stderr.decode()
    return Done(process.returncode, stdout, stderr.decode())


@asynccontextmanager
async def running(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Child]:
    """While it runs; its stdout and stderr are one. Killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment({"PYTHONUNBUFFERED": "1", **(env or {})}),
        cwd=cwd,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.end()
