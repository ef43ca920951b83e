//! CONNECT: owns admission, takeover and resumption of a session, and the CONNACK that says what was agreed (3.1, 3.2).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{ConnAckProperties, Connect, ConnectAuth, ConnectProperties, LastWill};

use crate::faults::REFUSED;
use crate::outbox::Outbox;
use crate::session::{Link, Session, SessionId};
use crate::state::{Farewell, State, Who};
use crate::topics::has_wildcards;
use crate::wire::{self, LARGEST_PACKET, reason};

/// A connection that the broker serves from now on.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub who: Who,
    pub outbox: Arc<Outbox>,
    /// How long the client may be silent: one and a half times the keep alive [MQTT-3.1.2-22].
    pub patience: Option<Duration>,
}

type Refusal = (u8, Option<&'static str>);

impl State {
    /// Admits a client, or returns the CONNACK that refuses it. `packet` is the CONNECT as it came, if it is recorded.
    pub fn connect(
        &mut self,
        connect: Connect,
        will: Option<LastWill>,
        auth: &ConnectAuth,
        packet: &[u8],
    ) -> Result<Admitted, Bytes> {
        self.now = Instant::now();
        self.counters.received[1] += 1;
        let wishes = connect.properties.unwrap_or_default();
        if let Err((code, text)) = self.check_connect(&connect.client_id, &wishes, will.as_ref(), auth) {
            let client_id = connect.client_id.into();
            self.note(&client_id, packet);
            let mut connack = self.refusal(code, text);
            // [MQTT-3.2.2-19]
            if text.is_some() && wishes.max_packet_size.is_some_and(|limit| connack.len() > limit as usize) {
                connack = wire::connack(code, false, None);
            }
            if let Some(record) = &self.record {
                record.add(&client_id, true, &connack);
            }
            return Err(connack);
        }
        let mut agreed = self.announced();
        let mut client_id = connect.client_id;
        if client_id.is_empty() {
            client_id = format!("loopback-{}", self.number());
            agreed.assigned_client_identifier = Some(client_id.clone());
        }
        if wishes.request_response_info == Some(1) {
            agreed.response_information = self.options.response_information.clone();
        }
        let keep_alive = self.options.server_keep_alive.unwrap_or(connect.keep_alive);

        let client_id: Arc<str> = client_id.into();
        self.note(&client_id, packet);
        let record = self.record.clone().map(|record| (record, client_id.clone()));
        let (id, session_present) = self.take_session(client_id, connect.clean_start);
        let who = Who { session: id, link: self.number() };
        let outbox = Arc::new(Outbox::new(self.faults.delay, record));
        let connack = wire::connack(reason::SUCCESS, session_present, Some(agreed));
        outbox.push(false, |out| out.extend_from_slice(&connack));
        self.counters.sent[2] += 1;
        let Some(session) = self.sessions.get_mut(&id) else { return Err(Bytes::new()) };
        session.expiry = wishes.session_expiry_interval.unwrap_or(0);
        session.expires_at = None;
        session.will = will;
        session.will_at = None;
        session.link = Some(Link {
            number: who.link,
            outbox: outbox.clone(),
            receive_maximum: wishes.receive_maximum.unwrap_or(u16::MAX).into(),
            maximum_packet_size: wishes.max_packet_size.map_or(LARGEST_PACKET, |size| size as usize),
            problem_information: wishes.request_problem_info != Some(0),
            aliases: HashMap::new(),
            publishes: 0,
            acknowledged: 0,
        });
        session.resume(self.now, &mut self.counters);
        session.pump(self.now, &mut self.counters);
        log::debug!("{}: connected, session present: {session_present}", session.client_id);
        let patience = (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        Ok(Admitted { who, outbox, patience })
    }

    pub fn refusal(&mut self, code: u8, text: Option<&str>) -> Bytes {
        self.counters.sent[2] += 1;
        let properties =
            text.map(|text| ConnAckProperties { reason_string: Some(text.to_owned()), ..no_properties() });
        wire::connack(code, false, properties)
    }

    fn check_connect(
        &self,
        client_id: &str,
        wishes: &ConnectProperties,
        will: Option<&LastWill>,
        auth: &ConnectAuth,
    ) -> Result<(), Refusal> {
        if let Some(code) = self.faults.refuse_connect {
            return Err((code, Some(REFUSED)));
        }
        if wishes.max_packet_size == Some(0) {
            return Err((reason::PROTOCOL_ERROR, None));
        }
        if wishes.authentication_method.is_some() {
            return Err((reason::BAD_AUTHENTICATION_METHOD, None));
        }
        if let Some((user, secret)) = &self.options.credentials {
            match auth {
                ConnectAuth::UsernamePassword { username, password }
                    if username == user && password == secret.as_bytes() => {}
                _ => return Err((reason::BAD_USER_NAME_OR_PASSWORD, None)),
            }
        }
        if client_id.is_empty() && !self.options.assign_client_id {
            return Err((reason::CLIENT_IDENTIFIER_NOT_VALID, None));
        }
        let Some(will) = will else { return Ok(()) };
        let topic = str::from_utf8(&will.topic).unwrap_or_default();
        if topic.is_empty() || has_wildcards(topic) {
            return Err((reason::TOPIC_NAME_INVALID, None));
        }
        let response_topic =
            will.properties.as_ref().and_then(|properties| properties.response_topic.as_deref());
        if response_topic.is_some_and(has_wildcards) {
            // [MQTT-3.3.2-14]
            return Err((reason::PROTOCOL_ERROR, None));
        }
        if will.qos as u8 > self.options.maximum_qos.unwrap_or(2) {
            return Err((reason::QOS_NOT_SUPPORTED, None));
        }
        if will.retain && !self.options.retain_available {
            return Err((reason::RETAIN_NOT_SUPPORTED, None));
        }
        Ok(())
    }

    /// The session to use, and whether it was there before. An older connection of the client ends here [MQTT-3.1.4-3].
    fn take_session(&mut self, client_id: Arc<str>, clean_start: bool) -> (SessionId, bool) {
        if let Some(id) = self.by_client.get(&client_id).copied() {
            let old = self.sessions.get(&id).and_then(|session| session.link.as_ref());
            if let Some(link) = old.map(|link| link.number) {
                self.detach(Who { session: id, link }, Farewell::Disconnect(reason::SESSION_TAKEN_OVER));
            }
            // The housekeeping may be a moment late.
            let session = self.sessions.get(&id);
            let expired = session.is_some_and(|session| session.expires_at.is_some_and(|at| at <= self.now));
            if session.is_some() && !clean_start && !expired {
                return (id, true);
            }
            self.end_session(id);
        }
        let id = self.number();
        self.by_client.insert(client_id.clone(), id);
        self.sessions.insert(id, Session::new(client_id));
        (id, false)
    }

    /// The limits that every CONNACK announces; what is at its default is left out.
    fn announced(&self) -> ConnAckProperties {
        let options = &self.options;
        let unavailable = |available: bool| if available { None } else { Some(0) };
        ConnAckProperties {
            receive_max: options.receive_maximum,
            max_qos: options.maximum_qos.filter(|qos| *qos < 2),
            retain_available: unavailable(options.retain_available),
            max_packet_size: options.maximum_packet_size,
            topic_alias_max: Some(options.topic_alias_maximum).filter(|maximum| *maximum > 0),
            wildcard_subscription_available: unavailable(options.wildcard_subscription_available),
            subscription_identifiers_available: unavailable(options.subscription_identifiers_available),
            shared_subscription_available: unavailable(options.shared_subscription_available),
            server_keep_alive: options.server_keep_alive,
            ..no_properties()
        }
    }
}

fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
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
