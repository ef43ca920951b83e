"""The options of a subscription: without one's own messages, retain as it was, retained ones or not, QoS."""

from __future__ import annotations

import asyncio
from typing import Any

from _broker import broker_url

import reqtt

END = "chat/end"


async def heard(client: reqtt.Client, other: reqtt.Client, **options: Any) -> str:
    """What a subscription with these options hears of a retained message and of two new ones."""
    async with client.subscribe("chat/#", **options) as messages, asyncio.timeout(10):
        await client.publish("chat/own", "mine", qos=1)
        await other.publish("chat/other", "yours", qos=1, retain=True)
        await other.publish(END, qos=1)
        words: list[str] = []
        async for message in messages:
            if message.topic == END:
                break
            flags = f"qos {message.qos}" + (", retained" if message.retain else "")
            words.append(f"{message.text} ({flags})")
    await other.publish("chat/other", b"", retain=True)
    return ", ".join(words)


async def main(url: str) -> None:
    async with reqtt.Client(url) as client, reqtt.Client(url) as other:
        await other.publish("chat/topic", "rules", retain=True)
        for options in (
            {},
            {"no_local": True},
            {"retain_as_published": True},
            {"retain_handling": 2},
            {"qos": 0},
        ):
            name = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
            print(f"{name:<24} {await heard(client, other, **options)}")
        await other.publish("chat/topic", b"", retain=True)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
