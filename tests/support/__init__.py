"""Brokers, peers and a recording proxy for the tests. Nothing here imports reqtt."""

from typing import Any

import pytest


def case(*rows: str) -> Any:
    """Mark a test with the rows of the behavioural cases it shows: `@case("R7")`."""
    return pytest.mark.case(*rows)
