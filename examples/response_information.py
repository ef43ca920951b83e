"""Where responses go: below the broker's Response Information, or below the documented default without it."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt
from reqtt.testing import LoopbackBroker


@reqtt.responder("where")
async def where(request: reqtt.Request) -> str:
    return f"you asked me to answer on {request.response_topic}"


async def ask(url: str) -> None:
    async with reqtt.Responder(url, [where]), reqtt.Requester(url, client_id="panel-7") as requester:
        connack = requester.client.connack
        assert connack is not None
        response = await requester.request("where")
        print(f"Response Information: {connack.response_information}")
        print(f"  {response.text}")


if __name__ == "__main__":
    # Of the two brokers only the first sends any (another one, with --url, may not).
    with broker_url(__doc__, response_information="replies/house-3") as url, LoopbackBroker() as without:
        asyncio.run(ask(url))
        asyncio.run(ask(without.url))
