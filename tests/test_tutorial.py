"""docs/tutorial.md as its reader would follow it: the files it names, in one folder, in its order."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from conftest import Broker
from test_readme import PRINTED, ROOT, blocks, wait_for_responder

FILES = [source for _, source in blocks(ROOT / "docs" / "tutorial.md")]


def write(tmp_path: Path, number: int, url: str = PRINTED) -> str:
    """Writes a block into the file that its first line names."""
    source = FILES[number]
    name = source.partition("\n")[0].removeprefix("# ")
    (tmp_path / name).write_text(source.replace(PRINTED, url))
    return name


def ask(tmp_path: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", name]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)


def play(tmp_path: Path, url: str, lamp: int, phone: int) -> str:
    """The lamp is started, and what the phone prints."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", write(tmp_path, lamp, url)], cwd=tmp_path
    ) as process:
        try:
            asyncio.run(wait_for_responder(url))
            asked = ask(tmp_path, write(tmp_path, phone, url))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert (asked.returncode, asked.stderr) == (0, "")
    return asked.stdout


def test_lamp_answers(tmp_path: Path, broker: Broker) -> None:
    assert play(tmp_path, broker.url, 0, 1) == "ON\n"


def test_nobody_is_there_is_told(tmp_path: Path, broker: Broker) -> None:
    asked = ask(tmp_path, write(tmp_path, 1, broker.url))
    assert asked.returncode == 1
    assert "NoMatchingSubscribers" in asked.stderr


def test_lamp_says_what_is_wrong(tmp_path: Path, broker: Broker) -> None:
    on, brightness, unknown, bad = play(tmp_path, broker.url, 2, 3).splitlines()
    assert (on, brightness) == ("ON", "{'percent': 100}")
    assert unknown == "no such light {'lights': ['bedroom', 'hall']}"
    assert "percent" in bad


def test_tests_of_the_tutorial_pass(tmp_path: Path) -> None:
    write(tmp_path, 2)
    name = write(tmp_path, 4)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout
