"""What one connection does: publish, subscribe, sessions, the will, limits and counters."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import pytest

import reqtt
from support import client_must
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    SUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Decoder,
    Packet,
    encode,
)
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.05, max=0.2, jitter=0)
PROPERTIES: dict[str, Any] = {
    "content_type": "application/x-thing",
    "payload_format_indicator": 1,
    "message_expiry_interval": 70_000,
    "response_topic": "answers/ä/1",
    "correlation_data": b"\x00\xff\xfe no UTF-8 \x00",
    "user_properties": (("b", "1"), ("a", "2"), ("b", "1"), ("", "ü")),
}


async def take(messages: Any, count: int, timeout: float = 5) -> list[Any]:
    async with asyncio.timeout(timeout):
        return [await anext(messages) for _ in range(count)]


# --- publish


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_publish_gives_its_puback(
    broker: Any, proxy: Proxy, client: Factory, raw: Factory, topic: str, qos: int
) -> None:
    peer = await raw(broker)
    await peer.subscribe(topic, qos=2)
    c = await client(proxy)
    puback = await c.publish(topic, "payload", qos=qos)
    assert puback.reason_code == 0
    message = await peer.receive()
    assert (message.payload, message.qos, message.retain) == (b"payload", qos, False)
    if qos == 2:
        await proxy.wait_down(PUBCOMP)
    assert len(proxy.up(PUBLISH)) == 1


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_publish_that_nobody_gets_is_0x10(broker: Any, client: Factory, topic: str, qos: int) -> None:
    c = await client(broker)
    # Mosquitto says so in a PUBACK only.
    expected = 0 if (broker.kind, qos) == ("mosquitto", 2) else 0x10
    assert (await c.publish(topic, qos=qos)).reason_code == expected


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_refused_publish_raises_and_the_next_one_works(
    denying_broker: Callable[..., Any], client: Factory, topic: str, qos: int
) -> None:
    c = await client(denying_broker(publish=f"{topic}/no"))
    with pytest.raises(reqtt.PublishError, match=r"0x87 Not authorized") as caught:
        await c.publish(f"{topic}/no", qos=qos)
    assert (caught.value.reason_code, caught.value.topic) == (0x87, f"{topic}/no")
    assert (await c.publish(f"{topic}/yes", qos=qos)).reason_code in (0, 0x10)


async def test_a_refused_publish_tells_the_brokers_words(loopback: Any, client: Factory, topic: str) -> None:
    loopback.loopback.refuse_publish(0x97, filter=topic)
    c = await client(loopback)
    with pytest.raises(reqtt.PublishError) as caught:
        await c.publish(topic)
    assert caught.value.reason_string == "refused by rule"


@client_must("MQTT-3.3.1-4", "MQTT-3.3.2-2", "MQTT-3.3.2-14")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"topic": "a/+"}, reqtt.InvalidTopic),
        ({"topic": ""}, reqtt.InvalidTopic),
        ({"qos": 3}, ValueError),
        ({"response_topic": "a/#"}, reqtt.InvalidTopic),
        ({"payload_format_indicator": 2}, ValueError),
        ({"message_expiry_interval": -1}, (ValueError, OverflowError)),
        ({"correlation_data": "text"}, TypeError),
        ({"correlation_data": bytes(70_000)}, ValueError),
        ({"user_properties": [("a", 1)]}, TypeError),
        ({"content_type": "x" * 70_000}, ValueError),
    ],
    ids=str,
)
async def test_a_wrong_argument_raises_in_the_call_and_sends_nothing(
    loopback: Any, make_proxy: Factory, client: Factory, topic: str, arguments: Any, error: Any
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    c = await client(proxy)
    with pytest.raises(error):
        c.publish(**{"topic": topic, **arguments})
    await c.publish(f"{topic}/settle")
    assert len(proxy.up(PUBLISH)) == 1


async def test_every_property_makes_the_round_trip(
    broker: Any, proxy: Proxy, client: Factory, topic: str
) -> None:
    c = await client(proxy)
    async with c.subscribe(topic, qos=2, subscription_identifier=268_435_455) as messages:
        await c.publish(topic, "zwölf", qos=2, **PROPERTIES)
        (message,) = await take(messages, 1)
    for name, value in PROPERTIES.items():
        assert getattr(message, name) == value, name
    assert (message.topic, message.payload, message.text) == (topic, "zwölf".encode(), "zwölf")
    assert (message.qos, message.retain, message.dup) == (2, False, False)
    assert message.subscription_identifiers == (268_435_455,)
    (sent,) = proxy.up(PUBLISH)
    assert sent.packet.properties == PROPERTIES


async def test_a_property_that_is_not_given_is_not_sent(
    broker: Any, proxy: Proxy, client: Factory, topic: str
) -> None:
    c = await client(proxy)
    async with c.subscribe(topic) as messages:
        await c.publish(topic, b"bytes")
        (message,) = await take(messages, 1)
    assert proxy.up(PUBLISH)[0].packet.properties == {}
    assert message.user_properties == ()
    assert message.subscription_identifiers == ()
    for name in ("content_type", "payload_format_indicator", "response_topic", "correlation_data"):
        assert getattr(message, name) is None


async def test_a_publish_without_a_connection_waits_for_the_next(
    loopback: Any, make_proxy: Factory, client: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.subscribe(topic)
    c = await client(proxy, reconnect=QUICK)
    await proxy.take_offline(c)
    calls = [asyncio.ensure_future(c.publish(topic, str(n))) for n in range(3)]
    await proxy.accept()
    assert [(await call).reason_code for call in calls] == [0, 0, 0]
    assert [(await peer.receive()).payload for _ in range(3)] == [b"0", b"1", b"2"]


# --- subscribe


async def test_several_filters_are_one_subscription(broker: Any, client: Factory, topic: str) -> None:
    c = await client(broker)
    async with c.subscribe(f"{topic}/a/+", f"{topic}/b/#") as messages:
        for name in ("a/1", "c", "b/2/3", "b"):
            await c.publish(f"{topic}/{name}", name)
        assert [m.text for m in await take(messages, 3)] == ["a/1", "b/2/3", "b"]


async def test_leaving_a_subscription_unsubscribes(
    broker: Any, proxy: Proxy, client: Factory, topic: str
) -> None:
    c = await client(proxy)
    async with c.subscribe(f"{topic}/a", f"{topic}/b") as messages:
        assert (await c.publish(f"{topic}/b")).reason_code == 0
    await proxy.wait_up(UNSUBSCRIBE, count=2)
    gone = {f.topic_filter for record in proxy.up(UNSUBSCRIBE) for f in record.packet.filters}
    assert gone == {f"{topic}/a", f"{topic}/b"}
    assert (await c.publish(f"{topic}/a")).reason_code == 0x10
    assert (await c.publish(f"{topic}/b")).reason_code == 0x10
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_a_filter_with_two_subscriptions_is_left_with_the_last(
    broker: Any, client: Factory, topic: str
) -> None:
    c = await client(broker)
    async with c.subscribe(topic) as first:
        async with c.subscribe(topic) as second:
            await c.publish(topic, "both")
            assert (await take(first, 1))[0].text == (await take(second, 1))[0].text == "both"
        await c.publish(topic, "one")
        assert (await take(first, 1))[0].text == "one"
    assert (await c.publish(topic)).reason_code == 0x10


async def test_a_refused_subscription_raises_where_it_is_entered(
    denying_broker: Callable[..., Any], client: Factory, topic: str
) -> None:
    c = await client(denying_broker(subscribe=f"{topic}/no"))
    with pytest.raises(reqtt.SubscribeError, match="0x87 Not authorized") as caught:
        async with c.subscribe(f"{topic}/yes", f"{topic}/no"):
            pytest.fail("entered")
    assert (caught.value.topic_filter, caught.value.reason_code) == (f"{topic}/no", 0x87)
    # None of it stays.
    assert (await c.publish(f"{topic}/yes")).reason_code == 0x10


@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": ()},
        {"filters": ("a/#/b",)},
        {"filters": ("",)},
        {"qos": 3},
        {"max_queue": 0},
        {"retain_handling": 3},
        {"subscription_identifier": 0},
    ],
    ids=str,
)
async def test_a_wrong_subscription_raises_before_anything_is_sent(
    loopback: Any, client: Factory, arguments: dict[str, Any]
) -> None:
    c = await client(loopback)
    filters = arguments.pop("filters", ("a",))
    with pytest.raises(ValueError):
        async with c.subscribe(*filters, **arguments):
            pass
    assert loopback.loopback.subscriptions() == []


async def test_a_full_queue_holds_the_broker_back_and_loses_nothing(
    loopback: Any, make_proxy: Factory, client: Factory, raw: Factory, topic: str
) -> None:
    # Mosquitto 2.0.11 forgets the client's Receive Maximum with the first PUBACK.
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    c = await client(proxy, receive_maximum=5)
    async with c.subscribe(topic, max_queue=3) as messages:
        for n in range(30):
            await peer.publish(topic, str(n))
        await proxy.wait_down(PUBLISH, count=8)
        # Three are taken and acknowledged, five are under way, the rest stays with the broker.
        await c.publish(f"{topic}/settle")
        assert len(proxy.down(PUBLISH)) == 8
        assert len(list(proxy.up(PUBACK))) == 3
        assert [m.text for m in await take(messages, 30)] == [str(n) for n in range(30)]
        assert messages.dropped == 0
    await proxy.wait_up(PUBACK, count=30)


async def test_a_full_queue_drops_the_oldest_of_qos_0(
    broker: Any, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(broker)
    async with c.subscribe(topic, max_queue=3) as messages:
        await peer.publish(topic, "kept", qos=1)
        for n in range(10):
            await peer.publish(topic, str(n), qos=0)
        await eventually(lambda: messages.dropped == 8)
        assert [m.text for m in await take(messages, 3)] == ["kept", "8", "9"]


async def test_a_subscription_is_made_again_where_the_session_was_lost(
    loopback: Any, make_proxy: Factory, client: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    c = await client(proxy, reconnect=QUICK)
    async with c.subscribe(f"{topic}/a", f"{topic}/b", qos=2, no_local=True) as messages:
        before = {record.packet.filters for record in proxy.up(SUBSCRIBE)}
        proxy.cut()
        await proxy.wait_down(SUBACK, count=2 * len(before))
        assert {record.packet.filters for record in proxy.up(SUBSCRIBE, connection=2)} == before
        await peer.publish(f"{topic}/b", "after")
        assert (await take(messages, 1))[0].text == "after"


async def test_a_subscription_refused_after_a_reconnect_ends_the_iteration(
    loopback: Any, client: Factory, topic: str
) -> None:
    c = await client(loopback, reconnect=QUICK)
    async with c.subscribe(topic) as messages:
        loopback.loopback.refuse_subscribe(0x87, filter=topic)
        loopback.loopback.cut()
        with pytest.raises(reqtt.SubscribeError):
            await take(messages, 1)


async def test_closing_the_client_ends_the_iteration(loopback: Any, topic: str) -> None:
    client = reqtt.Client(loopback.url)
    await client.connect()
    subscription = await client.subscribe(topic).__aenter__()
    got: asyncio.Queue[str] = asyncio.Queue()

    async def collect() -> None:
        async for message in subscription:
            got.put_nowait(message.text)

    collecting = asyncio.ensure_future(collect())
    await client.publish(topic, "last")
    assert await asyncio.wait_for(got.get(), 5) == "last"
    assert not collecting.done()
    await client.close()
    await asyncio.wait_for(collecting, 2)


async def test_a_lost_connection_ends_the_iteration(loopback: Any, client: Factory, topic: str) -> None:
    c = await client(loopback, reconnect=None)
    async with c.subscribe(topic) as messages:
        waiting = asyncio.ensure_future(take(messages, 1))
        loopback.loopback.cut()
        with pytest.raises(reqtt.ConnectionLost):
            await waiting


async def test_a_cancelled_wait_loses_no_message(loopback: Any, client: Factory, topic: str) -> None:
    c = await client(loopback)
    async with c.subscribe(topic) as messages:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(messages)
        await c.publish(topic, "x")
        assert (await take(messages, 1))[0].text == "x"


@pytest.mark.parametrize(("retain_handling", "copies"), [(0, [1, 1]), (1, [1, 0]), (2, [0, 0])])
async def test_retain_handling(
    broker: Any, client: Factory, topic: str, retain_handling: int, copies: list[int]
) -> None:
    c = await client(broker)
    await c.publish(topic, "kept", retain=True)
    try:
        found = []
        async with c.subscribe(topic, retain_handling=retain_handling) as first:
            for messages in (first, c.subscribe(topic, retain_handling=retain_handling)):
                if messages is not first:
                    await messages.__aenter__()
                await c.publish(topic, "live")
                texts = [(await take(messages, 1))[0].text]
                while texts[-1] != "live":
                    texts.append((await take(messages, 1))[0].text)
                found.append(len(texts) - 1)
            messages.close()
        assert found == copies
    finally:
        await c.publish(topic, retain=True)


async def test_retain_as_published_keeps_the_flag(broker: Any, client: Factory, topic: str) -> None:
    c = await client(broker)
    try:
        async with (
            c.subscribe(topic, retain_as_published=True) as kept,
            await client(broker) as other,
            other.subscribe(topic) as cleared,
        ):
            await c.publish(topic, "x", retain=True)
            assert (await take(kept, 1))[0].retain is True
            assert (await take(cleared, 1))[0].retain is False
        async with c.subscribe(topic) as late:
            assert (await take(late, 1))[0].retain is True
    finally:
        await c.publish(topic, retain=True)


async def test_no_local_keeps_ones_own_messages_away(
    broker: Any, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(broker)
    async with c.subscribe(topic, no_local=True) as messages:
        await c.publish(topic, "own")
        await peer.publish(topic, "foreign")
        assert (await take(messages, 1))[0].text == "foreign"


# --- the will

WILL = """
import asyncio, sys
import reqtt

