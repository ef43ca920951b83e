"""Responders that return no Correlation Data: Tasmota, Zigbee2MQTT and others, spoken to as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import correlate
from reqtt.correlate import Expected
from support.packets import PUBLISH, SUBSCRIBE, UNSUBSCRIBE
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]

Handle = Callable[[Any, Any], Awaitable[None]]
"""`await handle(peer, message)`: what a device does with a message."""


@pytest.fixture
async def device(broker: Any, raw: Factory) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """`peer = await device(filter, handle)`: a client that knows nothing of MQTT 5's request/response."""
    tasks: set[asyncio.Task[None]] = set()

    async def start(topic_filter: str, handle: Handle) -> Any:
        peer = await raw(broker)
        await peer.subscribe(topic_filter)

        async def loop() -> None:
            while True:
                message = await peer.receive(timeout=60)
                assert message.response_topic is None
                assert message.correlation_data is None
                await handle(peer, message)

        tasks.add(asyncio.ensure_future(loop()))
        return peer

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def a_tasmota(name: str) -> Handle:
    """What the firmware does with POWER, Dimmer and Status; everything else is unknown to it."""
    state: dict[str, Any] = {"POWER": "OFF", "Dimmer": 50}

    async def handle(peer: Any, message: Any) -> None:
        command, payload = message.topic.rpartition("/")[2], message.payload.decode()
        results = f"stat/{name}/RESULT"
        match command.upper():
            case "POWER":
                if payload:
                    state["POWER"] = payload
                await peer.publish(results, json.dumps({"POWER": state["POWER"]}))
                await peer.publish(f"stat/{name}/POWER", state["POWER"], retain=True)
            case "DIMMER":
                if not payload.isdecimal():
                    await peer.publish(results, '{"Command":"Error"}')
                    return
                state["Dimmer"] = int(payload)
                await peer.publish(results, json.dumps(state))
            case "STATUS":
                await peer.publish(
                    f"stat/{name}/STATUS{payload}", json.dumps({"StatusFWR": {"Version": "14"}})
                )
            case _:
                await peer.publish(results, '{"Command":"Unknown"}')

    return handle


async def test_tasmota(broker: Any, requester: Factory, device: Any, topic: str) -> None:
    name = topic.replace("/", "-")
    peer = await device(f"cmnd/{name}/#", a_tasmota(name))
    req = await requester(broker, correlation=correlate.tasmota())
    response = await req.request(f"cmnd/{name}/POWER", "ON", timeout=5)
    assert response.json() == {"POWER": "ON"}
    assert (response.topic, response.status) == (f"stat/{name}/RESULT", 200)
    assert 0 < response.latency < 5
    assert await req.request(f"cmnd/{name}/Dimmer", "70", response_type=dict[str, Any]) == {
        "POWER": "ON",
        "Dimmer": 70,
    }
    status = await req.request(f"cmnd/{name}/Status", "2", timeout=5)
    assert (status.topic, status.json()["StatusFWR"]["Version"]) == (f"stat/{name}/STATUS2", "14")
    with pytest.raises(reqtt.NotFound, match=r"404 .*unknown command boil") as unknown:
        await req.request(f"cmnd/{name}/Boil", timeout=5)
    assert unknown.value.response is not None
    assert unknown.value.response.json() == {"Command": "Unknown"}
    with pytest.raises(reqtt.BadRequest, match="refuses dimmer"):
        await req.request(f"cmnd/{name}/Dimmer", "bright", timeout=5)
    await peer.publish(f"stat/{name}/POWER", b"", retain=True)


