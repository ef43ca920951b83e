"""A CONNECT that a broker does not take: what it answers, and what the caller is told."""

from __future__ import annotations

import asyncio

import pytest

import reqtt
from interop.brokers import Brokers, Server
from interop.conftest import running_broker
from interop.report import KEEP_ALIVE_0, LEVEL_5


@pytest.fixture
def moquette(request: pytest.FixtureRequest, _brokers: Brokers) -> Server:
    return running_broker(request, _brokers, "moquette")


@pytest.fixture
def rumqttd(request: pytest.FixtureRequest, _brokers: Brokers) -> Server:
    return running_broker(request, _brokers, "rumqttd")


async def answer(server: Server, connect: str) -> str:
    """All that it sends before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(bytes.fromhex(connect))
        return (await asyncio.wait_for(reader.read(), 5)).hex(" ")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_moquette_answers_as_mqtt_3_does(moquette: Server) -> None:
    connect, connack = LEVEL_5
    assert await answer(moquette, connect) == connack
    with pytest.raises(reqtt.ConnectError, match="answers as MQTT 3 does: use one that speaks MQTT 5"):
        await reqtt.Client(moquette.url).connect()


async def test_moquette_speaks_mqtt_3(moquette: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", moquette.port)
    # The same at level 4, without properties; MQTT 3's CONNACK lets it in.
    writer.write(bytes.fromhex("10 0d  00 04 4d 51 54 54  04 02 00 3c  00 01 78"))
    assert await asyncio.wait_for(reader.readexactly(4), 5) == b"\x20\x02\0\0"
    writer.close()
    await writer.wait_closed()


async def test_rumqttd_lets_nobody_in_with_keep_alive_0(rumqttd: Server) -> None:
    assert await answer(rumqttd, KEEP_ALIVE_0) == ""
    with pytest.raises(reqtt.ConnectError, match="closed the connection"):
        await reqtt.Client(rumqttd.url, keep_alive=0).connect()
    async with reqtt.Client(rumqttd.url, keep_alive=1) as client:
        assert client.connected
