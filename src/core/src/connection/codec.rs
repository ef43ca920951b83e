//! Between the codec's packets and our own types. Allowed to know rumqttc; holds no state.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::v5::{
    Auth, AuthProperties, AuthReasonCode, ConnAck as ConnAckPacket, Connect, ConnectAuth, ConnectProperties,
    ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode, LastWill, LastWillProperties,
    Packet, Publish, PublishProperties, RetainForwardRule, Subscribe, SubscribeFilter, SubscribeProperties,
    SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS, check};

use crate::command::{Answer, SubscribeOptions};
use crate::error::ReasonCode;
use crate::message::{ConnAck, Message, Properties};
use crate::options::{Options, Secret, Will};

pub(super) const fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// The CONNECT that opens (or resumes) a session.
pub(super) fn connect(options: &Options, client_id: &str, clean_start: bool, answer: Answer) -> Packet {
    let properties = ConnectProperties {
        session_expiry_interval: (options.session_expiry_interval > 0)
            .then_some(options.session_expiry_interval),
        receive_maximum: Some(options.receive_maximum),
        max_packet_size: Some(options.maximum_packet_size),
        topic_alias_max: (options.topic_alias_maximum > 0).then_some(options.topic_alias_maximum),
        request_response_info: options.request_response_information.then_some(1),
        // Reason strings are what an error message is made of (the default, section 3.1.2.11.7).
        request_problem_info: None,
        user_properties: options.user_properties.clone(),
        authentication_method: options.authentication_method.clone(),
        authentication_data: answer.data.as_ref().map(bytes_of),
    };
    let (username, password) = options.credentials();
    let username = answer.username.or_else(|| username.map(str::to_owned));
    let password = answer.password.as_ref().or(password).map(bytes_of);
    let auth = match (username, password) {
        (None, None) => ConnectAuth::None,
        (Some(username), None) => ConnectAuth::Username { username },
        (None, Some(password)) => ConnectAuth::Password { password },
        (Some(username), Some(password)) => ConnectAuth::UsernamePassword { username, password },
    };
    let connect = Connect {
        keep_alive: options.keep_alive,
        client_id: client_id.to_owned(),
        clean_start,
        properties: Some(properties),
    };
    Packet::Connect(connect, options.will.as_ref().map(last_will), auth)
}

fn last_will(will: &Will) -> LastWill {
    LastWill {
        topic: Bytes::copy_from_slice(will.topic.as_bytes()),
        message: will.payload.clone(),
        qos: qos(will.qos),
        retain: will.retain,
        properties: Some(LastWillProperties {
            delay_interval: (will.delay_interval > 0).then_some(will.delay_interval),
            payload_format_indicator: will.payload_format_indicator,
            message_expiry_interval: will.message_expiry_interval,
            content_type: will.content_type.clone(),
            response_topic: will.response_topic.clone(),
            correlation_data: will.correlation_data.clone(),
            user_properties: will.user_properties.clone(),
        }),
    }
}

fn bytes_of(secret: &Secret) -> Bytes {
    Bytes::copy_from_slice(secret.as_bytes())
}

/// Method and data of enhanced authentication, as a packet has them.
pub(super) struct Authentication {
    pub method: Option<String>,
    pub data: Option<Secret>,
}

impl Authentication {
    fn new(method: Option<String>, data: Option<Bytes>) -> Self {
        Self { method, data: data.map(Secret::from) }
    }
}

/// Reason code, method and data of an AUTH.
pub(super) fn read_auth(packet: Auth) -> (AuthReasonCode, Authentication) {
    let properties = packet.properties.unwrap_or_default();
    (packet.code, Authentication::new(properties.method, properties.data))
}

