//! Bytes to packets and back: owns the framing, the reason for each malformed packet, and the encoding of what the broker
//! sends. Knows nothing of sessions or sockets.
//!
//! Reading is rumqttc's codec. Acknowledgements are written here because a test may ask for any reason code, and
//! PUBLISH because a message is encoded once and sent to many.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, Packet, Publish};
use rumqttc::mqttbytes::{Error, check};

/// Reason codes (2.4) that the broker itself chooses.
pub(crate) mod reason {
    pub const SUCCESS: u8 = 0x00;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub const MALFORMED_PACKET: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
    pub const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
    pub const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
    pub const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub const TOPIC_NAME_INVALID: u8 = 0x90;
    pub const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
    pub const RETAIN_NOT_SUPPORTED: u8 = 0x9A;
    pub const QOS_NOT_SUPPORTED: u8 = 0x9B;
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: u8 = 0x9E;
    pub const SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED: u8 = 0xA1;
    pub const WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: u8 = 0xA2;
}

/// First byte of each packet the broker writes; the upper half is the type number.
pub(crate) mod first_byte {
    pub const CONNACK: u8 = 0x20;
    pub const PUBLISH: u8 = 0x30;
    pub const PUBACK: u8 = 0x40;
    pub const PUBREC: u8 = 0x50;
    pub const PUBREL: u8 = 0x62;
    pub const PUBCOMP: u8 = 0x70;
    pub const SUBACK: u8 = 0x90;
    pub const UNSUBACK: u8 = 0xB0;
    pub const PINGRESP: u8 = 0xD0;
    pub const DISCONNECT: u8 = 0xE0;
}

/// The largest packet MQTT can frame: a Remaining Length of four bytes (1.5.5) after its header.
pub(crate) const LARGEST_PACKET: usize = 268_435_455 + 5;

const MESSAGE_EXPIRY_INTERVAL: u8 = 2;
const SUBSCRIPTION_IDENTIFIER: u8 = 11;
const REASON_STRING: u8 = 31;

/// The next whole packet of `input`, None when more bytes are needed, or the reason code to close with.
pub(crate) fn next_packet(input: &mut BytesMut, max_size: Option<u32>) -> Result<Option<Packet>, u8> {
    let header = match check(input.iter(), max_size) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(reason_of(&error)),
    };
    // 3.14.2.2.1: the properties may be left out after the reason code; the codec insists on them.
    if input[0] == first_byte::DISCONNECT && header.frame_length() == 3 {
        let code = input.split_to(3)[2].try_into().map_err(|_| reason::MALFORMED_PACKET)?;
        return Ok(Some(Packet::Disconnect(Disconnect::new(code))));
    }
    if input[0] & 0xF0 == first_byte::PUBLISH
        && repeats_a_property(&input[..header.frame_length()]) == Some(true)
    {
        return Err(reason::PROTOCOL_ERROR);
    }
    // The frame is whole, so "insufficient bytes" from here on is a length that lies.
    Packet::read(input, None).map(Some).map_err(|error| reason_of(&error))
}

/// Whether a property of a PUBLISH is there twice that may be there once (3.3.2.3): the codec would take the last one.
/// None where the packet is malformed, which the codec finds out.
fn repeats_a_property(mut bytes: &[u8]) -> Option<bool> {
    let packet_id = bytes.try_get_u8().ok()? & 6 != 0;
    get_varint(&mut bytes)?;
    skip_string(&mut bytes)?;
    skip(&mut bytes, if packet_id { 2 } else { 0 })?;
    let length = get_varint(&mut bytes)?;
    let mut bytes = bytes.get(..length)?;
    let mut seen = 0_u64;
    while let Some((kind, rest)) = bytes.split_first() {
        bytes = rest;
        match kind {
            0x01 => skip(&mut bytes, 1)?,
            0x02 => skip(&mut bytes, 4)?,
            0x23 => skip(&mut bytes, 2)?,
            0x03 | 0x08 | 0x09 => skip_string(&mut bytes)?,
            0x0B => drop(get_varint(&mut bytes)?),
            0x26 => {
                skip_string(&mut bytes)?;
                skip_string(&mut bytes)?;
            }
            _ => return None,
        }
        // User properties, and the identifiers of a server, may be many.
        if !matches!(kind, 0x0B | 0x26) && seen & 1 << kind != 0 {
            return Some(true);
        }
        seen |= 1 << kind;
    }
    Some(false)
}

