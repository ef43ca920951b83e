"""Peers in other languages and libraries, on either side of the scene with the light in the bedroom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

import reqtt
from interop.conftest import installed_peer
from interop.peers import PEERS, Peer
from interop.processes import running
from reqtt import RequestError, correlate, responder
from support.mosquitto import program
from support.packets import Type

Factory = Callable[..., Awaitable[Any]]
Lacks = Callable[[str], NoReturn]

COMMAND, STATE = "cmnd/light-in-bedroom/power", "state/light-in-bedroom/power"


def cell(row: str, column: str) -> pytest.MarkDecorator:
    return pytest.mark.cell("peers", row, column)


@responder("cmnd/{light}/power", qos=2)
async def power(light: str, body: str) -> str:
    if body == "bad":
        raise RequestError(404, "no such light", data={"light": light})
    return body.upper()


@pytest.fixture(params=list(PEERS))
def peer(request: pytest.FixtureRequest) -> Peer:
    return installed_peer(request, request.param, PEERS[request.param])


@cell("{peer}", "they answer")
async def test_reqtt_asks(broker: Any, requester: Factory, seen: Any, peer: Peer) -> None:
    async with running(*peer.command(), "respond", str(seen.port), COMMAND, STATE) as process:
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), 15)
        assert said == b"ready\n", said + await process.stdout.read()
        req = await requester(broker)
        responses = await asyncio.gather(*(req.request(COMMAND, f"on {n}", timeout=10) for n in range(50)))
        assert [r.text for r in responses] == [f"ON {n}" for n in range(50)]
        stats = req.client.stats()
        assert (stats.responses, stats.unmatched, stats.duplicates, stats.late) == (50, 0, 0, 0)
        # With the response topic of the scene, which two may know.
        own = await requester(broker, response_topic=STATE)
        response = await own.request(COMMAND, "off", timeout=5)
        assert (response.text, response.topic) == ("OFF", STATE)


@cell("{peer}", "they ask")
async def test_reqtt_answers(broker: Any, serving: Factory, seen: Any, peer: Peer) -> None:
    await serving(broker, power)
    async with running(*peer.command(), "request", str(seen.port), COMMAND, STATE) as process:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.read(), 15)).decode()
        assert await process.wait() == 0, said
    answers = {line["sent"]: line for line in map(json.loads, said.splitlines())}
    assert answers.keys() == {"on", "off", "bad"}, said
    assert (answers["on"]["payload"], answers["off"]["payload"]) == ("ON", "OFF")
    assert answers["on"]["user_properties"] == {}
    bad = answers["bad"]
    assert bad["content_type"] == "application/problem+json"
    assert (bad["user_properties"]["__stat"], bad["user_properties"]["__stMsg"]) == ("404", "no such light")
    assert json.loads(bad["payload"])["data"] == {"light": "light-in-bedroom"}
    if not peer.own_response_topic:
        assert len(seen.down(Type.PUBLISH, STATE)) == 3


async def mosquitto_rr(port: int, *arguments: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        program("mosquitto_rr"),
        *("-h", "127.0.0.1", "-p", str(port), "-V", "mqttv5", "-W", "5", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode is not None
    return process.returncode, out, err


@cell("mosquitto_rr", "they ask")
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_rr_asks(broker: Any, serving: Factory, seen: Any, qos: str) -> None:
    await serving(broker, power)
    arguments = ("-t", COMMAND, "-e", STATE, "-m", "on, é", "-q", qos)
    assert await mosquitto_rr(seen.port, *arguments) == (0, "ON, É\n".encode(), b"")


@cell("mosquitto_rr", "they ask")
async def test_mosquitto_rr_sees_properties_of_the_response(
    broker: Any, serving: Factory, seen: Any, topic: str
) -> None:
    @responder(topic)
    async def answer(request: reqtt.Request) -> reqtt.Response:
        assert request.correlation_data == b"corr"
        assert request.user_properties == (("k", "1"), ("k", "2"))
        return reqtt.Response(b"done", content_type="text/x-thing", user_properties=[("a", "b")])

    await serving(broker, answer)
    sent = ("-D", "publish", "correlation-data", "corr")
    users = ("-D", "publish", "user-property", "k", "1", "-D", "publish", "user-property", "k", "2")
    arguments = ("-t", topic, "-e", f"{topic}/to/rr", "-m", "x", "-F", "%D %C %P %p", *sent, *users)
    code, out, err = await mosquitto_rr(seen.port, *arguments)
    assert (code, out.decode().split(), err) == (0, ["corr", "text/x-thing", "a:b", "done"], b"")


@cell("mosquitto_rr", "they answer")
async def test_mosquitto_rr_does_not_answer(lacks: Lacks) -> None:
    code, _, error = await mosquitto_rr(1, "-t", COMMAND)
    assert code != 0
    assert b"response" in error.lower(), error
    lacks("it only asks: without a response topic to wait on (`-e`) it does not start")


@cell("mosquitto_sub and mosquitto_pub", "they answer")
async def test_a_light_made_of_mosquitto_sub_and_pub(broker: Any, requester: Factory, seen: Any) -> None:
    """It has never heard of a Response Topic: a matcher says where its answer comes."""
    options = f"-h 127.0.0.1 -p {seen.port} -V mqttv5 -q 1"
    script = (
        f"{program('mosquitto_sub')} {options} -t {COMMAND} | while read -r power; do"
        f' {program("mosquitto_pub")} {options} -t {STATE} -m "$power"; done'
    )
    matcher = correlate.topic("cmnd/{light}/power", "state/{light}/power")
    async with running("bash", "-c", script):
        await seen.wait_down(Type.SUBACK)
        phone = await requester(broker, correlation=matcher)
        for state in ("ON", "OFF"):
            assert (await phone.request(COMMAND, state, timeout=5)).text == state


@cell("mosquitto_sub and mosquitto_pub", "they ask")
async def test_a_phone_made_of_mosquitto_sub_and_pub(broker: Any, serving: Factory, seen: Any) -> None:
    await serving(broker, power)
    options = ("-h", "127.0.0.1", "-p", str(seen.port), "-V", "mqttv5", "-q", "1")
    async with running(program("mosquitto_sub"), *options, "-t", STATE, "-C", "1", "-F", "%D %p") as state:
        await seen.wait_down(Type.SUBACK)
        properties = ("-D", "publish", "response-topic", STATE, "-D", "publish", "correlation-data", "phone")
        async with running(
            program("mosquitto_pub"), *options, "-t", COMMAND, "-m", "on", *properties
        ) as command:
            assert await command.wait() == 0
        assert state.stdout is not None
        assert await asyncio.wait_for(state.stdout.readline(), 5) == b"phone ON\n"
