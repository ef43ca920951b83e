"""Packets to bytes, for the tests' proxy and peers; bytes to packets is `reqtt.testing.packets`.

What the packages on PyPI do not offer is needed here: a property that is absent stays absent (no default is
filled in), and a packet that breaks a rule above the framing (a Response Topic with a wildcard) can be
written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from reqtt.testing.packets import (
    AUTH,
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PROPERTIES,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Decoder,
    Filter,
    Malformed,
    Packet,
    Properties,
    Type,
    Will,
)

__all__ = [
    "AUTH",
    "CONNACK",
    "CONNECT",
    "DISCONNECT",
    "PINGREQ",
    "PINGRESP",
    "PUBACK",
    "PUBCOMP",
    "PUBLISH",
    "PUBREC",
    "PUBREL",
    "SUBACK",
    "SUBSCRIBE",
    "UNSUBACK",
    "UNSUBSCRIBE",
    "Decoder",
    "Filter",
    "Malformed",
    "Packet",
    "Properties",
    "Type",
    "Will",
    "encode",
    "frame",
    "publish",
    "text",
]

IDENTIFIERS = {name: (identifier, kind) for identifier, (name, kind) in PROPERTIES.items()}


def _varint(n: int) -> bytes:
    out = bytearray()
    while True:
        n, b = n >> 7, n & 0x7F
        out.append(b | (0x80 if n else 0))
        if not n:
            return bytes(out)


def _binary(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _text(value: str) -> bytes:
    return _binary(value.encode())


_WRITERS: dict[str, Callable[[Any], bytes]] = {
    "byte": lambda v: bytes([v]),
    "u16": lambda v: struct.pack(">H", v),
    "u32": lambda v: struct.pack(">I", v),
    "varint": _varint,
    "text": _text,
    "binary": _binary,
    "pair": lambda v: _text(v[0]) + _text(v[1]),
}


def _properties(properties: Properties) -> bytes:
    out = b""
    for name, value in properties.items():
        identifier, kind = IDENTIFIERS[name]
        many = name in ("user_properties", "subscription_identifier")
        for v in value if many else (value,):
            out += bytes([identifier]) + _WRITERS[kind](v)
    return _varint(len(out)) + out


def encode(p: Packet) -> bytes:
    """The bytes of a packet, rules above the framing not checked."""
    flags, body = 0, b""
    match p.type:
        case Type.CONNECT:
            bits = 0x02 * p.clean_start | 0x80 * (p.username is not None) | 0x40 * (p.password is not None)
            if p.will:
                bits |= 0x04 | p.will.qos << 3 | 0x20 * p.will.retain
            body = _text("MQTT") + bytes([p.protocol_level, bits]) + struct.pack(">H", p.keep_alive)
            body += _properties(p.properties) + _text(p.client_id)
            if p.will:
                body += _properties(p.will.properties) + _text(p.will.topic) + _binary(p.will.payload)
            body += _text(p.username) if p.username is not None else b""
            body += _binary(p.password) if p.password is not None else b""
        case Type.CONNACK:
            body = bytes([p.session_present, p.reason_code]) + _properties(p.properties)
        case Type.PUBLISH:
            flags = p.dup << 3 | p.qos << 1 | p.retain
            body = _text(p.topic) + (struct.pack(">H", p.packet_id) if p.qos else b"")
            body += _properties(p.properties) + p.payload
        case Type.PUBACK | Type.PUBREC | Type.PUBREL | Type.PUBCOMP:
            flags = 2 * (p.type is Type.PUBREL)
            body = struct.pack(">HB", p.packet_id, p.reason_code) + _properties(p.properties)
        case Type.SUBSCRIBE:
            flags = 2
            body = struct.pack(">H", p.packet_id) + _properties(p.properties)
            for f in p.filters:
                o = f.qos | f.no_local << 2 | f.retain_as_published << 3 | f.retain_handling << 4
                body += _text(f.topic_filter) + bytes([o])
        case Type.UNSUBSCRIBE:
            flags = 2
            body = struct.pack(">H", p.packet_id) + _properties(p.properties)
            body += b"".join(_text(f.topic_filter) for f in p.filters)
        case Type.SUBACK | Type.UNSUBACK:
            body = struct.pack(">H", p.packet_id) + _properties(p.properties) + bytes(p.reason_codes)
        case Type.DISCONNECT | Type.AUTH:
            body = bytes([p.reason_code]) + _properties(p.properties)
    return bytes([p.type << 4 | flags]) + _varint(len(body)) + body


# --- bytes by hand, right or wrong


def frame(first: int, body: bytes, length: int | None = None) -> bytes:
    """A packet with this Remaining Length, true or not."""
    return bytes([first]) + _varint(len(body) if length is None else length) + body


def text(value: bytes) -> bytes:
    return _binary(value)


def publish(properties: bytes = b"", topic: bytes = b"t", first: int = 0x30, rest: bytes = b"x") -> bytes:
    packet_id = b"\0\1" if first & 6 else b""
    return frame(first, text(topic) + packet_id + _varint(len(properties)) + properties + rest)
