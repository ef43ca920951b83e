"""A TCP proxy in front of any broker that records every MQTT packet and breaks the connection on demand.

It knows sockets and packets; what they mean is the test's business. Directions are seen from the client: "up"
goes to the broker, "down" comes from it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from support.packets import Decoder, Malformed, Packet, Type, encode
from support.sockets import reset
from support.waiting import eventually

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


@dataclass(slots=True)
class Record:
    index: int
    time: float  # monotonic, when the proxy had the whole packet
    direction: Direction
    connection: int  # 1 for the first connection that the proxy accepted
    packet: Packet
    sent: float | None = None  # when it went on; None as long as it is held, and for ever if it was dropped

    def __str__(self) -> str:
        arrow, fate = ("->" if self.direction == "up" else "<-"), ("" if self.sent else "  (not passed on)")
        p = self.packet
        what = " ".join(
            str(x) for x in (p.topic, p.packet_id or "", [f.topic_filter for f in p.filters] or "") if x
        )
        head = f"{self.index:4} {self.time:.4f} #{self.connection} {arrow} {p.type.name}"
        return f"{head} {what} {p.properties}{fate}"


Match = Callable[[Packet], bool]
Predicate = Callable[[Record], bool]
Rewrite = Callable[[Packet], list[Packet]]


@dataclass(eq=False, slots=True)
class Rule:
    """What happens to packets that match. `remove()` ends it, `release()` lets held packets go as well."""

    direction: Direction
    match: Match
    action: Literal["drop", "cut", "hold", "rewrite"]
    times: int | None
    proxy: Proxy
    seconds: float | None = None
    rewrite: Rewrite | None = None
    hits: int = 0
    held: list[Callable[[], None]] = field(default_factory=list)

    def remove(self) -> None:
        if self in self.proxy._rules:
            self.proxy._rules.remove(self)

    def release(self) -> None:
        self.remove()
        held, self.held = self.held, []
        for send in held:
            send()


class _Link:
    """One client's connection and the one to the broker behind it."""

    def __init__(
        self, proxy: Proxy, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.proxy = proxy
        self.number = number
        self.client = (reader, writer)
        self.broker: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.closed = False

    async def run(self) -> None:
        try:
            self.broker = await asyncio.open_connection(self.proxy.host, self.proxy.upstream_port)
        except OSError:
            self.end(hard=True)
            return
        for _, writer in (self.client, self.broker):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = [
            asyncio.ensure_future(self.pump("up", self.client[0], self.broker[1])),
            asyncio.ensure_future(self.pump("down", self.broker[0], self.client[1])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if not self.closed and not any(p.done() and p.exception() for p in pumps):
                # One side said FIN; the other gets what is under way, then its FIN.
                for _, writer in (self.client, self.broker):
                    if writer.can_write_eof() and not writer.is_closing():
                        writer.write_eof()
                await asyncio.wait(pumps, timeout=1)
        except OSError:
            pass
        finally:
            self.end(hard=any(p.done() and not p.cancelled() and p.exception() for p in pumps))
            for p in pumps:
                p.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        proxy, decoder, readable = self.proxy, Decoder(), True
        loop = asyncio.get_running_loop()
        while True:
            data = await reader.read(65536)
            # Stalled: what was read is held back and the sender's window fills up.
            await proxy._flowing[direction].wait()
            if not data:
                break
            if not readable:
                writer.write(data)
                continue
            try:
                for packet, raw in decoder.feed(data):
                    if proxy._delay[direction]:
                        await asyncio.sleep(proxy._delay[direction])
                    self.handle(direction, packet, raw, writer, loop)
                    if self.closed:
                        return
            except Malformed as error:
                proxy.malformed.append((self.number, direction, str(error), data))
                readable = False
                writer.write(data)
            await writer.drain()

    def handle(
        self,
        direction: Direction,
        packet: Packet,
        raw: bytes,
        writer: asyncio.StreamWriter,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        proxy = self.proxy
        record = Record(len(proxy.records), time.monotonic(), direction, self.number, packet)

        def send() -> None:
            if not writer.is_closing():
                record.sent = time.monotonic()
                writer.write(raw)
            proxy._changed()

        rule = None if proxy._lost[direction] else proxy._rule_for(direction, packet)
        proxy.records.append(record)
        if proxy._lost[direction]:
            pass
        elif rule is None:
            send()
        elif rule.action == "cut":
            self.end(hard=True)
        elif rule.action == "rewrite":
            assert rule.rewrite is not None
            raw = b"".join(encode(p) for p in rule.rewrite(packet))
            if raw:
                send()
        elif rule.action == "hold":
            if rule.seconds is None:
                rule.held.append(send)
            else:
                loop.call_later(rule.seconds, send)
        proxy._changed()

    def end(self, *, hard: bool) -> None:
        if self.closed:
            return
        self.closed = True
        for pair in (self.client, self.broker):
            if pair is None:
                continue
            if hard:
                reset(pair[1])
            else:
                pair[1].close()
        self.proxy._changed()


class Proxy:
    """`async with Proxy(broker_port) as proxy: ... proxy.url`"""

    def __init__(self, upstream_port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.upstream_port = upstream_port
        self.port = 0
        self.records: list[Record] = []
        self.malformed: list[tuple[int, Direction, str, bytes]] = []
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._accepted = 0
        self._rules: list[Rule] = []
        self._delay: dict[Direction, float] = dict.fromkeys(DIRECTIONS, 0.0)
        self._lost: dict[Direction, bool] = dict.fromkeys(DIRECTIONS, False)
        self._flowing: dict[Direction, asyncio.Event] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self._accepted

    @property
    def open_connections(self) -> list[int]:
        return [link.number for link in self._links.values() if not link.closed]

    # --- what went over the wire

    def up(
        self, kind: Type | None = None, topic: str | None = None, connection: int | None = None
    ) -> list[Record]:
        """Packets that the client sent, in order."""
        return list(self._select("up", kind, topic, connection))

    def down(
        self, kind: Type | None = None, topic: str | None = None, connection: int | None = None
    ) -> list[Record]:
        """Packets that the broker sent, in order."""
        return list(self._select("down", kind, topic, connection))

    def _select(
        self, direction: Direction, kind: Type | None, topic: str | None, connection: int | None
    ) -> Iterator[Record]:
        for r in self.records:
            if (
                r.direction == direction
                and kind in (None, r.packet.type)
                and topic in (None, r.packet.topic)
                and connection in (None, r.connection)
            ):
                yield r

    async def wait_for(
        self, predicate: Predicate, timeout: float = 5, *, count: int = 1, after: int = -1
    ) -> Record:
        """The `count`-th record behind index `after` that `predicate` accepts; waits for it."""

        def found() -> Record | None:
            hits = [r for r in self.records[after + 1 :] if predicate(r)]
            return hits[count - 1] if len(hits) >= count else None

        await self.until(lambda: found() is not None, timeout)
        record = found()
        assert record is not None
        return record

    async def wait_up(
        self, kind: Type, topic: str | None = None, *, timeout: float = 5, count: int = 1, after: int = -1
    ) -> Record:
        return await self._wait("up", kind, topic, timeout, count, after)

    async def wait_down(
        self, kind: Type, topic: str | None = None, *, timeout: float = 5, count: int = 1, after: int = -1
    ) -> Record:
        return await self._wait("down", kind, topic, timeout, count, after)

    async def _wait(
        self, direction: Direction, kind: Type, topic: str | None, timeout: float, count: int, after: int
    ) -> Record:
        return await self.wait_for(
            lambda r: r.direction == direction and r.packet.type is kind and topic in (None, r.packet.topic),
            timeout,
            count=count,
            after=after,
        )

    async def until(self, condition: Callable[[], bool], timeout: float = 5) -> None:
        """Waits until `condition` holds; it is looked at whenever something happens on the wire."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            raise AssertionError(f"not seen within {timeout} s. The record:\n{self.dump()}") from None

    def dump(self) -> str:
        return "\n".join(map(str, self.records)) or "(nothing)"

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- faults

    def cut(self, *, hard: bool = True) -> int:
        """Ends every connection, with RST or (`hard=False`) FIN. Returns how many there were."""
        open_links = [link for link in self._links.values() if not link.closed]
        for link in open_links:
            link.end(hard=hard)
        return len(open_links)

    def refuse(self) -> None:
        """New connections get ECONNREFUSED until `accept()`; open ones stay."""
        assert self._server is not None
        server, self._server = self._server, None
        # Not Server.close(): from 3.12.1 on a test would have to close the open connections too.
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        server.close()

    async def take_offline(self, client: Any) -> None:
        """Cuts and refuses until `accept()`; the client knows of it."""
        self.refuse()
        self.cut()
        await eventually(lambda: not client.connected)

    async def accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, self.host, self.port, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def stall(self, *directions: Direction) -> None:
        """Nothing is passed on until `resume()`; TCP pushes back on the sender."""
        for d in directions or DIRECTIONS:
            self._flowing[d].clear()

    def resume(self) -> None:
        for event in self._flowing.values():
            event.set()

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Every packet waits that long, one after the other; 0 ends it."""
        for d in directions or DIRECTIONS:
            self._delay[d] = seconds

    def lose(self, *directions: Direction, on: bool = True) -> None:
        """Half-open: what goes in this direction is recorded and vanishes; the connection stays."""
        for d in directions or DIRECTIONS:
            self._lost[d] = on

    def drop(self, direction: Direction, what: Type | Match, *, times: int | None = None) -> Rule:
        return self._add(direction, what, "drop", times)

    def cut_at(self, direction: Direction, what: Type | Match, *, times: int | None = 1) -> Rule:
        """RST both ways in place of passing the packet on."""
        return self._add(direction, what, "cut", times)

    def hold(
        self,
        direction: Direction,
        what: Type | Match,
        *,
        seconds: float | None = None,
        times: int | None = None,
    ) -> Rule:
        """Holds packets back for `seconds`, or until the rule's `release()`. Other packets overtake them."""
        rule = self._add(direction, what, "hold", times)
        rule.seconds = seconds
        return rule

    def rewrite(
        self, direction: Direction, what: Type | Match, by: Rewrite, *, times: int | None = None
    ) -> Rule:
        """Passes on what `by` makes of the packet: none, one or more. The record keeps what was received."""
        rule = self._add(direction, what, "rewrite", times)
        rule.rewrite = by
        return rule

    def _add(
        self,
        direction: Direction,
        what: Type | Match,
        action: Literal["drop", "cut", "hold", "rewrite"],
        times: int | None,
    ) -> Rule:
        match: Match = (lambda p: p.type is what) if isinstance(what, Type) else what
        rule = Rule(direction, match, action, times, self)
        self._rules.append(rule)
        return rule

    def _rule_for(self, direction: Direction, packet: Packet) -> Rule | None:
        for rule in self._rules:
            if rule.direction == direction and rule.match(packet):
                rule.hits += 1
                if rule.times is not None and rule.hits >= rule.times:
                    self._rules.remove(rule)
                return rule
        return None

    # --- life

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted += 1
        link = _Link(self, self._accepted, reader, writer)
        self._links[task] = link
        self._changed()
        try:
            await link.run()
        finally:
            del self._links[task]
            self._changed()

    async def __aenter__(self) -> Self:
        self._flowing = {d: asyncio.Event() for d in DIRECTIONS}
        self.resume()
        await self.accept()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._server is not None:
            self.refuse()
        self.resume()
        self.cut()
        while self._links:
            await asyncio.wait(list(self._links), timeout=2)
