//! What has to hold: the ledger of everything asked for and what became of it, and each connection as its
//! client sees it. The first violation ends the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{Packet, Publish};

use super::network::{MS, SECOND, Time};
use crate::command::{Event, Token};
use crate::error::Error;

/// How late an outcome may be: the driver ticks in whole microseconds.
const SLACK: Time = MS;

/// Payloads name what they belong to: `q7` is request 7, `a7` its response, `p7` publish 7.
pub(super) fn number(kind: u8, payload: &[u8]) -> Option<Token> {
    std::str::from_utf8(payload.strip_prefix(&[kind])?).ok()?.parse().ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Publish,
    /// Told once when in force, and once more when it ends badly.
    Subscription,
    Responder,
    Connect,
    Drain,
}

/// One operation of one client, by its token.
#[derive(Debug)]
pub(super) struct Operation {
    pub kind: Kind,
    pub client: usize,
    pub qos: u8,
    pub deadline: Time,
    pub resend: bool,
    /// Has to be answered: nothing is broken any more.
    pub probe: bool,
    pub cancelled: bool,
    pub outcomes: Vec<String>,
    /// The client's process died.
    pub abandoned: bool,
    /// How often it was written, and whether the client knows that the broker has it.
    pub written: u32,
    pub acknowledged: bool,
    correlation_data: Bytes,
    /// Subscriptions in force when it was published: whose, in which epoch, and at which QoS it arrives.
    pub readers: Vec<(Token, usize, u32, u8)>,
    pub epoch: u32,
    pub delivered: BTreeMap<Token, u32>,
}

/// What makes two deliveries one request, in one process of one responder.
type RunKey = (usize, u32, Bytes, String, Bytes);

#[derive(Default)]
pub(super) struct Ledger {
    pub operations: BTreeMap<Token, Operation>,
    pub violation: Option<String>,
    /// Only for a run that is to be told: it costs more than the run.
    pub trace: Option<Vec<String>>,
    pub now: Time,
    /// Until when a client could not see what time it is.
    pub held: BTreeMap<usize, Time>,
    runs: BTreeMap<RunKey, Time>,
    last: Token,
    /// Response or failure, over all runs: the simulation must not be a picture of nothing.
    pub responses: u64,
    pub timeouts: u64,
    pub runs_again: u64,
    /// Counted up when a client loses its session or its process: what it had may be lost or doubled.
    pub epochs: BTreeMap<usize, u32>,
}

