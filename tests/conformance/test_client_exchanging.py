"""PUBLISH and its acknowledgements as reqtt's client sends and answers them; what it never sends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import reqtt
from reqtt import Disconnected, Reconnect
from support import client_must
from support.hostile import HostileServer, Peer, said
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Filter,
    Packet,
)
from support.waiting import eventually

SOON = Reconnect(initial=0.01, max=0.05)
SESSION: dict[str, Any] = {"client_id": "c", "clean_start": False, "session_expiry_interval": 60}


async def accepted(peer: Peer, *, session_present: bool = False, **properties: Any) -> None:
    """CONNACK, and nothing by itself from here on."""
    await peer.expect(CONNECT)
    peer.send(Packet(CONNACK, properties, session_present=session_present))


async def gone(peer: Peer) -> None:
    async with asyncio.timeout(5):
        await peer.closed.wait()


async def quiet(peer: Peer, client: reqtt.Client) -> None:
    """A round trip, after which all that the client had to say has been said."""
    before = sum(packet.type is SUBSCRIBE for packet in peer.received)
    peer.answering(True)
    async with client.subscribe("quiet"):
        pass
    peer.answering(False)
    assert sum(packet.type is SUBSCRIBE for packet in peer.received) > before


# --- as the sender


@client_must(
    *("MQTT-2.2.1-3", "MQTT-2.2.1-5", "MQTT-3.3.1-2", "MQTT-3.3.1-3", "MQTT-4.3.1-1", "MQTT-4.3.2-1"),
    *("MQTT-4.3.2-2", "MQTT-4.3.2-3", "MQTT-4.3.3-1", "MQTT-4.3.3-2", "MQTT-4.3.3-3", "MQTT-4.3.3-4"),
    *("MQTT-4.3.3-5", "MQTT-3.6.2-1", "MQTT-4.6.0-4"),
)
async def test_each_qos_is_sent_by_its_protocol() -> None:
    async def script(peer: Peer) -> None:
        await accepted(peer)
        sent = [await peer.take(PUBLISH) for _ in range(5)]
        assert [packet.qos for packet in sent] == [0, 1, 2, 2, 1]
        assert not any(packet.dup for packet in sent)
        ids = [packet.packet_id for packet in sent[1:]]
        assert len({*ids}) == 4
        assert all(ids)
        assert not sent[0].packet_id
        subscribe = await peer.expect(SUBSCRIBE)
        assert subscribe.packet_id not in (0, *ids), "one set of identifiers for all"
        for pubrec in (3, 2):
            peer.send(Packet(PUBREC, packet_id=sent[pubrec].packet_id))
        released = [await peer.take(PUBREL) for _ in range(2)]
        assert [(packet.packet_id, packet.reason_code) for packet in released] == [
            (sent[3].packet_id, 0),
            (sent[2].packet_id, 0),
        ], "in the order of the PUBRECs"
        for number in (4, 1):
            peer.send(Packet(PUBACK, packet_id=sent[number].packet_id))
        for number in (2, 3):
            peer.send(Packet(PUBCOMP, packet_id=sent[number].packet_id))
        peer.answering(True)
        await gone(peer)

    async with HostileServer(script) as server:
        async with reqtt.Client(server.url, reconnect=None) as client:
            calls = [asyncio.ensure_future(client.publish("t", b"x", qos=qos)) for qos in (0, 1, 2, 2, 1)]
            async with client.subscribe("s"), asyncio.timeout(5):
                assert {ack.reason_code for ack in await asyncio.gather(*calls)} == {0}
        packets = server.peers[0].received
        assert not [packet for packet in packets if packet.type is PUBLISH and packet.dup]


@client_must("MQTT-2.2.1-3", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
async def test_an_identifier_in_use_is_given_to_nothing_else() -> None:
    rounds, at_once = 3, 300

    async def script(peer: Peer) -> None:
        await accepted(peer)
        held = await peer.take(PUBLISH)
        for _ in range(rounds):
            sent = [await peer.take(PUBLISH) for _ in range(at_once)]
            assert len({0, held.packet_id, *(packet.packet_id for packet in sent)}) == at_once + 2
            for packet in sent:
                peer.send(Packet(PUBACK, packet_id=packet.packet_id))
        peer.send(Packet(PUBACK, packet_id=held.packet_id))
        await gone(peer)

    async with HostileServer(script) as server, reqtt.Client(server.url, reconnect=None) as client:
        held = client.publish("held", b"x", qos=1)
        async with asyncio.timeout(5):
            for _ in range(rounds):
                await asyncio.gather(*(client.publish("t", qos=1) for _ in range(at_once)))
            await held


@client_must("MQTT-4.4.0-2", "MQTT-4.3.3-4")
@pytest.mark.parametrize("qos", [1, 2])
async def test_what_the_broker_refuses_is_over(qos: int) -> None:
    refusal = PUBACK if qos == 1 else PUBREC

    async def first(peer: Peer) -> None:
        await accepted(peer)
        no = await peer.take(PUBLISH)
        peer.send(Packet(refusal, packet_id=no.packet_id, reason_code=0x97))
        yes = await peer.take(PUBLISH)
        assert yes.payload == b"yes"
        assert not [packet for packet in peer.received if packet.type is PUBREL]

    async def second(peer: Peer) -> None:
        await accepted(peer, session_present=True)
        again = await peer.take(PUBLISH)
        assert (again.payload, again.dup) == (b"yes", True)
        peer.send(Packet(refusal, packet_id=again.packet_id, reason_code=0x10))
        if qos == 2:
            peer.send(Packet(PUBCOMP, packet_id=(await peer.take(PUBREL)).packet_id))
        await gone(peer)
        assert not [packet for packet in peer.received if packet.type in (PUBLISH, PUBREL)]

    async with (
        HostileServer(first, second) as server,
        reqtt.Client(server.url, reconnect=SOON, **SESSION) as client,
    ):
        with pytest.raises(reqtt.PublishError) as caught:
            await client.publish("t", b"no", qos=qos)
        assert caught.value.reason_code == 0x97
        async with asyncio.timeout(5):
            assert (await client.publish("t", b"yes", qos=qos)).reason_code == 0x10


@client_must(
    *("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.3.3-6", "MQTT-4.6.0-1", "MQTT-3.1.2-23", "MQTT-4.1.0-1"),
    *("MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.3.3-5"),
)
async def test_what_was_not_acknowledged_is_sent_again_in_order_with_its_identifier() -> None:
    payloads = [b"0", b"1", b"2", b"3", b"4"]
    qos = [1, 2, 2, 1, 2]
    first_sent: list[Packet] = []

    async def first(peer: Peer) -> None:
        await accepted(peer)
        first_sent.extend([await peer.take(PUBLISH) for _ in payloads])
        peer.send(Packet(PUBREC, packet_id=first_sent[2].packet_id))
        await peer.take(PUBREL)
        await peer.take(PINGREQ)  # a second later nothing was sent again
        assert not [packet for packet in peer.received if packet.type in (PUBLISH, PUBREL)]

    async def second(peer: Peer) -> None:
        await accepted(peer, session_present=True)
        again: list[Packet] = []
        while len(again) < len(first_sent):
            again.append(await peer.take(PUBREL if len(again) == 2 else PUBLISH))
        assert [packet.packet_id for packet in again] == [packet.packet_id for packet in first_sent]
        copies = [packet for packet in again if packet.type is PUBLISH]
        assert [packet.payload for packet in copies] == [b"0", b"1", b"3", b"4"]
        assert [packet.qos for packet in copies] == [1, 2, 1, 2]
        assert all(packet.dup for packet in copies)
        for packet in copies:
            peer.send(Packet(PUBACK if packet.qos == 1 else PUBREC, packet_id=packet.packet_id))
        for number in (1, 4):
            assert (await peer.take(PUBREL)).packet_id == first_sent[number].packet_id
        for number in (2, 1, 4):
            peer.send(Packet(PUBCOMP, packet_id=first_sent[number].packet_id))
        await gone(peer)
        assert not [packet for packet in peer.received if packet.type in (PUBLISH, PUBREL)]

    async with (
        HostileServer(first, second) as server,
        reqtt.Client(server.url, reconnect=SOON, keep_alive=1, **SESSION) as client,
    ):
        calls = [client.publish("t", payload, qos=q) for payload, q in zip(payloads, qos, strict=True)]
        async with asyncio.timeout(5):
            await asyncio.gather(*calls)


@client_must("MQTT-4.3.3-7")
async def test_a_request_that_was_given_up_is_still_released() -> None:
    """Its deadline is its Message Expiry Interval; what was sent at QoS 2 is finished all the same."""

    async def script(peer: Peer) -> None:
        await accepted(peer)
        subscribe = await peer.take(SUBSCRIBE)
        peer.send(Packet(SUBACK, packet_id=subscribe.packet_id, reason_codes=(1,)))
        request = await peer.take(PUBLISH)
        assert request.properties["message_expiry_interval"] == 1
        given_up.set_result(request)
        await proceed.wait()
        peer.send(Packet(PUBREC, packet_id=request.packet_id))
        assert (await peer.take(PUBREL)).packet_id == request.packet_id
        peer.send(Packet(PUBCOMP, packet_id=request.packet_id))
        peer.answering(True)
        await gone(peer)

    given_up: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
    proceed = asyncio.Event()
    async with HostileServer(script) as server, reqtt.Requester(server.url, reconnect=None) as requester:
        with pytest.raises(reqtt.ResponseTimeout):
            await requester.request("q/t", qos=2, timeout=0.1)
        await given_up
        proceed.set()
        assert (await requester.request("q/t", b"next", timeout=5)).payload == b"next"
        await eventually(lambda: requester.client.stats().in_flight == 0)


@client_must("MQTT-3.3.4-7", "MQTT-3.3.4-8", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.9.0-3")
async def test_the_brokers_receive_maximum_bounds_what_is_not_acknowledged() -> None:
    async def script(peer: Peer) -> None:
        await accepted(peer, receive_maximum=2)
        one, two = await peer.take(PUBLISH), await peer.take(PUBLISH)
        assert (one.qos, two.qos) == (1, 2)
        # The quota is used up; everything else goes on.
        peer.send(Packet(PUBLISH, topic="s", qos=1, packet_id=7))
        assert (await peer.take(PUBACK)).packet_id == 7
        await peer.take(SUBSCRIBE)
        assert (await peer.take(PUBLISH)).qos == 0
        peer.send(Packet(PUBREC, packet_id=two.packet_id))
        await peer.take(PUBREL)
        await peer.take(PINGREQ)
        assert not [packet for packet in peer.received if packet.type is PUBLISH], "PUBREC frees nothing"
        peer.send(Packet(PUBACK, packet_id=one.packet_id))
        three = await peer.take(PUBLISH)
        peer.send(Packet(PUBCOMP, packet_id=two.packet_id))
        four = await peer.take(PUBLISH)
        assert (three.qos, four.qos) == (2, 1)
        peer.send(Packet(PUBREC, packet_id=three.packet_id, reason_code=0x97))
        five = await peer.take(PUBLISH)
        for packet in (four, five):
            peer.send(Packet(PUBACK, packet_id=packet.packet_id))
        await gone(peer)

    async with (
        HostileServer(script) as server,
        reqtt.Client(server.url, reconnect=None, keep_alive=1) as client,
    ):
        calls = [client.publish("t", qos=qos) for qos in (1, 2, 2, 1, 1)]
        subscribing = asyncio.ensure_future(client.subscribe("s").__aenter__())
        await client.publish("t", qos=0)
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(outcome, reqtt.PublishError) for outcome in outcomes] == [
            False,
            False,
            True,
            False,
            False,
        ]
        subscribing.cancel()


@client_must("MQTT-3.3.4-7", "MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
async def test_what_is_sent_again_keeps_to_the_receive_maximum_of_the_new_connection() -> None:
    count = 6
    sent: list[Packet] = []

    async def first(peer: Peer) -> None:
        await accepted(peer)
        sent.extend([await peer.take(PUBLISH) for _ in range(count)])
        peer.send(Packet(PUBREC, packet_id=sent[1].packet_id))
        await peer.take(PUBREL)

    async def second(peer: Peer) -> None:
        await accepted(peer, session_present=True, receive_maximum=2)
        again = [await peer.take(PUBLISH)]
        assert (await peer.take(PUBREL)).packet_id == sent[1].packet_id
        await peer.take(PINGREQ)
        peer.send(Packet(PUBCOMP, packet_id=sent[1].packet_id))
        for number in range(count):
            # One for each that is acknowledged, and the new one last.
            if len(again) < count:
                assert not [packet for packet in peer.received if packet.type is PUBLISH]
                again.append(await peer.take(PUBLISH))
            peer.send(Packet(PUBACK, packet_id=again[number].packet_id))
        assert [packet.payload for packet in again] == [b"0", b"2", b"3", b"4", b"5", b"new"]
        assert [packet.dup for packet in again] == [True] * 5 + [False]
        copies = [packet.packet_id for packet in again[:-1]]
        assert copies == [packet.packet_id for packet in (sent[0], *sent[2:])]
        await gone(peer)

    async with (
        HostileServer(first, second) as server,
        reqtt.Client(server.url, reconnect=SOON, keep_alive=1, **SESSION) as client,
    ):
        calls = [client.publish("t", b"%d" % n, qos=2 if n == 1 else 1) for n in range(count)]
        await eventually(lambda: len(server.peers) == 2)
        calls.append(client.publish("t", b"new"))
        async with asyncio.timeout(10):
            await asyncio.gather(*calls)


# --- as the receiver


@client_must(
    *("MQTT-3.3.4-1", "MQTT-2.2.1-5", "MQTT-4.3.2-4", "MQTT-4.3.2-5", "MQTT-4.3.3-8", "MQTT-4.3.3-10"),
    *("MQTT-4.3.3-11", "MQTT-4.3.3-12", "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.7.2-1"),
)
async def test_each_qos_is_received_by_its_protocol() -> None:
    def send(peer: Peer, payload: bytes, qos: int, packet_id: int = 0, dup: bool = False) -> None:
        peer.send(Packet(PUBLISH, topic="s", payload=payload, qos=qos, packet_id=packet_id, dup=dup))

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        send(peer, b"0", 0)
        for payload, dup in ((b"1", False), (b"1 again", True)):
            send(peer, payload, 1, 5, dup)
            puback = await peer.take(PUBACK)
            assert (puback.packet_id, puback.reason_code) == (5, 0)
        for payload in (b"2", b"3"):
            for dup in (False, True, True):
                send(peer, payload, 2, 6, dup)
                pubrec = await peer.take(PUBREC)
                assert (pubrec.packet_id, pubrec.reason_code) == (6, 0)
            for _ in range(2):  # the second PUBREL is for nothing, and is answered all the same
                peer.send(Packet(PUBREL, packet_id=6))
                pubcomp = await peer.take(PUBCOMP)
                assert pubcomp.packet_id == 6
                assert pubcomp.reason_code in (0, 0x92)
        send(peer, b"end", 0)
        await gone(peer)

    async with (
        HostileServer(script) as server,
        reqtt.Client(server.url, reconnect=None) as client,
        client.subscribe("s") as messages,
    ):
        found = []
        async with asyncio.timeout(5):
            while found[-1:] != [b"end"]:
                found.append((await anext(messages)).payload)
        assert found == [b"0", b"1", b"1 again", b"2", b"3", b"end"]


@client_must("MQTT-4.5.0-2", "MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-3.3.4-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_everything_is_acknowledged_in_the_order_of_its_arrival(qos: int) -> None:
    """Requests whose answer takes long, those for nobody, those without or with a wrong Response Topic."""
    order = [11, 3, 65_535, 7, 8, 2]
    gate = asyncio.Event()

    @reqtt.responder("q/slow")
    async def slow() -> str:
        await gate.wait()
        return "at last"

    @reqtt.responder("q/quick")
    async def quick() -> str:
        gate.set()
        return "now"

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        where = {"response_topic": "r/1", "correlation_data": b"c"}
        wrong = {"response_topic": "r/#", "correlation_data": b"c"}
        requests = [("slow", where), ("nobody", where), ("quick", {}), ("quick", wrong), ("quick", where)]
        requests.append(("slow", {}))
        for packet_id, (name, properties) in zip(order, requests, strict=True):
            peer.send(Packet(PUBLISH, properties, topic=f"q/{name}", qos=qos, packet_id=packet_id))
        kind = PUBACK if qos == 1 else PUBREC
        acks = []
        while len(acks) < len(order):
            ack = await peer.take(kind)
            acks.append(ack.packet_id)
            assert ack.reason_code == 0
            if qos == 2:
                peer.send(Packet(PUBREL, packet_id=ack.packet_id))
        assert acks == order
        await gone(peer)

    async with HostileServer(script) as server:
        async with reqtt.Client(server.url, reconnect=None) as client, reqtt.Responder(client, [slow, quick]):
            [peer] = server.peers
            count = len(order) if qos == 2 else 0
            await eventually(lambda: sum(p.type is PUBCOMP for p in peer.received) == count)
            await eventually(lambda: sum(p.type is PUBLISH for p in peer.received) == 2)
        assert {p.topic for p in peer.received if p.type is PUBLISH} == {"r/1"}


@client_must("MQTT-4.3.3-13")
async def test_an_expired_request_is_acknowledged_to_the_end() -> None:
    ran = []

    @reqtt.responder("q/t")
    async def answer(body: bytes) -> None:
        ran.append(body)

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        expired = {"message_expiry_interval": 0, "response_topic": "r/1", "correlation_data": b"c"}
        peer.send(Packet(PUBLISH, expired, topic="q/t", payload=b"expired", qos=2, packet_id=4))
        assert (await peer.take(PUBREC)).packet_id == 4
        peer.send(Packet(PUBREL, packet_id=4))
        assert (await peer.take(PUBCOMP)).reason_code == 0
        peer.send(Packet(PUBLISH, topic="q/t", payload=b"live"))
        await gone(peer)

    async with (
        HostileServer(script) as server,
        reqtt.Client(server.url, reconnect=None) as client,
        reqtt.Responder(client, [answer]),
    ):
        await eventually(lambda: ran)
    assert ran == [b"live"]


@client_must("MQTT-3.3.4-6", "MQTT-3.3.2-2", "MQTT-4.7.0-1", "MQTT-3.3.2-14")
async def test_a_response_carries_what_it_must_and_nothing_of_the_subscription() -> None:
    @reqtt.responder("q/t")
    async def answer() -> str:
        return "yes"

    correlation_data = bytes(range(256)) * 4

    async def script(peer: Peer) -> None:
        await peer.accept()
        [identifier] = (await peer.expect(SUBSCRIBE)).properties["subscription_identifier"]
        for topic in ("r/+", "#", "", "r/\ufeffä"):
            peer.send(
                Packet(
                    PUBLISH,
                    {
                        "response_topic": topic,
                        "correlation_data": correlation_data,
                        "subscription_identifier": (identifier, 7),
                    },
                    topic="q/t",
                )
            )
        response = await peer.take(PUBLISH)
        assert response.topic == "r/\ufeffä", "not to a wildcard, nor to nowhere"
        assert response.properties["correlation_data"] == correlation_data
        assert "subscription_identifier" not in response.properties
        assert "response_topic" not in response.properties
        await gone(peer)

    async with HostileServer(script) as server:
        async with reqtt.Client(server.url, reconnect=None) as client, reqtt.Responder(client, [answer]):
            [peer] = server.peers
            await eventually(lambda: client.stats().responses_sent == 1)
        assert not [packet for packet in peer.received if packet.type is PUBLISH]


# --- what is never sent

WRONG_TOPICS = ["r/+", "r/#", "#", "", "a\0b", "\ud800", "x" * 65_536]


@client_must(
    *("MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-4.7.3-1", "MQTT-4.7.3-2"),
    "MQTT-4.7.3-3",
)
@pytest.mark.parametrize("wrong", WRONG_TOPICS, ids=lambda wrong: ascii(wrong)[:10])
async def test_no_response_topic_is_sent_that_is_no_topic_name(wrong: str) -> None:
    async with HostileServer() as server, reqtt.Client(server.url, reconnect=None) as client:
        async with reqtt.Requester(client) as requester:
            with pytest.raises(ValueError):
                await client.publish("t", response_topic=wrong)
            with pytest.raises(ValueError):
                await requester.request("t", response_topic=wrong, timeout=2)
            with pytest.raises(ValueError):
                await requester.request(wrong, timeout=2)
            await requester.request("t", timeout=2)
        sent = [packet for packet in server.peers[0].received if packet.type is PUBLISH]
        [topic] = [packet.properties["response_topic"] for packet in sent]

        assert not set("+#\0") & set(topic)
        asked = [f.topic_filter for p in server.peers[0].received if p.type is SUBSCRIBE for f in p.filters]
        assert asked == [topic]


@client_must("MQTT-3.3.2-14", "MQTT-3.3.2-13")
@pytest.mark.parametrize("said_by_broker", ["r/+", "#", "", None, "replies/ä", "a/"])
async def test_a_request_always_names_a_topic_where_it_listens(said_by_broker: str | None) -> None:
    properties = {} if said_by_broker is None else {"response_information": said_by_broker}

    async def script(peer: Peer) -> None:
        await peer.accept(**properties)
        await gone(peer)

    async with HostileServer(script) as server:
        async with reqtt.Requester(server.url, client_id="a+b/#c\ufeff", reconnect=None) as requester:
            assert (await requester.request("q/t", b"x", timeout=2)).payload == b"x"
        [request] = [packet for packet in server.peers[0].received if packet.type is PUBLISH]
        topic = request.properties["response_topic"]
        assert not set("+#\0") & set(topic)
        [subscribe] = [packet for packet in server.peers[0].received if packet.type is SUBSCRIBE]
        assert [f.topic_filter for f in subscribe.filters] == [topic]
        if said_by_broker in ("replies/ä", "a/"):
            assert topic.startswith(said_by_broker)


@client_must(
    *("MQTT-3.8.3-1", "MQTT-3.8.3-2", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.7.3-2"),
    *("MQTT-4.7.3-3", "MQTT-4.8.2-1", "MQTT-4.8.2-2", "MQTT-3.8.3-4", "MQTT-3.10.3-1", "MQTT-3.10.3-2"),
)
async def test_no_filter_is_sent_that_is_none() -> None:
    wrong = ["", "a#", "a/#/b", "a+", "+a/b", "a\0b", "\ud800", "x" * 65_536]
    wrong += ["$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/g/a#"]
    async with HostileServer() as server, reqtt.Client(server.url, reconnect=None) as client:
        for topic_filter in wrong:
            with pytest.raises(ValueError):
                client.subscribe(topic_filter)
            if not topic_filter.startswith("$share"):
                with pytest.raises(ValueError):
                    reqtt.responder(topic_filter)(print)
        for group in ("", "a/b", "+", "g#"):
            with pytest.raises(ValueError):
                reqtt.responder("q/t", group=group)
        with pytest.raises(ValueError):
            client.subscribe()
        async with client.subscribe("$share/g/+/ä/#", no_local=True):
            pass
        [peer] = server.peers
        assert [packet.filters for packet in peer.received if packet.type is SUBSCRIBE] == [
            (Filter("$share/g/+/ä/#", 1),)
        ], "No Local is left out [MQTT-3.8.3-4]"
        await eventually(lambda: any(packet.type is UNSUBSCRIBE for packet in peer.received))
        [unsubscribe] = [packet for packet in peer.received if packet.type is UNSUBSCRIBE]
        assert [f.topic_filter for f in unsubscribe.filters] == ["$share/g/+/ä/#"]


@client_must("MQTT-3.3.2-19", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1")
@pytest.mark.parametrize("wrong", ["\ud800", "a\0b", "x" * 65_536], ids=lambda wrong: ascii(wrong)[:10])
async def test_no_text_is_sent_that_is_no_utf_8_string(wrong: str) -> None:
    async with HostileServer() as server, reqtt.Client(server.url, reconnect=None) as client:
        for properties in (
            {"content_type": wrong},
            {"user_properties": ((wrong, "v"),)},
            {"user_properties": (("k", wrong),)},
        ):
            with pytest.raises((ValueError, TypeError)):
                await client.publish("t", **properties)
        await client.publish("t", content_type="\ufeffä", user_properties=(("\ufeff", "\U0001f4a1"),))
        [sent] = [packet for packet in server.peers[0].received if packet.type is PUBLISH]
        assert sent.properties["content_type"] == "\ufeffä"
        assert sent.properties["user_properties"] == (("\ufeff", "\U0001f4a1"),)


@client_must("MQTT-1.5.4-3")
async def test_a_byte_order_mark_is_a_character_like_any_other() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        properties = {"content_type": "\ufeffx", "user_properties": (("\ufeffk", "\ufeff"),)}
        peer.send(Packet(PUBLISH, properties, topic="s/\ufeffä", payload=b"x"))
        await gone(peer)

    async with HostileServer(script) as server, reqtt.Client(server.url, reconnect=None) as client:
        async with client.subscribe("s/+") as messages, asyncio.timeout(5):
            message = await anext(messages)
        assert (message.topic, message.content_type) == ("s/\ufeffä", "\ufeffx")
        assert message.user_properties == (("\ufeffk", "\ufeff"),)


@client_must("MQTT-3.14.2-1", "MQTT-3.14.4-1", "MQTT-3.14.4-2")
async def test_an_error_of_the_broker_is_named_and_is_the_last_word() -> None:
    """The table of what is answered with which code: tests/faults/test_hostile_server.py."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(SUBSCRIBE)
        peer.send(Packet(PUBLISH, topic="s/+"))
        for n in range(1, 50):
            peer.send(Packet(PUBLISH, topic="s", qos=1, packet_id=n))
        await gone(peer)

    async with HostileServer(script) as server, reqtt.Client(server.url, reconnect=SOON) as client:
        events = client.events()
        async with client.subscribe("s/#"):
            lost = None
            async with asyncio.timeout(5):
                while not isinstance(lost, Disconnected):
                    lost = await anext(events)
            peer = server.peers[0]
            await gone(peer)
            assert said(peer) == [0x81]
            assert peer.received[-1].type is DISCONNECT
            assert peer.raw[-1][2] == 0x81
