"""Two requests under way at once, each answered on a response topic of its own."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt


@reqtt.responder("calculator/{operation}")
async def calculate(operation: str, body: list[int]) -> int:
    return sum(body) if operation == "sum" else max(body)


async def main(url: str) -> None:
    async with reqtt.Responder(url, [calculate]), reqtt.Requester(url) as requester:
        first, second = await asyncio.gather(
            requester.request(
                "calculator/sum", [1, 2, 3], response_topic="answers/sum", correlation_data=b"first"
            ),
            requester.request(
                "calculator/max", [1, 2, 3, 4], response_topic="answers/max", correlation_data=b"second"
            ),
        )
        for response in (first, second):
            print(f"{response.topic}: {response.json()} (correlation data {response.correlation_data!r})")
        assert (first.topic, first.correlation_data, first.json()) == ("answers/sum", b"first", 6)
        assert (second.topic, second.correlation_data, second.json()) == ("answers/max", b"second", 4)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
