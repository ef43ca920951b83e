"""zmqtt_peer.py respond|request PORT TOPIC RESPONSE_TOPIC: with its own request()"""

import asyncio
import json
import sys
from typing import Any

import zmqtt

role, port, topic, response_topic = sys.argv[1:]


async def respond(client: Any) -> None:
    async with client.subscribe(topic, qos=zmqtt.QoS(1)) as requests:
        print("ready", flush=True)
        async for request in requests:
            properties = zmqtt.PublishProperties(correlation_data=request.properties.correlation_data)
            where, response = request.properties.response_topic, request.payload.upper()
            await client.publish(where, response, qos=zmqtt.QoS(1), properties=properties)


async def ask(client: Any, payload: str) -> None:
    properties = zmqtt.PublishProperties(response_topic=response_topic)
    message = await client.request(
        topic, payload.encode(), qos=zmqtt.QoS(1), properties=properties, timeout=5
    )
    answer = {
        "sent": payload,
        "payload": message.payload.decode(),
        "content_type": message.properties.content_type,
        "user_properties": dict(message.properties.user_properties or ()),
    }
    print(json.dumps(answer), flush=True)


async def main() -> None:
    async with zmqtt.create_client("127.0.0.1", int(port), version="5.0") as client, asyncio.timeout(60):
        if role == "respond":
            await respond(client)
        else:
            await asyncio.gather(*(ask(client, payload) for payload in ("on", "off", "bad")))


asyncio.run(main())