impl Ledger {
    pub fn new(traced: bool) -> Self {
        Self { trace: traced.then(Vec::new), ..Self::default() }
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:11.6} {}", self.now as f64 / SECOND as f64, text()));
        }
    }

    pub fn fail(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        self.violation.get_or_insert(text);
    }

    pub fn epoch(&self, client: usize) -> u32 {
        self.epochs.get(&client).copied().unwrap_or(0)
    }

    pub fn open(&mut self, kind: Kind, client: usize) -> (Token, &mut Operation) {
        self.last += 1;
        let operation = Operation {
            kind,
            client,
            qos: 0,
            deadline: Time::MAX,
            resend: true,
            probe: false,
            cancelled: false,
            outcomes: Vec::new(),
            abandoned: false,
            written: 0,
            acknowledged: false,
            correlation_data: Bytes::new(),
            readers: Vec::new(),
            epoch: self.epoch(client),
            delivered: BTreeMap::new(),
        };
        (self.last, self.operations.entry(self.last).or_insert(operation))
    }

    /// The process of a client is gone: nobody waits for what it asked.
    pub fn abandon(&mut self, client: usize) {
        for operation in self.operations.values_mut().filter(|it| it.client == client) {
            operation.abandoned = true;
        }
        *self.epochs.entry(client).or_default() += 1;
    }

    /// An event that ends an operation, or says how it goes.
    pub fn outcome(&mut self, client: usize, event: &Event) {
        let (token, text) = match event {
            Event::Response { token, message, .. } => {
                self.responses += 1;
                if number(b'a', &message.payload) != Some(*token) {
                    self.fail(format!("request {token} got {:?}", message.payload));
                }
                (token, "response".to_owned())
            }
            Event::Failed { token, error } => {
                self.timeouts += u64::from(matches!(error, Error::Timeout { .. }));
                (token, failure(error))
            }
            Event::Published { token, puback } => (token, format!("{:?}", puback.reason_code)),
            Event::Subscribed { token } => (token, "subscribed".into()),
            Event::ConnAck { token, .. } => (token, "connected".into()),
            Event::Done { token } => (token, "done".into()),
            _ => return,
        };
        let (token, now) = (*token, self.now);
        self.note(|| format!("client {client}: {token} ends: {text}"));
        let Some(operation) = self.operations.get_mut(&token) else {
            return self.fail(format!("an outcome for {token}, which nobody asked for"));
        };
        operation.outcomes.push(text.clone());
        let outcomes = &operation.outcomes;
        let allowed = match operation.kind {
            Kind::Subscription => outcomes.len() < 3 && (outcomes.len() == 1 || outcomes[0] == "subscribed"),
            _ => outcomes.len() == 1,
        };
        let held = self.held.get(&client).copied().unwrap_or(0);
        let late = now > operation.deadline.max(held).saturating_add(SLACK);
        let what = format!("{:?} {token} of client {client}: {outcomes:?}", operation.kind);
        let (probe, cancelled, resend) = (operation.probe, operation.cancelled, operation.resend);
        let (kind, abandoned) = (operation.kind, operation.abandoned || operation.client != client);
        if !allowed || cancelled && kind != Kind::Subscription || abandoned {
            self.fail(format!("{what}: one outcome too many (cancelled: {cancelled})"));
        } else if late {
            self.fail(format!("{what}: late"));
        } else if probe && text != "response" {
            self.fail(format!("{what}: nothing is broken, but it got no response"));
        } else if kind == Kind::Request && resend && text.starts_with("ConnectionLost") {
            self.fail(format!("{what}: it might have been sent again"));
        }
    }

    /// A handler starts.
    pub fn run(
        &mut self,
        client: usize,
        process: u32,
        message: &crate::message::Message,
        deadline: Option<Time>,
        deduplicate: bool,
    ) {
        let now = self.now;
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.fail(format!("client {client} runs {:?}, which has expired", message.payload));
        }
        let (Some(data), Some(topic)) =
            (message.properties.correlation_data.clone(), message.properties.response_topic.clone())
        else {
            return;
        };
        let key = (client, process, data, topic, message.topic.clone());
        let until = deadline.unwrap_or(now + 60 * SECOND);
        if deduplicate && let Some(first) = self.runs.insert(key, until) {
            if now < first {
                self.fail(format!("client {client} runs {:?} a second time", message.payload));
            }
            self.runs_again += 1;
        }
    }

    /// A message of a subscription arrived.
    pub fn delivered(&mut self, client: usize, subscription: Token, payload: &[u8]) {
        let Some(token) = number(b'p', payload) else { return };
        let epoch = self.epoch(client);
        let Some(operation) = self.operations.get_mut(&token) else { return };
        let times = operation.delivered.entry(subscription).or_default();
        *times += 1;
        let (times, from) = (*times, operation.client);
        let known = operation.readers.iter().find(|(reader, ..)| *reader == subscription);
        let intact = known.is_some_and(|(_, _, then, qos)| *then == epoch && *qos == 2);
        if times > 1 && intact && operation.epoch == self.epoch(from) {
            self.fail(format!("publish {token} (QoS 2) delivered {times} times to {subscription}"));
        }
    }

    /// The broker takes a PUBLISH in: where its response goes, its sender has to be listening.
    pub fn at_broker<'a>(&mut self, mut subscriptions: impl Iterator<Item = &'a str>, publish: &Publish) {
        let Some(token) = number(b'q', &publish.payload) else { return };
        let topic = publish.properties.as_ref().and_then(|it| it.response_topic.as_deref());
        if !topic.is_some_and(|topic| subscriptions.any(|filter| filter == topic)) {
            self.fail(format!("request {token} reached the broker before its response topic"));
        }
    }

    /// Every client has been connected for a long time: no request still waits to be sent.
    pub fn rest(&mut self) {
        let waits = self.operations.iter().find(|(_, it)| {
            it.kind == Kind::Request
                && it.written == 0
                && it.outcomes.is_empty()
                && !it.cancelled
                && !it.abandoned
        });
        if let Some((token, it)) = waits {
            let (token, client) = (*token, it.client);
            self.fail(format!("request {token} of client {client} was never sent"));
        }
    }

    /// All has ended.
    pub fn finish(&mut self) {
        let mut failures = Vec::new();
        for (token, it) in &self.operations {
            if !it.abandoned && !it.cancelled && it.outcomes.is_empty() {
                failures.push(format!("{:?} {token} of client {} has no outcome", it.kind, it.client));
            }
            let told = it.outcomes.first().is_some_and(|it| it.starts_with("0x00") || it.starts_with("0x10"));
            if it.kind == Kind::Publish && it.qos > 0 && told && it.epoch == self.epoch(it.client) {
                for (reader, client, epoch, qos) in &it.readers {
                    let times = it.delivered.get(reader).copied().unwrap_or(0);
                    let unsubscribed = self.operations[reader].cancelled;
                    if *epoch == self.epoch(*client) && *qos > 0 && !unsubscribed && times == 0 {
                        failures.push(format!("publish {token} (QoS {}) never reached {reader}", it.qos));
                    }
                }
            }
        }
        for failure in failures {
            self.fail(failure);
        }
    }
}

