"""gmqtt, with its callbacks and no coroutine for each message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import gmqtt

from benchmarks.settings import Settings
from benchmarks.waiting import Waiting


async def subscribed(role: str, settings: Settings, topic: str, on_message: Callable[..., Any]) -> Any:
    client = gmqtt.Client(f"{settings.client_id}-{role}")
    suback = asyncio.Event()
    client.on_message = on_message
    client.on_subscribe = lambda *_: suback.set()
    await client.connect("127.0.0.1", settings.port, version=gmqtt.constants.MQTTv50)
    client.subscribe(topic, qos=settings.qos)
    await suback.wait()
    return client


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def open(self) -> None:
        self.waiting = Waiting()
        self.client = await subscribed("requester", self.settings, self.settings.response_topic, self.message)

    def message(self, _client: Any, _topic: str, payload: bytes, _qos: int, properties: Any) -> int:
        self.waiting.arrived(properties["correlation_data"][0], payload)
        return 0

    async def request(self, body: bytes) -> bytes:
        settings, publish = self.settings, self.client.publish

        def send(data: bytes) -> None:
            publish(
                settings.topic,
                body,
                qos=settings.qos,
                response_topic=settings.response_topic,
                correlation_data=data,
            )

        return await self.waiting.response(send)


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    def message(client: Any, _topic: str, payload: bytes, _qos: int, properties: Any) -> int:
        topic, data = properties["response_topic"][0], properties["correlation_data"][0]
        client.publish(topic, payload, qos=settings.qos, correlation_data=data)
        return 0

    client = await subscribed("responder", settings, settings.topic, message)
    ready()
    await asyncio.Event().wait()
    await client.disconnect()
