"""What is compared with what. A scenario is groups of cells; a round measures the cells of each in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.adapters import Adapter, find
from benchmarks.measure import Row, cold, measure
from benchmarks.settings import DIGITS, Settings

LIBRARIES = [
    *("limit", "limit+lull", "reqtt", "reqtt+uvloop", "gmqtt", "gmqtt+uvloop"),
    *("zmqtt", "zmqtt+uvloop", "aiomqtt", "aiomqtt+uvloop", "paho"),
]


@dataclass(frozen=True)
class Cell:
    requester: str
    # None: the mirror.
    responder: str | None
    settings: Settings
    # Of the raw limit's throughput in this round, as `settings.rate`; 0: as it is.
    share: float = 0.0
    # Which of the settings grows.
    grows: str = ""


Group = list[Cell]


@dataclass(frozen=True)
class Options:
    """What the command line may say; None: the scenario's own choice."""

    adapters: Sequence[str] | None = None
    rounds: int = 3
    seconds: float = 2.0
    in_flight: Sequence[int] | None = None
    qos: Sequence[int] | None = None
    payload: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, values, low, high in (
            ("rounds", [self.rounds], 1, 1000),
            ("seconds", [self.seconds], 0.05, 3600),
            ("in-flight", self.in_flight or [], 1, 10_000),
            ("qos", self.qos or [], 0, 1),
            ("payload", self.payload or [], DIGITS, 64 * 2**20),
        ):
            for value in values:
                if not low <= value <= high:
                    raise ValueError(f"--{name} {value} is not between {low} and {high}")
        for name in self.adapters or ():
            find(name)

    def settings(self, **values: Any) -> Settings:
        return replace(Settings(seconds=self.seconds, warmup=min(0.5, self.seconds / 4)), **values)

    def chosen(self, *default: str) -> Sequence[str]:
        return self.adapters or default


def _compare(options: Options) -> Iterator[Group]:
    for qos in options.qos or (0, 1):
        for in_flight in options.in_flight or (1, 16, 100, 1000):
            for payload in options.payload or (16,):
                settings = options.settings(qos=qos, in_flight=in_flight, payload=payload)
                yield [Cell(name, name, settings) for name in options.chosen(*LIBRARIES)]


def _payload(options: Options) -> Iterator[Group]:
    names = options.chosen("limit", "reqtt", "reqtt+uvloop", "gmqtt+uvloop", "zmqtt+uvloop", "paho")
    for payload in options.payload or (1024, 65_536, 1_048_576):
        for in_flight in options.in_flight or (16,):
            for qos in options.qos or (1,):
                settings = options.settings(qos=qos, in_flight=in_flight, payload=payload)
                yield [Cell(name, name, settings) for name in names]


def _mirror(options: Options) -> Iterator[Group]:
    names = options.chosen("limit", "reqtt", "reqtt+uvloop", "gmqtt", "gmqtt+uvloop")
    for qos in options.qos or (0, 1):
        for in_flight in options.in_flight or (1000,):
            yield [Cell(name, None, options.settings(qos=qos, in_flight=in_flight)) for name in names]


def _openloop(options: Options) -> Iterator[Group]:
    names = options.chosen("limit", "reqtt", "reqtt+uvloop", "gmqtt+uvloop", "zmqtt+uvloop", "paho")
    settings = options.settings(qos=1, in_flight=1000)
    yield [Cell(name, name, replace(settings, rate=2000.0)) for name in names]
    yield [Cell(name, name, settings, share=0.5) for name in names]


def _gil(options: Options) -> Iterator[Group]:
    names = options.chosen("reqtt", "reqtt+uvloop", "gmqtt+uvloop", "zmqtt+uvloop", "paho")
    for in_flight in options.in_flight or (1, 16):
        settings = options.settings(in_flight=in_flight)
        yield [Cell(name, "limit", replace(settings, hog=hog)) for name in names for hog in (False, True)]


