//! One error type, with MQTT 5 reason codes by their standard names. Owns the words a user reads when
//! something fails: what was tried, what came back, what to do. Knows nothing of Python or of the codec.

use std::fmt;
use std::time::Duration;

use crate::topic;

/// A reason code as the other end sent it (MQTT 5.0, section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    /// 0x00: the operation succeeded.
    pub const SUCCESS: Self = Self(0x00);
    /// 0x10: accepted, but no subscriber matches the topic.
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    /// 0x8E: another connection uses the same client identifier.
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);

    /// The standard's name of this code, e.g. `Not authorized`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x00 => "Success",
            0x01 => "Granted QoS 1",
            0x02 => "Granted QoS 2",
            0x04 => "Disconnect with Will Message",
            0x10 => "No matching subscribers",
            0x11 => "No subscription existed",
            0x18 => "Continue authentication",
            0x19 => "Re-authenticate",
            0x80 => "Unspecified error",
            0x81 => "Malformed Packet",
            0x82 => "Protocol Error",
            0x83 => "Implementation specific error",
            0x84 => "Unsupported Protocol Version",
            0x85 => "Client Identifier not valid",
            0x86 => "Bad User Name or Password",
            0x87 => "Not authorized",
            0x88 => "Server unavailable",
            0x89 => "Server busy",
            0x8A => "Banned",
            0x8B => "Server shutting down",
            0x8C => "Bad authentication method",
            0x8D => "Keep Alive timeout",
            0x8E => "Session taken over",
            0x8F => "Topic Filter invalid",
            0x90 => "Topic Name invalid",
            0x91 => "Packet Identifier in use",
            0x92 => "Packet Identifier not found",
            0x93 => "Receive Maximum exceeded",
            0x94 => "Topic Alias invalid",
            0x95 => "Packet too large",
            0x96 => "Message rate too high",
            0x97 => "Quota exceeded",
            0x98 => "Administrative action",
            0x99 => "Payload format invalid",
            0x9A => "Retain not supported",
            0x9B => "QoS not supported",
            0x9C => "Use another server",
            0x9D => "Server moved",
            0x9E => "Shared Subscriptions not supported",
            0x9F => "Connection rate exceeded",
            0xA0 => "Maximum connect time",
            0xA1 => "Subscription Identifiers not supported",
            0xA2 => "Wildcard Subscriptions not supported",
            _ => "unknown reason code",
        }
    }

    /// Whether the standard counts this code as a failure (0x80 and above).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} {}", self.0, self.name())
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a request had come when its time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There was no connection to send it on.
    Connect,
    /// The response topic was not yet acknowledged as subscribed.
    Subscribe,
    /// It was not yet sent, or not yet acknowledged by the broker.
    Publish,
    /// The broker had it; no response came.
    Response,
}

impl Phase {
    /// The name used in the public API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Response => "response",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::Connect => "there was no connection to the broker: check that it is reachable",
            Self::Subscribe => {
                "the broker did not acknowledge the subscription to the response topic: check its load and permissions"
            }
            Self::Publish => {
                "the broker did not acknowledge the request, or it waited for room (receive maximum, max_pending_requests)"
            }
            Self::Response => {
                "the broker has the request, but no response came: check that a responder runs, or give it more time"
            }
        }
    }
}

