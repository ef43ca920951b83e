"""No mandatory statement is forgotten, each that is listed has a test, and the page says what they say."""

from __future__ import annotations

import pytest

from conformance.report import PAGE, SIDES, marked, render, statements


def test_every_statement_of_the_standard_is_considered() -> None:
    known = statements()
    numbers = {
        f"MQTT-{section}-{number}"
        for section, (first, last) in known["sections"].items()
        for number in range(first, last + 1)
    }
    kept = {*known["client"], *known["broker"]}
    assert numbers == kept | {*known["left_out"]}
    assert not kept & {*known["left_out"]}


@pytest.mark.parametrize("side", SIDES)
def test_every_statement_that_is_listed_has_a_test_and_none_is_marked_that_is_not(side: str) -> None:
    known, shown = {*statements()[side]}, {*marked()[side]}
    assert sorted(known - shown) == []
    assert sorted(shown - known) == []


def test_the_page_is_made_from_the_tests() -> None:
    assert PAGE.read_text() == render(), "run `make conformance`"
