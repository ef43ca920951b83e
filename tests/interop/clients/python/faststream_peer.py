"""faststream_peer.py respond|request PORT TOPIC RESPONSE_TOPIC: FastStream's decorator, and its request()"""

import asyncio
import json
import sys

from faststream.mqtt import MQTTBroker, QoS

role, port, topic, _response_topic = sys.argv[1:]
broker = MQTTBroker("mqtt://127.0.0.1", port=int(port), version="5.0", logger=None)


async def power(body: str) -> str:
    return body.upper()


async def ask(payload: str) -> None:
    # It wants a response topic of its own for each request.
    message = await broker.request(payload, topic, timeout=5, qos=QoS.AT_LEAST_ONCE)
    answer = {
        "sent": payload,
        "payload": message.body.decode(),
        "content_type": message.content_type,
        "user_properties": {k: v for k, v in message.headers.items() if k.startswith("__")},
    }
    print(json.dumps(answer), flush=True)


async def main() -> None:
    if role == "respond":
        broker.subscriber(topic, qos=QoS.AT_LEAST_ONCE)(power)
    async with broker, asyncio.timeout(60):
        await broker.start()
        if role == "respond":
            print("ready", flush=True)
            await asyncio.Event().wait()
        await asyncio.gather(*map(ask, ("on", "off", "bad")))


asyncio.run(main())
