"""paho_peer.py respond|request PORT TOPIC RESPONSE_TOPIC"""

import json
import sys
import threading
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

role, port, topic, response_topic = sys.argv[1:]
client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
client.connect("127.0.0.1", int(port))
subscribed = threading.Event()
client.on_subscribe = lambda *_: subscribed.set()


def respond(client: Client, _userdata: Any, message: MQTTMessage) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = message.properties.CorrelationData
    client.publish(message.properties.ResponseTopic, message.payload.upper(), qos=1, properties=properties)


if role == "respond":
    client.on_message = respond
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe(topic, qos=1)
    client.loop_forever()

sent = {b"\x00\xff1": "on", b"\x00\xff2": "off", b"\x00\xff3": "bad"}
done = threading.Event()


def take(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
    properties = message.properties
    answer = {
        "sent": sent.pop(properties.CorrelationData),
        "payload": message.payload.decode(),
        "content_type": getattr(properties, "ContentType", None),
        "user_properties": dict(getattr(properties, "UserProperty", [])),
    }
    print(json.dumps(answer), flush=True)
    if not sent:
        done.set()


client.on_message = take
client.loop_start()
client.subscribe(response_topic, qos=1)
assert subscribed.wait(5)
for data, payload in list(sent.items()):
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = response_topic, data
    client.publish(topic, payload, qos=1, properties=properties)
assert done.wait(5), f"no response to {sent}"
client.disconnect()
client.loop_stop()
