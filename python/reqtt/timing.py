"""Why is it slow? A responder says how long a request waited there and how long its handler ran, when asked.

async with Responder(URL, handlers, middleware=[TimingMiddleware()]):
    response = await req.request("cmnd/lamp/power", "ON", user_properties=[ASK])
    print(breakdown(response))
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reqtt._core import Request, Response
from reqtt._observed import waited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ASK", "Timing", "TimingMiddleware", "breakdown"]

_PROPERTY: Final = "rq-timing"

ASK: Final = (_PROPERTY, "1")
"""The user property of a request that wants to know."""

# Microseconds: ten digits are almost three hours.
_REPORT: Final = re.compile(r"(?:queue=([0-9]{1,10}) )?handler=([0-9]{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a request went, in seconds.

    `total` is `Response.latency`. `queue` is from the arrival at the responder to the start of its handler
    (None where the request had no Message Expiry Interval), `handler` from there to its result. `wire` is the
    rest: both ways through network and broker, and what the request waited for before it was sent.

        timing = breakdown(response)
        if timing is not None and timing.queue > timing.handler:
            print("start another responder")
    """

    total: float
    queue: float | None
    handler: float
    wire: float

    def __str__(self) -> str:
        steps = [("queue", self.queue), ("handler", self.handler), ("wire", self.wire)]
        told = ", ".join(f"{name} {value * 1000:.1f}" for name, value in steps if value is not None)
        return f"{self.total * 1000:.1f} ms ({told})"


class TimingMiddleware:
    """For a `Responder`: reports the time of each request that asks for it. For a `Requester`: asks.

    The report is the user property `rq-timing` of the response (section 3.3.2.3.7). An error has none.

        Responder(URL, handlers, middleware=[TimingMiddleware()])
    """

    def __repr__(self) -> str:
        return "TimingMiddleware()"

    async def __call__(self, request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        if not isinstance(request, Request):
            return await call_next(request.replace(user_properties=(*request.user_properties, ASK)))
        if ASK not in request.user_properties:
            return await call_next(request)
        queue, start = waited(request), time.perf_counter()
        response = await call_next(request)
        report = f"handler={_microseconds(time.perf_counter() - start)}"
        if queue is not None:
            report = f"queue={_microseconds(queue)} {report}"
        return Response(
            response.payload,
            status=response.status,
            content_type=response.content_type,
            payload_format_indicator=response.payload_format_indicator,
            user_properties=[*response.user_properties, (_PROPERTY, report)],
        )


def breakdown(response: Response) -> Timing | None:
    """Where the time of a request went; None where the responder does not say.

    response = await req.request("cmnd/lamp/power", "ON", user_properties=[ASK])
    print(breakdown(response))  # 12.4 ms (queue 0.1, handler 10.2, wire 2.1)
    """
    text = next((value for name, value in response.user_properties if name == _PROPERTY), "")
    found = _REPORT.fullmatch(text)
    if found is None:
        return None
    queue = None if found[1] is None else int(found[1]) / 1e6
    handler = int(found[2]) / 1e6
    # The responder's own clock, or an untruth: no time is negative.
    wire = max(0.0, response.latency - (queue or 0.0) - handler)
    return Timing(response.latency, queue, handler, wire)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