fn skip(bytes: &mut &[u8], count: usize) -> Option<()> {
    *bytes = bytes.get(count..)?;
    Some(())
}

fn skip_string(bytes: &mut &[u8]) -> Option<()> {
    let length = bytes.try_get_u16().ok()?;
    skip(bytes, length.into())
}

fn get_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = bytes.try_get_u8().ok()?;
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn reason_of(error: &Error) -> u8 {
    match error {
        Error::PayloadSizeLimitExceeded { .. } => reason::PACKET_TOO_LARGE,
        Error::InvalidProtocol | Error::InvalidProtocolLevel(_) => reason::UNSUPPORTED_PROTOCOL_VERSION,
        Error::ProtocolViolation(code) => *code as u8,
        Error::ProtocolError
        | Error::EmptySubscription
        | Error::InvalidRetainForwardRule(_)
        | Error::PacketIdZero => reason::PROTOCOL_ERROR,
        _ => reason::MALFORMED_PACKET,
    }
}

/// A message as it is stored and forwarded: encoded once, shared by all its subscribers.
#[derive(Debug)]
pub(crate) struct Message {
    pub topic: Box<str>,
    /// The QoS it was published with.
    pub qos: u8,
    /// Properties that do not depend on the receiver, then the payload.
    tail: Box<[u8]>,
    properties: usize,
    pub expires_at: Option<Instant>,
}

impl Message {
    /// None when the topic is not UTF-8 or a property cannot be encoded, which a packet from the codec rules out.
    pub fn new(publish: Publish, now: Instant) -> Option<Self> {
        let topic = std::str::from_utf8(&publish.topic).ok()?.into();
        let qos = publish.qos as u8;
        let mut expires_at = None;
        let mut tail = BytesMut::new();
        if let Some(mut properties) = publish.properties {
            let expiry = properties.message_expiry_interval.take();
            expires_at = expiry.and_then(|seconds| now.checked_add(Duration::from_secs(seconds.into())));
            properties.topic_alias = None;
            properties.subscription_identifiers.clear();
            properties.write(&mut tail).ok()?;
            let prefix = tail.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
            tail.advance(prefix);
        }
        let properties = tail.len();
        tail.extend_from_slice(&publish.payload);
        Some(Self { topic, qos, tail: Box::from(&tail[..]), properties, expires_at })
    }

    pub fn has_payload(&self) -> bool {
        self.tail.len() > self.properties
    }

    pub fn expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// What is left of the Message Expiry Interval: the value received less the whole seconds waited [MQTT-3.3.2-6].
    fn remaining(&self, now: Instant) -> Option<u32> {
        let left = self.expires_at?.saturating_duration_since(now);
        Some(u32::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(u32::MAX))
    }
}

/// The parts of a PUBLISH that differ between receivers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    pub packet_id: u16,
    pub identifiers: &'a [u32],
}

struct Layout {
    properties: usize,
    remaining: usize,
}

fn layout(message: &Message, head: &Head<'_>) -> Layout {
    let identifiers: usize = head.identifiers.iter().map(|id| 1 + varint_len(*id as usize)).sum();
    let properties = message.properties + identifiers + if message.expires_at.is_some() { 5 } else { 0 };
    let packet_id = if head.qos > 0 { 2 } else { 0 };
    let payload = message.tail.len() - message.properties;
    let remaining = 2 + message.topic.len() + packet_id + varint_len(properties) + properties + payload;
    Layout { properties, remaining }
}

/// Bytes that this PUBLISH takes on the wire, to be held against the receiver's Maximum Packet Size.
pub(crate) fn publish_size(message: &Message, head: &Head<'_>) -> usize {
    let remaining = layout(message, head).remaining;
    1 + varint_len(remaining) + remaining
}

