"""`reqtt serve`: workers that share, die, come back, drain and are replaced."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from support.command import run, running
from support.process import Child
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]

MODULE = """
import asyncio, os, pathlib
import reqtt

@reqtt.responder("{topic}/pid")
async def pid() -> int:
    return os.getpid()

@reqtt.responder("{topic}/slow")
async def slow() -> str:
    pathlib.Path("begun").touch()
    await asyncio.sleep(0.5)
    return "done"

@reqtt.responder("{topic}/answer")
def answer() -> str:
    return "first"

only = [answer]
"""


@pytest.fixture
def folder(tmp_path: Path, topic: str) -> Path:
    (tmp_path / "service.py").write_text(MODULE.format(topic=topic))
    return tmp_path


async def ready(child: Child, workers: int) -> None:
    """Each worker says so."""
    for _ in range(workers):
        await child.line_with(" serving ")


async def test_one_process_serves_a_module(broker: Any, requester: Factory, folder: Path, topic: str) -> None:
    req = await requester(broker)
    async with running("serve", "service", "-u", broker.url, "--access-log", cwd=folder) as child:
        await ready(child, 1)
        assert (await req.request(f"{topic}/pid", response_type=int)) == child.process.pid
        line = await child.line_with(" request ")
        assert re.search(rf"INFO +reqtt\.serve request topic={topic}/pid status=200 ms=[\d.]+$", line), line
        asking = asyncio.ensure_future(req.request(f"{topic}/slow"))
        await eventually((folder / "begun").exists)
        assert await child.end(signal.SIGTERM) == 0
        assert (await asking).text == "done"


async def test_a_name_serves_only_that(broker: Any, requester: Factory, folder: Path, topic: str) -> None:
    req = await requester(broker)
    async with running("serve", "service:only", "-u", broker.url, "--json", cwd=folder) as child:
        line = json.loads(await child.line("{"))
        assert (line["message"], line["filters"]) == ("serving", f"{topic}/answer")
        assert (await req.request(f"{topic}/answer")).text == "first"
        with pytest.raises(reqtt.NoMatchingSubscribers):
            await req.request(f"{topic}/pid")
        assert await child.end(signal.SIGINT) == 130


async def test_two_workers_share_and_a_killed_one_comes_back(
    broker: Any, requester: Factory, folder: Path, topic: str
) -> None:
    req = await requester(broker)
    env = {"REQTT_PASSWORD": "never-shown"}
    arguments = ("serve", "service", "--workers", "2", "-u", broker.url, "--client-id", "lights")
    async with running(*arguments, cwd=folder, env=env) as child:
        await ready(child, 2)

        async def pids() -> set[int]:
            answers = [await req.gather(f"{topic}/pid", timeout=5, max_responses=1) for _ in range(20)]
            # One of them answers each request.
            return {answer[0].decode(int) for answer in answers}

        before = await pids()
        assert len(before) == 2
        if broker.loopback is not None:
            assert {"lights-1", "lights-2"} <= set(broker.loopback.connections())
        for pid in before:
            assert b"never-shown" not in command_line(pid)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        ended = await child.line_with("worker ended")
        assert "code=-9" in ended
        assert 'again="in 0.5 s"' in ended
        await ready(child, 1)
        after = await pids()
        assert len(after) == 2
        assert after & before == before - {victim}
        asking = asyncio.ensure_future(req.request(f"{topic}/slow"))
        await eventually((folder / "begun").exists)
        assert await child.end(signal.SIGTERM) == 0
        assert (await asking).text == "done"
        assert "never-shown" not in "\n".join(child.lines)
    assert all(map(gone, after))


async def test_workers_end_with_their_supervisor(
    broker: Any, requester: Factory, folder: Path, topic: str
) -> None:
    req = await requester(broker)
    async with running("serve", "service", "--workers", "2", "-u", broker.url, cwd=folder) as child:
        await ready(child, 2)
        pid = await req.request(f"{topic}/pid", response_type=int)
        await child.end(signal.SIGKILL)
        await eventually(lambda: gone(pid))


async def test_reload_serves_what_the_file_says_now(
    broker: Any, requester: Factory, folder: Path, topic: str
) -> None:
    req = await requester(broker)
    source = folder / "service.py"
    async with running("serve", "service", "--reload", "-u", broker.url, cwd=folder) as child:
        await ready(child, 1)
        assert (await req.request(f"{topic}/answer")).text == "first"
        source.write_text(source.read_text().replace('"first"', '"second"'))
        assert "file=service.py" in await child.line_with("changed")
        await ready(child, 1)
        assert (await req.request(f"{topic}/answer")).text == "second"
        # What cannot be imported waits for the next change.
        good = source.read_text()
        source.write_text("this is no Python")
        assert "SyntaxError" in await child.line_with("cannot be imported")
        await child.line_with("with the next change")
        source.write_text(good.replace('"second"', '"third"'))
        await ready(child, 1)
        assert (await req.request(f"{topic}/answer")).text == "third"
        assert await child.end(signal.SIGINT) == 130


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "there is no module 'broken'"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("x = 1 / 0", "broken.py:1"),
        ("x = 1", "no @responder"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
    ids=str,
)
async def test_what_cannot_be_served_ends_it(
    loopback: Any, tmp_path: Path, source: str | None, text: str, workers: str
) -> None:
    if source is not None:
        (tmp_path / "broken.py").write_text(source)
    done = await run("serve", "broken", "--workers", workers, "-u", loopback.url, cwd=tmp_path)
    assert done.code == 2
    assert text in done.stderr
    if workers == "1":
        done.complaint()


async def test_a_path_is_no_module(folder: Path) -> None:
    done = await run("serve", "./service.py", cwd=folder)
    assert done.code == 2
    assert "e.g. service" in done.complaint()


async def test_no_broker_is_5(folder: Path) -> None:
    done = await run("serve", "service", "-u", "mqtt://127.0.0.1:1", cwd=folder)
    assert done.code == 5
    assert "mqtt://127.0.0.1:1" in done.complaint()


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()
