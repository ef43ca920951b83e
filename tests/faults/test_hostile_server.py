"""What a server may send that is no MQTT, or not where it belongs: the client names it, goes on, never grows.

Each case runs through the public API against a scripted server; the next connection is good, and is used.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import reqtt
from reqtt import Connected, Disconnected, Reconnect
from support import client_must
from support.footprint import resident
from support.hostile import HostileServer, Peer, good, said
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    Packet,
    encode,
    frame,
    publish,
    text,
)
from support.waiting import eventually

SOON = Reconnect(initial=0.01, max=0.05)


async def ask(requester: Any, payload: bytes = b"still here") -> None:
    response = await requester.request("q/t", payload, timeout=5)
    assert response.payload == payload


@asynccontextmanager
async def connected(server: HostileServer, **options: Any) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A requester, and the events of its connection as they come."""
    options = {"reconnect": SOON, "topic_alias_maximum": 2, "keep_alive": 30, **options}
    client = reqtt.Client(options.pop("url", server.url), **options)
    events: list[Any] = []
    take = events.append

    async def listen() -> None:
        async for event in client.events():
            take(event)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    async with client, reqtt.Requester(client) as requester:
        yield requester, events
    await listening


def losses(events: list[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, Disconnected)]


# --- on an open connection ------------------------------------------------------------------------

MALFORMED, PROTOCOL, TOO_LARGE, ALIAS = (
    (0x81, "0x81 Malformed Packet"),
    (0x82, "0x82 Protocol Error"),
    (0x95, "0x95 Packet too large"),
    (0x94, "0x94 Topic Alias invalid"),
)

BROKEN: dict[str, tuple[bytes, tuple[int, str]]] = {
    "packet type 0": (b"\0\0", MALFORMED),
    "reserved flags of PUBACK": (frame(0x41, b"\0\1"), MALFORMED),
    "reserved flags of PUBREL": (frame(0x60, b"\0\1"), MALFORMED),
    "reserved flags of DISCONNECT": (frame(0xE1, b"\x8b"), MALFORMED),
    "reserved flags of AUTH": (frame(0xF1, b"\x18\0"), MALFORMED),
    "remaining length of five bytes": (b"\x30\xff\xff\xff\xff\x7f", MALFORMED),
    "larger than maximum_packet_size": (frame(0x30, b"", 16 * 1024 * 1024), TOO_LARGE),
    "256 MiB announced": (b"\x30\xff\xff\xff\x7f", TOO_LARGE),
    "256 MiB of SUBACK": (b"\x90\xff\xff\xff\x7f", TOO_LARGE),
    "QoS 3": (publish(first=0x36), MALFORMED),
    "DUP at QoS 0": (publish(first=0x38), MALFORMED),
    "packet identifier 0": (frame(0x32, text(b"t") + b"\0\0\0"), PROTOCOL),
    "wildcard in a topic": (publish(topic=b"a/+"), MALFORMED),
    "# in a topic": (publish(topic=b"#"), MALFORMED),
    "no UTF-8 in a topic": (publish(topic=b"\xc3\x28"), MALFORMED),
    "a surrogate in a topic": (publish(topic=b"\xed\xa0\x80"), MALFORMED),
    "NUL in a topic": (publish(topic=b"a\0b"), MALFORMED),
    "no topic and no alias": (publish(topic=b""), PROTOCOL),
    "a topic longer than its packet": (frame(0x30, b"\xff\xfft"), MALFORMED),
    "properties longer than their packet": (frame(0x30, text(b"t") + b"\x7f\1\1"), MALFORMED),
    "a property of no kind": (publish(b"\x7f\0"), MALFORMED),
    "a property of another packet": (publish(b"\x11\0\0\0\1"), MALFORMED),
    "a property cut off": (publish(b"\x02\0\0"), MALFORMED),
    "Content Type twice": (publish(b"\x03" + text(b"a") + b"\x03" + text(b"a")), PROTOCOL),
    "Response Topic twice": (publish(b"\x08" + text(b"a") + b"\x08" + text(b"b")), PROTOCOL),
    "Correlation Data twice": (publish(b"\x09" + text(b"a") + b"\x09" + text(b"b")), PROTOCOL),
    "Message Expiry Interval twice": (publish(b"\x02\0\0\0\1" * 2), PROTOCOL),
    "no UTF-8 in a user property": (publish(b"\x26" + text(b"\xff") + text(b"")), MALFORMED),
    "Subscription Identifier 0": (publish(b"\x0b\0"), PROTOCOL),
    "Topic Alias 0": (publish(b"\x23\0\0"), ALIAS),
    "Topic Alias above the maximum": (publish(b"\x23\0\3"), ALIAS),
    "Topic Alias never defined": (publish(b"\x23\0\1", topic=b""), ALIAS),
    "a second CONNACK": (encode(Packet(CONNACK)), PROTOCOL),
    "SUBACK for two filters": (frame(0x90, b"\0\1\0\0\0"), PROTOCOL),
    "SUBACK for none": (frame(0x90, b"\0\1\0"), MALFORMED),
    "a reason code of no kind": (frame(0x40, b"\0\1\x55"), MALFORMED),
    "PUBACK without identifier": (frame(0x40, b""), MALFORMED),
    "PUBACK for 0": (frame(0x40, b"\0\0"), PROTOCOL),
    "AUTH unasked": (frame(0xF0, b"\x18\0"), PROTOCOL),
    "CONNECT": (frame(0x10, text(b"MQTT") + b"\5\2\0\0\0\0\1c"), PROTOCOL),
    "SUBSCRIBE": (frame(0x82, b"\0\1\0" + text(b"#") + b"\0"), PROTOCOL),
    "PINGREQ": (b"\xc0\0", PROTOCOL),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", MALFORMED),
}


