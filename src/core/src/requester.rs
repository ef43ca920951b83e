//! The requesting side: response topics, admission, the requests under way and how each of them ends.
//! Every request ends in exactly one event. No I/O and no clock: time comes in, effects go out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;

use crate::azure;
use crate::command::{
    Counters, Event, Many, NewRequest, RequesterOptions, ResponseTopic, SubscribeOptions, Token, count,
};
use crate::correlation::{CorrelationMap, CorrelationSource, Ended, SlotId};
use crate::effects::{Effects, Owner};
use crate::error::{Error, Phase, ReasonCode, Result};
use crate::message::{ConnAck, Message};
use crate::topic;

/// Nanoseconds since the session began; what the correlation map counts in.
pub(crate) type Nanos = u64;

/// How many response topics that single requests named stay subscribed, for each requester: enough for those
/// who use a few again and again, and no more than that for those who never use one twice.
const OTHERS: usize = 32;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    /// Over `max_pending_requests`.
    Backlog,
    /// Its response topic is not (yet) subscribed, or it waits for the session to take it.
    Waiting,
    /// Written, not acknowledged.
    Sent,
    /// Acknowledged, or QoS 0 and written.
    Acknowledged,
}

/// A request under way. Kept small: there may be a million.
#[derive(Debug)]
struct Pending {
    token: Token,
    /// Held until it is written; the session holds what it may have to send again.
    message: Option<Box<Message>>,
    /// For the error that may come.
    topic: Bytes,
    /// The user's own Message Expiry Interval, in seconds.
    expiry: Option<u32>,
    started: Nanos,
    timeout: Nanos,
    requester: u32,
    space: u32,
    stage: Stage,
    fail_fast: bool,
    azure: bool,
    many: Option<Box<Many>>,
}

#[derive(Debug)]
struct Requester {
    options: RequesterOptions,
    /// Its own response topic.
    space: u32,
    admitted: usize,
    backlog: VecDeque<SlotId>,
    /// Response topics that single requests named.
    others: Vec<u32>,
    /// Who waits for the last of its requests to end.
    drains: Vec<Token>,
}

/// One response topic.
#[derive(Debug)]
struct Space {
    /// Known once connected, where it depends on what the broker says.
    topic: String,
    /// The last level of a default topic; `None` for the user's own.
    token: Option<String>,
    qos: Option<u8>,
    asked_qos: u8,
    /// Whether a request needed it since it was opened.
    wanted: bool,
    /// Whether a SUBSCRIBE was asked for and not refused.
    asked: bool,
    /// Whether its SUBACK is there, on this connection or in the broker's session.
    active: bool,
    waiting: VecDeque<SlotId>,
    by_topic: bool,
    /// Requesters that hold it.
    users: usize,
    /// Requests that wait for a response there.
    pending: usize,
}

/// Settings that the requesters need of the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naming {
    pub client_id: String,
    pub response_information: Option<String>,
}

pub(crate) struct Requesters {
    map: CorrelationMap<Pending>,
    source: CorrelationSource,
    by_token: HashMap<Token, SlotId>,
    requesters: HashMap<u32, Requester>,
    spaces: BTreeMap<u32, Space>,
    /// Numbers are not used again: a SUBACK may still be on its way.
    spaces_made: u32,
    by_topic: HashMap<Bytes, u32>,
    naming: Option<Naming>,
    connected: bool,
    /// Responders that acknowledge late share the connection: responses must not queue behind requests.
    responders_share: bool,
    tokens_given: u32,
    /// Whether a later process has to find the same response topics in the broker's session.
    fixed_tokens: bool,
    counters: Arc<Counters>,
}

impl Requesters {
    pub fn new(counters: Arc<Counters>, fixed_tokens: bool) -> Self {
        Self {
            map: CorrelationMap::new(),
            source: CorrelationSource::new(),
            by_token: HashMap::new(),
            requesters: HashMap::new(),
            spaces: BTreeMap::new(),
            spaces_made: 0,
            by_topic: HashMap::new(),
            naming: None,
            connected: false,
            responders_share: false,
            tokens_given: 0,
            fixed_tokens,
            counters,
        }
    }

