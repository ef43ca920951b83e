"""Many requests, some of which time out or are cancelled, over a connection that is cut: what stays behind?

`python -m support.leaks REQUESTS CUTS`, in tests/, prints a table, and fails if more than 20 MB do.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import reqtt
from reqtt.testing import LoopbackBroker
from support.footprint import resident

LIMIT = 20 * 1024 * 1024
# Prime to ten, so that every caller has its share of each kind.
IN_FLIGHT = 499
QUICK = reqtt.Reconnect(initial=0.01, max=0.05)


async def ask(req: reqtt.Requester, number: int) -> str:
    """One request in ten is not answered in time, one in ten is cancelled; gives how it ended."""
    match number % 10:
        case 0:
            try:
                await req.request("silent", b"%d" % number, timeout=0.05)
            except reqtt.ResponseTimeout:
                return "timeout"
        case 1:
            task = asyncio.ensure_future(req.request("silent", b"%d" % number, timeout=60))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return "cancelled"
        case _:
            response = await req.request("echo", b"%d" % number, timeout=60)
            if response.payload == b"%d" % number:
                return "answered"
    return "wrong"


async def run(requests: int, cuts: int) -> tuple[Counter[str], int, reqtt.Stats]:
    """Gives the outcomes, the growth in bytes since the first tenth, and the requester's counters."""

    @reqtt.responder("echo", concurrency=IN_FLIGHT)
    async def echo(body: bytes) -> bytes:
        return body

    @reqtt.responder("silent", concurrency=10 * IN_FLIGHT, ack="on_receipt")
    async def silent(body: bytes) -> None:
        await asyncio.sleep(0.1)

    outcomes: Counter[str] = Counter()
    session = {"clean_start": False, "session_expiry_interval": 300, "reconnect": QUICK}
    with LoopbackBroker() as broker:
        async with (
            reqtt.Responder(broker.url, [echo, silent], client_id="responder", **session),
            reqtt.Requester(broker.url, client_id="requester", max_pending_requests=10_000, **session) as req,
        ):
            every = max(1, requests // cuts)

            async def worker(numbers: range) -> None:
                for number in numbers:
                    if number % every == every // 2:
                        broker.cut()
                    outcomes[await ask(req, number)] += 1

            async def part(begin: int, end: int) -> None:
                async with asyncio.TaskGroup() as group:
                    for n in range(IN_FLIGHT):
                        group.create_task(worker(range(begin + n, end, IN_FLIGHT)))

            await part(0, requests // 10)
            before = resident()
            await part(requests // 10, requests)
            grown = resident() - before
            return outcomes, grown, req.client.stats()


def main(requests: int, cuts: int) -> None:
    outcomes, grown, stats = asyncio.run(run(requests, cuts))
    for name, count in [
        *sorted(outcomes.items()),
        ("reconnects", stats.reconnects),
        ("pending", stats.pending),
    ]:
        sys.stdout.write(f"{name:12}{count:>10,}\n")
    sys.stdout.write(f"{'growth':12}{grown / 1e6:>10.1f} MB\n")
    sys.exit(bool(grown > LIMIT or outcomes["wrong"] or stats.pending))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