@client_must(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-3.14.1-1",
    "MQTT-3.14.2-1",
    "MQTT-3.14.4-2",
    "MQTT-3.15.1-1",
    "MQTT-4.13.2-1",
)
@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_packet_ends_the_connection_by_name_and_the_next_one_works(case: str) -> None:
    packet, (code, name) = BROKEN[case]

    async def script(peer: Peer) -> None:
        await peer.accept()
        await asyncio.sleep(0.01)
        peer.send(packet)
        await peer.closed.wait()

    async with HostileServer(script) as server, connected(server) as (requester, events):
        await eventually(lambda: losses(events))
        [lost] = losses(events)
        assert not lost.final
        assert name in lost.reason, lost.reason
        await eventually(lambda: said(server.peers[0]))
        assert said(server.peers[0]) == [code]
        await ask(requester)


ANSWERS = {
    "PUBACK": Packet(PUBACK, packet_id=9),
    "PUBACK with a reason": Packet(PUBACK, packet_id=9, reason_code=0x87),
    "PUBREC": Packet(PUBREC, packet_id=9),
    "PUBREL": Packet(PUBREL, packet_id=9),
    "PUBCOMP": Packet(PUBCOMP, packet_id=9),
    "SUBACK": Packet(SUBACK, packet_id=9, reason_codes=(0,)),
    "SUBACK for 65,535": Packet(SUBACK, packet_id=65535, reason_codes=(0,)),
    "UNSUBACK": Packet(UNSUBACK, packet_id=9, reason_codes=(0,)),
    "PINGRESP": Packet(PINGRESP),
    "a message for nobody": Packet(PUBLISH, topic="nobody"),
    "QoS 1 for nobody": Packet(PUBLISH, topic="nobody", qos=1, packet_id=1),
    "one identifier twice": Packet(PUBLISH, topic="nobody", qos=1, packet_id=1, dup=True),
    "QoS 2 again and again": Packet(PUBLISH, topic="nobody", qos=2, packet_id=7),
    "identifiers never given": Packet(
        PUBLISH, {"subscription_identifier": (1, 268_435_455, 7)}, topic="nobody", payload=b"x"
    ),
    "a retained response": Packet(PUBLISH, topic="clients/c/responses/x", retain=True),
    "10,000 user properties": Packet(PUBLISH, {"user_properties": (("k", "v"),) * 10_000}, topic="nobody"),
    "a Response Topic with wildcards": Packet(PUBLISH, {"response_topic": "#"}, topic="nobody"),
}


@client_must("MQTT-4.5.0-2")
@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer_that_nobody_waits_for_changes_nothing(case: str) -> None:
    async with HostileServer() as server, connected(server) as (requester, events):
        await ask(requester)
        for _ in range(3):
            server.peers[0].send(ANSWERS[case])
        await ask(requester)
        assert not losses(events)
        assert len(server.peers) == 1
        assert requester.client.stats().pending == 0


async def test_a_response_may_have_10_000_user_properties() -> None:
    pairs = tuple((f"k{n}", "v") for n in range(10_000))

    async def script(peer: Peer) -> None:
        peer.response_properties = {"user_properties": pairs}
        await good(peer)

    async with HostileServer(script) as server, connected(server) as (requester, _):
        response = await requester.request("q/t", b"", timeout=5)
        assert response.user_properties == pairs


