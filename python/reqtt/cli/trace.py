"""`reqtt trace`: requests and responses that pass by, in pairs."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

import reqtt
from reqtt import _core
from reqtt.cli import _exit
from reqtt.cli._options import AsJson, with_target
from reqtt.cli._output import (
    console,
    emit_json,
    milliseconds,
    note,
    one_line,
    payload_facts,
    preview,
)
from reqtt.cli._page import asker, page, summary
from reqtt.cli._pairing import Exchange, Pairing, Told
from reqtt.cli._running import first_signal
from reqtt.cli._target import Target

__all__ = ["trace"]

# What reqtt uses where the broker gives no Response Information.
_DEFAULT_RESPONSES = "clients/+/responses/#"
# Exchanges on the page, the latest.
_ON_PAGE = 5000
# Filters in all: a requester with a new response topic for each request must not make it more and more.
_LEARNED = 1000
# How often is looked for requests whose time has run out, in seconds.
_EVERY = 0.1


@with_target
def trace(
    target: Target,
    topic_filter: Annotated[
        str, typer.Argument(metavar="FILTER", help="Of the requests, e.g. cmnd/#.", show_default=False)
    ],
    responses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILTER",
            help="Where responses come; may be repeated. Others are learned from the requests.",
            show_default=_DEFAULT_RESPONSES,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="At the end, write a page with a sequence diagram.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", help="Seconds for requests without an expiry.", min=0.001)
    ] = 10.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many requests have ended.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.001, help="End after so many seconds.")] = None,
    as_json: AsJson = False,
) -> int:
    """Watch requests and responses: who asked, who answered, latency, unanswered, late. Until Ctrl-C.

    It subscribes, and a subscriber is a subscriber: meanwhile the broker does not say that nobody listens.
    """
    if html is not None and not html.absolute().parent.is_dir():
        raise _exit.CommandError(f"--html {html}: there is no folder {html.parent}")
    filters = responses or [_DEFAULT_RESPONSES]
    tracer = _Tracer(target, topic_filter, filters, timeout, _Lines(as_json=as_json))
    code = asyncio.run(tracer.run(count, duration))
    if html is not None:
        when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        html.write_text(page(list(tracer.exchanges), topic_filter, when), encoding="utf-8")
        note(f"written: {html}")
    return code


class _Tracer:
    """Subscribes to what has to be seen, and tells what comes out of it."""

    def __init__(
        self, target: Target, topic_filter: str, responses: list[str], timeout: float, lines: _Lines
    ) -> None:
        self._target = target
        self._filter = topic_filter
        self._filters = [topic_filter]
        for other in responses:
            # Two subscriptions to one topic may bring each message twice.
            if not _covers(topic_filter, other):
                self._filters.append(other)
        for each in self._filters:
            _core.check_filter(each)
        self._pairing = Pairing(timeout)
        self._lines = lines
        self._told = 0
        self._count: int | None = None
        self._over: asyncio.Future[int]
        self._tasks: set[asyncio.Task[None]] = set()
        self.exchanges: deque[Exchange] = deque(maxlen=_ON_PAGE)

    async def run(self, count: int | None, duration: float | None) -> int:
        """Until a signal, `count` or `duration`; gives the exit code."""
        self._count = count
        self._over = asyncio.get_running_loop().create_future()
        # One subscription, since each has a queue of its own: a response must not overtake its request.
        async with self._target.client() as client, self._subscribe(client, *self._filters) as subscription:
            note(f"watching {' '.join(self._filters)}, until Ctrl-C")
            self._start(self._watch(client, subscription))
            self._start(self._expire())
            with first_signal() as stopped:
                try:
                    waiting = {stopped, self._over}
                    done, _ = await asyncio.wait(
                        waiting, timeout=duration, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    for task in self._tasks:
                        task.cancel()
            code = done.pop().result() if done else _exit.OK
        note(summary(list(self.exchanges)))
        return code

    def _subscribe(self, client: reqtt.Client, *topic_filters: str) -> reqtt.Subscription:
        # A retained message is no request that is made now.
        return client.subscribe(*topic_filters, qos=self._target.qos, retain_handling=2, max_queue=100_000)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and not self._over.done() and (error := task.exception()) is not None:
            self._over.set_exception(error)

    async def _watch(self, client: reqtt.Client, subscription: reqtt.Subscription) -> None:
        async for message in subscription:
            if message.retain:
                continue
            found = self._pairing.take(message, time.monotonic())
            if isinstance(found, Exchange):
                self.exchanges.append(found)
                self._learn(client, found.response_topic)
            elif found is not None:
                self._tell(found)

    def _learn(self, client: reqtt.Client, topic: str) -> None:
        """A response topic that nothing covers is watched from now on; its first response may be missed."""
        if len(self._filters) < _LEARNED and not any(
            _core.topic_matches(each, topic) for each in self._filters
        ):
            self._filters.append(topic)
            self._start(self._follow(client, topic))

    async def _follow(self, client: reqtt.Client, topic: str) -> None:
        try:
            async with self._subscribe(client, topic) as subscription:
                await self._watch(client, subscription)
        except (reqtt.SubscribeError, reqtt.InvalidTopic) as error:
            note(f"responses on {topic} cannot be seen: {error}")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            for told in self._pairing.expire(time.monotonic()):
                self._tell(told)

    def _tell(self, told: Told) -> None:
        self._lines.told(told)
        exchange = told.exchange
        # Late ones have been counted as unanswered.
        self._told += exchange is not None and told.outcome != "late" and len(exchange.answers) < 2
        if self._count is not None and self._told >= self._count and not self._over.done():
            self._over.set_result(_exit.OK)


def _covers(wide: str, narrow: str) -> bool:
    """Whether all that matches `narrow` matches `wide`, as far as that can be told from examples."""
    return _core.topic_matches(wide, narrow.replace("+", "x").replace("#", "x/y"))


class _Lines:
    """One line on stdout for each outcome."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = console(stderr=False)

    def told(self, told: Told) -> None:
        if self._as_json:
            emit_json(_facts(told))
            return
        from rich.text import Text

        style = {"answered": "green", "error": "red", "late": "yellow", "unanswered": "red", "unknown": "dim"}
        text = Text(datetime.datetime.now().strftime("%H:%M:%S.%f")[:-3] + "  ")
        text.append(f"{told.outcome:<10}", style=style[told.outcome])
        text.append("  " + "  ".join(one_line(part) for part in _parts(told) if part))
        self._console.print(text, soft_wrap=True)