pub(crate) fn write_publish(out: &mut BytesMut, message: &Message, head: &Head<'_>, now: Instant) {
    let Layout { properties, remaining } = layout(message, head);
    out.reserve(remaining + 5);
    out.put_u8(first_byte::PUBLISH | u8::from(head.dup) << 3 | head.qos << 1 | u8::from(head.retain));
    put_varint(out, remaining);
    put_string(out, &message.topic);
    if head.qos > 0 {
        out.put_u16(head.packet_id);
    }
    put_varint(out, properties);
    if let Some(seconds) = message.remaining(now) {
        out.put_u8(MESSAGE_EXPIRY_INTERVAL);
        out.put_u32(seconds);
    }
    for id in head.identifiers {
        out.put_u8(SUBSCRIPTION_IDENTIFIER);
        put_varint(out, *id as usize);
    }
    out.extend_from_slice(&message.tail);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with any reason code.
pub(crate) fn write_ack(out: &mut BytesMut, first: u8, packet_id: u16, code: u8, text: Option<&str>) {
    out.put_u8(first);
    match (code, text) {
        (reason::SUCCESS, None) => put_varint(out, 2),
        (_, None) => put_varint(out, 3),
        (_, Some(text)) => put_varint(out, 3 + reason_string_len(Some(text))),
    }
    out.put_u16(packet_id);
    if code != reason::SUCCESS || text.is_some() {
        out.put_u8(code);
    }
    if text.is_some() {
        put_reason_string(out, text);
    }
}

/// SUBACK or UNSUBACK with any reason codes.
pub(crate) fn write_suback(out: &mut BytesMut, first: u8, packet_id: u16, codes: &[u8], text: Option<&str>) {
    out.put_u8(first);
    put_varint(out, 2 + reason_string_len(text) + codes.len());
    out.put_u16(packet_id);
    put_reason_string(out, text);
    out.extend_from_slice(codes);
}

pub(crate) fn write_disconnect(out: &mut BytesMut, code: u8) {
    out.extend_from_slice(&[first_byte::DISCONNECT, 2, code, 0]);
}

/// CONNACK with any reason code; the codec writes the properties, then the code is put in its place.
pub(crate) fn connack(code: u8, session_present: bool, properties: Option<ConnAckProperties>) -> Bytes {
    let mut out = BytesMut::new();
    let packet = ConnAck { session_present, code: ConnectReturnCode::Success, properties };
    if let Err(error) = packet.write(&mut out) {
        log::warn!("CONNACK properties left out: {error}");
        out.clear();
        out.extend_from_slice(&[first_byte::CONNACK, 3, u8::from(session_present), 0, 0]);
    }
    let code_at = out[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 3;
    out[code_at] = code;
    out.freeze()
}

fn reason_string_len(text: Option<&str>) -> usize {
    1 + text.map_or(0, |text| 3 + text.len())
}

/// A property section (2.2.2) that holds at most a Reason String; texts are the broker's own and short.
fn put_reason_string(out: &mut BytesMut, text: Option<&str>) {
    put_varint(out, reason_string_len(text) - 1);
    if let Some(text) = text {
        out.put_u8(REASON_STRING);
        put_string(out, text);
    }
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v5::PublishProperties;

    use super::*;

    #[test]
    fn a_forwarded_publish_is_what_the_codec_would_write() {
        let now = Instant::now();
        for (qos, properties) in [
            (QoS::AtMostOnce, None),
            (
                QoS::ExactlyOnce,
                Some(PublishProperties {
                    message_expiry_interval: Some(5),
                    subscription_identifiers: vec![1, 300],
                    content_type: Some("x".repeat(200)),
                    correlation_data: Some(Bytes::from_static(b"\0\xFF")),
                    ..PublishProperties::default()
                }),
            ),
        ] {
            let original = Publish { pkid: qos as u16, ..Publish::new("a/b", qos, "payload", properties) };
            let identifiers = original.properties.as_ref().map_or(&[][..], |_| &[1, 300]);
            let head = Head { qos: qos as u8, dup: false, retain: false, packet_id: qos as u16, identifiers };
            let message = Message::new(original.clone(), now).expect("message");
            let mut out = BytesMut::new();
            write_publish(&mut out, &message, &head, now);
            assert_eq!(out.len(), publish_size(&message, &head));
            assert_eq!(Packet::read(&mut out, None).expect("decode"), Packet::Publish(original));
        }
    }

    #[test]
    fn no_frame_makes_the_reader_panic_or_wait_for_more() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        // Small values are property identifiers and lengths: they lead deeper than arbitrary bytes.
        let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100_000);
        for _ in 0..rounds {
            let length = random() % 60;
            let flags = [0, 2, random() % 16][usize::from(random() % 3)];
            let mut frame = BytesMut::from(&[random() << 4 | flags, length][..]);
            if random() % 4 == 0 {
                frame.extend_from_slice(b"\0\x04MQTT\x05");
                frame.truncate(usize::from(length) + 2);
            }
            while frame.len() < usize::from(length) + 2 {
                frame.put_u8(if random() % 3 == 0 { random() } else { random() % 40 });
            }
            assert!(!matches!(next_packet(&mut frame, None), Ok(None)));
            assert!(frame.is_empty());
        }
    }
}
