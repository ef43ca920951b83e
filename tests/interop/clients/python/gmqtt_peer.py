"""gmqtt_peer.py respond|request PORT TOPIC RESPONSE_TOPIC"""

import asyncio
import json
import sys
from typing import Any

import gmqtt

role, port, topic, response_topic = sys.argv[1:]
sent = {b"\x00\xff1": "on", b"\x00\xff2": "off", b"\x00\xff3": "bad"}


async def main() -> None:
    client = gmqtt.Client("")
    done, subscribed = asyncio.Event(), asyncio.Event()

    def respond(client: Any, _topic: str, payload: bytes, _qos: int, properties: Any) -> int:
        where, data = properties["response_topic"][0], properties["correlation_data"][0]
        try:
            client.publish(where, payload.upper(), qos=1, correlation_data=data)
        except OverflowError:
            # It does not wait for room within the broker's Receive Maximum (section 4.9): that is ours to do.
            asyncio.get_running_loop().call_later(0.01, respond, client, _topic, payload, _qos, properties)
        return 0

    def take(_client: Any, _topic: str, payload: bytes, _qos: int, properties: Any) -> int:
        answer = {
            "sent": sent.pop(properties["correlation_data"][0]),
            "payload": payload.decode(),
            "content_type": properties.get("content_type", [None])[0],
            "user_properties": dict(properties.get("user_property", [])),
        }
        print(json.dumps(answer), flush=True)
        if not sent:
            done.set()
        return 0

    client.on_message = respond if role == "respond" else take
    client.on_subscribe = lambda *_: subscribed.set()
    await client.connect("127.0.0.1", int(port), version=gmqtt.constants.MQTTv50)
    client.subscribe(topic if role == "respond" else response_topic, qos=1)
    await subscribed.wait()
    if role == "respond":
        print("ready", flush=True)
    else:
        for data, payload in list(sent.items()):
            client.publish(topic, payload, qos=1, response_topic=response_topic, correlation_data=data)
    async with asyncio.timeout(60):
        await done.wait()
    await client.disconnect()


asyncio.run(main())
