"""Commands that meet the end of a connection: none of them is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import reqtt
from support.proxy import Proxy

QUICK = reqtt.Reconnect(initial=0.02, max=0.05, jitter=0)


async def test_a_request_made_while_the_connection_breaks_ends_in_time(loopback: Any, topic: str) -> None:
    async with Proxy(loopback.port) as proxy:
        for turn in range(20):
            async with reqtt.Requester(proxy.url, reconnect=QUICK) as req:
                proxy.refuse()
                proxy.cut()
                calls = []
                # From the moment of the cut on until well after it.
                for _ in range(20):
                    calls.append(asyncio.ensure_future(req.request(topic, b"x", timeout=0.2)))
                    await asyncio.sleep(0.0002 * (turn % 5))
                _, pending = await asyncio.wait(calls, timeout=3)
                assert not pending, req.client.stats()
                assert {type(c.exception()) for c in calls} == {reqtt.ResponseTimeout}
                await proxy.accept()