async def main(url, topic):
    will = reqtt.Will(
        topic, "gone", qos=1, retain=False, payload_format_indicator=1, message_expiry_interval=70000,
        content_type="text/plain", response_topic="answers/1", correlation_data=b"\\x00\\xff",
        user_properties=(("b", "1"), ("a", "2"), ("b", "3")),
    )
    async with reqtt.Client(url, will=will):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("killed", [True, False])
async def test_the_will_is_for_a_client_that_goes_without_a_word(
    broker: Any, raw: Factory, topic: str, killed: bool
) -> None:
    peer = await raw(broker)
    await peer.subscribe(topic)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WILL, broker.url, topic, stdin=-1, stdout=-1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    if killed:
        process.send_signal(signal.SIGKILL)
    else:
        process.stdin.write(b"\n")
    await process.wait()
    process.stdin.close()
    if killed:
        will = await peer.receive()
        assert (will.payload, will.qos, will.retain) == (b"gone", 1, False)
        assert will.properties == {
            "payload_format_indicator": 1,
            "message_expiry_interval": 70_000,
            "content_type": "text/plain",
            "response_topic": "answers/1",
            "correlation_data": b"\x00\xff",
            "user_properties": (("b", "1"), ("a", "2"), ("b", "3")),
        }
    else:
        await peer.publish(topic, "nothing before this")
        assert (await peer.receive()).payload == b"nothing before this"


