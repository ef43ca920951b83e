"""What reqtt's client says when it comes and when it goes, and what it makes of the broker's CONNACK."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import reqtt
from faults.test_hostile_server import Framed, upgrade
from reqtt import Connected, Disconnected, Reconnect
from support import client_must
from support.hostile import HostileServer, Peer, said
from support.packets import (
    AUTH,
    CONNACK,
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    Packet,
    encode,
)
from support.waiting import eventually

SOON = Reconnect(initial=0.01, max=0.05)
SESSION: dict[str, Any] = {"client_id": "c", "clean_start": False, "session_expiry_interval": 60}
WILL = reqtt.Will(
    "will/ä",
    b"\x00gone",
    qos=2,
    retain=True,
    delay_interval=3,
    message_expiry_interval=9,
    payload_format_indicator=0,
    content_type="text/plain",
    response_topic="r/1",
    correlation_data=b"\xff\x00",
    user_properties=(("b", "1"), ("a", "2"), ("b", "3")),
)


async def closed_by_client(peer: Peer) -> None:
    async with asyncio.timeout(5):
        await peer.closed.wait()


@client_must(
    *("MQTT-3.1.0-1", "MQTT-3.1.0-2", "MQTT-3.1.2-1", "MQTT-3.1.2-2", "MQTT-3.1.2-3", "MQTT-3.1.2-9"),
    *("MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13", "MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.2-18"),
    *("MQTT-3.1.2-19", "MQTT-3.1.3-1", "MQTT-3.1.3-3", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12"),
    *("MQTT-2.2.2-1", "MQTT-4.12.0-7"),
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"client_id": "\ufeffä"},
        {"username": "ü"},
        {"password": b"\x00\xff"},
        {"username": "u", "password": "p", "client_id": "c"},
        {"will": WILL},
        {"will": reqtt.Will("w"), "username": "u", "password": b"", "client_id": "c"},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
async def test_connect_is_the_first_packet_and_has_what_its_flags_say(options: dict[str, Any]) -> None:
    async with HostileServer() as server:
        async with reqtt.Client(server.url, **options):
            pass
        [peer] = server.peers
        await closed_by_client(peer)
        connect = peer.received[0]
        assert [packet.type for packet in peer.received] == [CONNECT, DISCONNECT]
        # Encoding what was read gives the same bytes: flags, order and lengths are those of section 3.1.
        assert peer.raw[0] == encode(connect)
        assert peer.raw[0][peer.raw[0].index(b"MQTT") :][:5] == b"MQTT\x05"
        assert connect.client_id == options.get("client_id", "")
        assert connect.username == options.get("username")
        password = options.get("password")
        assert connect.password == (password.encode() if isinstance(password, str) else password)
        if will := options.get("will"):
            sent = connect.will
            assert sent is not None
            assert (sent.topic, sent.payload, sent.qos, sent.retain) == (
                will.topic,
                will.payload,
                will.qos,
                will.retain,
            )
            for name in ("response_topic", "correlation_data", "content_type", "message_expiry_interval"):
                assert sent.properties.get(name) == getattr(will, name)
            assert sent.properties.get("user_properties", ()) == will.user_properties
        else:
            assert connect.will is None


@client_must(
    "MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.1.3-11", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1"
)
@pytest.mark.parametrize(
    "wrong",
    [
        {"will": {"topic": "w", "response_topic": "r/+"}},
        {"will": {"topic": "w", "response_topic": "#"}},
        {"will": {"topic": "w", "response_topic": "a\0b"}},
        {"will": {"topic": "w", "response_topic": "\ud800"}},
        {"will": {"topic": "w/#"}},
        {"will": {"topic": "w", "qos": 3}},
        {"will": {"topic": "w", "user_properties": (("k", "\0"),)}},
        {"client_id": "\ud800"},
        {"client_id": "a\0b"},
        {"username": "a\0b"},
    ],
    ids=lambda wrong: ascii(wrong)[:60],
)
async def test_what_section_1_5_4_forbids_never_gets_into_a_connect(wrong: dict[str, Any]) -> None:
    async with HostileServer() as server:
        options = {k: reqtt.Will(**v) if k == "will" else v for k, v in wrong.items()}
        with pytest.raises(ValueError):
            await reqtt.Client(server.url, **options).connect()
        assert not server.peers


# --- CONNACK


@client_must("MQTT-3.2.2-4")
async def test_a_session_that_was_not_asked_for_is_not_taken(loopback: Any) -> None:
    async def stale(peer: Peer) -> None:
        await peer.expect(CONNECT)
        peer.send(Packet(CONNACK, session_present=True))
        await closed_by_client(peer)
        assert all(packet.type in (CONNECT, DISCONNECT) for packet in peer.received)

    async with HostileServer(stale) as server:
        client = reqtt.Client(server.url, client_id="c", connect_timeout=2)
        with pytest.raises(reqtt.ConnectError, match="0x82 Protocol Error"):
            await client.connect()
        assert said(server.peers[0]) in ([], [0x82])


@client_must("MQTT-3.2.2-5", "MQTT-3.1.2-4")
async def test_without_its_session_the_client_forgets_what_the_broker_forgot() -> None:
    async def first(peer: Peer) -> None:
        await peer.expect(CONNECT)
        peer.send(Packet(CONNACK))
        one, two = await peer.take(PUBLISH), await peer.take(PUBLISH)
        assert (one.qos, two.qos) == (2, 2)
        peer.send(Packet(PUBREC, packet_id=one.packet_id))
        await peer.expect(PUBREL)
        # A QoS 2 message of which only the first half has arrived.
        peer.send(Packet(PUBLISH, topic="nobody", qos=2, packet_id=9))
        await peer.expect(PUBREC)

    async def second(peer: Peer) -> None:
        await peer.expect(CONNECT)
        peer.send(Packet(CONNACK, session_present=False))
        again = await peer.take(PUBLISH)
        assert (again.payload, again.dup) == (b"2", False)
        peer.send(Packet(PUBREC, packet_id=again.packet_id, reason_code=0x10))
        await peer.expect(PUBREL)
        peer.send(Packet(PUBCOMP, packet_id=again.packet_id))
        await closed_by_client(peer)
        assert len([p for p in peer.received if p.type is PUBREL]) == 1

    async with HostileServer(first, second) as server:
        async with reqtt.Client(server.url, reconnect=SOON, **SESSION) as client:
            calls = [asyncio.ensure_future(client.publish("t", b"%d" % n, qos=2)) for n in (1, 2)]
            async with asyncio.timeout(5):
                # The first was taken by the broker; whether it was delivered nobody knows any more.
                await asyncio.gather(*calls, return_exceptions=True)
        assert len(server.peers) == 2


@client_must("MQTT-3.2.2-11", "MQTT-3.2.2-14")
async def test_requests_and_responses_keep_to_the_brokers_maximum_qos() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(maximum_qos=0, retain_available=0)
        await peer.expect(SUBSCRIBE)
        request = {"response_topic": "r/1", "correlation_data": b"1"}
        peer.send(Packet(PUBLISH, request, topic="q/t", qos=1, packet_id=1))
        await closed_by_client(peer)

    @reqtt.responder("q/+")
    async def answer() -> str:
        return "yes"

    async with HostileServer(script) as server:
        async with reqtt.Client(server.url) as client, reqtt.Responder(client, [answer]):
            [peer] = server.peers
            response = await peer.expect(PUBLISH)
            assert (response.topic, response.qos, response.properties["correlation_data"]) == ("r/1", 0, b"1")
            await peer.expect(PUBACK)
            async with reqtt.Requester(client) as requester:
                for qos in (1, 2):
                    with pytest.raises(reqtt.PublishError) as caught:
                        await requester.request("x/t", qos=qos, timeout=2)
                    assert caught.value.reason_code == 0x9B
                await requester.request("x/t", b"x", qos=0, timeout=2)
            with pytest.raises(reqtt.PublishError) as caught:
                await client.publish("x/t", qos=0, retain=True)
            assert caught.value.reason_code == 0x9A
        assert all(p.qos == 0 and not p.retain for p in peer.received if p.type is PUBLISH)


@client_must("MQTT-3.2.2-15")
async def test_no_packet_is_larger_than_the_broker_takes() -> None:
    limit = 200

    async def script(peer: Peer) -> None:
        await peer.accept(maximum_packet_size=limit)
        await peer.expect(SUBSCRIBE)
        request = {"response_topic": "r/1", "correlation_data": b"1"}
        peer.send(Packet(PUBLISH, request, topic="q/large", qos=1, packet_id=1))
        await closed_by_client(peer)

    @reqtt.responder("q/large")
    async def large() -> bytes:
        return bytes(limit)

    async with HostileServer(script) as server:
        async with reqtt.Client(server.url) as client, reqtt.Responder(client, [large]):
            [peer] = server.peers
            response = await peer.expect(PUBLISH)
            assert dict(response.user_properties)["__stat"] == "500"
            async with reqtt.Requester(client) as requester:
                with pytest.raises(reqtt.PacketTooLarge):
                    await requester.request("x", bytes(limit), timeout=2)
                assert (await requester.request("x", b"small", timeout=2)).payload == b"small"
            with pytest.raises((reqtt.PacketTooLarge, reqtt.SubscribeError)):
                async with client.subscribe("f" * limit):
                    pass
        assert max(map(len, peer.raw)) <= limit


@client_must("MQTT-3.2.2-17", "MQTT-3.2.2-18", "MQTT-3.3.2-8", "MQTT-3.3.2-9")
@pytest.mark.parametrize("maximum", [None, 0, 5])
async def test_the_client_makes_no_topic_aliases(maximum: int | None) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(**({} if maximum is None else {"topic_alias_maximum": maximum}))
        await closed_by_client(peer)

    async with HostileServer(script) as server:
        async with reqtt.Requester(server.url) as requester:
            for _ in range(3):
                await requester.request("q/t", timeout=2)
        sent = [p for p in server.peers[0].received if p.type is PUBLISH]
        assert [p.topic for p in sent] == ["q/t"] * 3
        assert not any("topic_alias" in p.properties for p in sent)


@client_must("MQTT-3.3.2-7")
async def test_an_alias_of_an_earlier_connection_means_nothing() -> None:
    read = asyncio.Event()

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        peer.send(Packet(PUBLISH, {"topic_alias": 1}, topic="a/1", payload=b"1"))
        peer.send(Packet(PUBLISH, {"topic_alias": 1}, payload=b"2"))
        await read.wait()

    async def second(peer: Peer) -> None:
        await peer.expect(CONNECT)
        peer.send(Packet(CONNACK, session_present=True))
        peer.send(Packet(PUBLISH, {"topic_alias": 1}, payload=b"3"))
        await closed_by_client(peer)

    async with HostileServer(first, second) as server:
        options = {"topic_alias_maximum": 1, "reconnect": SOON, **SESSION}
        async with reqtt.Client(server.url, **options) as client, client.subscribe("a/#") as messages:
            async with asyncio.timeout(5):
                assert [(await anext(messages)).payload for _ in range(2)] == [b"1", b"2"]
            read.set()
            await eventually(lambda: len(server.peers) > 2)
            assert said(server.peers[1]) == [0x94]
            await server.peers[2].expect(SUBSCRIBE)
            server.peers[2].send(Packet(PUBLISH, topic="a/2", payload=b"4"))
            async with asyncio.timeout(5):
                assert (await anext(messages)).payload == b"4"


@client_must("MQTT-4.13.2-1")
@pytest.mark.parametrize("how", ["CONNACK", "DISCONNECT"])
async def test_after_an_error_from_the_broker_the_client_closes(how: str) -> None:
    connected = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.expect(CONNECT)
        if how == "CONNACK":
            peer.send(Packet(CONNACK, reason_code=0x97))
        else:
            peer.send(Packet(CONNACK))
            await connected.wait()
            peer.send(Packet(DISCONNECT, reason_code=0x97))
        await closed_by_client(peer)

    async with HostileServer(script) as server:
        client = reqtt.Client(server.url, reconnect=None)
        if how == "CONNACK":
            with pytest.raises(reqtt.ConnectError, match="0x97"):
                await client.connect()
        else:
            events = client.events()
            await client.connect()
            connected.set()
            async with asyncio.timeout(5):
                assert isinstance(await anext(events), Connected)
                lost = await anext(events)
            assert isinstance(lost, Disconnected)
            assert lost.reason_code == 0x97
        await closed_by_client(server.peers[0])
        assert [p.type for p in server.peers[0].received] == [CONNECT]
        await client.close()


# --- enhanced authentication


class Steps:
    method = "STEPS"

    def start(self) -> bytes:
        return b"0"

    def challenge(self, data: bytes) -> bytes:
        return b"re: " + data


@client_must("MQTT-3.1.2-30", "MQTT-3.15.2-1", "MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-4.12.1-1")
async def test_until_connack_only_auth_is_sent() -> None:
    def auth(data: bytes, code: int = 0x18) -> Packet:
        properties = {"authentication_method": "STEPS", "authentication_data": data}
        return Packet(AUTH, properties, reason_code=code)

    async def script(peer: Peer) -> None:
        await peer.expect(CONNECT)
        for data in (b"1", b"2"):
            peer.send(auth(data))
            answer = await peer.take(AUTH)
            assert (answer.reason_code, answer.properties) == (0x18, auth(b"re: " + data).properties)
        assert [packet.type for packet in peer.received] == [CONNECT]
        peer.send(Packet(CONNACK, {"authentication_method": "STEPS"}))
        assert (await peer.take(PUBLISH)).payload == b"waited"
        again = await peer.take(AUTH)
        assert (again.reason_code, again.properties) == (0x19, auth(b"0").properties)
        peer.send(auth(b"", 0))
        await closed_by_client(peer)

    async with HostileServer(script) as server:
        client = reqtt.Client(server.url, authenticator=Steps(), reconnect=None)
        connecting = asyncio.ensure_future(client.connect())
        await asyncio.sleep(0)
        await client.publish("t", b"waited", qos=0)
        await connecting
        await client.reauthenticate()
        await client.close()


# --- the end


@client_must("MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-3.14.2-1")
async def test_nothing_follows_the_clients_disconnect() -> None:
    async with HostileServer() as server:
        client = reqtt.Client(server.url)
        await client.connect()
        calls = [client.publish("t", bytes(1000), qos=1) for _ in range(50)]
        await client.close()
        await asyncio.gather(*calls, return_exceptions=True)
        [peer] = server.peers
        await closed_by_client(peer)
        assert peer.received[-1].type is DISCONNECT
        assert peer.raw[-1] in (b"\xe0\0", b"\xe0\2\0\0", b"\xe0\1\0")
        assert said(peer) == [0]


# --- WebSocket


@client_must("MQTT-6.0.0-1", "MQTT-6.0.0-2", "MQTT-6.0.0-3")
async def test_packets_go_in_binary_frames_that_need_not_be_theirs() -> None:
    heads: list[str] = []

    async def greet(reader: Any, writer: Any) -> Any:
        class Heard:
            async def readuntil(self, separator: bytes) -> bytes:
                head: bytes = await reader.readuntil(separator)
                heads.append(head.decode().lower())
                return head

            def __getattr__(self, name: str) -> Any:
                return getattr(reader, name)

        return await upgrade(Heard(), writer)  # type: ignore[arg-type]

    async def script(peer: Peer) -> None:
        peer.__class__ = Framed
        await peer.expect(CONNECT)
        connack = encode(Packet(CONNACK))
        peer.send(connack[:1])
        peer.send(connack[1:])
        await peer.expect(SUBSCRIBE)
        peer.answering(True)
        message = encode(Packet(PUBLISH, topic="a/1", payload=b"x" * 200))
        peer.send(message[:100])
        peer.send(message[100:] + message + message[:1])
        peer.send(message[1:])
        await closed_by_client(peer)

    async with HostileServer(script, greet=greet) as server:
        url = f"ws://127.0.0.1:{server.port}/mqtt"
        async with reqtt.Client(url, reconnect=None) as client, client.subscribe("a/#") as messages:
            async with asyncio.timeout(5):
                assert [len((await anext(messages)).payload) for _ in range(3)] == [200] * 3
        [head] = heads
        [offered] = [line for line in head.split("\r\n") if line.startswith("sec-websocket-protocol:")]
        assert "mqtt" in [name.strip() for name in offered.partition(":")[2].split(",")]