async def test_tasmota_answers_one_command_at_a_time_for_each_device(
    broker: Any, proxy: Any, requester: Factory, device: Any, topic: str
) -> None:
    names = [f"{topic.replace('/', '-')}-{n}" for n in range(2)]
    asked: list[str] = []

    async def handle(peer: Any, message: Any) -> None:
        _, name, command = message.topic.split("/")
        asked.append(name)
        if asked.count(name) == 1:
            # The other device is asked meanwhile, this one is not.
            await eventually(lambda: len(set(asked)) == 2)
            assert asked.count(name) == 1
            # A switch was pressed: no answer to Dimmer, nor is a state that is no JSON.
            await peer.publish(f"stat/{name}/RESULT", '{"POWER":"OFF"}')
            await peer.publish(f"stat/{name}/RESULT", "OFF")
        await peer.publish(f"stat/{name}/RESULT", json.dumps({command: int(message.payload)}))

    for name in names:
        await device(f"cmnd/{name}/+", handle)
    req = await requester(proxy, correlation=correlate.tasmota())
    waiting = [
        req.request(f"cmnd/{name}/Dimmer", str(level), timeout=5) for name in names for level in range(3)
    ]
    assert [r.json()["Dimmer"] for r in await asyncio.gather(*waiting)] == [0, 1, 2, 0, 1, 2]
    # One subscription for each device, for as long as the requester is open.
    assert len(proxy.up(SUBSCRIBE)) == 2
    assert proxy.up(UNSUBSCRIBE) == []


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("POWER", {"POWER": "ON"}),
        ("power", {"POWER": "ON"}),
        ("POWER", {"POWER1": "ON"}),
        ("Power1", {"POWER": "ON"}),
        ("Power0", {"POWER1": "ON", "POWER2": "ON"}),
        ("HsbColor2", {"POWER": "ON", "HSBColor": "1,2,3"}),
        ("SetOption19", {"SetOption19": "OFF"}),
        ("Template", {"NAME": "Generic", "GPIO": []}),
    ],
    ids=str,
)
def test_tasmota_names_commands_in_its_own_way(command: str, answer: dict[str, Any]) -> None:
    expected = correlate.tasmota().expect(f"cmnd/lamp/{command}", b"")
    assert expected.topic_filter == "stat/lamp/RESULT"
    assert expected.check is not None
    assert expected.check(reqtt.Response(json.dumps(answer)))


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("POWER1", {"POWER2": "ON"}),
        ("POWER", {"PowerOnState": 3}),
        ("SetOption19", {"SetOption2": "OFF"}),
        ("Color", {"ColorTemp": 1}),
        ("Dimmer", {}),
        ("Dimmer", []),
        ("Dimmer", "text"),
    ],
    ids=str,
)
def test_tasmota_takes_no_other_result_for_the_answer(command: str, other: Any) -> None:
    expected = correlate.tasmota().expect(f"cmnd/lamp/{command}", b"")
    assert expected.check is not None
    assert not expected.check(reqtt.Response(json.dumps(other)))


def test_tasmota_with_another_full_topic() -> None:
    matcher = correlate.tasmota("home/%topic%/%prefix%/")
    assert matcher.expect("home/lamp/cmnd/POWER", b"").topic_filter == "home/lamp/stat/RESULT"
    with pytest.raises(ValueError, match="home/lamp/cmnd/POWER"):
        matcher.expect("cmnd/lamp/POWER", b"")
    with pytest.raises(ValueError, match="Backlog has no answer"):
        matcher.expect("home/lamp/cmnd/Backlog", b"Power ON; Dimmer 3")
    with pytest.raises(ValueError, match="%prefix% and %topic%"):
        correlate.tasmota("home/%topic%/")


def a_bridge(base: str, order: Callable[[list[Any]], list[Any]] = list, batch: int = 1) -> Handle:
    """Zigbee2MQTT's bridge: it answers requests, `batch` at a time and in this order."""
    held: list[Any] = []

    async def handle(peer: Any, message: Any) -> None:
        held.append(message)
        if len(held) < batch:
            return
        for each in order(held):
            body = json.loads(each.payload)
            answer: dict[str, Any] = {"data": body, "status": "ok"}
            if body.get("id") == "nobody":
                answer = {"data": {}, "status": "error", "error": "Device 'nobody' does not exist"}
            if "transaction" in body:
                answer["transaction"] = body["transaction"]
            where = each.topic.replace("/request/", "/response/")
            # Somebody else's, and one that nobody can match.
            await peer.publish(where, json.dumps({**answer, "transaction": "other"}))
            await peer.publish(where, json.dumps({"data": {}, "status": "ok"}))
            await peer.publish(where, json.dumps(answer))
        held.clear()

    return handle


