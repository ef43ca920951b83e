"""Overlapping subscriptions with identifiers: a message says which of them brought it."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt

EVERYTHING, KITCHEN, ALARMS = 1, 2, 3
NAMES = {EVERYTHING: "everything", KITCHEN: "kitchen", ALARMS: "alarms"}


async def show(name: str, messages: reqtt.Subscription, count: int) -> None:
    for _ in range(count):
        message = await anext(messages)
        brought_by = ", ".join(sorted(NAMES[number] for number in message.subscription_identifiers))
        print(f"{name:<10} got {message.topic:<14} {message.text:<8} brought by {brought_by}")


async def main(url: str) -> None:
    async with (
        reqtt.Client(url) as house,
        house.subscribe("home/#", subscription_identifier=EVERYTHING) as everything,
        house.subscribe("home/kitchen/+", subscription_identifier=KITCHEN) as kitchen,
        house.subscribe("home/+/alarm", subscription_identifier=ALARMS) as alarms,
        reqtt.Client(url) as sensors,
        asyncio.timeout(10),
    ):
        await sensors.publish("home/hall/light", "ON")
        await sensors.publish("home/kitchen/light", "OFF")
        await sensors.publish("home/kitchen/alarm", "smoke")
        await show("alarms", alarms, 1)
        await show("kitchen", kitchen, 2)
        await show("everything", everything, 3)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