async def test_far_more_messages_than_receive_maximum_end_the_connection() -> None:
    """Some more are borne: Mosquitto 2.0.11 loses count."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        for packet_id in range(1, 100):
            payload = b"x" if packet_id < 30 else bytes(1 << 20)
            peer.send(Packet(PUBLISH, topic="s/x", qos=1, packet_id=packet_id, payload=payload))
        await peer.closed.wait()

    async with HostileServer(script) as server, connected(server, receive_maximum=10) as (requester, events):
        client = requester.client
        async with client.subscribe("s/#", max_queue=1):
            await eventually(lambda: losses(events))
        assert "0x93 Receive Maximum exceeded" in losses(events)[0].reason
        await eventually(lambda: said(server.peers[0]) == [0x93])
        await ask(requester)


FINAL = (0x8E, 0x9D)
REASONS = [
    *(0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96),
    *(0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2),
]


@client_must("MQTT-4.13.2-1")
@pytest.mark.parametrize("code", REASONS, ids=hex)
async def test_each_reason_of_a_disconnect_is_told(code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await asyncio.sleep(0.01)
        peer.send(Packet(DISCONNECT, {"reason_string": "so\nit \x1b[2Jis"}, reason_code=code))
        await peer.closed.wait()

    async with HostileServer(script) as server, connected(server) as (requester, events):
        await eventually(lambda: losses(events))
        [lost] = losses(events)
        assert lost.reason_code == code
        assert lost.reason.isprintable()
        assert lost.final == (code in FINAL)
        if lost.final:
            with pytest.raises(reqtt.ConnectionLost, match=f"0x{code:02X}") as caught:
                await ask(requester)
            assert caught.value.reason_code == code
        else:
            await ask(requester)


@pytest.mark.parametrize("how", ["FIN", "silence"])
async def test_a_packet_that_stops_in_the_middle(how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(server_keep_alive=1)
        peer.answering(False)
        peer.send(publish(b"\x09" + text(b"c"), rest=b"x" * 5000)[:2000])
        if how == "silence":
            await peer.closed.wait()

    async with HostileServer(script) as server, connected(server) as (requester, events):
        await eventually(lambda: losses(events))
        expected = "closed the connection" if how == "FIN" else "PINGREQ"
        assert expected in losses(events)[0].reason
        await ask(requester)


# --- instead of a CONNACK -------------------------------------------------------------------------

NO_MQTT = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "random bytes": random.Random(1).randbytes(300),
    "PUBLISH first": publish(),
    "SUBACK first": frame(0x90, b"\0\1\0\0"),
    "AUTH without a method": frame(0xF0, b"\x18\0"),
    "a CONNACK of MQTT 3.1.1": b"\x20\x02\x00\x00",
    "256 MiB of CONNACK": b"\x20\xff\xff\xff\x7f",
    "reserved CONNACK flags": frame(0x20, b"\x02\0\0"),
    "CONNACK with a reason of no kind": frame(0x20, b"\0\x55\0"),
    "CONNACK cut off, then FIN": b"\x20\x09\0\0",
    "nothing, then FIN": b"",
    "Receive Maximum 0": frame(0x20, b"\0\0\x03\x21\0\0"),
    "Maximum Packet Size 0": frame(0x20, b"\0\0\x05\x27\0\0\0\0"),
    "Maximum QoS 3": frame(0x20, b"\0\0\x02\x24\x03"),
    "DISCONNECT": frame(0xE0, b"\x8b\0"),
}


@pytest.mark.parametrize("case", NO_MQTT)
async def test_what_is_no_connack_is_a_connect_error_and_the_next_attempt_works(case: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(CONNECT)
        peer.send(NO_MQTT[case])

    async with HostileServer(script) as server:
        client = reqtt.Client(server.url, connect_timeout=3)
        started = time.monotonic()
        with pytest.raises(reqtt.ConnectError) as caught:
            await client.connect()
        assert time.monotonic() - started < 2
        message = str(caught.value)
        assert f"127.0.0.1:{server.port}" in message
        assert message.isprintable()
        assert len(message) < 600
        # The same client, and a server that has come to its senses.
        async with client, reqtt.Requester(client) as requester:
            await ask(requester)


async def trickle(peer: Peer, data: bytes, pause: float) -> None:
    await peer.expect(CONNECT)
    for n in range(len(data)):
        peer.send(data[n : n + 1])
        await asyncio.sleep(pause)


async def test_a_connack_may_come_byte_by_byte() -> None:
    async def slow(peer: Peer) -> None:
        await trickle(peer, encode(Packet(CONNACK, {"receive_maximum": 5, "reason_string": "slow"})), 0.002)
        peer.answering(True)
        await peer.closed.wait()

    async with HostileServer(slow) as server, connected(server) as (requester, _):
        assert requester.client.connack.receive_maximum == 5
        await ask(requester)


@pytest.mark.parametrize("how", ["silence", "an endless CONNACK", "endless user properties"])
async def test_connect_timeout_holds_whatever_trickles_in(how: str) -> None:
    async def script(peer: Peer) -> None:
        match how:
            case "silence":
                await peer.closed.wait()
            case "an endless CONNACK":
                await trickle(peer, frame(0x20, b"\0" * 10_000, 1_000_000), 0.01)
            case _:
                await peer.expect(CONNECT)
                peer.send(frame(0x20, b"\0\0\xff\xff\x7f", 15_000_000))
                while not peer.closed.is_set():
                    peer.send(b"\x26\0\1k\0\1v" * 100)
                    await peer.flush()
                    await asyncio.sleep(0.005)

    async with HostileServer(script) as server:
        started = time.monotonic()
        client = reqtt.Client(server.url, connect_timeout=0.3)
        with pytest.raises(reqtt.ConnectError, match="connect_timeout"):
            await client.connect()
        assert time.monotonic() - started < 1.5
        async with client, reqtt.Requester(client) as requester:
            await ask(requester)


LONG = "x" * 65_535

ABSURD: dict[str, dict[str, Any]] = {
    "Server Keep Alive 0": {"server_keep_alive": 0},
    "Server Keep Alive 1": {"server_keep_alive": 1},
    "Receive Maximum 1": {"receive_maximum": 1},
    "an identifier of wildcards": {"assigned_client_identifier": "+/#/%"},
    "Response Information with wildcards": {"response_information": "a/+/#"},
    "Response Information with $": {"response_information": "$SYS/x"},
    "Response Information of 65,535 bytes": {"response_information": LONG},
    "empty Response Information": {"response_information": ""},
    "only a separator": {"response_information": "/"},
    "a Reason String of 65,535 bytes": {"reason_string": LONG},
    "10,000 user properties": {"user_properties": (("k", "v"),) * 10_000},
    "nothing available": {
        "retain_available": 0,
        "wildcard_subscription_available": 0,
        "subscription_identifier_available": 0,
        "shared_subscription_available": 0,
        "maximum_qos": 1,
        "topic_alias_maximum": 65_535,
        "session_expiry_interval": 0xFFFF_FFFF,
    },
}


@pytest.mark.parametrize("case", ABSURD)
async def test_a_client_works_with_what_it_is_told(case: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(**ABSURD[case])
        await peer.closed.wait()

    async with HostileServer(script) as server, connected(server, keep_alive=2) as (requester, events):
        await asyncio.gather(*(ask(requester, b"%d" % n) for n in range(5)))
        assert not losses(events)


async def test_what_the_broker_makes_impossible_fails_alone() -> None:
    async def tiny(peer: Peer) -> None:
        await peer.accept(maximum_packet_size=1)
        await peer.closed.wait()

    async def endless_name(peer: Peer) -> None:
        await peer.accept(assigned_client_identifier=LONG)
        await peer.closed.wait()

    async with HostileServer(tiny, endless_name) as server:
        async with connected(server) as (requester, events):
            with pytest.raises(reqtt.PacketTooLarge):
                await requester.client.publish("t", b"x")
            assert not losses(events)
        async with connected(server) as (requester, events):
            with pytest.raises(reqtt.InvalidTopic, match="MQTT allows 65535"):
                await requester.request("q/t", b"", timeout=2)
            await requester.request("q/t", b"", timeout=2, response_topic="r/1")
            assert not losses(events)


# --- WebSocket ------------------------------------------------------------------------------------


def ws_frame(data: bytes, opcode: int = 2, *, first: int | None = None, masked: bool = False) -> bytes:
    head = bytes([0x80 | opcode if first is None else first])
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mask | len(data)])
    else:
        head += bytes([mask | 126]) + struct.pack(">H", len(data))
    return head + (b"\0\0\0\0" if masked else b"") + data


class Unframed:
    """Of the client's frames, their contents."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self, _size: int) -> bytes:
        try:
            first, size = await self._reader.readexactly(2)
            length = size & 0x7F
            if length == 126:
                [length] = struct.unpack(">H", await self._reader.readexactly(2))
            assert size & 0x80, "a client masks its frames"
            mask = await self._reader.readexactly(4)
            data = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return b""
        if first & 0x0F == 8:
            return b""
        assert first & 0x0F in (0, 2), "MQTT is in binary frames [MQTT-6.0.0-1]"
        return bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))


