//! CONNECT and CONNACK: identifiers, credentials, announced limits, keep alive, refusal of other versions.

use std::time::{Duration, Instant};

use reqtt_loopback::Options;
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
use rumqttc::mqttbytes::v5::{ConnectAuth, ConnectReturnCode, Packet, SubscribeFilter};

use crate::client::{Client, Hello, broker, message, with};

#[test]
fn a_client_without_identifier_is_given_one() {
    let broker = broker();
    let (_one, connack) = Hello::new("").try_open(&broker);
    let assigned = connack.properties.and_then(|properties| properties.assigned_client_identifier);
    assert_eq!(broker.connections(), [assigned.expect("assigned")]);
    let strict = with(Options { assign_client_id: false, ..Options::default() });
    assert_eq!(Hello::new("").try_open(&strict).1.code, ConnectReturnCode::ClientIdentifierNotValid);
}

#[test]
fn credentials_are_checked() {
    let credentials = Some(("user".to_owned(), "secret".to_owned()));
    let broker = with(Options { credentials, ..Options::default() });
    let login = |password: &'static str| ConnectAuth::UsernamePassword {
        username: "user".into(),
        password: password.into(),
    };
    for auth in [ConnectAuth::None, login("wrong")] {
        let (mut client, connack) = Hello { auth, ..Hello::new("c") }.try_open(&broker);
        assert_eq!(connack.code, ConnectReturnCode::BadUserNamePassword);
        assert_eq!(client.next(), None);
    }
    Hello { auth: login("secret"), ..Hello::new("c") }.open(&broker);
}

#[test]
fn response_information_is_given_to_those_who_ask() {
    let broker = with(Options { response_information: Some("rr/abc/".into()), ..Options::default() });
    let ask = |broker: &_, value| {
        let hello = Hello::new("c").set(|properties| properties.request_response_info = value);
        hello.try_open(broker).1.properties.and_then(|properties| properties.response_information)
    };
    assert_eq!(ask(&broker, Some(1)).as_deref(), Some("rr/abc/"));
    assert_eq!(ask(&broker, Some(0)), None);
    assert_eq!(ask(&broker, None), None);
    broker.response_information(Some("other".into()));
    assert_eq!(ask(&broker, Some(1)).as_deref(), Some("other"));
    broker.response_information(None);
    assert_eq!(ask(&broker, Some(1)), None);
}

#[test]
fn limits_are_announced() {
    let broker = with(Options {
        receive_maximum: Some(5),
        maximum_packet_size: Some(1000),
        maximum_qos: Some(1),
        retain_available: false,
        topic_alias_maximum: 3,
        server_keep_alive: Some(77),
        shared_subscription_available: false,
        wildcard_subscription_available: false,
        subscription_identifiers_available: false,
        ..Options::default()
    });
    let (mut client, connack) = Hello::new("c").try_open(&broker);
    let announced = connack.properties.expect("properties");
    assert_eq!(announced.receive_max, Some(5));
    assert_eq!(announced.max_packet_size, Some(1000));
    assert_eq!(announced.max_qos, Some(1));
    assert_eq!(announced.retain_available, Some(0));
    assert_eq!(announced.topic_alias_max, Some(3));
    assert_eq!(announced.server_keep_alive, Some(77));
    assert_eq!(announced.shared_subscription_available, Some(0));
    assert_eq!(announced.wildcard_subscription_available, Some(0));
    assert_eq!(announced.subscription_identifiers_available, Some(0));
    assert_eq!(client.subscribe_with(SubscribeFilter::new("$share/g/t", AtMostOnce), None), 0x9E);
    assert_eq!(client.subscribe_with(SubscribeFilter::new("t/#", AtMostOnce), None), 0xA2);
    assert_eq!(client.subscribe_with(SubscribeFilter::new("t", AtMostOnce), Some(1)), 0xA1);
    assert_eq!(client.subscribe_with(SubscribeFilter::new("a/#/b", AtMostOnce), None), 0x8F);
}

#[test]
fn a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    let broker = broker();
    let mut hello = Hello::new("c");
    hello.connect.keep_alive = 1;
    let mut client = hello.open(&broker);
    let start = Instant::now();
    assert_eq!(client.receive_disconnect(), 0x8D);
    assert!(start.elapsed() >= Duration::from_millis(1400), "{:?}", start.elapsed());
}

#[test]
fn another_protocol_version_is_refused_in_the_form_of_version_5() {
    let broker = broker();
    let mut client = Client::raw(broker.port());
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a");
    let Packet::ConnAck(connack) = client.receive() else { panic!("CONNACK expected") };
    assert_eq!(connack.code, ConnectReturnCode::UnsupportedProtocolVersion);
    assert_eq!(client.next(), None);
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    let again = Hello::new("c");
    client.send(&Packet::Connect(again.connect, None, ConnectAuth::None));
    assert_eq!(client.receive_disconnect(), 0x82);
}

#[test]
fn a_packet_before_connect_closes_without_an_answer() {
    let broker = broker();
    let mut client = Client::raw(broker.port());
    client.send(&Packet::Publish(message("t", AtLeastOnce, "")));
    assert_eq!(client.next(), None);
}

#[test]
fn stopping_says_that_the_server_is_shutting_down() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    let _never_said_hello = Client::raw(broker.port());
    let port = broker.port();
    let start = Instant::now();
    broker.stop();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(client.receive_disconnect(), 0x8B);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    broker.stop();
    let again = with(Options { port, ..Options::default() });
    assert_eq!(again.url(), format!("mqtt://127.0.0.1:{port}"));
}
