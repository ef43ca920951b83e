"""For the tests of those who use reqtt: a broker inside the process, faults, and handlers without a broker.

The fixtures of pytest (`mqtt_broker`, `mqtt_faults`, `requester`, `respond_with`) are in `pytest_reqtt`. The
broker is for demos and tests, never for production.
"""

from __future__ import annotations

from reqtt.testing.broker import LoopbackBroker
from reqtt.testing.calling import call
from reqtt.testing.faults import Faults
from reqtt.testing.packets import Packet
from reqtt.testing.record import Recorded
from reqtt.testing.serving import Answering, RespondWith

__all__ = ["Answering", "Faults", "LoopbackBroker", "Packet", "Recorded", "RespondWith", "call"]
