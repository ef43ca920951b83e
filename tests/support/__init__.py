"""Brokers, peers and a recording proxy for the tests. Nothing here imports reqtt."""

import re
from typing import Any

import pytest


def case(*rows: str) -> Any:
    """Mark a test with the rows of the behavioural cases it shows: `@case("R7")`."""
    return pytest.mark.case(*rows)


def shown(value: object) -> str:
    """For `ids=`: as text, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def client_must(*numbers: str) -> Any:
    """Mark a test with the mandatory statements that it shows reqtt's client to keep: `("MQTT-3.3.2-14")`."""
    return pytest.mark.mqtt(*numbers, side="client")


def broker_must(*numbers: str) -> Any:
    """The same, of the loopback broker."""
    return pytest.mark.mqtt(*numbers, side="broker")
