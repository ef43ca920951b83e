//! What hostile clients must not do to the broker, as functions that the fuzz targets and a test call with the same
//! files (`fuzz/corpus`). Compiled for those two only. Each panics where a promise is broken.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::check;
use rumqttc::mqttbytes::v5::Packet;

use crate::options::Options;
use crate::outbox::{Next, Outbox};
use crate::state::{Farewell, State, Who};
use crate::wire;

const MAXIMUM: u32 = 8192;
const QUEUED: usize = 20;
const CLIENTS: usize = 3;

/// The framing and the decoder alone.
pub fn decoder(data: &[u8]) {
    for limit in [None, Some(MAXIMUM)] {
        let mut input = BytesMut::from(data);
        loop {
            let before = input.clone();
            match wire::next_packet(&mut input, limit) {
                Ok(Some(_)) => {
                    let length = check(before.iter(), None).expect("it was whole").frame_length();
                    assert_eq!(before.len() - input.len(), length, "one packet, one frame");
                }
                Ok(None) => {
                    assert_eq!(input, before, "waiting for more takes nothing");
                    assert!(check(before.iter(), limit).is_err(), "a whole frame is a packet or an error");
                    break;
                }
                Err(code) => {
                    assert!(code >= 0x80, "an error has the reason code of one");
                    break;
                }
            }
        }
    }
}

/// Three clients with one script: connects, packets, bytes, acknowledgements, time.
pub fn broker(data: &[u8]) {
    let mut script = Script { left: data };
    let options = Options {
        maximum_packet_size: Some(MAXIMUM),
        max_queued_messages: QUEUED,
        topic_alias_maximum: 3,
        receive_maximum: Some(4),
        ..Options::default()
    };
    let mut broker = Hostile { state: State::new(options), clients: Default::default() };
    while !script.left.is_empty() {
        broker.step(&mut script);
        broker.check();
    }
    broker.state.detach_all(Farewell::Cut);
    broker.state.lose_sessions();
    assert!(broker.state.by_client.is_empty() && broker.state.sessions.is_empty());
}

struct Script<'a> {
    left: &'a [u8],
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.left.split_at(length.min(self.left.len()));
        self.left = rest;
        taken
    }

    fn block(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(usize::from(length))
    }
}

#[derive(Default)]
struct Peer {
    connection: Option<(Who, Arc<Outbox>)>,
    input: BytesMut,
}

struct Hostile {
    state: State,
    clients: [Peer; CLIENTS],
}

impl Hostile {
    fn step(&mut self, script: &mut Script<'_>) {
        let what = script.byte();
        let number = usize::from(what >> 4) % CLIENTS;
        match what & 15 {
            0 => self.connect(number, script),
            1 => {
                let bytes = script.block();
                self.receive(number, bytes);
            }
            2..=9 => {
                let (first, body) = (script.byte(), script.block());
                let mut packet = BytesMut::from(&[first][..]);
                wire::put_varint(&mut packet, body.len());
                packet.extend_from_slice(body);
                self.receive(number, &packet);
            }
            10 => self.answer(number, script.byte()),
            11 => self.state.redeliver(),
            12 => self.state.faults.duplicate = script.byte() & 1 != 0,
            13 => self.state.on_deadline(),
            14 => {
                if let Some((who, _)) = self.clients[number].connection.take() {
                    self.state.detach(who, Farewell::Cut);
                }
            }
            _ => self.drain(number, |_| ()),
        }
    }

    /// A CONNECT as the script wants it: its flags, its properties, and what follows them.
    fn connect(&mut self, number: usize, script: &mut Script<'_>) {
        let (flags, properties, rest) = (script.byte(), script.block(), script.block());
        let mut body = BytesMut::from(&b"\0\x04MQTT\x05"[..]);
        body.extend_from_slice(&[flags, 0, 60]);
        wire::put_varint(&mut body, properties.len());
        body.extend_from_slice(properties);
        body.extend_from_slice(&[0, 1, b'0' + number as u8]);
        body.extend_from_slice(rest);
        let mut packet = BytesMut::from(&[0x10][..]);
        wire::put_varint(&mut packet, body.len());
        packet.extend_from_slice(&body);
        if let Ok(Some(Packet::Connect(connect, will, auth))) = wire::next_packet(&mut packet, Some(MAXIMUM))
        {
            match self.state.connect(connect, will, &auth, &[]) {
                Ok(admitted) => {
                    let peer = &mut self.clients[number];
                    peer.input.clear();
                    peer.connection = Some((admitted.who, admitted.outbox));
                }
                Err(refusal) => assert_eq!(refusal.first(), Some(&0x20), "a refusal is a CONNACK"),
            }
        }
    }

    fn receive(&mut self, number: usize, bytes: &[u8]) {
        let peer = &mut self.clients[number];
        let Some((who, _)) = &peer.connection else { return };
        peer.input.extend_from_slice(bytes);
        if self.state.process(*who, &mut peer.input) {
            assert!(peer.input.len() < MAXIMUM as usize, "what is left is less than a packet");
        } else {
            peer.connection = None;
        }
    }

    /// Acknowledges what the client was sent.
    fn answer(&mut self, number: usize, code: u8) {
        let mut answers = BytesMut::new();
        self.drain(number, |packet| match packet {
            Packet::Publish(publish) if publish.pkid > 0 => {
                let first = [0, wire::first_byte::PUBACK, wire::first_byte::PUBREC][publish.qos as usize];
                wire::write_ack(&mut answers, first, publish.pkid, code, None);
            }
            Packet::PubRel(release) => {
                wire::write_ack(&mut answers, wire::first_byte::PUBCOMP, release.pkid, 0, None);
            }
            _ => {}
        });
        self.receive(number, &answers);
    }

    /// Reads all that waits for a client: whole packets, one after the other.
    fn drain(&mut self, number: usize, mut each: impl FnMut(Packet)) {
        let Some((_, outbox)) = &self.clients[number].connection else { return };
        let mut out = BytesMut::new();
        while let Next::Write = outbox.take(&mut out) {
            while !out.is_empty() {
                let length = check(out.iter(), None).expect("a broker writes whole packets").frame_length();
                let mut packet = out.split_to(length);
                // The codec does not read several Subscription Identifiers, nor 0x11 in an UNSUBACK, as they are.
                if let Ok(packet) = Packet::read(&mut packet, None) {
                    each(packet);
                }
            }
        }
    }

    fn check(&self) {
        assert!(self.state.sessions.len() <= CLIENTS + 1, "a session for each client identifier");
        for session in self.state.sessions.values() {
            assert!(session.queued() <= QUEUED, "the queue is bounded");
            assert!(session.in_flight() <= usize::from(u16::MAX));
        }
        let stats = self.state.stats();
        assert!(stats.sessions <= CLIENTS + 1);
        let soon = self.state.next_deadline();
        assert!(soon.is_none_or(|at| at.checked_sub(Duration::from_secs(1)).is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpus_of_the_decoder_keeps_its_promises() {
        replay("decoder", super::decoder);
    }

    #[test]
    fn the_corpus_of_the_broker_keeps_its_promises() {
        replay("broker", super::broker);
    }
}
