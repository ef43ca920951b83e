"""Percentiles, and the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentiles", "quantile", "ticks"]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the sorted values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The usual ones of at least one value, rounded to what means something."""
    ordered = sorted(values)
    shares = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(quantile(ordered, share), 4) for name, share in shares.items()}


def ticks(maximum: float) -> list[float]:
    """Round values from 0 to at least `maximum`, four to ten of them."""
    if maximum <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(maximum))
    step *= 1.0 if maximum / step >= 4 else 0.5 if maximum / step >= 2 else 0.2
    return [round(step * number, 10) for number in range(math.ceil(maximum / step - 1e-9) + 1)]
