//! Sessions: expiry, resumption with DUP, queues, takeover, wills.

use reqtt_loopback::Options;
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use rumqttc::mqttbytes::v5::{
    Disconnect, DisconnectProperties, DisconnectReasonCode, LastWill, LastWillProperties, Packet, PubComp,
    PubRec, PubRel,
};

use crate::client::{Client, Hello, broker, message, until, with};

#[test]
fn unacknowledged_messages_return_with_dup_and_their_packet_id() {
    let broker = broker();
    let mut subscriber = Hello::persistent("s").open(&broker);
    subscriber.subscribe("t", ExactlyOnce);
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("t", AtLeastOnce, "one"));
    publisher.publish(message("t", ExactlyOnce, "two"));
    publisher.publish(message("t", ExactlyOnce, "released"));
    let first = [subscriber.receive_publish(), subscriber.receive_publish()];
    let released = subscriber.receive_publish();
    subscriber.send(&Packet::PubRec(PubRec::new(released.pkid, None)));
    assert!(matches!(subscriber.receive(), Packet::PubRel(_)));
    drop(subscriber);
    until(|| broker.connections() == ["p"]);
    publisher.publish(message("t", AtLeastOnce, "queued"));

    let (mut subscriber, connack) = Hello::persistent("s").try_open(&broker);
    assert!(connack.session_present);
    for before in first {
        let again = subscriber.receive_publish();
        assert!(again.dup);
        assert_eq!((again.pkid, again.payload.clone()), (before.pkid, before.payload));
        if again.qos == AtLeastOnce {
            subscriber.acknowledge(&again);
        }
    }
    assert_eq!(subscriber.receive(), Packet::PubRel(PubRel::new(released.pkid, None)));
    subscriber.send(&Packet::PubComp(PubComp::new(released.pkid, None)));
    let queued = subscriber.receive_publish();
    assert_eq!((queued.dup, queued.payload.as_ref()), (false, &b"queued"[..]));
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.disconnect();
    assert!(broker.subscriptions().is_empty());
    let mut hello = Hello::new("s");
    hello.connect.clean_start = false;
    assert!(!hello.try_open(&broker).1.session_present);
}

#[test]
fn a_session_ends_when_its_expiry_has_passed() {
    let broker = broker();
    let mut subscriber =
        Hello::new("s").set(|properties| properties.session_expiry_interval = Some(1)).open(&broker);
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.disconnect();
    assert_eq!(broker.stats().sessions, 1);
    until(|| broker.stats().sessions == 0);
    assert!(!Hello::persistent("s").try_open(&broker).1.session_present);
}

#[test]
fn clean_start_discards_the_old_session() {
    let broker = broker();
    let mut subscriber = Hello::persistent("s").open(&broker);
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.disconnect();
    let (_, connack) = Hello::new("s").try_open(&broker);
    assert!(!connack.session_present);
    assert!(broker.subscriptions().is_empty());
}

#[test]
fn disconnect_may_change_the_expiry_but_not_from_zero() {
    let broker = broker();
    let disconnect = |seconds| {
        Packet::Disconnect(Disconnect::new_with_properties(
            DisconnectReasonCode::NormalDisconnection,
            DisconnectProperties {
                session_expiry_interval: Some(seconds),
                reason_string: None,
                user_properties: Vec::new(),
                server_reference: None,
            },
        ))
    };
    let mut client = Hello::persistent("kept").open(&broker);
    client.send(&disconnect(0));
    assert_eq!(client.next(), None);
    assert_eq!(broker.stats().sessions, 0);
    let mut client = Client::new(&broker, "zero");
    client.send(&disconnect(10));
    assert_eq!(client.receive_disconnect(), 0x82);
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let broker = with(Options { max_queued_messages: 2, ..Options::default() });
    let mut subscriber = Hello::persistent("s").open(&broker);
    subscriber.subscribe("t", AtLeastOnce);
    subscriber.disconnect();
    let mut publisher = Client::new(&broker, "p");
    assert_eq!(publisher.publish(message("t", AtMostOnce, "not kept")), 0);
    let codes: Vec<u8> = (0..3).map(|_| publisher.publish(message("t", AtLeastOnce, ""))).collect();
    assert_eq!(codes, [0, 0, 0x97]);
    assert_eq!((broker.stats().queued, broker.stats().dropped), (2, 1));
}

