//! A small MQTT 5 broker of the simulation's own: sessions, QoS 0 to 2, expiry, shared subscriptions, Receive
//! Maximum in both directions, No matching subscribers. It shares the codec with the core, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::BytesMut;
use fastrand::Rng;
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Packet, PubAck, PubAckReason, PubComp,
    PubCompReason, PubRec, PubRecReason, PubRel, Publish, SubAck, SubscribeReasonCode, UnsubAck,
    UnsubAckReason,
};
use rumqttc::mqttbytes::{Error, QoS};

use super::super::codec::no_connack_properties;
use super::checks::Ledger;
use super::network::{Direction, LinkId, MS, Network, SECOND, Time};

/// The next whole packet of a stream.
pub(super) fn next_packet(input: &mut BytesMut) -> Result<Option<Packet>, Error> {
    match Packet::read(input, None) {
        Ok(packet) => Ok(Some(packet)),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug)]
struct Message {
    publish: Publish,
    since: Time,
}

impl Message {
    /// The Message Expiry Interval as it is sent now; `Err` once it has expired.
    fn expiry(&self, now: Time) -> Result<Option<u32>, ()> {
        let properties = self.publish.properties.as_ref();
        let Some(seconds) = properties.and_then(|it| it.message_expiry_interval) else { return Ok(None) };
        let waited = u32::try_from((now - self.since) / SECOND).unwrap_or(u32::MAX);
        if waited >= seconds { Err(()) } else { Ok(Some(seconds - waited)) }
    }
}

#[derive(Debug, Clone)]
struct Delivery {
    message: Rc<Message>,
    qos: u8,
    identifiers: Vec<usize>,
}

#[derive(Debug)]
struct Sent {
    pkid: u16,
    delivery: Delivery,
    /// PUBREC is there.
    released: bool,
}

#[derive(Debug)]
struct Subscription {
    qos: u8,
    identifier: Option<usize>,
}

#[derive(Debug, Default)]
struct Session {
    link: Option<LinkId>,
    expiry: u32,
    expires: Option<Time>,
    subscriptions: BTreeMap<String, Subscription>,
    /// QoS 2 packet identifiers received and not released.
    incoming: BTreeSet<u16>,
    queue: VecDeque<Delivery>,
    in_flight: VecDeque<Sent>,
    last_pkid: u16,
}

#[derive(Debug, Default)]
struct Peer {
    input: BytesMut,
    client: Option<String>,
    keep_alive: u16,
    heard: Time,
    receive_maximum: usize,
    /// Answers to what it published and asked for: in order, each in its time.
    answers: VecDeque<(Time, BytesMut)>,
}

pub(super) struct Broker {
    rng: Rng,
    pub up: bool,
    /// Until then CONNECT is answered with *Server busy*.
    pub busy_until: Time,
    pub receive_maximum: Option<u16>,
    pub response_information: bool,
    pub no_matching_subscribers: bool,
    pub keep_alive: Option<u16>,
    /// A copy for each overlapping subscription (section 3.3.4).
    pub copies: bool,
    pub answer_delay: Time,
    sessions: BTreeMap<String, Session>,
    peers: BTreeMap<LinkId, Peer>,
}

fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

