"""Responders for the length of a test: opened by `await` or `async with`, closed at its end."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from reqtt.serving import Responder

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

__all__ = ["Answering", "RespondWith"]


class RespondWith:
    """`respond_with(*handlers, **options)`: a `Responder` on the test's broker, with its usual options.

    `await` it, and it answers until the test ends; what still runs then is cancelled. `async with`, and it
    drains at the end of the block. Handlers are what `Responder` takes. The first is the client `responder`,
    then `responder-2` and so on, unless `client_id=` is among the options.

        async def test_lamp(requester, respond_with):
            await respond_with(power)
            assert (await requester.request("cmnd/lamp/power", "ON")).text == "ON"
    """

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._started = 0

    def __call__(self, *handlers: Any, **options: Any) -> Answering:
        """Checks handlers and options; raises what `Responder(...)` raises."""
        self._started += 1
        options.setdefault("client_id", "responder" if self._started == 1 else f"responder-{self._started}")
        return Answering(Responder(self._url, list(handlers), **options), self._stack)


class Answering:
    """What `respond_with(...)` gives: `await` or `async with` it, for the open `Responder`.

    Raises `ConnectError` and `SubscribeError` there.

        async with respond_with(power) as app:
            print(app.client.client_id)
    """

    def __init__(self, app: Responder, stack: AsyncExitStack) -> None:
        self._app = app
        self._stack = stack

    def __await__(self) -> Generator[Any, Any, Responder]:
        return self._start().__await__()

    async def _start(self) -> Responder:
        await self._app.__aenter__()
        # A handler that hangs, as tests have it, must not hold up the end.
        self._stack.push_async_callback(self._app.close, drain=False)
        return self._app

    async def __aenter__(self) -> Responder:
        return await self._app.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._app.__aexit__(exc_type, exc, traceback)
