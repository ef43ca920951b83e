"""The same behaviour on every broker: a row of the table for each test, a column for each broker."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

import reqtt
from interop.brokers import DENIED, MAXIMUM_PACKET_SIZE, Server
from reqtt import RequestError, responder
from support.packets import Type
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
Lacks = Callable[[str], NoReturn]
Shows = Callable[[str], None]


# Brokers that stop when acknowledgements and messages for one client cross. The other rows ask one at a time.
DEADLOCKS = {
    "mochi": "[MQTT-4.3.2-4]: sooner or later it acknowledges nothing more. Its Inflight.NextImmediate takes"
    " a read lock, and GetAll takes it again: a PUBLISH that waits to write in between stops both for ever"
}


def row(name: str) -> pytest.MarkDecorator:
    return pytest.mark.cell("brokers", name, "{server}")


def echo_on(topic: str, **options: Any) -> Any:
    @responder(topic, qos=2, **options)
    async def answer(request: reqtt.Request) -> reqtt.Response:
        return reqtt.Response(request.payload, user_properties=request.user_properties)

    return answer


@row("request and response at QoS {qos}")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_request_and_response(
    server: Server, requester: Factory, serving: Factory, topic: str, qos: int, lacks: Lacks
) -> None:
    await serving(server, echo_on(topic))
    req = await requester(server, qos=qos, response_qos=qos)
    if req.client.connack.maximum_qos < qos:
        lacks(f"CONNACK says Maximum QoS {req.client.connack.maximum_qos}")
    for n in range(0, 20, at_once := 1 if server.kind in DEADLOCKS else 20):
        waiting = [req.request(topic, f"n{m}", timeout=5) for m in range(n, n + at_once)]
        responses = await asyncio.gather(*waiting)
        assert [(r.text, r.qos) for r in responses] == [(f"n{m}", qos) for m in range(n, n + at_once)]


async def acknowledges(client: reqtt.Client, topic: str) -> bool:
    """Whether the broker does so within 3 s. Requests that have their PUBACK say nothing of the next."""
    try:
        await asyncio.wait_for(client.publish(f"{topic}/probe", qos=1), 3)
    except TimeoutError:
        return False
    return True


@row("500 requests in flight")
async def test_many_in_flight(
    server: Server,
    another: Callable[[str], Server],
    requester: Factory,
    serving: Factory,
    topic: str,
    shows: Shows,
    breaks: Lacks,
) -> None:
    deadlocks = server.kind in DEADLOCKS
    if deadlocks:
        # It would take the other rows with it.
        server = another(server.kind)
    app = await serving(server, echo_on(topic, concurrency=1000))
    req = await requester(server)
    until = time.monotonic() + (15 if deadlocks else 0)
    for round in itertools.count(1):
        waiting = [req.request(topic, f"n{n}", timeout=3 if deadlocks else 20) for n in range(500)]
        responses = await asyncio.gather(*waiting, return_exceptions=True)
        if deadlocks and any(isinstance(r, reqtt.ResponseTimeout) for r in responses):
            probes = (acknowledges(client, topic) for client in (req.client, app.client))
            assert not all(await asyncio.gather(*probes)), "it acknowledges what either side sends"
            await app.close(drain=False)
            breaks(DEADLOCKS[server.kind])
        assert [r.text for r in responses if isinstance(r, reqtt.Response)] == [f"n{n}" for n in range(500)]
        stats = req.client.stats()
        assert (stats.responses, stats.unmatched, stats.duplicates) == (500 * round, 0, 0)
        if time.monotonic() > until:
            break
    if deadlocks:
        pytest.skip("not run: it has not shown its deadlock within 15 s")
    shows(f"Receive Maximum {req.client.connack.receive_maximum}")


@row("properties arrive as they were sent")
async def test_properties(
    server: Server, requester: Factory, serving: Factory, topic: str, breaks: Lacks
) -> None:
    seen: list[reqtt.Request] = []

    @responder(topic)
    async def look(request: reqtt.Request) -> reqtt.Response:
        seen.append(request)
        return reqtt.Response("é", content_type="text/x-answer", user_properties=[("b", "2"), ("b", "1")])

    await serving(server, look)
    req = await requester(server)
    response = await req.request(
        topic,
        b"\x00\xff",
        content_type="image/x-odd",
        payload_format_indicator=0,
        user_properties=[("a", "1"), ("ä", ""), ("a", "1")],
        correlation_data=b"\x00\xff\xfe",
        timeout=5,
    )
    [request] = seen
    assert (request.payload, request.content_type) == (b"\x00\xff", "image/x-odd")
    assert request.payload_format_indicator in (0, None)  # 0 is what its absence means
    assert request.correlation_data == b"\x00\xff\xfe"
    assert request.message_expiry_interval in (4, 5)
    assert (response.text, response.content_type) == ("é", "text/x-answer")
    asked, answered = (("a", "1"), ("ä", ""), ("a", "1")), (("b", "2"), ("b", "1"))
    added = {name for name, _ in (*request.user_properties, *response.user_properties)} - {"a", "ä", "b"}
    if added:
        assert tuple(p for p in request.user_properties if p[0] not in added) == asked
        assert tuple(p for p in response.user_properties if p[0] not in added) == answered
        names = ", ".join(sorted(added))
        breaks(
            f"[MQTT-3.3.2-17]: User Properties arrive with one more, {names}; everything else as it was sent"
        )
    assert response.user_properties == answered
    if request.user_properties != asked and sorted(request.user_properties) == sorted(asked):
        breaks("[MQTT-3.3.2-18]: User Properties a, ä, a arrive as a, a, ä; everything else as it was sent")
    assert request.user_properties == asked


@row("the error of a handler")
async def test_errors(server: Server, requester: Factory, serving: Factory, topic: str) -> None:
    @responder(topic)
    async def missing(body: bytes) -> None:
        raise RequestError(404, "no such light", data={"light": "attic"})

    await serving(server, missing)
    req = await requester(server)
    with pytest.raises(reqtt.NotFound, match="no such light") as error:
        await req.request(topic, timeout=5)
    assert error.value.data == {"light": "attic"}


@row("gather")
async def test_gather(server: Server, requester: Factory, serving: Factory, topic: str) -> None:
    for number in range(3):

        @responder(topic)
        async def answer(number: int = number) -> str:
            return f"lamp {number}"

        await serving(server, answer)
    req = await requester(server)
    responses = await req.gather(topic, max_responses=3, timeout=5)
    assert sorted(r.text for r in responses) == ["lamp 0", "lamp 1", "lamp 2"]


@row("shared subscription")
async def test_shared_subscription(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks
) -> None:
    ran: list[int] = []
    req = await requester(server)
    if not req.client.connack.shared_subscription_available:
        with pytest.raises(reqtt.SubscribeError, match=r"0x9e|0x9E"):
            await serving(server, echo_on(topic, group="workers"))
        lacks("CONNACK says Shared Subscription Available 0, SUBACK 0x9E")
    for number in range(2):

        @responder(topic, group="workers")
        async def work(body: bytes, number: int = number) -> bytes:
            ran.append(number)
            return body

        await serving(server, work)
    for n in range(0, 40, at_once := 1 if server.kind in DEADLOCKS else 40):
        waiting = [req.request(topic, f"n{m}", timeout=5) for m in range(n, n + at_once)]
        assert [r.text for r in await asyncio.gather(*waiting)] == [f"n{m}" for m in range(n, n + at_once)]
    # To one of them; to which is the broker's choice (section 4.8.2), and HiveMQ may choose one for all.
    assert len(ran) == 40


@row("a will that is a request")
async def test_will(
    server: Server, serving: Factory, raw: Factory, make_proxy: Factory, topic: str, breaks: Lacks
) -> None:
    @responder(f"{topic}/gone")
    async def noted(body: str) -> str:
        return f"{body} is noted"

    await serving(server, noted)
    # rumqttd lets nobody in with Keep Alive 0.
    watcher = await raw(server, keep_alive=60)
    await watcher.subscribe(f"{topic}/+")
    proxy = await make_proxy(server)
    will = reqtt.Will(
        f"{topic}/gone", "panel-7", response_topic=f"{topic}/seen", correlation_data=b"\xffwill"
    )
    client = reqtt.Client(proxy.url, will=will, reconnect=None)
    await client.connect()
    proxy.cut()
    published = await watcher.receive()
    assert (published.topic, published.payload) == (f"{topic}/gone", b"panel-7")
    if published.response_topic is None:
        breaks("[MQTT-3.3.2-15]: the will is published without its Response Topic and Correlation Data")
    answer = await watcher.receive()
    assert (answer.payload, answer.correlation_data) == (b"panel-7 is noted", b"\xffwill")
    await client.close()


@row("Response Information")
async def test_response_information(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks, shows: Shows
) -> None:
    await serving(server, echo_on(topic))
    req = await requester(server)
    information = req.client.connack.response_information
    response = await req.request(topic, "x", timeout=5)
    if information is None:
        assert response.topic.startswith("clients/")
        lacks("none in CONNACK, though CONNECT asked for it; the response topic is the default one")
    assert response.topic.startswith(f"{information}/")
    shows(f'"{information}"')


@row("nobody subscribes: 0x10")
async def test_nobody_subscribes(server: Server, requester: Factory, topic: str, lacks: Lacks) -> None:
    req = await requester(server)
    before = time.monotonic()
    with pytest.raises(reqtt.ReqttError) as end:
        await req.request(topic, "x", timeout=1)
    if isinstance(end.value, reqtt.ResponseTimeout):
        assert end.value.phase == "response"
        lacks("PUBACK 0x00; the request ends with its timeout")
    assert isinstance(end.value, reqtt.NoMatchingSubscribers)
    assert time.monotonic() - before < 0.9


@row("refused SUBSCRIBE")
async def test_refused_subscribe(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks, shows: Shows
) -> None:
    req = await requester(server, response_topic=f"{DENIED}/{topic}")
    if not server.refuses:
        await serving(server, echo_on(topic))
        assert (await req.request(topic, "x", timeout=5)).topic.startswith(DENIED)
        lacks("nothing in it can refuse a topic: the request is answered")
    with pytest.raises(reqtt.SubscribeError) as refused:
        await req.request(topic, "x", timeout=5)
    shows(f"0x{refused.value.reason_code:02X}")
    assert refused.value.topic_filter == f"{DENIED}/{topic}"
    assert req.client.connected


@row("refused PUBLISH")
async def test_refused_publish(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks, shows: Shows
) -> None:
    req = await requester(server)
    if not server.refuses:
        await serving(server, echo_on(f"{DENIED}/{topic}"))
        assert (await req.request(f"{DENIED}/{topic}", "x", timeout=5)).text == "x"
        lacks("nothing in it can refuse a topic: the request is answered")
    for qos in (1, 2):
        with pytest.raises(reqtt.PublishError) as refused:
            await req.request(f"{DENIED}/{topic}", "x", qos=qos, timeout=5)
        assert refused.value.reason_code >= 0x80
    shows(f"0x{refused.value.reason_code:02X}")
    if server.kind == "hivemq":
        # It says so in a DISCONNECT of its own, too, which comes behind the PUBREC.
        await eventually(lambda: req.client.stats().reconnects == 2 and req.client.connected)
    assert req.client.connected


@row("reconnect, session kept")
async def test_session_kept(
    server: Server, requester: Factory, serving: Factory, make_proxy: Factory, topic: str
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    @responder(topic)
    async def slow(body: str) -> str:
        asked.set()
        await answer.wait()
        return body

    app = await serving(server, slow)
    proxy = await make_proxy(server)
    req = await requester(
        proxy,
        client_id=f"panel-{secrets.token_hex(4)}",
        clean_start=False,
        session_expiry_interval=60,
        reconnect=reqtt.Reconnect(initial=0.05, jitter=0),
    )
    waiting = asyncio.ensure_future(req.request(topic, "kept", timeout=10))
    await asked.wait()
    await proxy.wait_down(Type.PUBACK)
    await proxy.take_offline(req.client)
    answer.set()
    # Acknowledged: the broker holds it for the session.
    await eventually(lambda: app.client.stats().responses_sent == 1 and app.client.stats().in_flight == 0)
    await app.client.publish(f"{topic}/after", b"", qos=1)
    assert not waiting.done()
    await proxy.accept()
    assert (await waiting).text == "kept"
    assert req.client.connack.session_present
    assert len(proxy.up(Type.SUBSCRIBE)) == 1


@row("reconnect, session lost")
async def test_session_lost(
    server: Server, requester: Factory, serving: Factory, make_proxy: Factory, topic: str
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    @responder(topic)
    async def slow(body: str) -> str:
        asked.set()
        await answer.wait()
        return body

    await serving(server, slow)
    proxy = await make_proxy(server)
    req = await requester(proxy, reconnect=reqtt.Reconnect(initial=0.05, jitter=0))
    waiting = asyncio.ensure_future(req.request(topic, "again", timeout=10))
    await asked.wait()
    proxy.cut()
    await eventually(lambda: len(proxy.down(Type.SUBACK)) == 2)
    answer.set()
    assert (await waiting).text == "again"
    assert not req.client.connack.session_present


@row("Maximum Packet Size")
async def test_maximum_packet_size(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks, shows: Shows
) -> None:
    await serving(server, echo_on(topic))
    req = await requester(server)
    if req.client.connack.maximum_packet_size is None:
        lacks("none in CONNACK, though one is set")
    with pytest.raises(reqtt.PacketTooLarge) as error:
        await req.request(topic, bytes(MAXIMUM_PACKET_SIZE), timeout=5)
    assert error.value.maximum == MAXIMUM_PACKET_SIZE
    payload = bytes(MAXIMUM_PACKET_SIZE - 1000)
    assert (await req.request(topic, payload, timeout=5)).payload == payload
    shows(f"{error.value.maximum:,} bytes")


@row("WebSocket")
async def test_websocket(
    server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks
) -> None:
    assert server.ws_url is not None
    if not server.ws_mqtt5:
        with pytest.raises(reqtt.ConnectError, match="closed the WebSocket"):
            await requester(server.ws_url)
        lacks(
            "its WebSocket listener closes the connection on a CONNECT of MQTT 5: Broker::start gives it V4"
        )
    await serving(server.ws_url, echo_on(topic))
    req = await requester(server.ws_url)
    assert (await req.request(topic, "ws", timeout=5)).text == "ws"


@row("TLS")
async def test_tls(server: Server, requester: Factory, serving: Factory, topic: str, lacks: Lacks) -> None:
    if server.tls_url is None:
        lacks("it has no TLS listener")
    tls = reqtt.TlsOptions(ca=server.ca)
    await serving(server.tls_url, echo_on(topic), tls=tls)
    req = await requester(server.tls_url, tls=tls)
    assert (await req.request(topic, "tls", timeout=5)).text == "tls"
