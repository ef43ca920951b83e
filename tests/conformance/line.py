"""A connection to a broker: sends what it is told, answers nothing by itself. Knows packets, no rules."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import Any, Self

from support.hostile import Peer
from support.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    Filter,
    Packet,
)


class Line(Peer):
    """`async with await Line.open(port) as line`. Whatever arrives waits for `take`."""

    @classmethod
    async def open(cls, port: int) -> Self:
        """Only the socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self = cls(reader, writer)
        self._reading = asyncio.create_task(self.read())
        return self

    async def connect(
        self, *, client_id: str | None = None, expect: int | None = 0, **options: Any
    ) -> Packet:
        """The CONNACK. `options`: fields of the CONNECT, and its properties."""
        fields = {name: options.pop(name) for name in list(options) if name in Packet.__slots__}
        client_id = secrets.token_hex(6) if client_id is None else client_id
        self.send(Packet(CONNECT, options, client_id=client_id, **fields))
        connack = await self.take(CONNACK)
        assert expect is None or connack.reason_code == expect, str(connack)
        return connack

    def publish(
        self, topic: str, payload: bytes = b"", *, qos: int = 0, packet_id: int = 0, **options: Any
    ) -> None:
        fields = {name: options.pop(name) for name in ("dup", "retain") if name in options}
        self.send(
            Packet(PUBLISH, options, topic=topic, payload=payload, qos=qos, packet_id=packet_id, **fields)
        )

    async def subscribe(
        self, *filters: str | Filter, qos: int = 2, packet_id: int = 65_535, **properties: Any
    ) -> Packet:
        """The SUBACK."""
        asked = tuple(f if isinstance(f, Filter) else Filter(f, qos) for f in filters)
        self.send(Packet(SUBSCRIBE, properties, packet_id=packet_id, filters=asked))
        return await self.take(SUBACK)

    async def ping(self) -> None:
        """What the broker sent before has been received when this returns."""
        self.send(Packet(PINGREQ))
        await self.take(PINGRESP)

    def all(self, kind: int) -> list[Packet]:
        """Of this type, what was not taken."""
        return [packet for packet in self.received if packet.type is kind]

    async def ended(self, timeout: float = 5) -> int | None:
        """The reason code of the broker's DISCONNECT, None without one; after the broker has closed."""
        async with asyncio.timeout(timeout):
            await self.closed.wait()
        said = self.all(DISCONNECT)
        assert len(said) < 2
        assert not said or self.received[-1] is said[0], "nothing after a DISCONNECT [MQTT-3.14.4-1]"
        return said[0].reason_code if said else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
