"""SUBSCRIBE and UNSUBSCRIBE: filters, options, identifiers, overlaps, shared subscriptions."""

from __future__ import annotations

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
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Filter,
    Packet,
    frame,
    text,
)

Factory = Callable[..., Awaitable[Any]]


@broker_must(
    *("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1"),
    *("MQTT-3.9.3-2", "MQTT-2.2.1-6"),
)
async def test_a_suback_has_a_code_for_each_filter_in_their_order(
    denying_broker: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = denying_broker(subscribe=f"{topic}/denied")
    peer = await line(broker)
    filters = [Filter(f"{topic}/{qos}", qos) for qos in (2, 0, 1)]
    filters.insert(1, Filter(f"{topic}/denied", 1))
    suback = await peer.subscribe(*filters, packet_id=300)
    assert (suback.packet_id, suback.reason_codes) == (300, (2, 0x87, 0, 1))
    for name in ("2", "denied", "0"):
        peer.publish(f"{topic}/{name}", name.encode())
    found = [await peer.take(PUBLISH) for _ in range(2)]
    assert [message.payload for message in found] == [b"2", b"0"]


@broker_must("MQTT-3.8.4-3", "MQTT-3.8.4-8")
async def test_the_same_filter_again_replaces_the_subscription(
    broker: Any, line: Factory, topic: str
) -> None:
    peer = await line(broker)
    await peer.subscribe(topic, qos=0, subscription_identifier=(1,))
    await peer.subscribe(topic, qos=1, subscription_identifier=(2,))
    peer.publish(topic, b"x", qos=1, packet_id=1)
    message = await peer.take(PUBLISH)
    assert (message.qos, message.properties) == (1, {"subscription_identifier": (2,)})
    await peer.ping()
    assert not peer.all(PUBLISH)


@broker_must("MQTT-3.8.3-3")
async def test_no_local_is_for_ones_own_messages_alone(broker: Any, line: Factory, topic: str) -> None:
    peer, other = await line(broker), await line(broker)
    await peer.subscribe(Filter(topic, 1, no_local=True))
    peer.publish(topic, b"own", qos=1, packet_id=1)
    await peer.take(PUBACK)
    other.publish(topic, b"other's", qos=1, packet_id=1)
    assert (await peer.take(PUBLISH)).payload == b"other's"
    await peer.ping()
    assert not peer.all(PUBLISH)


@broker_must("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4")
async def test_overlapping_subscriptions_are_served_by_one_message_or_one_for_each(
    broker: Any, line: Factory, topic: str
) -> None:
    """Mosquitto sends one for each, the loopback broker one with all identifiers."""
    peer, pub = await line(broker), await line(broker)
    await peer.subscribe(Filter(f"{topic}/#", 2), packet_id=1, subscription_identifier=(1,))
    await peer.subscribe(Filter(f"{topic}/+", 1), packet_id=2, subscription_identifier=(268_435_455,))
    await peer.subscribe(Filter(f"{topic}/x", 0), packet_id=3)
    pub.publish(f"{topic}/x", b"x", qos=2, packet_id=1)
    await pub.take(PUBREC)
    pub.send(Packet(PUBREL, packet_id=1))
    await pub.take(PUBCOMP)
    await peer.ping()
    found = peer.all(PUBLISH)
    assert max(message.qos for message in found) == 2
    identifiers = [message.properties.get("subscription_identifier", ()) for message in found]
    if broker.kind == "loopback":
        assert [sorted(each) for each in identifiers] == [[1, 268_435_455]]
    else:
        assert sorted(identifiers) == [(), (1,), (268_435_455,)]


# --- filters


@broker_must("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.2-1", "MQTT-4.7.3-4", "MQTT-3.3.2-3")
async def test_filters_match_as_section_4_7_says(broker: Any, line: Factory, topic: str) -> None:
    peer, pub = await line(broker), await line(broker)
    root = f"{topic}/"
    matches = {
        "a/b": {"a/b"},
        "a/+": {"a/", "a/b", "a/B"},
        "a/#": {"a", "a/", "a/b", "a/B", "a/b/c", "a//c"},
        "+/+/c": {"a/b/c", "a//c"},
        "a//c": {"a//c"},
        "é": {"é"},
        "e\u0301": {"e\u0301"},
    }
    topics = ["a", "a/", "a/b", "a/B", "a/b/c", "a//c", "é", "e\u0301"]
    for number, topic_filter in enumerate(matches, 1):
        await peer.subscribe(root + topic_filter, qos=0, subscription_identifier=(number,))
    for name in topics:
        pub.publish(root + name, qos=1, packet_id=1)
        await pub.take(PUBACK)
    await peer.ping()
    found: dict[int, set[str]] = {}
    for message in peer.all(PUBLISH):
        for number in message.properties["subscription_identifier"]:
            found.setdefault(number, set()).add(message.topic.removeprefix(root))
    assert {f: found.get(number, set()) for number, f in enumerate(matches, 1)} == matches


@broker_must("MQTT-4.7.2-1")
async def test_a_wildcard_at_the_beginning_matches_no_dollar(broker: Any, line: Factory, topic: str) -> None:
    """Mosquitto takes no message on `$SYS`, and others with a `$` as any."""
    everything, named, pub = await line(broker), await line(broker), await line(broker)
    await everything.subscribe("#", f"+/{topic}", qos=0)
    await named.subscribe(f"$own/{topic}", "$own/#", qos=0)
    pub.publish(f"$own/{topic}", b"x", qos=1, packet_id=1)
    await pub.take(PUBACK)
    assert (await named.take(PUBLISH)).topic == f"$own/{topic}"
    await everything.ping()
    assert not [m for m in everything.all(PUBLISH) if m.topic.startswith("$")]


# Mosquitto closes with 0x81, or takes it for a filter.
NO_FILTER = {
    "": 0x81,
    "a#": 0x81,
    "a/#/b": 0x81,
    "a+/b": 0x81,
    "$share/g": None,
    "$share/g/": None,
    "$share//a": None,
    "$share/+/a": None,
    "$share/g#/a": 0x81,
}


@broker_must("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.8.2-1", "MQTT-4.8.2-2", "MQTT-3.9.3-2")
@pytest.mark.parametrize("topic_filter", NO_FILTER)
async def test_what_is_no_filter_is_refused(broker: Any, line: Factory, topic_filter: str) -> None:
    peer = await line(broker)
    peer.send(Packet(SUBSCRIBE, packet_id=1, filters=(Filter(topic_filter, 1),)))
    closes = NO_FILTER[topic_filter]
    if broker.kind == "mosquitto" and closes:
        assert await peer.ended() == closes
    else:
        said = (await peer.take(SUBACK)).reason_codes
        assert said == ((0x8F,) if broker.kind == "loopback" else (1,))


# The packet, and the reason code of the DISCONNECT of the loopback broker and of Mosquitto.
NO_SUBSCRIBE: dict[str, tuple[bytes, int, int | None]] = {
    "no filter at all": (frame(0x82, b"\0\1\0"), 0x82, 0x81),
    "reserved flags": (frame(0x80, b"\0\1\0" + text(b"t") + b"\0"), 0x81, 0x81),
    "reserved options": (frame(0x82, b"\0\1\0" + text(b"t") + b"\x40"), 0x81, 0x81),
    "QoS 3": (frame(0x82, b"\0\1\0" + text(b"t") + b"\3"), 0x81, 0x81),
    "Retain Handling 3": (frame(0x82, b"\0\1\0" + text(b"t") + b"\x30"), 0x82, 0x81),
    "no UTF-8": (frame(0x82, b"\0\1\0" + text(b"\xc3\x28") + b"\0"), 0x81, 0x81),
    "NUL": (frame(0x82, b"\0\1\0" + text(b"a\0b") + b"\0"), 0x81, 0x81),
    "packet identifier 0": (frame(0x82, b"\0\0\0" + text(b"t") + b"\0"), 0x82, 0x81),
    "Subscription Identifier 0": (frame(0x82, b"\0\1\2\x0b\0" + text(b"t") + b"\0"), 0x82, 0x81),
    "UNSUBSCRIBE of nothing": (frame(0xA2, b"\0\1\0"), 0x82, 0x81),
    "UNSUBSCRIBE with reserved flags": (frame(0xA0, b"\0\1\0" + text(b"t")), 0x81, 0x81),
    "UNSUBSCRIBE without UTF-8": (frame(0xA2, b"\0\1\0" + text(b"\xc3\x28")), 0x81, 0x81),
}


@broker_must(
    *("MQTT-3.8.1-1", "MQTT-3.8.3-1", "MQTT-3.8.3-2", "MQTT-3.8.3-5", "MQTT-3.10.1-1"),
    *("MQTT-3.10.3-1", "MQTT-3.10.3-2", "MQTT-4.7.3-2", "MQTT-4.13.1-1", "MQTT-4.13.2-1"),
)
@pytest.mark.parametrize("case", NO_SUBSCRIBE)
async def test_what_breaks_a_rule_of_subscribing_ends_the_connection(
    broker: Any, line: Factory, case: str
) -> None:
    packet, loopback, mosquitto = NO_SUBSCRIBE[case]
    peer = await line(broker)
    peer.send(packet)
    assert await peer.ended() == (loopback if broker.kind == "loopback" else mosquitto)
    assert not peer.all(SUBACK)
    assert not peer.all(UNSUBACK)


@broker_must("MQTT-3.8.3-4")
async def test_no_local_on_a_shared_subscription_is_a_protocol_error(
    broker: Any, line: Factory, topic: str
) -> None:
    """Mosquitto 2.0.11 takes it."""
    peer = await line(broker)
    peer.send(Packet(SUBSCRIBE, packet_id=1, filters=(Filter(f"$share/g/{topic}", 1, no_local=True),)))
    if broker.kind == "loopback":
        assert await peer.ended() == 0x82
    else:
        assert (await peer.take(SUBACK)).reason_codes == (1,)


# --- UNSUBSCRIBE


@broker_must(
    *("MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6", "MQTT-3.11.3-1"),
    *("MQTT-3.11.3-2", "MQTT-2.2.1-6"),
)
async def test_an_unsuback_has_a_code_for_each_filter_in_their_order(
    broker: Any, line: Factory, topic: str
) -> None:
    peer = await line(broker)
    await peer.subscribe(f"{topic}/a", f"{topic}/b", f"$share/g/{topic}/c", qos=0)
    names = (f"{topic}/+", f"{topic}/a", f"{topic}/a", f"{topic}/A", f"$share/g/{topic}/c", f"{topic}/c")
    peer.send(Packet(UNSUBSCRIBE, packet_id=700, filters=tuple(Filter(name) for name in names)))
    unsuback = await peer.take(UNSUBACK)
    assert unsuback.packet_id == 700
    assert unsuback.reason_codes == (0x11, 0, 0x11, 0x11, 0, 0x11)
    for name in ("a", "b", "c"):
        peer.publish(f"{topic}/{name}", name.encode())
    await peer.ping()
    assert [message.payload for message in peer.all(PUBLISH)] == [b"b"]


@broker_must("MQTT-3.10.4-3")
async def test_what_is_on_its_way_is_finished_after_unsubscribing(
    broker: Any, line: Factory, topic: str
) -> None:
    peer = await line(broker)
    await peer.subscribe(topic, qos=2)
    pub = await line(broker)
    pub.publish(topic, b"x", qos=2, packet_id=9)
    await pub.take(PUBREC)
    pub.send(Packet(PUBREL, packet_id=9))
    message = await peer.take(PUBLISH)
    peer.send(Packet(UNSUBSCRIBE, packet_id=1, filters=(Filter(topic),)))
    await peer.take(UNSUBACK)
    peer.send(Packet(PUBREC, packet_id=message.packet_id))
    assert (await peer.take(PUBREL)).packet_id == message.packet_id
    peer.send(Packet(PUBCOMP, packet_id=message.packet_id))
    await peer.ping()


# --- shared subscriptions


@broker_must("MQTT-4.8.2-3", "MQTT-3.8.4-8")
async def test_a_group_shares_and_each_member_has_its_own_qos(broker: Any, line: Factory, topic: str) -> None:
    members = []
    for qos in (0, 1, 2):
        member = await line(broker)
        await member.subscribe(f"$share/g/{topic}", qos=qos)
        members.append(member)
    alone, other_group, pub = await line(broker), await line(broker), await line(broker)
    await alone.subscribe(topic, qos=0)
    await other_group.subscribe(f"$share/h/{topic}", qos=0)
    for number in range(9):
        pub.publish(topic, b"%d" % number, qos=2, packet_id=number + 1)
        await pub.take(PUBREC)
        pub.send(Packet(PUBREL, packet_id=number + 1))
        await pub.take(PUBCOMP)
    everything = [b"%d" % number for number in range(9)]
    shared = []
    for qos, member in enumerate(members):
        await member.ping()
        found = member.all(PUBLISH)
        assert {message.qos for message in found} == {qos}
        shared += [message.payload for message in found]
    assert sorted(shared) == everything
    for peer in (alone, other_group):
        await peer.ping()
        assert [message.payload for message in peer.all(PUBLISH)] == everything


@broker_must("MQTT-4.8.2-6", "MQTT-4.4.0-2")
@pytest.mark.parametrize("qos", [1, 2])
async def test_what_a_member_refuses_goes_to_no_other(
    broker: Any, line: Factory, topic: str, qos: int
) -> None:
    members = {}
    for name in ("one", "two"):
        members[name] = await line(broker, client_id=f"{topic}/{name}", session_expiry_interval=60)
        await members[name].subscribe(f"$share/g/{topic}", qos=qos)
    pub = await line(broker)
    pub.publish(topic, b"x", qos=1 if qos == 1 else 2, packet_id=1)
    if qos == 2:
        await pub.take(PUBREC)
        pub.send(Packet(PUBREL, packet_id=1))
    await pub.ping()
    for name, member in members.items():
        await member.ping()
        if found := member.all(PUBLISH):
            assert len(found) == 1
            member.send(
                Packet(PUBACK if qos == 1 else PUBREC, packet_id=found[0].packet_id, reason_code=0x83)
            )
            await member.ping()
            member.received.clear()
            member.send(Packet(DISCONNECT))
            await member.ended()
            again = await line(broker, client_id=f"{topic}/{name}", clean_start=False)
            await again.ping()
            assert again.received == [], "neither the message nor a PUBREL"
            other = members["two" if name == "one" else "one"]
            await other.ping()
            assert not other.all(PUBLISH)
            return
    pytest.fail("nobody got the message")


@broker_must("MQTT-4.8.2-4", "MQTT-4.8.2-5")
@pytest.mark.parametrize("returns", [True, False], ids=["comes back", "session ends"])
async def test_a_member_finishes_its_qos_2_message_or_nobody_does(
    broker: Any, line: Factory, topic: str, returns: bool
) -> None:
    members = []
    for number in range(2):
        member = await line(broker, client_id=f"{topic}/{number}", session_expiry_interval=60)
        await member.subscribe(f"$share/g/{topic}", qos=2)
        members.append(member)
    pub = await line(broker)
    pub.publish(topic, b"x", qos=2, packet_id=1)
    await pub.take(PUBREC)
    pub.send(Packet(PUBREL, packet_id=1))
    await pub.take(PUBCOMP)
    for member in members:
        await member.ping()
    [(number, [message])] = [(n, m.all(PUBLISH)) for n, m in enumerate(members) if m.all(PUBLISH)]
    other = members[1 - number]
    members[number].abort()
    again = await line(
        broker, client_id=f"{topic}/{number}", clean_start=not returns, session_expiry_interval=60
    )
    await other.ping()
    assert not other.all(PUBLISH)
    await again.ping()
    if returns:
        copy = await again.take(PUBLISH)
        assert (copy.packet_id, copy.payload, copy.dup) == (message.packet_id, b"x", True)
    assert not again.all(PUBLISH)
    await other.ping()
    assert not other.all(PUBLISH)
