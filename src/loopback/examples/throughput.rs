//! QoS 1 messages per second from one raw client to another: `cargo run --release -p reqtt-loopback --example throughput`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::BytesMut;
use reqtt_loopback::{Broker, Options};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Connect, ConnectAuth, Packet, PubAck, Publish, Subscribe, SubscribeFilter};

const MESSAGES: usize = 400_000;
const WINDOW: usize = 100;

struct Peer {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    chunk: Box<[u8]>,
}

impl Peer {
    fn connect(port: u16, client_id: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let chunk = vec![0; 65536].into();
        let mut peer = Self { stream, input: BytesMut::new(), output: BytesMut::new(), chunk };
        let connect =
            Connect { keep_alive: 0, client_id: client_id.to_owned(), clean_start: true, properties: None };
        peer.queue(&Packet::Connect(connect, None, ConnectAuth::None));
        peer.flush();
        assert!(matches!(peer.batch()[..], [Packet::ConnAck(_)]));
        peer
    }

    fn queue(&mut self, packet: &Packet) {
        packet.write(&mut self.output, None).expect("encode");
    }

    fn flush(&mut self) {
        self.stream.write_all(&self.output).expect("write");
        self.output.clear();
    }

    fn batch(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while packets.is_empty() {
            let count = self.stream.read(&mut self.chunk).expect("read");
            assert_ne!(count, 0, "the broker closed");
            self.input.extend_from_slice(&self.chunk[..count]);
            while let Ok(packet) = Packet::read(&mut self.input, None) {
                packets.push(packet);
            }
        }
        packets
    }
}

fn main() -> std::io::Result<()> {
    let broker = Broker::start(Options::default())?;
    let port = broker.port();
    let mut subscriber = Peer::connect(port, "subscriber");
    let subscribe = Subscribe::new(SubscribeFilter::new("bench/#", QoS::AtLeastOnce), None);
    subscriber.queue(&Packet::Subscribe(Subscribe { pkid: 1, ..subscribe }));
    subscriber.flush();
    assert!(matches!(subscriber.batch()[..], [Packet::SubAck(_)]));

    let start = Instant::now();
    let receiving = std::thread::spawn(move || {
        let mut received = 0;
        while received < MESSAGES {
            for packet in subscriber.batch() {
                if let Packet::Publish(publish) = packet {
                    received += 1;
                    subscriber.queue(&Packet::PubAck(PubAck::new(publish.pkid, None)));
                }
            }
            subscriber.flush();
        }
    });
    let mut publisher = Peer::connect(port, "publisher");
    let mut publish = Publish::new("bench/topic", QoS::AtLeastOnce, vec![b'x'; 64], None);
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < MESSAGES {
        while sent < MESSAGES && sent - acknowledged < WINDOW {
            publish.pkid = (sent % 65535) as u16 + 1;
            publisher.queue(&Packet::Publish(publish.clone()));
            sent += 1;
        }
        publisher.flush();
        acknowledged += publisher.batch().len();
    }
    receiving.join().expect("subscriber");
    let seconds = start.elapsed().as_secs_f64();
    let rate = MESSAGES as f64 / seconds;
    println!("{MESSAGES} QoS 1 messages of 64 bytes, {WINDOW} in flight: {rate:.0} messages/s");
    Ok(())
}
