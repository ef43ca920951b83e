"""An idle connection is kept by PINGs, and a broker that has fallen silent is noticed, and found again."""

from __future__ import annotations

import asyncio
import time

from _broker import broker_url

import reqtt
from reqtt.testing import LoopbackBroker


async def idle(url: str) -> None:
    async with reqtt.Client(url, keep_alive=1) as client:
        connack = client.connack
        assert connack is not None
        print(f"keep alive: asked for 1 s, the broker says {connack.server_keep_alive or 'nothing else'}")
        before, start = client.stats().bytes_sent, time.monotonic()
        # A PINGREQ has two bytes. There is no event to wait for: it is nothing to care about.
        while client.stats().bytes_sent < before + 4:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        print(f"idle for {time.monotonic() - start:.0f} s: two PINGs, connected: {client.connected}")


async def silence() -> None:
    """On a broker of its own, which can be told to be silent."""
    with LoopbackBroker() as broker:
        client = reqtt.Client(broker.url, keep_alive=1, connect_timeout=1)
        events = client.events()
        async with client:
            await anext(events)
            broker.stall(60)
            start = time.monotonic()
            event = await anext(events)
            assert isinstance(event, reqtt.Disconnected)
            print(f"silent for {time.monotonic() - start:.0f} s: {event.reason}")
            broker.stall(0)
            while not isinstance(event, reqtt.Connected):
                event = await anext(events)
            print("connected again")


async def main(url: str) -> None:
    await idle(url)
    await silence()


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
