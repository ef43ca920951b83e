"""The libraries that are compared: a module with `Requester` and `respond` for each, and what to call it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """One way to make requests, on one event loop."""

    name: str
    module: str
    # The distributions whose versions matter.
    packages: tuple[str, ...] = ()
    uvloop: bool = False
    # A program of its own, not a module: `benchmarks/limit`, with these flags.
    flags: tuple[str, ...] | None = None


def _all() -> dict[str, Adapter]:
    found = {
        "limit": Adapter("limit", "", flags=()),
        "limit+lull": Adapter("limit+lull", "", flags=("--lull",)),
    }
    for name, *packages in (
        ("reqtt", "reqtt"),
        ("gmqtt", "gmqtt"),
        ("zmqtt", "zmqtt"),
        ("aiomqtt", "aiomqtt", "paho-mqtt"),
        ("paho", "paho-mqtt"),
        ("variants", "reqtt"),
    ):
        module = f"{__name__}.{name}"
        found[name] = Adapter(name, module, tuple(packages))
        fast = f"{name}+uvloop"
        found[fast] = Adapter(fast, module, (*packages, "uvloop"), uvloop=True)
    return found


ADAPTERS = _all()


def find(name: str) -> Adapter:
    """The adapter of this name; ValueError, if there is none."""
    if name not in ADAPTERS:
        raise ValueError(f'there is no adapter "{name}": choose among {", ".join(ADAPTERS)}')
    return ADAPTERS[name]
