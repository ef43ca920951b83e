"""Wrong arguments, addresses and servers: the caller learns what is wrong, and everybody else goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

import reqtt
from reqtt import Request, responder
from support import client_must
from support.mosquitto import Mosquitto, free_port
from support.packets import CONNECT, PUBLISH, SUBSCRIBE
from support.proxy import Proxy

Factory = Callable[..., Awaitable[Any]]
TOO_LONG = "x" * 65536


class Wire:
    """A requester and an echo; `unharmed()` shows that the connection works and nothing else was sent."""

    def __init__(self, req: Any, proxy: Proxy, topic: str) -> None:
        self.req = req
        self.proxy = proxy
        self.topic = topic

    async def unharmed(self, *others: str) -> None:
        response = await self.req.request(self.topic, b"still here", timeout=5)
        assert response.payload == b"still here"
        assert [r.packet.topic for r in self.proxy.up(PUBLISH)] == [*others, self.topic]
        assert self.proxy.accepted == 1
        assert self.req.client.stats().pending == 0


@pytest.fixture
async def wire(broker: Any, proxy: Proxy, requester: Factory, raw: Factory, topic: str) -> Wire:
    peer = await raw(broker)
    await peer.serve(topic)
    return Wire(await requester(proxy), proxy, topic)


@client_must("MQTT-3.3.2-2", "MQTT-4.7.0-1", "MQTT-4.7.3-1", "MQTT-4.7.3-2", "MQTT-4.7.3-3")
@pytest.mark.parametrize("wrong", ["", TOO_LONG, "a/+", "#", "a\0b", "\ud800"], ids=lambda w: ascii(w)[:20])
async def test_an_impossible_topic(wire: Wire, wrong: str) -> None:
    with pytest.raises(ValueError) as caught:
        await wire.req.request(wrong, b"x", timeout=5)
    assert wrong == "\ud800" or isinstance(caught.value, reqtt.InvalidTopic)
    assert len(str(caught.value)) < 500, "a topic of 64 KiB is not repeated in its message"
    with pytest.raises(ValueError):
        await wire.req.client.publish(wrong, b"x")
    await wire.unharmed()


@pytest.mark.parametrize("wrong", [0, -1, -0.001, float("nan"), float("inf"), -float("inf")])
async def test_an_impossible_timeout(wire: Wire, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await wire.req.request(wire.topic, b"x", timeout=wrong)
    with pytest.raises(ValueError, match="timeout"):
        reqtt.Requester(wire.proxy.url, timeout=wrong)
    await wire.unharmed()


@pytest.mark.parametrize(
    "wrong", [object(), {"a": object()}, lambda: None], ids=["object", "nested", "function"]
)
async def test_a_payload_that_can_not_be_encoded(wire: Wire, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        await wire.req.request(wire.topic, wrong, timeout=5)
    await wire.unharmed()


@client_must("MQTT-1.5.4-2")
@pytest.mark.parametrize(
    "wrong",
    [
        {"user_properties": (("k", "a\0b"),)},
        {"user_properties": (("k", TOO_LONG),)},
        {"user_properties": (("k",),)},
        {"content_type": "a\0b"},
        {"content_type": TOO_LONG},
        {"correlation_data": b"x" * 65536},
        {"message_expiry_interval": -1},
        {"message_expiry_interval": 2**32},
        {"qos": -1},
    ],
    ids=lambda w: next(iter(w)),
)
async def test_a_property_that_does_not_fit(wire: Wire, wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        await wire.req.request(wire.topic, b"x", timeout=5, **wrong)
    await wire.unharmed()


@pytest.mark.parametrize(
    "url", ["http://localhost:1883", "localhost", "", "mqtt://", "mqtt://localhost:99999", "tcp://x"]
)
async def test_an_impossible_url(url: str) -> None:
    with pytest.raises(ValueError):
        reqtt.Client(url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_alive": -1},
        {"keep_alive": 65536},
        {"receive_maximum": 0},
        {"receive_maximum": 65536},
        {"maximum_packet_size": 0},
        {"session_expiry_interval": -1},
        {"connect_timeout": 0},
        {"client_id": TOO_LONG},
        {"client_id": "a\0b"},
    ],
    ids=lambda w: next(iter(w)),
)
async def test_an_impossible_connect_option(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        reqtt.Client("mqtt://localhost:1883", **wrong)


async def test_a_password_is_never_printed() -> None:
    port = free_port()
    client = reqtt.Client(f"mqtt://me:s3cret@127.0.0.1:{port}")
    with pytest.raises(reqtt.ConnectError) as caught:
        await client.connect()
    assert "s3cret" not in repr(client) + str(client) + str(caught.value) + repr(caught.value)
    await client.close()


async def test_a_port_nobody_listens_on() -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectError) as caught:
        async with reqtt.Requester(f"mqtt://127.0.0.1:{port}"):
            pytest.fail("not connected")
    assert time.monotonic() - began < 3
    assert caught.value.reason_code is None
    assert isinstance(caught.value, ConnectionError)
    assert str(port) in str(caught.value)


async def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(reqtt.ConnectError):
        async with asyncio.timeout(15):
            await reqtt.Client("mqtt://no-such-host.invalid").connect()


@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_password_on_mosquitto(own_mosquitto: Any, password: str | None) -> None:
    broker = own_mosquitto(users={"me": "right"})
    with pytest.raises(reqtt.ConnectError) as caught:
        await reqtt.Client(broker.url, username="me", password=password).connect()
    assert caught.value.reason_code in (0x86, 0x87)
    async with reqtt.Client(broker.url, username="me", password="right") as client:
        assert client.connected
    async with reqtt.Client(broker.url.replace("//", "//me:right@")) as client:
        assert client.connected


async def test_a_wrong_password_on_the_loopback_broker(own_loopback: Any) -> None:
    broker = own_loopback(username="me", password="right")
    with pytest.raises(reqtt.ConnectError) as caught:
        await reqtt.Client(broker.url, username="me", password="wrong").connect()
    assert caught.value.reason_code in (0x86, 0x87)
    assert f"0x{caught.value.reason_code:02x}" in str(caught.value).lower()
    async with reqtt.Client(broker.url, username="me", password=b"right") as client:
        assert client.connected


@pytest.mark.parametrize("reason_code", [0x80, 0x88, 0x89, 0x8A, 0x9F])
async def test_a_refused_connect_keeps_its_reason_code(loopback: Any, reason_code: int) -> None:
    loopback.loopback.refuse_connect(reason_code)
    with pytest.raises(reqtt.ConnectError) as caught:
        await reqtt.Client(loopback.url).connect()
    assert caught.value.reason_code == reason_code
    loopback.loopback.refuse_connect(None)
    async with reqtt.Client(loopback.url) as client:
        assert client.connected


@asynccontextmanager
async def fake_server(answer: bytes | None, *, silent: bool = False) -> AsyncIterator[int]:
    """Reads the CONNECT, writes `answer`, closes (or says nothing for ever)."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1000)
            if answer:
                writer.write(answer)
                await writer.drain()
            if silent:
                await gone.wait()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        gone.set()
        server.close()


