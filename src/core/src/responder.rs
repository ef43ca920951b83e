//! The responding side: which responder runs, whether a request may run at all, how often, and what goes
//! back. Decides on expiry, duplicates, concurrency and the order of acknowledgements. No I/O, no clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use slab::Slab;

use crate::azure;
use crate::command::{Counters, Event, SubscribeOptions, Token, count};
use crate::correlation::CorrelationSource;
use crate::duplicates::{Duplicates, Outcome, Seen};
use crate::effects::{Effects, Outgoing, Owner};
use crate::error::{Error, Result};
use crate::message::{Message, Properties};
use crate::topic::{self, Pattern, Router};

/// When a request is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// After its response is handed to the network: at-least-once.
    AfterResponse,
    /// As soon as it is received: at-most-once.
    OnReceipt,
}

/// What a responder is set to.
#[derive(Debug, Clone)]
pub struct ResponderOptions {
    /// The topics it answers on, with captures.
    pub pattern: Pattern,
    /// The shared subscription's group (`$share/<group>/...`).
    pub group: Option<String>,
    /// The highest QoS of requests.
    pub qos: u8,
    /// How many handlers run at a time; more requests wait.
    pub concurrency: usize,
    /// When requests are acknowledged.
    pub ack: Ack,
    /// Whether copies of a request share one run.
    pub deduplicate: bool,
    /// Whether a message without Response Topic runs the handler (one-way).
    pub run_without_response_topic: bool,
    /// Filters for the Response Topics it may publish to.
    pub allowed_response_topics: Vec<String>,
    /// Whether retained messages are requests.
    pub retained: bool,
    /// Whether it keeps to the RPC protocol of Azure IoT Operations.
    pub azure: bool,
}

impl ResponderOptions {
    /// The filter as it is subscribed to.
    #[must_use]
    pub fn topic_filter(&self) -> String {
        match &self.group {
            Some(group) => format!("$share/{group}/{}", self.pattern.filter()),
            None => self.pattern.filter().to_owned(),
        }
    }
}

/// What a handler made of its request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The payload.
    pub payload: Bytes,
    /// An HTTP status code; written as `__stat` where it is an error, or where the request asks for it.
    pub status: u16,
    /// What the payload is.
    pub content_type: Option<String>,
    /// 1 when the payload is UTF-8 text.
    pub payload_format_indicator: Option<u8>,
    /// Further facts, those of an error included.
    pub user_properties: Vec<(String, String)>,
}

/// A request with this user property takes a response from each responder; those say who they are, so that one
/// that is repeated can be told from one that is alike.
pub const GATHER: &str = "rq-gather";
/// The user property in which they do.
const IDENTITY: &str = "rq-id";

/// How many QoS 0 requests may wait for one responder, and how many bytes of them; QoS 1 and 2 are bounded by Receive
/// Maximum.
const QUEUE_LIMIT: usize = 10_000;
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct Responder {
    options: Arc<ResponderOptions>,
    identifier: u32,
    /// Told once, when the SUBACK is there.
    token: Option<Token>,
    active: bool,
    /// Its UNSUBACK is awaited: until then requests may come.
    leaving: bool,
    /// It starts no handler any more.
    stopped: bool,
    running: usize,
    queue: VecDeque<Incoming>,
    /// The weight of what is queued.
    queued: usize,
}

impl Responder {
    fn works(&self) -> bool {
        self.running > 0 || !self.queue.is_empty()
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_LIMIT || self.queued >= QUEUE_BYTES
    }

    fn pop(&mut self) -> Option<Incoming> {
        let incoming = self.queue.pop_front()?;
        self.queued -= incoming.message.weight();
        Some(incoming)
    }
}

/// A request that was let in.
#[derive(Debug)]
struct Incoming {
    message: Message,
    deadline: Option<Instant>,
    /// The delivery to acknowledge when all is done; `None` at QoS 0, or once acknowledged.
    delivery: Option<u64>,
    /// Its number among the [`Duplicates`].
    known: Option<usize>,
}

/// A request whose handler runs.
#[derive(Debug)]
struct Running {
    responder: u32,
    generation: u32,
    deadline: Option<Instant>,
    delivery: Option<u64>,
    known: Option<usize>,
    response_topic: Option<String>,
    correlation_data: Option<Bytes>,
    qos: u8,
    wants_status: bool,
    wants_identity: bool,
    azure: bool,
}

