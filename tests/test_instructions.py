"""What a request costs in the core, counted: a figure that does not depend on what else the machine does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import instructions


@pytest.fixture(scope="module")
def program() -> Path:
    return instructions.build()


@pytest.fixture(scope="module")
def figures() -> dict:
    found: dict = json.loads(instructions.FIGURES.read_text())
    here = instructions.rustc()[1]
    if here != found["target"]:
        pytest.skip(f"the figures are for {found['target']}, this is {here}")
    return found


@pytest.mark.timeout(300)  # The program may have to be built.
@pytest.mark.parametrize("scenario", instructions.SCENARIOS)
def test_a_request_costs_as_many_instructions_as_before(scenario: str, program: Path, figures: dict) -> None:
    assert instructions.verdict(scenario, instructions.count(program, scenario), figures) == ""


@pytest.mark.parametrize(("counted", "word"), [(1111, "more"), (889, "fewer"), (1090, ""), (910, "")])
def test_a_change_of_more_than_a_tenth_is_told_both_ways(counted: int, word: str) -> None:
    figures = {"per_request": {"x": 1000}, "slack": 0.1, "rustc": "rustc 1", "target": "t"}
    told = instructions.verdict("x", counted, figures)
    assert word in told
    assert bool(told) == bool(word)
