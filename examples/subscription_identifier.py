"""Overlapping subscriptions with identifiers: a message says which of them brought it."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt

EVERYTHING, KITCHEN, ALARMS = 1, 2, 3
NAMES = {EVERYTHING: "everything", KITCHEN: "kitchen", ALARMS: "alarms"}


async def main(url: str) -> None:
    async with (
        reqtt.Client(url) as house,
        house.subscribe("home/#", subscription_identifier=EVERYTHING) as messages,
        house.subscribe("home/kitchen/+", subscription_identifier=KITCHEN),
        house.subscribe("home/+/alarm", subscription_identifier=ALARMS),
        reqtt.Client(url) as sensors,
        asyncio.timeout(10),
    ):
        for topic in ("home/hall/light", "home/kitchen/light", "home/kitchen/alarm", "home/end"):
            await sensors.publish(topic, "ON")

        # A broker sends a message once with all identifiers, or a copy for each of them, as it likes
        # (section 3.3.4).
        brought_by: dict[str, set[int]] = {}
        while "home/end" not in brought_by:
            message = await anext(messages)
            brought_by.setdefault(message.topic, set()).update(message.subscription_identifiers)
        for topic, identifiers in brought_by.items():
            print(f"{topic:<18} brought by {', '.join(NAMES[number] for number in sorted(identifiers))}")


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
