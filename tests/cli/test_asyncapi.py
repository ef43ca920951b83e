"""`reqtt asyncapi`: the document of a module, into a pipe or a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import run

HOUSE = '''
from reqtt import Responder, Router, responder

@responder("cmnd/{device}/power")
async def power(device: str, body: str) -> str:
    """Switch it – on or off."""
    return body

lights = Router("lights")
app = Responder("mqtt://me:hunter2@house.example", [power])
lights.responder("{device}")(power)
'''


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "house.py").write_text(HOUSE)
    return tmp_path


async def test_a_module_becomes_a_document(here: Path) -> None:
    done = await run("asyncapi", "house", cwd=here)
    assert (done.code, done.stderr) == (0, "")
    made = json.loads(done.text)
    assert made["info"] == {"title": "house", "version": "0.0.0"}
    assert made["operations"]["power"]["summary"] == "Switch it – on or off."
    assert {channel["address"] for channel in made["channels"].values()} == {
        "cmnd/{device}/power",
        "lights/{device}",
        None,
    }


@pytest.mark.parametrize(("name", "address"), [("lights", "lights/{device}"), ("app", "cmnd/{device}/power")])
async def test_a_name_in_it_is_that_alone(here: Path, name: str, address: str) -> None:
    done = await run("asyncapi", f"house:{name}", "--title", "House", "--version", "2.1.0", cwd=here)
    made = json.loads(done.text)
    assert made["info"] == {"title": "House", "version": "2.1.0"}
    assert [c["address"] for c in made["channels"].values() if c["address"]] == [address]
    # Of an app, its broker; a password is none of the document's business.
    assert [server["host"] for server in made.get("servers", {}).values()] == (
        ["house.example:1883"] if name == "app" else []
    )
    assert "hunter2" not in done.text


async def test_servers_have_names_and_a_page_goes_into_a_file(here: Path) -> None:
    servers = ("--server", "home=mqtt://house.example", "--server", "wss://cloud.example/mqtt?a=b")
    done = await run("asyncapi", "house:power", *servers, "--html", "-o", "house.html", cwd=here)
    assert (done.code, done.stdout, done.stderr) == (0, b"", "written: house.html\n")
    page = (here / "house.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    for text in ("home", "house.example", "cloud.example/mqtt", "Switch it – on or off."):
        assert text in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no module 'nowhere'"),
        (["house:nothing"], "house has no nothing"),
        (["house.py"], "give the name of a module"),
        (["json"], "nothing to serve"),
        (["house", "--server", "http://me:hunter2@x"], "scheme 'http'"),
        (["house", "--server", "a=mqtt://x", "--server", "a=mqtt://y"], "given twice"),
        (["house", "-o", "nowhere/house.json"], "cannot be written"),
    ],
    ids=str,
)
async def test_what_cannot_be_documented_is_one_line(here: Path, arguments: list[str], words: str) -> None:
    done = await run("asyncapi", *arguments, cwd=here)
    assert (done.code, done.stdout) == (2, b"")
    assert words in done.complaint()
    assert "hunter2" not in done.stderr
