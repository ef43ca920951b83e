"""What a session holds: redelivery, order, both windows, both sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support import broker_must
from support.packets import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    Packet,
    frame,
)

Factory = Callable[..., Awaitable[Any]]


async def publish_all(pub: Any, topic: str, *messages: tuple[bytes, int]) -> None:
    for number, (payload, qos) in enumerate(messages, 1):
        pub.publish(topic, payload, qos=qos, packet_id=number if qos else 0)
        if qos == 2:
            await pub.take(PUBREC)
            pub.send(Packet(PUBREL, packet_id=number))
            await pub.take(PUBCOMP)
        elif qos:
            await pub.take(PUBACK)


def facts(messages: list[Packet]) -> list[tuple[int, int, bytes]]:
    return [(message.packet_id, message.qos, message.payload) for message in messages]


@broker_must(
    *("MQTT-4.5.0-1", "MQTT-3.1.2-23", "MQTT-3.1.2-5", "MQTT-4.6.0-5", "MQTT-4.6.0-6"),
    *("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1"),
)
async def test_what_comes_for_an_absent_client_waits_in_its_session(
    broker: Any, line: Factory, topic: str
) -> None:
    kept = await line(broker, client_id=topic, session_expiry_interval=60)
    await kept.subscribe(f"{topic}/2", qos=2)
    await kept.subscribe(f"{topic}/1", qos=1)
    kept.send(Packet(DISCONNECT))
    await kept.ended()
    pub = await line(broker)
    await publish_all(pub, f"{topic}/1", (b"QoS 0", 0), (b"1", 1), (b"2", 2), (b"3", 1))
    await publish_all(pub, f"{topic}/2", (b"4", 2), (b"5", 2))
    again = await line(broker, client_id=topic, clean_start=False)
    found = [await again.take(PUBLISH) for _ in range(5)]
    assert [message.payload for message in found] == [b"1", b"2", b"3", b"4", b"5"]
    assert [message.qos for message in found] == [1, 1, 1, 2, 2]
    assert not any(message.dup for message in found)
    assert len({message.packet_id for message in found}) == 5
    await again.ping()
    assert not again.all(PUBLISH), "what came at QoS 0 may be kept, and is not by these two"


@broker_must(
    *("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.3.3-5", "MQTT-4.3.3-6"),
    *("MQTT-4.6.0-5", "MQTT-4.6.0-6", "MQTT-2.2.1-4"),
)
async def test_what_was_not_acknowledged_comes_again_in_order_with_its_identifier(
    broker: Any, line: Factory, topic: str
) -> None:
    sub = await line(broker, client_id=topic, session_expiry_interval=60)
    await sub.subscribe(topic, qos=2)
    pub = await line(broker)
    await publish_all(pub, topic, (b"0", 1), (b"1", 1), (b"2", 2), (b"3", 2), (b"4", 1), (b"5", 0))
    await sub.ping()
    sent = sub.all(PUBLISH)
    assert [message.payload for message in sent] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert not any(message.dup for message in sent)
    sub.send(Packet(PUBACK, packet_id=sent[0].packet_id))
    sub.send(Packet(PUBREC, packet_id=sent[2].packet_id))
    await sub.take(PUBREL)
    await sub.ping()
    assert not sub.all(PUBREL), "nothing is repeated on the same connection"
    assert len(sub.all(PUBLISH)) == 6
    sub.abort()
    again = await line(broker, client_id=topic, clean_start=False, session_expiry_interval=60)
    await again.ping()
    copies = again.all(PUBLISH)
    assert all(message.dup for message in copies)
    assert facts(copies) == facts([sent[1], sent[3], sent[4]])
    assert [packet.packet_id for packet in again.all(PUBREL)] == [sent[2].packet_id]
    for message in copies:
        again.send(Packet(PUBACK if message.qos == 1 else PUBREC, packet_id=message.packet_id))
    for packet_id in (sent[2].packet_id, sent[3].packet_id):
        again.send(Packet(PUBCOMP, packet_id=packet_id))
    await again.ping()
    again.abort()
    last = await line(broker, client_id=topic, clean_start=False)
    await last.ping()
    assert last.received == []


@broker_must("MQTT-4.4.0-2")
@pytest.mark.parametrize("qos", [1, 2])
async def test_what_the_client_refused_does_not_come_again(
    broker: Any, line: Factory, topic: str, qos: int
) -> None:
    sub = await line(broker, client_id=topic, session_expiry_interval=60)
    await sub.subscribe(topic, qos=qos)
    pub = await line(broker)
    await publish_all(pub, topic, (b"no", qos), (b"yes", qos))
    message = await sub.take(PUBLISH)
    refusal = Packet(PUBACK if qos == 1 else PUBREC, packet_id=message.packet_id, reason_code=0x83)
    sub.send(refusal)
    await sub.ping()
    assert not sub.all(PUBREL)
    sub.abort()
    again = await line(broker, client_id=topic, clean_start=False)
    await again.ping()
    assert [message.payload for message in again.all(PUBLISH)] == [b"yes"]


@broker_must("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-13")
async def test_a_qos_2_message_of_a_client_is_one_message_over_a_reconnect(
    broker: Any, line: Factory, topic: str
) -> None:
    sub = await line(broker)
    await sub.subscribe(topic, qos=0)
    options = {"client_id": topic, "session_expiry_interval": 60}
    pub = await line(broker, **options)
    pub.publish(topic, b"x", qos=2, packet_id=3, message_expiry_interval=60)
    assert (await pub.take(PUBREC)).packet_id == 3
    pub.abort()
    again = await line(broker, clean_start=False, **options)
    again.publish(topic, b"x", qos=2, packet_id=3, dup=True, message_expiry_interval=60)
    assert (await again.take(PUBREC)).packet_id == 3
    again.send(Packet(PUBREL, packet_id=3))
    assert (await again.take(PUBCOMP)).packet_id == 3
    assert (await sub.take(PUBLISH)).payload == b"x"
    await sub.ping()
    assert not sub.all(PUBLISH)


@broker_must("MQTT-4.3.3-7")
async def test_what_was_sent_at_qos_2_does_not_expire(broker: Any, line: Factory, topic: str) -> None:
    """Mosquitto 2.0.11 drops it."""
    sub = await line(broker, client_id=topic, session_expiry_interval=60)
    await sub.subscribe(topic, qos=2)
    pub = await line(broker)
    pub.publish(topic, b"x", qos=2, packet_id=1, message_expiry_interval=1)
    await pub.take(PUBREC)
    pub.send(Packet(PUBREL, packet_id=1))
    message = await sub.take(PUBLISH)
    sub.abort()
    await asyncio.sleep(2.1)
    again = await line(broker, client_id=topic, clean_start=False)
    if broker.kind == "mosquitto":
        await again.ping()
        assert not again.all(PUBLISH)
        return
    copy = await again.take(PUBLISH)
    assert (copy.packet_id, copy.payload, copy.dup) == (message.packet_id, b"x", True)


@broker_must("MQTT-4.3.3-9", "MQTT-3.5.2-1")
async def test_after_a_refusal_the_identifier_is_free_for_a_new_message(
    own_loopback: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = own_loopback()
    sub, pub = await line(broker), await line(broker)
    await sub.subscribe(topic, qos=0)
    for code in (0x87, 0x87, None):
        broker.loopback.refuse_publish(code)
        pub.publish(topic, b"%r" % code, qos=2, packet_id=4)
        assert (await pub.take(PUBREC)).reason_code == (code or 0)
    assert (await sub.take(PUBLISH)).payload == b"None"
    await sub.ping()
    assert not sub.all(PUBLISH)


# --- Receive Maximum


@broker_must("MQTT-3.3.4-9", "MQTT-3.3.4-10", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.9.0-3")
async def test_no_more_is_on_its_way_to_a_client_than_it_takes(
    broker: Any, line: Factory, topic: str
) -> None:
    """Mosquitto 2.0.11 loses count after the first acknowledgement."""
    sub = await line(broker, receive_maximum=3)
    await sub.subscribe(topic, qos=2)
    pub = await line(broker)
    await publish_all(pub, topic, *((b"%d" % n, 1 + n % 2) for n in range(8)), (b"QoS 0", 0))
    await sub.ping()
    found: list[Packet] = []
    while len(found) < 8:
        await sub.ping()
        arrived = [message for message in sub.all(PUBLISH) if message.qos]
        if broker.kind == "loopback" or not found:
            assert len(arrived) == min(3, 8 - len(found))
        # Everything else goes on while the window is full.
        assert (await sub.subscribe(f"{topic}/other", qos=0)).reason_codes == (0,)
        found.append(arrived[0])
        sub.received.remove(arrived[0])
        if arrived[0].qos == 1:
            sub.send(Packet(PUBACK, packet_id=arrived[0].packet_id))
            continue
        sub.send(Packet(PUBREC, packet_id=arrived[0].packet_id))
        await sub.take(PUBREL)
        await sub.ping()
        if broker.kind == "loopback":
            waiting = [message for message in sub.all(PUBLISH) if message.qos]
            assert len(waiting) == len(arrived) - 1, "until PUBCOMP"
        sub.send(Packet(PUBCOMP, packet_id=arrived[0].packet_id))
    assert [message.payload for message in found] == [b"%d" % n for n in range(8)]
    assert [message.payload for message in sub.all(PUBLISH)] == [b"QoS 0"]


@broker_must("MQTT-4.9.0-1", "MQTT-4.13.1-1", "MQTT-3.14.2-1")
async def test_a_client_that_exceeds_the_brokers_receive_maximum_is_told_so(
    limited: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = limited(loopback={"receive_maximum": 2}, mosquitto={"max_inflight_messages": 2})
    pub = await line(broker, connect=False)
    assert (await pub.connect()).properties["receive_maximum"] == 2
    for packet_id in (1, 2):
        pub.publish(topic, qos=2, packet_id=packet_id)
        await pub.take(PUBREC)
    pub.publish(topic)  # QoS 0 does not count
    await pub.ping()
    pub.send(Packet(PUBREL, packet_id=1))
    await pub.take(PUBCOMP)
    pub.publish(topic, qos=2, packet_id=3)
    await pub.take(PUBREC)
    pub.publish(topic, qos=2, packet_id=4)
    if broker.kind == "loopback":
        assert await pub.ended() == 0x93
    else:
        assert (await pub.take(PUBREC)).reason_code == 0x97  # Quota exceeded


@broker_must("MQTT-4.13.1-1")
async def test_a_receive_maximum_of_0_is_a_protocol_error(broker: Any, line: Factory) -> None:
    peer = await line(broker, connect=False)
    peer.send(frame(0x10, b"\0\4MQTT\5\2\0\0\3\x21\0\0\0\1c"))
    assert await peer.ended() is None
    said = [packet.reason_code for packet in peer.all(CONNACK)]
    assert said == {"loopback": [0x82], "mosquitto": []}[broker.kind]


# --- Maximum Packet Size


@broker_must("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_is_too_large_for_a_client_is_left_out_as_if_it_was_sent(
    broker: Any, line: Factory, topic: str, qos: int
) -> None:
    # With Mosquitto 2.0.11 what was left out keeps its room for ever.
    room = {"receive_maximum": 1} if broker.kind == "loopback" else {}
    small, large = await line(broker, maximum_packet_size=100, **room), await line(broker)
    for sub in (small, large):
        await sub.subscribe(topic, qos=qos)
    pub = await line(broker)
    sizes = (10, 200, 11, 0)
    for number, size in enumerate(sizes, 1):
        await publish_all(pub, topic, (bytes(size), qos))
        message = await large.take(PUBLISH)
        assert len(message.payload) == size
        if size == 200:
            continue
        message = await small.take(PUBLISH)
        assert len(message.payload) == size, f"message {number}"
        if qos == 1:
            small.send(Packet(PUBACK, packet_id=message.packet_id))
        if qos == 2:
            small.send(Packet(PUBREC, packet_id=message.packet_id))
            await small.take(PUBREL)
            small.send(Packet(PUBCOMP, packet_id=message.packet_id))


@broker_must("MQTT-4.13.1-1", "MQTT-3.14.2-1")
async def test_a_client_that_exceeds_the_brokers_packet_size_is_told_0x95(
    limited: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = limited(loopback={"maximum_packet_size": 100}, mosquitto={"max_packet_size": 100})
    peer = await line(broker, connect=False)
    assert (await peer.connect()).properties["maximum_packet_size"] == 100
    await peer.subscribe("t")
    peer.publish("t", bytes(94))
    assert len((await peer.take(PUBLISH)).payload) == 94
    peer.publish("t", bytes(96))
    assert await peer.ended() == 0x95


@broker_must("MQTT-3.9.2-1", "MQTT-3.4.2-2", "MQTT-3.5.2-2", "MQTT-3.2.2-19")
async def test_no_reason_makes_a_packet_larger_than_a_client_takes(
    own_loopback: Callable[..., Any], line: Factory, topic: str
) -> None:
    """Mosquitto sends no Reason Strings."""
    broker = own_loopback()
    broker.loopback.refuse_publish(0x87)
    broker.loopback.refuse_subscribe(0x87)
    for size, told in ((20, False), (200, True)):
        peer = await line(broker, maximum_packet_size=size)
        peer.publish("t", qos=1, packet_id=1)
        puback = await peer.take(PUBACK)
        peer.publish("t", qos=2, packet_id=2)
        pubrec = await peer.take(PUBREC)
        suback = await peer.subscribe("t")
        assert (puback.reason_code, pubrec.reason_code, suback.reason_codes) == (0x87, 0x87, (0x87,))
        assert suback.type is SUBACK
        broker.loopback.refuse_connect(0x97)
        refused = await line(broker, connect=False)
        connack = await refused.connect(maximum_packet_size=size, expect=0x97)
        broker.loopback.refuse_connect(None)
        assert [("reason_string" in said.properties) for said in (puback, pubrec, suback, connack)] == [
            told
        ] * 4
