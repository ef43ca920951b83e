//! As much of MQTT 5 as the limit needs: frames in, frames out. Knows no sockets.

pub const CONNECT: u8 = 1;
pub const PUBLISH: u8 = 3;
pub const SUBSCRIBE: u8 = 8;
pub const SUBACK: u8 = 9;
pub const UNSUBSCRIBE: u8 = 10;
pub const PINGREQ: u8 = 12;

const CORRELATION_DATA: u8 = 0x09;
const RESPONSE_TOPIC: u8 = 0x08;

/// One packet: type, flags and what follows the fixed header.
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub body: &'a [u8],
}

/// The first packet of `bytes` and its length; `None`: it is not whole yet.
pub fn frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (length, width) = variable(bytes.get(1..)?)?;
    let end = 1 + width + length;
    let body = bytes.get(1 + width..end)?;
    Some((Frame { kind: bytes[0] >> 4, flags: bytes[0] & 15, body }, end))
}

/// What request/response needs of a PUBLISH.
#[derive(Default)]
pub struct Publish<'a> {
    pub qos: u8,
    pub packet_id: u16,
    pub response_topic: &'a [u8],
    pub correlation_data: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    pub fn read(frame: &Frame<'a>) -> Option<Self> {
        let mut publish = Self { qos: frame.flags >> 1 & 3, ..Self::default() };
        let (_topic, mut rest) = string(frame.body)?;
        if publish.qos > 0 {
            publish.packet_id = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
            rest = &rest[2..];
        }
        let (length, width) = variable(rest)?;
        let mut properties = rest.get(width..width + length)?;
        publish.payload = &rest[width + length..];
        while let Some((&id, after)) = properties.split_first() {
            properties = match id {
                RESPONSE_TOPIC | CORRELATION_DATA => {
                    let (value, after) = string(after)?;
                    *(if id == RESPONSE_TOPIC {
                        &mut publish.response_topic
                    } else {
                        &mut publish.correlation_data
                    }) = value;
                    after
                }
                0x01 => after.get(1..)?,
                0x02 => after.get(4..)?,
                0x03 => string(after)?.1,
                0x0B => after.get(variable(after)?.1..)?,
                0x23 => after.get(2..)?,
                0x26 => string(string(after)?.1)?.1,
                _ => return None,
            };
        }
        Some(publish)
    }
}

/// Where in a written PUBLISH its parts begin.
pub struct Places {
    pub packet_id: usize,
    pub correlation_data: usize,
    pub payload: usize,
}

/// Writes a PUBLISH.
pub fn publish(
    out: &mut Vec<u8>,
    qos: u8,
    packet_id: u16,
    topic: &[u8],
    response_topic: &[u8],
    correlation_data: &[u8],
    payload: &[u8],
) -> Places {
    let response = if response_topic.is_empty() { 0 } else { 3 + response_topic.len() };
    let properties = response + 3 + correlation_data.len();
    let id = if qos > 0 { 2 } else { 0 };
    let length = 2 + topic.len() + id + variable_width(properties) + properties + payload.len();
    out.push(PUBLISH << 4 | qos << 1);
    put_variable(out, length);
    put_string(out, topic);
    let at = out.len();
    if qos > 0 {
        out.extend(packet_id.to_be_bytes());
    }
    put_variable(out, properties);
    if response > 0 {
        out.push(RESPONSE_TOPIC);
        put_string(out, response_topic);
    }
    out.push(CORRELATION_DATA);
    put_string(out, correlation_data);
    out.extend_from_slice(payload);
    let payload = out.len() - payload.len();
    Places { packet_id: at, correlation_data: payload - correlation_data.len(), payload }
}

pub fn puback(out: &mut Vec<u8>, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend([0x40, 2, high, low]);
}

/// CONNECT with Clean Start, a keep alive of 0 and the largest Receive Maximum.
pub fn connect(out: &mut Vec<u8>, client_id: &str) {
    out.push(CONNECT << 4);
    put_variable(out, 11 + 3 + 2 + client_id.len());
    out.extend(b"\0\x04MQTT\x05\x02\0\0\x03\x21\xFF\xFF");
    put_string(out, client_id.as_bytes());
}

pub fn subscribe(out: &mut Vec<u8>, filter: &str, qos: u8) {
    out.push(SUBSCRIBE << 4 | 2);
    put_variable(out, 3 + 2 + filter.len() + 1);
    out.extend([0, 1, 0]);
    put_string(out, filter.as_bytes());
    out.push(qos);
}

/// The answer to a SUBSCRIBE or UNSUBSCRIBE: grants what was asked for.
pub fn grant(out: &mut Vec<u8>, frame: &Frame) -> Option<()> {
    let (length, width) = variable(frame.body.get(2..)?)?;
    let mut filters = frame.body.get(2 + width + length..)?;
    let mut codes = Vec::new();
    while !filters.is_empty() {
        let (_filter, after) = string(filters)?;
        if frame.kind == SUBSCRIBE {
            codes.push(after.first()? & 3);
            filters = &after[1..];
        } else {
            codes.push(0);
            filters = after;
        }
    }
    out.push((frame.kind + 1) << 4);
    put_variable(out, 3 + codes.len());
    out.extend([frame.body[0], frame.body[1], 0]);
    out.extend(codes);
    Some(())
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    Some((bytes.get(2..2 + length)?, &bytes[2 + length..]))
}

fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(u16::try_from(value.len()).expect("a short string").to_be_bytes());
    out.extend_from_slice(value);
}

/// A Variable Byte Integer and its width.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, place + 1));
        }
    }
    None
}

fn put_variable(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn variable_width(value: usize) -> usize {
    1 + [0x7F, 0x3FFF, 0x1F_FFFF].iter().filter(|limit| value > **limit).count()
}
