"""`reqtt check`: what it finds out about brokers of which the answers are known."""

from __future__ import annotations

import json
from typing import Any

from support.command import run


async def findings(url: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = await run("check", url, "--json", "--count", "5", *arguments)
    assert (done.code, done.stderr) == (code, "")
    report: dict[str, Any] = json.loads(done.stdout)
    report["by_name"] = {finding["name"]: finding for finding in report["findings"]}
    return report


async def test_a_broker_that_can_everything(own_loopback: Any) -> None:
    broker = own_loopback(response_information="rr/abc")
    report = await findings(broker.url)
    # It lets everybody read everything, and says so.
    private, honest = "Responses of others are private", "A refused SUBSCRIBE is told"
    oks = {name: finding["ok"] for name, finding in report["by_name"].items()}
    assert oks.pop(private) is False
    assert oks.pop(honest) is None
    assert set(oks.values()) == {True}
    assert report["by_name"]["Response Information"]["value"] == "rr/abc"
    assert report["by_name"]["Own response topic"]["value"] == "rr/abc/..."
    for trip in ("broker", "request"):
        values = list(report["round_trip_ms"][trip].values())
        assert 0 < values[0] <= values[-1] < 1000
        assert values == sorted(values)
    assert report["limits"]["maximum_qos"] == 2


async def test_mosquitto(mosquitto: Any) -> None:
    report = await findings(mosquitto.url)
    found = {name: finding["ok"] for name, finding in report["by_name"].items()}
    assert found == {
        "Connection": True,
        "Response Information": False,
        "Receive Maximum": False,
        "Maximum Packet Size": True,
        "Maximum QoS": True,
        "Own response topic": True,
        "Request topic": True,
        "0x10 No matching subscribers": True,
        "Shared subscriptions": True,
        "Responses of others are private": False,
        "A refused SUBSCRIBE is told": None,
    }
    # Each no says what it costs and what to set.
    for finding in report["findings"]:
        if finding["ok"] is False:
            assert finding["cost"], finding
            assert finding["fix"], finding


async def test_a_broker_that_can_nothing(own_loopback: Any) -> None:
    broker = own_loopback(
        shared_subscription_available=False,
        no_matching_subscribers=False,
        maximum_qos=1,
        receive_maximum=10,
        maximum_packet_size=1024,
    )
    report = await findings(broker.url)
    missing = [name for name, finding in report["by_name"].items() if finding["ok"] is False]
    assert missing == [
        "Response Information",
        "Receive Maximum",
        "Maximum Packet Size",
        "0x10 No matching subscribers",
        "Shared subscriptions",
        "Responses of others are private",
    ]


async def test_an_acl_that_keeps_the_response_topic_silent(own_mosquitto: Any) -> None:
    """Mosquitto's acl_file grants the SUBSCRIBE, and never delivers."""
    broker = own_mosquitto(acl=["topic readwrite reqtt/#", "topic write clients/#"])
    report = await findings(broker.url, code=1)
    own = report["by_name"]["Own response topic"]
    assert own["ok"] is False
    assert "SUBACK granted, nothing delivered" in own["value"]
    assert "timeout" in own["cost"]
    assert report["by_name"]["A refused SUBSCRIBE is told"]["ok"] is False
    assert report["by_name"]["Responses of others are private"]["ok"] is True
    assert report["usable"] is False


async def test_an_acl_that_lets_each_read_its_own(own_mosquitto: Any) -> None:
    broker = own_mosquitto(acl=["topic readwrite reqtt/#", "pattern readwrite clients/%c/responses/#"])
    report = await findings(broker.url)
    assert report["by_name"]["Own response topic"]["ok"] is True
    assert report["by_name"]["Responses of others are private"]["ok"] is True


async def test_a_refused_subscribe_is_told(own_mosquitto: Any) -> None:
    broker = own_mosquitto(deny_subscribe=["clients/#"])
    report = await findings(broker.url, code=1)
    assert "0x87 Not authorized" in report["by_name"]["Own response topic"]["value"]
    assert report["by_name"]["A refused SUBSCRIBE is told"]["ok"] is True
    forbidden = await findings(own_mosquitto(deny_subscribe=["secret/#"]).url, "--forbidden", "secret/#")
    assert forbidden["by_name"]["A refused SUBSCRIBE is told"]["ok"] is True


async def test_a_table_for_people_in_40_columns(mosquitto: Any) -> None:
    done = await run("check", mosquitto.url, "--count", "5", env={"COLUMNS": "40", "TERM": "dumb"})
    assert (done.code, done.stderr) == (0, "")
    assert max(map(len, done.text.splitlines())) <= 40
    text = " ".join(done.text.split())
    assert "costs:" in text
    assert "set:" in text
    assert "p99" in text


async def test_no_broker_is_5() -> None:
    done = await run("check", "mqtt://127.0.0.1:1")
    assert done.code == 5
    assert "mqtt://127.0.0.1:1" in done.complaint()
    told = json.loads((await run("check", "mqtt://127.0.0.1:1", "--json")).stdout)
    assert told["error"]["type"] == "ConnectError"
