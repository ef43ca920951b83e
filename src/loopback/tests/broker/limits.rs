//! Limits of either side: packet size, Receive Maximum, QoS, retain, topic aliases.

use reqtt_loopback::Options;
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use rumqttc::mqttbytes::v5::{Packet, Publish, SubscribeFilter};

use crate::client::{Client, Hello, broker, message, message_with, with};

#[test]
fn a_message_too_large_for_a_client_is_not_forwarded_to_it() {
    let broker = broker();
    let mut small = Hello::new("small").set(|properties| properties.max_packet_size = Some(64)).open(&broker);
    small.subscribe("t", AtLeastOnce);
    let mut large = Client::new(&broker, "large");
    large.subscribe("t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    assert_eq!(publisher.publish(message("t", AtLeastOnce, &"x".repeat(100))), 0);
    assert_eq!(large.receive_publish().payload.len(), 100);
    small.receive_nothing();
    publisher.publish(message("t", AtLeastOnce, "fits"));
    assert_eq!(small.receive_publish().payload, "fits");
}

#[test]
fn a_packet_too_large_for_the_server_ends_the_connection() {
    let broker = with(Options { maximum_packet_size: Some(100), ..Options::default() });
    let mut client = Client::new(&broker, "c");
    assert_eq!(client.publish(message("t", AtLeastOnce, &"x".repeat(80))), 0x10);
    client.send(&Packet::Publish(message("t", AtLeastOnce, &"x".repeat(200))));
    assert_eq!(client.receive_disconnect(), 0x95);
}

#[test]
fn more_than_receive_maximum_unacknowledged_publishes_end_the_connection() {
    let broker = with(Options { receive_maximum: Some(3), ..Options::default() });
    broker.drop_puback(true);
    let mut client = Client::new(&broker, "c");
    for pkid in 1..=3 {
        client.send(&Packet::Publish(Publish { pkid, ..message("t", AtLeastOnce, "") }));
    }
    client.receive_nothing();
    client.send(&Packet::Publish(Publish { pkid: 4, ..message("t", AtLeastOnce, "") }));
    assert_eq!(client.receive_disconnect(), 0x93);
}

#[test]
fn receive_maximum_never_stops_a_client_that_keeps_to_it() {
    let broker = with(Options { receive_maximum: Some(1), ..Options::default() });
    let mut client = Client::new(&broker, "c");
    for _ in 0..100 {
        assert_eq!(client.publish(message("t", AtLeastOnce, "")), 0x10);
        assert_eq!(client.publish(message("t", ExactlyOnce, "")), 0x10);
    }
}

#[test]
fn what_connack_excluded_ends_the_connection() {
    let broker = with(Options { maximum_qos: Some(1), retain_available: false, ..Options::default() });
    let mut client = Client::new(&broker, "c");
    assert_eq!(client.subscribe_with(SubscribeFilter::new("t", ExactlyOnce), None), 1);
    client.send(&Packet::Publish(message("t", ExactlyOnce, "")));
    assert_eq!(client.receive_disconnect(), 0x9B);
    let mut client = Client::new(&broker, "c");
    client.send(&Packet::Publish(Publish { retain: true, ..message("t", AtMostOnce, "") }));
    assert_eq!(client.receive_disconnect(), 0x9A);
}

#[test]
fn topic_aliases_work_up_to_the_announced_maximum() {
    let aliased = |topic, alias| {
        message_with(topic, AtLeastOnce, "x", |properties| properties.topic_alias = Some(alias))
    };
    let broker = with(Options { topic_alias_maximum: 2, ..Options::default() });
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("#", AtMostOnce);
    let mut client = Client::new(&broker, "c");
    for (topic, alias, expected) in [("a", 1, "a"), ("b", 2, "b"), ("", 1, "a"), ("c", 1, "c"), ("", 1, "c")]
    {
        assert_eq!(client.publish(aliased(topic, alias)), 0);
        let received = subscriber.receive_publish();
        assert_eq!((received.topic.as_ref(), received.properties), (expected.as_bytes(), None));
    }
    client.send(&Packet::Publish(aliased("a", 3)));
    assert_eq!(client.receive_disconnect(), 0x94);
    let mut client = Client::new(&broker, "c");
    client.send(&Packet::Publish(aliased("", 1)));
    assert_eq!(client.receive_disconnect(), 0x82);
}

#[test]
fn an_alias_is_invalid_when_none_was_announced() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    client.send(&Packet::Publish(message_with("a", AtMostOnce, "", |properties| {
        properties.topic_alias = Some(1);
    })));
    assert_eq!(client.receive_disconnect(), 0x94);
}

#[test]
fn what_section_3_3_forbids_is_a_protocol_error() {
    let broker = broker();
    for publish in [
        message("", AtMostOnce, ""),
        message_with("t", AtMostOnce, "", |properties| properties.response_topic = Some("r/#".into())),
        message_with("t", AtMostOnce, "", |properties| properties.subscription_identifiers = vec![1]),
        message_with("t", AtMostOnce, "", |properties| properties.payload_format_indicator = Some(2)),
    ] {
        let mut client = Client::new(&broker, "c");
        client.send(&Packet::Publish(publish));
        assert_eq!(client.receive_disconnect(), 0x82);
    }
}
