"""zmqtt, with its own request(), at its best.

By itself request() subscribes to a topic and unsubscribes from it around each call. With a response topic of
ours that is subscribed all the time, it does neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmqtt

from benchmarks.settings import PATIENCE, Settings


def client(role: str, settings: Settings) -> Any:
    return zmqtt.create_client(
        "127.0.0.1",
        settings.port,
        client_id=f"{settings.client_id}-{role}",
        version="5.0",
        max_pending_requests=100_000,
    )


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.topic, self.qos = settings.topic, zmqtt.QoS(settings.qos)
        self.response_topic = settings.response_topic
        self.properties = zmqtt.PublishProperties(response_topic=self.response_topic)
        self.client = client("requester", settings)

    async def open(self) -> None:
        await self.client.connect()
        self.answers = self.client.subscribe(self.response_topic, qos=self.qos)
        await self.answers.start()

    async def request(self, body: bytes) -> bytes:
        message = await self.client.request(
            self.topic, body, qos=self.qos, timeout=PATIENCE, properties=self.properties
        )
        payload: bytes = message.payload
        return payload


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    qos = zmqtt.QoS(settings.qos)
    publishing: set[asyncio.Task[None]] = set()
    async with (
        client("responder", settings) as responder,
        responder.subscribe(settings.topic, qos=qos, receive_buffer_size=0) as requests,
    ):
        ready()
        async for request in requests:
            properties = zmqtt.PublishProperties(correlation_data=request.properties.correlation_data)
            sending = responder.publish(
                request.properties.response_topic, request.payload, qos=qos, properties=properties
            )
            if settings.qos == 0:
                await sending
                continue
            # publish() waits for the PUBACK, and the next request must not wait for that.
            task = asyncio.create_task(sending)
            publishing.add(task)
            task.add_done_callback(publishing.discard)