async def test_the_will_is_written_with_its_delay(
    loopback: Any, make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    await client(proxy, will=reqtt.Will("w", b"x", qos=2, retain=True, delay_interval=7))
    will = proxy.up(CONNECT)[0].packet.will
    assert will is not None
    assert (will.topic, will.payload, will.qos, will.retain) == ("w", b"x", 2, True)
    assert will.properties == {"will_delay_interval": 7}


# --- sessions


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_resumed_session_brings_what_waited(
    broker: Any, client: Factory, raw: Factory, topic: str, qos: int
) -> None:
    session = {
        "client_id": topic.replace("/", "-"),
        "clean_start": False,
        "session_expiry_interval": 60,
    }
    peer = await raw(broker)
    first = reqtt.Client(broker.url, **session)
    assert (await first.connect()).session_present is False
    await first.subscribe(topic, qos=2).__aenter__()
    await first.close()
    for n in range(3):
        assert (await peer.publish(topic, str(n), qos=qos)).reason_code == 0
    second = reqtt.Client(broker.url, **session)
    subscription = second.subscribe(topic, qos=2)
    assert (await second.connect()).session_present is True
    async with subscription as messages:
        assert [m.text for m in await take(messages, 3)] == ["0", "1", "2"]
    await second.close()


async def test_clean_start_forgets_the_session(
    broker: Any, client: Factory, raw: Factory, topic: str
) -> None:
    options = {"client_id": topic.replace("/", "-"), "session_expiry_interval": 60}
    first = reqtt.Client(broker.url, **options)
    await first.connect()
    await first.subscribe(topic).__aenter__()
    await first.close()
    second = await client(broker, client_id=options["client_id"])
    assert second.connack.session_present is False
    assert (await second.publish(topic)).reason_code == 0x10


async def test_a_reconnect_resumes_its_own_session(
    broker: Any, proxy: Proxy, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(proxy, session_expiry_interval=60, reconnect=QUICK)
    async with c.subscribe(topic) as messages:
        await proxy.take_offline(c)
        assert (await peer.publish(topic, "meanwhile")).reason_code == 0
        await proxy.accept()
        assert (await take(messages, 1))[0].text == "meanwhile"
    assert c.connack.session_present is True
    assert not proxy.up(SUBSCRIBE, connection=2)


async def test_a_message_held_back_over_a_reconnect_is_not_lost(
    broker: Any, proxy: Proxy, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(proxy, session_expiry_interval=60, reconnect=QUICK)
    async with c.subscribe(topic, max_queue=1) as messages:
        for n in range(4):
            await peer.publish(topic, str(n))
        await proxy.wait_down(PUBLISH, topic, count=4)
        proxy.cut()
        await proxy.wait_down(CONNACK, count=2)
        await proxy.wait_down(PUBLISH, topic, count=7)
        found: list[str] = []
        while len(set(found)) < 4:
            found.append((await take(messages, 1))[0].text)
        assert list(dict.fromkeys(found)) == ["0", "1", "2", "3"]


@client_must("MQTT-4.3.3-10")
async def test_qos_2_is_exactly_once_over_a_reconnect_with_a_full_queue(
    broker: Any, proxy: Proxy, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(proxy, session_expiry_interval=60, reconnect=QUICK)
    async with c.subscribe(topic, qos=2, max_queue=1) as messages:
        for n in range(4):
            await peer.publish(topic, str(n), qos=2)
        await proxy.wait_down(PUBLISH, topic, count=4)
        proxy.cut()
        await proxy.wait_down(CONNACK, count=2)
        await peer.publish(topic, "end", qos=2)
        found: list[str] = []
        while not found or found[-1] != "end":
            found.append((await take(messages, 1))[0].text)
        assert found == ["0", "1", "2", "3", "end"]


# --- what the broker says


@client_must("MQTT-3.1.3-2")
async def test_the_broker_chooses_the_client_id(broker: Any, proxy: Proxy, client: Factory) -> None:
    c = await client(proxy, reconnect=QUICK)
    assert proxy.up(CONNECT)[0].packet.client_id == ""
    assert c.client_id == c.connack.assigned_client_identifier != ""
    chosen = c.client_id
    proxy.cut()
    await proxy.wait_down(CONNACK, count=2)
    assert proxy.up(CONNECT)[1].packet.client_id == chosen
    await eventually(lambda: c.connected)
    assert c.client_id == chosen


async def test_the_connack_says_what_the_broker_can_do(
    own_loopback: Callable[..., Any], client: Factory
) -> None:
    said = {
        "receive_maximum": 7,
        "maximum_packet_size": 4096,
        "maximum_qos": 1,
        "retain_available": False,
        "topic_alias_maximum": 3,
        "server_keep_alive": 20,
        "shared_subscription_available": False,
        "wildcard_subscription_available": False,
        "subscription_identifiers_available": False,
        "response_information": "rr/abc",
    }
    c = await client(own_loopback(**said))
    assert {name: getattr(c.connack, name) for name in said} == said
    assert (c.connack.session_present, c.connack.reason_code) == (False, 0)
    plain = await client(own_loopback())
    assert plain.connack.receive_maximum == 65_535
    assert plain.connack.maximum_packet_size is None
    assert plain.connack.maximum_qos == 2
    assert plain.connack.retain_available is True
    assert plain.connack.server_keep_alive is None
    assert plain.connack.response_information is None


async def test_the_connect_says_what_was_asked_for(broker: Any, proxy: Proxy, client: Factory) -> None:
    await client(
        proxy,
        client_id="c-1",
        keep_alive=77,
        clean_start=False,
        session_expiry_interval=9,
        receive_maximum=12,
        maximum_packet_size=5000,
        topic_alias_maximum=3,
        request_response_information=False,
        user_properties=[("b", "1"), ("a", "2"), ("b", "3")],
    )
    sent = proxy.up(CONNECT)[0].packet
    assert (sent.client_id, sent.keep_alive, sent.clean_start) == ("c-1", 77, False)
    expected = {
        "session_expiry_interval": 9,
        "receive_maximum": 12,
        "maximum_packet_size": 5000,
        "topic_alias_maximum": 3,
        "user_properties": (("b", "1"), ("a", "2"), ("b", "3")),
    }
    assert {k: v for k, v in sent.properties.items() if k != "request_response_information"} == expected
    assert sent.properties.get("request_response_information", 0) == 0


# --- limits


@client_must("MQTT-3.2.2-15")
async def test_a_publish_larger_than_the_broker_takes_is_not_sent(
    own_loopback: Callable[..., Any], make_proxy: Factory, client: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(own_loopback(maximum_packet_size=1000))
    c = await client(proxy)
    with pytest.raises(reqtt.PacketTooLarge) as caught:
        await c.publish(topic, bytes(1000))
    assert caught.value.maximum == 1000
    assert caught.value.size > 1000
    assert not proxy.up(PUBLISH)
    # The largest that fits, found from the size that was told.
    fits = 1000 - (caught.value.size - 1000)
    assert (await c.publish(topic, bytes(fits))).reason_code == 0x10
    with pytest.raises(reqtt.PacketTooLarge):
        await c.publish(topic, bytes(fits + 1))
    assert c.connected
    assert proxy.accepted == 1


async def test_the_broker_keeps_back_what_is_larger_than_the_client_takes(
    broker: Any, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(broker)
    c = await client(broker, maximum_packet_size=1000)
    async with c.subscribe(topic) as messages:
        await peer.publish(topic, bytes(2000))
        await peer.publish(topic, "small")
        assert (await take(messages, 1))[0].text == "small"
    assert c.connected


@client_must("MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
async def test_the_brokers_receive_maximum_is_kept(
    own_loopback: Callable[..., Any], make_proxy: Factory, client: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(own_loopback(receive_maximum=3))
    c = await client(proxy)
    held = proxy.hold("down", lambda p: p.type in (PUBACK, PUBREC))
    calls = [asyncio.ensure_future(c.publish(topic, str(n), qos=1 + n % 2)) for n in range(10)]
    await proxy.wait_up(PUBLISH, count=3)
    # Its round trip shows that nothing else was on its way.
    async with c.subscribe(f"{topic}/settle"):
        pass
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"0", b"1", b"2"]
    assert c.stats().in_flight == 3
    held.release()
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [str(n).encode() for n in range(10)]


async def test_the_clients_receive_maximum_is_sent_and_kept(
    loopback: Any, make_proxy: Factory, client: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    c = await client(proxy, receive_maximum=2)
    assert proxy.up(CONNECT)[0].packet.properties["receive_maximum"] == 2
    async with c.subscribe(topic, max_queue=1) as messages:
        for n in range(6):
            await peer.publish(topic, str(n))
        await proxy.wait_down(PUBLISH, count=3)
        await c.publish(f"{topic}/settle")
        # One in the queue and acknowledged, two not acknowledged.
        assert len(proxy.down(PUBLISH)) == 3
        assert [m.text for m in await take(messages, 6)] == [str(n) for n in range(6)]


@client_must("MQTT-3.2.2-11", "MQTT-3.2.2-14")
@pytest.mark.parametrize(
    ("options", "publish", "code"),
    [({"maximum_qos": 1}, {"qos": 2}, 0x9B), ({"retain_available": False}, {"retain": True}, 0x9A)],
    ids=["qos", "retain"],
)
async def test_what_the_broker_does_not_support_is_not_sent(
    own_loopback: Callable[..., Any],
    make_proxy: Factory,
    client: Factory,
    topic: str,
    options: Any,
    publish: Any,
    code: int,
) -> None:
    proxy: Proxy = await make_proxy(own_loopback(**options))
    c = await client(proxy)
    with pytest.raises(reqtt.PublishError) as caught:
        await c.publish(topic, **publish)
    assert caught.value.reason_code == code
    assert not proxy.up(PUBLISH)
    assert (await c.publish(topic)).reason_code == 0x10


class FakeBroker:
    """Accepts one client and sends what the test gives it."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[Packet] = asyncio.Queue()
        self.writer: asyncio.StreamWriter | None = None
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        decoder = Decoder()
        while data := await reader.read(65536):
            for packet, _ in decoder.feed(data):
                if packet.type is CONNECT:
                    self.send(Packet(CONNACK))
                elif packet.type is SUBSCRIBE:
                    self.send(
                        Packet(SUBACK, packet_id=packet.packet_id, reason_codes=(0,) * len(packet.filters))
                    )
                self.packets.put_nowait(packet)
        writer.close()

    def send(self, *packets: Packet) -> None:
        assert self.writer is not None
        self.writer.write(b"".join(map(encode, packets)))

    async def seen(self, kind: Any) -> Packet:
        async with asyncio.timeout(5):
            while (packet := await self.packets.get()).type is not kind:
                pass
            return packet


@pytest.fixture
async def fake() -> Any:
    broker = FakeBroker()
    server = await asyncio.start_server(broker._serve, "127.0.0.1", 0)
    broker.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield broker
    server.close()
    if broker.writer is not None:
        broker.writer.close()


@client_must("MQTT-3.3.2-10")
async def test_a_brokers_topic_aliases_are_understood(fake: FakeBroker, client: Factory) -> None:
    c = await client(fake.url, topic_alias_maximum=2, reconnect=None)
    assert (await fake.seen(CONNECT)).properties["topic_alias_maximum"] == 2
    async with c.subscribe("a/#") as messages:
        fake.send(
            Packet(PUBLISH, {"topic_alias": 1}, topic="a/1", payload=b"1"),
            Packet(PUBLISH, {"topic_alias": 2}, topic="a/2", payload=b"2"),
            Packet(PUBLISH, {"topic_alias": 1}, payload=b"3"),
            Packet(PUBLISH, {"topic_alias": 2}, payload=b"4"),
            Packet(PUBLISH, {"topic_alias": 1}, topic="a/5", payload=b"5"),
            Packet(PUBLISH, {"topic_alias": 1}, payload=b"6"),
        )
        found = [(m.topic, m.text) for m in await take(messages, 6)]
    assert found == [("a/1", "1"), ("a/2", "2"), ("a/1", "3"), ("a/2", "4"), ("a/5", "5"), ("a/5", "6")]


@pytest.mark.parametrize("alias", [0, 3, 2], ids=["zero", "too large", "never defined"])
async def test_a_wrong_topic_alias_ends_the_connection(fake: FakeBroker, client: Factory, alias: int) -> None:
    c = await client(fake.url, topic_alias_maximum=2, reconnect=None)
    events = c.events()
    async with c.subscribe("a/#"):
        topic = "" if alias == 2 else "a/1"
        fake.send(Packet(PUBLISH, {"topic_alias": alias}, topic=topic))
        assert (await fake.seen(DISCONNECT)).reason_code in (0x94, 0x82, 0x81)
        lost = await asyncio.wait_for(anext(events), 5)
        assert lost.final


# --- counters and events


async def test_the_counters_tell_what_became_of_responses(
    loopback: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(loopback)

    def stats() -> reqtt.Stats:
        found: reqtt.Stats = req.client.stats()
        return found

    assert stats().bytes == stats().bytes_sent + stats().bytes_received > 0
    call = req.request(topic, timeout=3)
    request = await peer.receive()
    assert (stats().pending, stats().requests) == (1, 1)
    await peer.respond(request, "1")
    await call
    assert (stats().pending, stats().responses) == (0, 1)

    await peer.respond(request, "again")
    await eventually(lambda: stats().duplicates == 1)

    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, timeout=0.05)
    late = await peer.receive()
    await peer.respond(late, "late")
    await eventually(lambda: stats().late == 1)
    assert stats().timeouts == 1

    task = asyncio.ensure_future(req.request(topic, timeout=3))
    cancelled = await peer.receive()
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: stats().cancelled == 1)
    await peer.respond(cancelled, "late, too")
    await eventually(lambda: stats().late == 2)

    await peer.publish(request.response_topic, "who?", correlation_data=b"unknown")
    await peer.publish(request.response_topic, "none at all")
    await eventually(lambda: stats().unmatched == 2)

    assert (stats().retained, stats().reconnects) == (0, 0)
    await peer.publish(request.response_topic, "old", retain=True, correlation_data=b"x")
    loopback.loopback.lose_session()
    await eventually(lambda: stats().reconnects == 1)
    await eventually(lambda: stats().pending == 0)
    final = stats()
    assert (final.responses, final.late, final.duplicates, final.timeouts, final.cancelled) == (1, 2, 1, 1, 1)


async def test_a_retained_response_is_counted_and_dropped(
    loopback: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback)
    await peer.publish(f"{topic}/responses", "old", retain=True, correlation_data=b"x")
    await peer.serve(topic)
    req = await requester(loopback, response_topic=f"{topic}/responses")
    assert (await req.request(topic, "new", timeout=3)).text == "new"
    stats = req.client.stats()
    # Either the broker was asked not to send it, or it came and was no response.
    assert stats.responses == 1
    assert stats.unmatched == 0


async def test_a_response_marked_retained_is_counted_as_such(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(proxy)

    def retained(packet: Packet) -> list[Packet]:
        fields = {name: getattr(packet, name) for name in Packet.__slots__}
        return [Packet(**{**fields, "retain": True})]

    call = asyncio.ensure_future(req.request(topic, timeout=3))
    request = await peer.receive()
    proxy.rewrite("down", lambda p: p.type is PUBLISH, retained, times=1)
    await peer.respond(request, "stale")
    await eventually(lambda: req.client.stats().retained == 1)
    assert not call.done()
    await peer.respond(request, "fresh")
    assert (await call).text == "fresh"


async def test_events_tell_every_listener_what_happens(loopback: Any) -> None:
    client = reqtt.Client(loopback.url, reconnect=QUICK)
    before = client.events()
    await client.connect()
    after = client.events()
    first = await asyncio.wait_for(anext(before), 2)
    assert isinstance(first, reqtt.Connected)
    assert (first.client_id, first.connack.reason_code) == (client.client_id, 0)
    loopback.loopback.cut()
    kinds = [reqtt.Disconnected, reqtt.Reconnecting, reqtt.Connected]
    for events in (before, after):
        assert [type(await asyncio.wait_for(anext(events), 2)) for _ in range(3)] == kinds
    await client.close()
    for events in (before, after):
        assert [event async for event in events] == []
    assert [event async for event in client.events()] == []


async def test_connecting_again_is_no_event(loopback: Any, client: Factory) -> None:
    c = await client(loopback, reconnect=QUICK)
    events = c.events()
    assert (await c.connect()).reason_code == 0
    loopback.loopback.cut()
    assert isinstance(await asyncio.wait_for(anext(events), 2), reqtt.Disconnected)


async def test_a_closed_client_says_so(loopback: Any, topic: str) -> None:
    client = reqtt.Client(loopback.url)
    with pytest.raises(reqtt.ReqttError, match="not connected"):
        await client.publish(topic)
    await client.connect()
    await client.close()
    await client.close()
    for call in (lambda: client.publish(topic), client.connect):
        with pytest.raises(reqtt.ClientClosed):
            await call()
    assert "closed" in repr(client)
    assert client.stats().bytes > 0


async def test_closing_says_good_bye(broker: Any, proxy: Proxy) -> None:
    async with reqtt.Client(proxy.url):
        pass
    await proxy.wait_up(DISCONNECT)
    assert proxy.up(DISCONNECT)[0].packet.reason_code == 0


async def test_closing_ends_a_publish_that_waits(loopback: Any, topic: str) -> None:
    loopback.loopback.drop_puback(True)
    async with reqtt.Client(loopback.url) as client:
        waiting = asyncio.ensure_future(client.publish(topic))
        await eventually(lambda: client.stats().in_flight == 1)
    with pytest.raises(reqtt.ClientClosed):
        await waiting


async def test_a_close_that_is_cancelled_still_disconnects(
    loopback: Any, make_proxy: Factory, raw: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(loopback)
    running = asyncio.Event()

    @reqtt.responder(topic)
    async def slow(body: bytes) -> None:
        running.set()
        await asyncio.sleep(60)

    client = reqtt.Client(proxy.url)
    async with client:
        app = await reqtt.Responder(client, [slow]).__aenter__()
        await (await raw(loopback)).publish(topic, response_topic="r")
        await running.wait()
        closing = asyncio.create_task(client.close(timeout=60))
        await proxy.wait_up(UNSUBSCRIBE)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await proxy.wait_up(DISCONNECT)
        with pytest.raises(reqtt.ClientClosed):
            await client.publish(topic)
    await app.close()


async def test_two_clients_of_one_identifier_do_not_fight_for_the_session(
    mosquitto: Any, client: Factory, topic: str
) -> None:
    # This broker closes the older connection without a word: each client takes it for a fault of the network.
    fast = reqtt.Reconnect(initial=0.05, max=30, jitter=0.5)
    both = [await client(mosquitto, client_id=topic, reconnect=fast) for _ in range(2)]
    await asyncio.sleep(3)
    # Doubled each time, the two together need about ten connections for the first three seconds.
    assert 2 <= sum(c.stats().reconnects for c in both) <= 16


async def test_a_message_of_qos_0_does_not_wait_for_the_receive_maximum(
    own_loopback: Callable[..., Any], make_proxy: Factory, client: Factory, topic: str
) -> None:
    proxy: Proxy = await make_proxy(own_loopback(receive_maximum=1))
    c = await client(proxy)
    held = proxy.hold("down", PUBACK)
    waiting = [asyncio.ensure_future(c.publish(topic, str(n))) for n in range(3)]
    await asyncio.wait_for(c.publish(topic, "now", qos=0), 5)
    await proxy.until(lambda: len(proxy.up(PUBLISH, topic)) == 2)
    assert [r.packet.payload for r in proxy.up(PUBLISH, topic)] == [b"0", b"now"]
    held.release()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_mapping_will_do_for_user_properties(
    loopback: Any, client: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    c = await client(loopback, user_properties=MappingProxyType({"who": "me"}))
    await c.publish(topic, user_properties=MappingProxyType({"a": "1", "b": "2"}))
    assert (await peer.receive()).user_properties == (("a", "1"), ("b", "2"))
    assert c.connack.user_properties == ()
