"""`interop="azure"` with the library of Azure IoT Operations for Rust on the other side.

Its CommandInvoker asks our responder, our requester asks its CommandExecutor.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import reqtt
from interop.conftest import installed_peer
from interop.peers import AZURE
from interop.processes import running
from reqtt import Request, RequestError, responder
from support.packets import Type

Factory = Callable[..., Awaitable[Any]]

ROW = "azure"


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> list[str]:
    return installed_peer(request, ROW, AZURE).command()


@pytest.fixture
async def executor(program: list[str], seen: Any, topic: str) -> AsyncIterator[str]:
    """Its CommandExecutor, subscribed to this topic."""
    async with running(*program, "respond", str(seen.port), topic):
        await seen.wait_down(Type.SUBACK, timeout=15)
        yield topic


async def asked(program: list[str], port: int, topic: str, *payloads: str) -> dict[str, Any]:
    """What its CommandInvoker gets for each payload."""
    async with running(*program, "request", str(port), topic, f"{topic}/response", *payloads) as process:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.read(), 20)).decode()
        assert await process.wait() == 0, said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    answers = {line["sent"]: line["got"] for line in lines}
    assert answers.keys() == set(payloads), said
    return answers


@pytest.mark.cell("peers", ROW, "they answer")
async def test_its_executor_answers(broker: Any, requester: Factory, executor: str) -> None:
    req = await requester(broker, interop="azure")
    responses = await asyncio.gather(*(req.request(executor, f"on {n}", timeout=10) for n in range(50)))
    assert [response.text for response in responses] == [f"ON {n}" for n in range(50)]
    response = await req.request(executor, "on", user_properties=[("room", "bedroom")])
    said = dict(response.user_properties)
    # Metadata go there and come back; it has seen who asks, and when.
    assert (said["room"], said["seen-source"]) == ("bedroom", req.client.client_id)
    milliseconds, _, node = said["seen-time"].split(":")
    assert abs(int(milliseconds) / 1000 - time.time()) < 60
    assert (said["__stat"], said["__protVer"]) == ("200", "1.0")
    assert said["__srcId"].startswith("azure-respond-")
    # Its clock has taken ours into account.
    assert said["__ts"] > said["seen-time"]
    assert not said["__ts"].endswith(node)
    plain = await requester(broker)
    assert (await plain.request(executor, "off")).text == "OFF"


@pytest.mark.cell("peers", ROW, "they answer")
async def test_errors_of_its_executor(broker: Any, requester: Factory, executor: str) -> None:
    req = await requester(broker, interop="azure", timeout=10)
    with pytest.raises(reqtt.RemoteError, match="no-such-light") as application:
        await req.request(executor, "bad")
    assert application.value.application
    assert (application.value.code, application.value.data) == ("no-such-light", {"light": "bedroom"})
    with pytest.raises(reqtt.RemoteError, match="dropped by the application") as dropped:
        await req.request(executor, "drop")
    assert (dropped.value.status, dropped.value.application) == (500, True)
    with pytest.raises(reqtt.BadRequest, match="deserializing") as payload:
        await req.request(executor, b"\xff", content_type="text/plain")
    assert not payload.value.application
    with pytest.raises(reqtt.UnsupportedContentType) as kind:
        await req.request(executor, b"{}", content_type="application/json")
    assert kind.value.__notes__ == ["about: Content Type = 'application/json'"]
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(executor, "slow", timeout=1)
    assert (await req.request(executor, "still there")).text == "STILL THERE"


@pytest.mark.cell("peers", ROW, "they answer")
@pytest.mark.parametrize(
    ("name", "value", "kind", "text"),
    [
        ("__protVer", "5.0", reqtt.RemoteError, "responder supports: 1"),
        ("__protVer", "five", reqtt.RemoteError, "responder supports: 1"),
        ("__ts", "now", reqtt.BadRequest, "about: __ts = 'now'"),
        (
            "__ts",
            "in an hour",
            reqtt.RemoteUnavailable,
            "about: __ts",
        ),
    ],
)
async def test_what_its_executor_refuses(
    broker: Any, requester: Factory, executor: str, name: str, value: str, kind: Any, text: str
) -> None:
    if value == "in an hour":
        value = f"{int((time.time() + 3600) * 1000):015}:00000:ahead"
    # A plain requester may say what it likes.
    req = await requester(broker, timeout=10)
    with pytest.raises(kind) as caught:
        await req.request(executor, "on", user_properties=[(name, value)])
    assert text in "\n".join(caught.value.__notes__)
    if name == "__protVer":
        assert caught.value.status == 505


@pytest.mark.cell("peers", ROW, "they ask")
async def test_its_invoker_asks(
    broker: Any, serving: Factory, program: list[str], seen: Any, topic: str
) -> None:
    heard: list[Request] = []

    @responder(topic)
    async def power(request: Request, body: str) -> reqtt.Response:
        heard.append(request)
        room = dict(request.user_properties)["room"]
        return reqtt.Response(body.upper(), content_type="text/plain", user_properties=[("room", room)])

    app = await serving(broker, power, interop="azure")
    got = await asked(program, seen.port, topic, "on", "off", "")
    assert (got["on"]["payload"], got["off"]["payload"], got[""]["payload"]) == ("ON", "OFF", "")
    assert got["on"]["executor"] == app.client.client_id
    assert got["on"]["user_properties"] == [["room", "bedroom"]]
    said = dict(heard[0].user_properties)
    assert said["__srcId"].startswith("azure-request-")
    assert said["$partition"] == said["__srcId"]
    assert got["on"]["time"] > said["__ts"]


@pytest.mark.cell("peers", ROW, "they ask")
async def test_errors_that_its_invoker_understands(
    broker: Any, serving: Factory, program: list[str], seen: Any, topic: str
) -> None:
    @responder(topic, timeout=0.3)
    async def power(body: str) -> str:
        match body:
            case "bad":
                raise RequestError(404, "no such light", data={"light": "bedroom"})
            case "crash":
                raise ValueError("inner detail")
            case "slow":
                await asyncio.Event().wait()
        return body

    await serving(broker, power, interop="azure")
    got = await asked(program, seen.port, topic, "bad", "crash", "invalid", "json", "slow", "on")
    assert (got["bad"]["error"], got["bad"]["message"]) == ("ExecutionException", "no such light")
    assert (got["crash"]["error"], got["crash"]["message"]) == ("ExecutionException", "internal error")
    assert got["invalid"]["error"] == "PayloadInvalid"
    assert got["json"]["error"] == "HeaderInvalid"
    assert got["json"]["header"] == ["Content Type", "application/json"]
    assert got["slow"]["error"] == "Timeout"
    assert all(got[name]["remote"] for name in ("bad", "crash", "invalid", "json", "slow"))
    assert got["on"]["payload"] == "on"


@pytest.mark.cell("peers", ROW, "they ask")
async def test_its_invoker_waits_no_longer_than_it_said(
    broker: Any, serving: Factory, program: list[str], seen: Any, topic: str
) -> None:
    over = asyncio.Event()

    @responder(topic)
    async def power(body: str) -> str:
        if body == "slow":
            await over.wait()
        return body

    await serving(broker, power, interop="azure")
    got = await asked(program, seen.port, topic, "slow", "on")
    over.set()
    assert (got["slow"]["error"], got["slow"]["remote"]) == ("Timeout", False)
    assert got["on"]["payload"] == "on"
