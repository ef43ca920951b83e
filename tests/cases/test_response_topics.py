"""Rows I1-I3: Response Information, and the response topic that follows from it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from support import case, client_must
from support.packets import CONNACK, CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE
from support.proxy import Proxy

Factory = Callable[..., Awaitable[Any]]


async def ask(req: Any, topic: str, **options: Any) -> None:
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(topic, b"x", timeout=5, **options)


def response_topic(proxy: Proxy, topic: str) -> str:
    """Of the last request; it must also be what was subscribed to."""
    found = proxy.up(PUBLISH, topic)[-1].packet.response_topic
    assert found is not None
    assert found in [f.topic_filter for r in proxy.up(SUBSCRIBE) for f in r.packet.filters]
    return found


@case("I1")
@pytest.mark.parametrize("on", [True, False])
async def test_connect_asks_for_response_information_when_told_to(
    proxy: Proxy, requester: Factory, on: bool
) -> None:
    await requester(proxy, request_response_information=on)
    asked = proxy.up(CONNECT)[0].packet.properties.get("request_response_information", 0)
    assert asked == on


@case("I1")
async def test_connect_asks_for_response_information_by_default(proxy: Proxy, requester: Factory) -> None:
    await requester(proxy)
    assert proxy.up(CONNECT)[0].packet.properties["request_response_information"] == 1


@case("I2")
@pytest.mark.parametrize("information", ["rr/abc/", "rr/abc"])
async def test_response_information_is_the_prefix_of_the_response_topic(
    own_loopback: Any, make_proxy: Factory, requester: Factory, topic: str, information: str
) -> None:
    broker = own_loopback(response_information=information)
    proxy = await make_proxy(broker)
    req = await requester(proxy)
    assert req.client.connack.response_information == information
    await ask(req, topic)
    assert re.fullmatch(r"rr/abc/[^/+#]+", response_topic(proxy, topic))


@case("I2")
async def test_response_information_of_a_real_broker_reaches_the_topic(
    mosquitto: Any, make_proxy: Factory, requester: Factory, topic: str
) -> None:
    # Mosquitto has none, so the proxy adds it to the CONNACK.
    proxy = await make_proxy(mosquitto)
    proxy.rewrite("down", CONNACK, lambda p: [p.with_properties(response_information="rr/abc/")])
    req = await requester(proxy)
    await ask(req, topic)
    assert re.fullmatch(r"rr/abc/[^/+#]+", response_topic(proxy, topic))


@client_must("MQTT-3.3.2-14")
@case("I2")
@pytest.mark.parametrize("information", ["rr/+/", "rr/#", ""])
async def test_an_unusable_response_information_is_ignored_with_a_warning(
    broker: Any,
    proxy: Proxy,
    requester: Factory,
    topic: str,
    information: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy.rewrite("down", CONNACK, lambda p: [p.with_properties(response_information=information)])
    with caplog.at_level(logging.WARNING, "reqtt"):
        req = await requester(proxy, client_id="panel-7")
        await ask(req, topic)
    assert response_topic(proxy, topic).startswith("clients/panel-7/responses/")
    assert any(r.name.startswith("reqtt") and r.levelno == logging.WARNING for r in caplog.records)


@case("I2")
async def test_a_hook_makes_the_response_topic(
    own_loopback: Any, make_proxy: Factory, requester: Factory, topic: str
) -> None:
    seen: list[tuple[Any, ...]] = []

    def hook(client_id: str, response_information: str | None, token: str) -> str:
        seen.append((client_id, response_information, token))
        assert response_information
        return f"{response_information.split(',')[1]}/{token}"

    proxy = await make_proxy(own_loopback(response_information="FRONT,mytopic"))
    req = await requester(proxy, client_id="panel-7", response_topic=hook)
    await ask(req, topic)
    assert seen[0][:2] == ("panel-7", "FRONT,mytopic")
    assert response_topic(proxy, topic) == f"mytopic/{seen[0][2]}"


@case("I3")
@pytest.mark.parametrize(
    ("client_id", "level"), [("panel-7", "panel-7"), ("a/b+c#d", "a%2Fb%2Bc%23d"), ("küche", "küche")]
)
async def test_the_fallback_is_below_the_client_id(
    proxy: Proxy, requester: Factory, topic: str, client_id: str, level: str
) -> None:
    req = await requester(proxy, client_id=client_id)
    await ask(req, topic)
    assert proxy.up(CONNECT)[0].packet.client_id == client_id
    assert re.fullmatch(rf"clients/{re.escape(level)}/responses/[^/+#]+", response_topic(proxy, topic))


@case("I3")
async def test_the_fallback_uses_the_assigned_client_identifier(
    proxy: Proxy, requester: Factory, topic: str
) -> None:
    req = await requester(proxy, client_id="")
    await ask(req, topic)
    assigned = proxy.down(CONNACK)[0].packet.properties["assigned_client_identifier"]
    assert req.client.client_id == assigned == req.client.connack.assigned_client_identifier
    assert response_topic(proxy, topic).startswith(f"clients/{assigned}/responses/")


@case("I3")
async def test_without_a_client_id_the_fallback_names_the_one_in_use(
    proxy: Proxy, requester: Factory, topic: str
) -> None:
    req = await requester(proxy)
    await ask(req, topic)
    asked = proxy.up(CONNECT)[0].packet.client_id
    used = proxy.down(CONNACK)[0].packet.properties.get("assigned_client_identifier", asked)
    assert used
    assert req.client.client_id == used
    assert response_topic(proxy, topic).startswith(f"clients/{used}/responses/")


@case("I3")
async def test_two_connections_never_share_a_response_topic(proxy: Proxy, topic: str) -> None:
    topics = []
    for _ in range(2):
        async with reqtt.Requester(proxy.url, client_id="panel-7") as req:
            await ask(req, topic)
        topics.append(response_topic(proxy, topic))
    assert topics[0] != topics[1]


@case("I3")
async def test_with_a_persistent_session_a_restart_finds_its_response_topic(proxy: Proxy, topic: str) -> None:
    topics = []
    for _ in range(2):
        async with reqtt.Requester(
            proxy.url, client_id=topic, clean_start=False, session_expiry_interval=30
        ) as req:
            await ask(req, topic)
        topics.append(response_topic(proxy, topic))
    assert topics[0] == topics[1]


@case("I3")
async def test_a_response_topic_of_ones_own_is_used_as_it_is(
    proxy: Proxy, requester: Factory, topic: str
) -> None:
    req = await requester(proxy, response_topic=f"{topic}/default")
    await ask(req, topic)
    assert response_topic(proxy, topic) == f"{topic}/default"
    await ask(req, topic, response_topic=f"{topic}/once")
    assert response_topic(proxy, topic) == f"{topic}/once"


@client_must("MQTT-3.3.2-14")
@pytest.mark.parametrize("wrong", ["a/+", "a/#", "", "a\0b", "x" * 65536])
async def test_an_unusable_response_topic_is_refused_when_it_is_given(wrong: str) -> None:
    with pytest.raises(ValueError):
        reqtt.Requester("mqtt://localhost:1", response_topic=wrong)


async def test_response_topics_of_single_requests_do_not_pile_up(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy = await make_proxy(loopback)
    await (await raw(loopback)).serve(topic)
    req = await requester(proxy)
    for n in range(100):
        response = await req.request(topic, str(n), response_topic=f"{topic}/answers/{n}")
        assert (response.text, response.topic) == (str(n), f"{topic}/answers/{n}")
    await proxy.until(lambda: len(proxy.up(UNSUBSCRIBE)) >= 68)
    # The first 32 are kept: asking there again subscribes nothing.
    before = len(proxy.up(SUBSCRIBE))
    assert (await req.request(topic, b"again", response_topic=f"{topic}/answers/7")).text == "again"
    assert (before, len(proxy.up(SUBSCRIBE))) == (100, 100)
    # One that was given up is subscribed anew.
    assert (await req.request(topic, b"back", response_topic=f"{topic}/answers/77")).text == "back"
    assert len(proxy.up(SUBSCRIBE)) == 101


async def test_a_response_topic_is_kept_while_a_request_waits_there(
    loopback: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str
) -> None:
    proxy = await make_proxy(loopback)
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(proxy)
    waiting = [
        asyncio.ensure_future(req.request(topic, str(n), response_topic=f"{topic}/answers/{n}"))
        for n in range(50)
    ]
    asked = [await peer.receive() for _ in waiting]
    assert not proxy.up(UNSUBSCRIBE)
    for request in reversed(asked):
        await peer.respond(request, request.payload)
    assert [r.text for r in await asyncio.gather(*waiting)] == [str(n) for n in range(50)]
