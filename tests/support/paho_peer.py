"""Eclipse paho as a requester and as a responder, written as its users write it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def publish_properties(**values: Any) -> Properties:
    """`ResponseTopic=..., CorrelationData=..., UserProperty=[(k, v)]`: paho's own names."""
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class PahoPeer:
    """`async with PahoPeer(port) as paho`. paho's network loop has a thread of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1", client_id: str = "") -> None:
        self._address = (host, port)
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self.client.on_connect = lambda *_: self._connected.set()
        self.client.on_subscribe = lambda *_: self._subscribed.set()

    async def serve(self, topic_filter: str, answer: Callable[[bytes], bytes]) -> None:
        def on_request(client: Client, _userdata: Any, message: MQTTMessage) -> None:
            properties = publish_properties()
            properties.CorrelationData = message.properties.CorrelationData
            client.publish(
                message.properties.ResponseTopic, answer(message.payload), qos=1, properties=properties
            )

        self.client.message_callback_add(topic_filter, on_request)
        await self._subscribe(topic_filter)

    async def request(
        self,
        topic: str,
        payload: bytes,
        *,
        response_topic: str,
        correlation_data: bytes = b"paho",
        timeout: float = 5,
    ) -> MQTTMessage:
        loop = asyncio.get_running_loop()
        response: asyncio.Future[MQTTMessage] = loop.create_future()

        def on_response(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
            loop.call_soon_threadsafe(response.set_result, message)

        self.client.message_callback_add(response_topic, on_response)
        await self._subscribe(response_topic)
        properties = publish_properties(ResponseTopic=response_topic, CorrelationData=correlation_data)
        self.client.publish(topic, payload, qos=1, properties=properties)
        return await asyncio.wait_for(response, timeout)

    async def _subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self.client.subscribe(topic_filter, qos=1)
        assert await asyncio.to_thread(self._subscribed.wait, 5), "paho: no SUBACK"

    async def __aenter__(self) -> Self:
        self.client.connect(*self._address)
        self.client.loop_start()
        assert await asyncio.to_thread(self._connected.wait, 5), "paho: no CONNACK"
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)
