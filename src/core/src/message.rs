//! What travels: a PUBLISH as both ends see it, a CONNACK, an acknowledgement. Plain data under the
//! standard's names; knows neither the codec nor Python.

use bytes::Bytes;

use crate::error::ReasonCode;

/// The properties of a PUBLISH (MQTT 5.0, section 3.3.2.3), Topic Alias aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// 1 when the payload is UTF-8 text.
    pub payload_format_indicator: Option<u8>,
    /// Lifetime of the message in seconds.
    pub message_expiry_interval: Option<u32>,
    /// What the payload is, e.g. `application/json`.
    pub content_type: Option<String>,
    /// Where a response is expected.
    pub response_topic: Option<String>,
    /// What the response has to carry.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs; order and repeated names are kept.
    pub user_properties: Vec<(String, String)>,
    /// The identifiers of the subscriptions that brought this copy.
    pub subscription_identifiers: Vec<u32>,
}

impl Properties {
    /// The value of the first user property with this name.
    #[must_use]
    pub fn user_property(&self, name: &str) -> Option<&str> {
        self.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// One PUBLISH.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The topic name. UTF-8: the codec and the API check it.
    pub topic: Bytes,
    /// The payload, as sent.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is (to be) a retained message.
    pub retain: bool,
    /// Whether it may have been delivered before.
    pub dup: bool,
    /// The rest.
    pub properties: Properties,
}

impl Message {
    /// Roughly what it takes in memory, in bytes: user properties take several times their size on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        let properties = &self.properties;
        let pairs = properties.user_properties.iter().map(|(key, value)| 64 + key.len() + value.len());
        let rest =
            [&properties.response_topic, &properties.content_type].into_iter().flatten().map(String::len);
        256 + self.topic.len() + self.payload.len() + pairs.chain(rest).sum::<usize>()
    }

    /// The topic name as text.
    #[must_use]
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }
}

/// What the broker said when it accepted the connection (MQTT 5.0, section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the broker kept a session for this client.
    pub session_present: bool,
    /// The outcome; an accepted connection has 0x00.
    pub reason_code: ReasonCode,
    /// The client identifier that the broker chose.
    pub assigned_client_identifier: Option<String>,
    /// Seconds the broker keeps the session; `None` as asked for.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 messages may be unacknowledged towards the broker.
    pub receive_maximum: u16,
    /// The highest QoS that the broker takes.
    pub maximum_qos: u8,
    /// Whether retained messages are available.
    pub retain_available: bool,
    /// The largest packet that the broker takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// The highest topic alias that the broker takes.
    pub topic_alias_maximum: u16,
    /// The broker's own words.
    pub reason_string: Option<String>,
    /// Further facts.
    pub user_properties: Vec<(String, String)>,
    /// Whether filters may hold wildcards.
    pub wildcard_subscription_available: bool,
    /// Whether subscriptions may carry an identifier.
    pub subscription_identifiers_available: bool,
    /// Whether `$share/...` works.
    pub shared_subscription_available: bool,
    /// Keep alive in seconds, where the broker overrides it.
    pub server_keep_alive: Option<u16>,
    /// The base of a permitted Response Topic.
    pub response_information: Option<String>,
    /// Another server to use.
    pub server_reference: Option<String>,
}

/// How the broker took a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PubAck {
    /// 0x00, or 0x10 where nobody subscribes.
    pub reason_code: ReasonCode,
    /// The broker's own words.
    pub reason_string: Option<String>,
}
