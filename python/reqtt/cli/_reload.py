"""Which Python files changed: their times are looked at again and again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

__all__ = ["changes"]

_EVERY: Final = 0.3
_IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "target", "venv"})


async def changes(root: Path) -> AsyncIterator[str]:
    """The name of a file below `root`, each time that one has changed, come or gone."""
    before = await asyncio.to_thread(_times, root)
    while True:
        await asyncio.sleep(_EVERY)
        now = await asyncio.to_thread(_times, root)
        if now != before:
            yield next(iter(sorted(dict(now.items() ^ before.items()))))
            before = now


def _times(root: Path) -> dict[str, int]:
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _IGNORED and not name.startswith(".")]
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                try:
                    found[str(path.relative_to(root))] = path.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    return found