    pub fn open(&mut self, id: u32, options: RequesterOptions) {
        let space = match &options.response_topic {
            ResponseTopic::Fixed(topic) => self.fixed_space(topic, &options),
            ResponseTopic::Default => self.default_space(&options),
        };
        self.space_mut(space).users += 1;
        self.requesters.insert(
            id,
            Requester {
                options,
                space,
                admitted: 0,
                backlog: VecDeque::new(),
                others: Vec::new(),
                drains: Vec::new(),
            },
        );
    }

    fn fixed_space(&mut self, topic: &str, options: &RequesterOptions) -> u32 {
        if let Some(space) = self.by_topic.get(topic.as_bytes()) {
            return *space;
        }
        let space = self.add_space(topic.to_owned(), None, options);
        self.by_topic.insert(Bytes::copy_from_slice(topic.as_bytes()), space);
        space
    }

    fn default_space(&mut self, options: &RequesterOptions) -> u32 {
        let token = if self.fixed_tokens {
            format!("r{}", self.tokens_given)
        } else {
            // Random, so that no two processes ever share it, whatever their client identifiers.
            String::from_utf8_lossy(&self.source.next()).into_owned()
        };
        self.tokens_given += 1;
        let space = self.add_space(String::new(), Some(token), options);
        self.name_space(space);
        space
    }

    fn add_space(&mut self, topic: String, token: Option<String>, options: &RequesterOptions) -> u32 {
        let number = self.spaces_made;
        self.spaces_made += 1;
        let space = Space {
            topic,
            token,
            qos: options.response_qos,
            asked_qos: 0,
            wanted: false,
            asked: false,
            active: false,
            waiting: VecDeque::new(),
            by_topic: options.match_by_topic,
            users: 0,
            pending: 0,
        };
        self.spaces.insert(number, space);
        number
    }

    fn space_mut(&mut self, number: u32) -> &mut Space {
        self.spaces.get_mut(&number).expect("a response topic is there as long as a requester holds it")
    }

    /// A requester no longer needs this response topic; the last one unsubscribes from it.
    fn release(&mut self, number: u32, effects: &mut Effects) {
        let space = self.space_mut(number);
        space.users -= 1;
        if space.users > 0 {
            return;
        }
        // Also while there is no connection: the broker's session may hold it.
        effects.end_subscription(Owner::ResponseTopic(number));
        if let Some(space) = self.spaces.remove(&number) {
            self.by_topic.remove(space.topic.as_bytes());
        }
    }

    /// Gives a default response topic its name, as far as the connection's facts are known.
    fn name_space(&mut self, number: u32) {
        let Some(naming) = &self.naming else { return };
        let space = self.spaces.get_mut(&number).expect("just made, or iterated over");
        let Some(token) = &space.token else { return };
        let topic = default_response_topic(naming, token);
        if topic != space.topic {
            self.by_topic.remove(space.topic.as_bytes());
            self.by_topic.insert(Bytes::copy_from_slice(topic.as_bytes()), number);
            space.topic = topic;
            space.asked = false;
            space.active = false;
        }
    }

    /// `Event::Done` follows when none of its requests is under way.
    pub fn drain(&mut self, token: Token, id: u32, effects: &mut Effects) {
        match self.requesters.get_mut(&id) {
            // The backlog is empty whenever nothing is admitted.
            Some(requester) if requester.admitted > 0 => requester.drains.push(token),
            _ => effects.events.push(Event::Done { token }),
        }
    }