/// Everything that can go wrong, once, with the facts the caller needs.
#[derive(Debug, Clone)]
pub enum Error {
    /// The connection could not be made. `reason_code` is `None` when there was no CONNACK.
    Connect {
        /// Where to, without credentials.
        url: String,
        /// The CONNACK's reason code, if there was one.
        reason_code: Option<ReasonCode>,
        /// The broker's own words, if it sent any.
        reason_string: Option<String>,
        /// What failed where there was no CONNACK, and what to do.
        detail: String,
    },
    /// The connection is gone and will not come back, or a request may not be sent again on a new one.
    ConnectionLost {
        /// The DISCONNECT's reason code, if the broker sent one.
        reason_code: Option<ReasonCode>,
        /// What happened, and what to do.
        detail: String,
    },
    /// The client was closed by its owner.
    ClientClosed,
    /// The broker refused a SUBSCRIBE.
    Subscribe {
        /// The filter as sent.
        topic_filter: String,
        /// The SUBACK's reason code.
        reason_code: ReasonCode,
        /// The broker's own words, if it sent any.
        reason_string: Option<String>,
        /// Whether the filter was that of a response topic (the advice differs).
        for_responses: bool,
    },
    /// The broker refused a PUBLISH.
    Publish {
        /// The topic name as sent.
        topic: String,
        /// The PUBACK's or PUBREC's reason code.
        reason_code: ReasonCode,
        /// The broker's own words, if it sent any.
        reason_string: Option<String>,
    },
    /// The broker took the request, and said that nobody subscribes to its topic (0x10).
    NoMatchingSubscribers {
        /// The topic name as sent.
        topic: String,
    },
    /// No response within the time given.
    Timeout {
        /// The request topic.
        topic: String,
        /// The time given, all steps together.
        timeout: Duration,
        /// How far the request had come.
        phase: Phase,
    },
    /// A topic name or filter that MQTT does not allow.
    InvalidTopic {
        /// The topic, shortened where it is long.
        topic: String,
        /// Which rule it breaks, and what to do.
        reason: String,
    },
    /// Any other argument that cannot be sent.
    InvalidArgument(String),
    /// The packet would be larger than the broker takes.
    PacketTooLarge {
        /// The topic name.
        topic: String,
        /// The size of the whole packet, in bytes.
        size: usize,
        /// What the broker takes, in bytes.
        maximum: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { url, reason_code: Some(code), reason_string, .. } => {
                write!(f, "broker at {url} refused CONNECT ({code}")?;
                reason(f, reason_string.as_deref())?;
                write!(f, "): {}", connect_advice(*code))
            }
            Self::Connect { url, detail, .. } => write!(f, "cannot connect to {url}: {detail}"),
            Self::ConnectionLost { reason_code: Some(code), detail } => {
                write!(f, "connection lost (DISCONNECT {code}): {detail}")
            }
            Self::ConnectionLost { detail, .. } => write!(f, "connection lost: {detail}"),
            Self::ClientClosed => {
                f.write_str("the client is closed: open a new one, or keep it open until the work is done")
            }
            Self::Subscribe { topic_filter, reason_code, reason_string, for_responses } => {
                write!(f, "broker refused SUBSCRIBE to \"{topic_filter}\" ({reason_code}")?;
                reason(f, reason_string.as_deref())?;
                f.write_str("): ")?;
                match (reason_code.0, for_responses) {
                    (0x87, true) => {
                        f.write_str("allow this client to subscribe there, or set response_topic=")
                    }
                    (0x87, false) => f.write_str("allow this client to subscribe there"),
                    (0x9E, _) => f.write_str("this broker has no shared subscriptions: leave out group="),
                    (0xA2, _) => f.write_str("this broker has no wildcard subscriptions: name each topic"),
                    (_, true) => f.write_str("see the broker's log, or set response_topic="),
                    (_, false) => f.write_str("see the broker's log"),
                }
            }
            Self::Publish { topic, reason_code, reason_string } => {
                write!(f, "broker refused PUBLISH to \"{topic}\" ({reason_code}")?;
                reason(f, reason_string.as_deref())?;
                f.write_str("): ")?;
                f.write_str(match reason_code.0 {
                    0x87 => "allow this client to publish there",
                    0x90 => "use a topic name that the broker accepts",
                    0x97 => "the broker's quota is used up: send less, or raise it",
                    0x99 => "the payload does not match payload_format_indicator",
                    0x9A => "this broker keeps no retained messages: leave out retain=",
                    0x9B => "this broker takes a lower QoS only: lower qos=",
                    _ => "see the broker's log",
                })
            }
            Self::NoMatchingSubscribers { topic } => write!(
                f,
                "nobody subscribes to \"{topic}\" (PUBACK 0x10 No matching subscribers): start the responder, or check the topic (fail_fast=False waits for a response all the same)"
            ),
            Self::Timeout { topic, timeout, phase } => write!(
                f,
                "no response from \"{topic}\" within {} s (phase: {}): {}",
                timeout.as_secs_f64(),
                phase.name(),
                phase.explanation()
            ),
            Self::InvalidTopic { topic, reason } => write!(f, "invalid topic \"{topic}\": {reason}"),
            Self::InvalidArgument(what) => f.write_str(what),
            Self::PacketTooLarge { topic, size, maximum } => write!(
                f,
                "PUBLISH to \"{topic}\" would take {size} bytes, the broker accepts {maximum} (Maximum Packet Size): send less, or raise the broker's limit"
            ),
        }
    }
}

impl std::error::Error for Error {}

fn reason(f: &mut fmt::Formatter<'_>, text: Option<&str>) -> fmt::Result {
    // The broker's own words: one line, and not a page.
    text.map_or(Ok(()), |text| write!(f, ", \"{}\"", topic::one_line(text, 1000)))
}

const fn connect_advice(code: ReasonCode) -> &'static str {
    match code.0 {
        0x84 => "the broker does not speak MQTT 5: use one that does",
        0x85 => "choose another client_id=",
        0x86 => "check username= and password=",
        0x87 => "allow this client to connect, or check username= and password=",
        0x88 | 0x89 => "the broker is busy: try again later",
        0x8A => "this client is banned: ask the broker's operator",
        0x8C => "use an authentication method that the broker offers",
        0x95 => "the CONNECT packet is too large: shorten the will or the user properties",
        0x9C | 0x9D => "connect to the server that the broker names",
        0x9A => "this broker keeps no retained messages: leave out the will's retain=",
        0x9B => "lower the will's qos=",
        0x9F => "too many connections at a time: wait before the next",
        _ => "see the broker's log",
    }
}

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_words_stay_on_one_line() {
        let error = Error::Publish {
            topic: "t".into(),
            reason_code: ReasonCode(0x87),
            reason_string: Some(format!("no\n2026-01-01 ERROR all is lost\u{1b}[2J{}", "x".repeat(5_000))),
        };
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 1_200, "{text}");
    }

    #[test]
    fn a_refused_response_filter_says_what_to_do() {
        let error = Error::Subscribe {
            topic_filter: "clients/panel-7/responses/x".into(),
            reason_code: ReasonCode(0x87),
            reason_string: None,
            for_responses: true,
        };
        assert_eq!(
            error.to_string(),
            "broker refused SUBSCRIBE to \"clients/panel-7/responses/x\" (0x87 Not authorized): \
             allow this client to subscribe there, or set response_topic="
        );
    }
}
