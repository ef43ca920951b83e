"""Where the time of a request went, as the responder tells who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reqtt import Request, Response, responder
from reqtt.timing import ASK, Timing, TimingMiddleware, breakdown

Factory = Callable[..., Awaitable[Any]]


async def test_queue_handler_and_wire_make_the_whole(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic, concurrency=1)
    async def one_by_one() -> str:
        await asyncio.sleep(0.1)
        return "done"

    await serving(broker, one_by_one, middleware=[TimingMiddleware()])
    req = await requester(broker)
    responses = await asyncio.gather(*[req.request(topic, user_properties=[ASK]) for _ in range(2)])
    first, second = (breakdown(response) for response in responses)
    for timing, response in zip((first, second), responses, strict=True):
        assert response.text == "done"
        assert timing is not None
        assert timing.queue is not None
        assert 0.095 < timing.handler < 1
        assert timing.total == response.latency
        assert timing.queue + timing.handler + timing.wire == pytest.approx(timing.total)
        assert timing.wire < 0.09
    assert first.queue < 0.09 < second.queue < 1


async def test_it_is_told_only_to_who_asks(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    @responder(topic)
    async def works() -> Response:
        return Response("done", status=207, content_type="text/x", user_properties=[("a", "1")])

    await serving(broker, works, middleware=[TimingMiddleware()])
    response = await (await requester(broker)).request(topic)
    assert response.user_properties == (("a", "1"),)
    assert breakdown(response) is None
    # As middleware of a requester it asks with every request.
    req = await requester(broker, middleware=[TimingMiddleware()])
    response = await req.request(topic, user_properties={"b": "2"})
    assert breakdown(response) is not None
    assert (response.text, response.content_type, response.user_properties[0]) == (
        "done",
        "text/x",
        ("a", "1"),
    )


async def test_a_request_that_does_not_expire_has_no_known_queue(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    @responder(topic)
    async def works() -> None:
        pass

    await serving(broker, works, middleware=[TimingMiddleware()])
    peer = await raw(broker)
    report = (await peer.request(topic, user_properties=(ASK,))).user(ASK[0])
    assert report.startswith("handler=")
    response = await peer.request(
        topic, user_properties=(ASK,), message_expiry_interval=5, correlation_data=b"another"
    )
    report = response.user(ASK[0])
    assert report.startswith("queue=")


@pytest.mark.parametrize(
    "report", ["", "1", "handler=", "handler=-5", "handler=1e9", "queue=1 handler=٣", "handler=" + "9" * 11]
)
def test_a_report_that_is_none_is_ignored(report: str) -> None:
    assert breakdown(Response(user_properties=[(ASK[0], report)])) is None


def test_an_untruth_makes_no_negative_time() -> None:
    timing = breakdown(Response(user_properties=[(ASK[0], "queue=5000 handler=2000000")]))
    assert timing == Timing(0.0, 0.005, 2.0, 0.0)
    assert str(timing) == "0.0 ms (queue 5.0, handler 2000.0, wire 0.0)"


async def test_a_failure_of_the_handler_passes() -> None:
    async def fails(request: Request) -> Response:
        raise LookupError

    with pytest.raises(LookupError):
        await TimingMiddleware()(Request("t", user_properties=[ASK]), fails)
