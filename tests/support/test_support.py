"""The proxy, the peers and the decoder, on a real Mosquitto and without reqtt."""

from __future__ import annotations

import asyncio
import time

import pytest

from support import packets
from support.mosquitto import Mosquitto
from support.packets import CONNACK, CONNECT, PUBACK, PUBLISH, SUBACK, Decoder, Packet, Type, Will, encode
from support.paho_peer import PahoPeer, publish_properties
from support.proxy import Proxy
from support.raw import RawClient

PROPERTIES = {
    "payload_format_indicator": 1,
    "message_expiry_interval": 70000,
    "content_type": "text/plain",
    "response_topic": "r/ä",
    "correlation_data": b"\x00\xff",
    "user_properties": (("a", "1"), ("a", "2")),
}


@pytest.mark.parametrize(
    "packet",
    [
        Packet(
            Type.CONNECT,
            {"receive_maximum": 5, "request_response_information": 1},
            client_id="c",
            username="u",
            password=b"\x00",
            keep_alive=300,
            clean_start=False,
            will=Will("w", b"x", 1, True, PROPERTIES),
        ),
        Packet(Type.CONNACK, {"response_information": "rr/"}, session_present=True, reason_code=0x87),
        Packet(
            Type.PUBLISH,
            PROPERTIES,
            topic="t",
            payload=b"x" * 20000,
            qos=2,
            dup=True,
            retain=True,
            packet_id=7,
        ),
        Packet(Type.PUBACK, {"reason_string": "no"}, packet_id=9, reason_code=0x10),
        Packet(
            Type.SUBSCRIBE,
            {"subscription_identifier": (268435455,)},
            packet_id=1,
            filters=(packets.Filter("a/#", 1, True, True, 2), packets.Filter("b")),
        ),
        Packet(Type.SUBACK, packet_id=1, reason_codes=(1, 0x87)),
        Packet(Type.UNSUBSCRIBE, packet_id=2, filters=(packets.Filter("a"),)),
        Packet(Type.UNSUBACK, packet_id=2, reason_codes=(0x11,)),
        Packet(Type.PINGREQ),
        Packet(Type.DISCONNECT, {"session_expiry_interval": 3}, reason_code=4),
        Packet(Type.AUTH, {"authentication_method": "m", "authentication_data": b"d"}, reason_code=0x18),
    ],
    ids=lambda p: p.type.name,
)
def test_a_packet_survives_the_way_out_and_back_in_any_pieces(packet: Packet) -> None:
    raw = encode(packet)
    for step in (1, 7, len(raw)):
        decoder = Decoder()
        got = [p for i in range(0, len(raw) * 2, step) for p, _ in decoder.feed((raw * 2)[i : i + step])]
        assert got == [packet, packet]


def test_a_topic_alias_is_resolved() -> None:
    decoder = Decoder()
    first = encode(Packet(Type.PUBLISH, {"topic_alias": 1}, topic="long"))
    again = encode(Packet(Type.PUBLISH, {"topic_alias": 1}))
    assert [p.topic for p, _ in decoder.feed(first + again)] == ["long", "long"]


@pytest.fixture
async def wire(session_mosquitto: Mosquitto):  # type: ignore[no-untyped-def]
    async with Proxy(session_mosquitto.port) as proxy:
        yield proxy
    assert not proxy.malformed


async def test_raw_asks_raw(wire: Proxy, session_mosquitto: Mosquitto, topic: str) -> None:
    async with (
        await RawClient.connect(session_mosquitto.port) as answering,
        await RawClient.connect(wire.port) as peer,
    ):
        await answering.serve(topic, lambda r: r.payload[::-1])
        response = await peer.request(
            topic, "abc", correlation_data=b"\x00\xff", user_properties=(("k", "v"),)
        )
    assert (response.payload, response.correlation_data) == (b"cba", b"\x00\xff")
    (sent,) = wire.up(PUBLISH)
    assert sent.packet.user_properties == (("k", "v"),)
    assert wire.up(CONNECT)[0].packet.client_id == peer.client_id


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_qos(wire: Proxy, topic: str, qos: int) -> None:
    async with await RawClient.connect(wire.port) as peer:
        await peer.subscribe(topic, qos=qos)
        await peer.publish(topic, "x", qos=qos)
        assert (await peer.receive()).qos == qos
        ack = await peer.publish(f"{topic}/nobody", qos=1)
        assert ack is not None
        assert ack.reason_code == 0x10


async def test_paho_through_the_proxy(wire: Proxy, session_mosquitto: Mosquitto, topic: str) -> None:
    async with PahoPeer(session_mosquitto.port) as answering, PahoPeer(wire.port) as paho:
        await answering.serve(topic, bytes.upper)
        properties = publish_properties(
            MessageExpiryInterval=9,
            ContentType="a/b",
            PayloadFormatIndicator=1,
            UserProperty=[("k", "1"), ("k", "2")],
        )
        paho.client.publish(f"{topic}/x", b"p", qos=2, properties=properties)
        response = await paho.request(topic, b"on", response_topic=f"{topic}/r")
    assert response.payload == b"ON"
    record = await wire.wait_up(PUBLISH, f"{topic}/x")
    assert record.packet.properties == {
        "message_expiry_interval": 9,
        "content_type": "a/b",
        "payload_format_indicator": 1,
        "user_properties": (("k", "1"), ("k", "2")),
    }
    assert (await wire.wait_up(PUBLISH, topic)).packet.correlation_data == b"paho"


