"""The ways to a broker: TCP, Unix socket, WebSocket, TLS; what is said when one fails; how it returns."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

import reqtt
from support import broker_must, client_must
from support.mosquitto import Mosquitto, free_port
from support.packets import CONNECT, DISCONNECT, PINGREQ
from support.proxy import Proxy

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.2, jitter=0)
PASSWORD = "hunter2-the-password"


@dataclass(frozen=True)
class Authority:
    """Paths of PEM files."""

    ca: Path
    cert: Path
    key: Path
    other_ca: Path
    misnamed_cert: Path
    misnamed_key: Path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("pki")
    ca = trustme.CA()

    def write(name: str, blob: trustme.Blob) -> Path:
        path: Path = directory / name
        blob.write_to_path(path)
        return path

    right, wrong = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("broker.test")
    return Authority(
        ca=write("ca.pem", ca.cert_pem),
        cert=write("cert.pem", right.cert_chain_pems[0]),
        key=write("key.pem", right.private_key_pem),
        other_ca=write("other.pem", trustme.CA().cert_pem),
        misnamed_cert=write("misnamed.pem", wrong.cert_chain_pems[0]),
        misnamed_key=write("misnamed.key", wrong.private_key_pem),
    )


@pytest.fixture(scope="module")
def urls(pki: Authority) -> Iterator[dict[str, str]]:
    """One Mosquitto with a listener of each kind."""
    ports = {name: free_port() for name in ("mtls", "wss", "misnamed", "ipv6")}
    extra = [
        f"listener {ports['mtls']} 127.0.0.1",
        f"certfile {pki.cert}",
        f"keyfile {pki.key}",
        f"cafile {pki.ca}",
        "require_certificate true",
        f"listener {ports['wss']} 127.0.0.1",
        "protocol websockets",
        f"certfile {pki.cert}",
        f"keyfile {pki.key}",
        f"listener {ports['misnamed']} 127.0.0.1",
        f"certfile {pki.misnamed_cert}",
        f"keyfile {pki.misnamed_key}",
        f"listener {ports['ipv6']} ::1",
    ]
    with Mosquitto(websockets=True, unix=True, tls=(pki.cert, pki.key), extra=extra) as broker:
        yield {
            "mqtt": broker.url,
            "ws": broker.ws_url,
            "unix": broker.unix_url,
            "mqtts": f"mqtts://localhost:{broker.tls_port}",
            "mqtts to an address": broker.tls_url,
            "mtls": f"mqtts://localhost:{ports['mtls']}",
            "wss": f"wss://localhost:{ports['wss']}/mqtt",
            "misnamed": f"mqtts://localhost:{ports['misnamed']}",
            "ipv6": f"mqtt://[::1]:{ports['ipv6']}",
            "localhost": f"mqtt://localhost:{broker.port}",
        }


async def next_event(events: AsyncIterator[Any], kind: type, timeout: float = 5) -> Any:
    """The next event of this kind."""
    seen: list[Any] = []
    try:
        async with asyncio.timeout(timeout):
            while True:
                seen.append(await anext(events))
                if isinstance(seen[-1], kind):
                    return seen[-1]
    except TimeoutError:
        raise AssertionError(f"no {kind.__name__} within {timeout} s, but {seen}") from None


# --- every transport carries requests


async def ask_and_answer(url: str, topic: str, *, large: bool = True, **options: Any) -> None:
    @reqtt.responder(topic)
    async def reverse(body: bytes) -> bytes:
        return body[::-1]

    body = bytes(range(256)) * (1200 if large else 40)
    async with reqtt.Responder(url, [reverse], **options), reqtt.Requester(url, **options) as req:
        assert (await req.request(topic, "abc", timeout=5)).text == "cba"
        answers = await asyncio.gather(
            *(req.request(topic, body, timeout=10) for _ in range(5 if large else 1))
        )
        assert all(answer.payload == body[::-1] for answer in answers)


@client_must("MQTT-4.2-1")
@pytest.mark.parametrize("transport", ["mqtt", "localhost", "ws", "unix", "ipv6"])
async def test_a_transport_without_tls(urls: dict[str, str], topic: str, transport: str) -> None:
    # Mosquitto 2.0.11 loses its way in large or many WebSocket frames, whoever sends them.
    await ask_and_answer(urls[transport], topic, large=transport != "ws")


@pytest.mark.parametrize("transport", ["mqtts", "mqtts to an address", "wss"])
async def test_a_transport_with_tls(urls: dict[str, str], pki: Authority, topic: str, transport: str) -> None:
    await ask_and_answer(urls[transport], topic, large=transport != "wss", tls=reqtt.TlsOptions(ca=pki.ca))


@broker_must("MQTT-4.2-1", "MQTT-6.0.0-4")
@pytest.mark.parametrize("transport", ["url", "ws_url"])
async def test_the_loopback_brokers_transports(loopback: Any, topic: str, transport: str) -> None:
    await ask_and_answer(getattr(loopback.loopback, transport), topic)


@pytest.mark.parametrize("form", ["path", "str", "text", "bytes"])
async def test_certificates_are_paths_or_pem(
    urls: dict[str, str], pki: Authority, topic: str, form: str
) -> None:
    read = {"path": Path, "str": str, "text": Path.read_text, "bytes": Path.read_bytes}[form]
    tls = reqtt.TlsOptions(ca=read(pki.ca), cert=read(pki.cert), key=read(pki.key))
    await ask_and_answer(urls["mtls"], topic, tls=tls)


async def test_server_name_is_the_name_that_is_checked(
    urls: dict[str, str], pki: Authority, topic: str
) -> None:
    tls = reqtt.TlsOptions(ca=pki.ca, server_name="broker.test")
    await ask_and_answer(urls["misnamed"], topic, tls=tls)


async def test_verify_false_takes_any_certificate_and_warns(
    urls: dict[str, str], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ask_and_answer(urls["misnamed"], topic, tls=reqtt.TlsOptions(verify=False))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings
    assert all("verification is off" in record.getMessage() for record in warnings)
    assert {record.name.split(".")[0] for record in warnings} == {"reqtt"}


async def test_a_client_certificate_that_is_missing_is_asked_for(
    urls: dict[str, str], pki: Authority
) -> None:
    with pytest.raises(reqtt.ConnectError, match=r"client certificate.*cert="):
        await reqtt.Client(urls["mtls"], tls=reqtt.TlsOptions(ca=pki.ca)).connect()


async def test_a_wrong_name_is_refused(urls: dict[str, str], pki: Authority) -> None:
    with pytest.raises(reqtt.ConnectError, match=r"broker\.test.*server_name="):
        await reqtt.Client(urls["misnamed"], tls=reqtt.TlsOptions(ca=pki.ca)).connect()


@pytest.mark.parametrize("transport", ["mqtts", "wss"])
async def test_an_unknown_authority_is_refused(urls: dict[str, str], pki: Authority, transport: str) -> None:
    with pytest.raises(reqtt.ConnectError, match=r"not trusted.*ca="):
        await reqtt.Client(urls[transport], tls=reqtt.TlsOptions(ca=pki.other_ca)).connect()


async def test_the_systems_authorities_do_not_know_this_one(urls: dict[str, str]) -> None:
    with pytest.raises(reqtt.ConnectError, match="ca="):
        await reqtt.Client(urls["mqtts"]).connect()


# --- user and password


@pytest.fixture(scope="module")
def guarded() -> Iterator[Mosquitto]:
    with Mosquitto(users={"alice": PASSWORD}) as broker:
        yield broker


@pytest.fixture(params=["loopback", "mosquitto"])
def guarded_port(request: pytest.FixtureRequest) -> int:
    if request.param == "mosquitto":
        port: int = request.getfixturevalue("guarded").port
        return port
    broker = request.getfixturevalue("own_loopback")(username="alice", password=PASSWORD)
    found: int = broker.port
    return found


@pytest.mark.parametrize("where", ["url", "str", "bytes"])
async def test_user_and_password_let_in(guarded_port: int, where: str) -> None:
    url, options = f"mqtt://127.0.0.1:{guarded_port}", {}
    if where == "url":
        url = f"mqtt://alice:{PASSWORD}@127.0.0.1:{guarded_port}"
    else:
        options = {"username": "alice", "password": PASSWORD.encode() if where == "bytes" else PASSWORD}
    async with reqtt.Client(url, **options) as client:
        assert client.connected


@pytest.mark.parametrize("options", [{"username": "alice", "password": "wrong"}, {}], ids=["wrong", "none"])
async def test_the_wrong_password_is_refused_with_the_brokers_code(
    guarded_port: int, options: dict[str, str]
) -> None:
    client = reqtt.Client(f"mqtt://127.0.0.1:{guarded_port}", **options)
    with pytest.raises(reqtt.ConnectError) as caught:
        await client.connect()
    assert caught.value.reason_code in (0x86, 0x87)
    assert f"0x{caught.value.reason_code:02x}" in str(caught.value).lower()
    assert isinstance(caught.value, ConnectionError)


@pytest.fixture
async def mute_port() -> AsyncIterator[int]:
    """Where connections are accepted and nothing is ever said."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()