    pub fn close(&mut self, id: u32, effects: &mut Effects) {
        let Some(requester) = self.requesters.remove(&id) else { return };
        effects.events.extend(requester.drains.iter().map(|token| Event::Done { token: *token }));
        let slots: Vec<SlotId> =
            self.map.iter().filter(|(_, pending)| pending.requester == id).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.end(slot, Ended::Cancelled, Some(Error::ClientClosed), effects);
        }
        for number in requester.others.into_iter().chain([requester.space]) {
            self.release(number, effects);
        }
    }

    /// Takes a request in: allocates its slot, and sends it on or lets it wait.
    pub fn request(&mut self, request: NewRequest, now: Nanos, origin: Instant, effects: &mut Effects) {
        count(&self.counters.requests, 1);
        let NewRequest { token, requester: id, mut message, started, timeout, fail_fast, many } = request;
        let fail = |error, effects: &mut Effects| effects.events.push(Event::Failed { token, error });
        let Some(requester) = self.requesters.get(&id) else {
            return fail(Error::ClientClosed, effects);
        };
        let space = match message.properties.response_topic.take() {
            None => requester.space,
            Some(topic) => {
                let options = requester.options.clone();
                let space = self.fixed_space(&topic, &options);
                let requester = self.requesters.get_mut(&id).expect("looked up above");
                if space != requester.space && !requester.others.contains(&space) {
                    requester.others.push(space);
                    self.space_mut(space).users += 1;
                }
                space
            }
        };
        let data = message
            .properties
            .correlation_data
            .get_or_insert_with(|| Bytes::copy_from_slice(&self.source.next()))
            .clone();
        let started = nanos(started.saturating_duration_since(origin));
        let timeout = nanos(timeout);
        let deadline = started.saturating_add(timeout).max(now);
        let requester = self.requesters.get_mut(&id).expect("looked up above");
        // A response that carries no Correlation Data can only belong to the one request under way.
        let limit = if requester.options.match_by_topic { 1 } else { requester.options.max_pending_requests };
        let admitted = requester.admitted < limit;
        let stage = if admitted { Stage::Waiting } else { Stage::Backlog };
        let pending = Pending {
            token,
            topic: message.topic.clone(),
            expiry: message.properties.message_expiry_interval,
            message: Some(Box::new(message)),
            started,
            timeout,
            requester: id,
            space,
            stage,
            fail_fast,
            azure: requester.options.azure,
            many: many.map(Box::new),
        };
        let slot = match self.map.insert(space, &data, deadline, pending) {
            Ok(slot) => slot,
            Err(_) => {
                return fail(
                    Error::InvalidArgument(
                        "correlation_data is already in flight on this response topic: wait for that request, or choose other bytes".into(),
                    ),
                    effects,
                );
            }
        };
        self.by_token.insert(token, slot);
        self.spaces.get_mut(&space).expect("held by the requester").pending += 1;
        if admitted {
            requester.admitted += 1;
            self.admit(slot, space, effects);
        } else {
            requester.backlog.push_back(slot);
        }
        self.gauge();
    }

    /// Lets an admitted request go out, or wait for its response topic.
    fn admit(&mut self, slot: SlotId, space: u32, effects: &mut Effects) {
        if self.spaces[&space].active {
            effects.ready.push(slot);
            return;
        }
        self.space_mut(space).waiting.push_back(slot);
        self.prune(space);
        self.subscribe_space(space, effects);
    }

    /// Forgets waiting slots that have ended, so that a long outage costs what is pending, not what was.
    fn prune(&mut self, space: u32) {
        let (map, spaces) = (&self.map, &mut self.spaces);
        let Some(Space { waiting, .. }) = spaces.get_mut(&space) else { return };
        if waiting.len() > 64 + 2 * map.len() {
            waiting.retain(|slot| map.get(*slot).is_some());
        }
    }

    fn subscribe_space(&mut self, number: u32, effects: &mut Effects) {
        let (connected, share) = (self.connected, self.responders_share);
        let space = self.space_mut(number);
        let qos = space.qos.unwrap_or(u8::from(!share));
        space.wanted = true;
        if space.asked && space.asked_qos == qos || !connected {
            return;
        }
        space.asked = true;
        space.asked_qos = qos;
        let options = SubscribeOptions {
            qos,
            no_local: false,
            retain_as_published: true,
            // Retained messages are no responses (MQTT 5.0, section 3.8.3.1): 2 asks for none.
            retain_handling: 2,
            subscription_identifier: None,
        };
        effects.subscribe.push((Owner::ResponseTopic(number), space.topic.clone(), options));
    }

    /// Whether responders that acknowledge after the response use this connection too.
    pub fn set_responders_share(&mut self, share: bool, effects: &mut Effects) {
        self.responders_share = share;
        for number in self.numbers() {
            if self.spaces[&number].asked {
                self.subscribe_space(number, effects);
            }
        }
    }

    /// A connection is up. Active response topics are those that the broker's session kept.
    pub fn connected(&mut self, connack: &ConnAck, mut naming: Naming, effects: &mut Effects) {
        self.connected = true;
        naming.response_information = usable_response_information(connack.response_information.as_deref());
        self.naming = Some(naming);
        for number in self.numbers() {
            self.name_space(number);
            if !connack.session_present {
                self.space_mut(number).asked = false;
            }
        }
        self.ask(effects);
    }

    /// Subscribes to every response topic that is wanted and not asked for yet.
    fn ask(&mut self, effects: &mut Effects) {
        for number in self.numbers() {
            if self.spaces[&number].wanted {
                self.subscribe_space(number, effects);
            }
        }
    }

    fn numbers(&self) -> Vec<u32> {
        self.spaces.keys().copied().collect()
    }

    /// The broker answered the SUBSCRIBE of a response topic, or its session still holds it.
    pub fn subscribed(&mut self, number: u32, outcome: Result<()>, effects: &mut Effects) {
        let Some(space) = self.spaces.get_mut(&number).filter(|space| space.asked) else { return };
        match outcome {
            Ok(()) => {
                space.active = true;
                let waiting = std::mem::take(&mut space.waiting);
                effects.ready.extend(waiting.into_iter().filter(|slot| self.map.get(*slot).is_some()));
            }
            Err(error) => {
                space.asked = false;
                space.active = false;
                for slot in std::mem::take(&mut space.waiting) {
                    self.end(slot, Ended::Cancelled, Some(error.clone()), effects);
                }
            }
        }
    }

    /// The broker's session still holds this subscription.
    pub fn kept(&mut self, number: u32, filter: &str, effects: &mut Effects) {
        if self.spaces.get(&number).is_some_and(|space| space.asked && space.topic == filter) {
            self.subscribed(number, Ok(()), effects);
        }
    }

    /// The connection is gone; what waits goes on waiting.
    pub fn disconnected(&mut self, session_may_survive: bool) {
        self.connected = false;
        for space in self.spaces.values_mut() {
            if !session_may_survive || !space.active {
                space.asked = false;
            }
            space.active = false;
        }
    }

    /// Its SUBSCRIBE may not have reached the broker.
    pub fn ask_again(&mut self, number: u32) {
        if let Some(space) = self.spaces.get_mut(&number) {
            space.asked = false;
            space.active = false;
        }
    }

    /// The request as it has to be written now, or `None` if it has ended meanwhile.
    pub fn take_ready(&mut self, slot: SlotId, now: Nanos) -> Option<Message> {
        let (space, deadline) = (self.map.space(slot)?, self.map.deadline(slot)?);
        if deadline <= now {
            // It ends with the next tick; the responder must not be asked for nothing.
            return None;
        }
        let pending = self.map.get_mut(slot)?;
        let mut message = *pending.message.take()?;
        message.properties.response_topic = Some(self.spaces[&space].topic.clone());
        message.properties.message_expiry_interval = remaining_expiry(pending, deadline, now);
        if pending.azure {
            let client_id = self.naming.as_ref().map_or("", |naming| &naming.client_id);
            azure::mark_request(&mut message.properties, client_id);
        }
        Some(message)
    }

    /// The session never wrote it: it waits for its response topic again.
    pub fn wait_again(&mut self, slot: SlotId, effects: &mut Effects) {
        if let Some(space) = self.map.space(slot) {
            self.admit(slot, space, effects);
        }
    }

    /// It was written to a session that is lost: it has to be written again, before what came after it.
    pub fn write_again(&mut self, slot: SlotId, message: Message) {
        let Some(space) = self.map.space(slot) else { return };
        let Some(pending) = self.map.get_mut(slot) else { return };
        pending.message = Some(Box::new(message));
        pending.stage = Stage::Waiting;
        self.space_mut(space).waiting.push_front(slot);
    }

    /// What remains of a sent request's lifetime, for a resend; `None` if it has ended.
    pub fn expiry_of(&self, slot: SlotId, now: Nanos) -> Option<u32> {
        remaining_expiry(self.map.get(slot)?, self.map.deadline(slot)?, now)
    }

    /// It was written.
    pub fn sent(&mut self, slot: SlotId, qos: u8) {
        if let Some(pending) = self.map.get_mut(slot) {
            pending.stage = if qos == 0 { Stage::Acknowledged } else { Stage::Sent };
        }
    }

    /// The broker answered its PUBLISH.
    pub fn acknowledged(
        &mut self,
        slot: SlotId,
        reason_code: ReasonCode,
        reason_string: Option<String>,
        effects: &mut Effects,
    ) {
        let Some(pending) = self.map.get_mut(slot) else { return };
        pending.stage = Stage::Acknowledged;
        let topic = || String::from_utf8_lossy(&pending.topic).into_owned();
        if reason_code.is_error() {
            let error = Error::Publish { topic: topic(), reason_code, reason_string };
            self.end(slot, Ended::Cancelled, Some(error), effects);
        } else if reason_code == ReasonCode::NO_MATCHING_SUBSCRIBERS && pending.fail_fast {
            if pending.many.as_deref().is_some_and(|many| !many.stream) {
                // Nobody there is an answer, too.
                let token = pending.token;
                effects.events.push(Event::Done { token });
                return self.end(slot, Ended::Cancelled, None, effects);
            }
            let error = Error::NoMatchingSubscribers { topic: topic() };
            self.end(slot, Ended::Cancelled, Some(error), effects);
        }
    }

    /// Whether this request may be sent again on a new connection.
    pub fn may_resend(&self, slot: SlotId) -> bool {
        self.map
            .get(slot)
            .and_then(|pending| self.requesters.get(&pending.requester))
            .is_some_and(|requester| requester.options.resend)
    }

    /// The QoS it is to be written with, if it has not ended.
    pub fn qos(&self, slot: SlotId) -> Option<u8> {
        Some(self.map.get(slot)?.message.as_ref()?.qos)
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_pending(&self, slot: SlotId) -> bool {
        self.map.get(slot).is_some()
    }

    /// Whether `topic` is a response topic of ours.
    pub fn expects(&self, topic: &[u8]) -> bool {
        self.by_topic.contains_key(topic)
    }

    /// A message on a response topic: to its caller, or counted and dropped.
    pub fn response(&mut self, message: Message, now: Nanos, effects: &mut Effects) {
        let Some(&space) = self.by_topic.get(&message.topic) else { return };
        if message.retain {
            return count(&self.counters.retained, 1);
        }
        let data = message.properties.correlation_data.as_deref().unwrap_or_default();
        if let Some(slot) = self.map.find(space, data)
            && let Some(pending) = self.map.get(slot)
            && let Some(many) = pending.many.as_deref().copied()
        {
            return self.one_of_many(slot, many, message, now, effects);
        }
        let taken = match self.map.take(space, data) {
            None if self.spaces[&space].by_topic => self.take_only(space),
            taken => taken,
        };
        let Some((_, mut pending)) = taken else {
            let counter = match self.map.ended(space, data) {
                Some(Ended::Answered) => &self.counters.duplicates,
                Some(_) => &self.counters.late,
                None => &self.counters.unmatched,
            };
            return count(counter, 1);
        };
        count(&self.counters.responses, 1);
        azure::observe(&message.properties);
        effects.events.push(Event::Response {
            token: pending.token,
            message,
            request_topic: std::mem::take(&mut pending.topic),
            latency: Duration::from_nanos(now.saturating_sub(pending.started)),
        });
        self.ended(pending, effects);
    }

    /// The request goes on waiting for others.
    fn one_of_many(&mut self, slot: SlotId, many: Many, message: Message, now: Nanos, effects: &mut Effects) {
        let Some(pending) = self.map.get_mut(slot) else { return };
        // Whatever became of the PUBACK.
        pending.stage = Stage::Acknowledged;
        count(&self.counters.responses, 1);
        effects.events.push(Event::Response {
            token: pending.token,
            message,
            request_topic: pending.topic.clone(),
            latency: Duration::from_nanos(now.saturating_sub(pending.started)),
        });
        if let Some(stall) = many.stall {
            let last = if many.stream { Nanos::MAX } else { pending.started.saturating_add(pending.timeout) };
            self.map.set_deadline(slot, now.saturating_add(nanos(stall)).min(last));
        }
    }

    fn take_only(&mut self, space: u32) -> Option<(SlotId, Pending)> {
        let slot = self
            .map
            .iter()
            .find(|(slot, pending)| pending.stage > Stage::Waiting && self.map.space(*slot) == Some(space))
            .map(|(slot, _)| slot)?;
        self.map.remove_as(slot, Ended::Answered).map(|pending| (slot, pending))
    }

    pub fn cancel(&mut self, token: Token, effects: &mut Effects) {
        let Some(slot) = self.by_token.get(&token).copied() else { return };
        count(&self.counters.cancelled, 1);
        self.end(slot, Ended::Cancelled, None, effects);
    }

    pub fn next_deadline(&self) -> Option<Nanos> {
        self.map.next_deadline()
    }

    /// Ends what has run out of time.
    pub fn expire(&mut self, now: Nanos, effects: &mut Effects) {
        let mut expired = Vec::new();
        self.map.expire(now, |_, _, pending| expired.push(pending));
        for pending in expired {
            let gathers = pending.many.as_deref().is_some_and(|many| !many.stream);
            if gathers && pending.stage == Stage::Acknowledged {
                effects.events.push(Event::Done { token: pending.token });
                self.ended(pending, effects);
                continue;
            }
            count(&self.counters.timeouts, 1);
            let phase = match pending.stage {
                _ if !self.connected && pending.stage < Stage::Sent => Phase::Connect,
                Stage::Waiting if !self.spaces[&pending.space].active => Phase::Subscribe,
                Stage::Backlog | Stage::Waiting | Stage::Sent => Phase::Publish,
                Stage::Acknowledged => Phase::Response,
            };
            let topic = String::from_utf8_lossy(&pending.topic).into_owned();
            effects.events.push(Event::Failed {
                token: pending.token,
                error: Error::Timeout { topic, timeout: Duration::from_nanos(pending.timeout), phase },
            });
            self.ended(pending, effects);
        }
    }

    /// Ends a request badly (or silently, when nobody waits for it any more).
    pub fn end(&mut self, slot: SlotId, how: Ended, error: Option<Error>, effects: &mut Effects) {
        let Some(pending) = self.map.remove_as(slot, how) else { return };
        if let Some(error) = error {
            effects.events.push(Event::Failed { token: pending.token, error });
        }
        self.ended(pending, effects);
    }

    /// Ends everything.
    pub fn end_all(&mut self, error: &Error, effects: &mut Effects) {
        let slots: Vec<SlotId> = self.map.iter().map(|(slot, _)| slot).collect();
        // The backlog must not be let in while all of it is ending.
        for requester in self.requesters.values_mut() {
            requester.backlog.clear();
        }
        for slot in slots {
            self.end(slot, Ended::Cancelled, Some(error.clone()), effects);
        }
        effects.ready.clear();
    }

    /// What every end has in common: the token is free, and the next may come in.
    fn ended(&mut self, pending: Pending, effects: &mut Effects) {
        self.by_token.remove(&pending.token);
        self.left(pending.requester, pending.space, effects);
        if pending.stage != Stage::Backlog
            && let Some(requester) = self.requesters.get_mut(&pending.requester)
        {
            requester.admitted -= 1;
            while let Some(next) = requester.backlog.pop_front() {
                let Some(waiting) = self.map.get_mut(next) else { continue };
                waiting.stage = Stage::Waiting;
                requester.admitted += 1;
                let space = self.map.space(next).expect("it is in the map");
                self.admit(next, space, effects);
                break;
            }
            if let Some(requester) = self.requesters.get_mut(&pending.requester)
                && requester.admitted == 0
            {
                effects.events.extend(requester.drains.drain(..).map(|token| Event::Done { token }));
            }
        }
        self.gauge();
    }

    /// One request less waits on this response topic. The requester's own stays; of those that single requests
    /// named, only so many.
    fn left(&mut self, requester: u32, number: u32, effects: &mut Effects) {
        // It went with its requester.
        let Some(space) = self.spaces.get_mut(&number) else { return };
        space.pending -= 1;
        if space.pending > 0 {
            return;
        }
        let Some(requester) = self.requesters.get_mut(&requester) else { return };
        if requester.others.len() > OTHERS && number != requester.space {
            requester.others.retain(|other| *other != number);
            self.release(number, effects);
        }
    }

    fn gauge(&self) {
        self.counters.pending.store(self.map.len() as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Message Expiry Interval for a request written now: what remains, in whole seconds, rounded up.
fn remaining_expiry(pending: &Pending, deadline: Nanos, now: Nanos) -> Option<u32> {
    const SECOND: u64 = 1_000_000_000;
    let remaining = match pending.expiry {
        Some(seconds) => (u64::from(seconds) * SECOND).saturating_sub(now.saturating_sub(pending.started)),
        None => deadline.saturating_sub(now),
    };
    Some(u32::try_from(remaining.div_ceil(SECOND)).unwrap_or(u32::MAX).max(1))
}

/// Response Information as a base for topics: without a trailing separator, and only if it can be published to.
fn usable_response_information(information: Option<&str>) -> Option<String> {
    let information = information?;
    let base = information.strip_suffix('/').unwrap_or(information);
    // With the token that follows it.
    if let Err(error) =
        topic::check_topic(base).and_then(|()| topic::check_topic(&format!("{base}/{:16}", "r")))
    {
        log::warn!(target: "reqtt.requester", "the broker's Response Information cannot be used: {error}");
        return None;
    }
    Some(base.to_owned())
}

/// `<response information>/<token>`, or `clients/<client id>/responses/<token>` (MQTT 5.0, section 4.10.2).
pub(crate) fn default_response_topic(naming: &Naming, token: &str) -> String {
    match &naming.response_information {
        Some(base) => format!("{base}/{token}"),
        None => format!("clients/{}/responses/{token}", as_level(&naming.client_id)),
    }
}

/// The topic `name` below the place where this client may receive what others address to it, given what the
/// broker said of that.
#[must_use]
pub fn own_topic(client_id: &str, response_information: Option<&str>, name: &str) -> String {
    let response_information = usable_response_information(response_information);
    default_response_topic(&Naming { client_id: client_id.to_owned(), response_information }, name)
}

/// A client identifier as one topic level: what a level cannot hold is percent-encoded.
fn as_level(client_id: &str) -> String {
    let mut level = String::with_capacity(client_id.len());
    for character in client_id.chars() {
        match character {
            '+' => level.push_str("%2B"),
            '#' => level.push_str("%23"),
            '/' => level.push_str("%2F"),
            '\0' => level.push_str("%00"),
            other => level.push(other),
        }
    }
    level
}