#[test]
fn the_clients_receive_maximum_is_respected() {
    let broker = broker();
    let mut subscriber = Hello::new("s").set(|properties| properties.receive_maximum = Some(2)).open(&broker);
    subscriber.subscribe("t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    for number in 0..4 {
        publisher.publish(message("t", AtLeastOnce, &number.to_string()));
    }
    let first = subscriber.receive_publish();
    subscriber.receive_publish();
    subscriber.receive_nothing();
    subscriber.acknowledge(&first);
    assert_eq!(subscriber.receive_publish().payload, "2");
    subscriber.receive_nothing();
    assert_eq!((broker.stats().queued, broker.stats().in_flight), (1, 2));
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let broker = broker();
    let mut first = Hello::persistent("s").open(&broker);
    first.subscribe("t", AtLeastOnce);
    let (mut second, connack) = Hello::persistent("s").try_open(&broker);
    assert!(connack.session_present);
    assert_eq!(first.receive_disconnect(), 0x8E);
    Client::new(&broker, "p").publish(message("t", AtLeastOnce, "x"));
    assert_eq!(second.receive_publish().payload, "x");
}

fn will(delay: u32) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: Some(delay),
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(60),
        content_type: Some("text/plain".into()),
        response_topic: Some("r".into()),
        correlation_data: Some("c".into()),
        user_properties: vec![("k".into(), "v".into())],
    };
    LastWill::new("will", "gone", AtLeastOnce, true, Some(properties))
}

#[test]
fn a_will_is_published_with_its_properties_when_the_connection_drops() {
    let broker = broker();
    let mut watcher = Client::new(&broker, "w");
    watcher.subscribe("will", AtLeastOnce);
    drop(Hello::new("c").will(will(0)).open(&broker));
    let received = watcher.receive_publish();
    assert_eq!(received.payload, "gone");
    let properties = received.properties.expect("properties");
    assert_eq!(properties.message_expiry_interval, Some(60));
    assert_eq!(properties.response_topic.as_deref(), Some("r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"c"[..]));
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(broker.retained(), 1);
}

#[test]
fn a_normal_disconnect_discards_the_will_and_0x04_does_not() {
    let broker = broker();
    let mut watcher = Client::new(&broker, "w");
    watcher.subscribe("will", AtLeastOnce);
    Hello::new("c").will(will(0)).open(&broker).disconnect();
    watcher.receive_nothing();
    let mut client = Hello::new("c").will(will(0)).open(&broker);
    // Without a property length, as 3.14.2.2.1 allows.
    client.send_bytes(&[0xE0, 1, 0x04]);
    assert_eq!(client.next(), None);
    assert_eq!(watcher.receive_publish().payload, "gone");
}

#[test]
fn a_delayed_will_waits_and_is_cancelled_by_a_return() {
    let broker = broker();
    let mut watcher = Client::new(&broker, "w");
    watcher.subscribe("will", AtLeastOnce);
    drop(Hello::persistent("c").will(will(30)).open(&broker));
    until(|| broker.connections() == ["w"]);
    watcher.receive_nothing();
    drop(Hello::persistent("c").will(will(1)).open(&broker));
    until(|| broker.connections() == ["w"]);
    watcher.receive_nothing();
    assert_eq!(watcher.receive_publish().payload, "gone");
}

#[test]
fn a_delayed_will_is_published_when_the_session_ends_first() {
    let broker = broker();
    let mut watcher = Client::new(&broker, "w");
    watcher.subscribe("will", AtLeastOnce);
    drop(Hello::new("c").will(will(3600)).open(&broker));
    assert_eq!(watcher.receive_publish().payload, "gone");
}