@pytest.fixture
async def failures(
    urls: dict[str, str], pki: Authority, guarded: Mosquitto, mute_port: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """URL without credentials, and options, of connects that fail."""
    secret = {"username": "alice", "password": PASSWORD + "!"}
    key = reqtt.TlsOptions(ca=pki.other_ca, cert=pki.cert.read_bytes(), key=pki.key.read_text())
    return {
        "password": (guarded.url, secret),
        "password in the url": (guarded.url, {}),
        "refused": (f"mqtt://127.0.0.1:{free_port()}", secret),
        "mute": (f"mqtt://127.0.0.1:{mute_port}", {**secret, "connect_timeout": 0.1}),
        "mute ws": (f"ws://127.0.0.1:{mute_port}/mqtt", {**secret, "connect_timeout": 0.1}),
        "tls": (urls["mqtts"], {**secret, "tls": key}),
        "not tls": (urls["mqtt"].replace("mqtt:", "mqtts:"), {**secret, "tls": key, "connect_timeout": 1}),
        "not a web socket": (urls["mqtt"].replace("mqtt:", "ws:"), {**secret, "connect_timeout": 1}),
        "no such name": ("mqtt://broker.invalid", secret),
        "token in the url": (urls["wss"].replace("/mqtt", "/x?token=" + PASSWORD), {**secret, "tls": key}),
    }


async def test_no_failure_tells_a_secret(
    failures: dict[str, tuple[str, dict[str, Any]]], pki: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [PASSWORD, *pki.key.read_text().splitlines()[1:-1]]
    for name, (url, options) in failures.items():
        if "username" not in options or "token" in name:
            options = {k: v for k, v in options.items() if k not in ("username", "password")}
            url = url.replace("://", f"://alice:{PASSWORD}!@")
        client = reqtt.Client(url, **options)
        requester = reqtt.Requester(url, **options)
        with pytest.raises(reqtt.ConnectError) as caught:
            await client.connect()
        told = [
            repr(client),
            repr(requester),
            repr(options.get("tls")),
            repr(caught.value.args),
            repr(vars(caught.value)),
            "".join(traceback.format_exception(caught.value)[-1:]),
            caplog.text,
        ]
        for text in told:
            assert not any(secret in text for secret in secrets), (name, text)
        assert "alice" not in repr(client)


async def test_a_wrong_argument_does_not_tell_the_password() -> None:
    for options in ({"password": [PASSWORD]}, {"username": 7, "password": PASSWORD}):
        with pytest.raises((TypeError, ValueError)) as caught:
            reqtt.Client("mqtt://127.0.0.1", **options)
        assert PASSWORD not in str(caught.value)
    with pytest.raises(ValueError) as invalid:
        reqtt.Client(f"http://alice:{PASSWORD}@127.0.0.1")
    assert PASSWORD not in str(invalid.value)


# --- not answering


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws", "wss"])
async def test_connect_timeout_ends_a_connect_that_nobody_answers(mute_port: int, scheme: str) -> None:
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectError, match="connect_timeout") as caught:
        await reqtt.Client(f"{scheme}://127.0.0.1:{mute_port}", connect_timeout=0.3).connect()
    assert 0.29 <= time.monotonic() - began < 1.3
    assert caught.value.reason_code is None


async def test_nobody_listening_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectError, match="nobody listens"):
        await reqtt.Client(f"mqtt://127.0.0.1:{free_port()}").connect()
    assert time.monotonic() - began < 1


