"""A TCP proxy that breaks bytes, not packets: what a network does that knows nothing of MQTT.

`support.proxy` is for tests that look at packets; this one keeps nothing, so that a run of hours costs no
memory. One `Wire` in front of each process makes its faults that process's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Literal, Self

from support.sockets import reset

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
# A long payload byte by byte would take seconds; the packets that matter come early in each read.
DRIBBLE = 2048


class Link:
    """A client's connection and the one to the broker behind it. Up is towards the broker."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.wire = wire
        self.client = (reader, writer)
        self.broker: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.flowing = {d: asyncio.Event() for d in DIRECTIONS}
        for event in self.flowing.values():
            event.set()
        self.lost: set[Direction] = set()
        self.dribbling = wire.dribbling
        self.delay = wire.delay
        self.half_open = False
        self.tearing = False
        self.ended = False

    async def run(self) -> None:
        try:
            self.broker = await asyncio.open_connection(self.wire.host, self.wire.upstream_port)
        except OSError:
            self.end(hard=True)
            return
        up = asyncio.ensure_future(self.pump("up", self.client[0], self.broker[1]))
        down = asyncio.ensure_future(self.pump("down", self.broker[0], self.client[1]))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if self.half_open and not self.ended:
                await asyncio.wait((up,))  # the client does not know yet
            hard = any(p.done() and p.exception() is not None for p in (up, down))
            self.end(hard=hard)
        finally:
            self.end(hard=True)
            for pump in (up, down):
                pump.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await self.flowing[direction].wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if direction in self.lost:
                continue
            if self.ended or writer.is_closing():
                return
            if self.tearing:
                writer.write(data[: (len(data) + 1) // 2])
                await asyncio.sleep(0.01)  # an RST would take with it what has not been read
                self.end(hard=True)
                return
            if self.dribbling:
                for at in range(min(len(data), DRIBBLE)):
                    if writer.is_closing():
                        return
                    writer.write(data[at : at + 1])
                    await asyncio.sleep(0)
                data = data[DRIBBLE:]
            writer.write(data)
            await writer.drain()

    # --- faults

    def end(self, *, hard: bool) -> None:
        """RST both ways, or FIN."""
        if self.ended:
            return
        self.ended = True
        self.resume()  # what is stalled has to come to its end, too
        for pair in (self.client, self.broker):
            if pair is None:
                continue
            if hard:
                reset(pair[1])
            else:
                pair[1].close()

    async def fin(self) -> None:
        """FIN both ways; both may still send for a moment, which a close with unread bytes would reset."""
        for pair in (self.client, self.broker):
            if pair is not None and not pair[1].is_closing():
                with contextlib.suppress(OSError):
                    pair[1].write_eof()
        await asyncio.sleep(0.05)
        self.end(hard=False)

    def tear(self) -> None:
        """RST in the middle of what is sent next, in either direction: most likely within a packet."""
        self.tearing = True

    def stall(self, *directions: Direction) -> None:
        for d in directions or DIRECTIONS:
            self.flowing[d].clear()

    def resume(self) -> None:
        for event in self.flowing.values():
            event.set()

    def lose(self, *directions: Direction) -> None:
        """From now on nothing arrives that way; it never comes back, for half a packet would be garbage."""
        self.lost.update(directions or DIRECTIONS)

    def halve(self) -> None:
        """Half-open: the broker sees a reset, the client's end stays as if nothing had happened."""
        self.half_open = True
        self.lose()
        if self.broker is not None:
            reset(self.broker[1])


class Wire:
    """`async with Wire(broker_port) as wire: ... wire.url`. Faults hit the links that are open, unless set
    for later ones, too: `dribbling` (byte by byte) and `delay` (seconds for each read)."""

    def __init__(self, upstream_port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.upstream_port = upstream_port
        self.port = 0
        self.accepted = 0
        self.dribbling = False
        self.delay = 0.0
        self.refusing = False
        self._links: dict[asyncio.Task[None], Link] = {}
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def links(self) -> list[Link]:
        return [link for link in self._links.values() if not link.ended]

    def cut(self) -> int:
        links = self.links
        for link in links:
            link.end(hard=True)
        return len(links)

    async def fin(self) -> int:
        links = self.links
        await asyncio.gather(*(link.fin() for link in links))
        return len(links)

    def dribble(self, on: bool = True) -> None:
        self.dribbling = on
        for link in self.links:
            link.dribbling = on

    def slow(self, seconds: float) -> None:
        self.delay = seconds
        for link in self.links:
            link.delay = seconds

    def accept(self) -> None:
        """Ends `refusing`."""
        self.refusing = False

    def heal(self) -> None:
        """What can be undone is; a link that has lost bytes is over."""
        self.refusing = False
        self.dribble(False)
        self.slow(0)
        for link in self.links:
            link.resume()
            if link.lost:
                link.end(hard=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        link = Link(self, reader, writer)
        if self.refusing:
            link.end(hard=True)
            return
        self._links[task] = link
        try:
            await link.run()
        finally:
            del self._links[task]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        for sock in self._server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        self._server.close()
        self.cut()
        while self._links:
            await asyncio.wait(list(self._links), timeout=2)
