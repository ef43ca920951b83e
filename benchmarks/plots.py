"""Results as pictures, with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Row
from benchmarks.tables import Document, groups

COLOURS = {
    "limit": "#888888",
    "reqtt": "#c1272d",
    "gmqtt": "#0072b2",
    "zmqtt": "#009e73",
    "aiomqtt": "#cc79a7",
    "paho": "#b8860b",
}


def _style(name: str) -> dict[str, Any]:
    base = name.partition("+")[0]
    return {"color": COLOURS.get(base, "black"), "linestyle": "-" if base == name else "--", "label": name}


def _lines(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each library, without the libraries that failed."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["requester"], []).append(row)
    for name, lines in found.items():
        if not any(row["failed"] for row in lines):
            yield name, lines


def _throughput(document: Document, pyplot: Any) -> Any:
    qualities = sorted({row["settings"]["qos"] for row in document["rows"]})
    figure, axes = pyplot.subplots(1, len(qualities), figsize=(11, 4.5), sharey=True, squeeze=False)
    for axis, qos in zip(axes[0], qualities, strict=True):
        rows = [row for group in groups(document["rows"]) for row in group if row["settings"]["qos"] == qos]
        for name, lines in _lines(rows):
            points: dict[int, list[float]] = {}
            for row in lines:
                points.setdefault(row["settings"]["in_flight"], []).append(row["rps"])
            numbers = sorted(points)
            axis.plot(numbers, [median(points[n]) for n in numbers], marker="o", ms=3, **_style(name))
        axis.set(xscale="log", yscale="log", xlabel="requests in flight", title=f"QoS {qos}")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("requests per second")
    axes[0][-1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _latency(document: Document, pyplot: Any) -> Any:
    shown = [
        group
        for group in groups(document["rows"])
        if group[0]["settings"]["qos"] == 1 and group[0]["settings"]["in_flight"] in (1, 100)
    ]
    if not shown:
        return None
    figure, axes = pyplot.subplots(1, len(shown), figsize=(11, 4.5), squeeze=False)
    for axis, group in zip(axes[0], shown, strict=True):
        for name, lines in _lines(group):
            curves = zip(*(row["percentiles_us"] for row in lines), strict=True)
            axis.plot([median(points) / 1000 for points in curves], range(101), **_style(name))
        axis.set(xscale="log", xlabel="ms", title=f"QoS 1, {group[0]['settings']['in_flight']} in flight")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("% of the requests answered within")
    axes[0][-1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _cpu(document: Document, pyplot: Any) -> Any:
    found = [group for group in groups(document["rows"]) if group[0]["settings"]["qos"] == 1]
    if not found:
        return None
    group = min(found, key=lambda group: abs(group[0]["settings"]["in_flight"] - 100))
    lines = [(name, rows) for name, rows in _lines(group) if name != "limit+lull"]
    figure, axis = pyplot.subplots(figsize=(11, 4.5))
    left = [0.0] * len(lines)
    for side, shade in (("requester", 1.0), ("responder", 0.6), ("broker", 0.25)):
        values = [median(row["cpu_ms"].get(side, 0) for row in rows) for _, rows in lines]
        colours = [COLOURS.get(name.partition("+")[0], "black") for name, _ in lines]
        axis.barh([name for name, _ in lines], values, left=left, color=colours, alpha=shade)
        left = [a + b for a, b in zip(left, values, strict=True)]
    in_flight = group[0]["settings"]["in_flight"]
    axis.set(
        xlabel="CPU ms per 1000 requests: requester (dark), responder, broker (pale)",
        title=f"QoS 1, {in_flight} in flight",
    )
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    return figure


PLOTS: dict[str, Callable[[Document, Any], Any]] = {
    "throughput": _throughput,
    "latency": _latency,
    "cpu": _cpu,
}


def draw(document: Document, directory: Path) -> list[Path]:
    """Writes the pictures of a comparison; SystemExit, if matplotlib is not there."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise SystemExit(
            "matplotlib is not installed: `make bench` installs it, or leave out --out"
        ) from None
    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "reqtt"
    from matplotlib import pyplot

    written = []
    for name, plot in PLOTS.items():
        figure = plot(document, pyplot)
        if figure is None:
            continue
        figure.tight_layout()
        path = directory / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        written.append(path)
    return written
