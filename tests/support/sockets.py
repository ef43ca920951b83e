"""How a connection ends."""

from __future__ import annotations

import asyncio
import socket
import struct


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: what was not read is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
