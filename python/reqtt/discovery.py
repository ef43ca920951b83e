"""Who is there: responders that say what they serve, and the one question that finds them.

Owns the topics and the JSON of discovery, and what is counted of each handler. It sees of a request when it
began, when it was answered and with which status, and nothing that is in it.
"""

from __future__ import annotations

import datetime
import functools
import logging
import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from reqtt import _core
from reqtt._core import Request
from reqtt.errors import InvalidTopic, ReqttError

if TYPE_CHECKING:
    from reqtt import Client, Requester
    from reqtt.responder import ResponderSpec, Runner

__all__ = [
    "LATENCY_BUCKETS",
    "Discovery",
    "HandlerInfo",
    "HandlerStats",
    "Presence",
    "ResponderInfo",
    "discover",
]

_log = logging.getLogger("reqtt.discovery")

PREFIX: Final = "reqtt/discovery"
TYPE: Final = "reqtt.discovery.v1"

LATENCY_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds in seconds, inclusive; what took longer is counted in one more."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Makes a `Responder` answer who it is: `Responder(..., discovery=Discovery("lights"))`.

    It then answers on `<prefix>/<verb>`, `<prefix>/<verb>/<name>` and `<prefix>/<verb>/<name>/<id>`, where
    the verb is `ping`, `info` or `stats`, and the id is new for each `Responder`. The broker must let it
    subscribe to `<prefix>/+`, `<prefix>/+/<name>` and `<prefix>/+/<name>/<id>`.

    Args:
        name: of the service, the same for all its responders; one topic level.
        version: of the service, as text.
        prefix: of the topics. One that starts with `$` is the broker's own realm (section 4.7.2): not every
            broker lets clients use it.
        allowed_response_topics: as in `@responder`.

    Raises:
        InvalidTopic: `prefix` cannot be published to.
        ValueError, TypeError: `name` is no single topic level; `version` is no text.

    Example:
        async with Responder(url, [power], discovery=Discovery("lights", version="1.4.0")) as app:
            await app.serve_forever()
    """

    name: str
    version: str = ""
    prefix: str = PREFIX
    allowed_response_topics: Sequence[str] = ("#",)

    def __post_init__(self) -> None:
        _check_level("name", self.name)
        if not isinstance(self.version, str):
            raise TypeError(f"version must be a str, not {self.version!r}")
        _check_prefix(self.prefix)


def _check_level(what: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    if not value or any(character in value for character in "/+#{}\0"):
        raise ValueError(f"{what} must be one level of a topic, without / + # {{ }}, not {value!r}")


def _check_prefix(prefix: Any) -> None:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, not {prefix!r}")
    _core.check_topic(prefix)
    if prefix.endswith("/") or prefix.partition("/")[0] == "$share" or "{" in prefix or "}" in prefix:
        raise InvalidTopic(
            f'invalid topic "{prefix}": a prefix has no / at its end, no $share/ and no captures'
        )


class HandlerStats(msgspec.Struct, frozen=True):
    """How often a handler was asked since its responder was made, and how long it took.

    `requests` were answered, `errors` of them with a status of 400 or above, `timeouts` of those with 408.
    `seconds` is the sum of all run times. `latency` counts run times by `LATENCY_BUCKETS`, the last number
    those above. Copies of a request, and requests that had expired, did not run and are not counted.

        print(stats.seconds / max(stats.requests, 1))
    """

    requests: int
    errors: int
    timeouts: int
    seconds: float
    latency: tuple[int, ...]


class HandlerInfo(msgspec.Struct, frozen=True):
    """One handler of a responder: its filter as written, its QoS and group, the tags of its routers.

    `stats` are there where they were asked for.

        print(handler.filter, handler.tags, handler.stats)
    """

    filter: str
    qos: int
    group: str | None = None
    tags: tuple[str, ...] = ()
    stats: HandlerStats | None = None


class ResponderInfo(msgspec.Struct, frozen=True):
    """A responder that answered `discover`. `id` is its own, `name` and `version` are its service's.

    `started` is when it was made, by its own clock. A ping has neither that nor `handlers`.

        for found in await reqtt.discover(req):
            print(found.name, found.id, [handler.filter for handler in found.handlers])
    """

    name: str
    id: str
    version: str = ""
    started: datetime.datetime | None = None
    handlers: tuple[HandlerInfo, ...] = ()
    type: str = TYPE


async def discover(
    requester: Requester,
    *,
    name: str | None = None,
    id: str | None = None,
    prefix: str = PREFIX,
    stats: bool = False,
    timeout: float = 2.0,
    stall: float | None = None,
) -> list[ResponderInfo]:
    """Asks all responders with `discovery=` who they are; the answers, sorted by name and id.

    What answers with something else is left out, and logged at WARNING. Nobody is an empty list, at once
    where the broker says that nobody subscribes.

    Args:
        requester: an open one; it must be allowed to publish below `prefix`.
        name: only responders of this name.
        id: only this one; needs `name`.
        prefix: of their `Discovery`.
        stats: whether they tell how often they were asked.
        timeout: seconds to wait for answers; with `id` the first one is enough.
        stall: seconds without another answer, below `timeout`, after which nobody else is expected.

    Raises:
        ValueError, TypeError: an argument out of range.
        ResponseTimeout, PublishError, SubscribeError, ConnectionLost, ClientClosed: as `Requester.gather`.

    Example:
        for found in await reqtt.discover(req, timeout=1, stall=0.2):
            print(found.name, found.version, found.id)
    """
    _check_prefix(prefix)
    topic = f"{prefix}/{'stats' if stats else 'info'}"
    if name is not None:
        _check_level("name", name)
        topic += f"/{name}"
    if id is not None:
        if name is None:
            raise ValueError("id= needs name=: both are in the topic")
        _check_level("id", id)
        topic += f"/{id}"
    found = []
    async with requester.gather(
        topic,
        response_type=ResponderInfo,
        max_responses=None if id is None else 1,
        timeout=timeout,
        stall=stall,
    ) as answers:
        async for answer in answers:
            if isinstance(answer, ReqttError):
                _log.warning("an answer on %s is none of a responder: %s", topic, answer)
            elif answer.type != TYPE:
                _log.warning("an answer on %s is not of type %s", topic, TYPE)
            else:
                found.append(answer)
    return sorted(found, key=lambda info: (info.name, info.id))


class _Count:
    """What is known of the requests to one handler."""

    __slots__ = ("errors", "latency", "seconds", "timeouts")

    def __init__(self) -> None:
        self.errors = 0
        self.timeouts = 0
        self.seconds = 0.0
        self.latency = [0] * (len(LATENCY_BUCKETS) + 1)

    def add(self, status: int, seconds: float) -> None:
        self.seconds += seconds
        self.latency[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        if status >= 400:
            self.errors += 1
            if status == 408:
                self.timeouts += 1

    def stats(self) -> HandlerStats:
        # All requests are in the histogram.
        return HandlerStats(sum(self.latency), self.errors, self.timeouts, self.seconds, tuple(self.latency))


class Presence:
    """What one responder says of itself."""

    def __init__(self, discovery: Discovery, specs: Sequence[ResponderSpec]) -> None:
        self.discovery = discovery
        self.id = secrets.token_urlsafe(12)
        self._started = datetime.datetime.now(datetime.UTC)
        self._specs = tuple(specs)
        self._counts = [_Count() for _ in specs]

    def take_place(self, client: Client) -> None:
        """Two responders on one connection cannot both have a filter: a request runs once."""
        if any(other.discovery.prefix == self.discovery.prefix for other in client._presences):
            raise ValueError(
                f"another responder on this client answers discovery below {self.discovery.prefix!r}:"
                " give this one a client or a prefix of its own, or serve all handlers by one Responder"
            )
        client._presences.add(self)

    def leave_place(self, client: Client) -> None:
        client._presences.discard(self)

    def counting(self, number: int) -> Callable[[Runner], Runner]:
        """Makes the runner of a specification count its requests."""
        return functools.partial(_counted, count=self._counts[number])

    def handlers(self) -> list[ResponderSpec]:
        """The specifications of its own handler."""
        # Imported here: who only asks needs none of it.
        from reqtt.responder import responder
        from reqtt.router import collect

        answers = {"ping": self._ping, "info": self._info, "stats": self._stats}

        async def discovery(verb: Literal["ping", "info", "stats"]) -> ResponderInfo:
            return answers[verb]()

        name = self.discovery.name
        for place in ("", f"/{name}", f"/{name}/{self.id}"):
            responder(
                f"{self.discovery.prefix}/{{verb}}{place}",
                # It must not wait behind handlers, nor hold their acknowledgements back.
                ack="on_receipt",
                deduplicate=False,
                without_response_topic="ignore",
                allowed_response_topics=self.discovery.allowed_response_topics,
            )(discovery)
        return collect(discovery)

    def _ping(self) -> ResponderInfo:
        return ResponderInfo(self.discovery.name, self.id, self.discovery.version)

    def _info(self) -> ResponderInfo:
        return self._with(tuple(_handler(spec) for spec in self._specs))

    def _stats(self) -> ResponderInfo:
        return self._with(
            tuple(
                _handler(spec, count.stats()) for spec, count in zip(self._specs, self._counts, strict=True)
            )
        )

    def _with(self, handlers: tuple[HandlerInfo, ...]) -> ResponderInfo:
        return ResponderInfo(
            self.discovery.name, self.id, self.discovery.version, started=self._started, handlers=handlers
        )


def _handler(spec: ResponderSpec, stats: HandlerStats | None = None) -> HandlerInfo:
    return HandlerInfo(spec.topic_filter, spec.qos, spec.group, spec.tags, stats)


def _counted(run: Runner, count: _Count) -> Runner:
    now = time.perf_counter

    async def run_and_count(request: Request) -> int | None:
        started = now()
        # What goes past the runner was answered with 503 or 500.
        status: int | None = 500
        try:
            status = await run(request)
        finally:
            count.add(200 if status is None else status, now() - started)
        return status

    run_and_count.__qualname__ = run_and_count.__name__ = run.__name__
    return run_and_count
