//! The broker's whole state, behind one lock: owns the sessions and their lives. No I/O: what is to be sent goes to an
//! outbox, and what is due later is told by `next_deadline`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::v5::{LastWill, Publish, PublishProperties};

use crate::faults::Faults;
use crate::options::{Counters, Options, Stats};
use crate::record::{Record, frame};
use crate::session::{Session, SessionId};
use crate::topics::{Matches, Tree};
use crate::wire::{self, Message};

/// One connection of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub session: SessionId,
    pub link: u64,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Farewell {
    /// At once; nothing more is written.
    Cut,
    /// After what is already waiting has been written.
    Flush,
    /// After a DISCONNECT with this reason code.
    Disconnect(u8),
}

#[derive(Debug)]
pub(crate) struct State {
    pub options: Options,
    pub faults: Faults,
    pub counters: Counters,
    pub record: Option<Arc<Record>>,
    pub accepting: bool,
    /// The time of the event that is being handled; one clock reading serves a whole batch.
    pub now: Instant,
    pub sessions: BTreeMap<SessionId, Session>,
    pub by_client: HashMap<Arc<str>, SessionId>,
    pub tree: Tree,
    pub matches: Matches,
    pub retained: HashMap<Box<str>, Arc<Message>>,
    pub next_number: u64,
}

impl State {
    pub fn new(options: Options) -> Self {
        Self {
            record: options.record.then(Arc::default),
            options,
            faults: Faults::default(),
            counters: Counters::default(),
            accepting: true,
            now: Instant::now(),
            sessions: BTreeMap::new(),
            by_client: HashMap::new(),
            tree: Tree::default(),
            matches: Matches::default(),
            retained: HashMap::new(),
            next_number: 0,
        }
    }

    /// A number that no session, link or assigned identifier has had before.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Records the packet that `input` begins with.
    pub fn note(&self, client_id: &Arc<str>, input: &[u8]) {
        if let Some(record) = &self.record
            && let Some(packet) = frame(input)
        {
            record.add(client_id, false, packet);
        }
    }

    pub fn attached(&self, who: Who) -> bool {
        let link = self.sessions.get(&who.session).and_then(|session| session.link.as_ref());
        link.is_some_and(|link| link.number == who.link)
    }

    /// Ends a connection, if it is still the session's own. The session lives on for its expiry.
    pub fn detach(&mut self, who: Who, farewell: Farewell) {
        if !self.attached(who) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&who.session) else { return };
        let Some(link) = session.link.take() else { return };
        match farewell {
            Farewell::Cut => link.outbox.cut.notify_one(),
            Farewell::Flush => link.outbox.close(),
            Farewell::Disconnect(code) => {
                log::debug!("{}: DISCONNECT 0x{code:02X}", session.client_id);
                self.counters.sent[14] += 1;
                link.outbox.push(false, |out| wire::write_disconnect(out, code));
                link.outbox.close();
            }
        }
        if session.expiry == 0 {
            self.end_session(who.session);
            return;
        }
        let after = |seconds: u32| self.now.checked_add(Duration::from_secs(seconds.into()));
        session.expires_at = if session.expiry == u32::MAX { None } else { after(session.expiry) };
        let delay = session.will.as_ref().map(|will| {
            will.properties.as_ref().and_then(|properties| properties.delay_interval).unwrap_or(0)
        });
        match delay {
            Some(0) => self.publish_will(who.session),
            Some(delay) => session.will_at = after(delay),
            None => {}
        }
    }

    pub fn detach_all(&mut self, farewell: Farewell) {
        self.now = Instant::now();
        for who in self.links() {
            self.detach(who, farewell);
        }
    }

    pub fn links(&self) -> Vec<Who> {
        let link = |(id, session): (&SessionId, &Session)| {
            session.link.as_ref().map(|link| Who { session: *id, link: link.number })
        };
        self.sessions.iter().filter_map(link).collect()
    }

    /// The session is over: its will is due, its subscriptions go, its shared messages find another member.
    pub fn end_session(&mut self, id: SessionId) {
        self.publish_will(id);
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_client.remove(&session.client_id);
        for filter in session.subscriptions.keys() {
            self.tree.remove(filter, id);
        }
        for delivery in session.into_unserved() {
            self.pass_on(delivery);
        }
    }

    /// Forgets every session without a trace; retained messages stay.
    pub fn lose_sessions(&mut self) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            if let Some(link) = session.link {
                link.outbox.cut.notify_one();
            }
        }
        self.by_client.clear();
        self.tree = Tree::default();
    }

    fn publish_will(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.will_at = None;
        let Some(will) = session.will.take() else { return };
        let retain = will.retain;
        if let Some(message) = Message::new(will_message(will), self.now) {
            self.publish(Arc::new(message), retain, None);
        }
    }

    /// When the next session expires or the next will is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let absent = self.sessions.values().filter(|session| session.link.is_none());
        absent.flat_map(|session| [session.expires_at, session.will_at]).flatten().min()
    }

    pub fn on_deadline(&mut self) {
        self.now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let absent = self.sessions.iter().filter(|(_, session)| session.link.is_none());
        let due: Vec<(SessionId, bool)> = absent
            .filter(|(_, session)| due(session.expires_at) || due(session.will_at))
            .map(|(id, session)| (*id, due(session.expires_at)))
            .collect();
        for (id, expired) in due {
            if expired {
                self.end_session(id);
            } else {
                self.publish_will(id);
            }
        }
    }

    pub fn redeliver(&mut self) {
        self.now = Instant::now();
        for session in self.sessions.values() {
            session.redeliver(self.now, &mut self.counters);
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.sessions.values().map(Session::queued).sum(),
            in_flight: self.sessions.values().map(Session::in_flight).sum(),
            sessions: self.sessions.len(),
            ..self.counters.stats()
        }
    }
}

fn will_message(will: LastWill) -> Publish {
    let properties = will.properties.map(|properties| PublishProperties {
        payload_format_indicator: properties.payload_format_indicator,
        message_expiry_interval: properties.message_expiry_interval,
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
        ..PublishProperties::default()
    });
    Publish { topic: will.topic, qos: will.qos, payload: will.message, properties, ..Publish::default() }
}
