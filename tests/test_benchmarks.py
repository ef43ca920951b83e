"""The project's benchmarks: that they measure, and that they say so when there is nothing to measure."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import adapters, machine, plots, scenarios, tables
from benchmarks.adapters import Adapter
from benchmarks.settings import Settings
from benchmarks.waiting import Waiting
from reqtt import _core

PEERS = "support.bench_peers"


@pytest.fixture(autouse=True)
def native_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tests run with a debug build; and the children find the tests' own peers."""
    monkeypatch.setattr(_core, "DEBUG", False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")


def run(*arguments: str) -> int:
    return command.main([*arguments, "--quiet", "--rounds", "1", "--seconds", "0.2"])


def test_a_short_comparison_has_tables_and_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--adapters", "limit,reqtt", "--in-flight", "16", "--qos", "1"]
    assert run("compare", *options) == 0
    out = capsys.readouterr().out
    assert "**QoS 1, 16 in flight**" in out
    lines = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ")}
    assert set(lines) >= {"limit", "reqtt"}
    assert "1.00" in lines["limit"]
    assert "mosquitto" in out


@pytest.mark.parametrize("rate", [0.0, 500.0])
@pytest.mark.parametrize("responder", ["limit", None])
@pytest.mark.parametrize("requester", ["limit", "reqtt"])
def test_a_row_has_every_figure(requester: str, responder: str | None, rate: float) -> None:
    command.build_limit()
    settings = Settings(seconds=0.2, warmup=0.05, in_flight=8, rate=rate)
    found = adapters.find(responder) if responder else None
    row = scenarios.measure(adapters.find(requester), found, settings)
    assert row["failed"] == ""
    assert (row["wrong"], row["timeouts"], row["errors"]) == (0, 0, 0)
    if rate:
        assert row["completed"] == 100
    assert row["rps"] > 0
    assert row["percentiles_us"] == sorted(row["percentiles_us"])
    assert 0 < row["percentiles_us"][50] <= row["p999_us"]
    assert all(row["cpu_ms"][side] > 0 for side in ("requester", "broker"))
    assert row["peak_mib"] > 0
    assert row["cold_ms"] > 0


def test_what_is_saved_can_be_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mirror -->\nold\n<!-- / -->\nafter\n")
    assert run("mirror", "--adapters", "limit,reqtt", "--qos", "0", "--out", str(tmp_path)) == 0
    document = json.loads((tmp_path / "mirror.json").read_text())
    assert {row["requester"] for row in document["rows"]} == {"limit", "reqtt"}
    command.report(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- mirror -->\n**QoS 0, 1000 in flight, no broker**")
    assert text.endswith("<!-- / -->\nafter\n")
    assert "old" not in text
    assert tables.render(document) in text
    page.write_text("nothing")
    with pytest.raises(SystemExit, match='no place for "mirror"'):
        command.report(tmp_path, page)


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("wrong", "wrong"),
        ("deaf", "RuntimeError: deaf"),
        ("broken", "cannot connect"),
    ],
)
def test_a_run_that_failed_has_no_figures(
    peer: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_PEER", peer)
    monkeypatch.setitem(adapters.ADAPTERS, "peer", Adapter("peer", PEERS))
    assert run("compare", "--adapters", "peer", "--in-flight", "2", "--qos", "1") == 1
    captured = capsys.readouterr()
    line = next(line for line in captured.out.splitlines() if line.startswith("| peer"))
    assert "**failed** in 1 of 1" in line
    assert said in line
    assert line.replace(" ", "").endswith("|||||||||")
    assert "1 measurements failed" in captured.err


def test_one_bad_round_takes_the_figure_away() -> None:
    good = {"failed": "", "rps": 5.0}
    columns = [tables.RPS]
    assert tables.medians([good, good], columns) == ["5"]
    cells = tables.medians([good, {"failed": "3 timeouts beside 7 responses"}], columns)
    assert cells == ["**failed** in 1 of 2: 3 timeouts beside 7 responses"]


def test_a_debug_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "DEBUG", True)
    with pytest.raises(SystemExit, match=r"is a debug build.*make build"):
        run("compare", "--adapters", "reqtt")


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "others_share", lambda: 0.42)
    run("mirror", "--adapters", "limit", "--qos", "0")
    captured = capsys.readouterr()
    assert "warning: other processes use 42% of this machine" in captured.err
    assert "**That is too much for figures to rely on.**" in captured.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], 'there is no scenario "nothing": choose among compare, payload'),
        (["compare", "--adapters", "reqtt,nobody"], 'there is no adapter "nobody": choose among limit'),
        (["compare", "--qos", "2"], "--qos 2 is not between 0 and 1"),
        (["compare", "--payload", "8"], "--payload 8 is not between 16 and"),
        (["compare", "--in-flight", "0"], "--in-flight 0 is not between 1 and"),
        (["compare", "--in-flight", "x"], "invalid numbers value: 'x'"),
    ],
)
def test_a_wrong_word_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_a_library_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adapters.ADAPTERS, "gone", Adapter("gone", "gone", ("not-installed-anywhere",)))
    with pytest.raises(SystemExit, match="not-installed-anywhere is not installed"):
        run("compare", "--adapters", "gone")


def test_every_scenario_can_be_planned() -> None:
    for name, plan in scenarios.SCENARIOS.items():
        groups = list(plan(scenarios.Options()))
        assert groups, name
        assert all(group for group in groups), name
    assert set(tables.RENDER) == set(scenarios.SCENARIOS)


def test_settings_survive_the_command_line() -> None:
    settings = Settings(port=7, qos=0, rate=2.5, hog=True, handler="def", topic="a b")
    assert Settings.parse(settings.arguments()) == settings
    bodies = Settings(in_flight=1000).bodies()
    assert len(set(bodies)) == len(bodies) > 2000


async def test_replies_go_to_those_who_asked() -> None:
    waiting, sent = Waiting(), []
    both = [asyncio.ensure_future(waiting.response(sent.append)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting.arrived(sent[1], b"second")
    await asyncio.to_thread(waiting.arrived_elsewhere, sent[0], b"first")
    waiting.arrived(b"unknown", b"nobody's")
    assert await asyncio.gather(*both) == [b"first", b"second"]


def test_the_committed_results_have_a_place_in_the_page() -> None:
    text = command.PAGE.read_text()
    documents = {path.stem: json.loads(path.read_text()) for path in command.RESULTS.glob("*.json")}
    assert set(documents) == set(scenarios.SCENARIOS)
    for mark, table in command.parts(documents).items():
        assert f"<!-- {mark} -->\n{table}\n<!-- / -->" in text, (
            f"{mark} is not what was measured: make report"
        )
    for name in plots.PLOTS:
        assert (command.RESULTS / f"{name}.svg").exists()
