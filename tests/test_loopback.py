"""The loopback broker, seen by clients that nobody here wrote, and its faults one by one."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from reqtt.testing import LoopbackBroker
from support.mosquitto import program
from support.packets import Packet, Will
from support.waiting import eventually, eventually_blocking

Factory = Callable[..., Awaitable[Any]]


# --- paho


class Peer:
    """paho with its callbacks collected."""

    def __init__(self, port: int, client_id: str = "", *, clean: bool = True, expiry: int = 0) -> None:
        self.paho = Paho(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        self.messages: list[MQTTMessage] = []
        self.connected: list[tuple[Any, ReasonCode]] = []
        self.subscribed: list[list[ReasonCode]] = []
        self.published: dict[int, ReasonCode] = {}
        self.disconnected: list[ReasonCode] = []
        self.paho.on_connect = lambda _c, _u, flags, reason, _p: self.connected.append((flags, reason))
        self.paho.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subscribed.append(reasons)
        self.paho.on_publish = lambda _c, _u, mid, reason, _p: self.published.__setitem__(mid, reason)
        self.paho.on_disconnect = lambda _c, _u, _f, reason, _p: self.disconnected.append(reason)
        self.paho.on_message = lambda _c, _u, message: self.messages.append(message)
        self._port, self._clean, self._expiry = port, clean, expiry

    def connect(self) -> Peer:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._expiry
        self.paho.connect("127.0.0.1", self._port, clean_start=self._clean, properties=properties)
        self.paho.loop_start()
        eventually_blocking(lambda: self.connected)
        return self

    def subscribe(self, topic_filter: str, **options: Any) -> list[ReasonCode]:
        count = len(self.subscribed)
        self.paho.subscribe(topic_filter, options=SubscribeOptions(**options))
        eventually_blocking(lambda: len(self.subscribed) > count)
        return self.subscribed[-1]

    def publish(self, topic: str, payload: bytes, qos: int, **options: Any) -> ReasonCode:
        mid = self.paho.publish(topic, payload, qos, **options).mid
        eventually_blocking(lambda: mid in self.published)
        return self.published[mid]

    def receive(self, count: int) -> list[MQTTMessage]:
        eventually_blocking(lambda: len(self.messages) >= count)
        return self.messages

    def __enter__(self) -> Peer:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_publishes_and_subscribes(loopback: Any, topic: str, qos: int) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    properties.CorrelationData = b"\x00\xff"
    properties.ResponseTopic = "r/1"
    properties.ContentType = "text/plain"
    properties.PayloadFormatIndicator = 1
    with Peer(loopback.port) as peer:
        (granted,) = peer.subscribe(f"{topic}/+", qos=2)
        assert granted.value == 2
        for n in range(5):
            peer.publish(f"{topic}/{n}", b"%d" % n, qos, properties=properties)
        messages = peer.receive(5)
        assert [(m.topic, m.payload, m.qos) for m in messages] == [
            (f"{topic}/{n}", b"%d" % n, qos) for n in range(5)
        ]
        got = messages[0].properties
        assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")]
        assert (got.CorrelationData, got.ResponseTopic) == (b"\x00\xff", "r/1")
        assert (got.ContentType, got.PayloadFormatIndicator) == ("text/plain", 1)


@pytest.mark.parametrize("qos", [1, 2])
def test_paho_is_told_that_nobody_subscribes(loopback: Any, topic: str, qos: int) -> None:
    with Peer(loopback.port) as peer:
        reason = peer.publish(topic, b"", qos)
        # paho gives the reason of the PUBCOMP, which has none but success.
        assert reason.value == (0x10 if qos == 1 else 0)


def test_paho_gets_retained_messages(loopback: Any, topic: str) -> None:
    with Peer(loopback.port) as peer:
        peer.publish(topic, b"kept", 1, retain=True)
        with Peer(loopback.port) as late:
            late.subscribe(topic, qos=1)
            (message,) = late.receive(1)
            assert (message.payload, message.retain) == (b"kept", True)
            peer.publish(topic, b"", 1, retain=True)
        with Peer(loopback.port) as later:
            later.subscribe(topic, qos=1)
            peer.publish(topic, b"live", 1)
            assert [m.payload for m in later.receive(1)] == [b"live"]


@pytest.mark.parametrize("clean", [True, False])
def test_the_will_of_a_paho_client(loopback: Any, topic: str, clean: bool) -> None:
    with Peer(loopback.port) as watching:
        watching.subscribe(topic, qos=1)
        dying = Peer(loopback.port)
        dying.paho.will_set(topic, b"gone", qos=1)
        dying.connect()
        if clean:
            dying.paho.disconnect()
        else:
            sock = dying.paho.socket()
            assert sock is not None
            dying.paho.loop_stop()
            sock.close()
        eventually_blocking(lambda: len(loopback.loopback.connections()) == 1)
        watching.publish(topic, b"end", 1)
        dying.paho.loop_stop()
        assert [m.payload for m in watching.receive(1 if clean else 2)] == ([] if clean else [b"gone"]) + [
            b"end"
        ]


def test_a_session_of_paho_keeps_what_waits(loopback: Any, topic: str) -> None:
    with Peer(loopback.port, "sleeper", expiry=60) as first:
        first.subscribe(topic, qos=1)
    with Peer(loopback.port) as other:
        for n in range(3):
            assert other.publish(topic, b"%d" % n, 1).value == 0
    with Peer(loopback.port, "sleeper", clean=False, expiry=60) as again:
        flags, reason = again.connected[0]
        assert (flags.session_present, reason.value) == (True, 0)
        assert [m.payload for m in again.receive(3)] == [b"0", b"1", b"2"]


# --- Mosquitto's programs


def spawn(name: str, port: int, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [program(name), "-h", "127.0.0.1", "-p", str(port), "-V", "mqttv5", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def output(process: subprocess.Popen[bytes], timeout: float = 5) -> bytes:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert (process.returncode, err) == (0, b""), (process.returncode, out, err)
    return out


def subscribed(broker: Any, topic_filter: str) -> Callable[[], bool]:
    return lambda: any(found == topic_filter for _, found, _ in broker.loopback.subscriptions())


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_pub_and_mosquitto_sub(loopback: Any, topic: str, qos: str) -> None:
    sub = spawn(
        "mosquitto_sub", loopback.port, "-t", f"{topic}/#", "-q", qos, "-C", "2", "-F", "%t %q %r %R %D %p"
    )
    eventually_blocking(subscribed(loopback, f"{topic}/#"))
    properties = ["-D", "publish", "response-topic", "r/1", "-D", "publish", "correlation-data", "c1"]
    output(spawn("mosquitto_pub", loopback.port, "-t", f"{topic}/a", "-m", "one", "-q", qos, *properties))
    output(spawn("mosquitto_pub", loopback.port, "-t", f"{topic}/b", "-m", "two", "-q", qos))
    assert output(sub).decode().splitlines() == [
        f"{topic}/a {qos} 0 r/1 c1 one",
        f"{topic}/b {qos} 0   two",
    ]


def test_mosquitto_sub_gets_retained_messages(loopback: Any, topic: str) -> None:
    output(spawn("mosquitto_pub", loopback.port, "-t", topic, "-m", "kept", "-r", "-q", "1"))
    sub = spawn("mosquitto_sub", loopback.port, "-t", topic, "-q", "1", "-C", "1", "-F", "%r %p")
    assert output(sub) == b"1 kept\n"


async def test_mosquitto_rr_asks(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    await peer.serve(topic, lambda request: request.payload[::-1])
    rr = spawn("mosquitto_rr", loopback.port, "-t", topic, "-e", f"{topic}/answers", "-m", "abc", "-q", "1")
    assert await asyncio.to_thread(output, rr) == b"cba\n"


def test_mosquitto_sub_without_a_password_is_refused(own_loopback: Callable[..., Any], topic: str) -> None:
    broker = own_loopback(username="alice", password="secret")
    refused = spawn("mosquitto_sub", broker.port, "-t", topic, "-C", "1", "-W", "3")
    _, err = refused.communicate(timeout=5)
    assert refused.returncode != 0
    assert b"refused" in err.lower() or b"not authorized" in err.lower() or b"bad user" in err.lower()
    output(spawn("mosquitto_pub", broker.port, "-t", topic, "-m", "x", "-u", "alice", "-P", "secret"))


# --- the faults, each once


@asynccontextmanager
async def watch(peer: Any, seconds: float) -> AsyncIterator[None]:
    """The body must take at least `seconds`."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds


