"""A light as home automation knows it: a command topic that answers, retained state, and availability."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from _broker import broker_url

import reqtt

BASE = "home/light/bedroom"


@dataclass
class State:
    state: Literal["ON", "OFF"]
    brightness: int = 255


@reqtt.responder(f"{BASE}/set")
async def command(body: State, client: reqtt.Client) -> State:
    if not 0 <= body.brightness <= 255:
        raise reqtt.RequestError(400, "brightness is 0 to 255")
    # For everybody; the result is for the one who asked.
    await client.publish(f"{BASE}/state", body, retain=True)
    return body


async def show(who: str, messages: reqtt.Subscription, count: int) -> None:
    for _ in range(count):
        message = await anext(messages)
        print(f"{who}: {message.topic.removeprefix(BASE + '/')} is {message.text}")


async def main(url: str) -> None:
    will = reqtt.Will(f"{BASE}/availability", "offline", retain=True)
    async with reqtt.Client(url) as dashboard, asyncio.timeout(10):
        async with dashboard.subscribe(f"{BASE}/state", f"{BASE}/availability") as wall:
            async with reqtt.Client(url, will=will) as light, reqtt.Responder(light, [command]):
                await light.publish(will.topic, "online", retain=True)
                async with reqtt.Requester(url) as phone:
                    request = phone.request(f"{BASE}/set", State("ON", 128), response_type=State)
                    print(f"phone: answered with {await request}")
                    try:
                        await phone.request(f"{BASE}/set", State("ON", 999))
                    except reqtt.BadRequest as error:
                        print(f"phone: refused, {error.message}")
                await light.publish(will.topic, "offline", retain=True)
            await show("wall", wall, 3)
        async with dashboard.subscribe(f"{BASE}/state") as wall:
            await show("new wall, at once", wall, 1)
        for topic in (f"{BASE}/state", will.topic):
            await dashboard.publish(topic, b"", retain=True)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
