"""`python -m interop.report`: writes docs/interoperability.md from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interop import results
from interop.brokers import NAMES
from interop.peers import AZURE, PEERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interoperability.md"

MARK = {"pass": "yes", "not supported": "–", "breaks the standard": "**no**", "fails": "**fails**"}

HEAD = """# Interoperability

The tables of this page are made by a run of `tests/interop/` (`make interop`), which installs every broker
and peer from its language's registry, and what is written in C from Debian. "yes" is a test that passed. A
dash is something that the broker or peer does not have; **no** is where it breaks a statement of MQTT 5.0.
The notes say how the run saw that.
"""

BROKERS = """
## Brokers

Both sides are reqtt; the broker between them is somebody else's.

{table}

Mochi runs with `Compatibilities.NoInheritedPropertiesOnAck`. Without it, its PUBACK of a message with User
Properties repeats them, behind a reason code that no PUBACK may have ([MQTT-3.4.2-1]), and the client closes
the connection:

```text
-> PUBLISH t/x, packet identifier 1, User Property a = 1
<- 40 0b  00 01  01  07 26 00 01 61 00 01 31      PUBACK 1, reason code 0x01, User Property a = 1
-> e0 02 81 00                                    DISCONNECT 0x81 Malformed Packet
```

mqtt5 puts the publisher's Client Identifier behind the User Properties, and takes out what the publisher
itself sent by that name. Nothing switches it off:

```text
-> 30 0d  00 03 74 2f 78  07  26 00 01 61 00 01 31     PUBLISH t/x of client c, User Property a = 1
<- 30 23  00 03 74 2f 78  1d  26 00 01 61 00 01 31     PUBLISH t/x, User Properties a = 1
   26 00 10 78 2d 6d 71 74 74 2d 63 6c 69 65 6e 74 2d 69 64 00 01 63    and x-mqtt-client-id = c
```

rumqttd lets nobody in who turns Keep Alive off (section 3.1.2.10): it closes the connection, without a
CONNACK. reqtt's default is 30 s.

```text
-> {keep_alive_0}      CONNECT, Keep Alive 0
```

Moquette {moquette} is not in the table: it speaks MQTT 3 only. It answers a CONNECT of MQTT 5 with return
code 1 of MQTT 3.1.1 (unacceptable protocol version), which is no reason code of MQTT 5 ([MQTT-3.2.2-8]), and
an empty Property Length. `connect()` raises `ConnectError`: "the broker answers as MQTT 3 does".

```text
-> {connect}   CONNECT, Protocol Version 5
<- {connack}                                     CONNACK, return code 1
```
"""

# Client Identifier x, Clean Start.
LEVEL_5 = "10 0e 00 04 4d 51 54 54 05 02 00 3c 00 00 01 78", "20 03 00 01 00"
KEEP_ALIVE_0 = "10 0e 00 04 4d 51 54 54 05 02 00 00 00 00 01 78"

PEERS_TEXT = """
## Peers

The light in the bedroom (`cmnd/light-in-bedroom/power`, answers on `state/light-in-bedroom/power`), with a
foreign peer on either side, on Mosquitto and on the loopback broker. They are written as their users write
them, and know Response Topic and Correlation Data, nothing of reqtt. "They ask": three requests to a reqtt
responder, one of which it refuses; the error is read from the user properties and the body. "They answer":
fifty requests of a reqtt requester at once, each matched. The Azure IoT Operations SDK speaks a protocol of
its own, and reqtt speaks it too: see [Azure IoT Operations](azure.md).

{table}

gmqtt and Eclipse Paho for Java do not wait for room within the broker's Receive Maximum (section 4.9;
Mosquitto: 20): `publish()` raises. Their users have to wait themselves, as the responders here do.

MQTTX CLI is not among them, since the npm registry does not serve `mqttx-cli` (it answered 404).
MQTT.js, which it is made of, is.
"""

TAIL = """
## Responders without Correlation Data

Where a device answers on a topic of its own, a matcher recognizes its answers: see
[Requesters](requesters.md#responders-without-correlation-data). `mosquitto_sub` and `mosquitto_pub` above are
asked that way.
"""


def render(found: dict[str, Any]) -> str:
    exchanges = {"keep_alive_0": KEEP_ALIVE_0, "connect": LEVEL_5[0], "connack": LEVEL_5[1]}
    matrix = BROKERS.format(table=brokers(found), moquette=found["versions"]["moquette"], **exchanges)
    return HEAD + matrix + PEERS_TEXT.format(table=peers(found)) + TAIL


def brokers(found: dict[str, Any]) -> str:
    notes = Notes()
    kinds = [kind for kind in NAMES if kind in found["versions"]]
    heads = [f"{NAMES[kind]} {found['versions'][kind]}" for kind in kinds]
    rows = [
        [row, *(notes.cell(cells.get(kind), facts=True) for kind in kinds)]
        for row, cells in found["brokers"].items()
    ]
    return table(["", *heads], rows) + notes.text()


def peers(found: dict[str, Any]) -> str:
    notes = Notes()
    rows = []
    for key, cells in found["peers"].items():
        peer = (PEERS | {"azure": AZURE}).get(key)
        # Mosquitto's own programs have its version.
        name, comma, part = (key if peer is None else peer.name).partition(",")
        name = f"{name} {found['versions'][key if peer else 'mosquitto']}{comma}{part}"
        language = "C" if peer is None else peer.language
        rows.append([name, language, *(notes.cell(cells.get(way)) for way in ("they ask", "they answer"))])
    return table(["peer", "language", "they ask", "they answer"], rows) + notes.text()


class Notes:
    """Evidence below the table, each once."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def cell(self, cell: dict[str, str] | None, *, facts: bool = False) -> str:
        assert cell is not None, "a cell of the matrix has no result: run `make interop` for all of it"
        mark, evidence = MARK[cell["result"]], cell["evidence"]
        if not evidence:
            return mark
        if cell["result"] == "pass":
            return f"{mark}: {evidence}" if facts else mark
        if evidence not in self._notes:
            self._notes.append(evidence)
        return f"{mark} [{self._notes.index(evidence) + 1}]"

    def text(self) -> str:
        if not self._notes:
            return ""
        return "\n\n" + "\n".join(f"[{number}] {note}.  " for number, note in enumerate(self._notes, 1))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(render(results.load()))