async def test_a_client_that_failed_to_connect_tries_again(own_mosquitto: Callable[..., Any]) -> None:
    broker = own_mosquitto()
    broker.mosquitto.stop()
    client = reqtt.Client(broker.url)
    events = client.events()
    with pytest.raises(reqtt.ConnectError):
        await client.connect()
    await asyncio.to_thread(broker.mosquitto.start)
    await client.connect()
    assert client.connected
    assert isinstance(await next_event(events, reqtt.Connected), reqtt.Connected)
    await client.close()
    with pytest.raises(StopAsyncIteration):
        await anext(events)


# --- lost, and back


async def test_a_restarted_broker_is_found_again_with_backoff(
    own_mosquitto: Callable[..., Any], client: Factory, topic: str
) -> None:
    broker = own_mosquitto()
    c = await client(broker, reconnect=QUICK)
    events = c.events()
    await asyncio.to_thread(broker.mosquitto.kill)
    seen = [await asyncio.wait_for(anext(events), 5)]
    while not (isinstance(seen[-1], reqtt.Reconnecting) and seen[-1].attempt == 4):
        seen.append(await asyncio.wait_for(anext(events), 5))
    assert not c.connected
    waiting = asyncio.ensure_future(c.publish(topic))
    await asyncio.to_thread(broker.mosquitto.start)
    while not isinstance(seen[-1], reqtt.Connected):
        seen.append(await asyncio.wait_for(anext(events), 5))
    lost, *attempts, back = seen
    assert isinstance(lost, reqtt.Disconnected)
    assert (lost.reason_code, lost.final) == (None, False)
    assert lost.reason
    assert all(isinstance(event, reqtt.Reconnecting) for event in attempts)
    assert [event.attempt for event in attempts] == list(range(1, len(attempts) + 1))
    assert [round(event.delay, 3) for event in attempts[:4]] == [0.05, 0.1, 0.2, 0.2]
    assert back.connack.session_present is False
    assert back.client_id == c.client_id
    assert (await waiting).reason_code == 0x10
    assert c.connected
    assert c.stats().reconnects == 1


