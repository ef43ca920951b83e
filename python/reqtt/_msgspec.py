"""msgspec, loaded when it is first used: that takes 6 ms, and a program that sends text needs none of it."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import msgspec

    value = globals()[name] = getattr(msgspec, name)
    return value
