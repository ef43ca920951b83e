"""The sessions of docs/command-line.md go as they are printed: `...` stands for anything."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.command import environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def sessions() -> Iterator[list[tuple[str, list[str]]]]:
    """Commands and the lines after them, for each block."""
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        found: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        yield found


def pattern(lines: list[str]) -> re.Pattern[str]:
    """Spaces count as one; a line of dots is any number of lines."""
    parts = []
    for line in lines:
        words = [re.escape(word).replace(r"\.\.\.", ".*?") for word in line.split()]
        parts.append(r"(?:.*\n)*?" if line == "..." else r" +".join(words) + r" *\n")
    # A payload in a pipe has no newline of ours.
    return re.compile("".join(parts) + r"|" + "".join(parts).removesuffix(r"\n"))


@pytest.fixture
def env(loopback: Any, tmp_path: Path) -> dict[str, str]:
    """In which `reqtt` is this one."""
    script = tmp_path / "bin" / "reqtt"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m reqtt "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    return environment({"PATH": path, "REQTT_URL": loopback.url, "PYTHONUNBUFFERED": "1"})


@asynccontextmanager
async def shell(command: str, env: dict[str, str], cwd: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        cwd=cwd,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_sessions_go_as_printed(env: dict[str, str], tmp_path: Path) -> None:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack, asyncio.timeout(50):
        for session in sessions():
            for command, expected in session:
                background = command.endswith(" &")
                line = f"exec {command.removesuffix(' &')}" if background else command
                context = shell(line, env, tmp_path)
                if background:
                    process = await stack.enter_async_context(context)
                    assert process.stdout is not None
                    said = "".join([(await process.stdout.readline()).decode() for _ in expected])
                else:
                    async with context as process:
                        said = (await process.communicate())[0].decode()
                assert pattern(expected).fullmatch(said), f"$ {command}\n{said}"
