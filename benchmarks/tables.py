"""Rows as markdown. A group with a failed run says so in place of its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.machine import CALM
from benchmarks.measure import Row

Document = dict[str, Any]
# A column: its head, and what a row has there.
Column = tuple[str, Callable[[Row], float | None], Callable[[float], str]]


def plain(value: float) -> str:
    return f"{value:,.0f}"


def digits(value: float) -> str:
    return f"{value:.2f}"


def one(value: float) -> str:
    return f"{value:.1f}"


def millis(value: float) -> str:
    """Of microseconds."""
    return f"{value / 1000:.2f}" if value < 10_000 else f"{value / 1000:,.0f}"


def percentile(percent: int) -> Callable[[Row], float | None]:
    return lambda row: row["percentiles_us"][percent]


def inside(name: str, key: str) -> Callable[[Row], float | None]:
    return lambda row: row[name].get(key)


RPS: Column = ("req/s", lambda row: row["rps"], plain)
RATIO: Column = ("x limit", lambda row: row.get("ratio"), digits)
LATENCY: list[Column] = [(f"p{p} ms", percentile(p), millis) for p in (50, 95, 99)]
P999: Column = ("p99.9 ms", lambda row: row["p999_us"], millis)
CPU_REQUESTER: Column = ("CPU requester", inside("cpu_ms", "requester"), one)
CPU_RESPONDER: Column = ("CPU responder", inside("cpu_ms", "responder"), one)
CPU_BROKER: Column = ("CPU broker", inside("cpu_ms", "broker"), one)
PEAK: Column = ("RSS MiB", lambda row: row["peak_mib"], plain)
COLD: Column = ("cold ms", lambda row: row["cold_ms"], plain)
MEGABYTES: Column = ("MB/s", lambda row: row["rps"] * row["settings"]["payload"] / 1e6, plain)


def with_ratios(rows: Iterable[Row]) -> list[Row]:
    """Each beside the raw limit of its own round and group."""
    rows = list(rows)
    limits = {
        (row["group"], row["round"]): row["rps"]
        for row in rows
        if row["requester"] == "limit" and row["responder"] in ("limit", "mirror") and "rps" in row
    }
    for row in rows:
        limit = limits.get((row["group"], row["round"]))
        if limit and "rps" in row:
            row["ratio"] = row["rps"] / limit
    return rows


def medians(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The cells of one line; one bad run takes them all away."""
    failed = [row["failed"] for row in rows if row["failed"]]
    if failed:
        what = " ".join(failed[0].split()).replace("|", "/")[:160]
        return [f"**failed** in {len(failed)} of {len(rows)}: {what}", *[""] * (len(columns) - 1)]
    cells = []
    for _head, value, text in columns:
        found = [number for row in rows if (number := value(row)) is not None]
        cells.append(text(median(found)) if found else "")
    return cells


