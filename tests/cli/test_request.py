"""`reqtt request`: what goes to stdout, what to stderr, and with which exit code it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from reqtt import responder
from support.command import COMMAND, environment, run, running

Factory = Callable[..., Awaitable[Any]]


async def test_payload_goes_to_stdout_and_the_rest_to_stderr(broker: Any, house: str) -> None:
    done = await run("request", f"{house}/echo", "ON", "--url", broker.url, "-D", "room=bed", "-D", "room=2")
    assert (done.code, done.stdout) == (0, b"ON")
    assert done.stderr.startswith("200  ")
    assert "room=bed  room=2" in done.stderr
    quiet = await run("request", f"{house}/echo", "ON", "--url", broker.url, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (b"ON", "")


async def test_bytes_pass_through_a_pipe_unchanged(broker: Any, house: str, tmp_path: Path) -> None:
    payload = bytes(range(256)) + b"\n"
    env = {"REQTT_URL": broker.url}
    assert (await run("request", f"{house}/echo", "-", stdin=payload, env=env)).stdout == payload
    (tmp_path / "body").write_bytes(payload)
    assert (await run("request", f"{house}/echo", "@body", env=env, cwd=tmp_path)).stdout == payload
    assert (await run("request", f"{house}/echo", "@@body", env=env)).stdout == b"@body"


async def test_a_payload_file_that_is_not_there(tmp_path: Path) -> None:
    done = await run("request", "t", "@nothing", cwd=tmp_path)
    assert done.code == 2
    assert "@nothing: No such file" in done.complaint()


async def test_json(broker: Any, house: str) -> None:
    done = await run(
        "request",
        f"{house}/echo",
        '{"a": 1}',
        "--json",
        "--content-type",
        "application/json",
        "-u",
        broker.url,
    )
    answer = json.loads(done.stdout)
    assert (answer["payload"], answer["status"]) == ('{"a": 1}', 200)
    assert answer["content_type"] == "application/json"
    assert 0 < answer["latency_ms"] < 5000
    assert done.stderr == ""


async def test_latency_shows_the_steps(broker: Any, house: str) -> None:
    done = await run("request", f"{house}/echo", "ON", "--latency", "--json", "-u", broker.url)
    steps = json.loads(done.stdout)["steps_ms"]
    assert list(steps) == ["connect", "subscribe", "broker", "response", "responder"]
    assert 0 < steps["broker"] <= steps["response"] + steps["broker"]
    assert steps["responder"] == pytest.approx(max(0, steps["response"] - steps["broker"]), abs=0.002)
    shown = await run("request", f"{house}/echo", "ON", "--latency", "-u", broker.url)
    assert shown.stdout == b"ON"
    assert [line.split()[0] for line in shown.stderr.splitlines()[1:]] == list(steps)


async def test_an_error_of_the_responder_is_1(broker: Any, house: str) -> None:
    done = await run("request", f"{house}/missing", "-u", broker.url)
    assert (done.code, done.stdout) == (1, b"")
    assert "404 Not Found" in done.complaint()
    assert "{'lamp': 7}" in done.complaint()
    # Somebody else's text must not command this terminal.
    assert "\x1b" not in done.stderr
    told = json.loads((await run("request", f"{house}/missing", "--json", "-u", broker.url)).stdout)["error"]
    assert (told["type"], told["status"], told["data"]) == ("NotFound", 404, {"lamp": 7})


async def test_a_timeout_is_3(broker: Any, house: str) -> None:
    done = await run("request", f"{house}/silent", "-t", "0.3", "-u", broker.url)
    assert done.code == 3
    assert "0.3 s" in done.complaint()


async def test_nobody_there_is_4_and_at_once(broker: Any, topic: str) -> None:
    done = await run("request", topic, "-t", "60", "-u", broker.url, timeout=10)
    assert done.code == 4
    assert "0x10" in done.complaint()
    waited = await run("request", topic, "-t", "0.2", "--no-fail-fast", "-u", broker.url)
    assert waited.code == 3


async def test_no_broker_is_5() -> None:
    done = await run("request", "t", "-u", "mqtt://127.0.0.1:1")
    assert done.code == 5
    assert "mqtt://127.0.0.1:1" in done.complaint()


async def test_a_refused_publish_is_5(denying_broker: Callable[..., Any], topic: str) -> None:
    broker = denying_broker(publish=f"{topic}/#")
    done = await run("request", f"{topic}/x", "-u", broker.url)
    assert done.code == 5
    assert "0x87" in done.complaint()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a/+"], "a/+"),
        ([""], "topic"),
        (["t", "-D", "novalue"], "-D key=value"),
        (["t", "-t", "0"], "timeout"),
        (["t", "--gather", "--stream"], "choose one"),
        (["t", "--stall", "1"], "--gather"),
        (["t", "--idle-timeout", "1"], "--stream"),
        (["t", "--latency", "--gather"], "--latency"),
        (["t", "-u", "mqtts://localhost", "--tls-ca", "/nothing.pem"], "/nothing.pem"),
    ],
    ids=str,
)
async def test_wrong_usage_is_2(loopback: Any, arguments: list[str], text: str) -> None:
    done = await run("request", *arguments, env={"REQTT_URL": loopback.url})
    assert done.code == 2
    assert text in done.complaint()


async def test_the_password_comes_from_the_environment_and_is_never_shown(own_mosquitto: Any) -> None:
    broker = own_mosquitto(users={"panel": "open sesame"})
    wrong = await run(
        "request", "t", "-u", broker.url, "--username", "panel", env={"REQTT_PASSWORD": "shut-sesame"}
    )
    assert wrong.code == 5
    assert "shut-sesame" not in wrong.complaint()
    # It is let in; there is nobody to answer.
    right = await run(
        "request", "t", "-u", broker.url, "--username", "panel", env={"REQTT_PASSWORD": "open sesame"}
    )
    assert right.code == 4
    asked = await run("request", "t", "-u", broker.url, "--username", "panel", "--password", "-")
    assert asked.code == 2
    assert "REQTT_PASSWORD" in asked.complaint()


async def test_the_password_is_asked_for_without_an_echo(own_mosquitto: Any) -> None:
    broker = own_mosquitto(users={"panel": "open sesame"})
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("request", "t", "-u", broker.url, "--username", "panel", "--password", "-"),
        stdin=theirs,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment({}),
        # Without the terminal of whoever runs the tests.
        start_new_session=True,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        asked = await process.stderr.readuntil(b": ")
        os.write(ours, b"open sesame\n")
        rest = await process.stderr.read()
        code = await process.wait()
    os.set_blocking(ours, False)
    echo = os.read(ours, 1000) if select.select([ours], [], [], 0)[0] else b""
    os.close(ours)
    os.close(theirs)
    assert asked == b"Password of panel: "
    assert b"sesame" not in rest + echo
    # It was let in; there is nobody to answer.
    assert code == 4, rest


async def test_gather_takes_the_responses_of_all(broker: Any, serving: Factory, topic: str) -> None:
    for number in range(3):

        @responder(topic)
        async def lamp(number: int = number) -> str:
            if number == 2:
                raise reqtt.RequestError(409, "broken")
            return f"lamp {number}"

        await serving(broker, lamp)
    done = await run("request", topic, "--gather", "--max-responses", "3", "-u", broker.url)
    assert sorted(done.text.splitlines()) == ["lamp 0", "lamp 1"]
    assert done.code == 1
    assert "409" in done.stderr
    assert "3 responses in" in done.stderr
    two = await run("request", topic, "--gather", "--max-responses", "3", "--json", "-u", broker.url)
    items = [json.loads(line) for line in two.text.splitlines()]
    assert sorted("error" in item for item in items) == [False, False, True]


async def test_gather_of_nobody(broker: Any, topic: str) -> None:
    assert (await run("request", topic, "--gather", "-u", broker.url)).code == 4
    silent = await run("request", topic, "--gather", "--no-fail-fast", "-t", "0.3", "-u", broker.url)
    assert silent.code == 3


async def test_gather_fills_a_table_on_a_terminal(broker: Any, house: str) -> None:
    code, shown = await on_terminal(
        "request", f"{house}/hostile", "--gather", "--max-responses", "1", "-u", broker.url, columns=60
    )
    assert code == 0
    assert "ON" in shown
    assert "200" in shown
    assert "\x07" not in shown


@pytest.mark.skipif(not hasattr(reqtt.Requester, "stream"), reason="this build has no streams")
async def test_stream_follows_a_response_of_many_parts(broker: Any, serving: Factory, topic: str) -> None:
    @responder(f"{topic}/{{n}}")
    async def count(n: int) -> AsyncIterator[str]:
        for number in range(n):
            if number == 3:
                raise reqtt.RequestError(409, "no more")
            yield f"part {number}"

    await serving(broker, count)
    done = await run("request", f"{topic}/2", "--stream", "-u", broker.url)
    assert (done.code, done.text) == (0, "part 0\npart 1\n")
    failed = await run("request", f"{topic}/9", "--stream", "--json", "-u", broker.url)
    items = [json.loads(line) for line in failed.text.splitlines()]
    assert [item.get("payload") for item in items] == ["part 0", "part 1", "part 2", None]
    assert items[-1]["error"]["status"] == 409
    assert failed.code == 1
    nobody = await run("request", f"{topic}-nobody", "--stream", "-u", broker.url)
    assert nobody.code == 4


async def test_a_terminal_is_not_commanded_by_a_payload(broker: Any, house: str) -> None:
    code, shown = await on_terminal("request", f"{house}/hostile", "--quiet", "-u", broker.url)
    assert (code, shown) == (0, "\\x1b]0;owned\\x07ON\r\n")


async def test_ctrl_c_is_130_without_a_traceback(broker: Any, house: str, asked: asyncio.Event) -> None:
    async with running("request", f"{house}/silent", "-t", "60", "-u", broker.url) as child:
        async with asyncio.timeout(10):
            await asked.wait()
        assert await child.end(signal.SIGINT) == 130
    assert child.lines == []


async def test_a_closed_pipe_is_quiet(broker: Any, house: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("request", f"{house}/echo", "ON", "-u", broker.url, "--quiet"),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
        env=environment({}),
    )
    os.close(writing)
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (141, b"")


async def on_terminal(*arguments: str, columns: int = 80) -> tuple[int, str]:
    """What it writes where stdout is a terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment({"COLUMNS": str(columns), "TERM": "dumb"}),
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.extend(data)
        except OSError:
            # The end, as Linux tells it.
            return

    async with asyncio.timeout(20):
        await asyncio.to_thread(read)
        code = await process.wait()
    os.close(ours)
    return code, shown.decode()
