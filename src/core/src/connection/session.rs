//! The MQTT 5 session: a state machine between commands and packets. It does no I/O and has no clock, so
//! that whoever owns the socket can drive it: bytes go in, bytes come out, time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hashbrown::{HashMap, HashSet};
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::mqttbytes::v5::{
    Auth, AuthReasonCode, DisconnectReasonCode, Packet, PubAck as PubAckPacket, PubComp, PubRec, PubRel,
    Publish,
};

use super::codec::{self, Authentication, Incoming};
use super::inflight::{Awaiting, Deliveries, InFlight, InFlights, Sender};
use crate::command::{Answer, Command, Counters, Event, Question, SubscribeOptions, Token, count};
use crate::correlation::{Ended, SlotId};
use crate::effects::{Effects, Outgoing, Owner};
use crate::error::{Error, ReasonCode, Result};
use crate::message::{ConnAck, Message, PubAck};
use crate::options::{Options, Secret, check_authentication_data};
use crate::requester::{Naming, Requesters};
use crate::responder::{Responders, whole_seconds};
use crate::topic;

/// Above this many unwritten bytes nothing new is encoded: the broker is slower than we are.
const HIGH_WATER: usize = 4 * 1024 * 1024;
/// How many bytes of payload may be written and not acknowledged: 65,535 large ones would be held by a broker that never
/// answers.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// How much may wait for a broker that does not acknowledge responses; further ones are dropped.
const QUEUED_REPLIES: usize = 64 * 1024 * 1024;
/// How much of QoS 0 messages may wait for a program that does not take them; further ones are dropped.
const UNTAKEN_LIMIT: usize = 64 * 1024 * 1024;
/// How much the broker may send beyond our Receive Maximum. Mosquitto 2.0.11 loses count of it once acknowledgements
/// come in a row, and must not be disconnected for that.
const EXCESS_LIMIT: usize = 64 * 1024 * 1024;
/// How many bytes of acknowledgements the broker may leave unread beyond that. One that keeps to our Receive
/// Maximum and to its own cannot have more than 65,535 each of PUBACK, PUBCOMP and PUBREL, of four bytes.
const UNREAD_LIMIT: usize = 1024 * 1024;
/// How long a message of a resumed session waits for its responder or subscription to open.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// How long a PINGRESP may take, in a connection whose keep alive is longer.
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// The packet type in the first byte (section 2.1.2).
const CONNACK: u8 = 2;

/// Why a connection ended.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    /// The broker's reason, if it gave one.
    pub reason_code: Option<ReasonCode>,
    pub reason_string: Option<String>,
    pub detail: String,
    /// Whether another attempt makes sense.
    pub again: bool,
    /// Whether it is the caller's argument that is wrong.
    pub invalid: bool,
}

impl Lost {
    pub fn because(detail: impl Into<String>) -> Self {
        Self { reason_code: None, reason_string: None, detail: detail.into(), again: true, invalid: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offline,
    /// CONNECT is written, CONNACK is not there.
    Handshake,
    Online,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubState {
    /// To be sent as soon as there is a connection.
    Wanted,
    /// Sent.
    Asked,
    Active,
}

#[derive(Debug)]
struct Sub {
    filter: String,
    options: SubscribeOptions,
    state: SubState,
    /// Of its latest SUBSCRIBE: the SUBACK of an earlier one says nothing about it.
    pkid: u16,
}

/// A subscription of the user's: several filters, one outcome.
#[derive(Debug)]
struct UserSubscription {
    filters: Vec<String>,
    asked: usize,
    /// Told once.
    token: Option<Token>,
}

/// A question to the caller that has no answer yet.
#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u64,
    /// Whether the broker's last word is being checked.
    last: bool,
}

/// What waits for room: below `HIGH_WATER`, and from QoS 1 on in the broker's Receive Maximum.
enum Queued {
    Request(SlotId),
    Message(Box<Outgoing>, Sender),
}

/// Which of the two queues: a message that needs no room in the Receive Maximum must not wait behind those
/// that do. Order is kept within one QoS (section 4.6), not across them.
const fn lane(qos: u8) -> usize {
    (qos > 0) as usize
}

pub(super) struct Session {
    options: Arc<Options>,
    counters: Arc<Counters>,
    origin: Instant,
    state: State,
    connack: Option<Arc<ConnAck>>,
    client_id: String,
    /// Who waits for the connection.
    connecting: Vec<Token>,
    /// How many questions were asked.
    questions: u64,
    /// The question without an answer. There is one at a time.
    asked: Option<Asked>,
    /// A CONNACK that is believed when the broker's last word is checked; what follows it waits unread.
    held: Option<ConnAck>,
    /// Who waits for the end of a re-authentication, and how long it may take.
    reauthenticating: Option<(Token, Instant)>,
    /// How many connections of this object were accepted.
    connects: u64,
    /// Clean Start of the latest CONNECT.
    clean_start: bool,
    in_flights: InFlights,
    queues: [VecDeque<Queued>; 2],
    /// The weight of the responses in them.
    queued_replies: usize,
    /// The weight of the QoS 0 messages that the program has not taken yet, and of those among them that are not
    /// in its mailbox yet.
    untaken: usize,
    undelivered: usize,
    /// Whether it was said that messages are dropped.
    overrun: bool,
    /// Publishes of the user's in this batch; they follow its subscriptions.
    publishes: Vec<(Message, Token)>,
    deliveries: Deliveries,
    /// The weight of what came beyond our Receive Maximum.
    excess: usize,
    /// QoS 2 packet identifiers received and not yet released (section 4.3.3).
    unreleased: HashSet<u16>,
    /// In a session of an earlier process: the identifiers of QoS 2 that it does not hold any more.
    inherited: Option<HashSet<u16>>,
    /// Whether the broker's session may be another than the one that was lost, though it calls it present.
    doubtful: bool,
    /// Whether the first connection found a session: messages may be older than those they are for.
    resumed: bool,
    /// Messages of that session that nobody is there for yet, with the time they came.
    unclaimed: VecDeque<(Instant, Message, Option<u64>)>,
    aliases: HashMap<u16, Bytes>,
    /// In an order, so that the same story has the same bytes.
    subs: BTreeMap<Owner, Sub>,
    /// Filters that were given up while the broker could not hear it; its session may still hold them.
    stale: Vec<(Owner, String)>,
    users: BTreeMap<Token, UserSubscription>,
    requesters: Requesters,
    responders: Responders,
    effects: Effects,
    /// Drains that only wait for queued responses to be written.
    drained: Vec<Token>,
    last_sent: Instant,
    last_received: Instant,
    pinged: Option<Instant>,
    /// Bytes of acknowledgements written since `out` went over its high water mark.
    unread: usize,
    /// To be written to the network.
    pub out: BytesMut,
}

impl Session {
    pub fn new(options: Arc<Options>, counters: Arc<Counters>, now: Instant) -> Self {
        Self {
            client_id: options.client_id.clone().unwrap_or_default(),
            requesters: Requesters::new(counters.clone(), !options.clean_start),
            responders: Responders::new(counters.clone()),
            options,
            counters,
            origin: now,
            state: State::Offline,
            connack: None,
            connecting: Vec::new(),
            questions: 0,
            asked: None,
            held: None,
            reauthenticating: None,
            connects: 0,
            clean_start: true,
            in_flights: InFlights::default(),
            queues: Default::default(),
            queued_replies: 0,
            untaken: 0,
            undelivered: 0,
            overrun: false,
            publishes: Vec::new(),
            deliveries: Deliveries::default(),
            excess: 0,
            unreleased: HashSet::new(),
            inherited: None,
            doubtful: false,
            resumed: false,
            unclaimed: VecDeque::new(),
            aliases: HashMap::new(),
            subs: BTreeMap::new(),
            stale: Vec::new(),
            users: BTreeMap::new(),
            effects: Effects::default(),
            drained: Vec::new(),
            last_sent: now,
            last_received: now,
            pinged: None,
            unread: 0,
            out: BytesMut::new(),
        }
    }

    /// What the other side is to be told; empties into the mailbox.
    pub fn events(&mut self) -> &mut Vec<Event> {
        &mut self.effects.events
    }

    pub const fn online(&self) -> bool {
        matches!(self.state, State::Online)
    }

    /// Whether there ever was a connection.
    pub const fn known(&self) -> bool {
        self.connects > 0
    }

    pub const fn connects(&self) -> u64 {
        self.connects
    }

    /// Somebody else asks to connect: told at once if it is up, or when it is.
    pub fn connect_again(&mut self, token: Token) {
        match &self.connack {
            Some(connack) if self.online() => {
                self.effects.events.push(Event::ConnAck { token, connack: connack.clone() });
            }
            _ => self.connecting.push(token),
        }
    }

    pub fn expect_connect(&mut self, token: Token) {
        self.connecting.push(token);
    }

    /// Opens a connection: writes CONNECT.
    pub fn open(&mut self, answer: Answer, now: Instant) {
        self.out.clear();
        // A later connection of this object resumes its own session, where the broker keeps one.
        self.clean_start =
            if self.known() { self.options.session_expiry_interval == 0 } else { self.options.clean_start };
        let connect = codec::connect(&self.options, &self.client_id, self.clean_start, answer);
        codec::write(&connect, &mut self.out);
        self.state = State::Handshake;
        self.last_sent = now;
        self.last_received = now;
        self.pinged = None;
    }

    /// Takes a command in; `settle` carries the batch out.
    pub fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Request(request) => {
                let nanos = self.nanos(now);
                self.requesters.request(*request, nanos, self.origin, &mut self.effects);
            }
            Command::Reply { delivery, reply } => {
                self.responders.reply(delivery, reply.map(|reply| *reply), now, &mut self.effects);
            }
            Command::Cancel { token } => self.requesters.cancel(token, &mut self.effects),
            Command::Acknowledge { delivery } => self.deliveries.done(delivery),
            Command::OpenRequester { requester, options } => {
                self.requesters.open(requester, options);
                self.claim(now);
            }
            Command::DrainRequester { token, requester } => {
                self.requesters.drain(token, requester, &mut self.effects);
            }
            Command::CloseRequester { requester } => self.requesters.close(requester, &mut self.effects),
            Command::Publish { token, message } => {
                self.publishes.push((message, token));
            }
            Command::Subscribe { token, filters, options } => {
                self.subscribe_user(token, filters, &options);
                self.claim(now);
            }
            Command::Unsubscribe { token } => self.unsubscribe_user(token),
            Command::OpenResponder { token, responder, options } => {
                self.responders.open(responder, token, options, &mut self.effects);
                self.responders_changed();
                self.claim(now);
            }
            Command::Drain { token, responders } => {
                self.responders.drain(token, responders, &mut self.effects);
                self.settle(now);
            }
            Command::StopResponders { responders } => {
                self.responders.stop(&responders, now, &mut self.effects);
            }
            Command::CloseResponders { responders } => self.responders.close(&responders, &mut self.effects),
            Command::Reauthenticate { token, data } => self.reauthenticate(token, &data, now),
            Command::Connect { .. } | Command::Disconnect { .. } | Command::Answer { .. } => {
                unreachable!("the driver carries these out itself")
            }
        }
    }

