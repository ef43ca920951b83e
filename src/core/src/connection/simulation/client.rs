//! One client: a driver that does what the real one does with a [`Session`], and a program on top that asks,
//! answers, publishes, subscribes, and dies now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use fastrand::Rng;
use rumqttc::mqttbytes::v5::Packet;

use super::World;
use super::broker::next_packet;
use super::checks::{self, Kind, View};
use super::network::{Direction, LinkId, MS, SECOND, Time};
use crate::command::{
    Answer, Command, Counters, Event, NewRequest, RequesterOptions, ResponseTopic, SubscribeOptions, Token,
};
use crate::connection::session::{Lost, Session};
use crate::error::Error;
use crate::message::{Message, Properties};
use crate::options::Options;
use crate::responder::{Ack, Reply, ResponderOptions};
use crate::topic::Pattern;

/// What a client's program wants, the same in every life of its process.
pub(super) struct Plan {
    pub options: Arc<Options>,
    pub requesters: Vec<RequesterOptions>,
    pub responders: Vec<Arc<ResponderOptions>>,
    pub subscription: Option<(String, u8)>,
    /// Longest time of a handler, and how many of ten never come back.
    pub handler: (Time, u8),
}

const TOPICS: [&str; 4] = ["cmd/0", "cmd/1", "cmd/2", "cmd/nobody"];

impl Plan {
    pub fn new(index: usize, rng: &mut Rng) -> Self {
        let mut options = Options::new("mqtt://simulated").expect("a valid URL");
        options.client_id = Some(format!("c{index}"));
        options.clean_start = rng.u8(..3) == 0;
        options.session_expiry_interval = [0, 3, 3600, 3600][rng.usize(..4)];
        options.keep_alive = [2, 5, 30][rng.usize(..3)];
        options.receive_maximum = [1, 2, 8, 1024][rng.usize(..4)];
        options.connect_timeout = Duration::from_secs(3);
        // The first client always answers, the second always asks.
        let requesters = if index == 1 || rng.bool() { 1 + usize::from(rng.u8(..3) == 0) } else { 0 };
        let responders = if index == 0 || rng.u8(..3) == 0 { 1 + usize::from(rng.u8(..3) == 0) } else { 0 };
        let requesters = (0..requesters).map(|number| RequesterOptions {
            response_topic: match rng.u8(..3) {
                0 => ResponseTopic::Fixed(format!("fixed/{index}/{}", rng.usize(..=number))),
                _ => ResponseTopic::Default,
            },
            response_qos: [None, None, Some(0), Some(1), Some(2)][rng.usize(..5)],
            max_pending_requests: [1, 3, 1000][rng.usize(..3)],
            resend: rng.bool(),
            match_by_topic: false,
            azure: false,
        });
        let requesters = requesters.collect();
        let group = (rng.u8(..3) == 0).then(|| "group".to_owned());
        let responders = (0..responders).map(|number| {
            let topic = if index == 0 && number == 0 { "cmd/0" } else { ["cmd/1", "cmd/+"][number] };
            Arc::new(ResponderOptions {
                pattern: Pattern::parse(topic).expect("a valid pattern"),
                group: group.clone(),
                qos: rng.u8(..3),
                concurrency: [1, 2, 100][rng.usize(..3)],
                ack: if rng.u8(..3) > 0 { Ack::AfterResponse } else { Ack::OnReceipt },
                deduplicate: rng.u8(..4) > 0,
                run_without_response_topic: false,
                allowed_response_topics: vec!["#".into()],
                retained: false,
                azure: false,
            })
        });
        let responders = responders.collect();
        Self {
            options: Arc::new(options),
            requesters,
            responders,
            subscription: rng.bool().then(|| ("news/#".into(), rng.u8(..3))),
            handler: ([0, 20 * MS, SECOND, 8 * SECOND][rng.usize(..4)], rng.u8(..2)),
        }
    }
}

/// What a program does at some time.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Start,
    Connect,
    Request,
    Cancel(Token),
    Publish,
    Reply {
        delivery: u64,
        request: Option<Token>,
    },
    Acknowledge(u64),
    OpenResponder(usize),
    Subscribe,
    Unsubscribe,
    ReopenRequester,
    Drain,
    /// A request that has to succeed.
    Probe(u8),
    /// Ends all that a program has, in good order.
    WindUp,
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody has asked to connect.
    Idle,
    Waiting(Time),
    Connecting(Time),
    /// Until when CONNACK has to be there.
    Serving(LinkId, Time),
    Over,
}

