"""Prometheus metrics of requests, handlers and clients. Needs `reqtt[prometheus]`.

    async with Requester(URL, middleware=[MetricsMiddleware(filters=["cmnd/{device}/power"])]) as req:
        watch(req.client, "panel")

| metric | labels | |
|---|---|---|
| `reqtt_requester_requests_total` | filter, status | requests that have ended |
| `reqtt_requester_duration_seconds` | filter | from the call to the end, all steps |
| `reqtt_requester_in_flight` | filter | under way at this moment |
| `reqtt_responder_requests_total` | filter, status | requests that a handler has answered |
| `reqtt_responder_wait_seconds` | filter | from the arrival to the start of the handler |
| `reqtt_responder_duration_seconds` | filter | the handler |
| `reqtt_responder_in_flight` | filter | handlers that run at this moment |
| `reqtt_client_...` | client | what `Client.stats()` counts, and whether it is connected |

Labels are bounded. `filter` is that of the handler, or the first of `filters` that matches a request's
topic, else `other`; a topic never is a label. `status` is a number up to 599, or one of `timeout`,
`no_subscribers`, `refused`, `connection`, `closed`, `cancelled`, `invalid`, `error`, `other`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from reqtt._core import Request, Response
from reqtt._observed import Names, handler_outcome, request_outcome, waited
from reqtt.client import Client, Stats

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "reqtt.prometheus needs the package prometheus-client: pip install 'reqtt[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from reqtt.responder import ResponderSpec

__all__ = ["BUCKETS", "MetricsMiddleware", "watch"]

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The histograms' upper bounds, in seconds: a local broker answers in less than the first."""

_OTHER: Final = "other"
_ATTRIBUTE: Final = "_reqtt_metrics"

# Of this moment; the rest only grows.
_GAUGES: Final = ("pending", "in_flight")


class _Series:
    """The series of one side under one filter: looked up once, because `labels()` takes a lock each time."""

    def __init__(self, side: _Side, name: str) -> None:
        self.in_flight = side.in_flight.labels(name)
        self.duration = side.duration.labels(name)
        self.wait = None if side.wait is None else side.wait.labels(name)
        self._requests = side.requests
        self._name = name
        self._ended: dict[int | str, Counter] = {}

    def ended(self, outcome: int | str, seconds: float) -> None:
        counter = self._ended.get(outcome)
        if counter is None:
            counter = self._ended[outcome] = self._requests.labels(self._name, str(outcome))
        counter.inc()
        self.duration.observe(seconds)