async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Any, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = next(line[19:] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key: "))
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return Unframed(reader), writer


class Framed(Peer):
    """What a peer sends, in binary frames."""

    def send(self, data: bytes | Packet) -> None:
        super().send(ws_frame(encode(data) if isinstance(data, Packet) else data))


async def good_ws(peer: Peer) -> None:
    peer.__class__ = Framed
    await good(peer)


FRAMES = {
    "a text frame": ws_frame(b"\xd0\0", 1),
    "an opcode of no kind": ws_frame(b"\xd0\0", 5),
    "reserved bits": ws_frame(b"\xd0\0", first=0xF2),
    "a masked frame": ws_frame(b"\xd0\0", masked=True),
    "a frame of 2^63 bytes": b"\x82\x7f\x7f" + b"\xff" * 7,
    "a frame of 1 GiB": b"\x82\x7f" + struct.pack(">Q", 1 << 30),
    "a ping of 200 bytes": ws_frame(b"x" * 200, 9),
    "a continuation of nothing": ws_frame(b"\xd0\0", 0),
    "bytes that are no frame": b"HTTP/1.1 500 Internal Server Error\r\n" * 5,
    "a close frame": ws_frame(struct.pack(">H", 1011) + b"why\n", 8),
    "a close frame of one byte": ws_frame(b"x", 8),
    "broken MQTT in a good frame": ws_frame(publish(topic=b"#")),
}


@client_must("MQTT-6.0.0-1")
@pytest.mark.parametrize("case", FRAMES)
async def test_a_broken_frame_ends_the_connection_and_the_next_one_works(case: str) -> None:
    async def script(peer: Peer) -> None:
        peer.__class__ = Framed
        await peer.accept()
        await asyncio.sleep(0.01)
        Peer.send(peer, FRAMES[case])
        await peer.closed.wait()

    async with HostileServer(script, good_ws, greet=upgrade) as server:
        url = f"ws://127.0.0.1:{server.port}/mqtt"
        async with connected(server, url=url) as (requester, events):
            await eventually(lambda: losses(events))
            assert not losses(events)[0].final
            assert losses(events)[0].reason.isprintable()
            await ask(requester)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\x20\x03\0\0\0",
        b"HTTP/1.1 101 X\r\n" + b"a: b\r\n" * 20_000,
        b"HTTP/1.1 302 Found\r\nLocation: http://\x1b[2J/\r\n\r\n",
    ],
    ids=["200", "no accept", "MQTT", "endless headers", "redirect"],
)
async def test_an_upgrade_that_fails_is_a_connect_error(answer: bytes) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Any, Any]:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        raise ConnectionResetError

    async with HostileServer(greet=refuse) as server:
        client = reqtt.Client(f"ws://127.0.0.1:{server.port}/mqtt", connect_timeout=3)
        with pytest.raises(reqtt.ConnectError, match="WebSocket") as caught:
            await client.connect()
        assert str(caught.value).isprintable()


