"""Latencies as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from reqtt.cli._numbers import percentiles, quantile, ticks
from reqtt.cli._svg import Drawing

__all__ = ["distribution", "over_time"]

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 24, 44
_INNER_WIDTH = _WIDTH - _LEFT - _RIGHT
_INNER_HEIGHT = _HEIGHT - _TOP - _BOTTOM


def _x(share: float) -> float:
    return _LEFT + share * _INNER_WIDTH


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * _INNER_HEIGHT


def _axes(
    drawing: Drawing, horizontal: Sequence[float], vertical: Sequence[float], x_name: str, y_name: str
) -> None:
    for value in vertical:
        y = _y(value / vertical[-1])
        drawing.line(_LEFT, y, _WIDTH - _RIGHT, y, "axis")
        drawing.text(_LEFT - 6, y + 4, f"{value:g}", "dim", "end")
    for value in horizontal:
        x = _x(value / horizontal[-1])
        drawing.line(x, _TOP, x, _HEIGHT - _BOTTOM, "axis")
        drawing.text(x, _HEIGHT - _BOTTOM + 16, f"{value:g}", "dim", "middle")
    drawing.text(_x(0.5), _HEIGHT - 8, x_name, "dim", "middle")
    drawing.text(6, 14, y_name, "dim")


def distribution(values_ms: Sequence[float], title: str) -> Drawing:
    """How many percent of at least one value were at most so long."""
    drawing = Drawing(_WIDTH, _HEIGHT, title)
    ordered = sorted(values_ms)
    # The last percent would push all others into a corner.
    horizontal = ticks(max(quantile(ordered, 0.995), 1e-6))
    _axes(drawing, horizontal, [0, 20, 40, 60, 80, 100], "ms", "% answered within")
    shares = [number / 200 for number in range(201)]
    points = [(quantile(ordered, share) / horizontal[-1], share) for share in shares]
    drawing.curve([(_x(x), _y(share)) for x, share in points if x <= 1])
    named = percentiles(ordered)
    drawing.text(
        _WIDTH - _RIGHT,
        14,
        "  ".join(f"{name} {named[name]:.4g} ms" for name in ("p50", "p99", "max")),
        "dim",
        "end",
    )
    return drawing


def over_time(points: Sequence[tuple[float, float, str, str]], title: str) -> Drawing:
    """A dot for each: seconds since the beginning, ms, how it came out (a class of the style), and a tip."""
    drawing = Drawing(_WIDTH, _HEIGHT, title)
    horizontal = ticks(max((point[0] for point in points), default=1.0))
    vertical = ticks(max((point[1] for point in points), default=1.0))
    _axes(drawing, horizontal, vertical, "s", "ms")
    for seconds, ms, kind, tip in points:
        drawing.dot(_x(seconds / horizontal[-1]), _y(ms / vertical[-1]), kind, tip)
    if points:
        named = percentiles([point[1] for point in points])
        for name in ("p50", "p99"):
            y = _y(named[name] / vertical[-1])
            drawing.line(_LEFT, y, _WIDTH - _RIGHT, y, "ask")
            drawing.text(_WIDTH - _RIGHT - 4, y - 4, f"{name} {named[name]:.4g} ms", "dim", "end")
    return drawing
