//! peer respond|request PORT TOPIC RESPONSE_TOPIC, with rumqttc's MQTT 5 client.

use std::collections::HashMap;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, port, topic, response_topic] = arguments.as_slice() else { panic!("four arguments") };
    let mut options =
        MqttOptions::new(format!("rumqttc-{}", std::process::id()), "127.0.0.1", port.parse().unwrap());
    options.set_clean_start(true);
    let (client, mut eventloop) = AsyncClient::new(options, 100);
    if role == "respond" {
        subscribe(&client, &mut eventloop, topic).await;
        println!("ready");
        loop {
            let request = next(&mut eventloop).await;
            let asked = request.properties.unwrap();
            let properties = PublishProperties {
                correlation_data: asked.correlation_data,
                ..PublishProperties::default()
            };
            let payload = request.payload.to_ascii_uppercase();
            let to = asked.response_topic.unwrap();
            client.publish_with_properties(to, QoS::AtLeastOnce, false, payload, properties).await.unwrap();
        }
    }
    subscribe(&client, &mut eventloop, response_topic).await;
    let mut sent: HashMap<Vec<u8>, &str> =
        ["on", "off", "bad"].iter().zip(1..).map(|(payload, n)| (vec![0, 0xff, n], *payload)).collect();
    for (data, payload) in &sent {
        let properties = PublishProperties {
            response_topic: Some(response_topic.clone()),
            correlation_data: Some(data.clone().into()),
            ..PublishProperties::default()
        };
        client.publish_with_properties(topic, QoS::AtLeastOnce, false, *payload, properties).await.unwrap();
    }
    while !sent.is_empty() {
        let response = next(&mut eventloop).await;
        let properties = response.properties.unwrap();
        let payload = sent.remove(properties.correlation_data.unwrap().as_ref()).unwrap();
        let answer = serde_json::json!({
            "sent": payload,
            "payload": String::from_utf8_lossy(&response.payload),
            "content_type": properties.content_type,
            "user_properties": properties.user_properties.into_iter().collect::<HashMap<_, _>>(),
        });
        println!("{answer}");
    }
}

async fn subscribe(client: &AsyncClient, eventloop: &mut EventLoop, filter: &str) {
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    while !matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
}

async fn next(eventloop: &mut EventLoop) -> Publish {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = eventloop.poll().await.unwrap() {
            return publish;
        }
    }
}