async def test_events_that_nobody_takes_are_bounded() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()

    rounds = 420
    async with HostileServer(*[script] * rounds) as server:
        async with reqtt.Client(server.url, reconnect=Reconnect(initial=0.0001, max=0.0001)) as client:
            forgotten = client.events()
            await eventually(lambda: len(server.peers) > rounds and client.connected, 20)
        kept = [event async for event in forgotten]
        # Three for each connection; the end of the iteration is one, too.
        assert len(kept) == 999
        assert isinstance(kept[-1], Connected)


# --- for long -------------------------------------------------------------------------------------


async def test_two_thousand_hostile_packets_leave_nothing_behind() -> None:
    noise = [encode(packet) for packet in ANSWERS.values()]
    broken = [packet for packet, _ in BROKEN.values()]
    chance = random.Random(7)

    async def script(peer: Peer) -> None:
        await peer.accept()
        for _ in range(16):
            peer.send(chance.choice(noise))
        await peer.flush()
        peer.send(chance.choice(broken))
        await asyncio.wait_for(peer.closed.wait(), 5)

    options: dict[str, Any] = {"reconnect": Reconnect(initial=0.001, max=0.001)}
    rounds = 120
    async with (
        HostileServer(*[script] * rounds) as server,
        connected(server, **options) as (requester, events),
    ):
        await eventually(lambda: len(server.peers) > rounds // 3, 30)
        before = resident()
        await eventually(lambda: len(server.peers) > rounds, 30)
        for peer in server.peers:
            peer.received.clear()
        grown = resident() - before
        assert grown < 4 << 20, f"{grown >> 10} KiB more after {rounds} connections"
        await ask(requester)
        assert sum(isinstance(event, Connected) for event in events) == rounds + 1
