"""Every example runs by itself, without a warning, on the loopback broker and on Mosquitto."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Broker

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))

# What has to be there, in this order.
LINES = {
    "light_in_bedroom": [
        r"phone -> cmnd/light-in-bedroom/power +ON +correlation (?P<on>\S{16})",
        r"light -> state/light-in-bedroom/power +ON +correlation (?P=on) +[\d.]+ ms",
        r"phone -> cmnd/light-in-bedroom/power +OFF +correlation (?P<off>\S{16})",
        r"light -> state/light-in-bedroom/power +OFF +correlation (?P=off) +[\d.]+ ms",
        r"phone -> cmnd/light-in-cellar/power +ON +correlation (?P<cellar>\S{16})",
        r"light -> state/light-in-cellar/power +404 +correlation (?P=cellar) +no such light",
        r"NoMatchingSubscribers: nobody subscribes to \"neighbour/light-in-bedroom/power\"",
    ],
    "request_and_response": [r"answers/sum: 6 .*b'first'", r"answers/max: 4 .*b'second'"],
    "response_information": [
        r"Response Information: None",
        r"answer on clients/panel-7/responses/\S{16}$",
    ],
    "stream": [
        r"kettle-1: 20 °C",
        r"kettle-1: 100 °C",
        r"kettle-1: off",
        r"kettle-2: 20 °C, that is enough",
        r"kettle-2: off",
    ],
    "will_message": [
        r"device: .*loses power",
        r"watchdog: panel-7 is gone, answer to wills/panel-7/handled",
        r"logbook: .*technician.*b'panel-7 #1'",
    ],
    "operation": [r"lamp: on at the second attempt", r"not sent: invalid device for a topic: .* / "],
    "threads": [r"3 devices of 0\.1 s each, together in \d\.\d s", r"lamp is OFF"],
    "shared_subscription": [r"anna: +\d+ #+$", r"bert: +\d+ #+$", r"20 responses to 20 requests, 0 answered"],
}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def assert_shows(output: str, lines: list[str]) -> None:
    assert re.search(r"(?s:.*?)".join(lines), output, re.MULTILINE), output


def test_every_example_is_checked() -> None:
    assert sorted(LINES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example_runs_with_no_arguments(name: str) -> None:
    assert_shows(run(name), LINES[name])


@pytest.mark.parametrize("name", NAMES)
def test_example_runs_on_mosquitto(name: str, mosquitto: Broker) -> None:
    assert_shows(run(name, "--url", mosquitto.url), LINES[name])


def test_response_topic_is_built_from_response_information() -> None:
    information = [r"Response Information: replies/house-3", r"answer on replies/house-3/\S{16}$"]
    assert_shows(run("response_information"), [*information, *LINES["response_information"]])


@pytest.mark.parametrize("name", NAMES)
def test_example_fits_a_screen(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60
