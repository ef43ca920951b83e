"""What the loopback broker tells of the packets that passed it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import reqtt
from reqtt import Requester, RequestError, Responder, responder
from reqtt.testing import LoopbackBroker, Packet, Recorded
from reqtt.testing.packets import Type
from support.raw import RawClient


@responder("cmnd/{lamp}/power")
async def power(lamp: str, body: str) -> str:
    if lamp == "cellar":
        raise RequestError(404, "no such lamp")
    return f"{lamp} {body}"


REQUEST = (
    'requester -> PUBLISH cmnd/hall/power "ON" qos=1 payload_format_indicator=1'
    " message_expiry_interval=<seconds> content_type=text/plain"
    " response_topic=clients/requester/responses/<token> correlation_data=<1>"
)


async def exchange(broker: LoopbackBroker, **options: Any) -> None:
    async with (
        Responder(broker.url, [power], client_id="lamps"),
        Requester(broker.url, **{"client_id": "requester", **options}) as requester,
    ):
        await requester.request("cmnd/hall/power", "ON")
        with pytest.raises(reqtt.NotFound):
            await requester.request("cmnd/cellar/power", "ON")


async def test_two_runs_give_the_same_text() -> None:
    texts = []
    for _ in range(3):
        with LoopbackBroker(record=True) as broker:
            await exchange(broker)
            texts.append(broker.snapshot())
    assert texts[0] == texts[1] == texts[2]
    lines = texts[0].splitlines()
    assert REQUEST in lines
    assert [line.split()[2] for line in lines if line.startswith("lamps")] == [
        "CONNECT",
        "CONNACK",
        "SUBSCRIBE",
        "SUBACK",
        *["PUBLISH"] * 4,
        "UNSUBSCRIBE",
        "UNSUBACK",
        "DISCONNECT",
    ]
    assert "lamps -> SUBSCRIBE cmnd/+/power (qos=1" in texts[0]


async def test_the_types_and_the_client_choose() -> None:
    with LoopbackBroker(record=True) as broker:
        await exchange(broker)
        first, answer, second, error = broker.snapshot("PUBLISH", client_id="requester").splitlines()
        assert first == REQUEST
        assert answer.startswith('requester <- PUBLISH clients/requester/responses/<token> "hall ON" qos=1 ')
        assert "correlation_data=<1>" in answer
        assert 'cmnd/cellar/power "ON"' in second
        assert "correlation_data=<2>" in error
        assert '__stat="404"' in error
        [*_, acknowledged] = broker.packets("PUBACK", client_id="lamps")
        assert isinstance(acknowledged, Recorded)
        assert isinstance(acknowledged.packet, Packet)
        assert str(acknowledged) == "lamps -> PUBACK 0x00"
        [request] = [
            it for it in broker.packets("PUBLISH") if it.sent and it.packet.topic == "cmnd/hall/power"
        ]
        assert (request.client_id, request.packet.payload, request.packet.qos) == ("lamps", b"ON", 1)
        assert len(request.packet.correlation_data or b"") == 16
        with pytest.raises(ValueError, match="there is no packet type 'PUBLSH': use CONNECT"):
            broker.packets("PUBLSH")


async def test_names_that_the_broker_chose_and_bases_that_it_gave() -> None:
    with LoopbackBroker(record=True, response_information="rr/house.1/") as broker:
        async with Responder(broker.url, [power]), Requester(broker.url) as requester:
            await requester.request("cmnd/hall/power", "ON")
        text = broker.snapshot()
        assert "client-1 -> SUBSCRIBE cmnd/+/power" in text
        assert "client-2 -> SUBSCRIBE rr/house.1/<token> (" in text
        assert "response_topic=rr/house.1/<token>" in text
        assert "loopback-" not in text


async def test_topics_that_only_look_like_tokens_stay() -> None:
    with LoopbackBroker(record=True) as broker:
        async with reqtt.Client(broker.url, client_id="c") as client:
            await client.publish("state/light-in-bedroom", "ON", response_topic="answers/light-in-bedroom")
        assert broker.snapshot("PUBLISH").startswith('c -> PUBLISH state/light-in-bedroom "ON" qos=1')
        assert broker.snapshot("PUBLISH").endswith("response_topic=answers/light-in-bedroom")


async def test_refusals_show_and_acknowledgements_of_success_do_not() -> None:
    with LoopbackBroker(record=True) as broker:
        broker.refuse_publish(0x87, "secret/#")
        async with reqtt.Client(broker.url, client_id="c") as client:
            await client.publish("x", qos=2)
            for topic, qos in (("secret/1", 1), ("secret/2", 2)):
                with pytest.raises(reqtt.PublishError):
                    await client.publish(topic, qos=qos)
        acknowledged = [line for line in broker.snapshot().splitlines() if " <- PUB" in line]
        assert acknowledged == [
            "c <- PUBREC 0x10",
            "c <- PUBACK 0x87 reason_string=refused by rule",
            "c <- PUBREC 0x87 reason_string=refused by rule",
        ]
        assert "c -> PUBREL 0x00" in broker.snapshot("PUBREL")


async def test_secrets_do_not_show() -> None:
    with LoopbackBroker(record=True, username="me", password="pa55word") as broker:
        async with reqtt.Client(broker.url, client_id="c", username="me", password="pa55word"):
            pass
        [connect] = broker.packets("CONNECT")
        assert connect.packet.password == b"pa55word"
        assert str(connect).startswith(
            'c -> CONNECT "c" clean_start keep_alive=30 username="me" password=***'
        )
        for shown in (str(connect), repr(connect), broker.snapshot()):
            assert "pa55word" not in shown
        proof = Packet(Type.AUTH, {"authentication_method": "SCRAM", "authentication_data": b"proof"})
        assert str(proof) == "AUTH 0x00 authentication_method=SCRAM authentication_data=***"
        assert "proof" not in repr(proof)


async def test_payloads_are_short_and_in_one_line() -> None:
    with LoopbackBroker(record=True) as broker:
        async with reqtt.Client(broker.url, client_id="c") as client:
            for payload in ("x" * 61, "x" * 60, b"\xff\x00", "two\nlines", b""):
                await client.publish("t", payload, content_type="a/b")
        found = [
            line.split("PUBLISH t ")[1].split(" qos")[0] for line in broker.snapshot("PUBLISH").splitlines()
        ]
        assert found == ["<61 bytes>", f'"{"x" * 60}"', "<2 bytes>", "<9 bytes>", '""']


async def test_a_client_that_breaks_the_rules_is_recorded_up_to_there() -> None:
    with LoopbackBroker(record=True) as broker:
        async with await RawClient.connect(broker.port, client_id="bad") as peer:
            # A PUBLISH with QoS 3.
            peer._writer.write(b"\x36\x05\x00\x01t\x00\x01")
            await peer.wait_closed()
        assert [line.split()[2:] for line in broker.snapshot(client_id="bad").splitlines()][-1][
            0
        ] == "DISCONNECT"


async def test_clearing_forgets_what_was_before() -> None:
    with LoopbackBroker(record=True) as broker:
        async with reqtt.Client(broker.url, client_id="c") as client:
            await client.publish("before")
            broker.clear_packets()
            await client.publish("after")
            assert broker.snapshot("PUBLISH") == 'c -> PUBLISH after "" qos=1'


async def test_a_cut_connection_begins_anew() -> None:
    with LoopbackBroker(record=True) as broker:
        async with reqtt.Client(broker.url, client_id="c", reconnect=reqtt.Reconnect(initial=0.01)) as client:
            events = client.events()
            broker.cut()
            async with asyncio.timeout(10):
                while not isinstance(await anext(events), reqtt.Connected):
                    pass
        assert [it.packet.type.name for it in broker.packets()] == [
            *("CONNECT", "CONNACK") * 2,
            "DISCONNECT",
        ]


def test_it_tells_nothing_unless_it_records() -> None:
    with LoopbackBroker() as broker, pytest.raises(RuntimeError, match="record=True"):
        broker.packets()
    with pytest.raises(RuntimeError, match="does not run"):
        LoopbackBroker(record=True).snapshot()
