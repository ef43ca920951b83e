"""Metrics: what is counted under which labels, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import gc
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import reqtt
from reqtt import RequestError, responder
from reqtt.prometheus import BUCKETS, MetricsMiddleware, watch
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


class Metrics:
    """A registry, and what it says."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of this name, by the values of their labels."""
        text = generate_latest(self.registry).decode()
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str, *labels: str) -> float | None:
        return self.samples(name).get(labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def test_requests_are_counted_by_filter_and_status_on_both_sides(
    broker: Any, serving: Factory, requester: Factory, topic: str, metrics: Metrics
) -> None:
    name = f"{topic}/{{device}}/power"

    @responder(name)
    async def power(device: str, body: str) -> str | None:
        match device:
            case "unknown":
                raise RequestError(404, "no such device")
            case "broken":
                raise LookupError
            case "silent":
                return None
        return body

    # One for each side: they share their metrics.
    await serving(broker, power, middleware=[MetricsMiddleware(registry=metrics.registry)])
    req = await requester(broker, middleware=[MetricsMiddleware(filters=[name], registry=metrics.registry)])
    for device, status in (("lamp", 200), ("fan", 200), ("silent", 204), ("unknown", 404), ("broken", 500)):
        if status < 400:
            await req.request(f"{topic}/{device}/power", "ON")
        else:
            with pytest.raises(reqtt.RemoteError):
                await req.request(f"{topic}/{device}/power", "ON")
    counted = {(name, "200"): 2, (name, "204"): 1, (name, "404"): 1, (name, "500"): 1}
    assert metrics.samples("reqtt_requester_requests_total") == counted
    await eventually(lambda: metrics.samples("reqtt_responder_requests_total") == counted)
    for histogram in ("requester_duration", "responder_duration", "responder_wait"):
        assert metrics.value(f"reqtt_{histogram}_seconds_count", name) == 5
        assert 0 <= metrics.value(f"reqtt_{histogram}_seconds_sum", name) < 2
    assert metrics.value("reqtt_requester_in_flight", name) == 0
    assert metrics.value("reqtt_responder_in_flight", name) == 0


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("body", {"payload": "no number"}),
        ("body", {"payload": "1", "content_type": "image/png"}),
        ("capture", {}),
        ("json", {"payload": "{"}),
        ("remote", {}),
        ("late", {}),
        ("cancelled", {}),
        ("teapot", {}),
    ],
    ids=str,
)
async def test_the_status_is_the_one_that_the_requester_gets(
    broker: Any,
    serving: Factory,
    requester: Factory,
    topic: str,
    metrics: Metrics,
    fault: str,
    options: dict[str, Any],
) -> None:
    inner = await requester(broker)

    @responder(f"{topic}/body")
    async def body(body: int) -> None: ...

    @responder(f"{topic}/capture/{{number}}")
    async def capture(number: int) -> None: ...

    @responder(f"{topic}/refuses")
    async def refuses() -> None:
        raise RequestError(404, "no")

    @responder(f"{topic}/own/{{what}}")
    async def own(what: str, request: reqtt.Request) -> None:
        match what:
            case "json":
                request.json()
            case "remote":
                await inner.request(f"{topic}/refuses")
            case "late":
                await inner.request(f"{topic}/nobody", timeout=0.05, fail_fast=False)
            case "cancelled":
                raise asyncio.CancelledError
            case "teapot":
                raise RequestError(418, "a teapot")

    middleware = [MetricsMiddleware(registry=metrics.registry)]
    await serving(broker, body, capture, own, middleware=middleware)
    await serving(broker, refuses)
    name = {"body": "body", "capture": "capture/x"}.get(fault, f"own/{fault}")
    with pytest.raises(reqtt.RemoteError) as caught:
        await inner.request(f"{topic}/{name}", **options)
    [(_, status)] = metrics.samples("reqtt_responder_requests_total")
    assert status == ("cancelled" if fault == "cancelled" else str(caught.value.status))


