"""Peers that know Response Topic and Correlation Data and nothing of reqtt, on either side."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from support.mosquitto import program
from support.paho_peer import PahoPeer

Factory = Callable[..., Awaitable[Any]]


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


async def test_reqtt_asks_paho(broker: Any, requester: Factory, topic: str) -> None:
    async with PahoPeer(broker.port) as paho:
        await paho.serve(f"{topic}/+", bytes.upper)
        req = await requester(broker)
        response = await req.request(f"{topic}/a", "hello", timeout=5)
        assert (response.text, response.status) == ("HELLO", 200)
        many = [req.request(f"{topic}/{n}", f"n{n}", timeout=5) for n in range(50)]
        assert [r.text for r in await asyncio.gather(*many)] == [f"N{n}" for n in range(50)]
        stats = req.client.stats()
        assert (stats.responses, stats.unmatched, stats.duplicates) == (51, 0, 0)


@pytest.mark.parametrize("correlation_data", [b"paho", b"\x00\xff\xfe", os.urandom(200)], ids=len)
async def test_paho_asks_reqtt(broker: Any, serving: Factory, topic: str, correlation_data: bytes) -> None:
    @reqtt.responder(f"{topic}/{{device}}")
    async def power(device: str, body: str) -> str:
        return f"{device} is {body}"

    await serving(broker, power)
    async with PahoPeer(broker.port) as paho:
        response = await paho.request(
            f"{topic}/lamp", b"ON", response_topic=f"{topic}/to/paho", correlation_data=correlation_data
        )
    assert response.payload == b"lamp is ON"
    assert response.properties.CorrelationData == correlation_data
    assert not hasattr(response.properties, "ResponseTopic")
    assert response.retain is False


async def test_paho_can_read_an_error(broker: Any, serving: Factory, topic: str) -> None:
    @reqtt.responder(topic)
    async def missing(body: bytes) -> bytes:
        raise reqtt.RequestError(404, "no such device", data={"device": "lamp"})

    await serving(broker, missing)
    async with PahoPeer(broker.port) as paho:
        response = await paho.request(topic, b"", response_topic=f"{topic}/to/paho")
    properties = dict(response.properties.UserProperty)
    assert (properties["__stat"], properties["__stMsg"]) == ("404", "no such device")
    assert response.properties.ContentType == "application/problem+json"
    assert b"no such device" in response.payload


@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_rr_asks_reqtt(broker: Any, serving: Factory, topic: str, qos: str) -> None:
    @reqtt.responder(topic, qos=2)
    async def reverse(body: str) -> str:
        return body[::-1]

    await serving(broker, reverse)
    arguments = ("-t", topic, "-e", f"{topic}/to/rr", "-m", "héllo", "-q", qos)
    assert await mosquitto_rr(broker.port, *arguments) == (0, "olléh\n".encode(), b"")


async def test_mosquitto_rr_sees_properties_of_the_response(
    broker: Any, serving: Factory, topic: str
) -> None:
    @reqtt.responder(topic)
    async def answer(request: reqtt.Request) -> reqtt.Response:
        assert request.correlation_data == b"corr"
        assert request.user_properties == (("k", "1"), ("k", "2"))
        return reqtt.Response(b"done", content_type="text/x-thing", user_properties=[("a", "b")])

    await serving(broker, answer)
    sent = ("-D", "publish", "correlation-data", "corr")
    users = ("-D", "publish", "user-property", "k", "1", "-D", "publish", "user-property", "k", "2")
    arguments = ("-t", topic, "-e", f"{topic}/to/rr", "-m", "x", "-F", "%D %C %P %p", *sent, *users)
    code, out, err = await mosquitto_rr(broker.port, *arguments)
    assert (code, out.decode().split(), err) == (0, ["corr", "text/x-thing", "a:b", "done"], b"")