struct Run {
    responder: u32,
    request: Option<Token>,
    deadline: Option<Time>,
}

/// What one life of the process has.
pub(super) struct Process {
    /// Whose.
    index: usize,
    pub session: Session,
    pub counters: Arc<Counters>,
    phase: Phase,
    inbox: Vec<Command>,
    input: BytesMut,
    /// The same bytes again, for the view.
    seen: BytesMut,
    view: View,
    /// How much of what the session has written was looked at.
    looked_at: usize,
    stalled_until: Time,
    attempts: u32,
    connect: Token,
    requesters: Vec<u32>,
    /// The number in the plan and the token of each responder that is open.
    responders: BTreeMap<u32, (usize, Token)>,
    draining: BTreeMap<Token, Vec<u32>>,
    /// No responder was ever missing.
    steady: bool,
    subscription: Option<Token>,
    runs: BTreeMap<u64, Run>,
    stuck: Vec<u64>,
    /// Requests whose handler gave no response, or gave it too late.
    unanswered: BTreeSet<Token>,
    answered: BTreeSet<Token>,
}

pub(super) struct Client {
    pub index: usize,
    pub plan: Plan,
    pub number: u32,
    pub process: Option<Process>,
    /// It gets no time before.
    pub held_until: Time,
    /// Ids are not used again.
    ids: u32,
}

impl Client {
    pub fn new(index: usize, plan: Plan) -> Self {
        Self { index, plan, number: 0, process: None, held_until: 0, ids: 0 }
    }

    fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    pub fn link(&self) -> Option<LinkId> {
        match self.process.as_ref()?.phase {
            Phase::Serving(link, _) => Some(link),
            _ => None,
        }
    }

    pub fn stall(&mut self, until: Time) {
        if let Some(process) = &mut self.process {
            process.stalled_until = until;
        }
    }

    /// The process dies. Its host's TCP says so, or nobody does.
    pub fn die(&mut self, world: &mut World, silently: bool) {
        if let Some(link) = self.link() {
            if silently {
                world.network.silence(link);
            } else {
                world.network.close(link, Direction::Up);
            }
        }
        self.process = None;
        self.number += 1;
        world.ledger.abandon(self.index);
        world.readers.retain(|_, (client, _)| *client != self.index);
    }

    pub fn due(&self, world: &World) -> Option<Time> {
        Some(self.wants(world)?.max(self.held_until))
    }

    fn wants(&self, world: &World) -> Option<Time> {
        let process = self.process.as_ref()?;
        if !process.inbox.is_empty() {
            return Some(world.now);
        }
        let session = &process.session;
        let deadline = session.deadline().map(|deadline| world.time(deadline));
        match process.phase {
            Phase::Over => None,
            Phase::Idle => deadline,
            Phase::Waiting(until) | Phase::Connecting(until) => {
                Some(deadline.map_or(until, |it| it.min(until)))
            }
            Phase::Serving(link, handshake) => {
                let writing = (!session.out.is_empty()).then_some(process.stalled_until);
                let reading = world.network.due(link, Direction::Down);
                let handshake = (!session.online()).then_some(handshake);
                [deadline, writing, reading, handshake].into_iter().flatten().min()
            }
        }
    }

    /// One turn of the driver.
    pub fn turn(&mut self, world: &mut World) {
        let Some(process) = &mut self.process else { return };
        let lost = match process.phase {
            Phase::Over => {
                process.take_commands(world);
                Ok(())
            }
            Phase::Idle => {
                process.catch_up(world);
                Ok(())
            }
            Phase::Waiting(until) => {
                process.catch_up(world);
                if world.now >= until {
                    let end = world.now + world.rng.u64(..50 * MS);
                    process.phase = Phase::Connecting(end);
                }
                Ok(())
            }
            Phase::Connecting(until) if world.now >= until => process.connected(world),
            Phase::Connecting(_) => {
                process.catch_up(world);
                Ok(())
            }
            Phase::Serving(link, handshake) => process.serve(link, handshake, world, self.index),
        };
        process.look(world, self.index);
        if let Err(lost) = lost {
            world.ledger.note(|| format!("client {}: lost: {}", self.index, lost.detail));
            process.lost(&lost, world, self.index);
        }
        self.deliver(world);
    }