@pytest.mark.parametrize(
    "answer",
    [b"\x20\x02\x00\x01", None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x00", b"\xff" * 20],
    ids=["MQTT 3.1.1: unacceptable protocol version", "closes", "HTTP", "MQTT 3.1.1: accepted", "noise"],
)
async def test_a_server_that_does_not_speak_mqtt_5(answer: bytes | None) -> None:
    async with fake_server(answer) as port:
        began = time.monotonic()
        with pytest.raises(reqtt.ConnectError) as caught:
            await reqtt.Client(f"mqtt://127.0.0.1:{port}", connect_timeout=2).connect()
        assert time.monotonic() - began < 3
        assert len(str(caught.value)) > 10


async def test_a_server_that_says_nothing() -> None:
    async with fake_server(None, silent=True) as port:
        began = time.monotonic()
        with pytest.raises(reqtt.ConnectError):
            await reqtt.Client(f"mqtt://127.0.0.1:{port}", connect_timeout=0.5).connect()
        assert 0.4 < time.monotonic() - began < 1.5


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, path


def issued(ca: trustme.CA, directory: Path, *names: str) -> tuple[Path, Path]:
    certificate = ca.issue_cert(*names)
    chain, key = directory / "chain.pem", directory / "key.pem"
    for n, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(chain), append=n > 0)
    certificate.private_key_pem.write_to_path(str(key))
    return chain, key


async def test_tls_with_a_certificate_that_matches(
    own_mosquitto: Any, authority: tuple[trustme.CA, Path], tmp_path: Path, raw: Factory, topic: str
) -> None:
    ca, ca_file = authority
    broker = own_mosquitto(tls=issued(ca, tmp_path, "localhost", "127.0.0.1"))
    peer = await raw(broker)
    await peer.serve(topic)
    for url in (broker.mosquitto.tls_url, broker.mosquitto.tls_url.replace("127.0.0.1", "localhost")):
        async with reqtt.Requester(url, tls=reqtt.TlsOptions(ca=str(ca_file))) as req:
            assert (await req.request(topic, b"sealed", timeout=5)).payload == b"sealed"


