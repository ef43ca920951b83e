"""Handlers that answer what the commands ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import Request, RequestError, responder


@pytest.fixture
def asked() -> asyncio.Event:
    """Set when `/silent` has been asked."""
    return asyncio.Event()


@pytest.fixture
async def house(
    broker: Any, serving: Callable[..., Awaitable[Any]], topic: str, asked: asyncio.Event
) -> AsyncIterator[str]:
    """A topic below which there is something to ask: `/echo`, `/missing`, `/silent`, `/hostile`."""

    over = asyncio.Event()

    @responder(f"{topic}/echo")
    async def echo(request: Request) -> reqtt.Response:
        return reqtt.Response(
            request.payload,
            content_type=request.content_type,
            payload_format_indicator=request.payload_format_indicator,
            user_properties=request.user_properties,
        )

    @responder(f"{topic}/missing")
    async def missing() -> None:
        raise RequestError(404, "no such\x1b[2J lamp", data={"lamp": 7})

    @responder(f"{topic}/silent")
    async def silent() -> None:
        asked.set()
        await over.wait()

    @responder(f"{topic}/hostile")
    async def hostile() -> str:
        return "\x1b]0;owned\x07ON"

    await serving(broker, echo, missing, silent, hostile)
    yield topic
    # It would be drained.
    over.set()