    /// What the mailbox brings.
    fn deliver(&mut self, world: &mut World) {
        let Some(process) = &mut self.process else { return };
        for event in std::mem::take(process.session.events()) {
            world.ledger.outcome(self.index, &event);
            self.event(event, world);
        }
    }

    fn event(&mut self, event: Event, world: &mut World) {
        let (index, number) = (self.index, self.number);
        let Some(process) = &mut self.process else { return };
        match event {
            Event::Connected { connack, .. } => {
                process.attempts = 0;
                if process.session.connects() > 1 && !connack.session_present {
                    *world.ledger.epochs.entry(index).or_default() += 1;
                    world.readers.retain(|_, (client, _)| *client != index);
                }
            }
            Event::ConnAck { token, .. } if token == process.connect => {
                for responder in 0..self.plan.responders.len() {
                    let at = world.now + world.rng.u64(..100 * MS);
                    world.plan(at, index, number, Act::OpenResponder(responder));
                }
                if self.plan.subscription.is_some() {
                    let at = world.now + world.rng.u64(..100 * MS);
                    world.plan(at, index, number, Act::Subscribe);
                }
            }
            Event::Failed { token, error } => {
                if token == process.connect {
                    world.plan(world.now + 300 * MS, index, number, Act::Connect);
                } else if !matches!(error, Error::ClientClosed)
                    && (process.subscription == Some(token)
                        || process.responders.values().any(|(_, opened)| *opened == token))
                {
                    world.ledger.fail(format!("client {index}: {token} failed: {error:?}"));
                }
            }
            Event::Request { responder, delivery, message, deadline } => {
                let Some((planned, _)) = process.responders.get(&responder) else {
                    return world.ledger.fail(format!("client {index}: {responder} is not there to respond"));
                };
                let options = &self.plan.responders[*planned];
                let deadline = deadline.map(|deadline| world.time(deadline));
                world.ledger.run(index, number, &message, deadline, options.deduplicate);
                let running = process.runs.values().filter(|run| run.responder == responder).count();
                if running >= options.concurrency {
                    world.ledger.fail(format!("client {index}: more than {} run", options.concurrency));
                }
                let request = checks::number(b'q', &message.payload);
                world.ledger.note(|| format!("client {index}: runs {:?}", message.payload));
                process.runs.insert(delivery, Run { responder, request, deadline });
                if !world.healed && world.rng.u8(..10) < self.plan.handler.1 {
                    process.stuck.push(delivery);
                } else {
                    let longest = if world.healed { MS } else { self.plan.handler.0 };
                    let at = world.now + world.rng.u64(..=longest);
                    world.plan(at, index, number, Act::Reply { delivery, request });
                }
            }
            Event::Message { token, message, delivery } => {
                world.ledger.delivered(index, token, &message.payload);
                if let Some(delivery) = delivery {
                    let at = world.now + world.rng.u64(..300 * MS);
                    world.plan(at, index, number, Act::Acknowledge(delivery));
                }
            }
            Event::Subscribed { token } if process.subscription == Some(token) => {
                let qos = world.ledger.operations[&token].qos;
                world.readers.insert(token, (index, qos));
            }
            Event::Done { token } => {
                for responder in process.draining.remove(&token).unwrap_or_default() {
                    if process.runs.values().any(|run| run.responder == responder) {
                        world.ledger.fail(format!("client {index}: {responder} was drained and still runs"));
                    }
                    if let Some((planned, _)) = process.responders.remove(&responder)
                        && !world.ending
                    {
                        world.plan(world.now + 100 * MS, index, number, Act::OpenResponder(planned));
                    }
                }
            }
            _ => {}
        }
    }

