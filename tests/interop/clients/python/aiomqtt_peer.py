"""aiomqtt_peer.py respond|request PORT TOPIC RESPONSE_TOPIC"""

import asyncio
import json
import sys

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

role, port, topic, response_topic = sys.argv[1:]


async def respond(client: aiomqtt.Client) -> None:
    await client.subscribe(topic, qos=1)
    print("ready", flush=True)
    async for message in client.messages:
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = message.properties.CorrelationData
        response = message.payload.upper()
        await client.publish(message.properties.ResponseTopic, response, qos=1, properties=properties)


async def request(client: aiomqtt.Client) -> None:
    await client.subscribe(response_topic, qos=1)
    sent = {b"\x00\xff1": "on", b"\x00\xff2": "off", b"\x00\xff3": "bad"}
    for data, payload in sent.items():
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = response_topic, data
        await client.publish(topic, payload, qos=1, properties=properties)
    async for message in client.messages:
        answer = {
            "sent": sent.pop(message.properties.CorrelationData),
            "payload": message.payload.decode(),
            "content_type": getattr(message.properties, "ContentType", None),
            "user_properties": dict(getattr(message.properties, "UserProperty", [])),
        }
        print(json.dumps(answer), flush=True)
        if not sent:
            return


async def main() -> None:
    protocol = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client("127.0.0.1", int(port), protocol=protocol) as client, asyncio.timeout(60):
        await (respond if role == "respond" else request)(client)


asyncio.run(main())
