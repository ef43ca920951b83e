//! What has passed: owns the latest packets as bytes, each with whose it was and which way it went. Of MQTT it knows
//! only where a packet ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rumqttc::mqttbytes::check;

/// The most bytes that are kept, a little for each packet included; then the oldest packets go.
const KEPT: usize = 16 << 20;
const EACH: usize = 64;

/// One packet, as the broker received or sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Whose connection it was.
    pub client_id: Arc<str>,
    /// Whether the broker sent it; else it received it.
    pub sent: bool,
    /// The whole packet.
    pub bytes: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    packets: VecDeque<Recorded>,
    size: usize,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, client_id: &Arc<str>, sent: bool, packet: &[u8]) {
        let mut kept = self.lock();
        kept.size += packet.len() + EACH;
        let bytes = Bytes::copy_from_slice(packet);
        kept.packets.push_back(Recorded { client_id: client_id.clone(), sent, bytes });
        while kept.size > KEPT {
            let Some(oldest) = kept.packets.pop_front() else { break };
            kept.size -= oldest.bytes.len() + EACH;
        }
    }

    pub fn packets(&self) -> Vec<Recorded> {
        self.lock().packets.iter().cloned().collect()
    }

    pub fn clear(&self) {
        *self.lock() = Kept::default();
    }
}

/// The first packet of `input`, if it is whole.
pub(crate) fn frame(input: &[u8]) -> Option<&[u8]> {
    let header = check(input.iter(), None).ok()?;
    input.get(..header.frame_length())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_packets_make_room() {
        let record = Record::default();
        let client: Arc<str> = "c".into();
        let packet = vec![0; KEPT / 4];
        for number in 0..6_u8 {
            record.add(&client, number % 2 == 1, &[&[number], &packet[..]].concat());
        }
        let kept: Vec<u8> = record.packets().iter().map(|packet| packet.bytes[0]).collect();
        assert_eq!(kept, [3, 4, 5]);
        record.add(&client, true, &vec![9; KEPT + 1]);
        assert_eq!(record.packets(), []);
    }
}