    /// The program does something.
    pub fn act(&mut self, act: Act, world: &mut World) {
        if let Act::Start = act {
            return self.start(world);
        }
        let (index, healed) = (self.index, world.healed);
        let id = self.id();
        let Some(process) = &mut self.process else { return };
        if process.phase == Phase::Over {
            return;
        }
        let idle = process.phase == Phase::Idle;
        match act {
            Act::Start => {}
            Act::Connect => {
                if !idle {
                    return;
                }
                process.connect = world.ledger.open(Kind::Connect, index).0;
                process.session.expect_connect(process.connect);
                process.phase = Phase::Connecting(world.now + world.rng.u64(..50 * MS));
            }
            Act::Request | Act::Probe(_) if idle || process.requesters.is_empty() => {}
            Act::Request => {
                let which = world.rng.usize(..process.requesters.len());
                let mut topic = TOPICS[world.rng.usize(..TOPICS.len())];
                let qos = world.rng.u8(..3);
                let mut timeout = [100 * MS, SECOND, 3 * SECOND + 1, 15 * SECOND][world.rng.usize(..4)];
                // Patient, where it holds nobody else up: it outlives all that breaks.
                if world.rng.u8(..8) == 0 && self.plan.requesters[which].max_pending_requests == 1000 {
                    (topic, timeout) = ("cmd/0", 1000 * SECOND);
                }
                let own = world.rng.u8(..6) == 0;
                let request = (which, topic, qos, timeout);
                let own_topic = own.then(|| format!("own/{index}/{}", world.rng.u8(..2)));
                let token = process.request(request, own_topic, false, &self.plan, world, index);
                if world.rng.u8(..6) == 0 {
                    let at = world.now + world.rng.u64(..timeout);
                    world.plan(at, index, self.number, Act::Cancel(token));
                }
            }
            Act::Probe(qos) => {
                for which in 0..process.requesters.len() {
                    let request = (which, "cmd/0", qos, 30 * SECOND);
                    process.request(request, None, true, &self.plan, world, index);
                }
            }
            Act::Cancel(token) => process.inbox.push(Command::Cancel { token }),
            Act::Publish if idle => {}
            Act::Publish => {
                let qos = world.rng.u8(..3);
                let (token, operation) = world.ledger.open(Kind::Publish, index);
                operation.qos = qos;
                let readers = world.readers.iter();
                let readers =
                    readers.map(|(token, (client, granted))| (*token, *client, (*granted).min(qos)));
                let readers: Vec<_> = readers.collect();
                for (reader, client, qos) in readers {
                    let epoch = world.ledger.epoch(client);
                    let operation = world.ledger.operations.get_mut(&token).expect("opened above");
                    operation.readers.push((reader, client, epoch, qos));
                }
                let message = Message {
                    topic: Bytes::from_static(b"news/today"),
                    payload: Bytes::from(format!("p{token}")),
                    qos,
                    ..Message::default()
                };
                process.inbox.push(Command::Publish { token, message });
            }
            Act::Reply { delivery, request } => {
                let reply = (world.rng.u8(..20) > 0 || healed).then(|| {
                    let payload = request.map(|token| format!("a{token}")).unwrap_or_default();
                    Box::new(Reply { payload: Bytes::from(payload), status: 200, ..Reply::default() })
                });
                process.reply(delivery, reply, world.now);
            }
            Act::Acknowledge(delivery) => process.inbox.push(Command::Acknowledge { delivery }),
            Act::OpenResponder(planned) => {
                if process.responders.values().any(|(open, _)| *open == planned) {
                    return;
                }
                let (token, _) = world.ledger.open(Kind::Responder, index);
                let options = self.plan.responders[planned].clone();
                process.responders.insert(id, (planned, token));
                process.inbox.push(Command::OpenResponder { token, responder: id, options });
            }
            Act::Subscribe => {
                let Some((filter, qos)) = self.plan.subscription.clone() else { return };
                if process.subscription.is_some() {
                    return;
                }
                let (token, operation) = world.ledger.open(Kind::Subscription, index);
                operation.qos = qos;
                process.subscription = Some(token);
                let options = SubscribeOptions {
                    qos,
                    no_local: false,
                    retain_as_published: true,
                    retain_handling: 2,
                    subscription_identifier: None,
                };
                process.inbox.push(Command::Subscribe { token, filters: vec![filter], options });
            }
            Act::Unsubscribe => {
                let Some(token) = process.subscription.take() else { return };
                world.readers.remove(&token);
                process.inbox.push(Command::Unsubscribe { token });
                if !healed {
                    let at = world.now + world.rng.u64(..SECOND);
                    world.plan(at, index, self.number, Act::Subscribe);
                }
            }
            Act::ReopenRequester => {
                if idle || process.requesters.is_empty() {
                    return;
                }
                let which = world.rng.usize(..process.requesters.len());
                let options = self.plan.requesters[which].clone();
                process.inbox.push(Command::CloseRequester { requester: process.requesters[which] });
                process.requesters[which] = id;
                process.inbox.push(Command::OpenRequester { requester: id, options });
            }
            Act::Drain => process.drain(world, index),
            Act::WindUp => {
                world.ending = true;
                for requester in std::mem::take(&mut process.requesters) {
                    let (token, _) = world.ledger.open(Kind::Drain, index);
                    process.inbox.push(Command::DrainRequester { token, requester });
                    process.inbox.push(Command::CloseRequester { requester });
                }
                process.drain(world, index);
                if let Some(token) = process.subscription.take() {
                    world.readers.remove(&token);
                    process.inbox.push(Command::Unsubscribe { token });
                }
            }
            Act::Disconnect => {
                process.take_commands(world);
                process.session.close();
                process.look(world, index);
                if let Some(link) = self.link() {
                    let process = self.process.as_mut().expect("it has a link");
                    world.network.send(link, Direction::Up, &process.session.out, world.now);
                    world.network.close(link, Direction::Up);
                }
                let process = self.process.as_mut().expect("as above");
                process.phase = Phase::Over;
                self.deliver(world);
            }
        }
    }

