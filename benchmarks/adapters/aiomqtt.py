"""aiomqtt 2: one task reads the messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.adapters.paho import with_data
from benchmarks.settings import PATIENCE, Settings
from benchmarks.waiting import Waiting


def client(role: str, settings: Settings) -> aiomqtt.Client:
    made = aiomqtt.Client(
        "127.0.0.1",
        settings.port,
        identifier=f"{settings.client_id}-{role}",
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=PATIENCE,
        max_inflight_messages=0,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    # Else it logs a warning for each call that is made while many are under way.
    made.pending_calls_threshold = 1_000_000
    return made


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = client("requester", settings)

    async def open(self) -> None:
        self.waiting = Waiting()
        self.model = Properties(PacketTypes.PUBLISH)
        self.model.ResponseTopic = self.settings.response_topic
        await self.client.__aenter__()
        await self.client.subscribe(self.settings.response_topic, qos=self.settings.qos)
        self.reading = asyncio.create_task(self.read())

    async def read(self) -> None:
        async for message in self.client.messages:
            properties: Any = message.properties
            self.waiting.arrived(properties.CorrelationData, message.payload)

    async def request(self, body: bytes) -> bytes:
        topic, qos = self.settings.topic, self.settings.qos
        return await self.waiting.response(
            lambda data: self.client.publish(topic, body, qos=qos, properties=with_data(self.model, data))
        )


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    model = Properties(PacketTypes.PUBLISH)
    publishing: set[asyncio.Task[None]] = set()
    async with client("responder", settings) as responder:
        await responder.subscribe(settings.topic, qos=settings.qos)
        ready()
        async for message in responder.messages:
            asked: Any = message.properties
            properties = with_data(model, asked.CorrelationData)
            sending = responder.publish(
                asked.ResponseTopic, message.payload, qos=settings.qos, properties=properties
            )
            if settings.qos == 0:
                await sending
                continue
            # publish() waits for the PUBACK, and the next request must not wait for that.
            task = asyncio.create_task(sending)
            publishing.add(task)
            task.add_done_callback(publishing.discard)
