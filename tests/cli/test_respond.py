"""`reqtt respond`: a responder in one line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from support.command import run, running
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


async def test_echo(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    async with running("respond", topic, "--echo", "-u", broker.url) as child:
        await child.line(f"answering {topic}")
        response = await req.request(topic, {"a": 1})
        assert (response.json(), response.content_type) == ({"a": 1}, "application/json")
        assert (await req.request(topic, b"\xff\x00")).payload == b"\xff\x00"
        told = await child.line(topic)
        assert '{"a":1}' in told.replace(" ", "")
        assert await child.end(signal.SIGTERM) == 0


async def test_payload_and_count(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    arguments = ("--payload", "21.5", "--content-type", "text/plain", "--count", "2", "--json")
    async with running("respond", topic, *arguments, "-u", broker.url) as child:
        await child.line("answering")
        for _ in range(2):
            response = await req.request(topic, b"?")
            assert (response.text, response.content_type) == ("21.5", "text/plain")
        told = json.loads(await child.line("{"))
        assert (told["topic"], told["payload"], told["status"]) == (topic, "?", 200)
        assert await child.process.wait() == 0


async def test_exec_gives_the_payload_on_stdin_and_never_to_a_shell(
    broker: Any, requester: Factory, topic: str, tmp_path: Path
) -> None:
    req = await requester(broker)
    evil = f"$(touch {tmp_path}/evil); touch {tmp_path}/evil #"
    async with running("respond", f"{topic}/+", "--exec", "tr a-z A-Z", "-u", broker.url) as child:
        await child.line("answering")
        assert (await req.request(f"{topic}/x", "on")).payload == b"ON"
        assert (await req.request(f"{topic}/;x", evil)).text == evil.upper()
        assert await child.end(signal.SIGINT) == 130
    assert not (tmp_path / "evil").exists()


async def test_exec_that_fails_is_a_500_without_detail(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    command = "sh -c 'echo secret; echo inner >&2; exit 3'"
    async with running("respond", topic, "--exec", command, "-u", broker.url) as child:
        await child.line("answering")
        with pytest.raises(reqtt.RemoteError) as raised:
            await req.request(topic)
        assert (raised.value.status, raised.value.message) == (500, "the program failed with 3")
        await child.line("inner")
        # The next one is served.
        with pytest.raises(reqtt.RemoteError):
            await req.request(topic)


async def test_exec_that_hangs_is_killed_with_its_children(
    broker: Any, requester: Factory, topic: str, tmp_path: Path
) -> None:
    req = await requester(broker)
    pids = tmp_path / "pids"
    command = f"sh -c 'sleep 60 & echo $! $$ > {pids}; wait'"
    async with running("respond", topic, "--exec", command, "-t", "0.5", "-u", broker.url) as child:
        await child.line("answering")
        with pytest.raises(reqtt.RemoteTimeout):
            await req.request(topic, timeout=10)
        await eventually(lambda: not any(map(alive, pids.read_text().split())))
        # Nobody waits for it any longer: it ends, too.
        pids.unlink()
        with pytest.raises(reqtt.ResponseTimeout):
            await req.request(topic, timeout=0.3)
        await eventually(lambda: pids.exists() and not any(map(alive, pids.read_text().split())))


async def test_a_missing_program_is_told_before_anything_is_served() -> None:
    done = await run("respond", "t", "--exec", "no-such-program --x", "-u", "mqtt://127.0.0.1:1")
    assert done.code == 2
    assert "no-such-program" in done.complaint()


async def test_a_function(broker: Any, requester: Factory, topic: str, tmp_path: Path) -> None:
    (tmp_path / "lights.py").write_text(
        "import reqtt\n"
        "def plain(device: str, body: str) -> str:\n    return f'{device} {body}'\n"
        "@reqtt.responder('elsewhere')\nasync def decorated(body: bytes) -> bytes:\n    return body * 2\n"
    )
    req = await requester(broker)
    cases = [("lights:plain", f"{topic}/{{device}}", b"lamp ON"), ("lights:decorated", f"{topic}/+", b"ONON")]
    for reference, topic_filter, answer in cases:
        async with running("respond", topic_filter, reference, "-u", broker.url, cwd=tmp_path) as child:
            await child.line("answering")
            assert (await req.request(f"{topic}/lamp", "ON")).payload == answer
            with pytest.raises(reqtt.NoMatchingSubscribers):
                await req.request("elsewhere")


async def test_what_has_been_received_is_answered_before_it_ends(
    broker: Any, requester: Factory, topic: str, tmp_path: Path
) -> None:
    req = await requester(broker)
    command = f"sh -c 'touch {tmp_path}/begun; sleep 0.5; echo done'"
    async with running("respond", topic, "--exec", command, "-u", broker.url) as child:
        await child.line("answering")
        asking = asyncio.ensure_future(req.request(topic, timeout=10))
        await eventually((tmp_path / "begun").exists)
        assert await child.end(signal.SIGTERM) == 0
        assert (await asking).text == "done\n"


async def test_a_group_shares_the_requests(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker)
    one = ("respond", topic, "--group", "g", "--echo", "-u", broker.url)
    async with running(*one) as first, running(*one) as second:
        for child in (first, second):
            await child.line("answering")
        responses = await req.gather(topic, b"x", timeout=0.5)
        assert len(responses) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "choose one"),
        (["--echo", "--payload", "x"], "choose one"),
        (["lights"], "lights:handler"),
        (["no_such_module:f"], "no_such_module"),
        (["json:nothing"], "json has no nothing"),
        (["json:JSONEncoder"], "no function"),
        (["--exec", "'"], "--exec"),
        (["--exec", ""], "--exec"),
    ],
    ids=str,
)
async def test_wrong_usage_is_2(arguments: list[str], text: str) -> None:
    done = await run("respond", "t", *arguments, "-u", "mqtt://127.0.0.1:1")
    assert done.code == 2
    assert text in done.complaint()


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
