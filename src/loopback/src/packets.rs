//! Packets after CONNECT: owns what each of them does to the session, and the answer it gets. An `Err` is the reason code
//! of the DISCONNECT that ends the connection.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rumqttc::mqttbytes::v5::{
    Disconnect, Packet, Publish, RetainForwardRule, Subscribe, SubscribeFilter, Unsubscribe,
};

use crate::faults::REFUSED;
use crate::session::{Link, SessionId};
use crate::state::{Farewell, State, Who};
use crate::topics::{Granted, has_wildcards, split_share, valid_filter};
use crate::wire::{self, Message, first_byte, reason};

impl State {
    /// Handles every whole packet of `input`; false when the connection is no longer the session's.
    pub fn process(&mut self, who: Who, input: &mut BytesMut) -> bool {
        self.now = Instant::now();
        while self.attached(who) {
            if self.record.is_some()
                && let Some(session) = self.sessions.get(&who.session)
            {
                self.note(&session.client_id, input);
            }
            let handled = match wire::next_packet(input, self.options.maximum_packet_size) {
                Ok(None) => return true,
                Ok(Some(packet)) => self.handle(who, packet),
                Err(code) => Err(code),
            };
            if let Err(code) = handled {
                self.detach(who, Farewell::Disconnect(code));
            }
        }
        false
    }

