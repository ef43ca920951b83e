"""What goes wrong on demand: the part of the loopback broker that a test of an application needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reqtt.testing.broker import LoopbackBroker

__all__ = ["Faults"]


class Faults:
    """Faults of one `LoopbackBroker`; those that are rarer (`delay`, `drop_puback`, ...) are on the broker.

    Raises `RuntimeError` where the broker does not run.

        async def test_no_permission(requester, mqtt_faults):
            mqtt_faults.refuse_publish(0x87, "cmnd/#")
            with pytest.raises(reqtt.PublishError):
                await requester.request("cmnd/lamp/power", "ON")
    """

    def __init__(self, broker: LoopbackBroker) -> None:
        self._broker = broker

    def cut(self) -> None:
        """Breaks every connection, without DISCONNECT. Wills are published.

        Sessions stay for their expiry, which is 0 unless a client asks for more: a responder without one does
        not hear what is asked before it is there again.
        """
        self._broker.cut()

    def stall(self, duration: float) -> None:
        """Neither reads nor writes for `duration` seconds, then goes on. Returns at once; 0 ends it."""
        self._broker.stall(duration)

    def refuse_connect(self, reason_code: int | None = 0x87) -> None:
        """New connections get a CONNACK with this reason code, until None (section 3.2.2.2)."""
        self._broker.refuse_connect(reason_code)

    def refuse_publish(self, reason_code: int | None = 0x87, filter: str = "#") -> None:
        """What is published to a topic that `filter` matches gets this reason code and goes nowhere, until
        None (section 3.4.2.1).
        """
        self._broker.refuse_publish(reason_code, filter)

    def refuse_subscribe(self, reason_code: int | None = 0x87, filter: str = "#") -> None:
        """A SUBSCRIBE of `filter`, or of one that it matches, gets this reason code, until None
        (section 3.9.3).
        """
        self._broker.refuse_subscribe(reason_code, filter)

    def redeliver(self) -> None:
        """Sends again, with DUP, every QoS 1 or 2 PUBLISH that is not acknowledged yet (section 4.4)."""
        self._broker.redeliver()

    def lose_session(self) -> None:
        """Forgets all sessions, and breaks every connection. Retained messages stay."""
        self._broker.lose_session()

    def response_information(self, value: str | None) -> None:
        """The Response Information of connections from now on; None sends none (section 3.2.2.3.15).

        A client that is connected learns of it when it connects again: `cut()` makes it do so.
        """
        self._broker.set_response_information(value)
