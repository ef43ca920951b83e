"""A responder service: what `reqtt serve` runs, here or in each of its workers. Needs no typer."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import reqtt
from reqtt.cli._log import facts
from reqtt.cli._modules import load
from reqtt.cli._running import observed, serve_until_stopped
from reqtt.cli._target import Target
from reqtt.responder import ResponderSpec
from reqtt.router import collect

__all__ = ["Service", "handlers_of", "run"]

_log = logging.getLogger("reqtt.serve")


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """What is served where. Can be sent to another process."""

    reference: str
    target: Target
    group: str | None = None
    access_log: bool = False
    log_json: bool = False
    log_level: str = "INFO"
    worker: int | None = None

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Service:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**given, "target": Target(**given["target"])})


def handlers_of(service: Service) -> list[ResponderSpec]:
    """Imports them: before there is an event loop, as a module may want one of its own."""
    return collect(load(service.reference), group=service.group)


async def run(service: Service, handlers: list[ResponderSpec], *also: asyncio.Future[int]) -> int:
    """Until a signal, or one of `also`; then it drains. Gives the exit code."""
    middleware = [_access] if service.access_log else []
    app = reqtt.Responder(service.target.url, handlers, middleware=middleware, **service.target.options())
    events = asyncio.ensure_future(_tell_of_connection(app.client))

    def ready() -> None:
        filters = " ".join(_subscribed(spec.mqtt_filter, spec.group) for spec in handlers)
        _log.info("serving", extra=facts(client_id=app.client.client_id, filters=filters))

    try:
        code = await serve_until_stopped(app, ready, *also)
    finally:
        events.cancel()
    _log.info("stopped, all that was received is answered")
    return code


def _subscribed(mqtt_filter: str, group: str | None) -> str:
    return mqtt_filter if group is None else f"$share/{group}/{mqtt_filter}"


async def _tell_of_connection(client: reqtt.Client) -> None:
    known = False
    async for event in client.events():
        match event:
            case reqtt.Connected() if known:
                _log.info("connected again")
            case reqtt.Connected():
                known = True
            case reqtt.Disconnected(reason=reason):
                _log.warning("connection lost", extra=facts(reason=reason))
            case reqtt.Reconnecting(attempt=attempt, delay=delay):
                _log.info("connecting again", extra=facts(attempt=attempt, delay=f"{delay:.1f}"))


async def _access(request: reqtt.Request, call_next: Any) -> reqtt.Response:
    def tell(status: int, took: float) -> None:
        _log.info("request", extra=facts(topic=request.topic, status=status, ms=f"{took * 1000:.2f}"))

    return await observed(request, call_next, tell)