def _parts(told: Told) -> list[str]:
    exchange, answer = told.exchange, told.answer
    if exchange is None:
        return [
            told.topic,
            "a response to no request that was seen",
            preview(answer.payload if answer else b""),
        ]
    parts = [exchange.topic, f"from {asker(exchange.response_topic)}", preview(exchange.payload, 30)]
    if answer is None:
        return [*parts, f"no answer within {exchange.deadline - exchange.asked:.3g} s"]
    status = "" if answer.status < 400 else str(answer.status)
    by = f"by {answer.who}" if answer.who else ""
    return [*parts, "->", status, preview(answer.payload, 30), by, milliseconds(answer.at - exchange.asked)]


def _facts(told: Told) -> dict[str, object]:
    facts: dict[str, object] = {"outcome": told.outcome}
    exchange, answer = told.exchange, told.answer
    if exchange is not None:
        correlation = exchange.correlation_data
        facts |= {
            "topic": exchange.topic,
            "response_topic": exchange.response_topic,
            "who_asked": asker(exchange.response_topic),
            "correlation_data": None
            if correlation is None
            else correlation.decode("utf-8", "backslashreplace"),
            "request": payload_facts(exchange.payload),
        }
    else:
        facts["response_topic"] = told.topic
    if answer is not None:
        facts |= {
            "status": answer.status,
            "who_answered": answer.who,
            "response": payload_facts(answer.payload),
        }
        if exchange is not None:
            facts["latency_ms"] = round((answer.at - exchange.asked) * 1000, 3)
    return facts
