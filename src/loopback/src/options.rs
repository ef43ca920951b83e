//! What a test may choose before the broker starts, and what it may read while it runs. Plain data; no behaviour.

use std::collections::BTreeMap;

/// How the broker behaves. Everything is announced in CONNACK where MQTT 5 has a property for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// WebSocket port on 127.0.0.1; 0 lets the system choose.
    pub ws_port: u16,
    /// User name and password that every client must present; None admits everyone.
    pub credentials: Option<(String, String)>,
    /// Response Information, returned to clients that ask for it (3.2.2.3.15).
    pub response_information: Option<String>,
    /// Receive Maximum of the server (3.2.2.3.3); None is 65,535. A client that exceeds it is sent DISCONNECT 0x93.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size in bytes (3.2.2.3.6); a larger packet is answered with DISCONNECT 0x95.
    pub maximum_packet_size: Option<u32>,
    /// Maximum QoS (3.2.2.3.4): 0 or 1; None is 2.
    pub maximum_qos: Option<u8>,
    /// Retain Available (3.2.2.3.5).
    pub retain_available: bool,
    /// Topic Alias Maximum (3.2.2.3.8); 0 means that clients must not use aliases.
    pub topic_alias_maximum: u16,
    /// Server Keep Alive in seconds (3.2.2.3.14); it overrides what the client asked for.
    pub server_keep_alive: Option<u16>,
    /// Shared Subscription Available (3.2.2.3.13).
    pub shared_subscription_available: bool,
    /// Wildcard Subscription Available (3.2.2.3.11).
    pub wildcard_subscription_available: bool,
    /// Subscription Identifiers Available (3.2.2.3.12).
    pub subscription_identifiers_available: bool,
    /// Answer 0x10 when nobody subscribes; false answers plain success, as a broker may (3.4.2.1).
    pub no_matching_subscribers: bool,
    /// Assign an identifier to a client that sends none; false refuses it with 0x85.
    pub assign_client_id: bool,
    /// QoS 1 and 2 messages that wait for one session, beyond those in flight; the rest is dropped.
    pub max_queued_messages: usize,
    /// Keep the latest packets, up to 16 MiB, for [`Broker::packets`](crate::Broker::packets).
    pub record: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            ws_port: 0,
            credentials: None,
            response_information: None,
            receive_maximum: None,
            maximum_packet_size: None,
            maximum_qos: None,
            retain_available: true,
            topic_alias_maximum: 0,
            server_keep_alive: None,
            shared_subscription_available: true,
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            no_matching_subscribers: true,
            assign_client_id: true,
            max_queued_messages: 1000,
            record: false,
        }
    }
}

/// Counters since the start, and sizes at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received, of every type.
    pub received: u64,
    /// Packets given to a connection, of every type.
    pub sent: u64,
    /// Messages that a matching subscriber did not get: queue full, expired, too large, or QoS 0 to a slow reader.
    pub dropped: u64,
    /// QoS 1 and 2 messages that wait for a connection or for room in a client's Receive Maximum.
    pub queued: usize,
    /// QoS 1 and 2 messages sent to a subscriber and not yet acknowledged in full.
    pub in_flight: usize,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Packets received by name ("PUBLISH", "PUBACK", ...).
    pub received_by_type: BTreeMap<&'static str, u64>,
    /// Packets sent by name.
    pub sent_by_type: BTreeMap<&'static str, u64>,
}

/// Packet counts by the type number of the fixed header (2.1.2).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub received: [u64; 16],
    pub sent: [u64; 16],
    pub dropped: u64,
}

const NAMES: [&str; 16] = [
    "RESERVED",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

impl Counters {
    pub fn stats(&self) -> Stats {
        let by_name = |counts: &[u64; 16]| NAMES.into_iter().zip(*counts).skip(1).collect();
        Stats {
            received: self.received.iter().sum(),
            sent: self.sent.iter().sum(),
            dropped: self.dropped,
            received_by_type: by_name(&self.received),
            sent_by_type: by_name(&self.sent),
            ..Stats::default()
        }
    }
}
