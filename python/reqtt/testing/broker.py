"""The loopback broker as a context manager that tells what passed it. All it does is native."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from reqtt import _core

if TYPE_CHECKING:
    from types import TracebackType

    from reqtt.testing.record import Recorded

__all__ = ["LoopbackBroker"]


class LoopbackBroker(_core.LoopbackBroker):
    """An MQTT 5 broker on a free port of 127.0.0.1, with faults on demand.

    QoS 0 to 2, wildcards, retained messages, shared subscriptions, sessions and message expiry, 0x10 *No
    matching subscribers*, Response Information, over TCP (`url`) and WebSocket (`ws_url`). Keyword arguments
    are what its CONNACK says, by the specification's names; with `username` and `password` nobody else gets
    in. `port` and `ws_port` 0 take any free one. With `record` it keeps the latest packets, up to 16 MiB.
    Durations are in seconds. Starting raises `OSError` where a port is taken; everything but `start` and
    `stop` raises `RuntimeError` where it does not run.

        with LoopbackBroker() as broker:
            requester = reqtt.Requester(broker.url)
            broker.cut()  # every connection breaks, sessions stay
    """

    def packets(self, *types: str, client_id: str | None = None) -> list[Recorded]:
        """The packets that passed, in the order in which the broker handled them.

        `types` ("PUBLISH", "SUBACK", ...) and `client_id` choose some. A packet that a delay holds back, or
        that a broken connection no longer took, is among them. Raises `ValueError` for a type that does not
        exist, `RuntimeError` unless the broker was made with `record=True` (the fixture `mqtt_broker` is).

            [request] = broker.packets("PUBLISH", client_id="requester")[:1]
            assert request.packet.properties["message_expiry_interval"] == 2
        """
        from reqtt.testing.record import read

        return read(self._recorded(), types, client_id)

    def snapshot(self, *types: str, client_id: str | None = None) -> str:
        """The packets that passed as text, a line each, to be held against what is expected.

        What differs from run to run has a fixed name: Correlation Data is `<1>`, `<2>` and so on, client
        identifiers that the broker chose are `client-1` and so on, the last level of reqtt's own response
        topics is `<token>`, the seconds of a Message Expiry Interval are `<seconds>`. Packet identifiers are
        left out. Without `types` so are PINGs and the acknowledgements of success, which come when they come.
        Raises what `packets` raises.

            assert broker.snapshot("SUBSCRIBE") == "responder -> SUBSCRIBE ping (qos=1)"
        """
        from reqtt.testing.record import snapshot, tells

        shown = self.packets(*types, client_id=client_id)
        return snapshot(self.packets(), shown if types else [it for it in shown if tells(it)])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