async def test_zigbee2mqtt(broker: Any, requester: Factory, device: Any, topic: str) -> None:
    await device(f"{topic}/bridge/request/#", a_bridge(topic))
    req = await requester(broker, correlation=correlate.zigbee2mqtt(topic))
    response = await req.request(f"{topic}/bridge/request/device/rename", {"from": "a", "to": "b"}, timeout=5)
    assert response.topic == f"{topic}/bridge/response/device/rename"
    assert response.json()["status"] == "ok"
    assert {**response.json()["data"], "transaction": None} == {"from": "a", "to": "b", "transaction": None}
    # A transaction of one's own stays.
    response = await req.request(f"{topic}/bridge/request/health_check", {"transaction": 7}, timeout=5)
    assert response.json()["transaction"] == 7
    with pytest.raises(reqtt.RemoteError, match="Device 'nobody' does not exist") as refused:
        await req.request(f"{topic}/bridge/request/device/remove", {"id": "nobody"}, timeout=5)
    assert (refused.value.status, refused.value.topic) == (500, f"{topic}/bridge/request/device/remove")
    assert refused.value.response is not None
    assert refused.value.response.json()["status"] == "error"


async def test_transactions_tell_a_hundred_requests_apart(
    broker: Any, requester: Factory, device: Any, topic: str
) -> None:
    await device(f"{topic}/request/#", a_bridge(topic, order=lambda held: held[::-1], batch=100))
    req = await requester(broker, correlation=correlate.json_field("transaction"))
    waiting = [req.request(f"{topic}/request/x", {"n": n}, timeout=10) for n in range(100)]
    assert [r.json()["data"]["n"] for r in await asyncio.gather(*waiting)] == list(range(100))


async def test_a_topic_pair(broker: Any, requester: Factory, device: Any, topic: str) -> None:
    async def handle(peer: Any, message: Any) -> None:
        # As lamps do: the new state, retained.
        await peer.publish(message.topic.replace("cmnd", "state"), message.payload, retain=True)

    peer = await device(f"{topic}/cmnd/#", handle)
    await peer.publish(f"{topic}/state/lamp/power", "an old state", retain=True)
    matcher = correlate.topic(f"{topic}/cmnd/{{lamp}}/{{what:#}}", f"{topic}/state/{{lamp}}/{{what:#}}")
    req = await requester(broker, correlation=matcher)
    waiting = [req.request(f"{topic}/cmnd/lamp/power", f"n{n}", timeout=5) for n in range(5)]
    assert [r.text for r in await asyncio.gather(*waiting)] == [f"n{n}" for n in range(5)]
    await peer.publish(f"{topic}/state/lamp/power", b"", retain=True)


async def test_a_retained_state_is_no_response(
    broker: Any, requester: Factory, device: Any, topic: str
) -> None:
    async def ignore(peer: Any, message: Any) -> None: ...

    peer = await device(f"{topic}/set", ignore)
    await peer.publish(f"{topic}/state", "old", retain=True)
    req = await requester(broker, correlation=correlate.topic(f"{topic}/set", f"{topic}/state"))
    before = time.monotonic()
    with pytest.raises(reqtt.ResponseTimeout, match=r"within 0\.3 s \(phase: response\)") as late:
        await req.request(f"{topic}/set", "ON", timeout=0.3)
    assert 0.25 < time.monotonic() - before < 2
    assert (late.value.phase, late.value.topic, late.value.timeout) == ("response", f"{topic}/set", 0.3)
    await peer.publish(f"{topic}/state", b"", retain=True)


