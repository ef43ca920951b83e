"""What the runs have shown, cell by cell. `results.json` is committed, and the tables are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("results.json")

Cells = dict[str, dict[str, dict[str, str]]]
"""Row, column: result and evidence."""


def load(path: Path = FILE) -> dict[str, Any]:
    if not path.exists():
        return {"versions": {}, "brokers": {}, "peers": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


class Recorder:
    """Takes the cells of this run."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self._cells: dict[str, Cells] = {"brokers": {}, "peers": {}}

    def record(self, table: str, row: str, column: str, result: str, evidence: str) -> None:
        cell = self._cells[table].setdefault(row, {}).get(column)
        # Where a cell has several tests, the worst counts.
        order = ["pass", "not supported", "breaks the standard", "fails"]
        if cell is None or order.index(result) > order.index(cell["result"]):
            self._cells[table][row][column] = {"result": result, "evidence": evidence}

    def write(self, path: Path) -> None:
        """Over what is there: a run of a part replaces that part."""
        found = load(path)
        found["versions"].update(self.versions)
        for table, rows in self._cells.items():
            for row, cells in rows.items():
                found[table].setdefault(row, {}).update(cells)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
