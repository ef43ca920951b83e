"""paho-mqtt with its network thread, awaited from asyncio."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from benchmarks.settings import Settings
from benchmarks.waiting import Waiting


async def subscribed(
    role: str, settings: Settings, topic: str, on_message: Callable[[Any, Any, MQTTMessage], None]
) -> Client:
    loop, suback = asyncio.get_running_loop(), asyncio.Event()
    client = Client(CallbackAPIVersion.VERSION2, f"{settings.client_id}-{role}", protocol=MQTTv5)
    client.max_inflight_messages_set(0)
    client.on_message = on_message
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )
    client.on_connect = lambda *_: client.subscribe(topic, options=SubscribeOptions(settings.qos))
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(suback.set)
    client.connect("127.0.0.1", settings.port)
    client.loop_start()
    await suback.wait()
    return client


def with_data(model: Properties, data: bytes) -> Properties:
    """A copy: it costs half of what new Properties do."""
    properties = copy.copy(model)
    properties.CorrelationData = data
    return properties


class Requester:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def open(self) -> None:
        self.waiting = Waiting()
        self.model = Properties(PacketTypes.PUBLISH)
        self.model.ResponseTopic = self.settings.response_topic
        self.client = await subscribed("requester", self.settings, self.settings.response_topic, self.message)

    def message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        properties: Any = message.properties
        self.waiting.arrived_elsewhere(properties.CorrelationData, bytes(message.payload))

    async def request(self, body: bytes) -> bytes:
        def send(data: bytes) -> None:
            properties = with_data(self.model, data)
            self.client.publish(self.settings.topic, body, qos=self.settings.qos, properties=properties)

        return await self.waiting.response(send)


async def respond(settings: Settings, ready: Callable[[], None]) -> None:
    model = Properties(PacketTypes.PUBLISH)

    def answer(client: Client, _data: Any, message: MQTTMessage) -> None:
        asked: Any = message.properties
        properties = with_data(model, asked.CorrelationData)
        client.publish(asked.ResponseTopic, message.payload, qos=settings.qos, properties=properties)

    client = await subscribed("responder", settings, settings.topic, answer)
    ready()
    await asyncio.Event().wait()
    client.disconnect()