/// The CONNACK in our terms, defaults filled in (section 3.2.2.3); and the last word of enhanced
/// authentication.
pub(super) fn connack(packet: ConnAckPacket) -> (ConnAck, Authentication) {
    let properties = packet.properties.unwrap_or_else(no_connack_properties);
    let flag = |value: Option<u8>| value != Some(0);
    let connack = ConnAck {
        session_present: packet.session_present,
        reason_code: ReasonCode(connect_code(packet.code)),
        assigned_client_identifier: properties.assigned_client_identifier,
        session_expiry_interval: properties.session_expiry_interval,
        receive_maximum: properties.receive_max.unwrap_or(u16::MAX),
        maximum_qos: properties.max_qos.unwrap_or(2),
        retain_available: flag(properties.retain_available),
        maximum_packet_size: properties.max_packet_size,
        topic_alias_maximum: properties.topic_alias_max.unwrap_or(0),
        reason_string: properties.reason_string,
        user_properties: properties.user_properties,
        wildcard_subscription_available: flag(properties.wildcard_subscription_available),
        subscription_identifiers_available: flag(properties.subscription_identifiers_available),
        shared_subscription_available: flag(properties.shared_subscription_available),
        server_keep_alive: properties.server_keep_alive,
        response_information: properties.response_information,
        server_reference: properties.server_reference,
    };
    (connack, Authentication::new(properties.authentication_method, properties.authentication_data))
}