def _threads(options: Options) -> Iterator[Group]:
    for in_flight in options.in_flight or (1, 100):
        settings = options.settings(in_flight=in_flight, json=True)
        handlers = [replace(settings, handler=handler) for handler in ("bytes", "def", "json")]
        yield [
            Cell("limit", "limit", settings),
            *(Cell("limit", "variants", handler) for handler in handlers),
        ]


def _growth(options: Options) -> Iterator[Group]:
    settings = options.settings(in_flight=100)
    for grows, responder, numbers in (
        ("requesters", "limit", (1, 10, 100, 1000)),
        ("connections", "limit", (1, 10, 100, 1000)),
        ("filters", "variants", (1, 10, 100, 1000, 10_000)),
        ("in_flight", "limit", (1, 100, 1000, 10_000)),
    ):
        for number in numbers:
            grown: dict[str, Any] = {grows: number}
            yield [Cell("variants", responder, replace(settings, **grown), grows=grows)]


def _cold(options: Options) -> Iterator[Group]:
    yield [Cell(name, "limit", options.settings()) for name in options.chosen(*LIBRARIES)]


def _stream(options: Options) -> Iterator[Group]:
    for qos in options.qos or (1,):
        for payload in options.payload or (100,):
            settings = options.settings(qos=qos, payload=payload)
            requests = [replace(settings, in_flight=number) for number in options.in_flight or (100, 1000)]
            yield [
                Cell("variants", "variants", each)
                for each in (*requests, replace(settings, handler="stream"))
            ]


SCENARIOS: dict[str, Callable[[Options], Iterator[Group]]] = {
    "compare": _compare,
    "payload": _payload,
    "mirror": _mirror,
    "openloop": _openloop,
    "gil": _gil,
    "threads": _threads,
    "growth": _growth,
    "cold": _cold,
    "stream": _stream,
}


def run(name: str, options: Options, progress: bool = True) -> list[Row]:
    """All rows of a scenario; those that failed say why."""
    groups = list(SCENARIOS[name](options))
    total = options.rounds * sum(map(len, groups))
    rows: list[Row] = []
    for turn in range(options.rounds):
        for number, group in enumerate(groups):
            limit = _limit(group) if any(cell.share for cell in group) else 0.0
            # Who comes first changes: a machine that warms up, or a neighbour that leaves, favours nobody.
            start = (turn + number) % len(group)
            for cell in group[start:] + group[:start]:
                settings = replace(cell.settings, rate=cell.share * limit) if cell.share else cell.settings
                if progress:
                    told = f"{name} {len(rows) + 1}/{total}, round {turn + 1}: {cell.requester}"
                    sys.stderr.write(f"\r{told:<70}" if sys.stderr.isatty() else f"{told}\n")
                    sys.stderr.flush()
                place = {"round": turn, "group": number, "share": cell.share, "grows": cell.grows}
                rows.append(_row(name, cell, settings) | place)
    if progress and sys.stderr.isatty():
        sys.stderr.write("\n")
    return rows


def _row(name: str, cell: Cell, settings: Settings) -> Row:
    requester = find(cell.requester)
    responder = find(cell.responder) if cell.responder else None
    if name == "cold" and responder:
        return cold(requester, responder, settings)
    return measure(requester, responder, settings)


def _limit(group: Group) -> float:
    """What the raw limit reaches now, with 100 in flight."""
    limit: Adapter = find("limit")
    row = measure(limit, limit, replace(group[0].settings, in_flight=100, rate=0.0))
    if row["failed"]:
        raise SystemExit(f"the raw limit could not be measured: {row['failed']}")
    rps: float = row["rps"]
    return rps


def adapters(name: str, options: Options) -> set[Adapter]:
    """All that a scenario needs."""
    names = {
        side
        for group in SCENARIOS[name](options)
        for cell in group
        for side in (cell.requester, cell.responder)
        if side
    }
    return {find(found) for found in names}


def needs_limit(name: str, options: Options) -> bool:
    return any(adapter.flags is not None for adapter in adapters(name, options)) or any(
        cell.responder is None or cell.share for group in SCENARIOS[name](options) for cell in group
    )
