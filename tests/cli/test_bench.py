"""`reqtt bench`, `reqtt broker` and `reqtt demo`."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import reqtt
from support.command import run, running

Factory = Callable[..., Awaitable[Any]]
SMALL = ("--requests", "200", "--in-flight", "10")


async def test_bench_writes_json_and_a_plot(broker: Any, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = await run("bench", broker.url, *SMALL, "--json", "--out", str(out))
    assert done.code == 0
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert result["settings"]["requests"] == 200
    assert result["requests_per_second"] > 10
    assert result["failed"] == {}
    assert result["url"] == broker.url
    latencies = list(result["latency_ms"].values())
    assert latencies == sorted(latencies)
    assert latencies[0] > 0
    plot = ElementTree.fromstring(out.with_suffix(".svg").read_text())
    [curve] = plot.iter("{http://www.w3.org/2000/svg}polyline")
    assert len((curve.get("points") or "").split()) > 100


async def test_bench_needs_no_broker() -> None:
    done = await run("bench", "--loopback", *SMALL)
    assert done.code == 0
    assert "requests per second" in done.text
    assert "p99" in done.text
    assert done.stderr == ""


async def test_bench_of_another_responder(broker: Any, house: str) -> None:
    done = await run("bench", broker.url, *SMALL, "--topic", f"{house}/echo", "--json")
    assert json.loads(done.stdout)["settings"]["topic"] == f"{house}/echo"
    nobody = await run("bench", broker.url, *SMALL, "--topic", f"{house}/nobody")
    assert nobody.code == 4
    wrong = await run("bench", broker.url, "--out", "x.svg")
    assert wrong.code == 2
    assert "x.svg" in wrong.complaint()


async def test_broker_serves_until_it_is_told_to_end(requester: Factory) -> None:
    arguments = ("broker", "--port", "0", "--response-information", "rr/x", "--json")
    async with running(*arguments) as child:
        urls = json.loads(await child.line("{"))
        for url in urls.values():
            req = await requester(url)
            assert req.client.connack.response_information == "rr/x"
        taken = urls["url"].rpartition(":")[2]
        done = await run("broker", "--port", taken)
        assert done.code == 2
        assert f"port {taken} is taken" in done.complaint()
        assert await child.end(signal.SIGINT) == 130


async def test_broker_with_a_password() -> None:
    async with running(
        "broker", "--port", "0", "--username", "me", "--json", env={"REQTT_PASSWORD": "x y"}
    ) as child:
        url = json.loads(await child.line("{"))["url"]
        async with reqtt.Client(url, username="me", password="x y"):
            assert (await run("request", "t", "-u", url)).code == 5
        assert await child.end(signal.SIGTERM) == 0
    assert (await run("broker", "--username", "me")).code == 2


async def test_demo_plays_the_scene(mosquitto: Any) -> None:
    for arguments in ([], ["--url", mosquitto.url]):
        done = await run("demo", *arguments)
        assert (done.code, done.stderr) == (0, "")
        assert done.text.count("light-in-bedroom/power") == 5
        assert "404" in done.text
        assert "NoMatchingSubscribers" in done.text