async def test_tls_with_a_certificate_of_another_host(
    own_mosquitto: Any, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, ca_file = authority
    broker = own_mosquitto(tls=issued(ca, tmp_path, "elsewhere.example.org"))
    url = broker.mosquitto.tls_url
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectError):
        await reqtt.Client(url, tls=reqtt.TlsOptions(ca=str(ca_file))).connect()
    assert time.monotonic() - began < 4
    named = reqtt.TlsOptions(ca=str(ca_file), server_name="elsewhere.example.org")
    async with reqtt.Client(url, tls=named) as client:
        assert client.connected
    async with reqtt.Client(url, tls=reqtt.TlsOptions(verify=False)) as client:
        assert client.connected


async def test_tls_with_an_authority_that_is_not_ours(
    own_mosquitto: Any, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    _, ca_file = authority
    broker = own_mosquitto(tls=issued(trustme.CA(), tmp_path, "127.0.0.1"))
    with pytest.raises(reqtt.ConnectError):
        await reqtt.Client(broker.mosquitto.tls_url, tls=reqtt.TlsOptions(ca=str(ca_file))).connect()


async def test_tls_to_a_port_without_tls(mosquitto: Any) -> None:
    with pytest.raises(reqtt.ConnectError):
        await reqtt.Client(mosquitto.url.replace("mqtt:", "mqtts:"), connect_timeout=2).connect()


@pytest.mark.parametrize("kind", ["unix", "websockets"])
async def test_the_other_transports_of_mosquitto(
    own_mosquitto: Any, raw: Factory, topic: str, kind: str
) -> None:
    broker = own_mosquitto(**{kind: True})
    peer = await raw(broker)
    await peer.serve(topic)
    url = broker.mosquitto.unix_url if kind == "unix" else broker.mosquitto.ws_url
    async with reqtt.Requester(url) as req:
        assert (await req.request(topic, b"x" * 100_000, timeout=5)).payload == b"x" * 100_000


@pytest.fixture(params=["loopback", "mosquitto"])
def small_broker(request: pytest.FixtureRequest) -> Any:
    if request.param == "loopback":
        return request.getfixturevalue("own_loopback")(maximum_packet_size=2000)
    return request.getfixturevalue("own_mosquitto")(max_packet_size=2000)


async def test_a_payload_above_the_servers_maximum_packet_size(
    small_broker: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy = await make_proxy(small_broker)
    peer = await raw(small_broker)
    await peer.subscribe(topic)
    req = await requester(proxy)
    assert req.client.connack.maximum_packet_size == 2000
    pending = asyncio.ensure_future(req.request(topic, b"small", timeout=10))
    request = await peer.receive()
    with pytest.raises(reqtt.PacketTooLarge) as caught:
        await req.request(topic, b"x" * 2000, timeout=10)
    assert isinstance(caught.value, ValueError)
    assert "2000" in str(caught.value)
    with pytest.raises(reqtt.PacketTooLarge):
        await req.client.publish(topic, b"x" * 2000)
    await peer.respond(request, "answer")
    assert (await pending).text == "answer"
    waiting = asyncio.ensure_future(req.request(topic, b"x" * 1500, timeout=10))
    await peer.respond(await peer.receive(), "fits")
    assert (await waiting).text == "fits"
    assert [len(r.packet.payload) for r in proxy.up(PUBLISH, topic)] == [5, 1500]
    assert proxy.accepted == 1
    assert req.client.stats().pending == 0


async def test_a_handler_with_an_argument_that_nothing_can_fill(proxy: Proxy, topic: str) -> None:
    async def handler(request: Request, device: str, other: int) -> None: ...

    with pytest.raises(TypeError, match=r"device|other"):
        reqtt.Responder(proxy.url, [responder(f"{topic}/x")(handler)])
    assert not proxy.up(CONNECT)


@pytest.mark.parametrize(
    "wrong",
    ["", "a/#/b", "a/b+", "a/{x}/{x}", "a/{}", "a/{rest:#}/b", "a\0b", TOO_LONG],
    ids=lambda w: ascii(w)[:20],
)
async def test_a_handler_with_an_impossible_filter(proxy: Proxy, wrong: str) -> None:
    async def handler(request: Request) -> None: ...

    with pytest.raises(ValueError):
        reqtt.Responder(proxy.url, [responder(wrong)(handler)])
    assert not proxy.up(CONNECT)


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"timeout": 0}, {"timeout": -1}, {"qos": 3}, {"ack": "never"}, {"group": "a/b"}],
    ids=str,
)
async def test_a_handler_with_an_impossible_option(proxy: Proxy, topic: str, wrong: dict[str, Any]) -> None:
    async def handler(request: Request) -> None: ...

    with pytest.raises(ValueError):
        reqtt.Responder(proxy.url, [responder(topic, **wrong)(handler)])