    fn reauthenticate(&mut self, token: Token, data: &Secret, now: Instant) {
        let invalid = |what: &str| Err(Error::InvalidArgument(what.to_owned()));
        let allowed = if self.options.authentication_method.is_none() {
            invalid("there is nothing to authenticate again: open the client with an authenticator")
        } else if self.reauthenticating.is_some() {
            invalid("a re-authentication is under way: wait for its end")
        } else if !self.online() {
            Err(Error::ConnectionLost {
                reason_code: None,
                detail:
                    "there is no connection to authenticate again on: the next one authenticates by itself"
                        .to_owned(),
            })
        } else {
            check_authentication_data(data)
        };
        if let Err(error) = allowed {
            return self.effects.events.push(Event::Failed { token, error });
        }
        self.reauthenticating = Some((token, now + self.options.connect_timeout));
        let packet = codec::auth(AuthReasonCode::ReAuthenticate, &self.options, Some(data));
        codec::write(&packet, &mut self.out);
    }

    /// Asks what only the caller knows. An older question is void.
    pub fn ask(&mut self, question: Question) {
        self.questions += 1;
        self.asked =
            Some(Asked { number: self.questions, last: matches!(question, Question::Finish { .. }) });
        self.effects.events.push(Event::Ask { number: self.questions, question });
    }

    /// Whether this question waits for its answer.
    pub fn asks(&self, number: u64) -> bool {
        self.asked.is_some_and(|asked| asked.number == number)
    }

    /// Whether the caller owes an answer.
    pub const fn asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether nothing is read before the caller has answered.
    pub const fn holding(&self) -> bool {
        self.held.is_some()
    }

    /// The answer is there, or comes too late.
    pub fn answered(&mut self) {
        self.asked = None;
    }

    /// Without responders a response topic may be subscribed at another QoS.
    fn responders_changed(&mut self) {
        self.requesters.set_responders_share(self.responders.acknowledge_late(), &mut self.effects);
    }

