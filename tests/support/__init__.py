"""Brokers, peers and a recording proxy for the tests. Nothing here imports reqtt."""

import re
from typing import Any

import pytest


def case(*rows: str) -> Any:
    """Mark a test with the rows of the behavioural cases it shows: `@case("R7")`."""
    return pytest.mark.case(*rows)


def shown(value: object) -> str:
    """For `ids=`: as text, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