    fn handle(&mut self, who: Who, packet: Packet) -> Result<(), u8> {
        self.counters.received[packet.packet_type() as usize] += 1;
        let id = who.session;
        match packet {
            Packet::Publish(publish) => self.on_publish(id, publish)?,
            Packet::PubAck(ack) => {
                let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
                session.on_puback(ack.pkid);
                session.pump(self.now, &mut self.counters);
            }
            Packet::PubRec(ack) => {
                let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
                let answer = session.on_pubrec(ack.pkid, ack.reason as u8 >= 0x80);
                session.pump(self.now, &mut self.counters);
                if let Some(code) = answer {
                    self.acknowledge(id, first_byte::PUBREL, ack.pkid, code, None);
                }
            }
            Packet::PubComp(ack) => {
                let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
                session.on_pubcomp(ack.pkid);
                session.pump(self.now, &mut self.counters);
            }
            Packet::PubRel(release) => {
                let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
                let known = session.incoming.remove(&release.pkid);
                let code = if known { reason::SUCCESS } else { reason::PACKET_IDENTIFIER_NOT_FOUND };
                self.acknowledge(id, first_byte::PUBCOMP, release.pkid, code, None);
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(id, &subscribe)?,
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(id, &unsubscribe)?,
            Packet::PingReq => {
                self.counters.sent[13] += 1;
                if let Some(link) = self.link(id) {
                    link.outbox.push(false, |out| out.extend_from_slice(&[first_byte::PINGRESP, 0]));
                }
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(who, &disconnect)?,
            // A second CONNECT [MQTT-3.1.0-2], AUTH without an authentication method, or a packet that only servers send.
            _ => return Err(reason::PROTOCOL_ERROR),
        }
        Ok(())
    }

    fn link(&mut self, id: SessionId) -> Option<&mut Link> {
        self.sessions.get_mut(&id)?.link.as_mut()
    }

    fn acknowledge(&mut self, id: SessionId, first: u8, packet_id: u16, code: u8, text: Option<&str>) {
        let Some(link) = self.link(id) else { return };
        // The exchange is over for the client's send quota: PUBACK, PUBCOMP, or a PUBREC that refuses (4.9).
        let done = match first {
            first_byte::PUBREC => code >= 0x80,
            first_byte::PUBREL => false,
            _ => true,
        };
        let text = text.filter(|_| link.problem_information);
        link.outbox.push(done, |out| {
            let start = out.len();
            wire::write_ack(out, first, packet_id, code, text);
            // [MQTT-3.4.2-2]: no Reason String that makes the packet too large for the client.
            if text.is_some() && out.len() - start > link.maximum_packet_size {
                out.truncate(start);
                wire::write_ack(out, first, packet_id, code, None);
            }
        });
        self.counters.sent[usize::from(first >> 4)] += 1;
    }

    fn on_publish(&mut self, id: SessionId, mut publish: Publish) -> Result<(), u8> {
        let qos = publish.qos as u8;
        let packet_id = publish.pkid;
        self.check_publish(id, &mut publish)?;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let ack = if qos == 2 { first_byte::PUBREC } else { first_byte::PUBACK };
        if qos == 2 && !session.incoming.insert(packet_id) {
            if !self.faults.drop_puback {
                self.acknowledge(id, ack, packet_id, reason::SUCCESS, None);
            }
            return Ok(());
        }
        let retain = publish.retain;
        let message = Message::new(publish, self.now).ok_or(reason::MALFORMED_PACKET)?;
        let refusal = self.faults.publish_refusal(&message.topic);
        let (code, text) = match refusal {
            Some(code) => (code, Some(REFUSED)),
            None => (self.publish(Arc::new(message), retain, Some(id)), None),
        };
        if qos == 0 {
            return Ok(());
        }
        if qos == 2
            && code >= 0x80
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.incoming.remove(&packet_id);
        }
        if !self.faults.drop_puback {
            self.acknowledge(id, ack, packet_id, code, text);
        }
        Ok(())
    }

    /// The rules of 3.3 that the codec leaves to the server; resolves a topic alias.
    fn check_publish(&mut self, id: SessionId, publish: &mut Publish) -> Result<(), u8> {
        let aliases = self.options.topic_alias_maximum;
        let receive_maximum = self.options.receive_maximum.unwrap_or(u16::MAX);
        if publish.qos as u8 > self.options.maximum_qos.unwrap_or(2) {
            return Err(reason::QOS_NOT_SUPPORTED);
        }
        if publish.retain && !self.options.retain_available {
            return Err(reason::RETAIN_NOT_SUPPORTED);
        }
        let Some(link) = self.link(id) else { return Ok(()) };
        if publish.qos as u8 > 0 {
            link.publishes += 1;
            if link.publishes - link.acknowledged > receive_maximum.into() {
                link.acknowledged = link.outbox.acks_taken().min(link.publishes);
                if link.publishes - link.acknowledged > receive_maximum.into() {
                    return Err(reason::RECEIVE_MAXIMUM_EXCEEDED);
                }
            }
        }
        let Some(properties) = &publish.properties else {
            return if publish.topic.is_empty() { Err(reason::PROTOCOL_ERROR) } else { Ok(()) };
        };
        let response_topic = properties.response_topic.as_deref();
        if response_topic.is_some_and(has_wildcards)
            || !properties.subscription_identifiers.is_empty()
            || properties.payload_format_indicator.is_some_and(|indicator| indicator > 1)
        {
            return Err(reason::PROTOCOL_ERROR);
        }
        match properties.topic_alias {
            Some(alias) if alias > aliases => return Err(reason::TOPIC_ALIAS_INVALID),
            Some(alias) if publish.topic.is_empty() => {
                publish.topic = link.aliases.get(&alias).ok_or(reason::PROTOCOL_ERROR)?.clone();
            }
            Some(alias) => {
                link.aliases.insert(alias, publish.topic.clone());
            }
            None if publish.topic.is_empty() => return Err(reason::PROTOCOL_ERROR),
            None => {}
        }
        Ok(())
    }

    fn on_subscribe(&mut self, id: SessionId, subscribe: &Subscribe) -> Result<(), u8> {
        let identifier = subscribe.properties.as_ref().and_then(|properties| properties.id);
        let identifier = identifier.and_then(|identifier| u32::try_from(identifier).ok());
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut retained = Vec::new();
        let mut text = None;
        for filter in &subscribe.filters {
            let shared = filter.path.starts_with("$share/");
            if shared && filter.nolocal {
                // [MQTT-3.8.3-4]
                return Err(reason::PROTOCOL_ERROR);
            }
            if let Some(code) = self.faults.subscribe_refusal(&filter.path) {
                codes.push(code);
                text = Some(REFUSED);
                continue;
            }
            match self.subscribe(id, filter, identifier) {
                Ok((granted, new)) => {
                    codes.push(granted.qos);
                    let wanted = match filter.retain_forward_rule {
                        RetainForwardRule::OnEverySubscribe => true,
                        RetainForwardRule::OnNewSubscribe => new,
                        RetainForwardRule::Never => false,
                    };
                    if wanted && !shared {
                        retained.push((filter.path.as_str(), granted));
                    }
                }
                Err(code) => codes.push(code),
            }
        }
        self.send_suback(id, subscribe.pkid, &codes, text);
        for (filter, granted) in retained {
            self.send_retained(id, filter, granted);
        }
        Ok(())
    }

    /// Adds or replaces one subscription; says whether it is new.
    fn subscribe(
        &mut self,
        id: SessionId,
        filter: &SubscribeFilter,
        identifier: Option<u32>,
    ) -> Result<(Granted, bool), u8> {
        let (group, inner) = split_share(&filter.path).map_err(|()| reason::TOPIC_FILTER_INVALID)?;
        if !valid_filter(inner) {
            return Err(reason::TOPIC_FILTER_INVALID);
        }
        if group.is_some() && !self.options.shared_subscription_available {
            return Err(reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if has_wildcards(inner) && !self.options.wildcard_subscription_available {
            return Err(reason::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if identifier.is_some() && !self.options.subscription_identifiers_available {
            return Err(reason::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED);
        }
        let granted = Granted {
            qos: (filter.qos as u8).min(self.options.maximum_qos.unwrap_or(2)),
            no_local: filter.nolocal,
            retain_as_published: filter.preserve_retain,
            identifier,
        };
        self.tree.insert(&filter.path, id, granted);
        let session = self.sessions.get_mut(&id).ok_or(reason::PROTOCOL_ERROR)?;
        let old = session.subscriptions.insert(filter.path.clone(), granted);
        Ok((granted, old.is_none()))
    }

    fn send_suback(&mut self, id: SessionId, packet_id: u16, codes: &[u8], text: Option<&str>) {
        let delay = self.faults.delay_suback;
        self.counters.sent[9] += 1;
        let Some(link) = self.link(id) else { return };
        let text = text.filter(|_| link.problem_information);
        let mut suback = BytesMut::new();
        wire::write_suback(&mut suback, first_byte::SUBACK, packet_id, codes, text);
        // [MQTT-3.9.2-1]
        if text.is_some() && suback.len() > link.maximum_packet_size {
            suback.clear();
            wire::write_suback(&mut suback, first_byte::SUBACK, packet_id, codes, None);
        }
        if delay.is_zero() {
            link.outbox.push(false, |out| out.extend_from_slice(&suback));
        } else {
            link.outbox.push_aside(delay, suback);
        }
    }

    fn on_unsubscribe(&mut self, id: SessionId, unsubscribe: &Unsubscribe) -> Result<(), u8> {
        if unsubscribe.filters.is_empty() {
            // [MQTT-3.10.3-2]
            return Err(reason::PROTOCOL_ERROR);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let existed = session.subscriptions.remove(filter).is_some();
            self.tree.remove(filter, id);
            codes.push(if existed { reason::SUCCESS } else { reason::NO_SUBSCRIPTION_EXISTED });
        }
        self.counters.sent[11] += 1;
        if let Some(link) = &session.link {
            link.outbox.push(false, |out| {
                wire::write_suback(out, first_byte::UNSUBACK, unsubscribe.pkid, &codes, None);
            });
        }
        Ok(())
    }

    fn on_disconnect(&mut self, who: Who, disconnect: &Disconnect) -> Result<(), u8> {
        let Some(session) = self.sessions.get_mut(&who.session) else { return Ok(()) };
        let expiry = disconnect.properties.as_ref().and_then(|properties| properties.session_expiry_interval);
        if let Some(seconds) = expiry {
            if session.expiry == 0 && seconds > 0 {
                // 3.14.2.2.2
                return Err(reason::PROTOCOL_ERROR);
            }
            session.expiry = seconds;
        }
        // 3.14.4: only a normal disconnection discards the will; 0x04 and errors publish it.
        if disconnect.reason_code as u8 == reason::SUCCESS {
            session.will = None;
        }
        self.detach(who, Farewell::Flush);
        Ok(())
    }
}
