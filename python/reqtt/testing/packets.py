"""MQTT 5 packets as they were on the wire, for tests that look at them. Knows no socket and no client.

A property that is absent stays absent: no default is filled in. A packet that breaks a rule above the framing
(a Response Topic with a wildcard) can be read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any


class Type(IntEnum):
    """The fifteen packet types, by the numbers of section 2.1.2."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = list(Type)[:8]
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = list(Type)[8:]

# Identifier -> (name, wire type), MQTT 5.0 section 2.2.2.2.
PROPERTIES: dict[int, tuple[str, str]] = {
    0x01: ("payload_format_indicator", "byte"),
    0x02: ("message_expiry_interval", "u32"),
    0x03: ("content_type", "text"),
    0x08: ("response_topic", "text"),
    0x09: ("correlation_data", "binary"),
    0x0B: ("subscription_identifier", "varint"),
    0x11: ("session_expiry_interval", "u32"),
    0x12: ("assigned_client_identifier", "text"),
    0x13: ("server_keep_alive", "u16"),
    0x15: ("authentication_method", "text"),
    0x16: ("authentication_data", "binary"),
    0x17: ("request_problem_information", "byte"),
    0x18: ("will_delay_interval", "u32"),
    0x19: ("request_response_information", "byte"),
    0x1A: ("response_information", "text"),
    0x1C: ("server_reference", "text"),
    0x1F: ("reason_string", "text"),
    0x21: ("receive_maximum", "u16"),
    0x22: ("topic_alias_maximum", "u16"),
    0x23: ("topic_alias", "u16"),
    0x24: ("maximum_qos", "byte"),
    0x25: ("retain_available", "byte"),
    0x26: ("user_properties", "pair"),
    0x27: ("maximum_packet_size", "u32"),
    0x28: ("wildcard_subscription_available", "byte"),
    0x29: ("subscription_identifier_available", "byte"),
    0x2A: ("shared_subscription_available", "byte"),
}

Properties = dict[str, Any]  # user_properties: tuple of pairs; subscription_identifier: tuple of ints


class Malformed(ValueError):
    """Bytes that are no MQTT 5 packet."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a SUBSCRIBE with its options (section 3.8.3), or of an UNSUBSCRIBE."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Will:
    """The will in a CONNECT (section 3.1.3)."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Packet:
    """Any of the fifteen; a field that the type does not have keeps its default.

    `properties` holds those that are there, by the specification's names; `user_properties` is a tuple of
    pairs. As text it is one line, without what is secret.

        [request] = mqtt_broker.packets("PUBLISH", client_id="requester")
        assert request.packet.properties["response_topic"] == "state/lamp"
    """

    type: Type
    properties: Properties = field(default_factory=dict)
    packet_id: int = 0
    # PUBLISH
    topic: str = ""
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    # acknowledgements, DISCONNECT, AUTH, CONNACK
    reason_code: int = 0
    reason_codes: tuple[int, ...] = ()
    session_present: bool = False
    # SUBSCRIBE and UNSUBSCRIBE
    filters: tuple[Filter, ...] = ()
    # CONNECT
    client_id: str = ""
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    protocol_level: int = 5

    def __str__(self) -> str:
        return describe(self)

    def __repr__(self) -> str:
        return f"<{self}>"

    @property
    def user_properties(self) -> tuple[tuple[str, str], ...]:
        """Name and value pairs, in order (section 3.3.2.3.7)."""
        found: tuple[tuple[str, str], ...] = self.properties.get("user_properties", ())
        return found

    def user(self, key: str) -> str | None:
        """The first user property with this key."""
        return next((v for k, v in self.user_properties if k == key), None)

    @property
    def correlation_data(self) -> bytes | None:
        """What ties a response to its request (section 3.3.2.3.6)."""
        return self.properties.get("correlation_data")

    @property
    def response_topic(self) -> str | None:
        """Where the response is to go (section 3.3.2.3.5)."""
        return self.properties.get("response_topic")

    def with_properties(self, **changes: Any) -> Packet:
        """A copy; a property set to None is left out."""
        merged = {**self.properties, **changes}
        return replace(self, properties={k: v for k, v in merged.items() if v is not None})