    /// A life of the process begins.
    fn start(&mut self, world: &mut World) {
        if self.process.is_some() {
            return;
        }
        let counters = Arc::new(Counters::default());
        let session = Session::new(self.plan.options.clone(), counters.clone(), world.instant(world.now));
        let mut requesters = Vec::new();
        let mut inbox = Vec::new();
        for options in self.plan.requesters.clone() {
            let requester = self.id();
            inbox.push(Command::OpenRequester { requester, options });
            requesters.push(requester);
        }
        world.ledger.note(|| format!("client {} starts", self.index));
        self.process = Some(Process {
            index: self.index,
            session,
            counters,
            phase: Phase::Idle,
            inbox,
            input: BytesMut::new(),
            seen: BytesMut::new(),
            view: View::new(false, false),
            looked_at: 0,
            stalled_until: 0,
            attempts: 0,
            connect: 0,
            requesters,
            responders: BTreeMap::new(),
            draining: BTreeMap::new(),
            steady: self.plan.responders.len() == 1
                && self.plan.responders.iter().all(|it| it.ack == Ack::AfterResponse && it.qos > 0),
            subscription: None,
            runs: BTreeMap::new(),
            stuck: Vec::new(),
            unanswered: BTreeSet::new(),
            answered: BTreeSet::new(),
        });
        world.plan(world.now, self.index, self.number, Act::Connect);
    }

    /// Handlers that never came back are cut short.
    pub fn unstick(&mut self, now: Time) {
        let Some(process) = &mut self.process else { return };
        for delivery in std::mem::take(&mut process.stuck) {
            process.reply(delivery, None, now);
        }
    }

    /// After everything has ended: nothing must be left.
    pub fn inspect(&self, world: &mut World) {
        let Some(process) = &self.process else {
            return world.ledger.fail(format!("client {} is not there", self.index));
        };
        let stats = process.counters.read();
        let left = process.session.left_over();
        if !process.session.online() {
            world.ledger.fail(format!("client {} is not online", self.index));
        } else if stats.pending > 0 || stats.in_flight > 0 || !left.is_empty() {
            let text = format!(
                "client {}: {} pending, {} in flight, left over: {left}",
                self.index, stats.pending, stats.in_flight
            );
            world.ledger.fail(text);
        }
        let id = self.plan.options.client_id.as_deref().unwrap_or_default();
        let unfinished = world.broker.unfinished(id);
        let subscriptions = world.broker.subscriptions(id).unwrap_or_default();
        let subscriptions: Vec<_> = subscriptions.into_iter().map(str::to_owned).collect();
        if self.number == 0 && !subscriptions.is_empty() {
            world.ledger.fail(format!("client {}: the broker still has {subscriptions:?}", self.index));
        }
        // What an earlier process has not released, nobody will.
        if unfinished.0 > 0 || self.number == 0 && unfinished.1 > 0 {
            world.ledger.fail(format!("client {}: the broker has {unfinished:?} left", self.index));
        }
    }
}

