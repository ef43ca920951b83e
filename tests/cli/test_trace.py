"""`reqtt trace`: who asked what, who answered, and when nobody did."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import reqtt
from support.command import run, running

Factory = Callable[..., Awaitable[Any]]
SVG = "{http://www.w3.org/2000/svg}"


async def test_it_tells_of_every_outcome(
    broker: Any, requester: Factory, raw: Factory, house: str, topic: str
) -> None:
    req = await requester(broker, client_id="panel-7")
    async with running("trace", f"{topic}/#", "--json", "-u", broker.url) as child:
        await child.line("watching")
        await req.request(f"{house}/echo", "ON")
        with pytest.raises(reqtt.NotFound):
            await req.request(f"{house}/missing")
        answered, error = [json.loads(await child.line("{")) for _ in range(2)]
        assert (answered["outcome"], answered["who_asked"]) == ("answered", "panel-7")
        assert (answered["request"]["payload"], answered["response"]["payload"]) == ("ON", "ON")
        assert answered["topic"] == f"{house}/echo"
        assert 0 < answered["latency_ms"] < 5000
        assert (error["outcome"], error["status"]) == ("error", 404)
        with pytest.raises(reqtt.ResponseTimeout):
            await req.request(f"{house}/silent", "?", timeout=0.4)
        unanswered = json.loads(await child.line("{", timeout=5))
        assert (unanswered["outcome"], unanswered["topic"]) == ("unanswered", f"{house}/silent")
        # It comes all the same, from somebody who has the request's properties.
        peer = await raw(broker)
        late = {"correlation_data": unanswered["correlation_data"].encode()}
        await peer.publish(unanswered["response_topic"], b"sorry", **late)
        assert json.loads(await child.line("{"))["outcome"] == "late"
        await peer.publish(unanswered["response_topic"], b"?", correlation_data=b"nobody's")
        assert json.loads(await child.line("{"))["outcome"] == "unknown"
        assert await child.end(signal.SIGINT) == 130


async def test_a_response_topic_of_their_own_is_learned(broker: Any, requester: Factory, house: str) -> None:
    req = await requester(broker, response_topic=f"{house}-answers/x")
    async with running("trace", f"{house}/#", "--json", "--count", "1", "-u", broker.url) as child:
        await child.line("watching")
        # Answers before its SUBACK are missed.
        line = asyncio.ensure_future(child.line('{"outcome": "answered"'))
        for _ in range(500):
            await req.request(f"{house}/echo", "ON")
            if (await asyncio.wait([line], timeout=0.02))[0]:
                break
        answered = json.loads(await line)
        assert answered["who_asked"] == f"{house}-answers/x"
        assert await child.process.wait() == 0


async def test_the_page_is_one_file_with_diagram_and_plot(
    broker: Any, requester: Factory, house: str, tmp_path: Path
) -> None:
    req = await requester(broker, client_id="panel-7")
    page = tmp_path / "trace.html"
    arguments = ("trace", f"{house}/#", "--html", str(page), "--count", "5", "-u", broker.url)
    hostile = "</svg><script>alert(1)</script>\x00\x1b]&<"
    async with running(*arguments) as child:
        await child.line("watching")
        for payload in ("ON", "OFF", hostile):
            await req.request(f"{house}/echo", payload.encode())
        with pytest.raises(reqtt.NotFound):
            await req.request(f"{house}/missing")
        with pytest.raises(reqtt.ResponseTimeout):
            await req.request(f"{house}/silent", timeout=0.3)
        await child.line("written:")
        assert await child.process.wait() == 0
    text = page.read_text()
    parsed = Parsed(text)
    assert parsed.open == []
    # Nothing is loaded, nothing runs.
    assert parsed.tags & {"script", "link", "img", "iframe"} == set()
    assert not re.search(r"(src|href)=|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    sequence, latency = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    arrows = [path.get("class") for path in sequence.iter(f"{SVG}path")]
    assert sorted(arrows) == ["answered"] * 3 + ["ask"] * 5 + ["error"]
    labels = [label.text or "" for label in sequence.iter(f"{SVG}text")]
    assert "panel-7" in labels
    assert any("no answer" in label for label in labels)
    assert len(list(latency.iter(f"{SVG}circle"))) == 4
    assert "4 answered" not in text
    assert "3 answered, 1 error, 1 unanswered" in text


async def test_lines_for_people(broker: Any, requester: Factory, house: str) -> None:
    req = await requester(broker, client_id="panel-7")
    async with running("trace", f"{house}/#", "--duration", "30", "--count", "1", "-u", broker.url) as child:
        await child.line("watching")
        await req.request(f"{house}/hostile", "go")
        line = await child.line_with("answered")
        assert re.search(rf"answered +{house}/hostile +from panel-7 +go +-> .*ON .* ms", line), line
        assert "\x1b" not in line
        assert await child.process.wait() == 0


async def test_duration_ends_it(loopback: Any, topic: str) -> None:
    done = await run("trace", topic, "--duration", "0.2", "-u", loopback.url)
    assert (done.code, done.text) == (0, "")
    assert "0 requests" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["a/#/b"], 2, "a/#/b"),
        (["t", "--responses", "#/"], 2, "#/"),
        (["t", "--html", "/no/such/folder/x.html"], 2, "/no/such/folder"),
    ],
    ids=str,
)
async def test_wrong_usage(loopback: Any, arguments: list[str], code: int, text: str) -> None:
    done = await run("trace", *arguments, "-u", loopback.url)
    assert done.code == code
    assert text in done.complaint()


class Parsed(HTMLParser):
    """Which tags there are, and which are left open."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
