"""Pairs requests and responses that pass by. No I/O, and no clock of its own."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Final, Literal

import reqtt

__all__ = ["Answer", "Exchange", "Outcome", "Pairing", "Told"]

Outcome = Literal["answered", "error", "late", "unanswered", "unknown"]

# Requests that are open, or have ended and may still get a late response, at most.
_KEPT: Final = 10_000
# Responses that are kept of one exchange, the first: a stream may be long.
_ANSWERS: Final = 1000
# Seconds after its end in which a response is told to be late instead of unknown.
_REMEMBERED: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One response: when, what, and who, where it says so."""

    at: float
    status: int
    payload: bytes
    who: str | None = None


@dataclasses.dataclass(slots=True)
class Exchange:
    """A request and the responses to it. Times are seconds of one clock."""

    topic: str
    response_topic: str
    correlation_data: bytes | None
    asked: float
    deadline: float
    payload: bytes = b""
    answers: list[Answer] = dataclasses.field(default_factory=list)
    expired: bool = False

    @property
    def latency(self) -> float | None:
        """Seconds to the first response."""
        return self.answers[0].at - self.asked if self.answers else None


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What is to be told: an exchange, how it came out, and the response that did it."""

    outcome: Outcome
    exchange: Exchange | None
    answer: Answer | None
    topic: str


class Pairing:
    """`timeout`: seconds that a request waits which says nothing of its expiry."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # In the order of asking.
        self._known: OrderedDict[tuple[str, bytes | None], Exchange] = OrderedDict()

    @property
    def open(self) -> int:
        """How many requests wait for a response."""
        return sum(not exchange.answers and not exchange.expired for exchange in self._known.values())

    def take(self, message: reqtt.Message, now: float) -> Exchange | Told | None:
        """A message that came by: a new exchange, what became of one, or nothing new."""
        if message.response_topic is not None:
            return self._request(message, message.response_topic, now)
        return self._response(message, now)

    def _request(self, message: reqtt.Message, response_topic: str, now: float) -> Exchange | None:
        key = response_topic, message.correlation_data
        if key in self._known and message.correlation_data is not None:
            # A copy: sent again, or delivered by two subscriptions.
            return None
        expiry = message.message_expiry_interval
        exchange = Exchange(
            topic=message.topic,
            response_topic=response_topic,
            correlation_data=message.correlation_data,
            asked=now,
            deadline=now + (self._timeout if expiry is None else expiry),
            payload=message.payload,
        )
        self._known[key] = exchange
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return exchange

    def _response(self, message: reqtt.Message, now: float) -> Told | None:
        properties = dict(message.user_properties)
        answer = Answer(now, _status(properties.get("__stat")), message.payload, properties.get("rq-id"))
        exchange = self._known.get((message.topic, message.correlation_data))
        if exchange is None:
            if message.correlation_data is None:
                # Any message on a topic that is watched.
                return None
            return Told("unknown", None, answer, message.topic)
        if message.dup and exchange.answers:
            return None
        if "rq-seq" in properties and exchange.answers:
            # A stream goes on as long as it likes, once it has begun.
            exchange.deadline = max(exchange.deadline, now + self._timeout)
            exchange.expired = False
        late = exchange.expired or now > exchange.deadline
        if len(exchange.answers) < _ANSWERS and not (late and exchange.answers):
            exchange.answers.append(answer)
        outcome: Outcome = "late" if late else "error" if answer.status >= 400 else "answered"
        return Told(outcome, exchange, answer, message.topic)

    def expire(self, now: float) -> list[Told]:
        """Those whose time has run out since the last call."""
        told = []
        for key, exchange in list(self._known.items()):
            if exchange.deadline > now:
                continue
            if not exchange.expired and not exchange.answers:
                told.append(Told("unanswered", exchange, None, exchange.topic))
            exchange.expired = True
            if now > exchange.deadline + _REMEMBERED:
                del self._known[key]
        return told


def _status(text: str | None) -> int:
    if text is None:
        return 200
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 500