pub(crate) struct Responders {
    responders: HashMap<u32, Responder>,
    router: Router<u32>,
    running: Slab<Running>,
    generation: u32,
    duplicates: Duplicates,
    drains: Vec<(Token, Vec<u32>)>,
    /// What tells the responders of this connection from those of others.
    identity: String,
    client_id: String,
    /// The subscription identifiers of all responders.
    identifiers: HashSet<u32>,
    counters: Arc<Counters>,
}

impl Responders {
    pub fn new(counters: Arc<Counters>) -> Self {
        Self {
            responders: HashMap::new(),
            router: Router::new(),
            running: Slab::new(),
            generation: 0,
            duplicates: Duplicates::default(),
            drains: Vec::new(),
            identity: String::from_utf8_lossy(&CorrelationSource::new().next()).into_owned(),
            client_id: String::new(),
            identifiers: HashSet::new(),
            counters,
        }
    }

    /// Whether any of them acknowledges after the response.
    pub fn acknowledge_late(&self) -> bool {
        self.responders
            .values()
            .any(|responder| responder.options.ack == Ack::AfterResponse && responder.options.qos > 0)
    }

    pub fn open(&mut self, id: u32, token: Token, options: Arc<ResponderOptions>, effects: &mut Effects) {
        let filter = options.pattern.filter();
        if let Err(error) = self.router.insert(filter, id) {
            return effects.events.push(Event::Failed { token, error });
        }
        let subscribe = SubscribeOptions {
            qos: options.qos,
            no_local: false,
            retain_as_published: true,
            // Without this a broker sends stale commands with every SUBSCRIBE (MQTT 5.0, section 3.8.3.1);
            // a shared subscription gets none anyway.
            retain_handling: if options.retained { 0 } else { 2 },
            subscription_identifier: Some(identifier(&options.topic_filter())),
        };
        effects.subscribe.push((Owner::Responder(id), options.topic_filter(), subscribe));
        let identifier = identifier(&options.topic_filter());
        self.identifiers.insert(identifier);
        let responder = Responder {
            options,
            identifier,
            token: Some(token),
            active: false,
            leaving: false,
            stopped: false,
            running: 0,
            queue: VecDeque::new(),
            queued: 0,
        };
        self.responders.insert(id, responder);
    }

    /// The broker answered the SUBSCRIBE.
    pub fn subscribed(&mut self, id: u32, outcome: Result<()>, effects: &mut Effects) {
        let Some(responder) = self.responders.get_mut(&id) else { return };
        match (outcome, responder.token.take()) {
            (Ok(()), token) => {
                responder.active = true;
                effects.events.extend(token.map(|token| Event::Subscribed { token }));
            }
            (Err(error), Some(token)) => {
                self.forget(id, effects);
                effects.events.push(Event::Failed { token, error });
            }
            (Err(error), None) => {
                responder.active = false;
                log::error!(target: "reqtt.responder", "no longer responding: {error}");
            }
        }
    }

    pub fn connected(&mut self, client_id: &str) {
        client_id.clone_into(&mut self.client_id);
    }

    pub fn disconnected(&mut self) {
        for responder in self.responders.values_mut() {
            responder.active = false;
            // Their numbers belong to the old connection; the broker delivers them again where it must.
            for incoming in &mut responder.queue {
                incoming.delivery = None;
            }
            // A broker that comes and goes must not pile them up.
            while responder.is_full()
                && let Some(incoming) = responder.pop()
            {
                count(&self.counters.requests_dropped, 1);
                if let Some(known) = incoming.known {
                    self.duplicates.forget(known);
                }
            }
        }
        for (_, running) in &mut self.running {
            running.delivery = None;
        }
        self.duplicates.disconnected();
    }

    /// Whether a responder answers on this topic.
    pub fn expects(&self, topic: &str) -> bool {
        self.router.route(topic).is_some()
    }

