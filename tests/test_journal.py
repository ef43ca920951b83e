"""`deduplicate="disk"`: a request that was begun before a crash does not run again after it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from reqtt import journal, responder
from support.process import child
from support.waiting import run_script

Factory = Callable[..., Awaitable[Any]]


def handlers(topic: str, **options: Any) -> tuple[Any, list[bytes]]:
    ran: list[bytes] = []

    @responder(topic, deduplicate="disk", **options)
    async def handler(body: bytes) -> reqtt.Response:
        ran.append(body)
        return reqtt.Response(
            body, status=201, content_type="a/b", payload_format_indicator=1, user_properties=[("x", "y")]
        )

    return handler, ran


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "requests.sqlite3"


async def test_a_request_answered_before_a_crash_is_answered_from_disk(
    broker: Any, raw: Factory, topic: str, file: Path
) -> None:
    peer = await raw(broker)
    command = {"correlation_data": b"command", "message_expiry_interval": 60}
    async with child("responder_process.py", broker.url, topic, "echo", topic, str(file)) as first:
        await first.line("READY")
        assert (await peer.request(topic, "open the valve", **command)).payload == b"open the valve"
        await first.line("GOT open")
        await first.end(signal.SIGKILL)
    async with child("responder_process.py", broker.url, topic, "echo", topic, str(file)) as second:
        await second.line("READY")
        assert (await peer.request(topic, "open the valve", **command)).payload == b"open the valve"
        assert (await peer.request(topic, "other", correlation_data=b"other")).payload == b"other"
        await second.line("GOT other")
        assert await second.end(signal.SIGTERM) == 0
        assert second.lines == ["READY", "GOT other"]


async def test_a_request_that_a_crash_cut_short_is_not_run_again(
    broker: Any, requester: Factory, topic: str, file: Path
) -> None:
    req = await requester(broker)
    async with child("responder_process.py", broker.url, topic, "hang", topic, str(file)) as first:
        await first.line("READY")
        waiting = asyncio.ensure_future(req.request(topic, "open the valve", timeout=30))
        await first.line("GOT open")
        await first.end(signal.SIGKILL)
    async with child("responder_process.py", broker.url, topic, "echo", topic, str(file)) as second:
        await second.line("READY")
        with pytest.raises(reqtt.RemoteError, match="whether the request took effect is not known") as caught:
            await waiting
        assert (caught.value.status, caught.value.application) == (500, True)
        assert (await req.request(topic, "next", timeout=10)).text == "next"
        await second.line("GOT next")
        assert "GOT open the valve" not in second.lines
        assert await second.end(signal.SIGTERM) == 0


async def test_the_whole_response_is_kept(
    loopback: Any, serving: Factory, raw: Factory, topic: str, file: Path
) -> None:
    handler, ran = handlers(topic)
    peer = await raw(loopback)
    answers = []
    for _ in range(2):
        app = await serving(loopback, handler, deduplicate_file=file)
        answers.append(await peer.request(topic, b"\xff\x00", correlation_data=b"c"))
        await app.close()
    first, second = answers
    assert ran == [b"\xff\x00"]
    assert (first.payload, first.properties) == (second.payload, second.properties)
    assert second.user_properties == (("x", "y"),)


async def test_many_at_a_time_run_once_each(
    loopback: Any, serving: Factory, requester: Factory, topic: str, file: Path
) -> None:
    handler, ran = handlers(topic, concurrency=64)
    await serving(loopback, handler, deduplicate_file=file)
    req = await requester(loopback)
    loopback.loopback.duplicate(True)
    responses = await asyncio.gather(*(req.request(topic, str(n), timeout=20) for n in range(300)))
    assert [r.text for r in responses] == [str(n) for n in range(300)]
    assert sorted(ran, key=int) == [str(n).encode() for n in range(300)]


async def test_what_nothing_tells_from_another_request_runs(
    loopback: Any, serving: Factory, raw: Factory, topic: str, file: Path
) -> None:
    handler, ran = handlers(topic)
    await serving(loopback, handler, deduplicate_file=file)
    peer = await raw(loopback)
    for _ in range(2):
        await peer.request(topic, "x", correlation_data=None)
    assert ran == [b"x", b"x"]


async def test_a_request_is_kept_for_its_expiry(
    loopback: Any,
    serving: Factory,
    raw: Factory,
    topic: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "_AFTER_EXPIRY", 0)
    handler, ran = handlers(topic)
    peer = await raw(loopback)
    for _ in range(2):
        app = await serving(loopback, handler, deduplicate_file=file)
        await peer.request(topic, "x", correlation_data=b"c", message_expiry_interval=1)
        await app.close()
        await asyncio.sleep(1.05)
    assert ran == [b"x", b"x"]


async def test_the_file_stays_small(
    loopback: Any, serving: Factory, requester: Factory, topic: str, file: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(journal, "_ENTRIES", 10)
    handler, ran = handlers(topic)
    app = await serving(loopback, handler, deduplicate_file=file)
    req = await requester(loopback)
    for n in range(50):
        await req.request(topic, str(n))
    assert app._journal is not None
    assert 0 < app._journal._bytes < 50 * 20
    monkeypatch.setattr(journal, "_BYTES", 1000)
    for _ in range(20):
        await req.request(topic, bytes(400))
        assert app._journal._bytes < 2000
    await app.close()
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT count(*) FROM request").fetchone()[0] <= 11
    db.close()
    assert len(ran) == 70


def directory(file: Path) -> None:
    file.mkdir(parents=True)


def garbage(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"no database at all, " * 500)


def later_release(file: Path) -> None:
    file.parent.mkdir()
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 77")
    db.close()


def in_use(file: Path) -> None:
    journal.Journal(file)


@pytest.mark.parametrize("spoil", [directory, garbage, later_release, in_use])
async def test_a_file_that_cannot_be_used_is_an_error_at_the_start(
    loopback: Any, topic: str, file: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(file)
    handler, _ = handlers(topic)
    with pytest.raises(
        reqtt.ReqttError, match=r"cannot be used .*: give a file that no other responder uses"
    ):
        async with reqtt.Responder(loopback.url, [handler], deduplicate_file=file):
            pytest.fail("it must not open")
    assert loopback.loopback.connections() == []


FULL = """
import asyncio, resource, signal, sys
import reqtt

