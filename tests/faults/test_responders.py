"""Faults that responders have to live with: late copies, responses made offline, brokers that forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import responder
from support.footprint import resident
from support.mosquitto import Mosquitto
from support.packets import CONNACK, CONNECT, PUBACK, PUBLISH, PUBREL, Decoder, Packet, encode
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.1, jitter=0)
SESSION: dict[str, Any] = {"clean_start": False, "session_expiry_interval": 300}


def counted(topic: str) -> tuple[Any, list[bytes]]:
    """An echo, and what it ran with."""
    runs: list[bytes] = []

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        runs.append(body)
        return body

    return handler, runs


async def test_a_copy_that_mosquitto_redelivers_in_the_last_second_does_not_run_again(
    mosquitto: Any, make_proxy: Factory, serving: Factory, raw: Factory, topic: str
) -> None:
    handler, runs = counted(topic)
    proxy: Proxy = await make_proxy(mosquitto)
    await serving(proxy, handler, reconnect=QUICK, client_id=topic, **SESSION)
    peer = await raw(mosquitto)
    to = {"response_topic": await peer.listen(), "correlation_data": b"c"}
    await asyncio.sleep(1.1 - time.time() % 1)
    proxy.drop("up", PUBACK, times=1)
    await peer.publish(topic, "x", **to, message_expiry_interval=1)
    await proxy.wait_up(PUBACK)
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(1.3)
    await proxy.accept()
    again = await proxy.wait_down(PUBLISH, topic, count=2)
    await proxy.wait_up(PUBACK, count=2)
    assert again.packet.dup
    assert "message_expiry_interval" not in again.packet.properties
    assert runs == [b"x"]


async def test_a_copy_that_was_held_up_on_its_way_does_not_run_again(
    loopback: Any, make_proxy: Factory, serving: Factory, raw: Factory, topic: str
) -> None:
    handler, runs = counted(topic)
    proxy: Proxy = await make_proxy(loopback)
    await serving(proxy, handler, reconnect=QUICK, client_id=topic, **SESSION)
    peer = await raw(loopback)
    to = {"response_topic": await peer.listen(), "correlation_data": b"c"}
    proxy.cut_at("up", PUBACK)
    await peer.publish(topic, "x", **to, message_expiry_interval=2)
    await proxy.wait_down(PUBLISH, topic)
    proxy.hold("down", lambda p: p.type is PUBLISH and p.topic == topic, seconds=2.2)
    again = await proxy.wait_down(PUBLISH, topic, count=2)
    await proxy.wait_up(PUBACK, count=2)
    assert again.packet.dup
    assert runs == [b"x"]


@pytest.mark.parametrize("session", [True, False], ids=["session kept", "session lost"])
async def test_a_response_made_offline_is_not_sent_when_its_time_is_up(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, session: bool
) -> None:
    gate = asyncio.Event()

    @responder(topic)
    async def handler(body: bytes) -> bytes:
        await gate.wait()
        return body

    kept = {"client_id": topic, **SESSION} if session else {}
    app = await serving(proxy, handler, reconnect=QUICK, **kept)
    peer = await raw(broker)
    response_topic = await peer.listen()
    to = {"response_topic": response_topic, "correlation_data": b"c"}
    await peer.publish(topic, "x", **to, message_expiry_interval=2)
    await proxy.wait_down(PUBLISH, topic)
    await proxy.take_offline(app.client)
    gate.set()
    await asyncio.sleep(2.2)
    await proxy.accept()
    await proxy.wait_down(CONNACK, count=2)
    await app.client.publish(f"{topic}/settle")
    assert not proxy.up(PUBLISH, response_topic)


@pytest.mark.parametrize("session", [True, False], ids=["session kept", "session lost"])
async def test_a_response_that_is_sent_again_carries_what_remains_of_its_expiry(
    proxy: Proxy, serving: Factory, raw: Factory, broker: Any, topic: str, session: bool
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        return body

    kept = {"client_id": topic, **SESSION} if session else {}
    await serving(proxy, handler, reconnect=QUICK, **kept)
    peer = await raw(broker)
    response_topic = await peer.listen()
    to = {"response_topic": response_topic, "correlation_data": b"c"}
    rule = proxy.drop("up", PUBLISH)
    await peer.publish(topic, "x", **to, message_expiry_interval=10)
    await proxy.wait_up(PUBLISH, response_topic)
    rule.remove()
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(2.2)
    await proxy.accept()
    await proxy.wait_up(PUBLISH, response_topic, count=2)
    first, again = (r.packet.properties["message_expiry_interval"] for r in proxy.up(PUBLISH, response_topic))
    assert (first, again) == (9, 7)


async def test_a_pingreq_without_pingresp_is_noticed_while_messages_come_in(topic: str) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        while not [p for p, _ in decoder.feed(await reader.read(65536)) if p.type is CONNECT]:
            pass
        writer.write(encode(Packet(CONNACK)))
        while not writer.is_closing():
            writer.write(encode(Packet(PUBLISH, topic=topic, payload=b"x")))
            await asyncio.sleep(0.3)

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    try:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with reqtt.Client(url, keep_alive=1, reconnect=None) as client:
            event = await asyncio.wait_for(anext(client.events()), 4)
            assert isinstance(event, reqtt.Disconnected)
    finally:
        server.close()


async def test_a_group_is_back_after_a_restart_of_mosquitto_with_persistence(
    topic: str, requester: Factory, serving: Factory
) -> None:
    @responder(topic, group="g")
    async def handler() -> str:
        return "here"

    with Mosquitto(persistence=True) as broker:
        app = await serving(broker.url, handler, client_id="member", reconnect=QUICK, **SESSION)
        req = await requester(broker.url, reconnect=QUICK)
        assert (await req.request(topic, timeout=5)).text == "here"
        await asyncio.to_thread(broker.restart)
        await eventually(lambda: app.client.stats().reconnects == 1 and req.client.connected)
        assert app.client.connack is not None
        assert app.client.connack.session_present
        assert (await req.request(topic, timeout=5)).text == "here"


@pytest.mark.parametrize("drain", [True, False])
async def test_no_handler_starts_when_the_time_to_drain_is_over(
    broker: Any, serving: Factory, requester: Factory, topic: str, drain: bool
) -> None:
    started: list[bytes] = []
    ended: list[bytes] = []

    @responder(topic, concurrency=2)
    async def slow(body: bytes) -> None:
        started.append(body)
        try:
            await asyncio.sleep(3)
        finally:
            ended.append(body)

    app = await serving(broker, slow)
    req = await requester(broker)
    calls = [asyncio.ensure_future(req.request(topic, b"%d" % i, timeout=1)) for i in range(6)]
    await eventually(lambda: app.client.stats().requests_received == 6)
    await app.close(drain=drain, timeout=0.3)
    await asyncio.sleep(0.2)
    seen = sorted(started), sorted(ended)
    outcomes = [type(o) for o in await asyncio.gather(*calls, return_exceptions=True)]
    assert seen == ([b"0", b"1"], [b"0", b"1"])
    if drain:  # docs/responders.md, "Closing": what was taken is answered
        assert outcomes == [reqtt.RemoteUnavailable] * 6


async def test_a_new_process_does_not_use_a_packet_identifier_that_the_session_still_holds(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.serve(topic)
    rule = proxy.drop("up", PUBREL)
    async with reqtt.Requester(proxy.url, client_id=topic, reconnect=QUICK, **SESSION) as req:
        asking = asyncio.ensure_future(req.request(topic, b"old", qos=2, timeout=5))
        await proxy.wait_up(PUBREL)
        asking.cancel()
        proxy.refuse()
        proxy.cut()
    rule.remove()
    await proxy.accept()
    req = await requester(proxy, client_id=topic, reconnect=QUICK, **SESSION)
    assert (await req.request(topic, b"new", qos=2, timeout=2)).payload == b"new"


async def test_what_is_remembered_of_a_request_is_not_its_payload(
    mosquitto: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def handler(body: bytes) -> bytes:
        return b"ok"

    await serving(mosquitto, handler)
    req = await requester(mosquitto)
    for _ in range(20):
        await req.request(topic, b"x" * 200_000, timeout=60)
    before = resident()
    for _ in range(500):
        await req.request(topic, b"x" * 200_000, timeout=60)
    grown = (resident() - before) / 1e6
    assert grown < 20, f"{grown:.0f} MB for 500 Correlation Data of 16 bytes"
