"""A lab for each test that asks for one; and every test ends as it began."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cases.conftest import nothing_left_behind  # noqa: F401  # the same promise, the same fixture
from faults.lab import Lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as lab:
        yield lab
