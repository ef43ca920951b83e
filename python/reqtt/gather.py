"""One request, many responses: as they come, or as a list.

The core keeps the request open, and tells of its timeout and of a stall; the other rules are here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from reqtt.errors import DecodeError, ReqttError

if TYPE_CHECKING:
    from reqtt._core import Response

__all__ = ["Gather"]

T = TypeVar("T")

# In which a responder that knows of gathering says who it is.
_IDENTITY = "rq-id"


class _Start(Protocol):
    def __call__(
        self, item: Callable[[Response | ReqttError], None], end: Callable[[BaseException | None], None], /
    ) -> int: ...


class Gather(AsyncIterator["T | ReqttError"], Generic[T]):
    """The responses to one request. `Requester.gather` makes it, and sends the request.

    `async for` gives them as they come; `await` the list of all that came until the end. `close()`, leaving
    `async with`, or letting go of it ends it early and frees its place. It can be used once.

        async with req.gather("cmnd/all-lamps/power", "OFF", timeout=2) as responses:
            async for response in responses:
                print(response)
    """

    def __init__(self, state: GatherState, start: _Start) -> None:
        self._state = state
        # The native side must not hold this object itself: who lets go of it gives it up.
        state.token = start(state.item, state.end)

    def __repr__(self) -> str:
        return f"<reqtt.Gather of {self._state.taken} responses{', over' if self._state.over else ''}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T | ReqttError:
        try:
            found: T | ReqttError = await self._state.next()
        except BaseException:
            self.close()
            raise
        return found

    def __await__(self) -> Generator[Any, None, list[T | ReqttError]]:
        return self._all().__await__()

    async def _all(self) -> list[T | ReqttError]:
        return [response async for response in self]

    def close(self) -> None:
        """Takes no more responses, and forgets those that wait. Closing twice is nothing."""
        self._state.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._state.finish()


def check_rules(max_responses: int | None, stall: float | None, timeout: float | None) -> None:
    """Raises `ValueError` where a rule takes nothing, or two contradict."""
    if max_responses is not None and max_responses < 1:
        raise ValueError(f"max_responses={max_responses} takes nothing: use 1 or more, or None")
    if stall is not None and timeout is not None and stall >= timeout:
        raise ValueError(f"stall={stall} never ends what timeout={timeout} has ended: make it shorter")


class GatherState:
    """What has come, and whether more may."""

    def __init__(
        self,
        give_up: Callable[[int], None],
        *,
        max_responses: int | None,
        until: Callable[[Response], bool] | None,
        raise_errors: bool,
        response_type: Any,
    ) -> None:
        self.token: int | None = None
        self.taken = 0
        self.over = False
        self._give_up = give_up
        self._max = max_responses
        self._until = until
        self._raise_errors = raise_errors
        self._type = response_type
        self._queue: deque[Any] = deque()
        self._error: BaseException | None = None
        self._seen: set[Any] = set()
        self._changed = asyncio.Event()

    def item(self, outcome: Response | ReqttError) -> None:
        """One more response, or the error that one stands for."""
        response = getattr(outcome, "response", None) if isinstance(outcome, ReqttError) else outcome
        if self.over or (response is not None and self._is_copy(response)):
            return
        self.taken += 1
        found: Any = outcome
        try:
            last = False
            if not isinstance(outcome, ReqttError):
                last = self._until is not None and self._until(outcome)
                if self._type is not None:
                    found = _decode(outcome, self._type)
            if self._raise_errors and isinstance(found, ReqttError):
                raise found
        except Exception as error:
            self.end(error)
            return
        self._queue.append(found)
        if last or self.taken == self._max:
            self.finish()
        self._changed.set()

    def _is_copy(self, response: Response) -> bool:
        """A redelivery says so (DUP), and responders that know of gathering say who they are."""
        mark: Any = next((value for name, value in response.user_properties if name == _IDENTITY), None)
        alike_may_be_two = mark is None and not response.dup
        if mark is None:
            mark = (response.payload, response.content_type, response.user_properties)
        if mark in self._seen:
            return not alike_may_be_two
        self._seen.add(mark)
        return False

    def end(self, error: BaseException | None) -> None:
        """The core, or a rule, has ended it."""
        if not self.over:
            self._error = error
            self.finish()
        self._changed.set()

    def finish(self) -> None:
        """Frees its place; what has come can still be taken."""
        if not self.over:
            self.over = True
            if self.token is not None:
                self._give_up(self.token)

    def leave(self) -> None:
        """The consumer has gone."""
        self.finish()
        self._queue.clear()
        self._changed.set()

    async def next(self) -> Any:
        while not self.ready():
            self._changed.clear()
            await self._changed.wait()
        return self.take()

    def ready(self) -> bool:
        """Whether there is a response; StopAsyncIteration or what ended it, where none will come."""
        if self._queue:
            return True
        if self._error is not None:
            raise self._error
        if self.over:
            raise StopAsyncIteration
        return False

    def take(self) -> Any:
        """The response that is there."""
        return self._queue.popleft()


def _decode(response: Response, response_type: Any) -> Any:
    """A payload that is none of the type is the error of that responder alone."""
    try:
        return response.decode(response_type)
    except DecodeError as error:
        return error
