"""The bytes of every packet that the client and the loopback broker write in a long conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import reqtt
from support import broker_must, client_must
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Decoder,
    encode,
)
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
BOTH = {PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP}
# The reason code 0 and the properties may be left out: section 3.4.2.1, and those like it.
SHORT = {*BOTH, DISCONNECT} - {PUBLISH}


@client_must(
    *("MQTT-1.5.5-1", "MQTT-2.1.3-1", "MQTT-2.2.1-2", "MQTT-2.2.2-1", "MQTT-3.3.1-4", "MQTT-3.3.2-1"),
    *("MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.8.3-1", "MQTT-3.8.3-2", "MQTT-3.10.1-1", "MQTT-3.10.3-1"),
    *("MQTT-3.10.3-2", "MQTT-3.3.4-6"),
)
@broker_must(
    *("MQTT-1.5.5-1", "MQTT-2.1.3-1", "MQTT-2.2.1-2", "MQTT-2.2.2-1", "MQTT-3.2.2-1", "MQTT-3.3.1-4"),
    *("MQTT-3.3.2-1", "MQTT-3.6.1-1"),
)
async def test_every_packet_is_written_as_the_standard_says(
    own_loopback: Callable[..., Any], topic: str
) -> None:
    """Encoding what was read gives the same bytes: flags, lengths, order, and nothing that is too long."""
    broker = own_loopback(record=True).loopback

    @reqtt.responder(f"{topic}/+", qos=2)
    async def echo(body: bytes) -> bytes:
        return body

    async with reqtt.Client(broker.url, keep_alive=1) as client, reqtt.Responder(client, [echo]):
        async with reqtt.Requester(client) as requester:
            for qos in (0, 1, 2):
                for size in (0, 1, 100, 128, 200, 16_384):
                    answer = await requester.request(f"{topic}/x", bytes(size), qos=qos, timeout=5)
                    assert len(answer.payload) == size
        await eventually(lambda: broker.stats()["sent_by_type"]["PINGRESP"])
    await eventually(lambda: not broker.connections())
    kinds: dict[bool, set[int]] = {True: set(), False: set()}
    for _, sent, raw in broker._recorded():
        [(packet, _)] = Decoder().feed(raw)
        kinds[sent].add(packet.type)
        written = encode(packet)
        if packet.type in SHORT and len(raw) < len(written):
            head = written[2 : len(raw)]
            assert (raw[0], raw[1], raw[2:]) == (written[0], len(head), head)
            assert not any(written[len(raw) :]), "only what is 0 may be left out"
        else:
            assert raw == written
        assert packet.type is not PUBLISH or packet.qos or not packet.packet_id
        assert sent or "subscription_identifier" not in packet.properties or packet.type is SUBSCRIBE
    assert kinds[False] == BOTH | {CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT}
    assert kinds[True] == BOTH | {CONNACK, SUBACK, UNSUBACK, PINGRESP}
