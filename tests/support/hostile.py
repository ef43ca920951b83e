"""A server that speaks MQTT as a test tells it: a script for each connection, then a good broker.

Knows sockets and packets, and nothing of reqtt. What the client sends is read and kept, whatever the script
does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBACK,
    UNSUBACK,
    Decoder,
    Packet,
    Properties,
    Type,
    encode,
)

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received: list[Packet] = []
        self.raw: list[bytes] = []  # the same, as it came
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self._answering = False
        self.response_properties: Properties = {}

    def send(self, data: bytes | Packet) -> None:
        """Anything at all. What the client no longer takes is lost."""
        if not self._writer.is_closing():
            self._writer.write(encode(data) if isinstance(data, Packet) else data)

    async def flush(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def expect(self, kind: Type, timeout: float = 5) -> Packet:
        """The first packet of this type, when it is there."""
        async with asyncio.timeout(timeout):
            while True:
                for packet in self.received:
                    if packet.type is kind:
                        return packet
                self._news.clear()
                await self._news.wait()

    async def take(self, kind: Type, timeout: float = 5) -> Packet:
        """The same, and the next call finds the one after it."""
        packet = await self.expect(kind, timeout)
        self.received.remove(packet)
        return packet

    async def accept(self, **properties: Any) -> None:
        """A good CONNACK, and a good broker's answers from here on."""
        await self.expect(CONNECT)
        self.send(Packet(CONNACK, properties))
        self.answering(True)

    def answering(self, on: bool) -> None:
        """Whether requests, subscriptions and pings get what a good broker gives them."""
        self._answering = on
        for packet in list(self.received) if on else ():
            self._answer(packet)

    def _answer(self, packet: Packet) -> None:
        match packet.type:
            case Type.SUBSCRIBE:
                codes = tuple(f.qos for f in packet.filters)
                self.send(Packet(SUBACK, packet_id=packet.packet_id, reason_codes=codes))
            case Type.UNSUBSCRIBE:
                codes = tuple(0 for _ in packet.filters)
                self.send(Packet(UNSUBACK, packet_id=packet.packet_id, reason_codes=codes))
            case Type.PINGREQ:
                self.send(Packet(PINGRESP))
            case Type.PUBLISH:
                if packet.qos:
                    self.send(Packet(PUBACK, packet_id=packet.packet_id))
                if packet.response_topic is not None:
                    self.send(
                        Packet(
                            PUBLISH,
                            {"correlation_data": packet.correlation_data, **self.response_properties},
                            topic=packet.response_topic,
                            payload=packet.payload,
                        )
                    )

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def read(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(OSError):
            while data := await self._reader.read(65536):
                for packet, raw in decoder.feed(data):
                    self.received.append(packet)
                    self.raw.append(raw)
                    if self._answering:
                        self._answer(packet)
                self._news.set()
        self.closed.set()


async def good(peer: Peer) -> None:
    """Accepts, subscribes, acknowledges, and answers each request with its own payload."""
    await peer.accept()
    await peer.closed.wait()


class HostileServer:
    """`async with HostileServer(script, ...) as server: server.url`. Each connection uses up one script."""

    def __init__(self, *scripts: Script, greet: Callable[..., Awaitable[Any]] | None = None) -> None:
        self._scripts = list(scripts)
        self._greet = greet
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            peer.abort()
        if self.failures:
            # Where the test failed, too, it is why.
            raise self.failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts.pop(0) if self._scripts else good
        try:
            if self._greet is not None:
                reader, writer = await self._greet(reader, writer)
            peer = Peer(reader, writer)
            self.peers.append(peer)
            reading = asyncio.create_task(peer.read())
            try:
                await script(peer)
            finally:
                await peer.flush()
                peer.close()
                reading.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()


def said(peer: Peer) -> Sequence[int]:
    """The reason codes of the client's DISCONNECTs."""
    return [packet.reason_code for packet in peer.received if packet.type is DISCONNECT]