url, topic, file, when = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ran = []

@reqtt.responder(topic, deduplicate="disk")
async def handler(body: bytes) -> bytes:
    ran.append(body)
    return body

def fill():
    # As if the disk were full: no file may grow.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

async def main():
    if when == "start":
        fill()
    async with reqtt.Responder(url, [handler], deduplicate_file=file), reqtt.Requester(url) as req:
        assert (await req.request(topic, "before")).text == "before"
        fill()
        try:
            await req.request(topic, "x", timeout=5)
        except reqtt.RemoteUnavailable as error:
            print(error.message)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print((await req.request(topic, "after")).text, ran)

try:
    asyncio.run(main())
except reqtt.ReqttError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_an_error_at_the_start(loopback: Any, topic: str, file: Path) -> None:
    done = run_script(FULL, loopback.url, topic, str(file), "start")
    assert done.stdout.startswith(f"ReqttError the file of answered requests {file} cannot be used ("), done


def test_a_disk_that_fills_up_runs_nothing_unrecorded(loopback: Any, topic: str, file: Path) -> None:
    done = run_script(FULL, loopback.url, topic, str(file), "later")
    assert done.stdout.splitlines() == [
        "the request cannot be recorded, and was not run",
        "after [b'before', b'after']",
    ], done


def test_it_needs_a_file_that_a_restart_finds_again(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, _ = handlers(topic)
    with pytest.raises(ValueError, match="needs a client_id"):
        reqtt.Responder("mqtt://localhost", [handler])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    app = reqtt.Responder("mqtt://localhost", [handler], client_id="hall/7")
    assert app._file == tmp_path / "reqtt" / "hall%2F7.sqlite3"
    shared = reqtt.Responder(reqtt.Client("mqtt://localhost", client_id="hall"), [handler])
    assert shared._file == tmp_path / "reqtt" / "hall.sqlite3"

    @responder(topic)
    async def other(body: bytes) -> None: ...

    with pytest.raises(ValueError, match="there is none"):
        reqtt.Responder("mqtt://localhost", [other], deduplicate_file=tmp_path / "x")
    with pytest.raises(TypeError, match="deduplicate must be"):
        responder(topic, deduplicate="memory")  # type: ignore[arg-type]


async def test_a_handler_that_is_cancelled_by_the_close_is_not_run_again(
    loopback: Any, serving: Factory, raw: Factory, topic: str, file: Path
) -> None:
    begun = asyncio.Event()
    ran = 0

    @responder(topic, deduplicate="disk")
    async def slow(body: bytes) -> bytes:
        nonlocal ran
        ran += 1
        begun.set()
        await asyncio.sleep(60)
        return body

    peer = await raw(loopback)
    app = await serving(loopback, slow, deduplicate_file=file)
    asked = asyncio.ensure_future(peer.request(topic, "x", correlation_data=b"c"))
    await begun.wait()
    await app.close(drain=False)
    assert (await asked).user("__stat") == "503"
    await serving(loopback, slow, deduplicate_file=file)
    assert (await peer.request(topic, "x", correlation_data=b"c")).user("__stat") == "503"
    assert ran == 1