fn failure(error: &Error) -> String {
    match error {
        Error::ConnectionLost { detail, .. } => format!("ConnectionLost {detail}"),
        other => format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
    }
}

/// What a response needs before its request may be acknowledged.
#[derive(Debug, Clone)]
struct Arrived {
    pkid: u16,
    request: Option<Token>,
    expires: Time,
}

/// One connection, as its client sees it.
#[derive(Debug, Default)]
pub(super) struct View {
    pub online: bool,
    pub session_present: bool,
    known: bool,
    /// It began with a session that was there before: packet identifiers may be unreleased.
    pub inherited: bool,
    early: Vec<u16>,
    receive_maximum: usize,
    /// Packet identifiers in use, and whether they count against the Receive Maximum.
    used: BTreeMap<u16, (bool, Option<Token>)>,
    asked: BTreeMap<u16, String>,
    confirmed: BTreeSet<String>,
    arrived: VecDeque<Arrived>,
    answered: BTreeSet<Token>,
}

impl View {
    pub fn new(known: bool, inherited: bool) -> Self {
        Self { known, inherited, ..Self::default() }
    }

    pub fn take_answered(&mut self) -> BTreeSet<Token> {
        std::mem::take(&mut self.answered)
    }

    /// The session is about to read this.
    pub fn reads(&mut self, packet: &Packet, ledger: &mut Ledger) {
        match packet {
            Packet::ConnAck(connack) if connack.code as u8 == 0 => {
                let maximum = connack.properties.as_ref().and_then(|properties| properties.receive_max);
                self.receive_maximum = usize::from(maximum.unwrap_or(u16::MAX));
                self.session_present = connack.session_present;
                self.inherited = connack.session_present && (self.inherited || !self.known);
                self.online = true;
            }
            Packet::SubAck(ack) => self.confirmed.extend(self.asked.remove(&ack.pkid)),
            Packet::UnsubAck(ack) => drop(self.asked.remove(&ack.pkid)),
            Packet::PubAck(ack) => self.acknowledged(ack.pkid, true, ledger),
            Packet::PubRec(ack) => self.acknowledged(ack.pkid, false, ledger),
            Packet::PubComp(ack) => match self.early.iter().position(|pkid| *pkid == ack.pkid) {
                Some(at) => drop(self.early.remove(at)),
                None => drop(self.used.remove(&ack.pkid)),
            },
            Packet::Publish(publish) if publish.pkid > 0 => {
                let expiry = publish.properties.as_ref().and_then(|it| it.message_expiry_interval);
                let request = number(b'q', &publish.payload);
                let expires = expiry.map_or(Time::MAX, |it| ledger.now + Time::from(it) * SECOND);
                self.arrived.push_back(Arrived { pkid: publish.pkid, request, expires });
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, pkid: u16, over: bool, ledger: &mut Ledger) {
        let Some((_, token)) = self.used.get(&pkid) else { return };
        if let Some(operation) = token.and_then(|token| ledger.operations.get_mut(&token)) {
            operation.acknowledged = true;
        }
        if over {
            self.used.remove(&pkid);
        }
    }

    /// The session has written this. `late` says for which requests an acknowledgement needs no response.
    pub fn writes(
        &mut self,
        client: usize,
        packet: &Packet,
        ledger: &mut Ledger,
        unanswered: impl Fn(Token) -> bool,
    ) {
        match packet {
            Packet::Publish(publish) => self.writes_publish(client, publish, ledger),
            Packet::PubAck(ack) => self.writes_ack(client, ack.pkid, ledger, unanswered),
            Packet::PubRec(ack) => self.writes_ack(client, ack.pkid, ledger, unanswered),
            Packet::PubRel(release) if self.inherited && !self.used.contains_key(&release.pkid) => {
                self.early.push(release.pkid);
            }
            Packet::PubRel(release) => drop(self.used.entry(release.pkid).or_insert((false, None))),
            Packet::Subscribe(subscribe) => {
                self.takes(client, subscribe.pkid, false, None, ledger);
                for filter in &subscribe.filters {
                    self.asked.insert(subscribe.pkid, filter.path.clone());
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.takes(client, unsubscribe.pkid, false, None, ledger);
                for filter in &unsubscribe.filters {
                    self.confirmed.remove(filter);
                }
                self.asked.insert(unsubscribe.pkid, String::new());
            }
            _ => {}
        }
    }

    fn takes(&mut self, client: usize, pkid: u16, counts: bool, token: Option<Token>, ledger: &mut Ledger) {
        if self.used.contains_key(&pkid) || self.asked.contains_key(&pkid) {
            ledger.fail(format!("client {client}: packet identifier {pkid} is in use"));
        }
        if counts {
            self.used.insert(pkid, (true, token));
            let outstanding = self.used.values().filter(|(counts, _)| *counts).count();
            if outstanding > self.receive_maximum {
                ledger.fail(format!("client {client}: {outstanding} are over the Receive Maximum"));
            }
        }
    }

    fn writes_ack(
        &mut self,
        client: usize,
        pkid: u16,
        ledger: &mut Ledger,
        unanswered: impl Fn(Token) -> bool,
    ) {
        let Some(arrived) = self.arrived.pop_front().filter(|arrived| arrived.pkid == pkid) else {
            return ledger.fail(format!("client {client} acknowledges {pkid} before what came earlier"));
        };
        if let Some(token) = arrived.request
            && !self.answered.contains(&token)
            && arrived.expires > ledger.now
            && ledger.operations[&token].deadline > ledger.now
            && !unanswered(token)
        {
            ledger.fail(format!("client {client} acknowledges request {token} before its response"));
        }
    }

    fn writes_publish(&mut self, client: usize, publish: &Publish, ledger: &mut Ledger) {
        let (qos, now) = (publish.qos as u8, ledger.now);
        let request = number(b'q', &publish.payload);
        let token = request.or_else(|| number(b'p', &publish.payload));
        if qos > 0 {
            self.takes(client, publish.pkid, true, token, ledger);
        }
        if publish.dup && !self.session_present {
            ledger.fail(format!("client {client}: DUP on {} without a session", publish.pkid));
        }
        self.answered.extend(number(b'a', &publish.payload));
        let Some(token) = request else { return };
        let properties = publish.properties.clone().unwrap_or_default();
        let Some(it) = ledger.operations.get_mut(&token) else {
            return ledger.fail(format!("request {token} was never asked for"));
        };
        it.written += 1;
        let data = properties.correlation_data.unwrap_or_default();
        let same = it.written == 1 || it.correlation_data == data;
        it.correlation_data = data;
        let left = it.deadline.saturating_sub(now).div_ceil(SECOND).max(1);
        let topic = properties.response_topic.unwrap_or_default();
        let listening = self.session_present || self.confirmed.contains(&topic);
        let wrong = if it.client != client || it.abandoned {
            "is another's"
        } else if now >= it.deadline || !it.outcomes.is_empty() || it.cancelled {
            "is over, and is sent nevertheless"
        } else if it.written > 1 && (!it.resend || qos == 0) {
            "must not be sent twice"
        } else if it.written > 1 && it.acknowledged {
            "was acknowledged, and is sent again"
        } else if !same {
            "changed its Correlation Data"
        } else if properties.message_expiry_interval.map(Time::from) != Some(left) {
            "has the wrong expiry"
        } else if !listening {
            "is sent before its response topic is subscribed"
        } else {
            return;
        };
        let written = it.written;
        ledger.fail(format!("client {client}: request {token} {wrong} (written {written} times)"));
    }
}
