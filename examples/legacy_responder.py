"""A device that answers without Correlation Data: whatever comes on the response topic is the answer."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt


async def old_meter(client: reqtt.Client, ready: asyncio.Event) -> None:
    """Reads Response Topics, knows nothing of Correlation Data, and takes its time for the first answer."""
    async with client.subscribe("meter/+") as questions:
        ready.set()
        number = 0
        async for question in questions:
            number += 1
            assert question.response_topic is not None
            await client.publish(question.response_topic, f"{question.topic}: answer {number}")


async def main(url: str) -> None:
    ready = asyncio.Event()
    async with reqtt.Client(url) as device, asyncio.TaskGroup() as tasks:
        meter = tasks.create_task(old_meter(device, ready))
        await ready.wait()

        async with reqtt.Requester(url, timeout=0.5) as requester:
            try:
                await requester.request("meter/water")
            except reqtt.ResponseTimeout:
                unmatched = requester.client.stats().unmatched
                print(f"by Correlation Data: no answer that could be matched, {unmatched} that could not")

        # One request at a time, or nobody could tell the answers apart. More of them wait their turn.
        async with reqtt.Requester(url, correlation="topic", timeout=5) as requester:
            answers = await asyncio.gather(
                *(requester.request(f"meter/{n}") for n in ("gas", "heat", "power"))
            )
            for answer in answers:
                print(f"by topic: {answer.text} (correlation data {answer.correlation_data!r})")
        meter.cancel()


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
