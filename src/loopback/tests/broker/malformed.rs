//! Input that is no MQTT: the broker answers or closes, and serves the next client.

use rumqttc::mqttbytes::QoS::AtLeastOnce;
use rumqttc::mqttbytes::v5::{Packet, PubRel, SubscribeFilter};

use crate::client::{Client, Hello, broker, message};

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[7]).collect()
    }
}

#[test]
fn each_kind_of_malformed_packet_gets_its_reason() {
    let broker = broker();
    let cases: [(&[u8], u8); 14] = [
        (&[0x36, 5, 0, 1, b't', 0, 1], 0x81),                              // QoS 3
        (&[0x32, 6, 0, 1, b't', 0, 0, 0], 0x82),                           // packet identifier 0
        (&[0x30, 4, 0, 1, b'#', 0], 0x81),                                 // wildcard in a topic name
        (&[0x30, 5, 0, 2, 0xC3, 0x28, 0], 0x81),                           // not UTF-8
        (&[0x30, 3, 0, 9, b't'], 0x81),                                    // a length that lies
        (&[0x30, 4, 0, 1, b't', 0x80], 0x81),                              // property length cut off
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], 0x81),                     // remaining length of five bytes
        (&[0x30, 14, 0, 1, b't', 10, 9, 0, 2, 1, 2, 9, 0, 2, 1, 2], 0x82), // Correlation Data twice
        (&[0x30, 12, 0, 1, b't', 8, 8, 0, 1, b'r', 8, 0, 1, b'r'], 0x82),  // Response Topic twice
        (&[0x00, 0], 0x81),                                                // reserved type
        (&[0x81, 0], 0x81),                                                // reserved flags
        (&[0x82, 3, 0, 1, 0], 0x82),                                       // SUBSCRIBE without a filter
        (&[0xA2, 3, 0, 1, 0], 0x82),                                       // UNSUBSCRIBE without a filter
        (&[0x90, 4, 0, 1, 0, 0], 0x82),                                    // SUBACK from a client
    ];
    for (bytes, expected) in cases {
        let mut client = Client::new(&broker, "c");
        client.send_bytes(bytes);
        assert_eq!(client.receive_disconnect(), expected, "{bytes:02X?}");
    }
}

#[test]
fn random_bytes_never_stop_the_broker() {
    let broker = broker();
    let mut random = Random(42);
    for round in 0..300 {
        let mut client =
            if round % 3 == 0 { Client::raw(broker.port()) } else { Client::new(&broker, "fuzz") };
        let mut bytes = random.bytes(1 + round % 97);
        if round % 2 == 0 {
            // A whole frame of a real type, so that the decoders behind the framing get their share.
            let length = bytes.len() as u8;
            let kind = (random.next() % 15 + 1) as u8;
            let flags = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
            bytes.splice(0..0, [kind << 4 | flags, length]);
        }
        client.send_bytes(&bytes);
    }
    Client::new(&broker, "after").receive_nothing();
}

#[test]
fn a_valid_packet_with_flipped_bytes_never_stops_the_broker() {
    let broker = broker();
    let mut random = Random(7);
    let mut valid = Vec::new();
    for packet in [
        {
            let hello = Hello::persistent("flip");
            Packet::Connect(hello.connect, None, hello.auth)
        },
        Packet::Publish(message("some/topic", AtLeastOnce, "payload")),
        Packet::PubRel(PubRel::new(3, None)),
    ] {
        let mut bytes = bytes::BytesMut::new();
        packet.write(&mut bytes, None).expect("encode");
        valid.push(bytes);
    }
    for round in 0..300 {
        let mut bytes = valid[round % valid.len()].to_vec();
        let at = random.next() as usize % bytes.len();
        bytes[at] = random.bytes(1)[0];
        let mut client =
            if round % valid.len() == 0 { Client::raw(broker.port()) } else { Client::new(&broker, "flip") };
        client.send_bytes(&bytes);
    }
    Client::new(&broker, "after").receive_nothing();
}

#[test]
fn a_packet_may_arrive_byte_by_byte() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    let mut bytes = bytes::BytesMut::new();
    Packet::Publish(message("t", AtLeastOnce, "x")).write(&mut bytes, None).expect("encode");
    for byte in &bytes {
        client.send_bytes(&[*byte]);
    }
    assert!(matches!(client.receive(), Packet::PubAck(ack) if ack.reason as u8 == 0x10));
}

#[test]
fn a_filter_of_more_levels_than_the_stack_could_take_is_refused() {
    let broker = broker();
    let mut client = Client::new(&broker, "c");
    let filter = "/".repeat(65_000);
    assert_eq!(client.subscribe_with(SubscribeFilter::new(filter.clone(), AtLeastOnce), None), 0x8F);
    // A topic may have as many: it is no longer than the tree is deep.
    client.subscribe("#", AtLeastOnce);
    assert_eq!(Client::new(&broker, "p").publish(message(&filter, AtLeastOnce, "")), 0);
}
