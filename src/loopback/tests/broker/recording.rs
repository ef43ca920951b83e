//! What passed, told afterwards.

use reqtt_loopback::{Broker, Options};
use rumqttc::mqttbytes::QoS::AtLeastOnce;
use rumqttc::mqttbytes::v5::ConnectReturnCode;

use crate::client::{Client, Hello, broker, message, with};

fn recording() -> Broker {
    with(Options { record: true, ..Options::default() })
}

/// `client<-TYPE` for what the broker sent, `client->TYPE` for what it received, TYPE being the number of 2.1.2.
fn passed(broker: &Broker) -> Vec<String> {
    let packets = broker.packets().expect("recorded");
    let line = |sent| if sent { "<-" } else { "->" };
    packets.iter().map(|it| format!("{}{}{}", it.client_id, line(it.sent), it.bytes[0] >> 4)).collect()
}

#[test]
fn every_packet_is_recorded_in_the_order_in_which_it_was_handled() {
    let broker = recording();
    let mut subscriber = Client::new(&broker, "s");
    subscriber.subscribe("t", AtLeastOnce);
    let mut publisher = Client::new(&broker, "p");
    assert_eq!(publisher.publish(message("t", AtLeastOnce, "hello")), 0);
    assert_eq!(passed(&broker), ["s->1", "s<-2", "s->8", "s<-9", "p->1", "p<-2", "p->3", "s<-3", "p<-4"]);
    let packets = broker.packets().expect("recorded");
    let (published, forwarded) = (&packets[6].bytes, &packets[7].bytes);
    assert!(published.ends_with(b"hello") && forwarded.ends_with(b"hello"));
    assert_eq!(published.len(), usize::from(published[1]) + 2);
    broker.clear_packets();
    assert_eq!(passed(&broker), [""; 0]);
}

#[test]
fn a_refused_client_is_recorded_too() {
    let broker = recording();
    broker.refuse_connect(Some(0x87));
    let (_, connack) = Hello::new("c").try_open(&broker);
    assert_eq!(connack.code, ConnectReturnCode::NotAuthorized);
    assert_eq!(passed(&broker), ["c->1", "c<-2"]);
}

#[test]
fn nothing_is_recorded_unless_it_is_asked_for() {
    let broker = broker();
    Client::new(&broker, "c");
    assert_eq!(broker.packets(), None);
}
