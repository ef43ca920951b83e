//! Each fault, as a client sees it.

use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use rumqttc::mqttbytes::v5::{ConnectReturnCode, Packet, Subscribe, SubscribeFilter};

use crate::client::{Client, Hello, broker, message, until};

const STEP: Duration = Duration::from_millis(200);

#[test]
fn cut_drops_every_connection_without_disconnect_and_keeps_sessions() {
    let broker = broker();
    let mut kept = Hello::persistent("kept").open(&broker);
    kept.subscribe("t", AtLeastOnce);
    let mut gone = Client::new(&broker, "gone");
    broker.cut();
    assert!(broker.connections().is_empty());
    assert_eq!(kept.next(), None);
    assert_eq!(gone.next(), None);
    assert_eq!(broker.stats().sessions, 1);
    assert!(Hello::persistent("kept").try_open(&broker).1.session_present);
}

#[test]
fn disconnect_gives_its_reason() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    broker.disconnect(0x98);
    assert_eq!(client.receive_disconnect(), 0x98);
}

#[test]
fn stall_holds_everything_back_for_its_time() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    client.subscribe("t", AtMostOnce);
    let start = Instant::now();
    broker.stall(STEP);
    client.receive_nothing();
    assert!(start.elapsed() >= STEP);
    broker.stall(Duration::from_secs(3600));
    broker.stall(Duration::ZERO);
    client.receive_nothing();
    broker.stall(Duration::from_secs(3600));
    broker.cut();
    assert_eq!(client.next(), None);
}

#[test]
fn delay_holds_every_packet_back_and_keeps_the_order() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtMostOnce);
    broker.delay(STEP);
    let mut publisher = Client::new(&broker, "p");
    let start = Instant::now();
    for number in 0..50 {
        publisher.send(&Packet::Publish(message("t", AtMostOnce, &number.to_string())));
    }
    for number in 0..50 {
        assert_eq!(subscriber.receive_publish().payload, number.to_string());
    }
    assert!(start.elapsed() >= STEP && start.elapsed() < 10 * STEP, "{:?}", start.elapsed());
    broker.delay(Duration::from_secs(3600));
    subscriber.send(&Packet::PingReq);
    until(|| broker.stats().received_by_type["PINGREQ"] == 1);
    broker.delay(Duration::ZERO);
    assert_eq!(subscriber.receive(), Packet::PingResp);
}

#[test]
fn delay_suback_lets_other_packets_overtake() {
    let broker = broker();
    broker.delay_suback(STEP);
    let mut client = Client::new(&broker, "c");
    let start = Instant::now();
    let subscribe = Subscribe::new(SubscribeFilter::new("t", AtMostOnce), None);
    client.send(&Packet::Subscribe(Subscribe { pkid: 1, ..subscribe }));
    client.receive_nothing();
    assert!(matches!(client.receive(), Packet::SubAck(_)));
    assert!(start.elapsed() >= STEP);
    broker.delay_suback(Duration::ZERO);
    client.subscribe("u", AtMostOnce);
}

#[test]
fn refuse_connect_applies_until_it_is_lifted() {
    let broker = broker();
    broker.refuse_connect(Some(0x89));
    let (mut client, connack) = Hello::new("c").try_open(&broker);
    assert_eq!(connack.code, ConnectReturnCode::ServerBusy);
    assert_eq!(connack.properties.and_then(|all| all.reason_string).as_deref(), Some("refused by rule"));
    assert_eq!(client.next(), None);
    broker.refuse_connect(None);
    Client::new(&broker, "c");
}

#[test]
fn refuse_publish_answers_and_routes_nothing() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("#", AtLeastOnce);
    broker.refuse_publish("bad/#", Some(0x87));
    let mut publisher = Client::new(&broker, "p");
    publisher.send(&Packet::Publish(message("bad/x", AtLeastOnce, "")));
    let Packet::PubAck(ack) = publisher.receive() else { panic!("PUBACK expected") };
    assert_eq!(ack.reason as u8, 0x87);
    assert_eq!(ack.properties.and_then(|all| all.reason_string).as_deref(), Some("refused by rule"));
    assert_eq!(publisher.publish(message("bad/x", ExactlyOnce, "")), 0x87);
    publisher.publish(message("bad/x", AtMostOnce, ""));
    assert_eq!(publisher.publish(message("good", AtLeastOnce, "good")), 0);
    assert_eq!(subscriber.receive_publish().payload, "good");
    subscriber.receive_nothing();
    broker.refuse_publish("bad/#", None);
    assert_eq!(publisher.publish(message("bad/x", AtLeastOnce, "")), 0);
}