impl Broker {
    pub fn new(mut rng: Rng) -> Self {
        Self {
            up: true,
            busy_until: 0,
            receive_maximum: [None, Some(1), Some(2), Some(5), Some(20)][rng.usize(..5)],
            response_information: rng.u8(..3) == 0,
            no_matching_subscribers: rng.u8(..4) > 0,
            keep_alive: (rng.u8(..4) == 0).then_some(3),
            copies: rng.bool(),
            answer_delay: [0, 5 * MS, 200 * MS][rng.usize(..3)],
            rng,
            sessions: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// The process dies, with all connections; without persistence its sessions are gone, too.
    pub fn crash(&mut self, persistent: bool, network: &mut Network, now: Time) {
        self.up = false;
        for link in std::mem::take(&mut self.peers).into_keys() {
            network.cut(link, now);
        }
        if !persistent {
            self.sessions.clear();
        }
        for session in self.sessions.values_mut() {
            session.link = None;
            session.expires = Some(now + Time::from(session.expiry) * SECOND);
        }
    }

    pub fn accept(&mut self, link: LinkId, now: Time) {
        self.peers.insert(link, Peer { heard: now, ..Peer::default() });
    }

    /// What a client is subscribed to, for as long as it has a session.
    pub fn subscriptions(&self, client: &str) -> Option<BTreeSet<&str>> {
        let session = self.sessions.get(client)?;
        Some(session.subscriptions.keys().map(String::as_str).collect())
    }

    /// What is unfinished with this client: messages for it, and QoS 2 messages of it.
    pub fn unfinished(&self, client: &str) -> (usize, usize) {
        self.sessions
            .get(client)
            .map_or((0, 0), |session| (session.queue.len() + session.in_flight.len(), session.incoming.len()))
    }

    pub fn due(&self, network: &Network) -> Option<Time> {
        let peers = self.peers.iter().flat_map(|(link, peer)| {
            let patience = (peer.keep_alive > 0).then(|| peer.heard + peer.patience());
            [network.due(*link, Direction::Up), peer.answers.front().map(|(at, _)| *at), patience]
        });
        peers.flatten().chain(self.sessions.values().filter_map(|session| session.expires)).min()
    }

    pub fn turn(&mut self, network: &mut Network, ledger: &mut Ledger, now: Time) {
        self.sessions.retain(|_, session| session.expires.is_none_or(|expires| expires > now));
        for link in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_answers(link, network, now);
            while let Some(peer) = self.peers.get_mut(&link) {
                match network.read(link, Direction::Up, now) {
                    None => self.drop_peer(link, now),
                    Some(bytes) if bytes.is_empty() => {
                        if peer.keep_alive > 0 && now >= peer.heard + peer.patience() {
                            ledger.note(|| format!("broker hears nothing from {:?}", peer.client));
                            self.drop_peer(link, now);
                            network.close(link, Direction::Down);
                        }
                        break;
                    }
                    Some(bytes) => {
                        peer.heard = now;
                        peer.input.extend_from_slice(&bytes);
                        self.process(link, network, ledger, now);
                    }
                }
            }
        }
    }

    fn process(&mut self, link: LinkId, network: &mut Network, ledger: &mut Ledger, now: Time) {
        while let Some(peer) = self.peers.get_mut(&link) {
            match next_packet(&mut peer.input) {
                Ok(None) => break,
                Ok(Some(Packet::Connect(connect, ..))) => self.connect(link, connect, network, ledger, now),
                Ok(Some(packet)) => match peer.client.clone() {
                    Some(client) => self.packet(link, &client, packet, network, ledger, now),
                    None => ledger.fail(format!("the broker got {packet:?} before CONNECT")),
                },
                Err(error) => return ledger.fail(format!("the broker cannot read a packet: {error}")),
            }
            self.send_answers(link, network, now);
        }
    }

    fn drop_peer(&mut self, link: LinkId, now: Time) {
        let Some(Peer { client: Some(client), .. }) = self.peers.remove(&link) else { return };
        let Some(session) = self.sessions.get_mut(&client).filter(|it| it.link == Some(link)) else { return };
        session.link = None;
        if session.expiry == 0 {
            self.sessions.remove(&client);
        } else {
            session.expires = Some(now + Time::from(session.expiry) * SECOND);
        }
    }

    fn connect(
        &mut self,
        link: LinkId,
        connect: Connect,
        network: &mut Network,
        ledger: &mut Ledger,
        now: Time,
    ) {
        let wishes = connect.properties.unwrap_or_default();
        let busy = now < self.busy_until;
        let client = connect.client_id;
        if !busy && let Some(old) = self.sessions.get(&client).and_then(|session| session.link) {
            self.drop_peer(old, now);
            network.close(old, Direction::Down);
        }
        let kept = self.sessions.contains_key(&client) && !connect.clean_start;
        let connack = ConnAck {
            session_present: kept && !busy,
            code: if busy { ConnectReturnCode::ServerBusy } else { ConnectReturnCode::Success },
            properties: Some(ConnAckProperties {
                receive_max: self.receive_maximum,
                server_keep_alive: self.keep_alive,
                response_information: (self.response_information && wishes.request_response_info == Some(1))
                    .then(|| format!("answers/{client}/")),
                ..no_connack_properties()
            }),
        };
        ledger.note(|| format!("broker {client}: CONNACK, busy {busy}, session present {kept}"));
        self.write(link, &Packet::ConnAck(connack), network, now);
        if busy {
            self.peers.remove(&link);
            return network.close(link, Direction::Down);
        }
        let peer = self.peers.get_mut(&link).expect("it has just sent CONNECT");
        peer.client = Some(client.clone());
        peer.keep_alive = self.keep_alive.unwrap_or(connect.keep_alive);
        peer.receive_maximum = wishes.receive_maximum.unwrap_or(u16::MAX).into();
        if !kept {
            self.sessions.insert(client.clone(), Session::default());
        }
        let session = self.sessions.get_mut(&client).expect("inserted above");
        session.link = Some(link);
        session.expires = None;
        session.expiry = wishes.session_expiry_interval.unwrap_or(0);
        // An expired QoS 1 message is not sent again; a QoS 2 exchange has to be finished.
        session.in_flight.retain(|it| it.delivery.qos == 2 || it.delivery.message.expiry(now).is_ok());
        let again: Vec<Packet> = session
            .in_flight
            .iter()
            .map(|sent| match sent.released {
                true => Packet::PubRel(PubRel::new(sent.pkid, None)),
                false => Packet::Publish(publish(&sent.delivery, sent.pkid, true, now)),
            })
            .collect();
        for packet in again {
            self.write(link, &packet, network, now);
        }
        self.pump(&client, network, now);
    }

    fn packet(
        &mut self,
        link: LinkId,
        client: &str,
        packet: Packet,
        network: &mut Network,
        ledger: &mut Ledger,
        now: Time,
    ) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        match packet {
            Packet::Publish(publish) => self.publish(link, client, publish, ledger, now),
            Packet::PubAck(ack) => {
                let at = session.in_flight.iter().position(|it| it.pkid == ack.pkid && it.delivery.qos == 1);
                match at {
                    Some(at) => drop(session.in_flight.remove(at)),
                    None => ledger.fail(format!("{client} acknowledges {}, which was not sent", ack.pkid)),
                }
            }
            Packet::PubRec(ack) => {
                let sent =
                    session.in_flight.iter_mut().find(|it| it.pkid == ack.pkid && it.delivery.qos == 2);
                match sent {
                    Some(sent) => {
                        sent.released = true;
                        self.write(link, &Packet::PubRel(PubRel::new(ack.pkid, None)), network, now);
                    }
                    None => ledger.fail(format!("{client} sends PUBREC {}, which was not sent", ack.pkid)),
                }
            }
            Packet::PubComp(ack) => {
                let at = session.in_flight.iter().position(|it| it.pkid == ack.pkid && it.released);
                match at {
                    Some(at) => drop(session.in_flight.remove(at)),
                    None => ledger.fail(format!("{client} sends PUBCOMP {} without a PUBREL", ack.pkid)),
                }
            }
            Packet::PubRel(release) => {
                let known = session.incoming.remove(&release.pkid);
                let mut comp = PubComp::new(release.pkid, None);
                if !known {
                    comp.reason = PubCompReason::PacketIdentifierNotFound;
                }
                self.answer(link, &Packet::PubComp(comp), now);
            }
            Packet::Subscribe(subscribe) => {
                let identifier = subscribe.properties.and_then(|properties| properties.id);
                let mut return_codes = Vec::new();
                for filter in subscribe.filters {
                    return_codes.push(SubscribeReasonCode::Success(filter.qos));
                    let subscription = Subscription { qos: filter.qos as u8, identifier };
                    session.subscriptions.insert(filter.path, subscription);
                }
                let suback = SubAck { pkid: subscribe.pkid, return_codes, properties: None };
                self.answer(link, &Packet::SubAck(suback), now);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let reasons =
                    unsubscribe.filters.iter().map(|filter| match session.subscriptions.remove(filter) {
                        Some(_) => UnsubAckReason::Success,
                        None => UnsubAckReason::NoSubscriptionExisted,
                    });
                let reasons = reasons.collect();
                let unsuback = UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None };
                self.answer(link, &Packet::UnsubAck(unsuback), now);
            }
            Packet::PingReq => self.answer(link, &Packet::PingResp, now),
            Packet::Disconnect(disconnect) => {
                if disconnect.reason_code as u8 != 0 {
                    ledger.fail(format!("{client} says {disconnect:?}"));
                }
                self.drop_peer(link, now);
                network.close(link, Direction::Down);
            }
            packet => ledger.fail(format!("the broker got {packet:?}")),
        }
        for client in self.sessions.keys().cloned().collect::<Vec<_>>() {
            self.pump(&client, network, now);
        }
    }

    fn publish(&mut self, link: LinkId, client: &str, publish: Publish, ledger: &mut Ledger, now: Time) {
        let (pkid, qos) = (publish.pkid, publish.qos as u8);
        let session = self.sessions.get_mut(client).expect("it has a connection");
        let mut matched = true;
        if qos < 2 || session.incoming.insert(pkid) {
            ledger.at_broker(session.subscriptions.keys().map(String::as_str), &publish);
            matched = self.route(publish, now);
        } else if !publish.dup {
            ledger.fail(format!("{client} uses packet identifier {pkid} before its PUBREL"));
        }
        let nobody = self.no_matching_subscribers && !matched;
        if qos == 1 {
            let mut ack = PubAck::new(pkid, None);
            if nobody {
                ack.reason = PubAckReason::NoMatchingSubscribers;
            }
            self.answer(link, &Packet::PubAck(ack), now);
        } else if qos == 2 {
            let mut ack = PubRec::new(pkid, None);
            if nobody {
                ack.reason = PubRecReason::NoMatchingSubscribers;
            }
            self.answer(link, &Packet::PubRec(ack), now);
        }
    }

    /// Queues a message for all whom it is for; says whether there is anybody.
    fn route(&mut self, publish: Publish, now: Time) -> bool {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let qos = publish.qos as u8;
        let message = Rc::new(Message { publish, since: now });
        let mut groups: BTreeMap<String, Vec<(String, Delivery)>> = BTreeMap::new();
        let mut matched = false;
        let copies = self.copies;
        for (client, session) in &mut self.sessions {
            let mut own: Vec<Delivery> = Vec::new();
            for (filter, subscription) in &session.subscriptions {
                let delivery = Delivery {
                    message: message.clone(),
                    qos: qos.min(subscription.qos),
                    identifiers: subscription.identifier.into_iter().collect(),
                };
                if let Some(shared) = filter.strip_prefix("$share/") {
                    if shared.split_once('/').is_some_and(|(_, inner)| matches(inner, &topic)) {
                        groups.entry(filter.clone()).or_default().push((client.clone(), delivery));
                    }
                } else if matches(filter, &topic) {
                    match own.first_mut().filter(|_| !copies) {
                        Some(first) => {
                            first.qos = first.qos.max(delivery.qos);
                            first.identifiers.extend(delivery.identifiers);
                        }
                        None => own.push(delivery),
                    }
                }
            }
            matched |= !own.is_empty();
            session.queue.extend(own);
        }
        for members in groups.into_values() {
            matched = true;
            // Whoever is connected, else whoever comes back.
            let connected: Vec<_> =
                members.iter().filter(|(client, _)| self.sessions[client].link.is_some()).collect();
            let members = if connected.is_empty() { members.iter().collect() } else { connected };
            let (client, delivery) = members[self.rng.usize(..members.len())];
            self.sessions.get_mut(client).expect("a member").queue.push_back(delivery.clone());
        }
        for session in self.sessions.values_mut().filter(|session| session.link.is_none()) {
            session.queue.retain(|delivery| delivery.qos > 0);
        }
        matched
    }

    /// Sends what the client's Receive Maximum has room for.
    fn pump(&mut self, client: &str, network: &mut Network, now: Time) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(link) = session.link else { return };
        let room = self.peers[&link].receive_maximum.min(40);
        let mut packets = Vec::new();
        while let Some(delivery) = session.queue.front() {
            if delivery.qos > 0 && session.in_flight.len() >= room {
                break;
            }
            let delivery = session.queue.pop_front().expect("looked at above");
            if delivery.message.expiry(now).is_err() {
                continue;
            }
            let mut pkid = 0;
            if delivery.qos > 0 {
                // Few identifiers, so that they are used again soon.
                while pkid == 0 || session.in_flight.iter().any(|sent| sent.pkid == pkid) {
                    session.last_pkid = session.last_pkid % 50 + 1;
                    pkid = session.last_pkid;
                }
                session.in_flight.push_back(Sent { pkid, delivery: delivery.clone(), released: false });
            }
            packets.push(Packet::Publish(publish(&delivery, pkid, false, now)));
        }
        for packet in packets {
            self.write(link, &packet, network, now);
        }
    }

    fn answer(&mut self, link: LinkId, packet: &Packet, now: Time) {
        let Some(peer) = self.peers.get_mut(&link) else { return };
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("it can be encoded");
        let delay = if self.answer_delay > 0 { self.rng.u64(..self.answer_delay) } else { 0 };
        let latest = peer.answers.back().map_or(now, |(at, _)| *at);
        peer.answers.push_back((latest.max(now + delay), bytes));
    }

    fn send_answers(&mut self, link: LinkId, network: &mut Network, now: Time) {
        let Some(peer) = self.peers.get_mut(&link) else { return };
        while peer.answers.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = peer.answers.pop_front().expect("looked at above");
            network.send(link, Direction::Down, &bytes, now);
        }
    }

    fn write(&self, link: LinkId, packet: &Packet, network: &mut Network, now: Time) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("it can be encoded");
        network.send(link, Direction::Down, &bytes, now);
    }
}

impl Peer {
    fn patience(&self) -> Time {
        Time::from(self.keep_alive) * SECOND * 3 / 2
    }
}

fn publish(delivery: &Delivery, pkid: u16, dup: bool, now: Time) -> Publish {
    let mut publish = delivery.message.publish.clone();
    publish.pkid = pkid;
    publish.dup = dup;
    publish.qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(delivery.qos)];
    let properties = publish.properties.get_or_insert_default();
    properties.message_expiry_interval = delivery.message.expiry(now).unwrap_or(Some(0));
    properties.subscription_identifiers.clone_from(&delivery.identifiers);
    publish
}