    /// A message arrived on a topic that a responder answers on.
    pub fn request(&mut self, message: Message, delivery: Option<u64>, now: Instant, effects: &mut Effects) {
        let Some(&id) = self.router.route(message.topic()) else {
            return effects.acknowledge.extend(delivery);
        };
        let responder = &self.responders[&id];
        let ids = &message.properties.subscription_identifiers;
        if responder.active
            && !ids.contains(&responder.identifier)
            && ids.iter().any(|id| self.identifiers.contains(id))
        {
            // Another responder's filter brought this copy; this one's own subscription brings its own.
            return effects.acknowledge.extend(delivery);
        }
        count(&self.counters.requests_received, 1);
        if let Err(why) = self.may_run(&responder.options, &message) {
            count(&self.counters.requests_dropped, 1);
            if let Some(why) = why {
                let topic = topic::one_line(message.topic(), 80);
                log::warn!(target: "reqtt.responder", "request on \"{topic}\" not run: {why}");
            }
            return effects.acknowledge.extend(delivery);
        }
        let expiry =
            message.properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into()));
        let deadline = expiry.and_then(|expiry| now.checked_add(expiry));
        if expiry == Some(Duration::ZERO) {
            count(&self.counters.requests_dropped, 1);
            return effects.acknowledge.extend(delivery);
        }
        let deduplicate = responder.options.deduplicate;
        let seen = if deduplicate { self.duplicates.see(&message, deadline, now) } else { None };
        let known = match seen {
            None => None,
            Some(Seen::First(known)) => Some(known),
            Some(Seen::Before(entry)) => {
                count(&self.counters.duplicates_suppressed, 1);
                match &mut entry.outcome {
                    Outcome::Running(deliveries) => deliveries.extend(delivery),
                    Outcome::Answered(None) => effects.acknowledge.extend(delivery),
                    // Nobody waits for it any more.
                    Outcome::Answered(Some(_)) if entry.deadline.is_some_and(|deadline| deadline <= now) => {
                        effects.acknowledge.extend(delivery);
                    }
                    Outcome::Answered(Some(response)) => {
                        let mut message = response.clone();
                        message.properties.message_expiry_interval =
                            deadline.map(|deadline| whole_seconds(deadline, now));
                        count(&self.counters.responses_sent, 1);
                        let deliveries = delivery.into_iter().collect();
                        effects.replies.push(Outgoing { message, deliveries, expires: deadline });
                    }
                }
                return;
            }
        };
        let responder = self.responders.get_mut(&id).expect("routed to it");
        let mut incoming = Incoming { message, deadline, delivery, known };
        if responder.options.ack == Ack::OnReceipt {
            effects.acknowledge.extend(incoming.delivery.take());
        }
        if responder.is_full() && incoming.delivery.is_none() {
            count(&self.counters.requests_dropped, 1);
            let topic = topic::one_line(incoming.message.topic(), 80);
            let (waiting, bytes) = (responder.queue.len(), responder.queued);
            log::warn!(target: "reqtt.responder", "request on \"{topic}\" dropped: {waiting} ({bytes} bytes) wait already");
            if let Some(known) = incoming.known {
                self.duplicates.forget(known);
            }
            return;
        }
        responder.queued += incoming.message.weight();
        responder.queue.push_back(incoming);
        self.start(id, now, effects);
    }

    /// Whether the handler may run; if not, why, where anybody needs to know.
    fn may_run(&self, options: &ResponderOptions, message: &Message) -> Result<(), Option<String>> {
        if message.retain && !options.retained {
            return Err(None);
        }
        let Some(response_topic) = &message.properties.response_topic else {
            return if options.run_without_response_topic { Ok(()) } else { Err(None) };
        };
        if let Err(error) = topic::check_topic(response_topic) {
            return Err(Some(format!("its Response Topic is no topic name: {error}")));
        }
        let shown = || topic::one_line(response_topic, 80);
        if !options.allowed_response_topics.iter().any(|filter| topic::matches(filter, response_topic)) {
            return Err(Some(format!(
                "its Response Topic \"{}\" is not in allowed_response_topics",
                shown()
            )));
        }
        if self.router.route(response_topic).is_some() {
            return Err(Some(format!(
                "its Response Topic \"{}\" is one that this client responds on, so responses would be taken for requests",
                shown()
            )));
        }
        Ok(())
    }

    /// Starts as many waiting requests as may run.
    fn start(&mut self, id: u32, now: Instant, effects: &mut Effects) {
        let Some(responder) = self.responders.get_mut(&id) else { return };
        let mut refused = Vec::new();
        while (responder.stopped || responder.running < responder.options.concurrency)
            && let Some(incoming) = responder.pop()
        {
            if incoming.deadline.is_some_and(|deadline| deadline <= now) {
                count(&self.counters.requests_dropped, 1);
                effects.acknowledge.extend(incoming.delivery);
                if let Some(known) = incoming.known {
                    effects.acknowledge.extend(self.duplicates.forget(known));
                }
                continue;
            }
            responder.running += 1;
            self.generation = self.generation.wrapping_add(1);
            let properties = &incoming.message.properties;
            let index = self.running.insert(Running {
                responder: id,
                generation: self.generation,
                deadline: incoming.deadline,
                delivery: incoming.delivery,
                known: incoming.known,
                response_topic: properties.response_topic.clone(),
                correlation_data: properties.correlation_data.clone(),
                qos: incoming.message.qos,
                wants_status: properties.user_property("__protVer").is_some(),
                wants_identity: properties.user_property(GATHER).is_some(),
                azure: responder.options.azure,
            });
            let delivery = u64::from(self.generation) << 32 | index as u64;
            if responder.stopped {
                refused.push((delivery, shutting_down()));
            } else if responder.options.azure
                && let Err(reply) = azure::check_request(&incoming.message)
            {
                refused.push((delivery, reply));
            } else {
                let (message, deadline) = (incoming.message, incoming.deadline);
                effects.events.push(Event::Request { responder: id, delivery, message, deadline });
            }
        }
        for (delivery, reply) in refused {
            self.finish(delivery, Some(reply), now, effects);
        }
    }

    /// A handler is done.
    pub fn reply(&mut self, delivery: u64, reply: Option<Reply>, now: Instant, effects: &mut Effects) {
        if let Some(responder) = self.finish(delivery, reply, now, effects) {
            self.start(responder, now, effects);
        }
    }

    /// The response to a request, or `None` where it named no place for one.
    fn response(&self, running: &Running, reply: Reply, now: Instant) -> Option<Message> {
        let topic = Bytes::copy_from_slice(running.response_topic.as_ref()?.as_bytes());
        let mut user_properties = reply.user_properties;
        if reply.status >= 400 || running.wants_status || running.azure {
            user_properties.insert(0, ("__stat".into(), reply.status.to_string()));
        }
        if running.wants_identity {
            user_properties.push((IDENTITY.into(), self.identity.clone()));
        }
        if running.azure {
            azure::mark_response(&mut user_properties, &self.client_id);
        }
        Some(Message {
            topic,
            payload: reply.payload,
            qos: running.qos,
            retain: false,
            dup: false,
            properties: Properties {
                payload_format_indicator: reply.payload_format_indicator,
                message_expiry_interval: running.deadline.map(|deadline| whole_seconds(deadline, now)),
                content_type: reply.content_type,
                response_topic: None,
                correlation_data: running.correlation_data.clone(),
                user_properties,
                subscription_identifiers: Vec::new(),
            },
        })
    }

    /// Sends the answer to a request, and forgets it; gives whose it was.
    fn finish(
        &mut self,
        delivery: u64,
        reply: Option<Reply>,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<u32> {
        let (index, generation) = ((delivery & 0xFFFF_FFFF) as usize, (delivery >> 32) as u32);
        if self.running.get(index).is_none_or(|running| running.generation != generation) {
            return None;
        }
        let running = self.running.remove(index);
        let expired = running.deadline.is_some_and(|deadline| deadline <= now);
        if expired && running.response_topic.is_some() {
            count(&self.counters.requests_dropped, 1);
        }
        let response = reply.filter(|_| !expired).and_then(|reply| self.response(&running, reply, now));
        let mut deliveries: Vec<u64> = running.delivery.into_iter().collect();
        if let Some(known) = running.known {
            deliveries.extend(self.duplicates.answered(known, response.as_ref()));
        }
        match response {
            Some(response) => {
                count(&self.counters.responses_sent, 1);
                effects.replies.push(Outgoing { message: response, deliveries, expires: running.deadline });
            }
            None => effects.acknowledge.extend(deliveries),
        }
        if let Some(responder) = self.responders.get_mut(&running.responder) {
            responder.running -= 1;
        }
        Some(running.responder)
    }

    /// How many answered requests are remembered, and in how many bytes.
    #[cfg(test)]
    pub fn remembered(&self) -> (usize, usize) {
        self.duplicates.remembered()
    }

    /// The time to drain is over: what has not been started is answered with 503, and nothing more starts.
    pub fn stop(&mut self, ids: &[u32], now: Instant, effects: &mut Effects) {
        for id in ids {
            let Some(responder) = self.responders.get_mut(id) else { continue };
            responder.stopped = true;
            self.start(*id, now, effects);
        }
    }

    /// Unsubscribes and answers `Event::Done` when nothing is left to do for these responders.
    pub fn drain(&mut self, token: Token, ids: Vec<u32>, effects: &mut Effects) {
        let known: Vec<u32> = ids.into_iter().filter(|id| self.responders.contains_key(id)).collect();
        for id in &known {
            self.responders.get_mut(id).expect("known").leaving = true;
            effects.end_subscription(Owner::Responder(*id));
        }
        self.drains.push((token, known));
    }

    /// The UNSUBACK is there: what was received before it is finished, then the responder is gone.
    pub fn unsubscribed(&mut self, id: u32) {
        if let Some(responder) = self.responders.get_mut(&id) {
            responder.active = false;
            responder.leaving = false;
        }
    }

    pub fn draining(&self) -> bool {
        !self.drains.is_empty()
    }

    /// Forgets the responders that drain and have nothing left to do; gives the drains that are over. With `cut_off` there is no
    /// connection for an UNSUBACK to come on, and none is needed for anything else: then a drain is over with its
    /// last handler.
    pub fn settle_drains(&mut self, cut_off: bool, effects: &mut Effects) -> Vec<Token> {
        let mut over = Vec::new();
        for (token, mut ids) in std::mem::take(&mut self.drains) {
            let leaves =
                !cut_off || ids.iter().any(|id| self.responders.get(id).is_some_and(Responder::works));
            ids.retain(|id| {
                let responder = self.responders.get(id);
                let busy = responder.is_some_and(|it| it.works() || it.leaving && leaves);
                if !busy {
                    self.forget(*id, effects);
                }
                busy
            });
            if ids.is_empty() {
                over.push(token);
            } else {
                self.drains.push((token, ids));
            }
        }
        over
    }

    /// Takes responders away at once; handlers that still run find nobody to reply to.
    pub fn close(&mut self, ids: &[u32], effects: &mut Effects) {
        for id in ids {
            let Some(responder) = self.responders.get_mut(id) else { continue };
            for incoming in std::mem::take(&mut responder.queue) {
                if let Some(known) = incoming.known {
                    self.duplicates.forget(known);
                }
            }
            effects.end_subscription(Owner::Responder(*id));
            self.forget(*id, effects);
        }
    }

    fn forget(&mut self, id: u32, effects: &mut Effects) {
        if let Some(responder) = self.responders.remove(&id) {
            // It ends before it began: whoever waits for its SUBACK is told.
            let error = Error::ClientClosed;
            effects.events.extend(responder.token.map(|token| Event::Failed { token, error }));
            self.router.remove(responder.options.pattern.filter());
            self.identifiers.remove(&responder.identifier);
        }
    }

    /// The connection will not come back: nobody is left to drain for.
    pub fn give_up(&mut self, error: &Error, effects: &mut Effects) {
        for responder in self.responders.values_mut() {
            if let Some(token) = responder.token.take() {
                effects.events.push(Event::Failed { token, error: error.clone() });
            }
        }
        effects.events.extend(self.drains.drain(..).map(|(token, _)| Event::Done { token }));
    }
}

/// What goes to the requester instead of a response that the broker would not take.
pub(crate) fn too_large(mut message: Message) -> Message {
    message.payload = Bytes::new();
    message.properties.content_type = None;
    message.properties.payload_format_indicator = None;
    message.properties.user_properties = vec![
        ("__stat".into(), "500".into()),
        ("__stMsg".into(), "the response is larger than the broker accepts".into()),
    ];
    message
}

/// The answer to a request that came too late to be started.
fn shutting_down() -> Reply {
    Reply {
        status: 503,
        user_properties: vec![("__stMsg".into(), "responder is shutting down".into())],
        ..Reply::default()
    }
}

/// The same filter has the same identifier in every process, so that a message which waited in the broker's
/// session still names the filter that brought it.
fn identifier(filter: &str) -> u32 {
    let hash =
        filter.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    1 + hash % 268_435_455
}

/// Message Expiry Interval for a message that ends then: down, not up, so that it never promises more than it had.
pub(crate) fn whole_seconds(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1)
}