class _Side:
    """The metrics of requesters, or of responders, in one registry."""

    def __init__(self, side: str, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        self.requests = Counter(
            f"reqtt_{side}_requests",
            f"Requests of the {side} that have ended",
            ["filter", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            f"reqtt_{side}_duration_seconds",
            "From the call of request() to its end" if side == "requester" else "Time in the handler",
            ["filter"],
            buckets=buckets,
            registry=registry,
        )
        self.in_flight = Gauge(
            f"reqtt_{side}_in_flight", f"Requests of the {side} under way", ["filter"], registry=registry
        )
        self.wait = None
        if side == "responder":
            self.wait = Histogram(
                "reqtt_responder_wait_seconds",
                "From the arrival of a request to the start of its handler",
                ["filter"],
                buckets=buckets,
                registry=registry,
            )
        self._series: dict[str, _Series] = {}

    def series(self, name: str) -> _Series:
        found = self._series.get(name)
        if found is None:
            found = self._series[name] = _Series(self, name)
        return found


class _Metrics:
    """All that is in one registry, however many middlewares write to it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._sides: dict[str, _Side] = {}
        self.buckets: tuple[float, ...] | None = None
        self.clients = _Clients()
        registry.register(self.clients)

    def side(self, side: str, buckets: tuple[float, ...]) -> _Side:
        if self.buckets is not None and self.buckets != buckets:
            raise ValueError(
                f"this registry has buckets={self.buckets} already: give the same, or another registry"
            )
        self.buckets = buckets
        if side not in self._sides:
            self._sides[side] = _Side(side, self._registry, buckets)
        return self._sides[side]


def _metrics_in(registry: CollectorRegistry | None) -> _Metrics:
    if registry is None:
        registry = REGISTRY
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"registry must be a prometheus_client.CollectorRegistry, not {registry!r}")
    # Kept in the registry itself, so that one goes with the other.
    found: _Metrics | None = getattr(registry, _ATTRIBUTE, None)
    if found is None:
        found = _Metrics(registry)
        setattr(registry, _ATTRIBUTE, found)
    return found


class MetricsMiddleware:
    """Counts and measures what a `Requester`, a `Responder`, or both do. Several share the same metrics.

    Args:
        filters: how requests are called, e.g. `cmnd/{device}/power`; topic filters (section 4.7). A handler
            is called by its own.
        registry: where the metrics are; None: prometheus_client's own.
        buckets: upper bounds of the histograms, in seconds, above 0, in order; one set for a registry.

    Raises:
        InvalidTopic, TypeError: `filters` holds what is none.
        ValueError: other `buckets` than the registry has already, or in no order.

    Example:
        metrics = MetricsMiddleware()
        async with Responder("mqtt://localhost:1883", handlers, middleware=[metrics]) as app:
            prometheus_client.start_http_server(9100)
    """

    def __init__(
        self,
        *,
        filters: Iterable[str] = (),
        registry: CollectorRegistry | None = None,
        buckets: Sequence[float] = BUCKETS,
    ) -> None:
        self._names = Names(filters)
        self._buckets = tuple(buckets)
        if not self._buckets or min(self._buckets) <= 0 or list(self._buckets) != sorted(set(self._buckets)):
            raise ValueError(f"buckets must be seconds above 0, in order, not {self._buckets}")
        self._metrics = _metrics_in(registry)
        self._requester: _Side | None = None

    def __repr__(self) -> str:
        return "MetricsMiddleware()"

    def for_responder(self, spec: ResponderSpec) -> Callable[[Request, Any], Awaitable[Response]]:
        """The same for one handler, whose filter it knows. The `Responder` asks for it."""
        series = self._metrics.side("responder", self._buckets).series(spec.topic_filter)

        async def respond(request: Request, call_next: Any) -> Response:
            return await _respond(request, call_next, series, spec)

        return respond

    async def __call__(self, request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        name = self._names.of(request.topic) or _OTHER
        if isinstance(request, Request):
            series = self._metrics.side("responder", self._buckets).series(name)
            return await _respond(request, call_next, series, None)
        if self._requester is None:
            self._requester = self._metrics.side("requester", self._buckets)
        series = self._requester.series(name)
        series.in_flight.inc()
        start = time.perf_counter()
        outcome: int | str = _OTHER
        try:
            response = await call_next(request)
            outcome = response.status
            return response
        except BaseException as error:
            outcome = request_outcome(error)
            raise
        finally:
            series.ended(outcome, time.perf_counter() - start)
            series.in_flight.dec()


async def _respond(request: Request, call_next: Any, series: _Series, spec: ResponderSpec | None) -> Response:
    queue = waited(request)
    if queue is not None and series.wait is not None:
        series.wait.observe(queue)
    series.in_flight.inc()
    start = time.perf_counter()
    outcome: int | str = _OTHER
    try:
        response: Response = await call_next(request)
        outcome = response.status
        return response
    except BaseException as error:
        outcome = handler_outcome(error, spec, time.perf_counter() - start)
        raise
    finally:
        series.ended(outcome, time.perf_counter() - start)
        series.in_flight.dec()


def watch(client: Client, name: str, *, registry: CollectorRegistry | None = None) -> None:
    """Shows the counters of a client (`Client.stats()`) under the label `client`, as long as it lives.

    They are read when Prometheus asks, so that nothing is spent in between.

    Args:
        client: of a requester or responder: `req.client`.
        name: what it is called. Not a random client identifier: each makes series of its own.
        registry: None: prometheus_client's own.

    Raises:
        TypeError: no `Client`, or no name.
        ValueError: another client of this registry has the name.

    Example:
        async with Requester("mqtt://localhost:1883") as req:
            watch(req.client, "panel")
    """
    if not isinstance(client, Client):
        raise TypeError(f"watch takes a Client, not {client!r}: use requester.client or responder.client")
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a text that is not empty, not {name!r}")
    _metrics_in(registry).clients.add(client, name)


class _Clients(Collector):
    """The clients of one registry, asked whenever Prometheus asks."""

    def __init__(self) -> None:
        self._clients: weakref.WeakValueDictionary[str, Client] = weakref.WeakValueDictionary()

    def add(self, client: Client, name: str) -> None:
        other = self._clients.setdefault(name, client)
        if other is not client:
            raise ValueError(f"the name {name!r} is taken by another client: {other!r}")

    def describe(self) -> Iterator[Metric]:
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        return self._families(list(self._clients.items()))

    def _families(self, clients: list[tuple[str, Client]]) -> Iterator[Metric]:
        stats = [(name, client.stats()) for name, client in clients]
        for field in fields(Stats):
            text = f"{field.name} of Client.stats()"
            kind = GaugeMetricFamily if field.name in _GAUGES else CounterMetricFamily
            family: Any = kind(f"reqtt_client_{field.name}", text, labels=["client"])
            for name, counted in stats:
                family.add_metric([name], getattr(counted, field.name))
            yield family
        connected = GaugeMetricFamily(
            "reqtt_client_connected", "Whether there is a connection", labels=["client"]
        )
        for name, client in clients:
            connected.add_metric([name], float(client.connected))
        yield connected