async def test_a_late_answer_is_not_taken_for_another_transactions(
    broker: Any, requester: Factory, device: Any, topic: str
) -> None:
    first: list[Any] = []

    async def handle(peer: Any, message: Any) -> None:
        body = json.loads(message.payload)
        if body["n"] == 0:
            first.append(body)
            return
        for each in (first[0], body, body):
            await peer.publish(f"{topic}/response", json.dumps(each))

    await device(f"{topic}/request", handle)
    req = await requester(broker, correlation=correlate.json_field("id"))
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(f"{topic}/request", {"n": 0}, timeout=0.3)
    for n in (1, 2):
        assert (await req.request(f"{topic}/request", {"n": n}, timeout=5)).json()["n"] == n


async def test_waiting_for_its_turn_is_within_the_timeout(
    broker: Any, proxy: Any, requester: Factory, device: Any, topic: str
) -> None:
    seen = asyncio.Event()

    async def ignore(peer: Any, message: Any) -> None:
        seen.set()

    await device(f"{topic}/set", ignore)
    req = await requester(proxy, correlation=correlate.topic(f"{topic}/set", f"{topic}/state"))
    first = asyncio.ensure_future(req.request(f"{topic}/set", "1", timeout=60))
    await seen.wait()
    with pytest.raises(reqtt.ResponseTimeout, match="behind another request") as behind:
        await req.request(f"{topic}/set", "2", timeout=0.2)
    assert behind.value.phase == "publish"
    third = asyncio.ensure_future(req.request(f"{topic}/set", "3", timeout=60))
    await asyncio.sleep(0)
    # Given up while it waits, and while it is under way: the next one's turn comes all the same.
    fourth = asyncio.ensure_future(req.request(f"{topic}/set", "4", timeout=60))
    await asyncio.sleep(0)
    third.cancel()
    first.cancel()
    seen.clear()
    await seen.wait()
    assert [r.packet.payload for r in proxy.up(PUBLISH)] == [b"1", b"4"]
    fourth.cancel()
    for task in (first, third, fourth):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_nobody_there_is_known_at_once(broker: Any, requester: Factory, topic: str) -> None:
    req = await requester(broker, correlation=correlate.tasmota())
    before = time.monotonic()
    with pytest.raises(reqtt.NoMatchingSubscribers, match="nobody subscribes"):
        await req.request("cmnd/no-such-lamp/POWER", timeout=10)
    assert time.monotonic() - before < 3
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request("cmnd/no-such-lamp/POWER", timeout=0.2, fail_fast=False)


async def test_a_refused_subscription_and_a_refused_request(
    denying_broker: Any, requester: Factory, topic: str
) -> None:
    broker = denying_broker(subscribe=f"{topic}/closed/state", publish=f"{topic}/open/set")
    matcher = correlate.topic(f"{topic}/{{x}}/set", f"{topic}/{{x}}/state")
    req = await requester(broker, correlation=matcher)
    for _ in range(2):
        with pytest.raises(reqtt.SubscribeError, match="0x87"):
            await req.request(f"{topic}/closed/set", timeout=5)
        with pytest.raises(reqtt.PublishError, match="0x87"):
            await req.request(f"{topic}/open/set", timeout=5)


async def test_the_expiry_is_what_remains(
    broker: Any, proxy: Any, requester: Factory, device: Any, topic: str
) -> None:
    async def handle(peer: Any, message: Any) -> None:
        await peer.publish(f"{topic}/state", message.payload)

    await device(f"{topic}/set", handle)
    req = await requester(proxy, correlation=correlate.topic(f"{topic}/set", f"{topic}/state"))
    await req.request(f"{topic}/set", {"a": 1}, timeout=4.2, user_properties={"k": "v"}, qos=2)
    await req.request(f"{topic}/set", "x", message_expiry_interval=2)
    first, second = (r.packet for r in proxy.up(PUBLISH))
    assert (first.properties["message_expiry_interval"], first.qos, first.user("k")) == (5, 2, "v")
    assert (first.properties["content_type"], first.payload) == ("application/json", b'{"a":1}')
    assert second.properties["message_expiry_interval"] == 2


