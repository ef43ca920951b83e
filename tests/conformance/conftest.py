"""Lines to brokers, and brokers with limits; every test ends as it began."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cases.conftest import nothing_left_behind  # noqa: F401  # the same promise, the same fixture
from conformance.line import Line


@pytest.fixture
async def line() -> AsyncIterator[Callable[..., Awaitable[Line]]]:
    """`await line(broker, **CONNECT)`: accepted; `connect=False`: only the socket."""
    async with AsyncExitStack() as stack:

        async def open_line(broker: Any, *, connect: bool = True, **options: Any) -> Line:
            line = await stack.enter_async_context(await Line.open(broker.port))
            if connect:
                await line.connect(**options)
            return line

        yield open_line


@pytest.fixture(params=["loopback", "mosquitto"])
def limited(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`limited(loopback={...}, mosquitto={...})`: a broker with these options, whichever it is."""
    start = request.getfixturevalue(f"own_{request.param}")

    def limit(*, loopback: dict[str, Any], mosquitto: dict[str, Any]) -> Any:
        return start(**loopback if request.param == "loopback" else mosquitto)

    return limit
