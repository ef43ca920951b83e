"""The command: `python -m benchmarks SCENARIO [options]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import machine, plots, scenarios, tables
from benchmarks.adapters import ADAPTERS
from benchmarks.broker import build_limit
from benchmarks.scenarios import SCENARIOS, Options

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures reqtt beside the raw limit of the broker and beside other libraries.",
        epilog=f"adapters: {', '.join(ADAPTERS)}. Lists are separated by commas.",
    )
    parser.add_argument(
        "scenario",
        metavar="SCENARIO",
        help=f"{', '.join(SCENARIOS)}, all of them (all), or the tables of docs/performance.md from the last"
        " results (report)",
    )
    parser.add_argument("--adapters", type=words, help="which libraries; the default is the scenario's")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians over them (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in each measurement (2)")
    parser.add_argument("--in-flight", type=numbers, help="requests under way at a time")
    parser.add_argument("--qos", type=numbers, help="0, 1")
    parser.add_argument("--payload", type=numbers, help="bytes, from 16")
    parser.add_argument("--out", type=Path, help="a folder for JSON and plots")
    parser.add_argument("--quiet", action="store_true", help="no progress on the standard error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    given = parser.parse_args(argv)
    if given.scenario == "report":
        report()
        return 0
    if given.scenario not in {"all", *SCENARIOS}:
        parser.error(
            f'there is no scenario "{given.scenario}": choose among {", ".join(SCENARIOS)}, all, report'
        )
    fields = {field.name for field in dataclasses.fields(Options)}
    try:
        options = Options(**{name: value for name, value in vars(given).items() if name in fields})
    except ValueError as error:
        parser.error(str(error))
    names = list(SCENARIOS) if given.scenario == "all" else [given.scenario]
    machine.refuse_debug_build()
    if any(scenarios.needs_limit(name, options) for name in names):
        build_limit()
    packages = {
        p for name in names for adapter in scenarios.adapters(name, options) for p in adapter.packages
    }
    facts = machine.describe(packages)
    if facts["machine"]["others"] > machine.CALM:
        warn(f"other processes use {facts['machine']['others']:.0%} of this machine: wait until it is calm")
    failed = 0
    for name in names:
        rows = scenarios.run(name, options, progress=not given.quiet)
        used = {p for adapter in scenarios.adapters(name, options) for p in adapter.packages}
        versions = {
            p: v for p, v in facts["versions"].items() if p in used | {"python", "reqtt", "mosquitto"}
        }
        document = {"scenario": name, **facts, "versions": versions}
        document |= {"options": dataclasses.asdict(options), "rows": rows}
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            save(document, given.out / f"{name}.json")
            if name == "compare":
                plots.draw(document, given.out)
        sys.stdout.write(f"\n## {name}\n\n{tables.render(document)}\n")
        sys.stdout.flush()
        failed += sum(bool(row["failed"]) for row in rows)
        busy = median(row.get("others", 0.0) for row in rows)
        if busy > machine.CALM:
            warn(f"{name}: other processes used {busy:.0%} of this machine: do not rely on these figures")
    if failed:
        warn(f"{failed} measurements failed, and have no figures")
    return 1 if failed else 0


def warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def save(document: tables.Document, path: Path) -> None:
    """One row a line, so that differences can be read."""
    head = {name: value for name, value in document.items() if name != "rows"}
    rows = ",\n".join(json.dumps(row) for row in document["rows"])
    path.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n]}}\n')


def report(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Writes the tables between the page's marks anew: `<!-- compare -->` to `<!-- / -->`."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    if "compare" in documents:
        plots.draw(documents["compare"], results)
    text = page.read_text()
    for mark, table in parts(documents).items():
        place = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- / -->)", re.DOTALL)
        found = place.search(text)
        if not found:
            raise SystemExit(
                f'{page} has no place for "{mark}": write "<!-- {mark} -->" and "<!-- / -->" there'
            )
        text = text[: found.start()] + f"{found[1]}{table}\n{found[2]}" + text[found.end() :]
    page.write_text(text)


def parts(documents: Mapping[str, tables.Document]) -> dict[str, str]:
    """What the page shows of these results, by its mark."""
    found = {name: tables.render(document) for name, document in documents.items()}
    if "compare" in documents:
        found["summary"] = tables.summary(documents["compare"])
    if {"compare", "growth"} <= documents.keys():
        found["paper"] = tables.paper(documents)
    return found


if __name__ == "__main__":
    sys.exit(main())