async def test_two_handlers_for_one_filter(proxy: Proxy, topic: str) -> None:
    @responder(f"{topic}/{{a}}")
    async def first(a: str) -> None: ...

    @responder(f"{topic}/{{b}}")
    async def second(b: str) -> None: ...

    with pytest.raises(ValueError, match=topic):
        async with reqtt.Responder(proxy.url, [first, second]):
            pytest.fail("started")
    assert not proxy.up(SUBSCRIBE)


async def test_a_function_that_is_no_handler(proxy: Proxy) -> None:
    async def plain() -> None: ...

    with pytest.raises((TypeError, ValueError), match="responder"):
        reqtt.Responder(proxy.url, [plain])


async def test_a_call_from_another_loop(wire: Wire) -> None:
    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match=r"loop|thread|request_sync"):
            await wire.req.request(wire.topic, b"x", timeout=5)

    await asyncio.to_thread(asyncio.run, elsewhere())
    await wire.unharmed()


async def test_a_call_from_a_thread_without_a_loop(wire: Wire) -> None:
    def elsewhere() -> None:
        waiting = wire.req.request(wire.topic, b"x", timeout=5)
        waiting.send(None)  # a coroutine says it only now

    with pytest.raises(RuntimeError, match=r"loop|thread|request_sync"):
        await asyncio.to_thread(elsewhere)
    await wire.unharmed()


async def test_request_sync_on_the_loops_own_thread(wire: Wire) -> None:
    with pytest.raises(RuntimeError, match=r"await|thread"):
        wire.req.request_sync(wire.topic, b"x", timeout=5)
    await wire.unharmed()


async def test_use_before_connect_and_after_close(broker: Any, proxy: Proxy, topic: str) -> None:
    req = reqtt.Requester(proxy.url)
    with pytest.raises((reqtt.ReqttError, RuntimeError)):
        await req.request(topic, b"x", timeout=2)
    assert not proxy.records
    async with req:
        with pytest.raises(reqtt.NoMatchingSubscribers):
            await req.request(topic, b"x", timeout=5)
    for _ in range(2):
        with pytest.raises(reqtt.ClientClosed):
            await req.request(topic, b"x", timeout=5)
    with pytest.raises(reqtt.ClientClosed):
        await req.client.publish(topic, b"x")
    await req.close()
    assert len(proxy.up(PUBLISH)) == 1
    assert proxy.accepted == 1


async def test_a_handler_gets_what_no_codec_can_decode(wire: Wire, serving: Factory) -> None:
    @responder(f"{wire.topic}/json")
    async def handler(body: dict[str, Any]) -> dict[str, Any]:
        return body

    await serving(wire.req.client, handler)
    for wrong in (b"", b"\xff", b"{", b"[" * 100_000, b"nul"):
        with pytest.raises(reqtt.BadRequest):
            await wire.req.request(f"{wire.topic}/json", wrong, timeout=5)
    assert (await wire.req.request(f"{wire.topic}/json", b"{}", timeout=5)).json() == {}


async def test_a_result_that_can_not_be_encoded_is_a_500(wire: Wire, serving: Factory) -> None:
    @responder(f"{wire.topic}/odd")
    async def handler(body: bytes) -> Any:
        return object() if body == b"odd" else body

    await serving(wire.req.client, handler)
    with pytest.raises(reqtt.RemoteError) as caught:
        await wire.req.request(f"{wire.topic}/odd", b"odd", timeout=5)
    assert caught.value.status == 500
    assert (await wire.req.request(f"{wire.topic}/odd", b"even", timeout=5)).payload == b"even"


async def test_a_response_that_can_not_be_decoded_is_a_decode_error(wire: Wire) -> None:
    with pytest.raises(reqtt.DecodeError) as caught:
        await wire.req.request(wire.topic, b"{", response_type=dict, timeout=5)
    assert isinstance(caught.value, ValueError)
    response = await wire.req.request(wire.topic, b"\xff", timeout=5)
    with pytest.raises(ValueError):
        response.json()
    await wire.unharmed(wire.topic, wire.topic)


async def test_mosquitto_goes_away_and_comes_back(
    own_mosquitto: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    broker = own_mosquitto()
    server: Mosquitto = broker.mosquitto
    req = await requester(broker, reconnect=reqtt.Reconnect(initial=0.05, max=0.2))
    for kill in (True, False):
        server.restart(kill=kill)
        peer = await raw(broker)
        await peer.serve(topic)
        assert (await req.request(topic, b"x", timeout=10)).payload == b"x"
    assert req.client.stats().reconnects >= 2
