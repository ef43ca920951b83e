"""The access rules of SECURITY.md, on a real Mosquitto: they let in whom they name, and keep out the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reqtt
from conftest import Broker
from support.mosquitto import free_port
from support.packets import Packet
from support.raw import RawClient

SECURITY = Path(__file__).parent.parent / "SECURITY.md"
USERS = {"panel-7": "p", "lights": "l", "intruder": "i"}


def block(language: str) -> list[str]:
    [found] = re.findall(rf"^```{language}\n(.*?)^```", SECURITY.read_text(), re.MULTILINE | re.DOTALL)
    return str(found).splitlines()


@pytest.fixture
def guarded(own_mosquitto: Callable[..., Any]) -> Broker:
    # The files are the test's own, and its listener is on a free port, without TLS.
    port = free_port()
    settings = [
        f"listener {port} 127.0.0.1" if line.startswith("listener ") else line for line in block("text")
    ]
    settings = [line for line in settings if line and "/etc/mosquitto/" not in line]
    assert len(settings) == 3, settings
    broker = own_mosquitto(acl=block("acl"), users=USERS, extra=settings)
    return Broker("mosquitto", f"mqtt://127.0.0.1:{port}", port, mosquitto=broker.mosquitto)


def options(user: str) -> dict[str, str]:
    return {"client_id": user, "username": user, "password": USERS[user]}


async def spy(broker: Broker, client_id: str, user: str) -> RawClient:
    peer = await RawClient.connect(
        broker.port, client_id=client_id, username=user, password=USERS[user].encode()
    )
    # Mosquitto 2.0.11 grants them all, and delivers what it allows.
    await peer.subscribe("#", "clients/#", "clients/panel-7/responses/#", "cmnd/#", "$share/g/cmnd/#")
    return peer


def refused(puback: Packet | None) -> bool:
    return puback is not None and puback.reason_code == 0x87


@reqtt.responder("cmnd/{light}/power", allowed_response_topics=["clients/+/responses/#"])
async def power(light: str, body: str) -> str:
    return f"{light} {body}"


async def test_the_access_rules_let_in_whom_they_name_and_keep_out_the_rest(guarded: Broker) -> None:
    async with (
        reqtt.Responder(guarded.url, [power], **options("lights")),
        reqtt.Requester(guarded.url, **options("panel-7")) as panel,
        await spy(guarded, "intruder", "intruder") as intruder,
        # Another's identifier is of no use: the broker takes the user's name instead.
        await spy(guarded, "lights", "intruder") as impostor,
    ):
        for n in range(5):
            response = await panel.request("cmnd/hall/power", f"ON {n}", timeout=5)
            assert response.text == f"hall ON {n}"
            assert response.topic.startswith("clients/panel-7/responses/")
        assert panel.client.stats().reconnects == 0

        for topic in (response.topic, "clients/panel-7/responses/x", "cmnd/hall/power"):
            assert refused(await impostor.publish(topic, b"spoofed", correlation_data=b"guess"))
        await impostor.ping()
        assert impostor.waiting == 0
        # Nor may those who ask answer.
        with pytest.raises(reqtt.PublishError, match="0x87"):
            await panel.client.publish(response.topic, b"spoofed")
        assert intruder.waiting == 0


async def test_those_who_answer_read_no_responses(guarded: Broker) -> None:
    async with (
        reqtt.Responder(guarded.url, [power], **options("lights")) as app,
        reqtt.Requester(guarded.url, **options("panel-7")) as panel,
        app.client.subscribe("clients/#", qos=0) as overheard,
    ):
        assert (await panel.request("cmnd/hall/power", "ON", timeout=5)).text == "hall ON"
        with pytest.raises(reqtt.PublishError, match="0x87"):
            await app.client.publish("cmnd/hall/power", b"OFF")
        assert not overheard._queue


async def test_a_response_topic_outside_the_rules_is_not_published_to(guarded: Broker) -> None:
    async with (
        reqtt.Responder(guarded.url, [power], **options("lights")) as app,
        reqtt.Client(guarded.url, **options("panel-7")) as panel,
    ):
        await panel.publish("cmnd/hall/power", "ON", response_topic="state/door", correlation_data=b"x")
        async with reqtt.Requester(panel) as requester:
            await requester.request("cmnd/hall/power", "ON", timeout=5)
        stats = app.client.stats()
        assert (stats.requests_dropped, stats.responses_sent) == (1, 1)