#[test]
fn a_client_that_wants_no_problem_information_gets_no_reason_string() {
    let broker = broker();
    broker.refuse_publish("t", Some(0x97));
    let mut client =
        Hello::new("c").set(|properties| properties.request_problem_info = Some(0)).open(&broker);
    client.send(&Packet::Publish(message("t", AtLeastOnce, "")));
    assert!(
        matches!(client.receive(), Packet::PubAck(ack) if ack.reason as u8 == 0x97 && ack.properties.is_none())
    );
}

#[test]
fn refuse_subscribe_applies_to_the_filter_and_to_what_it_matches() {
    let broker = broker();
    broker.refuse_subscribe("clients/#", Some(0x87));
    broker.refuse_subscribe("exact", Some(0x97));
    let mut client = Client::new(&broker, "c");
    let mut code = |filter: &str| client.subscribe_with(SubscribeFilter::new(filter, AtLeastOnce), None);
    assert_eq!(code("clients/#"), 0x87);
    assert_eq!(code("clients/c/r"), 0x87);
    assert_eq!(code("$share/g/exact"), 0x97);
    assert_eq!(code("other"), 1);
    broker.refuse_subscribe("clients/#", None);
    assert_eq!(code("clients/c/r"), 1);
}

#[test]
fn redeliver_repeats_what_is_not_acknowledged() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", ExactlyOnce);
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("t", AtLeastOnce, "acknowledged"));
    publisher.publish(message("t", ExactlyOnce, "open"));
    let acknowledged = subscriber.receive_publish();
    subscriber.acknowledge(&acknowledged);
    let open = subscriber.receive_publish();
    subscriber.receive_nothing();
    broker.redeliver();
    let again = subscriber.receive_publish();
    assert_eq!((again.dup, again.pkid, again.payload.as_ref()), (true, open.pkid, &b"open"[..]));
    subscriber.receive_nothing();
}

#[test]
fn duplicate_delivers_twice_with_two_packet_ids() {
    let broker = broker();
    broker.duplicate(true);
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    publisher.publish(message("t", AtLeastOnce, "x"));
    let (one, two) = (subscriber.receive_publish(), subscriber.receive_publish());
    assert_eq!((one.payload, one.dup, two.dup), (two.payload, false, false));
    assert_ne!(one.pkid, two.pkid);
    broker.duplicate(false);
    publisher.publish(message("t", AtLeastOnce, "y"));
    assert_eq!(subscriber.receive_publish().payload, "y");
    subscriber.receive_nothing();
}

#[test]
fn lose_session_forgets_sessions_and_keeps_retained_messages() {
    let broker = broker();
    let mut client = Hello::persistent("c").open(&broker);
    client.subscribe("t", AtLeastOnce);
    let mut retained = message("kept", AtLeastOnce, "x");
    retained.retain = true;
    client.publish(retained);
    broker.lose_session();
    assert_eq!(client.next(), None);
    assert!(broker.subscriptions().is_empty());
    assert_eq!(broker.retained(), 1);
    assert!(!Hello::persistent("c").try_open(&broker).1.session_present);
}

#[test]
fn drop_puback_withholds_the_answer_and_routes_the_message() {
    let broker = broker();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    broker.drop_puback(true);
    let mut publisher = Client::new(&broker, "p");
    publisher.send(&Packet::Publish(message("t", AtLeastOnce, "one")));
    publisher.send(&Packet::Publish(message("t", ExactlyOnce, "two")));
    publisher.receive_nothing();
    assert_eq!(subscriber.receive_publish().payload, "one");
    assert_eq!(subscriber.receive_publish().payload, "two");
    broker.drop_puback(false);
    assert_eq!(publisher.publish(message("t", AtLeastOnce, "three")), 0);
}

#[test]
fn set_accepting_closes_new_connections_at_once() {
    let broker = broker();
    let mut before = Client::new(&broker, "before");
    broker.set_accepting(false);
    assert_eq!(Client::raw(broker.port()).next(), None);
    before.receive_nothing();
    broker.set_accepting(true);
    Client::new(&broker, "after");
}

#[test]
fn stats_count_packets_by_type() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    client.subscribe("t", AtMostOnce);
    client.send(&Packet::Publish(message("t", AtLeastOnce, "x")));
    assert!(matches!(client.receive(), Packet::Publish(_)));
    assert!(matches!(client.receive(), Packet::PubAck(_)));
    let stats = broker.stats();
    assert_eq!((stats.received, stats.sent), (3, 4));
    assert_eq!((stats.received_by_type["PUBLISH"], stats.sent_by_type["PUBACK"]), (1, 1));
}