async def test_cut_breaks_connections_and_keeps_sessions(loopback: Any, raw: Factory, topic: str) -> None:
    will = Will(f"{topic}/will", b"gone", 1)
    peer = await raw(loopback, client_id="p", session_expiry_interval=60, will=will)
    await peer.subscribe(topic)
    loopback.loopback.cut()
    await peer.wait_closed()
    assert peer.disconnected is None
    again = await raw(loopback, client_id="p", clean_start=False, session_expiry_interval=60)
    assert again.connack.session_present


async def test_disconnect_says_why(loopback: Any, raw: Factory) -> None:
    peer = await raw(loopback)
    loopback.loopback.disconnect(0x98)
    await peer.wait_closed()
    assert peer.disconnected.reason_code == 0x98


async def test_stall_holds_everything_up(loopback: Any, raw: Factory) -> None:
    peer = await raw(loopback)
    loopback.loopback.stall(0.3)
    async with watch(peer, 0.25):
        await peer.ping()
    loopback.loopback.stall(30)
    waiting = asyncio.ensure_future(peer.ping())
    loopback.loopback.stall(0)
    await asyncio.wait_for(waiting, 5)


async def test_delay_makes_every_packet_late(loopback: Any, raw: Factory) -> None:
    peer = await raw(loopback)
    loopback.loopback.delay(0.2)
    async with watch(peer, 0.19):
        await peer.ping()
    loopback.loopback.delay(0)
    await asyncio.wait_for(peer.ping(), 5)


