"""The code in README.md and docs/ runs as it is printed, but for the broker's address."""

from __future__ import annotations

import ast
import asyncio
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Broker

ROOT = Path(__file__).resolve().parent.parent
PRINTED = "mqtt://localhost:1883"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each Python block."""
    text = page.read_text()
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(1)), found[1]


class Script:
    """A block of the README as a program of its own."""

    def __init__(self, source: str, url: str) -> None:
        assert PRINTED in source
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-u", "-c", source.replace(PRINTED, url)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def output(self) -> str:
        stdout, stderr = self.process.communicate(timeout=20)
        assert (self.process.returncode, stderr) == (0, ""), stdout + stderr
        return stdout


@pytest.fixture
def light(broker: Broker) -> Iterator[Script]:
    """The README's responder, subscribed."""
    responder, _, _ = (source for _, source in blocks(ROOT / "README.md"))
    with Script(responder, broker.url) as script:
        asyncio.run(wait_for_responder(broker.url))
        yield script


async def wait_for_responder(url: str) -> None:
    import reqtt

    async with reqtt.Client(url) as client, asyncio.timeout(10):
        # An empty command without a Response Topic: only its PUBACK matters.
        while (await client.publish("cmnd/probe/power", "")).reason_code == 0x10:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_readme_phone_switches_the_light_on(light: Script, broker: Broker) -> None:
    _, phone, _ = (source for _, source in blocks(ROOT / "README.md"))
    with Script(phone, broker.url) as script:
        assert script.output() == "ON\n"
    light.process.send_signal(signal.SIGINT)
    assert light.output().endswith("light-in-bedroom is ON\n")


def test_readme_error_is_told(broker: Broker) -> None:
    _, _, errors = (source for _, source in blocks(ROOT / "README.md"))
    with Script(errors, broker.url) as script:
        assert script.output() == "nobody is at home\n"


@pytest.mark.parametrize("number", [0, 1])
def test_readme_scene_has_ten_lines(number: int) -> None:
    source = [source for _, source in blocks(ROOT / "README.md")][number]
    assert len([line for line in source.splitlines() if line.strip()]) <= 10


# The tutorial's blocks are files: test_tutorial.py runs them.
@pytest.mark.parametrize(
    "name", sorted({path.name for path in (ROOT / "docs").glob("*.md")} - {"tutorial.md"})
)
async def test_docs_snippets_run(
    name: str, loopback: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as the body of one coroutine."""
    monkeypatch.chdir(tmp_path)
    page = types.ModuleType(f"docs_{name.removesuffix('.md')}")
    sys.modules[page.__name__] = page
    try:
        for line, source in blocks(ROOT / "docs" / name):
            padded = "\n" * line + source.replace(PRINTED, loopback.url)
            if name in ("blocking.md", "migration.md"):
                # As a script, on a thread without a loop.
                await asyncio.to_thread(exec, compile(padded, f"docs/{name}", "exec"), page.__dict__)
                continue
            code = compile(padded, f"docs/{name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result: Any = eval(code, page.__dict__)
            if result is not None:
                await result
    finally:
        del sys.modules[page.__name__]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_readme_names_every_exception() -> None:
    from reqtt import errors

    readme = (ROOT / "README.md").read_text()
    assert [name for name in errors.__all__ if f"`{name}" not in readme] == []
