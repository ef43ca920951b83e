"""CONNECT and all that it asks for: identifiers, sessions, keep alive, limits, refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support import broker_must
from support.packets import (
    AUTH,
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    Filter,
    Packet,
    Will,
    encode,
    frame,
    text,
)

Factory = Callable[..., Awaitable[Any]]
KEPT = {"clean_start": False, "session_expiry_interval": 60}


@broker_must("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.0-2", "MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.12.4-1")
async def test_the_first_packet_is_the_only_connack(broker: Any, line: Factory) -> None:
    peer = await line(broker, connect=False)
    # What may already be sent before CONNACK is handled after it.
    peer.send(encode(Packet(CONNECT, client_id="early")) + encode(Packet(PINGREQ)))
    await peer.ping()
    assert peer.received[0].type is CONNACK
    [connack] = peer.all(CONNACK)
    assert (connack.reason_code, connack.session_present) == (0, False)


@broker_must("MQTT-3.1.3-5", "MQTT-3.1.3-2")
@pytest.mark.parametrize(
    "client_id", ["0", "abcdefghijklmnopqrstuvw", "xyzABCDEFGHIJKLMNOPQRST", "UVWXYZ0123456789"]
)
async def test_identifiers_of_letters_and_digits_are_taken(
    broker: Any, line: Factory, client_id: str
) -> None:
    first = await line(broker, client_id=client_id, session_expiry_interval=60)
    first.send(Packet(DISCONNECT))
    assert await first.ended() is None
    other = await line(broker, connect=False)
    assert not (await other.connect(client_id=f"{client_id}x", clean_start=False)).session_present
    again = await line(broker, connect=False)
    assert (await again.connect(client_id=client_id, clean_start=False)).session_present


@broker_must("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
async def test_a_client_without_identifier_is_given_one_that_is_its_own(broker: Any, line: Factory) -> None:
    given = []
    for _ in range(3):
        peer = await line(broker, connect=False)
        connack = await peer.connect(client_id="", session_expiry_interval=60)
        given.append(connack.properties["assigned_client_identifier"])
    assert len(set(given)) == 3
    again = await line(broker, connect=False)
    connack = await again.connect(client_id=given[0], clean_start=False)
    assert connack.session_present
    assert "assigned_client_identifier" not in connack.properties


@broker_must("MQTT-3.1.0-2", "MQTT-4.13.1-1")
async def test_a_second_connect_is_a_protocol_error(broker: Any, line: Factory) -> None:
    peer = await line(broker)
    peer.send(Packet(CONNECT, client_id="again"))
    assert await peer.ended() == {"loopback": 0x82, "mosquitto": None}[broker.kind]
    assert not peer.all(CONNACK)


FIRST = {
    "PUBLISH": Packet(PUBLISH, topic="t"),
    "PINGREQ": Packet(PINGREQ),
    "DISCONNECT": Packet(DISCONNECT),
    "AUTH": Packet(AUTH, {"authentication_method": "x"}, reason_code=0x18),
}


@broker_must("MQTT-3.2.0-1", "MQTT-3.14.0-1", "MQTT-4.13.1-1")
@pytest.mark.parametrize("first", FIRST)
async def test_what_comes_before_connect_ends_the_connection_without_a_word(
    broker: Any, line: Factory, first: str
) -> None:
    peer = await line(broker, connect=False)
    peer.send(FIRST[first])
    assert await peer.ended() is None
    assert not peer.received


CONNECT_5 = b"\5\2\0\0\0\0\1c"

# A CONNECT, and the reason code of the CONNACK of each broker: not every broker gives one.
NO_CONNECT: dict[str, tuple[bytes, dict[str, int | None]]] = {
    "another name": (text(b"MQTX") + CONNECT_5, {"loopback": 0x84, "mosquitto": None}),
    "version 6": (
        text(b"MQTT") + b"\6" + CONNECT_5[1:],
        {"loopback": 0x84, "mosquitto": 1},
    ),  # as MQTT 3 says it
    "reserved flag": (text(b"MQTT") + b"\5\3\0\0\0\0\1c", {"loopback": 0x81, "mosquitto": None}),
    "NUL": (text(b"MQTT") + b"\5\2\0\0\0\0\1\0", {"loopback": 0x81, "mosquitto": None}),
    "surrogate": (text(b"MQTT") + b"\5\2\0\0\0\0\3\xed\xa0\x80", {"loopback": 0x81, "mosquitto": None}),
    "will QoS without will": (text(b"MQTT") + b"\5\x0a\0\0\0\0\1c", {"loopback": 0x81, "mosquitto": None}),
    "will retain without will": (
        text(b"MQTT") + b"\5\x22\0\0\0\0\1c",
        {"loopback": 0x81, "mosquitto": None},
    ),
    "too long": (text(b"MQTT") + CONNECT_5 + b"x", {"loopback": 0x81, "mosquitto": None}),
}


@broker_must("MQTT-3.1.2-1", "MQTT-3.1.2-2", "MQTT-3.1.2-3", "MQTT-3.1.4-1", "MQTT-1.5.4-1", "MQTT-1.5.4-2")
@pytest.mark.parametrize("case", NO_CONNECT)
async def test_a_connect_that_is_not_what_section_3_1_says_is_turned_away(
    broker: Any, line: Factory, case: str
) -> None:
    body, codes = NO_CONNECT[case]
    peer = await line(broker, connect=False)
    peer.send(frame(0x10, body))
    assert await peer.ended() is None
    expected = codes[broker.kind]
    assert [packet.reason_code for packet in peer.all(CONNACK)] == ([] if expected is None else [expected])


@broker_must(
    "MQTT-3.1.4-3", "MQTT-4.13.2-1", "MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-1", "MQTT-3.14.4-2"
)
async def test_a_second_connection_of_the_same_client_takes_the_session_over(
    broker: Any, line: Factory, topic: str
) -> None:
    first = await line(broker, client_id=topic, **KEPT)
    await first.subscribe(topic)
    second = await line(broker, connect=False)
    assert (await second.connect(client_id=topic, **KEPT)).session_present
    # Mosquitto 2.0.11 closes the first without saying why.
    assert await first.ended() == {"loopback": 0x8E, "mosquitto": None}[broker.kind]
    assert not any("session_expiry_interval" in said.properties for said in first.all(DISCONNECT))
    second.publish(topic, b"x")
    assert (await second.take(PUBLISH)).payload == b"x"


@broker_must(
    *("MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.1.2-6", "MQTT-3.1.4-4", "MQTT-3.2.2-2", "MQTT-3.2.2-3"),
    *("MQTT-3.1.2-23", "MQTT-4.1.0-1"),
)
async def test_clean_start_begins_anew_and_its_opposite_resumes(
    broker: Any, line: Factory, topic: str
) -> None:
    present = []
    for clean_start in (False, False, True, False):
        peer = await line(broker, connect=False)
        connack = await peer.connect(client_id=topic, clean_start=clean_start, session_expiry_interval=60)
        subscribed = connack.session_present
        peer.publish(topic, b"x", qos=1, packet_id=1)
        await peer.ping()
        assert len(peer.all(PUBLISH)) == subscribed, "the subscription is a part of the session"
        if subscribed:
            assert peer.received[0].type is PUBLISH or peer.received[1].type is PUBLISH
        present.append(subscribed)
        await peer.subscribe(topic, qos=0)
        peer.send(Packet(DISCONNECT))
        await peer.ended()
    assert present == [False, True, False, True]


@broker_must("MQTT-4.1.0-2", "MQTT-3.1.2-23")
async def test_a_session_lives_as_long_as_its_expiry_interval(broker: Any, line: Factory, topic: str) -> None:
    async def session(name: str, *, left: int | None, then: int | None, wait: float) -> bool:
        properties = {} if left is None else {"session_expiry_interval": left}
        peer = await line(broker, client_id=f"{topic}/{name}", **properties)
        peer.send(Packet(DISCONNECT, {} if then is None else {"session_expiry_interval": then}))
        assert await peer.ended() is None
        await asyncio.sleep(wait)
        again = await line(broker, connect=False)
        return (await again.connect(client_id=f"{topic}/{name}", clean_start=False)).session_present

    # Mosquitto looks at what has expired once a second, and counts in whole seconds.
    later = 1.3 if broker.kind == "loopback" else 3.2
    found = await asyncio.gather(
        session("none", left=None, then=None, wait=0),
        session("zero", left=0, then=None, wait=0),
        session("kept", left=60, then=None, wait=0),
        session("passed", left=1, then=None, wait=later),
        session("longer", left=1, then=60, wait=later),
        session("shorter", left=60, then=1, wait=later),
        session("ended", left=60, then=0, wait=0),
        session("for ever", left=0xFFFF_FFFF, then=None, wait=0),
    )
    assert found == [False, False, True, False, True, False, False, True]


@broker_must("MQTT-4.13.1-1")
async def test_a_session_without_expiry_cannot_be_given_one_at_the_end(
    broker: Any, line: Factory, topic: str
) -> None:
    """3.14.2.2.2: a Protocol Error."""
    peer = await line(broker, client_id=topic)
    peer.send(Packet(DISCONNECT, {"session_expiry_interval": 60}))
    assert await peer.ended() == 0x82
    again = await line(broker, connect=False)
    assert not (await again.connect(client_id=topic, clean_start=False)).session_present


@broker_must("MQTT-3.1.2-22", "MQTT-3.2.2-22", "MQTT-3.1.2-8", "MQTT-4.13.2-1")
async def test_a_client_that_is_silent_for_too_long_is_given_up(
    broker: Any, line: Factory, topic: str
) -> None:
    watching = await line(broker)
    await watching.subscribe(topic)
    began = time.monotonic()
    # Mosquitto 2.0.11 counts whole seconds: 1.5 of them end early. It looks every few, and says nothing.
    silent = await line(broker, keep_alive=2, will=Will(topic, b"gone"))
    patient = await line(broker, keep_alive=0)
    assert await silent.ended(10) == {"loopback": 0x8D, "mosquitto": None}[broker.kind]
    assert time.monotonic() - began > 2.9
    assert (await watching.take(PUBLISH)).payload == b"gone"
    await patient.ping()


@broker_must("MQTT-3.1.2-22")
async def test_a_keep_alive_of_the_servers_own_is_announced_and_kept(
    limited: Callable[..., Any], line: Factory
) -> None:
    broker = limited(loopback={"server_keep_alive": 1}, mosquitto={"extra": ["max_keepalive 10"]})
    peer = await line(broker, connect=False)
    connack = await peer.connect(keep_alive=600)
    if broker.kind == "loopback":
        assert connack.properties["server_keep_alive"] == 1
        assert await peer.ended(3) == 0x8D
    else:
        assert connack.properties["server_keep_alive"] == 10


# --- authentication and refusals


@broker_must("MQTT-4.12.0-1", "MQTT-3.2.2-7", "MQTT-3.2.2-8")
async def test_a_method_that_is_not_supported_is_refused_by_name(broker: Any, line: Factory) -> None:
    peer = await line(broker, connect=False)
    await peer.connect(authentication_method="SCRAM-SHA-256", authentication_data=b"n,,", expect=0x8C)
    assert await peer.ended() is None


@broker_must("MQTT-4.12.0-6", "MQTT-4.13.1-1")
async def test_without_a_method_there_is_no_auth(broker: Any, line: Factory) -> None:
    peer = await line(broker, connect=False)
    connack = await peer.connect()
    assert "authentication_method" not in connack.properties
    peer.send(Packet(AUTH, {"authentication_method": "x"}, reason_code=0x19))
    assert await peer.ended() == {"loopback": 0x82, "mosquitto": None}[broker.kind]
    assert not peer.all(AUTH)


@pytest.fixture(params=["loopback", "mosquitto"])
def guarded(request: pytest.FixtureRequest) -> Any:
    """A broker that lets in alice alone."""
    if request.param == "loopback":
        return request.getfixturevalue("own_loopback")(username="alice", password="secret")
    return request.getfixturevalue("own_mosquitto")(users={"alice": "secret"})


@broker_must(
    *("MQTT-3.1.4-2", "MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-3.2.2-8", "MQTT-3.14.0-1"),
    "MQTT-4.13.2-1",
)
async def test_after_a_refused_connect_nothing_more_is_taken(guarded: Any, line: Factory, topic: str) -> None:
    alice = {"username": "alice", "password": b"secret"}
    watching = await line(guarded, **alice)
    await watching.subscribe(topic)
    kept = await line(guarded, client_id=topic, **alice, **KEPT)
    kept.send(Packet(DISCONNECT))
    await kept.ended()
    refused = await line(guarded, connect=False)
    connect = Packet(CONNECT, client_id=topic, clean_start=False, username="alice", password=b"wrong")
    refused.send(encode(connect) + encode(Packet(PUBLISH, topic=topic, payload=b"no")))
    connack = await refused.take(CONNACK)
    # 0x87 Not authorized is what Mosquitto 2.0.11 says; the loopback broker says 0x86.
    assert connack.reason_code == (0x86 if guarded.kind == "loopback" else 0x87)
    assert not connack.session_present
    assert await refused.ended() is None
    watching.publish(topic, b"yes")
    assert (await watching.take(PUBLISH)).payload == b"yes"


# --- what the broker cannot, and says so


@broker_must("MQTT-3.2.2-9", "MQTT-3.2.2-10", "MQTT-3.8.4-7", "MQTT-3.2.2-12")
async def test_a_maximum_qos_is_announced_granted_and_insisted_on(
    limited: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = limited(loopback={"maximum_qos": 1}, mosquitto={"listener": ["max_qos 1"]})
    peer = await line(broker, connect=False)
    assert (await peer.connect()).properties["maximum_qos"] == 1
    granted = await peer.subscribe(*(Filter(f"{topic}/{qos}", qos) for qos in (0, 1, 2)))
    assert granted.reason_codes == (0, 1, 1)
    peer.publish(topic, qos=2, packet_id=1)
    assert await peer.ended() == 0x9B
    willed = await line(broker, connect=False)
    await willed.connect(will=Will(topic, qos=2), expect=0x9B)
    assert await willed.ended() is None


@broker_must("MQTT-3.2.2-13")
async def test_a_broker_that_retains_nothing_says_so(
    limited: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = limited(loopback={"retain_available": False}, mosquitto={"extra": ["retain_available false"]})
    peer = await line(broker, connect=False)
    assert (await peer.connect()).properties["retain_available"] == 0
    peer.publish(topic, b"x", qos=1, packet_id=1, retain=True)
    assert await peer.ended() == 0x9A
    willed = await line(broker, connect=False)
    await willed.connect(will=Will(topic, b"x", retain=True), expect=0x9A)
    assert await willed.ended() is None


@broker_must("MQTT-3.9.3-2")
async def test_kinds_of_subscription_that_are_not_available_are_refused_by_name(
    own_loopback: Callable[..., Any], line: Factory, topic: str
) -> None:
    """Mosquitto has all of them, and no way to switch them off."""
    names = ("shared_subscription", "wildcard_subscription", "subscription_identifiers")
    broker = own_loopback(**{f"{name}_available": False for name in names})
    peer = await line(broker, connect=False)
    said = (await peer.connect()).properties
    assert said["shared_subscription_available"] == 0
    assert said["wildcard_subscription_available"] == 0
    assert said["subscription_identifier_available"] == 0
    suback = await peer.subscribe(f"$share/g/{topic}", f"{topic}/#", topic)
    assert suback.reason_codes == (0x9E, 0xA2, 2)
    assert (await peer.subscribe(topic, subscription_identifier=(1,))).reason_codes == (0xA1,)


@broker_must("MQTT-3.1.2-28")
@pytest.mark.parametrize("asked", [None, 0, 1])
async def test_response_information_is_for_those_who_ask(
    broker: Any, line: Factory, asked: int | None
) -> None:
    """Mosquitto has none. A client that gets none makes a topic of its own."""
    if broker.kind == "loopback":
        broker.loopback.set_response_information("replies/1")
    peer = await line(broker, connect=False)
    connack = await peer.connect(**({} if asked is None else {"request_response_information": asked}))
    expected = "replies/1" if asked and broker.kind == "loopback" else None
    assert connack.properties.get("response_information") == expected


@broker_must("MQTT-3.1.2-29", "MQTT-3.4.2-1", "MQTT-3.9.3-2")
async def test_who_wants_no_problem_information_gets_codes_alone(
    denying_broker: Callable[..., Any], line: Factory, topic: str
) -> None:
    broker = denying_broker(subscribe=f"{topic}/in", publish=f"{topic}/out")
    peer = await line(broker, request_problem_information=0)
    suback = await peer.subscribe(f"{topic}/in")
    assert (suback.reason_codes, suback.properties) == ((0x87,), {})
    peer.publish(f"{topic}/out", qos=1, packet_id=5)
    puback = await peer.take(PUBACK)
    assert (puback.packet_id, puback.reason_code, puback.properties) == (5, 0x87, {})
