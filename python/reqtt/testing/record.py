"""What passed a broker, as packets and as text to hold a test against. Knows recorded bytes, no broker."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reqtt.testing.packets import Decoder, Malformed, Packet, Type

__all__ = ["Recorded", "read", "snapshot", "tells"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One packet that passed the broker; as text a line such as `requester -> PUBLISH cmnd/lamp "ON" qos=1`.

    `client_id` says on whose connection. `sent` is true where the broker sent it (`<-`), false where it came
    from the client (`->`). `packet` has its fields and properties by the specification's names.

        assert [it.packet.topic for it in mqtt_broker.packets("PUBLISH") if not it.sent] == ["cmnd/lamp"]
    """

    client_id: str
    sent: bool
    packet: Packet

    def __str__(self) -> str:
        # A client that asked for an identifier and was refused has none.
        return f"{self.client_id or '?'} {'<-' if self.sent else '->'} {self.packet}"


def read(
    recorded: Iterable[tuple[str, bool, bytes]], types: tuple[str, ...], client_id: str | None
) -> list[Recorded]:
    """The packets of these types (none: all) and this client (None: all). What is no packet is left out."""
    wanted = {_type(name) for name in types}
    decoders: dict[tuple[str, bool], Decoder] = {}
    found = []
    for whose, sent, data in recorded:
        if data[0] >> 4 == Type.CONNECT:
            # Topic aliases end with the connection.
            decoders.pop((whose, False), None)
            decoders.pop((whose, True), None)
        decoder = decoders.setdefault((whose, sent), Decoder())
        try:
            packets = [packet for packet, _ in decoder.feed(data)]
        except (Malformed, ValueError):
            # It ends the connection, with a DISCONNECT that is recorded.
            del decoders[whose, sent]
            continue
        found += [Recorded(whose, sent, packet) for packet in packets]
    return [
        it for it in found if (not wanted or it.packet.type in wanted) and client_id in (None, it.client_id)
    ]


def _type(name: str) -> Type:
    try:
        return Type[name]
    except KeyError:
        raise ValueError(f"there is no packet type {name!r}: use {', '.join(Type.__members__)}") from None


_SILENT = (Type.PINGREQ, Type.PINGRESP)
_ACKNOWLEDGEMENTS = (Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP)
_TOKEN = r"[\w-]{16}"


def snapshot(packets: list[Recorded], shown: list[Recorded]) -> str:
    """A line for each of `shown`; `packets` are all that there are, and say what stands for what."""
    names = _Names(packets)
    return "\n".join(names.line(it) for it in shown)


def tells(it: Recorded) -> bool:
    """False for PINGs and for acknowledgements of success: they come when they come."""
    packet = it.packet
    return packet.type not in _SILENT and (packet.type not in _ACKNOWLEDGEMENTS or packet.reason_code > 0)


class _Names:
    """What differs from run to run, under names that do not."""

    def __init__(self, packets: list[Recorded]) -> None:
        self._clients: dict[str, str] = {}
        self._correlation: dict[bytes, str] = {}
        bases = ["clients/[^/ ]+/responses"]
        for it in packets:
            packet = it.packet
            if "assigned_client_identifier" in packet.properties:
                self._clients.setdefault(it.client_id, f"client-{len(self._clients) + 1}")
            if packet.correlation_data is not None:
                self._correlation.setdefault(packet.correlation_data, f"<{len(self._correlation) + 1}>")
            if information := packet.properties.get("response_information"):
                bases.append(re.escape(information.removesuffix("/")))
        self._token = re.compile(rf"(?P<base>{'|'.join(bases)})/{_TOKEN}(?![\w/-])")

    def line(self, it: Recorded) -> str:
        properties: dict[str, object] = {}
        if it.packet.correlation_data is not None:
            properties["correlation_data"] = self._correlation[it.packet.correlation_data]
        if "message_expiry_interval" in it.packet.properties:
            properties["message_expiry_interval"] = "<seconds>"
        if it.packet.user("rq-id") is not None:
            pairs = it.packet.user_properties
            properties["user_properties"] = tuple((k, "<id>" if k == "rq-id" else v) for k, v in pairs)
        text = str(Recorded(it.client_id, it.sent, it.packet.with_properties(**properties)))
        for client_id, name in self._clients.items():
            text = re.sub(rf"(?<![\w-]){re.escape(client_id)}(?![\w-])", name, text)
        return self._token.sub(r"\g<base>/<token>", text)
