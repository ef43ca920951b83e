"""A lamp that can be taken off the broker and put back. Knows nothing of the page that switches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import reqtt
from reqtt.cli._output import one_line, preview

__all__ = ["ROOM", "Lamp"]

ROOM: Final = "light-in-bedroom"
# Retained: a page that comes later learns them, too.
_STATE: Final = f"state/{ROOM}/power"
_PRESENCE: Final = f"state/{ROOM}/presence"


class Lamp:
    """Answers `cmnd/{room}/power` while it runs, and tells its state and whether it runs, retained.

    `say` gets a line for each request.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._power = "OFF"
        # It tells that the lamp is gone, so it has to outlive the lamp's own connection.
        self._client = reqtt.Client(url, client_id="house")
        self._responder: reqtt.Responder | None = None
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._client.connect()
        try:
            await self._tell(_STATE, self._power)
            await self.run(True)
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.run(False)
        finally:
            await self._client.close()

    async def run(self, wanted: bool) -> None:
        """Whether it answers from now on. What has been asked before is answered first."""
        async with self._changing:
            if wanted and self._responder is None:
                responder = reqtt.Responder(self._url, [self._handler()], client_id=ROOM)
                await responder.__aenter__()
                self._responder = responder
            elif not wanted and self._responder is not None:
                responder, self._responder = self._responder, None
                await responder.close(timeout=2)
            await self._tell(_PRESENCE, "online" if self._responder is not None else "offline")

    def _handler(self) -> Callable[..., object]:
        @reqtt.responder("cmnd/{room}/power", allowed_response_topics=("clients/+/responses/+",))
        async def power(room: str, body: str, request: reqtt.Request) -> str:
            what = f"{one_line(request.topic)} {preview(request.payload, 20)}"
            if room != ROOM:
                self._say(f"{what}: 404")
                raise reqtt.RequestError(404, "there is no such room", data={"room": room})
            if body not in ("ON", "OFF"):
                self._say(f"{what}: 400")
                raise reqtt.RequestError(400, "a lamp is ON or OFF")
            self._power = body
            await self._tell(_STATE, body)
            self._say(f"{what}: 200")
            return body

        return power

    async def _tell(self, topic: str, text: str) -> None:
        await self._client.publish(topic, text, retain=True)