# --- bytes -> packets


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise Malformed(f"{n} bytes wanted at {self.at} of {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def more(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def varint(self) -> int:
        value = shift = 0
        for _ in range(4):
            b = self.byte()
            value |= (b & 0x7F) << shift
            if not b & 0x80:
                return value
            shift += 7
        raise Malformed("variable byte integer of more than 4 bytes")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        try:
            return self.binary().decode()
        except UnicodeDecodeError as e:
            raise Malformed(f"a string that is not UTF-8: {e}") from e

    def pair(self) -> tuple[str, str]:
        return self.text(), self.text()

    def properties(self) -> Properties:
        inner = _Reader(self.take(self.varint()))
        found: Properties = {}
        while inner.more():
            identifier = inner.varint()
            if identifier not in PROPERTIES:
                raise Malformed(f"unknown property 0x{identifier:02x}")
            name, kind = PROPERTIES[identifier]
            value = getattr(inner, kind)()
            if name in ("user_properties", "subscription_identifier"):
                found[name] = (*found.get(name, ()), value)
            elif name in found:
                raise Malformed(f"{name} twice")
            else:
                found[name] = value
        return found


def _connect(r: _Reader, _flags: int) -> Packet:
    if r.text() != "MQTT":
        raise Malformed("protocol name")
    level = r.byte()
    bits = r.byte()
    keep_alive = r.u16()
    properties = r.properties() if level == 5 else {}
    client_id = r.text()
    will = None
    if bits & 0x04:
        will_properties = r.properties() if level == 5 else {}
        will = Will(r.text(), r.binary(), (bits >> 3) & 3, bool(bits & 0x20), will_properties)
    username = r.text() if bits & 0x80 else None
    password = r.binary() if bits & 0x40 else None
    return Packet(
        Type.CONNECT,
        properties,
        client_id=client_id,
        clean_start=bool(bits & 0x02),
        keep_alive=keep_alive,
        username=username,
        password=password,
        will=will,
        protocol_level=level,
    )


def _connack(r: _Reader, _flags: int) -> Packet:
    session_present, reason_code = bool(r.byte() & 1), r.byte()
    # A 3.1.1 server ends here.
    properties = r.properties() if r.more() else {}
    return Packet(Type.CONNACK, properties, session_present=session_present, reason_code=reason_code)


def _publish(r: _Reader, flags: int) -> Packet:
    qos = (flags >> 1) & 3
    topic = r.text()
    packet_id = r.u16() if qos else 0
    properties = r.properties()
    return Packet(
        Type.PUBLISH,
        properties,
        packet_id=packet_id,
        topic=topic,
        payload=r.rest(),
        qos=qos,
        retain=bool(flags & 1),
        dup=bool(flags & 8),
    )


def _ack(kind: Type) -> Callable[[_Reader, int], Packet]:
    def read(r: _Reader, _flags: int) -> Packet:
        packet_id = r.u16()
        reason_code = r.byte() if r.more() else 0
        properties = r.properties() if r.more() else {}
        return Packet(kind, properties, packet_id=packet_id, reason_code=reason_code)

    return read


def _subscribe(r: _Reader, _flags: int) -> Packet:
    packet_id, properties, filters = r.u16(), r.properties(), []
    while r.more():
        topic_filter, o = r.text(), r.byte()
        filters.append(Filter(topic_filter, o & 3, bool(o & 4), bool(o & 8), (o >> 4) & 3))
    return Packet(Type.SUBSCRIBE, properties, packet_id=packet_id, filters=tuple(filters))


def _unsubscribe(r: _Reader, _flags: int) -> Packet:
    packet_id, properties, filters = r.u16(), r.properties(), []
    while r.more():
        filters.append(Filter(r.text()))
    return Packet(Type.UNSUBSCRIBE, properties, packet_id=packet_id, filters=tuple(filters))


def _codes(kind: Type) -> Callable[[_Reader, int], Packet]:
    def read(r: _Reader, _flags: int) -> Packet:
        packet_id, properties = r.u16(), r.properties()
        return Packet(kind, properties, packet_id=packet_id, reason_codes=tuple(r.rest()))

    return read


def _reason(kind: Type) -> Callable[[_Reader, int], Packet]:
    def read(r: _Reader, _flags: int) -> Packet:
        reason_code = r.byte() if r.more() else 0
        properties = r.properties() if r.more() else {}
        return Packet(kind, properties, reason_code=reason_code)

    return read


def _empty(kind: Type) -> Callable[[_Reader, int], Packet]:
    return lambda _r, _flags: Packet(kind)


_READERS: dict[Type, Callable[[_Reader, int], Packet]] = {
    Type.CONNECT: _connect,
    Type.CONNACK: _connack,
    Type.PUBLISH: _publish,
    **{t: _ack(t) for t in (Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP)},
    Type.SUBSCRIBE: _subscribe,
    Type.SUBACK: _codes(Type.SUBACK),
    Type.UNSUBSCRIBE: _unsubscribe,
    Type.UNSUBACK: _codes(Type.UNSUBACK),
    Type.PINGREQ: _empty(Type.PINGREQ),
    Type.PINGRESP: _empty(Type.PINGRESP),
    Type.DISCONNECT: _reason(Type.DISCONNECT),
    Type.AUTH: _reason(Type.AUTH),
}


class Decoder:
    """Fed with what one direction of one connection carries, gives (packet, bytes) for each whole packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._aliases: dict[int, str] = {}

    def feed(self, data: bytes) -> Iterator[tuple[Packet, bytes]]:
        self._buffer += data
        while (raw := self._next()) is not None:
            yield self._decode(raw), raw

    def _next(self) -> bytes | None:
        length = shift = 0
        for i in range(1, 5):
            if len(self._buffer) <= i:
                return None
            length |= (self._buffer[i] & 0x7F) << shift
            shift += 7
            if not self._buffer[i] & 0x80:
                end = i + 1 + length
                if len(self._buffer) < end:
                    return None
                raw = bytes(self._buffer[:end])
                del self._buffer[:end]
                return raw
        raise Malformed("remaining length of more than 4 bytes")

    def _decode(self, raw: bytes) -> Packet:
        kind, flags = raw[0] >> 4, raw[0] & 0x0F
        if kind == 0:
            raise Malformed("packet type 0")
        r = _Reader(raw)
        r.at = 1
        r.varint()
        packet = _READERS[Type(kind)](r, flags)
        if r.more():
            raise Malformed(f"{len(raw) - r.at} bytes behind a {packet.type.name}")
        alias = packet.properties.get("topic_alias")
        if alias is not None:
            if packet.topic:
                self._aliases[alias] = packet.topic
            elif alias not in self._aliases:
                raise Malformed(f"topic alias {alias} was never set")
            packet = replace(packet, topic=self._aliases[alias])
        return packet


# --- packets -> text

# Proofs of a password; the password itself is no property.
_SECRET = frozenset({"authentication_data"})
_SHOWN = 60


def describe(packet: Packet) -> str:
    """The packet in a line: its type, what it is about, and its properties as `name=value`."""
    words = [packet.type.name]
    match packet.type:
        case Type.CONNECT:
            words.append(_quoted(packet.client_id))
            words += ["clean_start"] * packet.clean_start + [f"keep_alive={packet.keep_alive}"]
            words += [f"username={_quoted(packet.username)}"] if packet.username is not None else []
            words += ["password=***"] if packet.password is not None else []
            words += [f"will={packet.will.topic}"] if packet.will else []
        case Type.PUBLISH:
            words += [packet.topic, _payload(packet.payload), f"qos={packet.qos}"]
            words += ["retain"] * packet.retain + ["dup"] * packet.dup
        case Type.SUBSCRIBE:
            words += [_filter(item) for item in packet.filters]
        case Type.UNSUBSCRIBE:
            words += [item.topic_filter for item in packet.filters]
        case Type.SUBACK | Type.UNSUBACK:
            words += [f"0x{code:02X}" for code in packet.reason_codes]
        case Type.PINGREQ | Type.PINGRESP:
            pass
        case _:
            words += [f"0x{packet.reason_code:02X}"]
            words += ["session_present"] * packet.session_present
    words += [
        _property(name, packet.properties[name])
        for _, (name, _) in sorted(PROPERTIES.items())
        if name in packet.properties and name != "user_properties"
    ]
    words += [f"{name}={_quoted(value)}" for name, value in packet.user_properties]
    return " ".join(words)


def _filter(item: Filter) -> str:
    options = [f"qos={item.qos}"]
    options += ["no_local"] * item.no_local + ["retain_as_published"] * item.retain_as_published
    options += [f"retain_handling={item.retain_handling}"] * (item.retain_handling > 0)
    return f"{item.topic_filter} ({' '.join(options)})"


def _property(name: str, value: Any) -> str:
    if name in _SECRET:
        return f"{name}=***"
    if isinstance(value, tuple):
        return " ".join(_property(name, item) for item in value)
    return f"{name}={_payload(value) if isinstance(value, bytes) else value}"


def _payload(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"<{len(data)} bytes>"
    return _quoted(text) if text.isprintable() and len(text) <= _SHOWN else f"<{len(data)} bytes>"


def _quoted(text: str) -> str:
    return f'"{text}"'
