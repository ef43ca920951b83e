"""Two responders in one group share the requests: each request is answered by exactly one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from _broker import broker_url

import reqtt


def worker(name: str) -> Any:
    @reqtt.responder("jobs/{number}", group="workers")
    async def work(number: int) -> str:
        return name

    return work


async def main(url: str) -> None:
    async with (
        reqtt.Responder(url, [worker("anna")], client_id="anna"),
        reqtt.Responder(url, [worker("bert")], client_id="bert"),
        reqtt.Requester(url) as requester,
    ):
        responses = await asyncio.gather(*(requester.request(f"jobs/{number}") for number in range(20)))
        done = Counter(response.text for response in responses)
        for name, count in sorted(done.items()):
            print(f"{name}: {count:>2} {'#' * count}")
        stats = requester.client.stats()
        print(f"{stats.responses} responses to {stats.requests} requests, {stats.duplicates} answered twice")
        assert set(done) == {"anna", "bert"}
        assert (stats.responses, stats.duplicates) == (20, 0)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
