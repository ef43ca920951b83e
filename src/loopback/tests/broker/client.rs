//! A raw client for the tests: owns one socket and speaks in packets of rumqttc's codec.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use reqtt_loopback::{Broker, Options};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{
    ConnAck, Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    LastWill, Packet, PubAck, PubComp, PubRec, PubRel, Publish, PublishProperties, Subscribe,
    SubscribeFilter, SubscribeProperties,
};

/// Far beyond what any step takes; reaching it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn broker() -> Broker {
    Broker::start(Options::default()).expect("start")
}

pub fn with(options: Options) -> Broker {
    Broker::start(options).expect("start")
}

/// Waits until the broker says so.
pub fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "condition not met");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a CONNECT says, with the defaults of the tests.
pub struct Hello {
    pub connect: Connect,
    pub will: Option<LastWill>,
    pub auth: ConnectAuth,
}

impl Hello {
    pub fn new(client_id: &str) -> Self {
        let properties = Some(ConnectProperties::new());
        let connect = Connect { keep_alive: 0, client_id: client_id.into(), clean_start: true, properties };
        Self { connect, will: None, auth: ConnectAuth::None }
    }

    /// Keeps the session for an hour and takes up an old one.
    pub fn persistent(client_id: &str) -> Self {
        let mut hello =
            Self::new(client_id).set(|properties| properties.session_expiry_interval = Some(3600));
        hello.connect.clean_start = false;
        hello
    }

    pub fn set(mut self, change: impl FnOnce(&mut ConnectProperties)) -> Self {
        change(self.connect.properties.as_mut().expect("properties"));
        self
    }

    pub fn will(mut self, will: LastWill) -> Self {
        self.will = Some(will);
        self
    }

    pub fn open(self, broker: &Broker) -> Client {
        let (client, connack) = self.try_open(broker);
        assert_eq!(connack.code, ConnectReturnCode::Success);
        client
    }

    pub fn try_open(self, broker: &Broker) -> (Client, ConnAck) {
        let mut client = Client::raw(broker.port());
        client.send(&Packet::Connect(self.connect, self.will, self.auth));
        match client.receive() {
            Packet::ConnAck(connack) => (client, connack),
            other => panic!("CONNACK expected, got {other:?}"),
        }
    }
}

pub struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    pub fn new(broker: &Broker, client_id: &str) -> Self {
        Hello::new(client_id).open(broker)
    }

    pub fn raw(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream, input: BytesMut::new() }
    }

    pub fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).expect("encode");
        self.stream.write_all(&out).expect("write");
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have closed already; what it said is still to be read.
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet, or None at the end of the connection.
    pub fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.buffered() {
                return Some(packet);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("read: {error}"),
            }
        }
    }

    fn buffered(&mut self) -> Option<Packet> {
        rumqttc::mqttbytes::check(self.input.iter(), None).ok()?;
        Some(Packet::read(&mut self.input, None).expect("decode"))
    }

    pub fn receive(&mut self) -> Packet {
        self.next().expect("a packet, not the end of the connection")
    }

    pub fn receive_publish(&mut self) -> Publish {
        match self.receive() {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH expected, got {other:?}"),
        }
    }

    /// The reason code of the DISCONNECT that comes next, after which the connection must end.
    pub fn receive_disconnect(&mut self) -> u8 {
        match self.receive() {
            Packet::Disconnect(disconnect) => {
                assert_eq!(self.next(), None);
                disconnect.reason_code as u8
            }
            other => panic!("DISCONNECT expected, got {other:?}"),
        }
    }

    /// Nothing is on its way: a PINGRESP overtakes nothing.
    pub fn receive_nothing(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.receive(), Packet::PingResp);
    }

    pub fn subscribe(&mut self, filter: &str, qos: QoS) {
        let code = self.subscribe_with(SubscribeFilter::new(filter, qos), None);
        assert_eq!(code, qos as u8, "SUBACK for {filter}");
    }

    /// The SUBACK's code, read from the bytes: the codec maps too much.
    pub fn subscribe_with(&mut self, filter: SubscribeFilter, identifier: Option<usize>) -> u8 {
        let properties =
            identifier.map(|id| SubscribeProperties { id: Some(id), user_properties: Vec::new() });
        self.send(&Packet::Subscribe(Subscribe { pkid: 7, ..Subscribe::new(filter, properties) }));
        match self.receive() {
            Packet::SubAck(suback) => {
                let mut bytes = BytesMut::new();
                assert_eq!(suback.pkid, 7);
                Packet::SubAck(suback).write(&mut bytes, None).expect("encode");
                bytes[bytes.len() - 1]
            }
            other => panic!("SUBACK expected, got {other:?}"),
        }
    }

    /// Publishes and returns the reason code of PUBACK or PUBREC; completes QoS 2.
    pub fn publish(&mut self, publish: Publish) -> u8 {
        let qos = publish.qos;
        self.send(&Packet::Publish(publish));
        match qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => match self.receive() {
                Packet::PubAck(ack) => ack.reason as u8,
                other => panic!("PUBACK expected, got {other:?}"),
            },
            QoS::ExactlyOnce => match self.receive() {
                Packet::PubRec(ack) if ack.reason as u8 >= 0x80 => ack.reason as u8,
                Packet::PubRec(ack) => {
                    self.send(&Packet::PubRel(PubRel::new(ack.pkid, None)));
                    assert_eq!(self.receive(), Packet::PubComp(PubComp::new(ack.pkid, None)));
                    ack.reason as u8
                }
                other => panic!("PUBREC expected, got {other:?}"),
            },
        }
    }

    pub fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.send(&Packet::PubAck(PubAck::new(publish.pkid, None))),
            QoS::ExactlyOnce => {
                self.send(&Packet::PubRec(PubRec::new(publish.pkid, None)));
                assert_eq!(self.receive(), Packet::PubRel(PubRel::new(publish.pkid, None)));
                self.send(&Packet::PubComp(PubComp::new(publish.pkid, None)));
            }
        }
    }

    /// Ends normally and waits for the broker to close.
    pub fn disconnect(mut self) {
        self.send(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)));
        assert_eq!(self.next(), None);
    }
}

pub fn message(topic: &str, qos: QoS, payload: &str) -> Publish {
    let pkid = if qos == QoS::AtMostOnce { 0 } else { 9 };
    Publish { pkid, ..Publish::new(topic, qos, payload.to_owned(), None) }
}

pub fn message_with(
    topic: &str,
    qos: QoS,
    payload: &str,
    set: impl FnOnce(&mut PublishProperties),
) -> Publish {
    let mut properties = PublishProperties::default();
    set(&mut properties);
    Publish { properties: Some(properties), ..message(topic, qos, payload) }
}
