"""Every example runs by itself, without a warning, on the loopback broker and on Mosquitto."""

from __future__ import annotations

import json
import os
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
    "gather": [
        r"as they come.*\n  .*'hall'.*\n  .*'kitchen'.*\n  500 .*the bulb of cellar is broken",
        r"the first two: \['hall', 'kitchen'\]",
        r"nobody there: \[\]",
    ],
    "error_handling": [
        r'all is well +{"percent":2}',
        r"no such lamp +NotFound 404: no such lamp {'code': 'LAMP', 'data': {'known': \['hall', 'attic'\]}}",
        r"a wrong payload +BadRequest 400: .*percent",
        r"a wrong Content Type +UnsupportedContentType 415: ",
        r"a handler that fails +RemoteError 500: internal error",
        r"a handler that hangs +RemoteTimeout 408: ",
        r"a lamp nobody serves +NoMatchingSubscribers",
        r"time is up +ResponseTimeout",
        r"a topic with wildcard +InvalidTopic",
    ],
    "request_from_a_handler": [
        r"night: {'hall': 'OFF', 'kitchen': 'OFF'}",
        r"night in the garden: 502, a request of the handler failed",
        r"lamps: {'hall': 'OFF', 'kitchen': 'OFF', 'cellar': 'OFF'}",
    ],
    "legacy_responder": [
        r"by Correlation Data: no answer that could be matched, 1 that could not",
        r"by topic: meter/gas: answer 2 \(correlation data None\)",
        r"by topic: meter/heat: answer 3 ",
        r"by topic: meter/power: answer 4 ",
    ],
    "content_type": [
        r"label +text/plain +UTF-8 text +b'hall, asked in application/json'",
        r"picture +image/png +bytes +b'\\x89PNG...'",
        r"log +text/csv +UTF-8 text +b'time,event\\n12:00,door opened\\n'",
        r"refused +415: ",
    ],
    "message_expiry_interval": [
        r"oven: bread, its expiry was 5 s",
        r"cake: nobody answered within 1(\.0)? s",
        r"bread is done",
        r"pie is done",
        r"baked: bread, pie$",
        r"still valid: frost, for another 5\d s",
    ],
    "session": [
        r"first life: session present: False",
        r"first life: got 'cellar', delivered before: False",
        r"the power is gone",
        r"second life: session present: True",
        r"second life: got 'cellar', delivered before: True",
        r"the cellar is empty \(said in my second life\)",
    ],
    "keep_alive": [
        r"keep alive: asked for 1 s",
        r"idle for [12] s: two PINGs, connected: True",
        r"silent for [12345] s: .*Keep Alive",
        r"connected again",
    ],
    "subscription_identifier": [
        r"home/hall/light +brought by everything$",
        r"home/kitchen/light +brought by everything, kitchen$",
        r"home/kitchen/alarm +brought by everything, kitchen, alarms$",
    ],
    "subscription_options": [
        r"no options +rules \(qos 1, retained\), mine \(qos 1\), yours \(qos 1\)$",
        r"no_local=True +rules \(qos 1, retained\), yours \(qos 1\)$",
        r"retain_as_published=True +rules \(qos 1, retained\), mine \(qos 1\), yours \(qos 1, retained\)$",
        r"retain_handling=2 +mine \(qos 1\), yours \(qos 1\)$",
        r"qos=0 +rules \(qos 0, retained\), mine \(qos 0\), yours \(qos 0\)$",
    ],
    "command_and_state": [
        r"phone: answered with State\(state='ON', brightness=128\)",
        r"phone: refused, brightness is 0 to 255",
        r"wall: availability is online",
        r'wall: state is {"state":"ON","brightness":128}',
        r"wall: availability is offline",
        r'new wall, at once: state is {"state":"ON","brightness":128}',
    ],
    "tls": [
        r"known authority: +connected as '.+'",
        r"unknown authority: .*certificate",
        r"another name: .*certificate",
        r"its other name: +connected as '.+'",
    ],
    "fastapi_endpoint": [
        r'PUT /cmnd/bedroom/ON +200 {"light":"bedroom","state":"ON"}',
        r'PUT /cmnd/cellar/ON +404 {"detail":"no such light"}',
        r'PUT /nowhere/bedroom/ON +503 {"detail":"nobody there"}',
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


def test_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    # Its kernel is a process of its own; so is what starts it, for its settings and warnings.
    code = """
import json, sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
print("".join(output.get("text", "") for output in outputs))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES / "notebook.ipynb")],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_shows(
        done.stdout,
        [
            r"^ON after [\d.]+ ms",
            r"no such light {'lights': \['bedroom'\]}",
            r"\['0 %', .*'100 %'\]",
            r"closed",
        ],
    )


def test_notebook_is_kept_without_its_results() -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    assert [cell for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")] == []


def test_readme_lists_every_example() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    listed = re.findall(r"\]\(examples/(\S+?)\)", readme)
    there = [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") and path.name[0] != "_"
    ]
    assert sorted(listed) == sorted(there)


def test_response_topic_is_built_from_response_information() -> None:
    information = [r"Response Information: replies/house-3", r"answer on replies/house-3/\S{16}$"]
    assert_shows(run("response_information"), [*information, *LINES["response_information"]])


@pytest.mark.parametrize("name", NAMES)
def test_example_fits_a_screen(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60