def table(rows: Iterable[Row], label: Callable[[Row], str], columns: Sequence[Column], head: str = "") -> str:
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        lines.setdefault(label(row), []).append(row)
    out = ["| " + " | ".join([head, *(name for name, _, _ in columns)]) + " |"]
    out.append("|---|" + "---:|" * len(columns))
    out += ["| " + " | ".join([name, *medians(group, columns)]) + " |" for name, group in lines.items()]
    return "\n".join(out)


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """In the order in which the first round names the libraries."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return [sorted(group, key=order) for _, group in sorted(found.items())]


def order(row: Row) -> tuple[int, str, bool]:
    """The limit first, reqtt next, then the others by name; those with a thread that holds the GIL last."""
    name = row["requester"]
    return (
        0 if name.startswith("limit") else 1 if name.startswith("reqtt") else 2,
        name,
        row["settings"]["hog"],
    )


def size(count: int) -> str:
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count // factor} {unit}"
    return f"{count} bytes"


def _compare(rows: list[Row]) -> Iterable[str]:
    columns = [RPS, RATIO, *LATENCY, CPU_REQUESTER, CPU_RESPONDER, CPU_BROKER, PEAK, COLD]
    for group in groups(rows):
        s = group[0]["settings"]
        payload = "" if s["payload"] == 16 else f", {size(s['payload'])}"
        yield f"**QoS {s['qos']}, {s['in_flight']} in flight{payload}**"
        yield table(group, lambda row: row["requester"], columns)


def _payload(rows: list[Row]) -> Iterable[str]:
    for group in groups(rows):
        s = group[0]["settings"]
        yield f"**{size(s['payload'])}, QoS {s['qos']}, {s['in_flight']} in flight**"
        yield table(
            group,
            lambda row: row["requester"],
            [RPS, RATIO, MEGABYTES, *LATENCY, CPU_REQUESTER, CPU_RESPONDER, PEAK],
        )


def _mirror(rows: list[Row]) -> Iterable[str]:
    for group in groups(rows):
        s = group[0]["settings"]
        yield f"**QoS {s['qos']}, {s['in_flight']} in flight, no broker**"
        share: Column = ("CPU busy", inside("cpu", "requester"), digits)
        yield table(group, lambda row: row["requester"], [RPS, LATENCY[0], LATENCY[2], CPU_REQUESTER, share])


def _openloop(rows: list[Row]) -> Iterable[str]:
    asked: Column = ("asked/s", lambda row: row["settings"]["rate"], plain)
    done: Column = ("done/s", lambda row: row["rps"], plain)
    for group in groups(rows):
        share = group[0]["share"]
        yield f"**{f'{share:.0%} of the raw limit' if share else 'A fixed rate'}, QoS 1**"
        yield table(
            group, lambda row: row["requester"], [asked, done, *LATENCY, P999, CPU_REQUESTER, CPU_RESPONDER]
        )


def _gil(rows: list[Row]) -> Iterable[str]:
    for group in groups(rows):
        yield f"**{group[0]['settings']['in_flight']} in flight, QoS 1**"
        yield table(
            group,
            lambda row: row["requester"] + (", GIL held" if row["settings"]["hog"] else ""),
            [RPS, *LATENCY, P999],
        )


def _threads(rows: list[Row]) -> Iterable[str]:
    names = {
        "bytes": "`async def`, bytes",
        "def": "`def` in a worker thread",
        "json": "`async def`, a dataclass",
    }
    for group in groups(rows):
        yield f"**{group[0]['settings']['in_flight']} in flight, QoS 1; the requester is the limit's**"
        group.sort(key=lambda row: row["responder"])
        yield table(
            group,
            lambda row: (
                row["responder"] if row["responder"] == "limit" else names[row["settings"]["handler"]]
            ),
            [RPS, RATIO, LATENCY[0], LATENCY[2], CPU_RESPONDER],
        )


def _growth(rows: list[Row]) -> Iterable[str]:
    def peak(row: Row, _side: str) -> float:
        found: float = row["peak_mib"]
        return found

    connecting: Column = ("connect ms", lambda row: row["connect_ms"], plain)
    ready: Column = ("ready ms", lambda row: row["ready_ms"], plain)
    for grows, title, side, memory, last in (
        ("requesters", "Requesters on one connection", "requester", _open_mib, [connecting]),
        (
            "connections",
            "Connections with a requester each, in one process",
            "requester",
            _open_mib,
            [connecting],
        ),
        ("filters", "Filters of one responder", "responder", _open_mib, [ready]),
        ("in_flight", "Requests in flight, each awaited by a task", "requester", peak, []),
    ):
        some = [row for row in rows if row["grows"] == grows]
        if not some:
            continue
        each: Column = ("KiB each", _per_one(some, grows, side, memory), one)
        mib: Column = (f"{side} MiB", lambda row, side=side, memory=memory: memory(row, side), one)  # type: ignore[misc]
        broker: Column = ("broker, KiB each", _per_one(some, grows, "broker", _open_mib), one)
        held = [broker] if grows != "in_flight" else []
        yield f"**{title}; QoS 1{', 100 in flight' if held else ''}**"
        columns = [RPS, LATENCY[0], LATENCY[2], mib, each, *held, *last]
        yield table(some, lambda row, grows=grows: f"{row['settings'][grows]:,}", columns)  # type: ignore[misc]


def _per_one(
    rows: list[Row], grows: str, side: str, memory: Callable[[Row, str], float]
) -> Callable[[Row], float | None]:
    """What each one more takes, from 100 on: a few are lost in what the rest does."""
    base = [memory(row, side) for row in rows if row["settings"][grows] == 1 and not row["failed"]]

    def each(row: Row) -> float | None:
        number = row["settings"][grows]
        if number < 100 or not base:
            return None
        grown: float = (memory(row, side) - median(base)) * 1024 / (number - 1)
        return max(0.0, grown)

    return each


def _cold(rows: list[Row]) -> Iterable[str]:
    parts: list[Column] = [
        ("import ms", lambda row: row["import_ms"], plain),
        ("connect, subscribe ms", lambda row: row["connect_ms"], one),
        ("first request ms", lambda row: row["request_ms"], one),
        ("process to first response ms", lambda row: row["cold_ms"], plain),
        ("RSS MiB", inside("open_mib", "requester"), plain),
    ]
    yield table(groups(rows)[0], lambda row: row["requester"], parts)


def _stream(rows: list[Row]) -> Iterable[str]:
    for group in groups(rows):
        requests: dict[int, float] = {}
        for row in group:
            if row["settings"]["handler"] != "stream" and "rps" in row:
                requests[row["round"]] = max(row["rps"], requests.get(row["round"], 0.0))
        for row in group:
            if row["round"] in requests and "rps" in row:
                row["ratio"] = row["rps"] / requests[row["round"]]
        s = group[0]["settings"]
        columns: list[Column] = [
            ("req/s, items/s", lambda row: row["rps"], plain),
            ("x best requests", lambda row: row.get("ratio"), digits),
            ("items", lambda row: row["completed"], plain),
            CPU_REQUESTER,
            CPU_RESPONDER,
            CPU_BROKER,
            ("requester MiB", lambda row: row["peak_mib"], one),
            ("responder MiB", lambda row: row["responder_peak_mib"], one),
        ]
        yield f"**{size(s['payload'])}, QoS {s['qos']}**"
        group.sort(key=lambda row: (row["settings"]["handler"] == "stream", row["settings"]["in_flight"]))
        yield table(
            group,
            lambda row: (
                "a stream"
                if row["settings"]["handler"] == "stream"
                else f"requests, {row['settings']['in_flight']} in flight"
            ),
            columns,
        )


RENDER: dict[str, Callable[[list[Row]], Iterable[str]]] = {
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


def conditions(document: Document) -> str:
    """One sentence on what the figures were taken on."""
    machine, options = document["machine"], document["options"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    others = [row["others"] for row in document["rows"] if "others" in row]
    rounds, seconds = options["rounds"], options["seconds"]
    text = (
        f"{document['date']}; {machine['cpus']} x {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}; medians of {rounds} round{'s' * (rounds > 1)} of {seconds:g} s; {versions}. "
        f"Other processes used {machine['others']:.0%} of the machine before"
    )
    meanwhile = median(others) if others else 0.0
    text += f", {meanwhile:.0%} meanwhile." if others else "."
    if max(meanwhile, machine["others"]) > CALM:
        text += " **That is too much for figures to rely on.**"
    return text


def summary(document: Document) -> str:
    """One line for each library of a comparison, at QoS 1."""
    found = [row for row in with_ratios(document["rows"]) if row["settings"]["qos"] == 1]
    numbers = sorted({row["settings"]["in_flight"] for row in found})
    lines: dict[str, list[str]] = {}
    for number in numbers:
        some = sorted((row for row in found if row["settings"]["in_flight"] == number), key=order)
        for name in dict.fromkeys(row["requester"] for row in some):
            rows = [row for row in some if row["requester"] == name]
            failed = any(row["failed"] for row in rows)
            cells = ["failed"] * 4 if failed else medians(rows, [RPS, RATIO, LATENCY[2], CPU_REQUESTER])
            lines.setdefault(name, []).append(f"{cells[0]} ({cells[1]}), {cells[2]} ms, {cells[3]}")
    heads = [f"{number} in flight" for number in numbers]
    out = ["|  | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    out += ["| " + " | ".join([name, *cells]) + " |" for name, cells in lines.items()]
    legend = "req/s (x limit), p99, CPU ms of the requester for 1000 requests; QoS 1, 16 bytes."
    return "\n".join([*out, "", legend])


DEVICES = 10_000_000


def paper(documents: Mapping[str, Document]) -> str:
    """What the measured figures make of ten million, in memory and in CPU time."""
    lines = ["|  | each, measured | ten million |", "|---|---:|---:|"]
    grown = documents["growth"]["rows"]
    for what, grows, side, memory in (
        ("a request in flight, awaited by a task", "in_flight", "requester", lambda row, _: row["peak_mib"]),
        ("a requester on a shared connection", "requesters", "requester", _open_mib),
        ("a connection with a requester, in one process", "connections", "requester", _open_mib),
        ("a responder's filter", "filters", "responder", _open_mib),
        ("Mosquitto: a connection with a subscription", "connections", "broker", _open_mib),
        ("Mosquitto: a further subscription", "filters", "broker", _open_mib),
    ):
        some = [row for row in grown if row["grows"] == grows and not row["failed"]]
        if not some:
            continue
        most = max(row["settings"][grows] for row in some)
        each = _per_one(some, grows, side, memory)
        kib = median(each(row) or 0.0 for row in some if row["settings"][grows] == most)
        lines.append(f"| {what} | {kib:.1f} KiB | {kib * DEVICES / 2**20:,.0f} GiB |")
    per_second = DEVICES / 60
    loaded = [
        row
        for row in documents["compare"]["rows"]
        if row["requester"] == "reqtt" and (row["settings"]["qos"], row["settings"]["in_flight"]) == (1, 1000)
    ]
    loaded = [row for row in loaded if not row["failed"]]
    for side in ("requester", "responder", "broker") if loaded else ():
        micros = median(row["cpu_ms"][side] for row in loaded)
        cpus = micros * per_second / 1e6
        what = f"CPU of the {side}s, if each is asked once a minute"
        lines.append(f"| {what} | {micros:.1f} µs | {cpus:.1f} CPUs |")
    return "\n".join(lines)


def _open_mib(row: Row, side: str) -> float:
    found: float = row["open_mib"][side]
    return found


def render(document: Document) -> str:
    parts = RENDER[document["scenario"]](with_ratios(document["rows"]))
    return "\n\n".join([*parts, conditions(document)])