async def test_a_reconnect_keeps_who_waits(
    broker: Any, proxy: Any, requester: Factory, device: Any, topic: str
) -> None:
    got = asyncio.Queue[Any]()

    async def handle(peer: Any, message: Any) -> None:
        await got.put((peer, message))

    await device(f"{topic}/set", handle)
    req = await requester(proxy, correlation=correlate.topic(f"{topic}/set", f"{topic}/state"))
    waiting = asyncio.ensure_future(req.request(f"{topic}/set", "1", timeout=10))
    peer, _ = await got.get()
    await eventually(lambda: proxy.down(PUBLISH) == [] and len(proxy.up(PUBLISH)) == 1)
    proxy.cut()
    await eventually(lambda: len(proxy.up(SUBSCRIBE)) == 2)
    await eventually(lambda: req.client.connected)
    # Answered once the subscription is back.
    while not waiting.done():
        await peer.publish(f"{topic}/state", "done")
        await asyncio.sleep(0.05)
    assert (await waiting).text == "done"


async def test_subscriptions_that_nobody_uses_are_bounded(
    broker: Any, proxy: Any, requester: Factory, device: Any, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reqtt import _matched

    monkeypatch.setattr(_matched, "_IDLE", 2)

    async def handle(peer: Any, message: Any) -> None:
        await peer.publish(message.topic.replace("/set", "/state"), message.payload)

    await device(f"{topic}/+/set", handle)
    matcher = correlate.topic(f"{topic}/{{lamp}}/set", f"{topic}/{{lamp}}/state")
    req = await requester(proxy, correlation=matcher)
    for lamp in (1, 2, 3, 4, 4, 1):
        assert (await req.request(f"{topic}/{lamp}/set", f"on {lamp}", timeout=5)).text == f"on {lamp}"
    # The one used longest ago goes first; what was given up is subscribed again.
    await proxy.wait_up(UNSUBSCRIBE, count=3)
    given_up = [f.topic_filter for r in proxy.up(UNSUBSCRIBE) for f in r.packet.filters]
    assert given_up == [f"{topic}/{lamp}/state" for lamp in (1, 2, 3)]
    assert len(proxy.up(SUBSCRIBE)) == 5


async def test_closing_ends_who_waits(broker: Any, requester: Factory, device: Any, topic: str) -> None:
    seen = asyncio.Event()

    async def ignore(peer: Any, message: Any) -> None:
        seen.set()

    peer = await device(f"{topic}/set", ignore)
    client = reqtt.Client(broker.url)
    async with client:
        matcher = correlate.topic(f"{topic}/set", f"{topic}/state")
        req = reqtt.Requester(client, correlation=matcher)
        with pytest.raises(reqtt.ReqttError, match="not open"):
            req.request(f"{topic}/set")
        async with req:
            waiting = [asyncio.ensure_future(req.request(f"{topic}/set", timeout=60)) for _ in range(3)]
            await seen.wait()
        for task in waiting:
            with pytest.raises(reqtt.ClientClosed):
                await task
        with pytest.raises(reqtt.ClientClosed):
            req.request(f"{topic}/set")
        if broker.loopback is not None:
            await eventually(
                lambda: all(filter_ != f"{topic}/state" for _, filter_, _ in broker.loopback.subscriptions())
            )
        # Drained: what is under way is answered first.
        seen.clear()
        async with reqtt.Requester(client, correlation=matcher) as req:
            last = asyncio.ensure_future(req.request(f"{topic}/set", timeout=60))
            await seen.wait()
            closing = asyncio.ensure_future(req.close(drain=True, timeout=5))
            await peer.publish(f"{topic}/state", "answered")
            await closing
            assert (await last).text == "answered"
        # The client's own end.
        seen.clear()
        req = await reqtt.Requester(client, correlation=matcher).__aenter__()
        last = asyncio.ensure_future(req.request(f"{topic}/set", timeout=60))
        await seen.wait()
    with pytest.raises(reqtt.ClientClosed):
        await last
    await req.close()


async def test_a_matcher_of_ones_own(broker: Any, requester: Factory, device: Any, topic: str) -> None:
    class Numbered:
        """`<number>:<text>`, answered in any order on one topic."""

        def __init__(self) -> None:
            self.last = 0

        def expect(self, topic: str, payload: bytes) -> Expected:
            self.last += 1
            return Expected(f"{topic}/out", self.last, b"%d:%b" % (self.last, payload))

        def key(self, message: reqtt.Message) -> int | None:
            number, _, _ = message.payload.partition(b":")
            # Raises where there is none: such a message is nobody's.
            return int(number)

    held: list[Any] = []

    async def handle(peer: Any, message: Any) -> None:
        held.append(message)
        if len(held) == 10:
            await peer.publish(f"{topic}/out", "no number")
            for each in reversed(held):
                await peer.publish(f"{topic}/out", each.payload.upper())

    await device(topic, handle)
    req = await requester(broker, correlation=Numbered())
    waiting = [req.request(topic, f"n{n}", timeout=5) for n in range(10)]
    assert [r.text for r in await asyncio.gather(*waiting)] == [f"{n + 1}:N{n}" for n in range(10)]
    assert await asyncio.to_thread(_raises, req, f"{topic}/nobody") == "NoMatchingSubscribers"


def _raises(req: Any, topic: str) -> str:
    try:
        req.request_sync(topic, timeout=5)
    except reqtt.ReqttError as error:
        return type(error).__name__
    return "nothing"


async def test_an_error_in_a_check_reaches_the_caller(
    broker: Any, requester: Factory, device: Any, topic: str
) -> None:
    class Broken:
        def expect(self, topic: str, payload: bytes) -> Expected:
            def check(message: reqtt.Message) -> bool:
                raise LookupError(message.text)

            return Expected(f"{topic}/out", check=check)

        def key(self, message: reqtt.Message) -> str:
            return ""

    async def handle(peer: Any, message: Any) -> None:
        await peer.publish(f"{topic}/out", "odd")

    await device(topic, handle)
    req = await requester(broker, correlation=Broken())
    for _ in range(2):
        with pytest.raises(LookupError, match="odd"):
            await req.request(topic, timeout=5)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"topic": "cmnd/+/POWER"}, "wildcard|topic"),
        ({"topic": "tele/lamp/POWER"}, "no command for Tasmota"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"qos": 3}, "qos=3"),
        ({"response_topic": "a"}, "response_topic="),
        ({"correlation_data": b"a"}, "correlation_data="),
        ({"message_expiry_interval": 0}, "message_expiry_interval"),
    ],
    ids=str,
)
async def test_a_wrong_argument_raises_in_the_call(
    loopback: Any, requester: Factory, wrong: dict[str, Any], error: str
) -> None:
    req = await requester(loopback, correlation=correlate.tasmota())
    connected = req.client.stats().bytes_sent
    with pytest.raises(ValueError, match=error):
        req.request(**{"topic": "cmnd/lamp/POWER", **wrong})
    with pytest.raises(ValueError, match="gather"):
        req.gather("cmnd/lamp/POWER")
    assert req.client.stats().bytes_sent == connected


def test_wrong_matchers() -> None:
    with pytest.raises(ValueError, match=r"\{b\}"):
        correlate.topic("a/{a}", "b/{b}")
    with pytest.raises(ValueError, match="together"):
        correlate.json_field("id", request="a")
    with pytest.raises(ValueError, match='no level "request"'):
        correlate.json_field("id").expect("a/b", b"")
    with pytest.raises(ValueError, match="no JSON object"):
        correlate.json_field("id").expect("a/request", b"lamp")
    with pytest.raises(ValueError, match="text or a whole number"):
        correlate.json_field("id").expect("a/request", b'{"id":null}')
    with pytest.raises(TypeError, match="no matcher"):
        reqtt.Requester(correlation=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not exist"):
        reqtt.Requester(correlation="nothing")  # type: ignore[arg-type]
    for wrong in ({"response_topic": "a"}, {"resend": False}, {"interop": "azure"}):
        with pytest.raises(ValueError, match="do not go with a matcher"):
            reqtt.Requester(correlation=correlate.tasmota(), **wrong)  # type: ignore[arg-type]