pub(super) const fn no_connack_properties() -> rumqttc::mqttbytes::v5::ConnAckProperties {
    rumqttc::mqttbytes::v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

const fn connect_code(code: ConnectReturnCode) -> u8 {
    use ConnectReturnCode as Code;
    match code {
        Code::Success => 0x00,
        // The codes of MQTT 3.1.1 (1 to 3), by their successors.
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => 0x84,
        Code::BadClientId | Code::ClientIdentifierNotValid => 0x85,
        Code::ServiceUnavailable | Code::ServerUnavailable => 0x88,
        Code::UnspecifiedError => 0x80,
        Code::MalformedPacket => 0x81,
        Code::ProtocolError => 0x82,
        Code::ImplementationSpecificError => 0x83,
        Code::BadUserNamePassword => 0x86,
        Code::NotAuthorized => 0x87,
        Code::ServerBusy => 0x89,
        Code::Banned => 0x8A,
        Code::BadAuthenticationMethod => 0x8C,
        Code::TopicNameInvalid => 0x90,
        Code::PacketTooLarge => 0x95,
        Code::QuotaExceeded => 0x97,
        Code::PayloadFormatInvalid => 0x99,
        Code::RetainNotSupported => 0x9A,
        Code::QoSNotSupported => 0x9B,
        Code::UseAnotherServer => 0x9C,
        Code::ServerMoved => 0x9D,
        Code::ConnectionRateExceeded => 0x9F,
    }
}

pub(super) fn publish(message: Message) -> Publish {
    let properties = message.properties;
    Publish {
        dup: message.dup,
        qos: qos(message.qos),
        retain: message.retain,
        topic: message.topic,
        pkid: 0,
        payload: message.payload,
        properties: Some(PublishProperties {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: properties.message_expiry_interval,
            topic_alias: None,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            subscription_identifiers: Vec::new(),
            content_type: properties.content_type,
        }),
    }
}

/// A PUBLISH of ours that was never acknowledged, as a message again.
pub(super) fn message(packet: Publish) -> Message {
    let properties = packet.properties.unwrap_or_default();
    Message {
        topic: packet.topic,
        payload: packet.payload,
        qos: packet.qos as u8,
        retain: packet.retain,
        dup: false,
        properties: Properties {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: properties.message_expiry_interval,
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            subscription_identifiers: Vec::new(),
        },
    }
}

/// Frames up to this size are copied out of the read buffer.
const COPY_UP_TO: usize = 4096;

/// A part of a frame that may be kept for long, e.g. Correlation Data in the memory of answered requests. As a
/// slice it would hold the whole frame: 16 bytes with a megabyte of payload behind them.
fn detached(part: Bytes, frame: usize) -> Bytes {
    if frame <= COPY_UP_TO { part } else { Bytes::copy_from_slice(&part) }
}

/// One packet from the broker.
pub(super) enum Incoming {
    Publish { message: Message, pkid: u16, alias: Option<u16> },
    Other(Packet),
}

/// Reads the next packet; `None`: more bytes are needed.
///
/// PUBLISH is read here: the codec miscounts several Subscription Identifiers and then takes a part of the
/// properties for the payload. A DISCONNECT that ends after its reason code is legal (section 3.14.2.2.1), but
/// not to the codec; and what the codec misses in a complete frame will never come.
pub(super) fn read(input: &mut BytesMut, maximum: u32) -> Result<Option<Incoming>, CodecError> {
    if input.first().is_some_and(|first| !is_first_byte(*first)) {
        // Known at once: what follows is no packet, and might never be as long as it seems to say.
        return Err(CodecError::MalformedPacket);
    }
    let header = match check(input.iter(), Some(maximum)) {
        Ok(header) => header,
        Err(CodecError::InsufficientBytes(more)) => {
            // No more than is here already: a length alone, of up to 256 MiB, must not make us allocate.
            input.reserve(more.min(input.len().max(COPY_UP_TO)));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let length = header.frame_length();
    match input[0] >> 4 {
        3 => {
            // A small message gets a buffer of its own: as a slice it would hold all that was read with it, for
            // as long as anybody keeps it, and the read buffer could not be used again.
            let frame = if length <= COPY_UP_TO {
                let copy = Bytes::copy_from_slice(&input[..length]);
                input.advance(length);
                copy
            } else {
                input.split_to(length).freeze()
            };
            read_publish(frame).map(Some)
        }
        // Likewise an AUTH 0x00 without properties (section 3.15.2.1).
        15 if input[..length.min(2)] == [0xF0, 0] => {
            input.advance(length);
            Ok(Some(Incoming::Other(Packet::Auth(Auth::new(AuthReasonCode::Success, None)))))
        }
        14 if input[..length.min(2)] == [0xE0, 1] => {
            let code = DisconnectReasonCode::try_from(input[2])?;
            input.advance(length);
            Ok(Some(Incoming::Other(disconnect(code, None))))
        }
        // Without a length of properties, which MQTT 5 demands (section 3.2.2.3): the CONNACK of MQTT 3.
        2 if length == 4 => Err(CodecError::InvalidProtocol),
        _ => match Packet::read(input, Some(maximum)) {
            Ok(packet) => Ok(Some(Incoming::Other(packet))),
            Err(CodecError::InsufficientBytes(_)) => Err(CodecError::MalformedPacket),
            Err(error) => Err(error),
        },
    }
}

/// Whether a packet may begin like this: its type, and the flags that belong to it (sections 2.1.2 and 2.1.3).
const fn is_first_byte(byte: u8) -> bool {
    match byte >> 4 {
        0 => false,
        3 => true,
        6 | 8 | 10 => byte & 15 == 2,
        _ => byte & 15 == 0,
    }
}

fn read_publish(mut frame: Bytes) -> Result<Incoming, CodecError> {
    let size = frame.len();
    let first = frame.get_u8();
    let _remaining = variable_integer(&mut frame)?;
    let qos = first >> 1 & 3;
    let dup = first & 8 != 0;
    if qos == 3 || qos == 0 && dup {
        return Err(CodecError::MalformedPacket);
    }
    let topic = detached(binary(&mut frame)?, size);
    let name = std::str::from_utf8(&topic).map_err(|source| CodecError::TopicNotUtf8 { source })?;
    if name.contains(['+', '#', '\0']) {
        return Err(CodecError::MalformedPacket);
    }
    let pkid = if qos == 0 { 0 } else { frame.try_get_u16().map_err(|_| CodecError::MalformedPacket)? };
    if qos > 0 && pkid == 0 {
        return Err(CodecError::PacketIdZero);
    }
    let length = variable_integer(&mut frame)?;
    if length > frame.len() {
        return Err(CodecError::MalformedPacket);
    }
    let (mut properties, alias) = read_properties(frame.split_to(length))?;
    properties.correlation_data = properties.correlation_data.map(|data| detached(data, size));
    if topic.is_empty() && alias.is_none() {
        return Err(CodecError::ProtocolError);
    }
    let message = Message { topic, payload: frame, qos, retain: first & 1 != 0, dup, properties };
    Ok(Incoming::Publish { message, pkid, alias })
}

/// The properties of a PUBLISH (section 3.3.2.3); each but two may occur once.
fn read_properties(mut bytes: Bytes) -> Result<(Properties, Option<u16>), CodecError> {
    let mut properties = Properties::default();
    let mut alias = None;
    while bytes.has_remaining() {
        let kind = bytes.get_u8();
        let malformed = |_| CodecError::MalformedPacket;
        let repeated = match kind {
            0x01 => {
                properties.payload_format_indicator.replace(bytes.try_get_u8().map_err(malformed)?).is_some()
            }
            0x02 => {
                properties.message_expiry_interval.replace(bytes.try_get_u32().map_err(malformed)?).is_some()
            }
            0x03 => properties.content_type.replace(text(&mut bytes)?).is_some(),
            0x08 => properties.response_topic.replace(text(&mut bytes)?).is_some(),
            0x09 => properties.correlation_data.replace(binary(&mut bytes)?).is_some(),
            0x0B => {
                let id = variable_integer(&mut bytes)?;
                properties.subscription_identifiers.push(u32::try_from(id).unwrap_or(u32::MAX));
                id == 0
            }
            0x23 => {
                let number = bytes.try_get_u16().map_err(malformed)?;
                if number == 0 {
                    return Err(CodecError::ProtocolViolation(DisconnectReasonCode::TopicAliasInvalid));
                }
                alias.replace(number).is_some()
            }
            0x26 => {
                properties.user_properties.push((text(&mut bytes)?, text(&mut bytes)?));
                false
            }
            other => return Err(CodecError::InvalidPropertyType(other)),
        };
        if repeated {
            return Err(CodecError::ProtocolError);
        }
    }
    Ok((properties, alias))
}

fn binary(bytes: &mut Bytes) -> Result<Bytes, CodecError> {
    let length = usize::from(bytes.try_get_u16().map_err(|_| CodecError::MalformedPacket)?);
    if length > bytes.len() {
        return Err(CodecError::MalformedPacket);
    }
    Ok(bytes.split_to(length))
}

fn text(bytes: &mut Bytes) -> Result<String, CodecError> {
    let raw = binary(bytes)?;
    let text = std::str::from_utf8(&raw)?;
    if text.contains('\0') {
        return Err(CodecError::MalformedPacket);
    }
    Ok(text.to_owned())
}

/// A Variable Byte Integer (section 1.5.5).
fn variable_integer(bytes: &mut Bytes) -> Result<usize, CodecError> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = bytes.try_get_u8().map_err(|_| CodecError::MalformedPacket)?;
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CodecError::MalformedRemainingLength)
}

pub(super) fn subscribe(pkid: u16, filter: &str, options: &SubscribeOptions, identifiers: bool) -> Packet {
    let id = options.subscription_identifier.filter(|_| identifiers).map(|id| id as usize);
    Packet::Subscribe(Subscribe {
        pkid,
        filters: vec![SubscribeFilter {
            path: filter.to_owned(),
            qos: qos(options.qos),
            // No Local with a shared subscription is a Protocol Error [MQTT-3.8.3-4].
            nolocal: options.no_local && !filter.starts_with("$share/"),
            preserve_retain: options.retain_as_published,
            retain_forward_rule: match options.retain_handling {
                0 => RetainForwardRule::OnEverySubscribe,
                1 => RetainForwardRule::OnNewSubscribe,
                _ => RetainForwardRule::Never,
            },
        }],
        properties: id.map(|id| SubscribeProperties { id: Some(id), user_properties: Vec::new() }),
    })
}

pub(super) const fn suback_code(code: SubscribeReasonCode) -> ReasonCode {
    use SubscribeReasonCode as Code;
    ReasonCode(match code {
        Code::Success(qos) => qos as u8,
        Code::Failure | Code::Unspecified => 0x80,
        Code::ImplementationSpecific => 0x83,
        Code::NotAuthorized => 0x87,
        Code::TopicFilterInvalid => 0x8F,
        Code::PkidInUse => 0x91,
        Code::QuotaExceeded => 0x97,
        Code::SharedSubscriptionsNotSupported => 0x9E,
        Code::SubscriptionIdNotSupported => 0xA1,
        Code::WildcardSubscriptionsNotSupported => 0xA2,
    })
}

pub(super) fn disconnect(reason_code: DisconnectReasonCode, reason_string: Option<String>) -> Packet {
    Packet::Disconnect(Disconnect {
        reason_code,
        properties: reason_string.map(|reason_string| DisconnectProperties {
            session_expiry_interval: None,
            reason_string: Some(reason_string),
            user_properties: Vec::new(),
            server_reference: None,
        }),
    })
}

pub(super) fn auth(code: AuthReasonCode, options: &Options, data: Option<&Secret>) -> Packet {
    let properties = AuthProperties {
        method: options.authentication_method.clone(),
        data: data.map(bytes_of),
        reason: None,
        user_properties: Vec::new(),
    };
    Packet::Auth(Auth { code, properties: Some(properties) })
}

/// Writes a packet whose size and strings were checked before.
pub(super) fn write(packet: &Packet, out: &mut BytesMut) {
    let start = out.len();
    if let Err(error) = packet.write(out, None) {
        // Half a packet would break the stream for everybody else.
        out.truncate(start);
        log::error!(target: "reqtt.connection", "a packet could not be encoded: {error}");
    }
}

/// What the standard calls a packet that the codec could not read.
pub(super) const fn violation(error: &CodecError) -> DisconnectReasonCode {
    match error {
        CodecError::PayloadSizeLimitExceeded { .. } => DisconnectReasonCode::PacketTooLarge,
        CodecError::ProtocolViolation(code) => *code,
        CodecError::ProtocolError | CodecError::PacketIdZero | CodecError::InvalidQoS(_) => {
            DisconnectReasonCode::ProtocolError
        }
        _ => DisconnectReasonCode::MalformedPacket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: Message, pkid: u16) -> Message {
        let mut packet = publish(message);
        packet.pkid = pkid;
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes).unwrap();
        match read(&mut bytes, u32::MAX).unwrap() {
            Some(Incoming::Publish { message, pkid: read, alias: None }) if read == pkid => message,
            _ => panic!("no PUBLISH came back"),
        }
    }

    #[test]
    fn a_publish_keeps_every_property() {
        let message = Message {
            topic: Bytes::from_static("cmnd/l\u{e4}mp".as_bytes()),
            payload: Bytes::from_static(&[0, 255, 1]),
            qos: 1,
            retain: true,
            dup: false,
            properties: Properties {
                payload_format_indicator: Some(0),
                message_expiry_interval: Some(7),
                content_type: Some("a/b".into()),
                response_topic: Some("r/1".into()),
                correlation_data: Some(Bytes::from_static(&[0, 0xFF])),
                user_properties: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
                subscription_identifiers: Vec::new(),
            },
        };
        assert_eq!(round_trip(message.clone(), 9), message);
    }

    #[test]
    fn many_subscription_identifiers_leave_the_payload_alone() {
        let mut frame = vec![0x30, 0, 0, 1, b't', 10, 11, 1, 11, 2, 11, 3, 11, 4, 11, 5];
        frame.extend_from_slice(b"payload");
        frame[1] = u8::try_from(frame.len() - 2).unwrap();
        let Some(Incoming::Publish { message, .. }) = read(&mut BytesMut::from(&frame[..]), 1000).unwrap()
        else {
            panic!("no PUBLISH");
        };
        assert_eq!(message.properties.subscription_identifiers, [1, 2, 3, 4, 5]);
        assert_eq!(&message.payload[..], b"payload");
    }

    #[test]
    fn what_is_kept_of_a_large_message_does_not_hold_its_payload() {
        let message = Message {
            topic: Bytes::from_static(b"t"),
            payload: vec![0; 100_000].into(),
            properties: Properties {
                correlation_data: Some(Bytes::from_static(b"c")),
                ..Properties::default()
            },
            ..Message::default()
        };
        let message = round_trip(message, 0);
        // Whoever holds the only reference to a buffer gets it back as it is.
        for part in [message.topic, message.properties.correlation_data.unwrap()] {
            assert!(part.try_into_mut().unwrap().capacity() < 100);
        }
    }

    #[test]
    fn a_length_alone_allocates_nothing() {
        let mut input = BytesMut::from(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..]);
        assert!(matches!(read(&mut input, u32::MAX), Ok(None)));
        assert!(input.capacity() <= 2 * COPY_UP_TO);
    }

    #[test]
    fn a_disconnect_may_end_after_its_reason_code() {
        let read = read(&mut BytesMut::from(&[0xE0, 1, 0x8E][..]), 100).unwrap();
        assert!(matches!(read, Some(Incoming::Other(Packet::Disconnect(_)))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_wait_for_ever(bytes: Vec<u8>) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = read(&mut input, 1000) {}
        }

        #[test]
        fn a_broken_publish_is_an_error_or_a_message(body in proptest::collection::vec(proptest::num::u8::ANY, 0..60), flags in 0_u8..16) {
            let mut frame = vec![0x30 | flags, u8::try_from(body.len()).unwrap()];
            frame.extend(body);
            let length = frame.len();
            let mut input = BytesMut::from(&frame[..]);
            if let Ok(Some(_)) = read(&mut input, 1000) {
                assert_eq!(input.len(), 0, "{length} bytes are one frame");
            }
        }
    }
}
