//! Codec and sessions in memory, for benchmarks: these are crates of their own, and see only what is public. Not for
//! use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::codec::{self, Incoming};
use super::session::Session;
use crate::command::{Answer, Command, Event, NewRequest, RequesterOptions, ResponseTopic};
use crate::error::Result;
use crate::message::Message;
use crate::options::Options;
use crate::responder::{Ack, Reply, ResponderOptions};
use crate::topic::Pattern;

/// A requester's session and a responder's, each of which is the other's broker: what one writes the other reads,
/// since request, response and acknowledgements look the same on either side of a broker.
pub struct Pair {
    requester: Session,
    responder: Session,
    now: Instant,
    token: u64,
}

impl Pair {
    /// Both connected and subscribed; the responder has `filters` filters.
    ///
    /// # Errors
    /// None: the topics are valid.
    pub fn new(filters: u32) -> Result<Self> {
        let now = Instant::now();
        let session = |name: &str| {
            let mut options = Options::new("mqtt://memory")?;
            options.client_id = Some(name.to_owned());
            let mut session = Session::new(Arc::new(options), Arc::default(), now);
            session.open(Answer::default(), now);
            session.out.clear();
            // CONNACK: success, no properties.
            let _ = session.input(&mut BytesMut::from(&[0x20, 3, 0, 0, 0][..]), now);
            Ok(session)
        };
        let mut pair =
            Self { requester: session("requester")?, responder: session("responder")?, now, token: 0 };
        let options = RequesterOptions {
            response_topic: ResponseTopic::Default,
            response_qos: None,
            max_pending_requests: 10_000,
            resend: true,
            match_by_topic: false,
            azure: false,
        };
        pair.requester.command(Command::OpenRequester { requester: 0, options }, now);
        for number in 0..filters {
            let options = Arc::new(ResponderOptions {
                pattern: Pattern::parse(&format!("cmnd/light-{number}/power"))?,
                qos: 1,
                group: None,
                concurrency: 1000,
                ack: Ack::AfterResponse,
                deduplicate: true,
                run_without_response_topic: true,
                allowed_response_topics: vec!["#".to_owned()],
                retained: false,
                azure: false,
            });
            let command = Command::OpenResponder { token: u64::from(number), responder: number, options };
            pair.responder.command(command, now);
        }
        pair.responder.settle(now);
        grant(&mut pair.responder, now);
        pair.responder.events().clear();
        Ok(pair)
    }

    /// `count` requests at once, and the response to each; gives how many came.
    pub fn round_trips(&mut self, count: usize, qos: u8) -> usize {
        self.now += Duration::from_millis(1);
        let now = self.now;
        for _ in 0..count {
            self.token += 1;
            let message = Message {
                topic: Bytes::from_static(b"cmnd/light-0/power"),
                payload: Bytes::from_static(b"0123456789abcdef"),
                qos,
                ..Message::default()
            };
            let request = NewRequest {
                token: self.token,
                requester: 0,
                message,
                started: now,
                timeout: Duration::from_secs(1),
                fail_fast: true,
                many: None,
            };
            self.requester.command(Command::Request(Box::new(request)), now);
        }
        self.requester.settle(now);
        grant(&mut self.requester, now);
        let mut answered = 0;
        while !self.requester.out.is_empty() || !self.responder.out.is_empty() {
            pass(&mut self.requester, &mut self.responder, now);
            for event in std::mem::take(self.responder.events()) {
                if let Event::Request { delivery, message, .. } = event {
                    let reply = Reply { payload: message.payload, status: 200, ..Reply::default() };
                    let command = Command::Reply { delivery, reply: Some(Box::new(reply)) };
                    self.responder.command(command, now);
                }
            }
            self.responder.settle(now);
            pass(&mut self.responder, &mut self.requester, now);
            for event in self.requester.events().drain(..) {
                answered += usize::from(matches!(event, Event::Response { .. }));
            }
        }
        answered
    }
}

/// Writes a PUBLISH as the session does.
pub fn encode(message: Message, pkid: u16, out: &mut BytesMut) {
    let mut packet = codec::publish(message);
    packet.pkid = pkid;
    let _ = packet.write(out);
}

/// Reads a PUBLISH as the session does; `None` for anything else.
pub fn decode(input: &mut BytesMut) -> Option<Message> {
    match codec::read(input, u32::MAX) {
        Ok(Some(Incoming::Publish { message, .. })) => Some(message),
        _ => None,
    }
}

/// What one has written arrives at the other.
fn pass(from: &mut Session, to: &mut Session, now: Instant) {
    if !from.out.is_empty() {
        let mut bytes = from.out.split();
        from.written(now);
        let _ = to.input(&mut bytes, now);
    }
}

/// Answers the SUBSCRIBEs at the head of what a session wrote.
fn grant(session: &mut Session, now: Instant) {
    let mut answers = BytesMut::new();
    while session.out.first() == Some(&0x82) {
        // Filters of a benchmark are short: the Remaining Length has one byte.
        let packet = session.out.split_to(2 + usize::from(session.out[1]));
        answers.extend_from_slice(&[0x90, 4, packet[2], packet[3], 0, 1]);
    }
    if !answers.is_empty() {
        let _ = session.input(&mut answers, now);
    }
}
