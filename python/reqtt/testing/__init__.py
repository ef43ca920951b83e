"""A broker inside the process, for demos and tests. Never for production."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from reqtt import _core

__all__ = ["LoopbackBroker"]


class LoopbackBroker(_core.LoopbackBroker):
    """An MQTT 5 broker on a free port of 127.0.0.1, with faults on demand.

    QoS 0 to 2, wildcards, retained messages, shared subscriptions, sessions and message expiry, 0x10 *No
    matching subscribers*, Response Information, over TCP (`url`) and WebSocket (`ws_url`). Keyword arguments
    are what its CONNACK says, by the specification's names; with `username` and `password` nobody else gets
    in. `port` and `ws_port` 0 take any free one. Durations are in seconds. Starting raises `OSError` where a
    port is taken; everything but `start` and `stop` raises `RuntimeError` where it does not run.

        with LoopbackBroker() as broker:
            requester = reqtt.Requester(broker.url)
            broker.cut()  # every connection breaks, sessions stay
    """

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
