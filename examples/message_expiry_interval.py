"""A request that has waited too long is not run, and a retained message ends with its time."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt
from reqtt import Request, responder

BAKED: list[str] = []


@responder("oven/bake", concurrency=1)
async def bake(body: str, request: Request) -> str:
    print(f"oven: {body}, its expiry was {request.message_expiry_interval} s")
    BAKED.append(body)
    await asyncio.sleep(1.5)
    return f"{body} is done"


async def requests(url: str) -> None:
    """The oven takes one at a time. The cake is in the queue for longer than anybody waits for it."""
    async with reqtt.Responder(url, [bake]), reqtt.Requester(url) as requester:
        bread = asyncio.create_task(requester.request("oven/bake", "bread", timeout=5))
        cake = asyncio.create_task(requester.request("oven/bake", "cake", timeout=1))
        pie = asyncio.create_task(requester.request("oven/bake", "pie", timeout=4.5))
        try:
            await cake
        except reqtt.ResponseTimeout as error:
            print(f"cake: nobody answered within {error.timeout} s")
        print((await bread).text)
        print((await pie).text)
    print(f"baked: {', '.join(BAKED)}")
    assert BAKED == ["bread", "pie"]


async def retained(url: str) -> None:
    topic = "weather/warning"
    async with reqtt.Client(url) as client:
        for text, seconds in (("storm", 1), ("frost", 60)):
            await client.publish(f"{topic}/{text}", text, qos=1, retain=True, message_expiry_interval=seconds)
        await asyncio.sleep(2.1)
        async with client.subscribe(f"{topic}/+") as warnings, asyncio.timeout(5):
            message = await anext(warnings)
            print(f"still valid: {message.text}, for another {message.message_expiry_interval} s")
            assert message.text == "frost"
        await client.publish(f"{topic}/frost", b"", retain=True)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(requests(url))
        asyncio.run(retained(url))
