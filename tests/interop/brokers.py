"""The brokers of the matrix: how each is started, and what of it cannot be configured.

Those that can refuse `denied/...` to everybody, take packets of at most `MAXIMUM_PACKET_SIZE` bytes, and hand
out Response Information.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate

from interop import installed
from interop.installed import HERE
from support.mosquitto import Mosquitto, free_port, program

MAXIMUM_PACKET_SIZE = 64 * 1024
DENIED = "denied"


@dataclass(frozen=True)
class Server:
    """A broker that runs. What is None it does not have; `lacks` says how that is known."""

    kind: str
    version: str
    port: int
    ca: bytes
    ws_url: str | None = None
    tls_url: str | None = None
    refuses: bool = True
    """Whether something in it can refuse a topic."""
    ws_mqtt5: bool = True
    """Whether its WebSocket listener speaks MQTT 5, too."""

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


PASSWORD = "keystore"


class Certificate:
    """For 127.0.0.1, in files."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.ca = authority.cert_pem.bytes()
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        issued.private_key_pem.write_to_path(self.key)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        # As Java wants it.
        self.keystore = directory / "keystore.p12"
        self.keystore.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"broker",
                load_pem_private_key(issued.private_key_pem.bytes(), None),  # type: ignore[arg-type]
                load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()),
                None,
                BestAvailableEncryption(PASSWORD.encode()),
            )
        )


@contextmanager
def loopback(certificate: Certificate) -> Iterator[Server]:
    import reqtt
    from reqtt.testing import LoopbackBroker

    with LoopbackBroker(
        maximum_packet_size=MAXIMUM_PACKET_SIZE, response_information="answers/loopback"
    ) as broker:
        broker.refuse_subscribe(0x87, filter=f"{DENIED}/#")
        broker.refuse_publish(0x87, filter=f"{DENIED}/#")
        yield Server("loopback", reqtt.__version__, broker.port, certificate.ca, ws_url=broker.ws_url)


@contextmanager
def mosquitto(certificate: Certificate) -> Iterator[Server]:
    said = subprocess.run([program("mosquitto"), "-h"], capture_output=True, text=True, check=False).stdout
    with Mosquitto(
        deny_subscribe=[f"{DENIED}/#"],
        deny_publish=[f"{DENIED}/#"],
        websockets=True,
        tls=(certificate.cert, certificate.key),
        max_packet_size=MAXIMUM_PACKET_SIZE,
    ) as broker:
        yield Server(
            "mosquitto",
            said.split()[2],
            broker.port,
            certificate.ca,
            broker.ws_url,
            broker.tls_url,
        )


@contextmanager
def aedes(certificate: Certificate) -> Iterator[Server]:
    folder = HERE / "servers" / "aedes"
    installed.runtime("node")
    installed.there(folder / "node_modules" / "aedes")
    version = json.loads((folder / "package.json").read_text())["dependencies"]["aedes"]
    with _process("aedes", version, ["node", str(folder / "broker.mjs")], certificate) as server:
        yield server


@contextmanager
def mochi(certificate: Certificate) -> Iterator[Server]:
    installed.runtime("go")
    binary = installed.there(installed.MADE / "mochi")
    version = installed.go_module(HERE / "servers" / "mochi", "github.com/mochi-mqtt/server/v2")
    with _process("mochi", version, [str(binary)], certificate) as server:
        yield server


@contextmanager
def rumqttd(certificate: Certificate) -> Iterator[Server]:
    with _rust("rumqttd", certificate) as server:
        yield replace(server, refuses=False, ws_mqtt5=False)


@contextmanager
def _rust(kind: str, certificate: Certificate) -> Iterator[Server]:
    command = installed.rust(f"{kind}-broker")
    with _process(kind, installed.crate(kind), command, certificate) as server:
        yield server


@contextmanager
def _java(kind: str, certificate: Certificate) -> Iterator[Server]:
    version = installed.pom(HERE / "servers" / kind)
    command = installed.java(kind, "Broker")
    with _process(kind, version, command, certificate, (certificate.keystore, PASSWORD)) as server:
        yield server


@contextmanager
def _process(
    kind: str,
    version: str,
    command: list[str],
    certificate: Certificate,
    identity: tuple[object, object] | None = None,
) -> Iterator[Server]:
    """A program that says `ready` when it listens."""
    port, ws_port, tls_port = free_port(), free_port(), free_port()
    identity = identity or (certificate.cert, certificate.key)
    arguments = [port, ws_port, tls_port, *identity, MAXIMUM_PACKET_SIZE, f"answers/{kind}"]
    with installed.running([*command, *map(str, arguments)]) as process:
        installed.wait_for_ready(process)
        yield Server(
            kind,
            version,
            port,
            certificate.ca,
            f"ws://127.0.0.1:{ws_port}/mqtt",
            f"mqtts://127.0.0.1:{tls_port}",
        )


BROKERS: dict[str, Callable[[Certificate], object]] = {
    "mosquitto": mosquitto,
    "loopback": loopback,
    "aedes": aedes,
    "mochi": mochi,
    "hivemq": partial(_java, "hivemq"),
    "mqtt5": partial(_rust, "mqtt5"),
    "rumqttd": rumqttd,
}
# Speaks MQTT 3 only: no column of the matrix.
OTHERS: dict[str, Callable[[Certificate], object]] = {"moquette": partial(_java, "moquette")}
NAMES = {
    "mosquitto": "Mosquitto",
    "loopback": "reqtt's loopback broker",
    "aedes": "aedes",
    "mochi": "Mochi MQTT",
    "hivemq": "HiveMQ CE",
    "mqtt5": "mqtt5",
    "rumqttd": "rumqttd",
}


class Brokers:
    """Starts each broker once, when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._directory = directory
        self._running: dict[str, Server] = {}
        self._certificate: Certificate | None = None

    def get(self, kind: str) -> Server:
        """Raises `Missing` where it is not there."""
        if kind not in self._running:
            if self._certificate is None:
                self._certificate = Certificate(self._directory)
            start: object = (BROKERS | OTHERS)[kind](self._certificate)
            self._running[kind] = self._stack.enter_context(start)  # type: ignore[arg-type]
        return self._running[kind]

    def close(self) -> None:
        self._stack.close()