async def test_what_is_under_way_and_how_long_it_takes(
    broker: Any, serving: Factory, requester: Factory, topic: str, metrics: Metrics
) -> None:
    go = asyncio.Event()

    @responder(topic, concurrency=2)
    async def waits() -> None:
        await go.wait()

    middleware = [MetricsMiddleware(registry=metrics.registry, filters=[topic], buckets=[0.01, 0.1, 60])]
    await serving(broker, waits, middleware=middleware)
    req = await requester(broker, middleware=middleware)
    asking = [asyncio.ensure_future(req.request(topic)) for _ in range(3)]
    await eventually(lambda: metrics.value("reqtt_responder_in_flight", topic) == 2)
    assert metrics.value("reqtt_requester_in_flight", topic) == 3
    await asyncio.sleep(0.11)
    go.set()
    await asyncio.gather(*asking)
    await eventually(lambda: metrics.value("reqtt_responder_in_flight", topic) == 0)
    assert metrics.value("reqtt_requester_in_flight", topic) == 0
    asked = metrics.samples("reqtt_requester_duration_seconds_bucket")
    assert asked == {(topic, "0.01"): 0, (topic, "0.1"): 0, (topic, "60.0"): 3, (topic, "+Inf"): 3}
    # The third waited for a place, and was quick then.
    ran = metrics.samples("reqtt_responder_duration_seconds_bucket")
    waited = metrics.samples("reqtt_responder_wait_seconds_bucket")
    assert (ran[topic, "0.1"], waited[topic, "0.1"]) == (1, 2)


