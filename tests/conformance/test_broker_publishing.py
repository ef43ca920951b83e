"""PUBLISH in and out: QoS, what a message carries, retained messages, wills, aliases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support import broker_must
from support.packets import (
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Filter,
    Packet,
    Will,
    frame,
    publish,
    text,
)

Factory = Callable[..., Awaitable[Any]]


@broker_must(
    *("MQTT-3.3.4-1", "MQTT-3.8.4-8", "MQTT-3.3.1-2", "MQTT-4.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.2-4"),
    *("MQTT-4.3.3-2", "MQTT-4.3.3-4", "MQTT-4.3.3-8", "MQTT-4.3.3-11", "MQTT-2.2.1-2", "MQTT-2.2.1-4"),
    *("MQTT-2.2.1-5", "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-3.6.1-1"),
)
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
async def test_a_message_is_delivered_at_the_lower_of_both_qos(
    broker: Any, line: Factory, topic: str, published: int, granted: int
) -> None:
    sub, pub = await line(broker), await line(broker)
    assert (await sub.subscribe(topic, qos=granted)).reason_codes == (granted,)
    pub.publish(topic, b"x", qos=published, packet_id=77 if published else 0)
    if published == 1:
        assert (await pub.take(PUBACK)).packet_id == 77
    if published == 2:
        pubrec = await pub.take(PUBREC)
        assert (pubrec.packet_id, pubrec.reason_code) == (77, 0)
        pub.send(Packet(PUBREL, packet_id=77))
        pubcomp = await pub.take(PUBCOMP)
        assert (pubcomp.packet_id, pubcomp.reason_code) == (77, 0)
    message = await sub.take(PUBLISH)
    assert (message.topic, message.payload, message.qos) == (topic, b"x", min(published, granted))
    assert (message.dup, message.retain, bool(message.packet_id)) == (False, False, message.qos > 0)
    if message.qos == 1:
        sub.send(Packet(PUBACK, packet_id=message.packet_id))
    if message.qos == 2:
        sub.send(Packet(PUBREC, packet_id=message.packet_id))
        pubrel = await sub.take(PUBREL)
        assert (pubrel.packet_id, pubrel.reason_code) == (message.packet_id, 0)
        sub.send(Packet(PUBCOMP, packet_id=message.packet_id))
    await sub.ping()
    await pub.ping()
    assert sub.received == pub.received == []


@broker_must("MQTT-4.3.3-10", "MQTT-4.3.3-12", "MQTT-4.3.2-5", "MQTT-3.3.1-3")
async def test_a_copy_at_qos_2_is_none_and_at_qos_1_a_new_message(
    broker: Any, line: Factory, topic: str
) -> None:
    sub, pub = await line(broker), await line(broker)
    await sub.subscribe(topic, qos=0)
    for dup in (False, True):
        pub.publish(topic, b"1", qos=1, packet_id=1, dup=dup)
        assert (await pub.take(PUBACK)).packet_id == 1
        assert not (await sub.take(PUBLISH)).dup
    for payload in (b"2", b"3"):
        for dup in (False, True):
            pub.publish(topic, payload, qos=2, packet_id=2, dup=dup)
            assert (await pub.take(PUBREC)).packet_id == 2
        for _ in range(2):  # the second PUBREL is for nothing, and is answered all the same
            pub.send(Packet(PUBREL, packet_id=2))
            assert (await pub.take(PUBCOMP)).packet_id == 2
        assert (await sub.take(PUBLISH)).payload == payload
    await sub.ping()
    assert not sub.all(PUBLISH)


PROPERTIES = {
    "payload_format_indicator": 1,
    "content_type": "text/plain; charset=\ufeffutf-8",
    "response_topic": "clients/ä/responses/\U0001f4a1",
    "correlation_data": bytes(range(256)),
    "user_properties": (("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("\ufeffa", "\ufeff")),
}


@broker_must(
    *("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"),
    *("MQTT-1.5.4-3", "MQTT-3.3.2-1", "MQTT-3.3.2-3", "MQTT-4.7.3-4"),
)
@pytest.mark.parametrize("way", ["live", "retained", "queued", "shared", "will"])
async def test_all_that_a_request_carries_arrives_as_it_was_sent(
    broker: Any, line: Factory, topic: str, way: str
) -> None:
    topic, payload = f"{topic}/\ufeffä", "\ufeffä".encode()
    sub = await line(broker, client_id=topic, session_expiry_interval=60)
    if way == "queued":
        await sub.subscribe(topic)
        sub.send(Packet(DISCONNECT))
        await sub.ended()
    elif way != "retained":
        await sub.subscribe(f"$share/g/{topic}" if way == "shared" else topic)
    if way == "will":
        pub = await line(broker, will=Will(topic, payload, properties=PROPERTIES))
        pub.abort()
    else:
        pub = await line(broker)
        pub.publish(topic, payload, qos=1, packet_id=1, retain=way == "retained", **PROPERTIES)
        await pub.take(PUBACK)
    if way == "retained":
        await sub.subscribe(topic)
    if way == "queued":
        sub = await line(broker, client_id=topic, clean_start=False)
    message = await sub.take(PUBLISH)
    assert (message.topic, message.payload) == (topic, payload)
    assert message.properties == PROPERTIES
    if way == "retained":
        pub.publish(topic, qos=1, packet_id=2, retain=True)
        await pub.take(PUBACK)


@broker_must("MQTT-3.3.2-15", "MQTT-3.3.2-16")
async def test_a_request_and_its_response_make_the_round(broker: Any, line: Factory, topic: str) -> None:
    asking, answering = await line(broker), await line(broker)
    await asking.subscribe(f"{topic}/responses/1", qos=1)
    await answering.subscribe(f"{topic}/requests", qos=1)
    for number in (b"1", b"2"):
        asking.publish(
            f"{topic}/requests", response_topic=f"{topic}/responses/1", correlation_data=number, qos=0
        )
        request = await answering.take(PUBLISH)
        answering.publish(
            request.properties["response_topic"],
            b"answer",
            correlation_data=request.properties["correlation_data"],
        )
        response = await asking.take(PUBLISH)
        assert (response.payload, response.properties) == (b"answer", {"correlation_data": number})


# --- what a server does not take

# The packet, the reason code of the loopback broker's DISCONNECT, and Mosquitto's answer: a code, None where
# it closes without a word, TAKES where it goes on as if nothing was wrong.
TAKES = "takes it"
NO_PUBLISH: dict[str, tuple[bytes, int, int | str | None]] = {
    "wildcard in the topic": (publish(topic=b"a/+"), 0x81, 0x82),
    "# as the topic": (publish(topic=b"#"), 0x81, 0x82),
    "no UTF-8 in the topic": (publish(topic=b"\xc3\x28"), 0x81, 0x81),
    "NUL in the topic": (publish(topic=b"a\0b"), 0x81, 0x81),
    "a surrogate in the topic": (publish(topic=b"\xed\xa0\x80"), 0x81, 0x81),
    "neither topic nor alias": (publish(topic=b""), 0x82, 0x82),
    "wildcard in the Response Topic": (publish(b"\x08" + text(b"r/+")), 0x82, TAKES),
    "no UTF-8 in the Response Topic": (publish(b"\x08" + text(b"\xc3\x28")), 0x81, None),
    "no UTF-8 in the Content Type": (publish(b"\x03" + text(b"\xc3\x28")), 0x81, None),
    "no UTF-8 in a user property": (publish(b"\x26" + text(b"a") + text(b"\xff")), 0x81, None),
    "Response Topic twice": (publish((b"\x08" + text(b"r")) * 2), 0x82, None),
    "Correlation Data twice": (publish((b"\x09" + text(b"r")) * 2), 0x82, None),
    "a Subscription Identifier": (publish(b"\x0b\1"), 0x82, TAKES),
    "QoS 3": (publish(first=0x36), 0x81, 0x81),
    "DUP at QoS 0": (publish(first=0x38), 0x81, TAKES),
    "packet identifier 0": (frame(0x32, text(b"t") + b"\0\0\0"), 0x82, 0x82),
    "Topic Alias 0": (publish(b"\x23\0\0"), 0x94, 0x81),
    "Topic Alias above the maximum": (publish(b"\x23\0\x0b"), 0x94, 0x94),
    "Topic Alias never defined": (publish(b"\x23\0\1", topic=b""), 0x82, 0x82),
    "reserved flags of PUBREL": (frame(0x60, b"\0\1"), 0x81, None),
    "reserved flags of PINGREQ": (frame(0xC1, b""), 0x81, TAKES),
    "reserved flags of DISCONNECT": (frame(0xE1, b""), 0x81, None),
    "a packet that only servers send": (frame(0x20, b"\0\0\0"), 0x82, None),
    "packet type 0": (frame(0, b""), 0x81, 0x82),
    "a Remaining Length of five bytes": (b"\x30\xff\xff\xff\xff\x01", 0x81, None),
}


@broker_must(
    *("MQTT-3.3.2-2", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1", "MQTT-4.7.0-1", "MQTT-4.7.3-1"),
    *("MQTT-4.7.3-2", "MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.3.2-19", "MQTT-3.3.4-6", "MQTT-3.3.1-4"),
    *("MQTT-3.3.1-2", "MQTT-3.3.2-8", "MQTT-3.6.1-1", "MQTT-3.14.1-1", "MQTT-2.1.3-1", "MQTT-4.13.1-1"),
    *("MQTT-4.13.2-1", "MQTT-3.14.2-1"),
)
@pytest.mark.parametrize("case", NO_PUBLISH)
async def test_what_breaks_a_rule_ends_the_connection_and_reaches_nobody(
    broker: Any, own_loopback: Callable[..., Any], line: Factory, case: str
) -> None:
    if broker.kind == "loopback":
        broker = own_loopback(topic_alias_maximum=10)  # Mosquitto's default
    sub, pub = await line(broker), await line(broker)
    await sub.subscribe("#")
    packet, loopback, mosquitto = NO_PUBLISH[case]
    answer = loopback if broker.kind == "loopback" else mosquitto
    pub.send(packet)
    if answer == TAKES:
        await pub.ping()
        return
    assert await pub.ended() == answer
    await sub.ping()
    assert not sub.all(PUBLISH)


@broker_must("MQTT-3.3.2-14")
async def test_a_will_must_not_name_a_wildcard_as_its_response_topic(
    broker: Any, line: Factory, topic: str
) -> None:
    peer = await line(broker, connect=False)
    connack = await peer.connect(will=Will(topic, properties={"response_topic": "r/#"}), expect=None)
    assert connack.reason_code == {"loopback": 0x82, "mosquitto": 0}[broker.kind]


# --- expiry


@broker_must("MQTT-3.3.2-5", "MQTT-3.3.2-6")
async def test_an_expiry_counts_down_while_a_message_waits(broker: Any, line: Factory, topic: str) -> None:
    kept = await line(broker, client_id=topic, session_expiry_interval=60)
    await kept.subscribe(f"{topic}/+")
    live, pub = await line(broker), await line(broker)
    await live.subscribe(f"{topic}/+")
    kept.send(Packet(DISCONNECT))
    await kept.ended()
    pub.publish(f"{topic}/short", qos=1, packet_id=1, message_expiry_interval=1)
    pub.publish(f"{topic}/long", qos=1, packet_id=2, message_expiry_interval=60)
    pub.publish(f"{topic}/kept", b"x", qos=1, packet_id=3, message_expiry_interval=60, retain=True)
    pub.publish(f"{topic}/gone", b"x", qos=1, packet_id=4, message_expiry_interval=1, retain=True)
    pub.publish(f"{topic}/none", qos=1, packet_id=5)
    found = [(await live.take(PUBLISH)).properties.get("message_expiry_interval") for _ in range(5)]
    assert found == [1, 60, 60, 1, None]
    await asyncio.sleep(1.2 if broker.kind == "loopback" else 2.1)  # whole seconds, with Mosquitto
    again = await line(broker, client_id=topic, clean_start=False)
    late = await line(broker)
    await late.subscribe(f"{topic}/+")
    await late.ping()
    waited = {}
    for _ in range(3):
        message = await again.take(PUBLISH)
        waited[message.topic.rpartition("/")[2]] = message.properties.get("message_expiry_interval")
    assert waited["none"] is None
    assert {57, 58, 59}.issuperset([waited["long"], waited["kept"]])
    await again.ping()
    assert not again.all(PUBLISH)
    [retained] = late.all(PUBLISH)
    assert retained.topic == f"{topic}/kept"
    assert retained.properties["message_expiry_interval"] in (57, 58, 59)
    pub.publish(f"{topic}/kept", qos=1, packet_id=6, retain=True)
    await pub.ping()


# --- retained messages


@broker_must(
    *("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8", "MQTT-3.3.1-12", "MQTT-3.3.1-13"),
)
async def test_what_is_retained_is_replaced_removed_and_left_alone(
    broker: Any, line: Factory, topic: str
) -> None:
    pub, plain, as_published = await line(broker), await line(broker), await line(broker)
    await plain.subscribe(topic)
    await as_published.subscribe(Filter(topic, 2, retain_as_published=True))
    left = []
    for payload, retain in ((b"1", True), (b"2", True), (b"3", False), (b"", True), (b"", True)):
        pub.publish(topic, payload, qos=1, packet_id=1, retain=retain)
        await pub.take(PUBACK)
        assert not (await plain.take(PUBLISH)).retain
        assert (await as_published.take(PUBLISH)).retain == retain
        late = await line(broker)
        await late.subscribe(topic)
        await late.ping()
        left.append([(message.payload, message.retain) for message in late.all(PUBLISH)])
    assert left == [[(b"1", True)], [(b"2", True)], [(b"2", True)], [], []]


@broker_must("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.4-3", "MQTT-3.8.4-4")
async def test_retain_handling_decides_what_a_subscription_begins_with(
    broker: Any, line: Factory, topic: str
) -> None:
    pub = await line(broker)
    pub.publish(topic, b"x", qos=1, packet_id=1, retain=True)
    await pub.take(PUBACK)
    for handling, expected in ((0, [1, 1]), (1, [1, 0]), (2, [0, 0])):
        sub = await line(broker)
        for count in expected:
            await sub.subscribe(Filter(topic, 1, retain_handling=handling))
            await sub.ping()
            assert len(sub.all(PUBLISH)) == count
            sub.received.clear()
    pub.publish(topic, qos=1, packet_id=2, retain=True)
    await pub.take(PUBACK)


# --- wills


@broker_must(
    *("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.1.3-10"),
    *("MQTT-3.14.4-3", "MQTT-3.1.3-9", "MQTT-4.13.2-1"),
)
async def test_a_will_is_for_those_who_leave_without_a_normal_disconnect(
    broker: Any, line: Factory, topic: str
) -> None:
    watching = await line(broker)
    await watching.subscribe(Filter(f"{topic}/#", 2, retain_as_published=True))
    users = (("z", "1"), ("a", "2"), ("z", "3"))

    async def leave(name: str, packet: Packet | None, *, delay: int = 0, retain: bool = False) -> None:
        properties: dict[str, Any] = {"user_properties": users}
        if delay:
            properties["will_delay_interval"] = delay
        peer = await line(
            broker,
            client_id=f"{topic}/{name}",
            session_expiry_interval=60 if delay else 0,
            will=Will(f"{topic}/{name}", b"gone", 1, retain, properties),
        )
        if packet is None:
            peer.abort()
        else:
            peer.send(packet)
        await peer.ended()

    began = time.monotonic()
    await leave("late", None, delay=1)
    await leave("back", None, delay=1)
    back = await line(broker, client_id=f"{topic}/back", clean_start=False, session_expiry_interval=60)
    await leave("normal", Packet(DISCONNECT))
    await leave("with will", Packet(DISCONNECT, reason_code=0x04))
    await leave("cut", None)
    await leave("retained", None, retain=True)
    ends = Packet(DISCONNECT, {"session_expiry_interval": 0}, reason_code=0x04)
    await leave("session ends first", ends, delay=9)
    found: dict[str, Packet] = {}
    # Mosquitto 2.0.11 forgets a delayed will when its session ends first.
    early = {"session ends first"} if broker.kind == "loopback" else set()
    while len(found) < 4 + len(early):
        message = await watching.take(PUBLISH)
        found[message.topic.rpartition("/")[2]] = message
    assert time.monotonic() - began >= 1
    assert list(found)[-1] == "late"
    assert set(found) == {"with will", "cut", "retained", "late"} | early
    assert {name for name, message in found.items() if message.retain} == {"retained"}
    assert all(message.properties["user_properties"] == users for message in found.values())
    # It was published, and its session goes on without it.
    again = await line(broker, client_id=f"{topic}/late", clean_start=False)
    again.abort()
    back.publish(f"{topic}/retained", retain=True)
    assert (await watching.take(PUBLISH)).payload == b""
    await watching.ping()
    assert not watching.all(PUBLISH)


# --- topic aliases


@broker_must("MQTT-3.3.2-12", "MQTT-3.3.2-7")
async def test_a_clients_topic_aliases_hold_for_its_connection(
    limited: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = limited(loopback={"topic_alias_maximum": 10}, mosquitto={})
    sub, pub = await line(broker), await line(broker, connect=False)
    await sub.subscribe(f"{topic}/+")
    connack = await pub.connect(client_id=topic, session_expiry_interval=60)
    assert connack.properties["topic_alias_maximum"] == 10
    for alias in (1, 10):
        pub.publish(f"{topic}/{alias}", b"full", topic_alias=alias)
    for alias in (10, 1):
        pub.publish("", b"short", topic_alias=alias)
    pub.publish(f"{topic}/new", b"full", topic_alias=1)
    pub.publish("", b"short", topic_alias=1)
    found = [await sub.take(PUBLISH) for _ in range(6)]
    assert [message.topic.rpartition("/")[2] for message in found] == ["1", "10", "10", "1", "new", "new"]
    assert not any("topic_alias" in message.properties for message in found)
    pub.abort()
    again = await line(broker, client_id=topic, clean_start=False)
    again.publish("", b"short", topic_alias=1)
    assert await again.ended() == 0x82


@broker_must("MQTT-3.3.2-11", "MQTT-3.1.2-26", "MQTT-3.1.2-27")
@pytest.mark.parametrize("maximum", [None, 0, 5])
async def test_neither_broker_makes_topic_aliases_of_its_own(
    broker: Any, line: Factory, topic: str, maximum: int | None
) -> None:
    """They may, up to the maximum; they send each topic in full."""
    sub = await line(broker, **({} if maximum is None else {"topic_alias_maximum": maximum}))
    await sub.subscribe(topic)
    pub = await line(broker)
    for _ in range(3):
        pub.publish(topic, b"x")
        message = await sub.take(PUBLISH)
        assert (message.topic, message.properties) == (topic, {})


@broker_must("MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_that_nobody_subscribes_is_told(broker: Any, line: Factory, topic: str, qos: int) -> None:
    pub = await line(broker)
    pub.publish(topic, b"x", qos=qos, packet_id=1)
    ack = await pub.take(PUBACK if qos == 1 else PUBREC)
    # Mosquitto 2.0.11 says so at QoS 1 alone.
    assert (ack.packet_id, ack.reason_code) == (1, 0x10 if broker.kind == "loopback" or qos == 1 else 0)
