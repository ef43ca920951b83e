"""Brokers and peers by name, and the record of what each test has shown.

`REQTT_INTEROP_RESULTS=file` writes the record (`make interop`). Without it a cell that passed when
`results.json` was made must not turn into "not supported".
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from interop import results
from interop.brokers import BROKERS, Brokers, Server
from interop.installed import Missing
from interop.peers import Peer

TO = os.environ.get("REQTT_INTEROP_RESULTS")
RECORDER = pytest.StashKey[results.Recorder]()
REPORT = pytest.StashKey[pytest.TestReport]()
SKIPS = ("not supported", "breaks the standard")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cell(table, row, column): the cell that the test fills")


def recorder_of(config: pytest.Config) -> results.Recorder:
    if RECORDER not in config.stash:
        config.stash[RECORDER] = results.Recorder()
    return config.stash[RECORDER]


def cell_of(item: Any) -> tuple[str, str, str] | None:
    """Table, row and column. `{name}` in them stands for a parameter of the test."""
    mark = item.get_closest_marker("cell")
    if mark is None:
        return None
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    table, row, column = (text.format(**parameters) for text in mark.args)
    return table, row, column


@pytest.fixture(scope="session")
def _brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    brokers = Brokers(tmp_path_factory.mktemp("interop"))
    yield brokers
    brokers.close()


@contextmanager
def not_run_if_missing() -> Iterator[None]:
    """Skips the test, and says what is missing."""
    try:
        yield
    except Missing as missing:
        pytest.skip(f"not run: {missing}")


def running_broker(request: pytest.FixtureRequest, brokers: Brokers, kind: str) -> Server:
    with not_run_if_missing():
        found = brokers.get(kind)
    recorder_of(request.config).versions[kind] = found.version
    return found


def installed_peer(request: pytest.FixtureRequest, key: str, peer: Peer) -> Peer:
    with not_run_if_missing():
        peer.command()
        version = peer.version()
    recorder_of(request.config).versions[key] = version
    return peer


@pytest.fixture(params=list(BROKERS))
def server(request: pytest.FixtureRequest, _brokers: Brokers) -> Server:
    """Each broker of the matrix."""
    return running_broker(request, _brokers, request.param)


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """`another(kind)`: a broker for this test alone."""
    brokers = Brokers(tmp_path)
    yield brokers.get
    brokers.close()


@pytest.fixture
def lacks(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """`lacks(evidence)`: the broker or peer does not have this, as seen in this run."""
    return lambda evidence: _without(request, SKIPS[0], evidence)


@pytest.fixture
def breaks(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """`breaks(statement)`: the broker or peer does otherwise than a statement of MQTT 5.0 says it must."""
    return lambda statement: _without(request, SKIPS[1], statement)


def _without(request: pytest.FixtureRequest, result: str, evidence: str) -> NoReturn:
    cell = cell_of(request.node)
    assert cell is not None
    table, row, column = cell
    known = results.load()[table].get(row, {}).get(column, {"result": None})
    if not TO and known["result"] == "pass":
        pytest.fail(f"{row} passed on {column} when results.json was made; now: {evidence}")
    pytest.skip(f"{result}: {evidence}")


@pytest.fixture
def shows(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`shows(fact)`: what the table says beside "pass"."""

    def note(fact: str) -> None:
        request.node.user_properties.append(("evidence", fact))

    return note


@pytest.fixture
async def seen(
    request: pytest.FixtureRequest, broker: Any, make_proxy: Callable[..., Awaitable[Any]]
) -> AsyncIterator[Any]:
    """A proxy in front of the broker, for the peer: a failure shows what it has said and heard."""
    proxy = await make_proxy(broker)
    yield proxy
    report = request.node.stash.get(REPORT, None)
    if report is not None and report.failed:
        sys.stdout.write(f"--- what the peer said (->) and heard (<-)\n{proxy.dump()}\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    cell = cell_of(item)
    if cell is None or (report.when != "call" and report.passed):
        return report
    evidence = ", ".join(str(value) for name, value in item.user_properties if name == "evidence")
    if report.passed:
        recorder_of(item.config).record(*cell, "pass", evidence)
    elif report.failed:
        text = str(call.excinfo.value).splitlines() if call.excinfo is not None else []
        recorder_of(item.config).record(*cell, "fails", text[0][:200] if text else "")
    elif call.excinfo is not None:
        result, _, why = str(call.excinfo.value).partition(": ")
        if result in SKIPS:
            recorder_of(item.config).record(*cell, result, why)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if TO:
        recorder_of(session.config).write(Path(TO))