async def test_every_end_has_a_word(
    broker: Any, serving: Factory, requester: Factory, raw: Factory, topic: str, metrics: Metrics
) -> None:
    await (await raw(broker)).subscribe(f"{topic}/silent")
    peer = await raw(broker)
    await peer.serve(f"{topic}/broken", user_properties=(("__stat", "abc"),))
    req = await requester(broker, middleware=[MetricsMiddleware(registry=metrics.registry, filters=["#"])])

    async def end(kind: type[BaseException], name: str, **options: Any) -> None:
        with pytest.raises(kind):
            await req.request(f"{topic}/{name}", **options)

    await end(reqtt.NoMatchingSubscribers, "nobody")
    await end(reqtt.ResponseTimeout, "silent", timeout=0.05)
    await end(reqtt.InvalidResponse, "broken")
    await end(ValueError, "silent", timeout=-1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await req.request(f"{topic}/silent")
    waiting = asyncio.ensure_future(req.request(f"{topic}/silent"))
    await eventually(lambda: req.client.stats().pending == 1)
    await req.close()
    with pytest.raises(reqtt.ClientClosed):
        await waiting
    words = ("no_subscribers", "timeout", "invalid", "error", "cancelled", "closed")
    assert metrics.samples("reqtt_requester_requests_total") == {("#", word): 1 for word in words}
    assert metrics.value("reqtt_requester_in_flight", "#") == 0


async def test_a_refusal_and_a_lost_connection_have_words(
    denying_broker: Callable[..., Any], make_proxy: Factory, requester: Factory, topic: str, metrics: Metrics
) -> None:
    broker = denying_broker(publish=f"{topic}/closed")
    middleware = [MetricsMiddleware(registry=metrics.registry)]
    req = await requester(broker, middleware=middleware)
    with pytest.raises(reqtt.PublishError):
        await req.request(f"{topic}/closed")
    proxy = await make_proxy(broker)
    req = await requester(proxy, middleware=middleware, reconnect=None)
    proxy.cut()
    with pytest.raises(reqtt.ConnectionLost):
        await req.request(f"{topic}/open")
    found = metrics.samples("reqtt_requester_requests_total")
    assert found == {("other", "refused"): 1, ("other", "connection"): 1}


async def test_a_handler_that_is_cut_off_is_a_408(
    broker: Any, serving: Factory, requester: Factory, topic: str, metrics: Metrics
) -> None:
    @responder(topic, timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    app = await serving(broker, slow, middleware=[MetricsMiddleware(registry=metrics.registry)])
    req = await requester(broker)
    with pytest.raises(reqtt.RemoteTimeout):
        await req.request(topic)
    assert metrics.samples("reqtt_responder_requests_total") == {(topic, "408"): 1}
    asking = asyncio.ensure_future(req.request(topic))
    await eventually(lambda: metrics.value("reqtt_responder_in_flight", topic) == 1)
    await app.close(drain=False)
    with pytest.raises(reqtt.RemoteUnavailable):
        await asking
    assert metrics.value("reqtt_responder_requests_total", topic, "cancelled") == 1


async def test_labels_are_bounded_whatever_topics_and_peers_come_up_with(
    broker: Any, requester: Factory, raw: Factory, topic: str, metrics: Metrics
) -> None:
    peer = await raw(broker)
    status = iter(range(100_000, 100_050))
    await peer.subscribe(f"{topic}/+")

    async def answer() -> None:
        for _ in range(50):
            request = await peer.receive()
            await peer.respond(request, user_properties=(("__stat", str(next(status))),))

    answering = asyncio.ensure_future(answer())
    req = await requester(broker, middleware=[MetricsMiddleware(registry=metrics.registry)])
    for number in range(50):
        with pytest.raises(reqtt.RemoteError):
            await req.request(f"{topic}/{number}")
    await answering
    assert metrics.samples("reqtt_requester_requests_total") == {("other", "other"): 50}
    assert str(topic) not in generate_latest(metrics.registry).decode()


async def test_the_counters_of_a_client_are_read_when_prometheus_asks(
    broker: Any, make_proxy: Factory, requester: Factory, raw: Factory, topic: str, metrics: Metrics
) -> None:
    proxy = await make_proxy(broker)
    peer = await raw(broker)
    await peer.subscribe(topic)
    req = await requester(proxy)
    watch(req.client, "panel", registry=metrics.registry)
    asking = asyncio.ensure_future(req.request(topic))
    request = await peer.receive()
    assert metrics.value("reqtt_client_pending", "panel") == 1
    await peer.respond(request)
    await peer.respond(request)
    await asking
    with pytest.raises(reqtt.ResponseTimeout):
        await req.request(topic, timeout=0.05)
    await peer.respond(await peer.receive())
    # Before the cut, which might take it along.
    await eventually(lambda: metrics.value("reqtt_client_late_total", "panel") == 1)
    proxy.cut()
    await eventually(lambda: metrics.value("reqtt_client_reconnects_total", "panel") == 1)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    try:
        # Prometheus' own thread reads while the loop goes on.
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
    for counter, value in (
        ("requests", 2),
        ("responses", 1),
        ("duplicates", 1),
        ("timeouts", 1),
        ("late", 1),
    ):
        assert f'reqtt_client_{counter}_total{{client="panel"}} {value}.0' in text
    assert 'reqtt_client_connected{client="panel"} 1.0' in text
    await req.close()
    assert metrics.value("reqtt_client_connected", "panel") == 0
    assert metrics.value("reqtt_client_responses_total", "panel") == 1


async def test_a_client_is_shown_as_long_as_it_lives(loopback: Any, metrics: Metrics) -> None:
    first, second = reqtt.Client(loopback.url), reqtt.Client(loopback.url)
    watch(first, "first", registry=metrics.registry)
    watch(first, "first", registry=metrics.registry)
    watch(second, "second", registry=metrics.registry)
    with pytest.raises(ValueError, match="'first' is taken"):
        watch(second, "first", registry=metrics.registry)
    assert set(metrics.samples("reqtt_client_connected")) == {("first",), ("second",)}
    del first
    gc.collect()
    assert set(metrics.samples("reqtt_client_connected")) == {("second",)}
    watch(second, "first", registry=metrics.registry)


@pytest.fixture
def default_registry() -> Iterator[None]:
    """prometheus_client's own, without what is put in meanwhile."""
    from prometheus_client import REGISTRY

    from reqtt import prometheus

    before = set(REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)
    delattr(REGISTRY, prometheus._ATTRIBUTE)


async def test_without_a_registry_it_is_prometheus_clients_own(
    loopback: Any, requester: Factory, topic: str, default_registry: None
) -> None:
    from prometheus_client import REGISTRY

    req = await requester(loopback, middleware=[MetricsMiddleware()])
    watch(req.client, "panel")
    with pytest.raises(reqtt.NoMatchingSubscribers):
        await req.request(topic)
    labels = {"filter": "other", "status": "no_subscribers"}
    assert REGISTRY.get_sample_value("reqtt_requester_requests_total", labels) == 1
    assert REGISTRY.get_sample_value("reqtt_client_requests_total", {"client": "panel"}) == 1


def test_what_cannot_be_is_refused(metrics: Metrics) -> None:
    with pytest.raises(reqtt.InvalidTopic):
        MetricsMiddleware(filters=["a/#/b"], registry=metrics.registry)
    with pytest.raises(TypeError, match="CollectorRegistry"):
        MetricsMiddleware(registry="default")  # type: ignore[arg-type]
    for buckets in ([], [0, 1], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="buckets"):
            MetricsMiddleware(registry=metrics.registry, buckets=buckets)
    with pytest.raises(TypeError, match=r"requester\.client"):
        watch("mqtt://localhost", "panel", registry=metrics.registry)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name"):
        watch(reqtt.Client(), "", registry=metrics.registry)
    assert tuple(sorted(BUCKETS)) == BUCKETS


async def test_one_registry_has_one_set_of_buckets(metrics: Metrics) -> None:
    @responder("t")
    async def handler() -> None: ...

    def serve(buckets: tuple[float, ...]) -> None:
        middleware = MetricsMiddleware(registry=metrics.registry, buckets=buckets)
        reqtt.Responder("mqtt://localhost", [handler], middleware=[middleware])

    serve((1, 2))
    serve((1, 2))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        serve((1, 3))