    fn subscribe_user(&mut self, token: Token, filters: Vec<String>, options: &SubscribeOptions) {
        let asked = filters.len();
        for (index, filter) in filters.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.effects.subscribe.push((Owner::User(token, index), filter.clone(), options.clone()));
        }
        self.users.insert(token, UserSubscription { filters, asked, token: Some(token) });
    }

    fn unsubscribe_user(&mut self, token: Token) {
        let Some(user) = self.users.remove(&token) else { return };
        let filters = u32::try_from(user.filters.len()).unwrap_or(u32::MAX);
        for index in 0..filters {
            self.effects.end_subscription(Owner::User(token, index));
        }
    }

    /// Does what the state machines asked for, until nothing is left to do.
    pub fn settle(&mut self, now: Instant) {
        self.carry_out(now);
        for (message, token) in std::mem::take(&mut self.publishes) {
            let expires = message
                .properties
                .message_expiry_interval
                .and_then(|seconds| now.checked_add(Duration::from_secs(seconds.into())));
            let outgoing = Outgoing { message, deliveries: Vec::new(), expires };
            self.send_or_queue(outgoing, Sender::User(token));
        }
        self.pump(now);
        while !self.effects.are_done() {
            // A request that ended instead of being written has let the next one in.
            self.carry_out(now);
            self.pump(now);
        }
        self.acknowledge();
        self.settle_drains();
        self.carry_out(now);
        self.counters.in_flight.store(self.in_flights.publishes() as u64, Ordering::Relaxed);
    }

    fn settle_drains(&mut self) {
        if self.responders.draining() {
            let answered = self.effects.replies.is_empty() && self.nothing_queued();
            let cut_off = answered && self.state != State::Online;
            self.drained.extend(self.responders.settle_drains(cut_off, &mut self.effects));
            self.responders_changed();
        }
        if !self.drained.is_empty()
            && (self.nothing_queued() || self.state == State::Offline && !self.known())
        {
            self.effects.events.extend(self.drained.drain(..).map(|token| Event::Done { token }));
        }
    }

    fn carry_out(&mut self, now: Instant) {
        while !self.effects.are_done() {
            for owner in std::mem::take(&mut self.effects.unsubscribe) {
                self.unsubscribe(owner);
            }
            for (owner, filter, options) in std::mem::take(&mut self.effects.subscribe) {
                self.subscribe(owner, filter, options);
            }
            if !self.effects.ready.is_empty() {
                let mut ready = std::mem::take(&mut self.effects.ready);
                for slot in ready.drain(..) {
                    self.send_request(slot, now);
                }
                if self.effects.ready.is_empty() {
                    self.effects.ready = ready;
                }
            }
            for outgoing in std::mem::take(&mut self.effects.replies) {
                self.send_or_queue(outgoing, Sender::Reply);
            }
            let mut acknowledge = std::mem::take(&mut self.effects.acknowledge);
            for delivery in acknowledge.drain(..) {
                self.deliveries.done(delivery);
            }
            self.effects.acknowledge = acknowledge;
        }
    }

    /// Whether another PUBLISH may be written (section 4.9).
    fn has_room(&self, qos: u8) -> bool {
        let Some(connack) = &self.connack else { return false };
        self.state == State::Online
            && self.out.len() < HIGH_WATER
            && (qos == 0
                || self.in_flights.publishes() < usize::from(connack.receive_maximum)
                    && self.in_flights.bytes() < IN_FLIGHT_BYTES
                    && self.in_flights.vacant().is_some())
    }

    fn send_or_queue(&mut self, outgoing: Outgoing, sender: Sender) {
        let qos = outgoing.message.qos;
        if self.has_room(qos) && self.queues[lane(qos)].is_empty() {
            self.send(outgoing, sender);
        } else if sender == Sender::Reply && self.queued_replies >= QUEUED_REPLIES {
            let waiting = self.queues[lane(qos)].len();
            log::warn!(target: "reqtt.responder", "a response was dropped: the broker acknowledges too slowly, {waiting} wait already");
            self.done(outgoing.deliveries);
        } else {
            self.enqueue(outgoing, sender);
        }
    }

    fn enqueue(&mut self, outgoing: Outgoing, sender: Sender) {
        if sender == Sender::Reply {
            self.queued_replies += outgoing.message.weight();
        }
        self.queues[lane(outgoing.message.qos)].push_back(Queued::Message(Box::new(outgoing), sender));
    }

    fn done(&mut self, deliveries: Vec<u64>) {
        for delivery in deliveries {
            self.deliveries.done(delivery);
        }
    }

    /// Sends what waited, unless its time is up.
    fn send_late(&mut self, mut outgoing: Outgoing, sender: Sender, now: Instant) {
        if let Some(expires) = outgoing.expires {
            match remaining(expires, now) {
                Some(seconds) => outgoing.message.properties.message_expiry_interval = Some(seconds),
                None => return self.expired(sender, outgoing.deliveries),
            }
        }
        self.send(outgoing, sender);
    }

    /// The time of a message was up before it could be sent (again).
    fn expired(&mut self, sender: Sender, deliveries: Vec<u64>) {
        if let Sender::User(token) = sender {
            let error = Error::ConnectionLost {
                reason_code: None,
                detail: "its message_expiry_interval ran out before the broker had it, so it is not sent"
                    .into(),
            };
            self.effects.events.push(Event::Failed { token, error });
        }
        self.done(deliveries);
    }

    fn nothing_queued(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Writes what waited for room.
    fn pump(&mut self, now: Instant) {
        if self.in_flights.sends_again() && self.online() {
            self.resend(now);
        }
        for lane in 0..self.queues.len() {
            self.pump_lane(lane, now);
        }
    }

    fn pump_lane(&mut self, lane: usize, now: Instant) {
        while let Some(next) = self.queues[lane].front() {
            let qos = match next {
                Queued::Request(slot) => match self.requesters.qos(*slot) {
                    Some(qos) => qos,
                    None => {
                        self.queues[lane].pop_front();
                        continue;
                    }
                },
                Queued::Message(outgoing, _) => outgoing.message.qos,
            };
            if !self.has_room(qos) {
                // What has ended while it waited must not pile up behind a slow broker.
                let queue = &mut self.queues[lane];
                if queue.len() > 1024 && queue.len() > 4 * self.requesters.len() {
                    let requesters = &self.requesters;
                    queue.retain(|queued| match queued {
                        Queued::Request(slot) => requesters.is_pending(*slot),
                        Queued::Message(..) => true,
                    });
                }
                break;
            }
            match self.queues[lane].pop_front() {
                Some(Queued::Request(slot)) => self.write_request(slot, now),
                Some(Queued::Message(outgoing, sender)) => {
                    if sender == Sender::Reply {
                        self.queued_replies = self.queued_replies.saturating_sub(outgoing.message.weight());
                    }
                    self.send_late(*outgoing, sender, now);
                }
                None => break,
            }
        }
    }

    fn send_request(&mut self, slot: SlotId, now: Instant) {
        let Some(qos) = self.requesters.qos(slot) else { return };
        if self.queues[lane(qos)].is_empty() && self.has_room(qos) {
            self.write_request(slot, now);
        } else {
            self.queues[lane(qos)].push_back(Queued::Request(slot));
        }
    }

    fn write_request(&mut self, slot: SlotId, now: Instant) {
        let nanos = self.nanos(now);
        let Some(message) = self.requesters.take_ready(slot, nanos) else { return };
        let qos = message.qos;
        match self.check(&message) {
            Ok(()) => {
                self.write_publish(message, Sender::Request(slot), None);
                self.requesters.sent(slot, qos);
            }
            Err(error) => self.requesters.end(slot, Ended::Cancelled, Some(error), &mut self.effects),
        }
    }

    /// Writes a message that is not a request; tells its sender when it cannot be sent at all.
    fn send(&mut self, outgoing: Outgoing, sender: Sender) {
        let Outgoing { mut message, deliveries, expires } = outgoing;
        if let (Sender::Reply, Some(connack)) = (sender, &self.connack) {
            // The request may have come at a QoS at which this broker takes nothing [MQTT-3.2.2-11].
            message.qos = message.qos.min(connack.maximum_qos);
        }
        match (self.check(&message), sender) {
            (Ok(()), _) => self.write_publish(message, sender, expires),
            (Err(error), Sender::User(token)) => self.effects.events.push(Event::Failed { token, error }),
            (Err(error), _) => {
                log::error!(target: "reqtt.responder", "a response could not be sent: {error}");
                let instead = crate::responder::too_large(message);
                if self.check(&instead).is_ok() {
                    self.write_publish(instead, sender, expires);
                }
            }
        }
        self.done(deliveries);
    }

    /// What the broker would punish with a disconnect must not reach it.
    fn check(&self, message: &Message) -> Result<()> {
        let Some(connack) = &self.connack else { return Ok(()) };
        let refused = |code| Error::Publish {
            topic: message.topic().to_owned(),
            reason_code: ReasonCode(code),
            reason_string: None,
        };
        if message.qos > connack.maximum_qos {
            return Err(refused(0x9B));
        }
        if message.retain && !connack.retain_available {
            return Err(refused(0x9A));
        }
        let maximum = maximum_packet_size(connack);
        let size = encoded_size(message);
        if size > maximum {
            return Err(Error::PacketTooLarge { topic: message.topic().to_owned(), size, maximum });
        }
        Ok(())
    }

    fn write_publish(&mut self, message: Message, sender: Sender, expires: Option<Instant>) {
        let mut packet = codec::publish(message);
        let qos = packet.qos as u8;
        if qos > 0 {
            let Some(pkid) = self.in_flights.vacant() else { return };
            packet.pkid = pkid;
        }
        if qos == 2
            && let Some(released) = &mut self.inherited
            && released.insert(packet.pkid)
        {
            // Where the earlier process left it unreleased, the broker would take this message for a copy.
            codec::write(&Packet::PubRel(PubRel::new(packet.pkid, None)), &mut self.out);
        }
        let start = self.out.len();
        if let Err(error) = packet.write(&mut self.out) {
            self.out.truncate(start);
            return self.cannot_encode(&packet, sender, &error);
        }
        if qos == 0 {
            if let Sender::User(token) = sender {
                let puback = PubAck { reason_code: ReasonCode::SUCCESS, reason_string: None };
                self.effects.events.push(Event::Published { token, puback });
            }
            return;
        }
        let awaiting = if qos == 1 { Awaiting::Puback } else { Awaiting::Pubrec };
        let order = self.in_flights.next_order();
        self.in_flights.insert(InFlight::Publish {
            packet: Box::new(packet),
            sender,
            awaiting,
            order,
            expires,
        });
    }

    /// A text in it is too long for MQTT. It is nobody's packet: it must not wait for an acknowledgement, and what
    /// it stands for ends here.
    fn cannot_encode(&mut self, packet: &Publish, sender: Sender, error: &CodecError) {
        let topic = String::from_utf8_lossy(&packet.topic);
        let topic = topic::one_line(&topic, 80);
        let error = Error::InvalidArgument(format!("PUBLISH to \"{topic}\" cannot be encoded: {error}"));
        match sender {
            Sender::Request(slot) => {
                self.requesters.end(slot, Ended::Cancelled, Some(error), &mut self.effects);
            }
            Sender::User(token) => self.effects.events.push(Event::Failed { token, error }),
            Sender::Reply => log::error!(target: "reqtt.responder", "a response could not be sent: {error}"),
        }
    }

    /// How many messages the broker has to count against our Receive Maximum.
    #[cfg(any(test, fuzzing))]
    pub fn held(&self) -> usize {
        self.deliveries.len()
    }

    /// How many messages and requests wait for room.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    #[cfg(test)]
    pub fn remembered(&self) -> (usize, usize) {
        self.responders.remembered()
    }

    #[cfg(test)]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// How many PUBLISHes count against the broker's.
    #[cfg(any(test, fuzzing))]
    pub const fn in_flight(&self) -> usize {
        self.in_flights.publishes()
    }

    /// Sends the PUBACKs and PUBRECs that are due.
    fn acknowledge(&mut self) {
        if self.state != State::Online {
            return;
        }
        while let Some((pkid, qos)) = self.deliveries.next_acknowledged() {
            if qos == 1 {
                self.write_answer(&Packet::PubAck(PubAckPacket::new(pkid, None)));
            } else {
                self.write_answer(&Packet::PubRec(PubRec::new(pkid, None)));
            }
        }
    }

    fn subscribe(&mut self, owner: Owner, filter: String, options: SubscribeOptions) {
        let mut sub = Sub { filter, options, state: SubState::Wanted, pkid: 0 };
        if self.state == State::Online {
            self.write_subscribe(owner, &mut sub);
        }
        self.subs.insert(owner, sub);
    }

    fn write_subscribe(&mut self, owner: Owner, sub: &mut Sub) {
        // A response topic is made of what the broker said, and that may be too long.
        if let Err(error) = topic::check_filter(&sub.filter) {
            return self.subscribed(owner, Err(error));
        }
        let identifiers =
            self.connack.as_ref().is_some_and(|connack| connack.subscription_identifiers_available);
        let Some(pkid) = self.in_flights.vacant() else {
            let error = Error::Subscribe {
                topic_filter: sub.filter.clone(),
                reason_code: ReasonCode(0x97),
                reason_string: Some("65,535 packets wait for the broker's answer".into()),
                for_responses: matches!(owner, Owner::ResponseTopic(_)),
            };
            return self.subscribed(owner, Err(error));
        };
        let start = self.out.len();
        codec::write(&codec::subscribe(pkid, &sub.filter, &sub.options, identifiers), &mut self.out);
        let size = self.out.len() - start;
        let maximum = self.connack.as_deref().map(maximum_packet_size);
        if let Some(maximum) = maximum.filter(|maximum| size > *maximum) {
            // [MQTT-3.2.2-15]
            self.out.truncate(start);
            let error = Error::Subscribe {
                topic_filter: sub.filter.clone(),
                reason_code: ReasonCode(0x95),
                reason_string: Some(format!("{size} bytes, of a Maximum Packet Size of {maximum}")),
                for_responses: matches!(owner, Owner::ResponseTopic(_)),
            };
            return self.subscribed(owner, Err(error));
        }
        self.in_flights.insert(InFlight::Subscribe(owner));
        sub.state = SubState::Asked;
        sub.pkid = pkid;
    }

    fn subscribed(&mut self, owner: Owner, outcome: Result<()>) {
        match owner {
            Owner::ResponseTopic(number) => self.requesters.subscribed(number, outcome, &mut self.effects),
            Owner::Responder(id) => {
                self.responders.subscribed(id, outcome, &mut self.effects);
                self.responders_changed();
            }
            Owner::User(token, _) => self.user_subscribed(token, outcome),
        }
    }

    fn user_subscribed(&mut self, token: Token, outcome: Result<()>) {
        let Some(user) = self.users.get_mut(&token) else { return };
        match outcome {
            Ok(()) => {
                user.asked = user.asked.saturating_sub(1);
                if user.asked == 0 && user.token.take().is_some() {
                    self.effects.events.push(Event::Subscribed { token });
                }
            }
            Err(error) => {
                // Told as the outcome of the call, or later as the end of the iteration.
                self.effects.events.push(Event::Failed { token, error });
                self.unsubscribe_user(token);
            }
        }
    }

    fn unsubscribe(&mut self, owner: Owner) {
        let Some(sub) = self.subs.remove(&owner) else { return self.unsubscribed(owner) };
        if self.state != State::Online {
            return self.stale.push((owner, sub.filter));
        }
        if sub.state == SubState::Wanted {
            return self.unsubscribed(owner);
        }
        self.write_unsubscribe(owner, sub.filter);
    }

    fn write_unsubscribe(&mut self, owner: Owner, filter: String) {
        // The broker knows one subscription for each filter: the last user of it ends it.
        let shared = self.subs.values().any(|other| other.filter == filter);
        let Some(pkid) = self.in_flights.vacant().filter(|_| !shared) else {
            return self.unsubscribed(owner);
        };
        let packet =
            rumqttc::mqttbytes::v5::Unsubscribe { pkid, filters: vec![filter.clone()], properties: None };
        codec::write(&Packet::Unsubscribe(packet), &mut self.out);
        self.in_flights.insert(InFlight::Unsubscribe(owner, filter));
    }

    fn unsubscribed(&mut self, owner: Owner) {
        if let Owner::Responder(id) = owner {
            self.responders.unsubscribed(id);
            self.responders_changed();
        }
    }

    /// Reads all complete packets of `input`; gives how many were messages.
    pub fn input(&mut self, input: &mut BytesMut, now: Instant) -> Result<usize, Lost> {
        self.last_received = now;
        let mut messages = 0;
        while !self.holding() {
            let connack = input.first().is_some_and(|first| first >> 4 == CONNACK);
            match codec::read(input, self.options.maximum_packet_size) {
                Ok(None) => break,
                Ok(Some(Incoming::Publish { message, pkid, alias })) if self.online() => {
                    messages += 1;
                    self.publish(message, pkid, alias, now)?;
                }
                Ok(Some(Incoming::Publish { .. })) => return Err(self.unexpected("a PUBLISH")),
                Ok(Some(Incoming::Other(packet))) => self.packet(packet, now)?,
                Err(error) => return Err(self.unreadable(&error, connack, input)),
            }
            if self.unread > UNREAD_LIMIT {
                let what = "it goes on sending, and does not read its acknowledgements";
                return Err(self.violated(DisconnectReasonCode::ReceiveMaximumExceeded, what));
            }
        }
        if !input.is_empty() && self.pinged.is_some() {
            // The PINGRESP may be behind a large packet that is still coming.
            self.pinged = Some(now);
        }
        self.settle(now);
        Ok(messages)
    }

    fn unreadable(&mut self, error: &CodecError, connack: bool, input: &BytesMut) -> Lost {
        if self.state == State::Handshake && !connack {
            return Lost::because(format!(
                "what answered CONNECT is no MQTT 5 broker ({error}, {} bytes): check the port and the scheme (mqtt, mqtts, ws, wss), and that the broker speaks MQTT 5",
                input.len()
            ));
        }
        // Return codes of MQTT 3, 1 to 5, are no reason codes of MQTT 5, whatever is behind them: Moquette 0.17 puts
        // an empty Property Length there.
        let return_code = connack && matches!(error, CodecError::InvalidConnectReturnCode(1..=5));
        if return_code || matches!(error, CodecError::InvalidProtocol) {
            return Lost::because(
                "the broker answers as MQTT 3 does: use one that speaks MQTT 5, or switch MQTT 5 on there",
            );
        }
        let what = match error {
            // The codec says so of every acknowledgement.
            CodecError::InvalidConnectReturnCode(code) => {
                format!("it sends a reason code that the packet may not have (0x{code:02X})")
            }
            error => error.to_string(),
        };
        self.violated(codec::violation(error), &what)
    }

    fn packet(&mut self, packet: Packet, now: Instant) -> Result<(), Lost> {
        match (packet, self.state) {
            (Packet::ConnAck(packet), State::Handshake) => {
                let (connack, Authentication { method, data }) = codec::connack(packet);
                if connack.reason_code != ReasonCode::SUCCESS || self.options.authentication_method.is_none()
                {
                    self.connack(connack, now)?;
                } else if self.asking() {
                    return Err(self.unexpected("a CONNACK before the answer to its AUTH"));
                } else if method.is_some() && method != self.options.authentication_method {
                    return Err(self.unexpected("a CONNACK of another authentication method"));
                } else {
                    // The broker's last word proves that it knows us: it is checked before it is believed, and
                    // where there is none, it is up to the method whether that will do.
                    self.held = Some(connack);
                    self.ask(Question::Finish { data });
                }
            }
            (Packet::Auth(packet), State::Handshake | State::Online)
                if self.options.authentication_method.is_some() =>
            {
                self.auth(packet)?;
            }
            (Packet::PubAck(ack), State::Online) => {
                let reason_string = ack.properties.and_then(|properties| properties.reason_string);
                self.published(ack.pkid, Awaiting::Puback, ReasonCode(ack.reason as u8), reason_string);
            }
            (Packet::PubRec(ack), State::Online) => {
                let reason_string = ack.properties.and_then(|properties| properties.reason_string);
                self.pubrec(ack.pkid, ReasonCode(ack.reason as u8), reason_string);
            }
            (Packet::PubComp(ack), State::Online) => {
                self.published(ack.pkid, Awaiting::Pubcomp, ReasonCode::SUCCESS, None);
            }
            (Packet::PubRel(release), State::Online) => {
                self.unreleased.remove(&release.pkid);
                self.write_answer(&Packet::PubComp(PubComp::new(release.pkid, None)));
            }
            (Packet::SubAck(ack), State::Online) => {
                if ack.return_codes.len() != 1 {
                    return Err(self.unexpected("a SUBACK for several filters"));
                }
                let reason_string = ack.properties.and_then(|properties| properties.reason_string);
                self.suback(ack.pkid, codec::suback_code(ack.return_codes[0]), reason_string);
            }
            (Packet::UnsubAck(ack), State::Online) => {
                if let Some(InFlight::Unsubscribe(..)) = self.in_flights.get_mut(ack.pkid)
                    && let Some(InFlight::Unsubscribe(owner, _)) = self.in_flights.remove(ack.pkid)
                {
                    self.unsubscribed(owner);
                }
            }
            (Packet::PingResp, State::Online) => self.pinged = None,
            (Packet::Disconnect(packet), _) => {
                let code = ReasonCode(packet.reason_code as u8);
                let reason_string = packet.properties.and_then(|properties| properties.reason_string);
                // A takeover answered by a reconnect would take over in turn, for ever.
                let again = code != ReasonCode::SESSION_TAKEN_OVER && !matches!(code.0, 0x8A | 0x9D);
                let detail = match code.0 {
                    0x8E => "another connection uses this client_id: give each its own".to_owned(),
                    _ => {
                        let words = reason_string.as_deref().unwrap_or("the broker ended the connection");
                        topic::one_line(words, 1000)
                    }
                };
                return Err(Lost { reason_code: Some(code), reason_string, again, ..Lost::because(detail) });
            }
            (packet, _) => return Err(self.unexpected(&format!("{:?}", packet.packet_type()))),
        }
        Ok(())
    }

    fn unexpected(&mut self, packet: &str) -> Lost {
        let what = format!("it sent {packet} where the protocol does not allow it");
        self.violated(DisconnectReasonCode::ProtocolError, &what)
    }

    /// The broker breaks the protocol: it is told by a DISCONNECT, and the user by the same name.
    fn violated(&mut self, code: DisconnectReasonCode, what: &str) -> Lost {
        codec::write(&codec::disconnect(code, None), &mut self.out);
        Lost::because(format!("the broker breaks the protocol ({}): {what}", ReasonCode(code as u8)))
    }

    /// The broker's next word in enhanced authentication (section 4.12).
    fn auth(&mut self, packet: Auth) -> Result<(), Lost> {
        let (code, Authentication { method, data }) = codec::read_auth(packet);
        // The short form of AUTH 0x00 has no properties at all (section 3.15.2.1).
        let short = code == AuthReasonCode::Success && method.is_none() && data.is_none();
        if method != self.options.authentication_method && !short {
            return Err(self.unexpected("an AUTH of another authentication method"));
        }
        let under_way = match self.state {
            State::Online => self.reauthenticating.is_some(),
            // Here it is CONNACK that says success.
            _ => code == AuthReasonCode::Continue,
        };
        if !under_way || self.asking() || code == AuthReasonCode::ReAuthenticate {
            return Err(self.unexpected("an AUTH out of turn"));
        }
        self.ask(if code == AuthReasonCode::Success {
            Question::Finish { data }
        } else {
            Question::Challenge { data: data.unwrap_or_else(|| Secret::from("")) }
        });
        Ok(())
    }

    /// The caller's next word in enhanced authentication.
    pub fn answer(&mut self, answer: Result<Answer, String>, now: Instant) -> Result<(), Lost> {
        let Some(asked) = self.asked.take() else { return Ok(()) };
        match answer.and_then(Options::validate_answer) {
            Ok(_) if asked.last => match self.held.take() {
                Some(connack) => self.connack(connack, now)?,
                None => self.authenticated(),
            },
            Ok(answer) => {
                let packet = codec::auth(AuthReasonCode::Continue, &self.options, answer.data.as_ref());
                codec::write(&packet, &mut self.out);
            }
            Err(why) => {
                self.end_authentication();
                return Err(Lost::because(format!("authentication failed: {why}")));
            }
        }
        Ok(())
    }

    /// 0x87 is for servers only (section 3.14.2.1).
    fn end_authentication(&mut self) {
        codec::write(&codec::disconnect(DisconnectReasonCode::UnspecifiedError, None), &mut self.out);
    }

    fn authenticated(&mut self) {
        self.effects.events.extend(self.reauthenticating.take().map(|(token, _)| Event::Done { token }));
    }

    fn connack(&mut self, connack: ConnAck, now: Instant) -> Result<(), Lost> {
        let code = connack.reason_code;
        if code != ReasonCode::SUCCESS {
            return Err(Lost {
                reason_code: Some(code),
                reason_string: connack.reason_string,
                // These do not change by asking again.
                again: !matches!(code.0, 0x84 | 0x85 | 0x8A | 0x8C | 0x95 | 0x9D),
                ..Lost::because("the broker refused CONNECT")
            });
        }
        // Sections 3.2.2.3.6 and 3.2.2.3.4: nothing could be sent to such a broker. (A Maximum QoS of 2 is wrong,
        // too, but says what its absence does.)
        if connack.maximum_packet_size == Some(0) {
            return Err(
                self.violated(DisconnectReasonCode::ProtocolError, "its CONNACK has Maximum Packet Size 0")
            );
        }
        if connack.session_present && self.clean_start {
            // [MQTT-3.2.2-4]
            return Err(self.violated(
                DisconnectReasonCode::ProtocolError,
                "its CONNACK has Session Present 1 after Clean Start 1",
            ));
        }
        if connack.maximum_qos > 2 {
            let what = format!("its CONNACK has Maximum QoS {}", connack.maximum_qos);
            return Err(self.violated(DisconnectReasonCode::ProtocolError, &what));
        }
        if let Some(assigned) = &connack.assigned_client_identifier {
            self.client_id.clone_from(assigned);
        }
        self.state = State::Online;
        let connack = Arc::new(connack);
        self.connack = Some(connack.clone());
        if self.connects > 0 {
            count(&self.counters.reconnects, 1);
        }
        self.connects += 1;
        self.resumed = self.connects == 1 && connack.session_present;
        self.inherited = match self.inherited.take() {
            None if self.resumed => Some(HashSet::new()),
            inherited => inherited.filter(|_| connack.session_present),
        };
        self.effects
            .events
            .push(Event::Connected { connack: connack.clone(), client_id: self.client_id.clone() });
        for token in self.connecting.drain(..) {
            self.effects.events.push(Event::ConnAck { token, connack: connack.clone() });
        }
        let naming = Naming {
            client_id: self.client_id.clone(),
            response_information: connack.response_information.clone(),
        };
        self.responders.connected(&self.client_id);
        // Subscriptions first: nothing that waits for a response goes out before them.
        self.requesters.connected(&connack, naming, &mut self.effects);
        self.resubscribe(connack.session_present);
        for (owner, filter, options) in std::mem::take(&mut self.effects.subscribe) {
            self.subscribe(owner, filter, options);
        }
        let stale = std::mem::take(&mut self.stale);
        if connack.session_present {
            for (owner, filter) in stale {
                self.write_unsubscribe(owner, filter);
            }
            self.in_flights.begin_again();
            self.resend(now);
        } else {
            for (owner, _) in stale {
                self.unsubscribed(owner);
            }
            self.unreleased.clear();
            self.doubtful = false;
            self.start_over();
        }
        self.settle(now);
        Ok(())
    }

    fn resubscribe(&mut self, session_present: bool) {
        let mut subs = std::mem::take(&mut self.subs);
        for (owner, sub) in &mut subs {
            match owner {
                // The requesters name their topics anew, and ask for them themselves.
                Owner::ResponseTopic(number) => {
                    if session_present && sub.state == SubState::Active {
                        self.requesters.kept(*number, &sub.filter, &mut self.effects);
                    }
                }
                _ if session_present && sub.state == SubState::Active => {
                    self.subscribed(*owner, Ok(()));
                    if sub.filter.starts_with("$share/") {
                        // Mosquitto 2.0 comes back from a restart with the session, but without these.
                        self.write_subscribe(*owner, sub);
                    }
                }
                _ => self.write_subscribe(*owner, sub),
            }
        }
        // What was subscribed meanwhile (none, today) must not be lost.
        subs.extend(std::mem::take(&mut self.subs));
        self.subs = subs;
    }

    /// The broker kept the session: what it has not acknowledged goes out again [MQTT-4.4.0-1], as far as its Receive
    /// Maximum allows, which may be another than before [MQTT-4.9.0-1].
    fn resend(&mut self, now: Instant) {
        let nanos = self.nanos(now);
        let room = self.connack.as_ref().map_or(0, |connack| usize::from(connack.receive_maximum));
        while let Some(pkid) = self.in_flights.next_again(room) {
            let Some(InFlight::Publish { packet, sender, awaiting, expires, .. }) =
                self.in_flights.get_mut(pkid)
            else {
                continue;
            };
            let sender = *sender;
            let expiry = match (sender, *expires) {
                (Sender::Request(slot), _) => self.requesters.expiry_of(slot, nanos),
                (_, expires) => expires.and_then(|expires| remaining(expires, now)),
            };
            let over = expiry.is_none() && (matches!(sender, Sender::Request(_)) || expires.is_some());
            let told = *awaiting == Awaiting::Pubcomp;
            match awaiting {
                Awaiting::Puback | Awaiting::Pubrec if !over => {
                    packet.dup = true;
                    if let Some(properties) = &mut packet.properties {
                        properties.message_expiry_interval = expiry;
                    }
                    let start = self.out.len();
                    if packet.write(&mut self.out).is_err() {
                        self.out.truncate(start);
                    }
                }
                // Its deadline has passed: it is not sent again. The broker holds nothing at QoS 1.
                Awaiting::Puback => {
                    self.in_flights.remove(pkid);
                }
                Awaiting::Pubrec | Awaiting::Pubcomp => {
                    *awaiting = Awaiting::Pubcomp;
                    self.write_answer(&Packet::PubRel(PubRel::new(pkid, None)));
                }
            }
            if over && !told {
                self.expired(sender, Vec::new());
            }
        }
    }

    /// The broker has no session: what it never acknowledged becomes new, in the old order.
    fn start_over(&mut self) {
        let later = std::mem::take(&mut self.queues);
        let mut requests = Vec::new();
        for pkid in self.in_flights.publishes_in_order() {
            let Some(InFlight::Publish { packet, sender, awaiting, expires, .. }) =
                self.in_flights.remove(pkid)
            else {
                continue;
            };
            if awaiting == Awaiting::Pubcomp {
                // Acknowledged by its PUBREC, and its sender knows.
                continue;
            }
            let message = codec::message(*packet);
            match sender {
                Sender::Request(slot) => requests.push((slot, message)),
                sender => {
                    let outgoing = Outgoing { message, deliveries: Vec::new(), expires };
                    self.enqueue(outgoing, sender);
                }
            }
        }
        for (queue, later) in self.queues.iter_mut().zip(later) {
            queue.extend(later);
        }
        for (slot, message) in requests.into_iter().rev() {
            self.requesters.write_again(slot, message);
        }
    }

    fn publish(
        &mut self,
        mut message: Message,
        pkid: u16,
        alias: Option<u16>,
        now: Instant,
    ) -> Result<(), Lost> {
        if let Some(alias) = alias {
            self.resolve_alias(&mut message, alias)?;
        }
        let qos = message.qos;
        if qos == 2 {
            // In a session that may be another, a message without DUP is a new one [MQTT-3.3.1-1].
            if self.unreleased.contains(&pkid) && (message.dup || !self.doubtful) {
                // Delivered before; its PUBREC may have been lost, or is still to come. In its turn, like any other.
                if !self.deliveries.holds(pkid) {
                    let delivery = self.take_delivery(pkid, &message)?;
                    self.deliveries.set_users(delivery, 0, None, true);
                }
                return Ok(());
            }
            self.unreleased.insert(pkid);
        } else if message.dup && self.deliveries.holds(pkid) {
            // The same delivery again on the same connection: the first is still being worked on.
            return Ok(());
        }
        let delivery = if qos > 0 { Some(self.take_delivery(pkid, &message)?) } else { None };
        if let Some(message) = self.hand_over(message, delivery, now) {
            if self.resumed && delivery.is_some() {
                // It waited in the broker's session for a responder or a subscription that is about to open.
                self.unclaimed.push_back((now, message, delivery));
            } else {
                self.effects.acknowledge.extend(delivery);
            }
        }
        Ok(())
    }

    /// A QoS 1 or 2 message to be acknowledged in its turn. [MQTT-3.3.4-9], with some patience: else the broker
    /// decided how much waits here.
    fn take_delivery(&mut self, pkid: u16, message: &Message) -> Result<u64, Lost> {
        if self.deliveries.len() < usize::from(self.options.receive_maximum) {
            self.excess = 0;
        } else {
            self.excess += message.weight();
            if self.excess > EXCESS_LIMIT || self.deliveries.len() >= usize::from(u16::MAX) {
                return Err(self.violated(
                    DisconnectReasonCode::ReceiveMaximumExceeded,
                    "it sent far more unacknowledged QoS 1 and 2 messages than receive_maximum",
                ));
            }
        }
        Ok(self.deliveries.add(pkid, message.qos))
    }

    /// Gives a message to everyone it is for; gives it back if there is nobody.
    fn hand_over(&mut self, message: Message, delivery: Option<u64>, now: Instant) -> Option<Message> {
        let response = self.requesters.expects(&message.topic);
        let request = self.responders.expects(message.topic());
        let users: Vec<Token> =
            if self.users.is_empty() { Vec::new() } else { self.users_of(message.topic()) };
        let takers = u32::from(response) + u32::from(request) + u32::try_from(users.len()).unwrap_or(0);
        if takers == 0 {
            return Some(message);
        }
        if let Some(delivery) = delivery {
            let expires = (request && users.is_empty())
                .then_some(message.properties.message_expiry_interval)
                .flatten()
                .map(|seconds| now + Duration::from_secs(seconds.into()));
            self.deliveries.set_users(delivery, takers, expires, !request);
        }
        for token in users {
            if delivery.is_none() && !self.has_room_for(&message) {
                continue;
            }
            self.effects.events.push(Event::Message { token, message: message.clone(), delivery });
        }
        if response {
            self.effects.acknowledge.extend(delivery);
            let nanos = self.nanos(now);
            if !request {
                self.requesters.response(message, nanos, &mut self.effects);
                return None;
            }
            self.requesters.response(message.clone(), nanos, &mut self.effects);
        }
        if request {
            self.responders.request(message, delivery, now, &mut self.effects);
        }
        None
    }

    /// Somebody new may be whom the messages of a resumed session are for.
    fn claim(&mut self, now: Instant) {
        for (since, message, delivery) in std::mem::take(&mut self.unclaimed) {
            if let Some(message) = self.hand_over(message, delivery, now) {
                self.unclaimed.push_back((since, message, delivery));
            }
        }
    }

    /// Nobody came for the oldest of them: they must not hold up the rest for ever.
    fn let_go_of_unclaimed(&mut self, now: Instant) {
        while self.unclaimed.front().is_some_and(|(since, ..)| now.duration_since(*since) >= CLAIM_PATIENCE)
            && let Some((_, message, delivery)) = self.unclaimed.pop_front()
        {
            log::warn!(
                target: "reqtt.connection",
                "a message on \"{}\" waited in the session, but nobody here subscribes to it: dropped",
                topic::one_line(message.topic(), 80)
            );
            if let Some(delivery) = delivery {
                self.deliveries.done(delivery);
            }
        }
    }

    /// QoS 0 has no acknowledgement to hold a sender back with: what a busy program does not take is dropped.
    fn has_room_for(&mut self, message: &Message) -> bool {
        if self.untaken >= UNTAKEN_LIMIT {
            if !std::mem::replace(&mut self.overrun, true) {
                log::warn!(
                    target: "reqtt.connection",
                    "QoS 0 messages are dropped: the program has not taken the last {UNTAKEN_LIMIT} bytes of them"
                );
            }
            return false;
        }
        self.untaken += message.weight();
        self.undelivered += message.weight();
        true
    }

    /// The events went to the mailbox; `taken` says that all those before them have been taken out of it.
    pub fn delivered(&mut self, taken: bool) {
        if taken {
            self.untaken = self.undelivered;
            self.overrun = false;
        }
        self.undelivered = 0;
    }

    fn users_of(&self, topic: &str) -> Vec<Token> {
        self.users
            .iter()
            .filter(|(_, user)| user.filters.iter().any(|filter| topic::matches(filter, topic)))
            .map(|(token, _)| *token)
            .collect()
    }

    /// A topic alias stands for the topic that came with it first on this connection (section 3.3.2.3.4).
    fn resolve_alias(&mut self, message: &mut Message, alias: u16) -> Result<(), Lost> {
        let known = if alias > self.options.topic_alias_maximum {
            None
        } else if message.topic.is_empty() {
            self.aliases.get(&alias).cloned()
        } else {
            self.aliases.insert(alias, message.topic.clone());
            Some(message.topic.clone())
        };
        let Some(topic) = known else {
            return Err(self.violated(
                DisconnectReasonCode::TopicAliasInvalid,
                "it used a topic alias that was never defined, or is larger than topic_alias_maximum",
            ));
        };
        message.topic = topic;
        Ok(())
    }

    /// Writes an acknowledgement: what a broker's packet makes us send.
    fn write_answer(&mut self, packet: &Packet) {
        let start = self.out.len();
        codec::write(packet, &mut self.out);
        if start >= HIGH_WATER {
            self.unread += self.out.len() - start;
        }
    }

    fn pubrec(&mut self, pkid: u16, reason_code: ReasonCode, reason_string: Option<String>) {
        let Some(InFlight::Publish { sender, awaiting, .. }) = self.in_flights.get_mut(pkid) else {
            return self.write_answer(&Packet::PubRel(PubRel::new(pkid, None)));
        };
        if *awaiting == Awaiting::Puback {
            return;
        }
        let sender = *sender;
        if reason_code.is_error() {
            self.in_flights.remove(pkid);
        } else {
            *awaiting = Awaiting::Pubcomp;
            self.write_answer(&Packet::PubRel(PubRel::new(pkid, None)));
        }
        self.tell(sender, reason_code, reason_string);
    }

    /// The last packet of a PUBLISH's exchange is there.
    fn published(
        &mut self,
        pkid: u16,
        last: Awaiting,
        reason_code: ReasonCode,
        reason_string: Option<String>,
    ) {
        match self.in_flights.get_mut(pkid) {
            Some(InFlight::Publish { awaiting, .. }) if *awaiting == last => {}
            _ => return,
        }
        let Some(InFlight::Publish { sender, .. }) = self.in_flights.remove(pkid) else { return };
        if last == Awaiting::Puback {
            self.tell(sender, reason_code, reason_string);
        }
    }

    fn tell(&mut self, sender: Sender, reason_code: ReasonCode, reason_string: Option<String>) {
        match sender {
            Sender::Request(slot) => {
                self.requesters.acknowledged(slot, reason_code, reason_string, &mut self.effects);
            }
            Sender::User(token) => {
                let puback = PubAck { reason_code, reason_string };
                self.effects.events.push(Event::Published { token, puback });
            }
            Sender::Reply if reason_code.is_error() => {
                log::warn!(target: "reqtt.responder", "broker refused a response ({reason_code}): allow this client to publish to the Response Topic");
            }
            Sender::Reply => {}
        }
    }

    fn suback(&mut self, pkid: u16, code: ReasonCode, reason_string: Option<String>) {
        if !matches!(self.in_flights.get_mut(pkid), Some(InFlight::Subscribe(_))) {
            return;
        }
        let Some(InFlight::Subscribe(owner)) = self.in_flights.remove(pkid) else { return };
        let Some(sub) = self.subs.get_mut(&owner).filter(|sub| sub.pkid == pkid) else { return };
        if code.is_error() {
            let error = Error::Subscribe {
                topic_filter: sub.filter.clone(),
                reason_code: code,
                reason_string,
                for_responses: matches!(owner, Owner::ResponseTopic(_)),
            };
            self.subs.remove(&owner);
            self.subscribed(owner, Err(error));
        } else {
            sub.state = SubState::Active;
            self.subscribed(owner, Ok(()));
        }
    }

    /// Requests that wait for their response.
    pub fn awaited(&self) -> usize {
        self.requesters.len()
    }

    /// Whether anything is under way that the broker will answer soon.
    pub fn expects_answers(&self) -> bool {
        self.requesters.len() > 0 || self.in_flights.publishes() > 0
    }

    /// When `tick` has something to do, at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let request = self.requesters.next_deadline().map(|nanos| self.origin + Duration::from_nanos(nanos));
        let ping = self.keep_alive().map(|keep_alive| match self.pinged {
            Some(pinged) => pinged + PING_PATIENCE.min(keep_alive),
            None => self.last_exchange() + keep_alive,
        });
        let claim = self.unclaimed.front().map(|(since, ..)| *since + CLAIM_PATIENCE);
        let reauthentication = self.reauthenticating.map(|(_, until)| until);
        [request, ping.filter(|_| self.online()), self.deliveries.expires(), claim, reauthentication]
            .into_iter()
            .flatten()
            .min()
    }

    /// Since when one of the two directions is silent: a broker that takes everything and says nothing is
    /// to be noticed, too.
    fn last_exchange(&self) -> Instant {
        self.last_sent.min(self.last_received)
    }

    fn keep_alive(&self) -> Option<Duration> {
        let server = self.connack.as_ref().and_then(|connack| connack.server_keep_alive);
        let seconds = server.unwrap_or(self.options.keep_alive);
        // A little early, so that the broker has it within the time [MQTT-3.1.2-20].
        (seconds > 0).then(|| Duration::from_secs(seconds.into()).mul_f64(0.9))
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) -> Result<(), Lost> {
        let nanos = self.nanos(now);
        if self.state != State::Online {
            // A handler may have ended since.
            self.settle_drains();
        }
        if self.requesters.next_deadline().is_some_and(|deadline| deadline <= nanos) {
            self.requesters.expire(nanos, &mut self.effects);
            self.settle(now);
        }
        if self.deliveries.expires().is_some_and(|expires| expires <= now) {
            self.deliveries.expire(now);
            self.acknowledge();
        }
        if !self.unclaimed.is_empty() {
            self.let_go_of_unclaimed(now);
            self.acknowledge();
        }
        if self.reauthenticating.is_some_and(|(_, until)| until <= now) {
            self.end_authentication();
            return Err(Lost::because("the re-authentication took longer than connect_timeout"));
        }
        let Some(keep_alive) = self.keep_alive().filter(|_| self.online()) else { return Ok(()) };
        match self.pinged {
            Some(pinged) if now >= pinged + PING_PATIENCE.min(keep_alive) => {
                return Err(Lost::because("the broker did not answer PINGREQ (Keep Alive timeout)"));
            }
            None if now >= self.last_exchange() + keep_alive => {
                codec::write(&Packet::PingReq, &mut self.out);
                self.pinged = Some(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// `bytes` of `out` reached the network: there may be room for more.
    pub fn written(&mut self, now: Instant) {
        self.last_sent = now;
        if self.out.len() < HIGH_WATER {
            self.unread = 0;
        }
        if !self.nothing_queued() {
            self.settle(now);
        }
    }

    /// The connection is gone; another may follow.
    pub fn disconnected(&mut self, lost: &Lost) {
        let state = self.state;
        self.state = State::Offline;
        self.out.clear();
        self.unread = 0;
        self.pinged = None;
        self.asked = None;
        self.held = None;
        self.aliases.clear();
        self.in_flights.stop_again();
        self.unclaimed.clear();
        for pkid in self.deliveries.forget() {
            // Without a PUBREC the broker delivers it again, and a handler that was cut short needs it.
            self.unreleased.remove(&pkid);
        }
        // A CONNECT whose CONNACK is lost may have begun a session that holds nothing, and that the next CONNACK
        // calls present.
        self.doubtful |= state == State::Handshake;
        self.ask_again(state == State::Handshake);
        if state != State::Online {
            return;
        }
        // QoS 2 deliveries that have no PUBREC yet come again; those that have one wait for PUBREL.
        if let Some((token, _)) = self.reauthenticating.take() {
            let error = Error::ConnectionLost { reason_code: lost.reason_code, detail: lost.detail.clone() };
            self.effects.events.push(Event::Failed { token, error });
        }
        self.responders.disconnected();
        let session = self.options.session_expiry_interval > 0;
        self.requesters.disconnected(session);
        self.stale.extend(self.in_flights.drop_subscribes());
        self.end_what_may_not_be_resent(lost);
        for queue in &mut self.queues {
            queue.retain_mut(|queued| match queued {
                Queued::Request(slot) => {
                    self.requesters.wait_again(*slot, &mut self.effects);
                    false
                }
                Queued::Message(outgoing, _) => {
                    outgoing.deliveries.clear();
                    true
                }
            });
        }
        self.effects.acknowledge.clear();
        self.settle_drains();
    }

    /// Whether the broker has these subscriptions is not known: it is asked again, whatever its session says.
    fn ask_again(&mut self, all: bool) {
        for (owner, sub) in self.subs.iter_mut().filter(|(_, sub)| all || sub.state == SubState::Asked) {
            sub.state = SubState::Wanted;
            if let Owner::ResponseTopic(number) = owner {
                self.requesters.ask_again(*number);
            }
        }
    }

    fn end_what_may_not_be_resent(&mut self, lost: &Lost) {
        for pkid in self.in_flights.publishes_in_order() {
            let Some(InFlight::Publish { sender: Sender::Request(slot), awaiting, .. }) =
                self.in_flights.get_mut(pkid)
            else {
                continue;
            };
            let (slot, awaiting) = (*slot, *awaiting);
            if awaiting == Awaiting::Pubcomp
                || !self.requesters.is_pending(slot)
                || self.requesters.may_resend(slot)
            {
                continue;
            }
            let error = Error::ConnectionLost {
                reason_code: lost.reason_code,
                detail: format!(
                    "{}; the broker had not acknowledged this request, and resend=False forbids to send it again",
                    lost.detail
                ),
            };
            self.requesters.end(slot, Ended::Cancelled, Some(error), &mut self.effects);
            if awaiting == Awaiting::Puback {
                self.in_flights.remove(pkid);
            }
        }
    }

    /// Nothing will be sent any more: ends all that waits.
    pub fn give_up(&mut self, error: &Error) {
        self.requesters.end_all(error, &mut self.effects);
        let mut tokens: Vec<Token> = self.users.keys().copied().collect();
        self.users.clear();
        for pkid in self.in_flights.publishes_in_order() {
            if let Some(InFlight::Publish { sender: Sender::User(token), awaiting, .. }) =
                self.in_flights.remove(pkid)
                && awaiting != Awaiting::Pubcomp
            {
                tokens.push(token);
            }
        }
        tokens.extend(self.publishes.drain(..).map(|(_, token)| token));
        self.queued_replies = 0;
        for queued in self.queues.iter_mut().flat_map(|queue| queue.drain(..)) {
            if let Queued::Message(_, Sender::User(token)) = queued {
                tokens.push(token);
            }
        }
        tokens.extend(self.reauthenticating.take().map(|(token, _)| token));
        for token in tokens.into_iter().chain(self.connecting.drain(..)) {
            self.effects.events.push(Event::Failed { token, error: error.clone() });
        }
        self.responders.give_up(error, &mut self.effects);
        self.effects.events.extend(self.drained.drain(..).map(|token| Event::Done { token }));
        self.effects.subscribe.clear();
        self.effects.unsubscribe.clear();
        self.effects.ready.clear();
        self.effects.replies.clear();
    }

    /// Answers a command that comes when all is over.
    pub fn refuse(&mut self, command: Command, error: &Error) {
        let token = match command {
            Command::Request(request) => request.token,
            Command::Connect { token }
            | Command::Publish { token, .. }
            | Command::Reauthenticate { token, .. }
            | Command::Subscribe { token, .. }
            | Command::OpenResponder { token, .. } => token,
            Command::Drain { token, .. }
            | Command::DrainRequester { token, .. }
            | Command::Disconnect { token: Some(token) } => {
                return self.effects.events.push(Event::Done { token });
            }
            _ => return,
        };
        self.effects.events.push(Event::Failed { token, error: error.clone() });
    }

    /// Ends the connection in good order: DISCONNECT 0x00, so that the broker drops the will.
    pub fn close(&mut self) {
        if self.online() {
            codec::write(&codec::disconnect(DisconnectReasonCode::NormalDisconnection, None), &mut self.out);
        }
        self.state = State::Offline;
        self.give_up(&Error::ClientClosed);
    }

    /// What is unfinished, for a test that expects nothing to be.
    #[cfg(test)]
    pub fn left_over(&self) -> String {
        let numbers = [
            ("requests", self.requesters.len()),
            ("in flight", self.in_flights.len()),
            ("queued", self.queued()),
            ("deliveries", self.deliveries.len()),
            ("unreleased", if self.doubtful { 0 } else { self.unreleased.len() }),
            ("unclaimed", self.unclaimed.len()),
            ("subscriptions", self.subs.len()),
            ("drains", self.drained.len()),
        ];
        let left = numbers.iter().filter(|(_, number)| *number > 0);
        left.map(|(what, number)| format!("{number} {what} ")).collect()
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Message Expiry Interval for what is sent now, if its time is not up.
fn remaining(expires: Instant, now: Instant) -> Option<u32> {
    (expires > now).then(|| whole_seconds(expires, now))
}

/// The largest packet that the broker takes, in bytes. 268,435,460 is what the Remaining Length can say at most (section
/// 2.1.4), with its header.
fn maximum_packet_size(connack: &ConnAck) -> usize {
    connack.maximum_packet_size.map_or(268_435_460, |maximum| maximum as usize)
}

/// An upper bound of a PUBLISH's size on the wire, exact but for the length fields' own widths.
fn encoded_size(message: &Message) -> usize {
    let properties = &message.properties;
    let mut size = 2 + message.topic.len() + message.payload.len() + if message.qos > 0 { 2 } else { 0 };
    let mut inner = 0;
    inner += properties.payload_format_indicator.map_or(0, |_| 2);
    inner += properties.message_expiry_interval.map_or(0, |_| 5);
    inner += properties.response_topic.as_ref().map_or(0, |topic| 3 + topic.len());
    inner += properties.correlation_data.as_ref().map_or(0, |data| 3 + data.len());
    inner += properties.content_type.as_ref().map_or(0, |text| 3 + text.len());
    inner += properties.user_properties.iter().map(|(key, value)| 5 + key.len() + value.len()).sum::<usize>();
    size += width(inner) + inner;
    1 + width(size) + size
}

/// Bytes of a Variable Byte Integer (section 1.5.5).
const fn width(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}
