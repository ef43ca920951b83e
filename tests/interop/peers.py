"""The peers of the matrix: what each is, and how its program is called.

Each program takes `respond|request PORT TOPIC RESPONSE_TOPIC`. As a responder it says `ready` and answers in
upper case; as a requester it sends `on`, `off` and `bad`, and prints each response as a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from interop import installed
from interop.installed import HERE, MADE


@dataclass(frozen=True)
class Peer:
    """`command()` and `version()` raise `Missing` where it is not there."""

    name: str
    language: str
    version: Callable[[], str]
    command: Callable[[], list[str]]
    # Some choose it themselves.
    own_response_topic: bool = False


def _python(package: str, program: str, name: str = "", *, own_response_topic: bool = False) -> Peer:
    def command() -> list[str]:
        python = installed.there(MADE / "venv" / "bin" / "python")
        return [str(python), "-u", str(HERE / "clients" / "python" / program)]

    version = partial(installed.requirement, package)
    return Peer(name or package, "Python", version, command, own_response_topic)


def _node() -> list[str]:
    node = installed.runtime("node")
    installed.there(HERE / "clients" / "mqttjs" / "node_modules" / "mqtt")
    return [node, str(HERE / "clients" / "mqttjs" / "peer.mjs")]


def _built(runtime: str, name: str) -> list[str]:
    installed.runtime(runtime)
    return [str(installed.there(MADE / name))]


def _package_json() -> str:
    found: str = json.loads((HERE / "clients" / "mqttjs" / "package.json").read_text())["dependencies"][
        "mqtt"
    ]
    return found


PEERS = {
    "paho": _python("paho-mqtt", "paho_peer.py"),
    "aiomqtt": _python("aiomqtt", "aiomqtt_peer.py"),
    "gmqtt": _python("gmqtt", "gmqtt_peer.py"),
    "zmqtt": _python("zmqtt", "zmqtt_peer.py", "zmqtt, its request()"),
    "faststream": _python("faststream", "faststream_peer.py", "FastStream", own_response_topic=True),
    "awscrt": _python("awscrt", "awscrt_peer.py", "AWS CRT"),
    "mqttjs": Peer("MQTT.js", "JavaScript", _package_json, _node),
    "paho_golang": Peer(
        "paho.golang, its rpc extension",
        "Go",
        lambda: installed.go_module(HERE / "clients" / "paho_golang", "github.com/eclipse/paho.golang"),
        partial(_built, "go", "paho_golang"),
        own_response_topic=True,
    ),
    "rumqttc": Peer(
        "rumqttc",
        "Rust",
        partial(installed.crate, "rumqttc"),
        partial(installed.rust, "rumqttc-peer"),
    ),
    "hivemq_client": Peer(
        "HiveMQ MQTT Client",
        "Java",
        lambda: installed.pom(HERE / "clients" / "hivemq"),
        partial(installed.java, "hivemq-client", "Peer"),
    ),
    "paho_java": Peer(
        "Eclipse Paho",
        "Java",
        lambda: installed.pom(HERE / "clients" / "paho_java"),
        partial(installed.java, "paho_java", "Peer"),
    ),
    "paho_c": Peer(
        "Eclipse Paho",
        "C",
        partial(installed.debian, "libpaho-mqtt-dev"),
        partial(_built, "cc", "paho_c"),
    ),
}
# It speaks a protocol of its own: see test_azure.py.
AZURE = Peer(
    "Azure IoT Operations SDK",
    "Rust",
    partial(installed.crate, "azure_iot_operations_protocol"),
    partial(installed.rust, "azure-peer"),
)
