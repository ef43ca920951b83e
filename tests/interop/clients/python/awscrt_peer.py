"""awscrt_peer.py respond|request PORT TOPIC RESPONSE_TOPIC: the MQTT 5 client of the AWS Common Runtime"""

import json
import sys
import threading

from awscrt import mqtt5

role, port, topic, response_topic = sys.argv[1:]
sent = {b"\x00\xff1": "on", b"\x00\xff2": "off", b"\x00\xff3": "bad"}
connected, done = threading.Event(), threading.Event()


def received(data: mqtt5.PublishReceivedData) -> None:
    message = data.publish_packet
    if role == "respond":
        response = mqtt5.PublishPacket(
            topic=message.response_topic,
            payload=message.payload.upper(),
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            correlation_data=message.correlation_data_bytes,
        )
        client.publish(response)
        return
    answer = {
        "sent": sent.pop(message.correlation_data_bytes),
        "payload": message.payload.decode(),
        "content_type": message.content_type,
        "user_properties": {p.name: p.value for p in message.user_properties or ()},
    }
    print(json.dumps(answer), flush=True)
    if not sent:
        done.set()


client = mqtt5.Client(
    mqtt5.ClientOptions(
        host_name="127.0.0.1",
        port=int(port),
        connect_options=mqtt5.ConnectPacket(client_id=""),
        on_publish_callback_fn=received,
        on_lifecycle_event_connection_success_fn=lambda _: connected.set(),
        disable_metrics=True,
    )
)
client.start()
assert connected.wait(5), "no CONNACK"
where = topic if role == "respond" else response_topic
subscription = mqtt5.Subscription(topic_filter=where, qos=mqtt5.QoS.AT_LEAST_ONCE)
client.subscribe(mqtt5.SubscribePacket(subscriptions=[subscription])).result(5)
if role == "respond":
    print("ready", flush=True)
else:
    for data, payload in list(sent.items()):
        request = mqtt5.PublishPacket(
            topic=topic,
            payload=payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            response_topic=response_topic,
            correlation_data=data,
        )
        client.publish(request)
done.wait(60)
client.stop()
