"""The page in docs/ is what the committed results say, and none of its cells fails."""

from __future__ import annotations

from interop import results
from interop.conftest import SKIPS
from interop.report import PAGE, render


def test_the_page_is_made_from_the_results() -> None:
    assert PAGE.read_text() == render(results.load()), "run `make interop`"


def test_no_cell_fails_and_none_is_empty() -> None:
    found = results.load()
    for name in ("brokers", "peers"):
        for row, cells in found[name].items():
            for column, cell in cells.items():
                assert cell["result"] in ("pass", *SKIPS), f"{row} x {column}: {cell}"
                assert cell["result"] == "pass" or cell["evidence"], f"{row} x {column} has no evidence"