async def test_delay_suback_lets_other_packets_overtake(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    loopback.loopback.delay_suback(30)
    waiting = asyncio.ensure_future(peer.subscribe(topic))
    await eventually(loopback.loopback.subscriptions)
    await peer.publish(topic, "x")
    assert (await peer.receive()).payload == b"x"
    assert not waiting.done()
    loopback.loopback.delay_suback(0)
    assert await waiting == [1]


async def test_refuse_connect(loopback: Any, raw: Factory) -> None:
    loopback.loopback.refuse_connect(0x88)
    peer = await raw(loopback, expect=0x88)
    assert peer.connack.reason_code == 0x88
    loopback.loopback.refuse_connect(None)
    assert (await raw(loopback)).connack.reason_code == 0


async def test_refuse_publish(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    await peer.subscribe(f"{topic}/#")
    loopback.loopback.refuse_publish(0x87, filter=f"{topic}/no")
    assert (await peer.publish(f"{topic}/no")).reason_code == 0x87
    assert (await peer.publish(f"{topic}/yes", "yes")).reason_code == 0
    assert (await peer.receive()).payload == b"yes"
    loopback.loopback.refuse_publish(None, filter=f"{topic}/no")
    assert (await peer.publish(f"{topic}/no")).reason_code == 0


async def test_refuse_subscribe(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    loopback.loopback.refuse_subscribe(0x8F, filter=f"{topic}/+")
    assert await peer.subscribe(f"{topic}/a", expect=0x8F) == [0x8F]
    assert await peer.subscribe(topic) == [1]
    loopback.loopback.refuse_subscribe(None, filter=f"{topic}/+")
    assert await peer.subscribe(f"{topic}/a") == [1]


async def test_redeliver_sends_again_what_is_not_acknowledged(
    loopback: Any, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback, auto_ack=False)
    await peer.subscribe(topic)
    await peer.publish(topic, "1")
    await peer.publish(topic, "2")
    first, second = await peer.receive(), await peer.receive()
    peer.ack(first)
    await peer.ping()
    loopback.loopback.redeliver()
    again = await peer.receive()
    assert (again.payload, again.dup, again.packet_id) == (b"2", True, second.packet_id)
    await peer.ping()
    assert peer.waiting == 0


async def test_duplicate_sends_everything_twice(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    loopback.loopback.duplicate(True)
    await peer.publish(topic, "twice")
    first, second = await peer.receive(), await peer.receive()
    assert first.payload == second.payload == b"twice"
    assert first.packet_id != second.packet_id
    loopback.loopback.duplicate(False)
    await peer.publish(topic, "once")
    await peer.receive()
    await peer.ping()
    assert peer.waiting == 0


async def test_lose_session_forgets_subscriptions_and_keeps_what_is_retained(
    loopback: Any, raw: Factory, topic: str
) -> None:
    options = {"client_id": "p", "clean_start": False, "session_expiry_interval": 60}
    peer = await raw(loopback, **options)
    await peer.subscribe(f"{topic}/a")
    await peer.publish(f"{topic}/kept", "kept", retain=True)
    loopback.loopback.lose_session()
    await peer.wait_closed()
    again = await raw(loopback, **options)
    assert not again.connack.session_present
    assert (await again.publish(f"{topic}/a")).reason_code == 0x10
    await again.subscribe(f"{topic}/kept")
    assert (await again.receive()).payload == b"kept"


async def test_drop_puback_routes_and_says_nothing(loopback: Any, raw: Factory, topic: str) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    loopback.loopback.drop_puback(True)
    waiting = asyncio.ensure_future(peer.publish(topic, "x"))
    assert (await peer.receive()).payload == b"x"
    await peer.ping()
    assert not waiting.done()
    waiting.cancel()
    loopback.loopback.drop_puback(False)
    assert (await peer.publish(topic)).reason_code == 0


async def test_response_information_is_for_those_who_ask(loopback: Any, raw: Factory) -> None:
    def information(packet: Packet) -> Any:
        return packet.properties.get("response_information")

    loopback.loopback.set_response_information("rr/abc")
    assert information((await raw(loopback, request_response_information=1)).connack) == "rr/abc"
    assert information((await raw(loopback)).connack) is None
    loopback.loopback.set_response_information(None)
    assert information((await raw(loopback, request_response_information=1)).connack) is None


async def test_set_accepting_turns_new_connections_away(loopback: Any, raw: Factory) -> None:
    before = await raw(loopback)
    loopback.loopback.set_accepting(False)
    reader, writer = await asyncio.open_connection("127.0.0.1", loopback.port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await before.ping()
    loopback.loopback.set_accepting(True)
    await raw(loopback)


# --- the object


def test_a_stopped_broker_says_so_and_starts_again() -> None:
    broker = LoopbackBroker()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = broker.url
    with broker as running:
        assert running is broker
        port = broker.port
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        assert broker.ws_url == f"ws://127.0.0.1:{broker.ws_port}/mqtt"
    with pytest.raises(RuntimeError, match="does not run"):
        broker.cut()
    broker.stop()
    with broker:
        assert broker.connections() == []


async def test_the_broker_is_an_async_context_manager(raw: Factory) -> None:
    async with LoopbackBroker() as broker:
        await raw(broker)
        assert len(broker.connections()) == 1
        assert broker.stats()["received_by_type"]["CONNECT"] == 1


def test_a_port_that_is_taken_is_an_os_error(loopback: Any) -> None:
    with pytest.raises(OSError):
        LoopbackBroker(port=loopback.port).start()


def test_the_broker_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        with LoopbackBroker():
            pass
    assert threading.active_count() == before