@pytest.mark.parametrize("hard", [True, False])
async def test_cut_and_refuse(wire: Proxy, hard: bool) -> None:
    peer = await RawClient.connect(wire.port)
    assert wire.cut(hard=hard) == 1
    await peer.wait_closed()
    await peer.close()
    wire.refuse()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(wire.port)
    await wire.accept()
    async with await RawClient.connect(wire.port):
        assert wire.open_connections == [2]


async def test_stall_lose_and_delay(wire: Proxy) -> None:
    async with await RawClient.connect(wire.port) as peer:
        wire.stall("down")
        ping = asyncio.ensure_future(peer.ping())
        await wire.wait_up(Type.PINGREQ)
        assert not ping.done()
        wire.resume()
        await ping
        wire.lose("up")
        ping = asyncio.ensure_future(peer.ping())
        record = await wire.wait_up(Type.PINGREQ, count=2)
        assert record.sent is None
        assert wire.open_connections
        ping.cancel()
        wire.lose("up", on=False)
        wire.delay(0.1)
        began = time.monotonic()
        await peer.ping()
        assert time.monotonic() - began >= 0.2


async def test_hold_drop_rewrite_and_cut_a_packet(wire: Proxy, topic: str) -> None:
    peer = await RawClient.connect(wire.port)
    wire.hold("down", SUBACK, seconds=0.2)
    await peer.subscribe(topic)
    suback = wire.down(SUBACK)[0]
    assert suback.sent is not None
    assert suback.sent - suback.time >= 0.19

    dropped = wire.drop("down", PUBACK, times=1)
    lost = asyncio.ensure_future(peer.publish(topic, "1"))
    assert (await wire.wait_down(PUBACK)).sent is None
    assert dropped.hits == 1
    assert (await peer.receive()).payload == b"1"

    wire.rewrite("down", PUBLISH, lambda p: [p.with_properties(response_topic="a/+"), p], times=1)
    await peer.publish(topic, "2")
    assert [(await peer.receive()).response_topic for _ in range(2)] == ["a/+", None]

    held = wire.hold("up", lambda p: p.payload == b"3")
    third = asyncio.ensure_future(peer.publish(topic, "3"))
    await wire.wait_for(lambda r: r.packet.payload == b"3")
    await peer.ping()
    assert not third.done()
    held.release()
    await third

    wire.cut_at("down", PUBACK)
    last = asyncio.ensure_future(peer.publish(topic, "4"))
    with pytest.raises(ConnectionError):
        await last
    with pytest.raises(ConnectionError):
        await lost
    await peer.kill()


async def test_wait_for_says_what_was_seen(wire: Proxy) -> None:
    async with await RawClient.connect(wire.port):
        with pytest.raises(AssertionError, match="CONNACK"):
            await wire.wait_up(PUBLISH, timeout=0.05)


async def test_a_persistent_session_and_a_hard_end(wire: Proxy, topic: str) -> None:
    options = {"client_id": topic, "clean_start": False, "session_expiry_interval": 60}
    peer = await RawClient.connect(wire.port, **options, auto_ack=False)
    await peer.subscribe(topic)
    await peer.publish(topic, "again")
    assert not (await peer.receive()).dup
    await peer.kill()
    async with await RawClient.connect(wire.port, **options) as again:
        assert again.connack.session_present
        assert (await again.receive()).dup


async def test_mosquitto_refuses_what_it_is_told_to() -> None:
    with Mosquitto(deny_subscribe=["no/#"], deny_publish=["no/#"], max_packet_size=1000) as broker:
        async with await RawClient.connect(broker.port) as peer:
            assert peer.connack.properties["maximum_packet_size"] == 1000
            assert await peer.subscribe("no/x", expect=0x87) == [0x87]
            assert await peer.subscribe("yes/x") == [1]
            ack = await peer.publish("no/x")
            assert ack is not None
            assert ack.reason_code == 0x87
    with Mosquitto(acl=["topic read #", "topic write a"], users={"u": "right"}) as broker:
        peer = await RawClient.connect(broker.port, username="u", password=b"wrong", expect=0x87)
        await peer.close()
        async with await RawClient.connect(broker.port, username="u", password=b"right") as peer:
            ack = await peer.publish("b")
            assert ack is not None
            assert ack.reason_code == 0x87


async def test_mosquitto_comes_back_on_its_port(topic: str) -> None:
    with Mosquitto(persistence=True, unix=True) as broker:
        peer = await RawClient.connect(
            broker.port, client_id="p", clean_start=False, session_expiry_interval=60
        )
        await peer.subscribe(topic)
        await peer.kill()
        broker.restart()
        async with await RawClient.connect(broker.port, client_id="p", clean_start=False) as peer:
            assert peer.connack.session_present
        reader, writer = await asyncio.open_unix_connection(broker.socket_path)
        writer.write(encode(Packet(CONNECT, client_id="u")))
        assert Type((await reader.read(100))[0] >> 4) is CONNACK
        writer.close()
        await writer.wait_closed()
        broker.kill()
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(broker.port)