async def test_the_backoff_starts_over_after_a_connection(
    loopback: Any, make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    c = await client(proxy, reconnect=QUICK)
    events = c.events()
    for _ in range(3):
        proxy.cut()
        assert (await next_event(events, reqtt.Reconnecting)).attempt == 1
        await next_event(events, reqtt.Connected)
    assert c.stats().reconnects == 3


async def test_jitter_takes_up_to_its_part_of_the_delay(loopback: Any, client: Factory) -> None:
    c = await client(loopback, reconnect=reqtt.Reconnect(initial=0.02, max=0.02, jitter=0.5))
    events = c.events()
    delays = []
    for _ in range(8):
        loopback.loopback.cut()
        delays.append((await next_event(events, reqtt.Reconnecting)).delay)
        await next_event(events, reqtt.Connected)
    assert all(0.01 <= delay <= 0.02 for delay in delays)
    assert len(set(delays)) > 1


async def test_give_up_after_ends_everything(
    loopback: Any, make_proxy: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.subscribe(topic)
    reconnect = reqtt.Reconnect(initial=0.05, max=0.05, jitter=0, give_up_after=0.4)
    async with reqtt.Requester(proxy.url, reconnect=reconnect) as req:
        events = req.client.events()
        pending = asyncio.ensure_future(req.request(topic, timeout=30))
        await peer.receive()
        proxy.refuse()
        began = time.monotonic()
        proxy.cut()
        assert (await next_event(events, reqtt.Disconnected)).final is False
        last = await next_event(events, reqtt.Disconnected)
        assert last.final is True
        assert "give_up_after" in last.reason
        assert 0.39 <= time.monotonic() - began < 1.5
        with pytest.raises(reqtt.ConnectionLost):
            await asyncio.wait_for(pending, 1)
        for call in (req.request(topic, timeout=30), req.client.publish(topic), req.client.connect()):
            with pytest.raises(reqtt.ConnectionLost, match="gave up"):
                await asyncio.wait_for(call, 1)
        # It stays so, even where the broker is back.
        await proxy.accept()
        with pytest.raises(reqtt.ConnectionLost):
            await req.client.publish(topic)
        assert not req.client.connected


async def test_without_reconnect_the_loss_is_final(
    loopback: Any, make_proxy: Factory, client: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    c = await client(proxy, reconnect=None)
    events = c.events()
    proxy.cut()
    assert (await next_event(events, reqtt.Disconnected)).final is True
    with pytest.raises(reqtt.ConnectionLost):
        await c.publish(topic)
    assert proxy.accepted == 1


async def test_a_takeover_is_reported_and_not_answered_with_another(
    loopback: Any, make_proxy: Factory, client: Factory, topic: str
) -> None:
    # Mosquitto 2.0.11 closes the first connection without a DISCONNECT.
    proxy: Proxy = await make_proxy(loopback)
    first = await client(proxy, client_id=topic.replace("/", "-"), reconnect=QUICK)
    events = first.events()
    second = await client(proxy, client_id=first.client_id, reconnect=QUICK)
    lost = await next_event(events, reqtt.Disconnected)
    assert (lost.reason_code, lost.final) == (0x8E, True)
    assert "client_id" in lost.reason
    with pytest.raises(reqtt.ConnectionLost) as caught:
        await first.publish(topic)
    assert caught.value.reason_code == 0x8E
    assert (await second.publish(topic)).reason_code == 0x10
    await first.close()
    assert (await second.publish(topic)).reason_code == 0x10
    assert len(proxy.up(CONNECT)) == 2


async def test_a_broker_that_shuts_down_is_connected_to_again(loopback: Any, client: Factory) -> None:
    c = await client(loopback, reconnect=QUICK)
    events = c.events()
    loopback.loopback.disconnect(0x8B)
    lost = await next_event(events, reqtt.Disconnected)
    assert (lost.reason_code, lost.final) == (0x8B, False)
    await next_event(events, reqtt.Connected)


async def test_a_clean_shutdown_of_mosquitto_is_connected_to_again(
    own_mosquitto: Callable[..., Any], client: Factory
) -> None:
    broker = own_mosquitto()
    c = await client(broker, reconnect=QUICK)
    events = c.events()
    await asyncio.to_thread(broker.mosquitto.restart)
    assert (await next_event(events, reqtt.Disconnected)).final is False
    await next_event(events, reqtt.Connected)


# --- keep alive


@client_must("MQTT-3.1.2-20", "MQTT-3.1.2-21", "MQTT-3.2.2-21")
async def test_the_servers_keep_alive_is_kept(
    own_loopback: Callable[..., Any], make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(own_loopback(server_keep_alive=1))
    c = await client(proxy, keep_alive=60)
    assert c.connack.server_keep_alive == 1
    assert proxy.up(CONNECT)[0].packet.keep_alive == 60
    first = await proxy.wait_up(PINGREQ)
    second = await proxy.wait_up(PINGREQ, count=2)
    assert first.time - proxy.up(CONNECT)[0].time <= 1.05
    assert second.time - first.time <= 1.05
    assert c.connected
    assert proxy.accepted == 1


async def test_a_silent_broker_is_noticed_by_its_missing_pingresp(
    loopback: Any, make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    c = await client(proxy, keep_alive=1, reconnect=QUICK)
    events = c.events()
    proxy.lose("down")
    lost = await next_event(events, reqtt.Disconnected, timeout=4)
    assert "PINGREQ" in lost.reason
    assert (lost.reason_code, lost.final) == (None, False)
    proxy.lose("down", on=False)
    await next_event(events, reqtt.Connected)
    assert not proxy.up(DISCONNECT)


async def test_a_silent_broker_is_noticed_while_messages_go_out(
    loopback: Any, make_proxy: Factory, client: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    c = await client(proxy, keep_alive=1, reconnect=QUICK)
    events = c.events()
    proxy.lose("down")
    lost = asyncio.ensure_future(next_event(events, reqtt.Disconnected, timeout=4))
    while not lost.done():
        await c.publish(topic, qos=0)
        await asyncio.wait([lost], timeout=0.1)
    assert "PINGREQ" in lost.result().reason
    proxy.lose("down", on=False)
    await next_event(events, reqtt.Connected)
