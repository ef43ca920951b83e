//! What subscribers get: QoS, wildcards, retained and shared messages, properties, expiry.

use std::time::Duration;

use bytes::Bytes;
use reqtt_loopback::Options;
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use rumqttc::mqttbytes::v5::{
    Packet, PubRel, Publish, PublishProperties, RetainForwardRule, SubscribeFilter, Unsubscribe,
};

use crate::client::{Client, Hello, broker, message, message_with, until, with};

#[test]
fn a_message_arrives_with_the_lower_of_both_qos() {
    let broker = broker();
    let mut publisher = Client::new(&broker, "p");
    for (number, granted) in [AtMostOnce, AtLeastOnce, ExactlyOnce].into_iter().enumerate() {
        let mut subscriber = Client::new(&broker, &format!("s{number}"));
        subscriber.subscribe("t", granted);
        for sent in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
            assert_eq!(publisher.publish(message("t", sent, "x")), 0);
            let received = subscriber.receive_publish();
            assert_eq!(received.qos as u8, (sent as u8).min(granted as u8));
            assert_eq!((received.payload.as_ref(), received.dup, received.retain), (&b"x"[..], false, false));
            subscriber.acknowledge(&received);
        }
        subscriber.receive_nothing();
        assert_eq!(broker.stats().in_flight, 0);
        subscriber.disconnect();
        until(|| broker.connections() == ["p"]);
    }
}

#[test]
fn a_qos_2_message_sent_twice_is_delivered_once() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", ExactlyOnce);
    let mut publisher = Client::new(&broker, "p");
    let mut publish = message("t", ExactlyOnce, "x");
    publisher.send(&Packet::Publish(publish.clone()));
    assert!(matches!(publisher.receive(), Packet::PubRec(_)));
    publish.dup = true;
    assert_eq!(publisher.publish(publish), 0);
    let received = subscriber.receive_publish();
    subscriber.acknowledge(&received);
    subscriber.receive_nothing();
    publisher.send(&Packet::PubRel(PubRel::new(9, None)));
    assert!(matches!(publisher.receive(), Packet::PubComp(comp) if comp.reason as u8 == 0x92));
}

#[test]
fn every_property_is_forwarded() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("#", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(100),
        response_topic: Some("r/x".into()),
        correlation_data: Some(Bytes::from_static(&[0, 255, 1])),
        user_properties: vec![("a".into(), "1".into()), ("b".into(), "2".into()), ("a".into(), "3".into())],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    publisher.publish(message_with("t", AtLeastOnce, "x", |all| *all = properties.clone()));
    assert_eq!(subscriber.receive_publish().properties, Some(properties));
}

#[test]
fn wildcards_match_but_not_topics_that_start_with_a_dollar() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("a/+/c", AtMostOnce);
    subscriber.subscribe("b/#", AtMostOnce);
    subscriber.subscribe("+/dollar", AtMostOnce);
    let mut publisher = Client::new(&broker, "p");
    for topic in ["a/b/c", "b", "b/x/y"] {
        assert_eq!(publisher.publish(message(topic, AtLeastOnce, "")), 0, "{topic}");
        assert_eq!(subscriber.receive_publish().topic, topic);
    }
    for topic in ["a/b", "a/b/c/d", "$SYS/dollar"] {
        assert_eq!(publisher.publish(message(topic, AtLeastOnce, "")), 0x10, "{topic}");
    }
    subscriber.receive_nothing();
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_every_identifier() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe_with(SubscribeFilter::new("a/#", AtMostOnce), Some(1));
    subscriber.subscribe_with(SubscribeFilter::new("a/b", AtLeastOnce), Some(200));
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("a/b", AtLeastOnce, "x"));
    let received = subscriber.receive_publish();
    assert_eq!(received.qos, AtLeastOnce);
    let mut identifiers = received.properties.expect("properties").subscription_identifiers;
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 200]);
    subscriber.receive_nothing();
}

#[test]
fn no_local_keeps_a_message_from_its_publisher() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    client.subscribe_with(SubscribeFilter { nolocal: true, ..SubscribeFilter::new("t", AtLeastOnce) }, None);
    assert_eq!(client.publish(message("t", AtLeastOnce, "own")), 0x10);
    Client::new(&broker, "other").publish(message("t", AtLeastOnce, "other"));
    assert_eq!(client.receive_publish().payload, "other");
}

#[test]
fn nobody_subscribes_is_answered_0x10_unless_switched_off() {
    let broker = broker();
    let mut publisher = Client::new(&broker, "p");
    assert_eq!(publisher.publish(message("t", AtLeastOnce, "")), 0x10);
    assert_eq!(publisher.publish(message("t", ExactlyOnce, "")), 0x10);
    let silent = with(Options { no_matching_subscribers: false, ..Options::default() });
    assert_eq!(Client::new(&silent, "p").publish(message("t", AtLeastOnce, "")), 0);
}

#[test]
fn unsubscribing_ends_delivery() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    assert_eq!(broker.subscriptions(), [("s".to_owned(), "t".to_owned(), 1)]);
    for expected in [0x00, 0x11] {
        subscriber.send(&Packet::Unsubscribe(Unsubscribe { pkid: 3, ..Unsubscribe::new("t", None) }));
        let Packet::UnsubAck(ack) = subscriber.receive() else { panic!("UNSUBACK expected") };
        assert_eq!(ack.reasons[0] as u8, expected);
    }
    assert!(broker.subscriptions().is_empty());
    assert_eq!(Client::new(&broker, "p").publish(message("t", AtLeastOnce, "")), 0x10);
}

fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, AtLeastOnce, payload) }
}

fn filter(path: &str, rule: RetainForwardRule, preserve_retain: bool) -> SubscribeFilter {
    SubscribeFilter { retain_forward_rule: rule, preserve_retain, ..SubscribeFilter::new(path, AtLeastOnce) }
}

#[test]
fn a_retained_message_greets_new_subscriptions_until_it_is_cleared() {
    let broker = broker();
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(retained("t/1", "old"));
    publisher.publish(retained("t/1", "new"));
    assert_eq!(broker.retained(), 1);
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t/+", AtLeastOnce);
    let received = subscriber.receive_publish();
    assert_eq!((received.payload.as_ref(), received.retain), (&b"new"[..], true));
    publisher.publish(retained("t/1", ""));
    assert!(!subscriber.receive_publish().retain);
    assert_eq!(broker.retained(), 0);
    subscriber.subscribe("t/#", AtLeastOnce);
    subscriber.receive_nothing();
}

#[test]
fn retain_handling_and_retain_as_published_are_respected() {
    let broker = broker();
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(retained("t", "kept"));
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe_with(filter("t", RetainForwardRule::Never, false), None);
    subscriber.receive_nothing();
    subscriber.subscribe_with(filter("t", RetainForwardRule::OnNewSubscribe, false), None);
    subscriber.receive_nothing();
    subscriber.subscribe_with(filter("t", RetainForwardRule::OnEverySubscribe, false), None);
    assert!(subscriber.receive_publish().retain);
    subscriber.subscribe_with(filter("+", RetainForwardRule::OnNewSubscribe, true), None);
    assert!(subscriber.receive_publish().retain);
    publisher.publish(retained("t", "again"));
    assert!(subscriber.receive_publish().retain, "one of both subscriptions asked for the flag as published");
    subscriber.subscribe_with(filter("+", RetainForwardRule::Never, false), None);
    publisher.publish(retained("t", "once more"));
    assert!(!subscriber.receive_publish().retain);
}

#[test]
fn a_retained_message_expires() {
    let broker = broker();
    let mut publisher = Client::new(&broker, "p");
    let mut publish =
        message_with("t", AtLeastOnce, "x", |properties| properties.message_expiry_interval = Some(1));
    publish.retain = true;
    publisher.publish(publish);
    assert_eq!(broker.retained(), 1);
    until(|| broker.retained() == 0);
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.receive_nothing();
}

#[test]
fn a_shared_subscription_takes_turns() {
    let broker = broker();
    let mut workers = [Client::new(&broker, "a"), Client::new(&broker, "b")];
    for worker in &mut workers {
        worker.subscribe("$share/g/t/#", AtLeastOnce);
    }
    let mut other = Client::new(&broker, "c");
    other.subscribe("$share/h/t/x", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    for number in 0..10 {
        publisher.publish(message("t/x", AtLeastOnce, &number.to_string()));
    }
    for worker in &mut workers {
        (0..5).for_each(|_| drop(worker.receive_publish()));
        worker.receive_nothing();
    }
    (0..10).for_each(|_| drop(other.receive_publish()));
}

#[test]
fn a_shared_subscription_queues_for_a_persistent_member_when_nobody_is_connected() {
    let broker = broker();
    let mut absent = Hello::persistent("absent").open(&broker);
    absent.subscribe("$share/g/t", AtLeastOnce);
    absent.disconnect();
    let mut present = Client::new(&broker, "present");
    present.subscribe("$share/g/t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("t", AtLeastOnce, "1"));
    publisher.publish(message("t", AtLeastOnce, "2"));
    for payload in ["1", "2"] {
        let received = present.receive_publish();
        assert_eq!(received.payload, payload);
        present.acknowledge(&received);
    }
    present.disconnect();
    assert_eq!(publisher.publish(message("t", AtLeastOnce, "3")), 0);
    let mut absent = Hello::persistent("absent").open(&broker);
    assert_eq!(absent.receive_publish().payload, "3");
}

#[test]
fn what_a_vanished_worker_did_not_acknowledge_goes_to_another() {
    let broker = broker();
    let mut first = Client::new(&broker, "first");
    first.subscribe("$share/g/t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("t", AtLeastOnce, "x"));
    assert_eq!(first.receive_publish().payload, "x");
    let mut second = Client::new(&broker, "second");
    second.subscribe("$share/g/t", AtLeastOnce);
    drop(first);
    assert_eq!(second.receive_publish().payload, "x");
}

#[test]
fn message_expiry_counts_down_while_a_message_waits() {
    let broker = broker();
    let mut subscriber = Hello::persistent("s").open(&broker);
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.disconnect();
    let mut publisher = Client::new(&broker, "p");
    let expiring = |payload: &str, seconds| {
        message_with("t", AtLeastOnce, payload, |properties| {
            properties.message_expiry_interval = Some(seconds);
        })
    };
    publisher.publish(expiring("gone", 1));
    publisher.publish(expiring("aged", 100));
    std::thread::sleep(Duration::from_millis(1050));
    let mut subscriber = Hello::persistent("s").open(&broker);
    let received = subscriber.receive_publish();
    assert_eq!(received.payload, "aged");
    let left = received.properties.and_then(|properties| properties.message_expiry_interval);
    assert!(left.is_some_and(|left| (90..=99).contains(&left)), "{left:?}");
    subscriber.receive_nothing();
}
