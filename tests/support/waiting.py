"""Waiting for something that nobody reports: looked at again and again, up to a limit that fails the test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], object], timeout: float = 5, what: str = "") -> None:
    """Until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        await asyncio.sleep(0.005)


def eventually_blocking(condition: Callable[[], object], timeout: float = 5, what: str = "") -> None:
    """The same, where no loop runs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        time.sleep(0.005)


def run_script(
    program: str, *arguments: str, options: tuple[str, ...] = (), timeout: float = 20
) -> subprocess.CompletedProcess[str]:
    """A Python program in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, *options, "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