impl Process {
    fn request(
        &mut self,
        (which, topic, qos, timeout): (usize, &'static str, u8, Time),
        response_topic: Option<String>,
        probe: bool,
        plan: &Plan,
        world: &mut World,
        index: usize,
    ) -> Token {
        let (now, started) = (world.now, world.instant(world.now));
        let fail_fast = world.rng.bool();
        let (token, operation) = world.ledger.open(Kind::Request, index);
        operation.qos = qos;
        operation.deadline = now + timeout;
        operation.resend = plan.requesters[which].resend;
        operation.probe = probe;
        let message = Message {
            topic: Bytes::from_static(topic.as_bytes()),
            payload: Bytes::from(format!("q{token}")),
            qos,
            properties: Properties { response_topic, ..Properties::default() },
            ..Message::default()
        };
        world.ledger.note(|| format!("client {index}: request {token} to {topic}, QoS {qos}, {timeout} us"));
        self.inbox.push(Command::Request(Box::new(NewRequest {
            token,
            requester: self.requesters[which],
            message,
            started,
            timeout: Duration::from_micros(timeout),
            fail_fast,
            many: None,
        })));
        token
    }

    fn reply(&mut self, delivery: u64, reply: Option<Box<Reply>>, now: Time) {
        let Some(run) = self.runs.remove(&delivery) else { return };
        if reply.is_none() || run.deadline.is_some_and(|deadline| deadline <= now) {
            self.unanswered.extend(run.request);
        }
        self.inbox.push(Command::Reply { delivery, reply });
    }

    fn drain(&mut self, world: &mut World, index: usize) {
        let open: Vec<u32> = self.responders.keys().copied().collect();
        if !self.draining.is_empty() || open.is_empty() {
            return;
        }
        self.steady = false;
        for delivery in std::mem::take(&mut self.stuck) {
            self.reply(delivery, None, world.now);
        }
        let (token, _) = world.ledger.open(Kind::Drain, index);
        world.ledger.note(|| format!("client {index}: drain {token} of {open:?}"));
        self.draining.insert(token, open.clone());
        self.inbox.push(Command::Drain { token, responders: open });
    }

    /// There is no connection: commands are taken in, deadlines are kept.
    fn catch_up(&mut self, world: &mut World) {
        self.take_commands(world);
        let _ = self.session.tick(world.instant(world.now));
    }

    fn take_commands(&mut self, world: &mut World) {
        let now = world.instant(world.now);
        for command in std::mem::take(&mut self.inbox) {
            // What is written by now was written before this.
            self.look(world, self.index);
            match &command {
                // It may have ended a moment ago.
                Command::Cancel { token } if !self.session.events().iter().any(|it| ends(it, *token)) => {
                    if let Some(it) =
                        world.ledger.operations.get_mut(token).filter(|it| it.outcomes.is_empty())
                    {
                        it.cancelled = true;
                    }
                }
                Command::Unsubscribe { token } => {
                    if let Some(it) = world.ledger.operations.get_mut(token) {
                        it.cancelled = true;
                    }
                }
                _ => {}
            }
            self.session.command(command, now);
        }
        self.session.settle(now);
    }

    /// The TCP connection is there, or is not.
    fn connected(&mut self, world: &mut World) -> Result<(), Lost> {
        if !world.broker.up {
            return Err(Lost::because("refused"));
        }
        let link = world.network.connect();
        world.broker.accept(link, world.now);
        let patience = u64::try_from(Duration::from_secs(3).as_micros()).unwrap_or(0);
        self.phase = Phase::Serving(link, world.now + patience);
        self.session.open(Answer::default(), world.instant(world.now));
        self.looked_at = 0;
        self.input.clear();
        self.seen.clear();
        self.answered.append(&mut self.view.take_answered());
        self.view = View::new(self.session.known(), self.view.inherited);
        self.take_commands(world);
        Ok(())
    }

    fn serve(&mut self, link: LinkId, handshake: Time, world: &mut World, index: usize) -> Result<(), Lost> {
        let (at, now) = (world.instant(world.now), world.now);
        if now >= self.stalled_until && !self.session.out.is_empty() {
            let all = self.session.out.len();
            // The socket takes a part now and then, and the rest later.
            let taken = if world.rng.u8(..8) == 0 { 1 + world.rng.usize(..all) } else { all };
            world.network.send(link, Direction::Up, &self.session.out[..taken], now);
            self.session.out.advance(taken);
            self.looked_at -= taken;
            if taken < all {
                self.stalled_until = now + world.rng.u64(..300 * MS);
            }
            self.session.written(at);
            self.look(world, index);
        }
        match world.network.read(link, Direction::Down, now) {
            None => return Err(Lost::because("the broker closed the connection")),
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => {
                self.seen.extend_from_slice(&bytes);
                while let Ok(Some(packet)) = next_packet(&mut self.seen) {
                    world.ledger.note(|| format!("client {index} <- {}", describe(&packet)));
                    self.view.reads(&packet, &mut world.ledger);
                }
                self.input.extend_from_slice(&bytes);
                self.session.input(&mut self.input, at)?;
                self.look(world, index);
            }
        }
        self.take_commands(world);
        self.look(world, index);
        self.session.tick(at)?;
        if !self.session.online() && now >= handshake {
            return Err(Lost::because("no CONNACK in time"));
        }
        Ok(())
    }

    /// Looks at what the session has written.
    fn look(&mut self, world: &mut World, index: usize) {
        let mut fresh = BytesMut::from(&self.session.out[self.looked_at..]);
        self.looked_at = self.session.out.len();
        let (steady, unanswered, answered) = (self.steady, &self.unanswered, &self.answered);
        let open = !self.responders.is_empty();
        loop {
            match next_packet(&mut fresh) {
                Ok(Some(packet)) => {
                    world.ledger.note(|| format!("client {index} -> {}", describe(&packet)));
                    let second = matches!(packet, Packet::PubRec(_));
                    let fine = |token: Token| {
                        !steady || !open || unanswered.contains(&token) || second && answered.contains(&token)
                    };
                    self.view.writes(index, &packet, &mut world.ledger, fine);
                }
                Ok(None) if fresh.is_empty() => break,
                Ok(None) => return world.ledger.fail(format!("client {index} wrote half a packet")),
                Err(error) => return world.ledger.fail(format!("client {index} wrote nonsense: {error}")),
            }
        }
    }

    fn lost(&mut self, lost: &Lost, world: &mut World, index: usize) {
        if let Phase::Serving(link, _) = self.phase {
            world.network.send(link, Direction::Up, &self.session.out, world.now);
            world.network.close(link, Direction::Up);
            self.session.disconnected(lost);
            self.looked_at = 0;
        }
        if !lost.again {
            world.ledger.fail(format!("client {index} is lost for good: {}", lost.detail));
        }
        if self.session.known() {
            let longest = (100 * MS) << self.attempts.min(5);
            self.attempts += 1;
            self.phase = Phase::Waiting(world.now + world.rng.u64(..longest));
        } else {
            let error = Error::Connect {
                url: String::new(),
                reason_code: lost.reason_code,
                reason_string: None,
                detail: lost.detail.clone(),
            };
            self.session.give_up(&error);
            self.phase = Phase::Idle;
        }
    }
}

fn ends(event: &Event, request: Token) -> bool {
    matches!(event, Event::Response { token, .. } | Event::Failed { token, .. } if *token == request)
}

fn describe(packet: &Packet) -> String {
    match packet {
        Packet::Publish(it) => {
            let expiry = it.properties.as_ref().and_then(|properties| properties.message_expiry_interval);
            let payload = String::from_utf8_lossy(&it.payload);
            let (id, dup, qos) = (it.pkid, it.dup, it.qos as u8);
            format!("PUBLISH {id} {payload} QoS {qos} dup {dup} expiry {expiry:?}")
        }
        // Response topics are random, and a trace is to be the same each time.
        Packet::Subscribe(it) => {
            let filter = &it.filters[0];
            format!("SUBSCRIBE {} {} QoS {}", it.pkid, mask(&filter.path), filter.qos as u8)
        }
        Packet::Unsubscribe(it) => format!("UNSUBSCRIBE {} {}", it.pkid, mask(&it.filters[0])),
        Packet::ConnAck(it) => {
            format!("CONNACK {:?} session present {}", it.code, it.session_present)
        }
        Packet::Connect(it, ..) => format!("CONNECT clean start {}", it.clean_start),
        other => format!("{other:?}"),
    }
}

fn mask(filter: &str) -> &str {
    if filter.starts_with("clients/") || filter.starts_with("answers/") { "<responses>" } else { filter }
}

/// The instant and the time of the simulation.
impl World {
    pub fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_micros(time)
    }

    /// Rounded up: a driver that woke earlier would find nothing to do.
    pub fn time(&self, instant: Instant) -> Time {
        let nanos = instant.saturating_duration_since(self.origin).as_nanos();
        Time::try_from(nanos.div_ceil(1000)).unwrap_or(Time::MAX)
    }
}
