"""A short run of the chaos that `make chaos` lets go on for as long as you like."""

from __future__ import annotations

import pytest

from faults.chaos import chaos


@pytest.mark.timeout(120)
async def test_fifteen_seconds_of_chaos_break_no_promise() -> None:
    report, text = await chaos(15, 15)
    assert not report.violations, "\n".join([text, *report.violations])
    assert report.requests > 800, text
    assert report.outcomes["response"] > report.requests / 4, text
    assert report.reconnects > 5, text
