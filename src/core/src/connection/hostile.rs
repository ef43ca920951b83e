//! The codec and the session in the hands of a hostile peer: see [`crate::fuzzing`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::mqttbytes::{Error as CodecError, check};

use super::codec::{self, Incoming};
use super::session::{Lost, Session};
use crate::command::{
    Answer, Command, Counters, Event, NewRequest, RequesterOptions, ResponseTopic, SubscribeOptions, Token,
};
use crate::fuzzing::Choices;
use crate::message::{Message, Properties};
use crate::options::{Options, Secret};
use crate::responder::{Ack, Reply, ResponderOptions};
use crate::topic::{self, Pattern};

/// What the client accepts here; larger packets end the connection.
const MAXIMUM: u32 = 8192;
const RECEIVE_MAXIMUM: u16 = 4;
/// A session without hostile bytes holds nothing near this.
const OUT_LIMIT: usize = 1 << 20;

/// The reader of PUBLISH and the framing, alone and beside rumqttc's.
pub fn codec(data: &[u8]) {
    let mut input = BytesMut::from(data);
    let mut whole = Vec::new();
    loop {
        let before = input.clone();
        let read = codec::read(&mut input, MAXIMUM);
        assert!(input.capacity() <= 2 * (data.len() + MAXIMUM as usize), "a length made it allocate");
        match &read {
            Ok(None) => {
                assert_eq!(input, before, "waiting for more takes nothing");
                assert!(before.len() < MAXIMUM as usize, "more than a packet, and still waiting");
            }
            Ok(Some(_)) => {
                let length = check(before.iter(), None).expect("it was whole").frame_length();
                assert_eq!(before.len() - input.len(), length, "one packet, one frame");
                assert!(length <= MAXIMUM as usize);
            }
            Err(error) => {
                // What is in the reason code has a name, and every error has one.
                assert!(crate::ReasonCode(codec::violation(error) as u8).is_error());
            }
        }
        beside_rumqttc(before, &read);
        match read {
            Ok(Some(packet)) => whole.push(show(packet)),
            Ok(None) | Err(_) => break,
        }
    }
    // Where the reads cut the stream makes no difference.
    let mut input = BytesMut::new();
    let mut pieces = Vec::new();
    'all: for piece in data.chunks(1 + data.len() % 7) {
        input.extend_from_slice(piece);
        loop {
            match codec::read(&mut input, MAXIMUM) {
                Ok(Some(packet)) => pieces.push(show(packet)),
                Ok(None) => break,
                Err(_) => break 'all,
            }
        }
    }
    assert_eq!(pieces, whole);
}

fn show(packet: Incoming) -> String {
    match packet {
        Incoming::Publish { message, pkid, alias } => format!("{pkid} {alias:?} {message:?}"),
        Incoming::Other(packet) => format!("{packet:?}"),
    }
}

/// PUBLISH is read here and not by rumqttc. It is to say the same where rumqttc is right: it takes repeated
/// properties, Subscription Identifier 0, properties beyond their length and an empty topic without alias, and
/// it miscounts Subscription Identifiers.
fn beside_rumqttc(mut input: BytesMut, ours: &Result<Option<Incoming>, CodecError>) {
    if input.first().is_none_or(|first| first >> 4 != 3) {
        return;
    }
    let theirs = Packet::read(&mut input, Some(MAXIMUM));
    match (ours, theirs) {
        (Ok(Some(Incoming::Publish { message, pkid, alias })), Ok(Packet::Publish(theirs)))
            if message.properties.subscription_identifiers.is_empty() =>
        {
            let their_alias = theirs.properties.as_ref().and_then(|properties| properties.topic_alias);
            assert_eq!((*pkid, *alias), (theirs.pkid, their_alias));
            let theirs = Message { dup: theirs.dup, ..codec::message(theirs) };
            assert_eq!(*message, theirs);
        }
        (Ok(Some(Incoming::Publish { message, .. })), Err(error)) => {
            let identifiers = !message.properties.subscription_identifiers.is_empty();
            assert!(identifiers, "rumqttc refuses what is accepted here: {error} {message:?}");
        }
        (Ok(None), theirs) => assert!(matches!(theirs, Err(CodecError::InsufficientBytes(_)))),
        _ => {}
    }
}

const RESPONSES: &str = "r/1";
const OTHER_RESPONSES: &str = "r/2";

/// Topics that a broker may deliver on, the empty one for an alias.
const TOPICS: [&str; 12] =
    [RESPONSES, OTHER_RESPONSES, "q/a/power", "q/b", "q", "s/x", "", "$x", "own/r", "/", "w/+", "late/1"];

/// The client, its network and its program, seen from the broker.
struct Client {
    session: Session,
    now: Instant,
    input: BytesMut,
    online: bool,
    token: Token,
    /// The requests under way, with their correlation data and response topic.
    requests: HashMap<Token, (Bytes, &'static str)>,
    /// Requests handed to handlers, and not yet answered.
    running: Vec<(u64, Message)>,
    /// QoS 1 and 2 PUBLISHes that the client sent last.
    published: Vec<(u16, u8)>,
    subscribed: Vec<(u16, bool)>,
    deliveries: Vec<u64>,
    seen: HashSet<u64>,
    /// Why the last connection ended, and the reason code of the client's DISCONNECT.
    lost: String,
    disconnect: Option<u8>,
    /// The question that waits for an answer.
    asked: Option<u64>,
}

impl Client {
    fn new(options: Options) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(Arc::new(options), Arc::new(Counters::default()), now),
            now,
            input: BytesMut::new(),
            online: false,
            token: 0,
            requests: HashMap::new(),
            running: Vec::new(),
            published: Vec::new(),
            subscribed: Vec::new(),
            deliveries: Vec::new(),
            seen: HashSet::new(),
            lost: String::new(),
            disconnect: None,
            asked: None,
        }
    }

    fn options() -> Options {
        let mut options = Options::new("mqtt://localhost").expect("a URL");
        options.client_id = Some("c".into());
        options.maximum_packet_size = MAXIMUM;
        options.receive_maximum = RECEIVE_MAXIMUM;
        options.topic_alias_maximum = 3;
        options
    }

    fn token(&mut self) -> Token {
        self.token += 1;
        self.token
    }

    fn command(&mut self, command: Command) {
        self.session.command(command, self.now);
        self.session.settle(self.now);
    }

    /// Opens a connection and answers its CONNECT.
    fn connect(&mut self, connack: &[u8]) {
        self.events();
        self.input.clear();
        self.lost.clear();
        self.disconnect = None;
        self.asked = None;
        self.session.open(Answer::default(), self.now);
        self.online = true;
        self.receive(connack);
    }

    fn receive(&mut self, bytes: &[u8]) {
        // While a CONNACK is being checked nothing is read.
        if !self.online || self.session.holding() {
            return;
        }
        self.input.extend_from_slice(bytes);
        let before = self.session.out.len();
        if let Err(lost) = self.session.input(&mut self.input, self.now) {
            assert!(!lost.detail.is_empty());
            self.lose(&lost);
        } else {
            let holding = self.session.holding();
            assert!(holding || self.input.len() < MAXIMUM as usize, "what is left is less than a packet");
        }
        let written = self.session.out.len().saturating_sub(before);
        assert!(written < OUT_LIMIT, "{} bytes in made {written} bytes out", bytes.len());
    }

    fn lose(&mut self, lost: &Lost) {
        self.drain();
        self.lost.clone_from(&lost.detail);
        self.session.disconnected(lost);
        self.online = false;
        self.deliveries.clear();
        self.published.clear();
        self.subscribed.clear();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        // One may make the next due; but not without end.
        for _ in 0..4 {
            if let Err(lost) = self.session.tick(self.now) {
                self.lose(&lost);
            }
            self.session.settle(self.now);
            if self.session.deadline().is_none_or(|due| due > self.now) {
                return;
            }
        }
        panic!("what is due is never done: it would spin");
    }

    /// The network takes everything: each packet of it is one that a broker can read.
    fn drain(&mut self) {
        let mut out = std::mem::take(&mut self.session.out);
        while !out.is_empty() {
            match Packet::read(&mut out, None).expect("a client writes whole packets") {
                Packet::Publish(publish) => self.sent(&publish),
                Packet::Subscribe(subscribe) => self.subscribed.push((subscribe.pkid, true)),
                Packet::Disconnect(disconnect) => self.disconnect = Some(disconnect.reason_code as u8),
                Packet::Unsubscribe(unsubscribe) => self.subscribed.push((unsubscribe.pkid, false)),
                _ => {}
            }
        }
        self.session.written(self.now);
    }

    fn sent(&mut self, publish: &Publish) {
        let name = std::str::from_utf8(&publish.topic).expect("UTF-8");
        topic::check_topic(name).expect("a topic");
        assert!(!publish.retain, "neither requests nor responses are retained");
        if publish.qos as u8 > 0 {
            self.published.push((publish.pkid, publish.qos as u8));
        }
    }

    /// What the program is told. Every token ends at most once.
    fn events(&mut self) {
        let events = std::mem::take(self.session.events());
        assert!(events.len() < 4096);
        for event in events {
            match event {
                Event::Response { token, message, request_topic, .. } => {
                    let (data, topic) = self.requests.remove(&token).expect("it was under way");
                    assert_eq!(message.topic(), topic);
                    assert_eq!(message.properties.correlation_data, Some(data));
                    assert!(!message.retain);
                    assert_eq!(&request_topic[..], b"q/x");
                }
                Event::Failed { token, error } => {
                    assert!(error.to_string().len() < 3 * MAXIMUM as usize);
                    self.requests.remove(&token);
                }
                Event::Message { message, delivery, .. } => {
                    assert!(topic::matches("s/#", message.topic()));
                    self.deliveries.extend(delivery);
                }
                Event::Request { delivery, message, .. } => {
                    assert!(self.seen.insert(delivery), "each run has a number of its own");
                    check_request(&message);
                    self.running.push((delivery, message));
                    assert!(self.running.len() <= 2 * CONCURRENCY, "concurrency bounds the handlers");
                }
                Event::Ask { number, .. } => {
                    assert_ne!(self.asked, Some(number - 1), "one question at a time");
                    self.asked = Some(number);
                }
                _ => {}
            }
        }
    }

    /// The program's answer to the last question, or to the one before.
    fn answer(&mut self, how: u8) {
        let Some(number) = self.asked.take_if(|_| how & 1 == 0) else { return };
        let data = (how & 2 == 0).then(|| Secret::from("proof"));
        let answer =
            if how & 4 == 0 { Ok(Answer { data, ..Answer::default() }) } else { Err("no".to_owned()) };
        assert!(!self.session.asks(number.wrapping_sub(1)), "an answer to another question is none");
        if self.session.asks(number) {
            let held = self.session.holding();
            let mut answered = self.session.answer(answer, self.now);
            if held && answered.is_ok() {
                answered = self.session.input(&mut self.input, self.now).map(drop);
            }
            if let Err(lost) = answered {
                self.lose(&lost);
            }
        }
        if how & 8 != 0 {
            let token = self.token();
            self.command(Command::Reauthenticate { token, data: Secret::from("again") });
        }
    }

    fn request(&mut self, choices: &mut Choices<'_>) {
        let how = choices.byte();
        let token = self.token();
        let data = Bytes::from(vec![b'c', b'0' + u8::try_from(token % 10).expect("a digit")]);
        let topic = if how & 4 == 0 { RESPONSES } else { OTHER_RESPONSES };
        let message = Message {
            topic: Bytes::from_static(b"q/x"),
            payload: Bytes::from_static(b"?"),
            qos: how & 3,
            properties: Properties {
                correlation_data: Some(data.clone()),
                response_topic: (how & 4 != 0).then(|| topic.to_owned()),
                ..Properties::default()
            },
            ..Message::default()
        };
        if message.qos == 3 {
            return;
        }
        self.requests.insert(token, (data, topic));
        self.command(Command::Request(Box::new(NewRequest {
            token,
            requester: 1,
            message,
            started: self.now,
            timeout: Duration::from_secs(5),
            fail_fast: how & 8 == 0,
            many: None,
        })));
    }

    fn reply(&mut self, choices: &mut Choices<'_>) {
        let how = usize::from(choices.byte());
        let properties = choices.block();
        if self.running.is_empty() {
            return;
        }
        let (delivery, _) = self.running.swap_remove(how % self.running.len());
        let text = String::from_utf8_lossy(properties).replace('\0', "");
        let reply = Reply {
            payload: Bytes::from_static(b"!"),
            status: if how & 64 == 0 { 200 } else { 500 },
            user_properties: vec![("__stMsg".into(), text.repeat(if how & 128 == 0 { 1 } else { 300 }))],
            ..Reply::default()
        };
        self.command(Command::Reply { delivery, reply: (how & 32 == 0).then(|| Box::new(reply)) });
    }

    /// One step of the script.
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 12 {
            0 => {
                let bytes = choices.block();
                self.receive(bytes);
            }
            1 => {
                let (first, body) = (choices.byte(), choices.block());
                self.receive(&frame(first, &[body]));
            }
            2 | 3 => {
                let packet = publish(choices);
                self.receive(&packet);
            }
            4 => self.pass(Duration::from_millis(u64::from(choices.byte()) * 100)),
            5 => self.drain(),
            6 => self.acknowledge(choices),
            7 => self.request(choices),
            8 => self.reply(choices),
            9 => {
                let token = u64::from(choices.byte());
                self.requests.remove(&token);
                self.command(Command::Cancel { token });
            }
            10 => {
                self.answer(choices.byte());
                for delivery in std::mem::take(&mut self.deliveries) {
                    self.command(Command::Acknowledge { delivery });
                }
            }
            _ => {
                let how = choices.byte();
                self.lose(&Lost::because("the script says so"));
                let properties = choices.block();
                self.connect(&connack(how & 1, properties));
            }
        }
        self.events();
    }

    /// Answers the last PUBLISH, SUBSCRIBE or UNSUBSCRIBE, rightly or not.
    fn acknowledge(&mut self, choices: &mut Choices<'_>) {
        self.drain();
        let (how, code) = (choices.byte(), choices.byte());
        if how & 1 == 0
            && let Some((pkid, subscribe)) = self.subscribed.pop()
        {
            let [high, low] = pkid.to_be_bytes();
            let first = if subscribe ^ (how & 128 != 0) { 0x90 } else { 0xB0 };
            return self.receive(&frame(first, &[&[high, low, 0, code]]));
        }
        let Some(&(pkid, qos)) = self.published.last() else { return };
        if how & 2 == 0 {
            self.published.pop();
        }
        let [high, low] = pkid.to_be_bytes();
        let first = match (qos, how & 12) {
            (1, 0) => 0x40,
            (_, 8) => 0x70,
            (_, 12) => 0x62,
            _ => 0x50,
        };
        self.receive(&frame(first, &[&[high, low, code]]));
    }

    /// The end: what waits ends, each once.
    fn end(mut self) {
        self.session.close();
        self.events();
        assert!(self.requests.is_empty(), "every request ends: {:?}", self.requests.keys());
    }
}

fn frame(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    let mut packet = vec![first];
    while length >= 128 {
        packet.put_u8((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.put_u8(length as u8);
    packet.extend(parts.iter().copied().flatten());
    packet
}

fn connack(present: u8, properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len().min(127)).expect("short");
    frame(0x20, &[&[present, 0, length], &properties[..length.into()]])
}

/// A PUBLISH whose frame is right, and the rest as the script wants it.
fn publish(choices: &mut Choices<'_>) -> Vec<u8> {
    let (flags, topic, pkid) = (choices.byte() & 15, choices.byte(), choices.byte());
    let mut properties = choices.block().to_vec();
    if topic & 128 != 0 {
        // Correlation Data of a request that there may be.
        properties.extend_from_slice(&[9, 0, 2, b'c', b'0' + pkid % 10]);
    }
    if topic & 64 != 0 {
        properties.extend_from_slice(b"\x08\0\x03r/3");
    }
    let payload = choices.block();
    let topic = TOPICS[usize::from(topic & 63) % TOPICS.len()].as_bytes();
    let mut head = Vec::new();
    head.put_u16(topic.len() as u16);
    head.extend_from_slice(topic);
    if flags & 6 != 0 {
        head.put_u16(pkid.into());
    }
    let mut length = properties.len();
    while length >= 128 {
        head.put_u8((length % 128) as u8 | 128);
        length /= 128;
    }
    head.put_u8(length as u8);
    frame(0x30 | flags, &[&head, &properties, payload])
}

fn run(client: &mut Client, data: &[u8]) {
    let mut choices = Choices(data);
    while !choices.is_empty() {
        client.step(&mut choices);
    }
}

/// A requester, a subscription, and a broker that means no good.
pub fn requester(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let mut options = Client::options();
    if how & 1 != 0 {
        options.clean_start = false;
        options.session_expiry_interval = 100;
    }
    if how & 2 != 0 {
        options.authentication_method = Some("x".into());
    }
    let mut client = Client::new(options);
    client.command(Command::OpenRequester {
        requester: 1,
        options: RequesterOptions { resend: how & 8 == 0, ..requester_options() },
    });
    let token = client.token();
    client.command(Command::Subscribe {
        token,
        filters: vec!["s/#".into(), "s/+".into()],
        options: SubscribeOptions {
            qos: 2,
            no_local: false,
            retain_as_published: true,
            retain_handling: 0,
            subscription_identifier: Some(7),
        },
    });
    // Without a CONNACK the script has to send it.
    client.connect(&if how & 4 != 0 { Vec::new() } else { connack(how >> 4 & 1, &[]) });
    run(&mut client, choices.0);
    client.end();
}

const CONCURRENCY: usize = 2;
const ALLOWED: &str = "r/#";

fn check_request(message: &Message) {
    assert!(!message.retain, "retained messages do not run");
    assert_ne!(message.properties.message_expiry_interval, Some(0));
    if let Some(topic) = &message.properties.response_topic {
        topic::check_topic(topic).expect("a Response Topic that can be published to");
        assert!(topic::matches(ALLOWED, topic), "{topic} is allowed");
    }
}

fn requester_options() -> RequesterOptions {
    RequesterOptions {
        response_topic: ResponseTopic::Fixed(RESPONSES.into()),
        response_qos: None,
        max_pending_requests: 5,
        resend: true,
        match_by_topic: false,
        azure: false,
    }
}

fn responder_options(filter: &str) -> ResponderOptions {
    ResponderOptions {
        pattern: Pattern::parse(filter).expect("a pattern"),
        group: None,
        qos: 2,
        concurrency: CONCURRENCY,
        ack: Ack::AfterResponse,
        deduplicate: true,
        run_without_response_topic: true,
        allowed_response_topics: vec![ALLOWED.into()],
        retained: false,
        azure: false,
    }
}

/// Responders, a requester on the same client, and whoever may publish to them.
pub fn responder(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let mut options = Client::options();
    if how & 1 != 0 {
        options.clean_start = false;
        options.session_expiry_interval = 100;
    }
    let mut client = Client::new(options);
    for (id, filter) in [(1, "q/{device}/power"), (2, "q/#")] {
        let token = client.token();
        let options = ResponderOptions {
            group: (how & 2 != 0).then(|| "g".to_owned()),
            ack: if how & 4 == 0 { Ack::AfterResponse } else { Ack::OnReceipt },
            deduplicate: how & 8 == 0,
            run_without_response_topic: how & 16 == 0,
            ..responder_options(filter)
        };
        client.command(Command::OpenResponder { token, responder: id, options: Arc::new(options) });
    }
    client.command(Command::OpenRequester { requester: 1, options: requester_options() });
    client.connect(&connack(how >> 5 & 1, &[]));
    run(&mut client, choices.0);
    client.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reaches_what_it_is_about() {
        // A request is written, its response topic granted, and answered.
        let mut client = Client::new(Client::options());
        client.command(Command::OpenRequester { requester: 1, options: requester_options() });
        client.connect(&connack(0, &[]));
        // 7: a QoS 1 request; 6: its SUBACK; 6: its PUBACK; 2: the response.
        run(&mut client, &[7, 1, 6, 0, 1, 6, 1, 0]);
        assert_eq!(client.requests.len(), 1);
        run(&mut client, &[2, 0, 128, 1, 0, 0]);
        assert!(client.requests.is_empty(), "answered");
        client.end();
    }

    fn connected() -> Client {
        let mut client = Client::new(Client::options());
        client.connect(&connack(0, &[]));
        client
    }

    #[test]
    fn what_the_broker_breaks_is_told_by_its_reason_code() {
        let alias = |number| frame(0x30, &[b"\0\0\x03\x23\0", &[number]]);
        let too_large = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
        for (bytes, code, said) in [
            (&frame(0x40, &[&[0, 0, 0]])[..], 0x82, "0x82 Protocol Error"),
            (&frame(0x36, &[b"\0\x01t\0\x01\0"]), 0x81, "0x81 Malformed Packet"),
            (&frame(0x20, &[&[0, 0, 0]]), 0x82, "it sent ConnAck where the protocol does not allow it"),
            (&frame(0x90, &[&[0, 1, 0, 1, 1]]), 0x82, "SUBACK for several filters"),
            // A PUBACK with Granted QoS 1, as Mochi 2.7 sends it.
            (&frame(0x40, &[&[0, 1, 1, 0]]), 0x81, "a reason code that the packet may not have (0x01)"),
            (&alias(9), 0x94, "0x94 Topic Alias invalid"),
            (&alias(1), 0x94, "never defined"),
            (&too_large, 0x95, "0x95 Packet too large"),
        ] {
            let mut client = connected();
            client.receive(bytes);
            assert!(client.lost.contains(said), "{bytes:?}: {}", client.lost);
            assert_eq!(client.disconnect, Some(code), "{}", client.lost);
        }
    }

    #[test]
    fn a_broker_that_exceeds_receive_maximum_by_far_is_disconnected() {
        for flags in [0x32, 0x34] {
            let mut client = connected();
            let options = SubscribeOptions {
                qos: 2,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
                subscription_identifier: None,
            };
            client.command(Command::Subscribe { token: 1, filters: vec!["s/#".into()], options });
            let mut held = 0;
            for pkid in 1..u16::MAX {
                let packet = frame(flags, &[b"\0\x03s/x", &pkid.to_be_bytes(), &[0], &[0; 8_000]]);
                client.receive(&packet);
                client.session.events().clear();
                if !client.lost.is_empty() {
                    break;
                }
                held = client.session.held();
            }
            // Mosquitto 2.0.11 exceeds it, too: 64 MiB are borne.
            assert!((8_000..8_400).contains(&held), "{held}");
            assert!(client.lost.contains("0x93 Receive Maximum exceeded"), "{}", client.lost);
            assert_eq!(client.disconnect, Some(0x93));
        }
    }

    fn default_requester() -> Command {
        Command::OpenRequester {
            requester: 1,
            options: RequesterOptions { response_topic: ResponseTopic::Default, ..requester_options() },
        }
    }

    fn long_property(kind: u8) -> Vec<u8> {
        let text = vec![b'x'; 65_535];
        frame(0x20, &[&[0, 0, 0x82, 0x80, 0x04, kind, 0xFF, 0xFF], &text])
    }

    #[test]
    fn a_response_topic_that_the_broker_makes_too_long_fails_the_request() {
        let mut options = Client::options();
        options.maximum_packet_size = 100_000;
        let mut client = Client::new(options);
        client.command(default_requester());
        client.connect(&long_property(0x12));
        assert!(client.session.online());
        run(&mut client, &[7, 1]);
        assert!(client.requests.is_empty(), "it cannot be subscribed to, and says so");
        // Response Information that is too long is not used.
        client.lose(&Lost::because("again"));
        client.session.events().clear();
        let mut options = Client::options();
        options.maximum_packet_size = 100_000;
        let mut client = Client::new(options);
        client.command(default_requester());
        client.connect(&long_property(0x1A));
        run(&mut client, &[7, 1, 6, 0, 1, 6, 1, 0]);
        assert_eq!(client.requests.len(), 1, "sent, with the default topic");
    }

    #[test]
    fn a_response_that_cannot_be_encoded_holds_no_packet_identifier() {
        let mut client = Client::new(Client::options());
        let token = client.token();
        let options = responder_options("q/#");
        client.command(Command::OpenResponder { token, responder: 1, options: Arc::new(options) });
        client.connect(&connack(0, &[]));
        for pkid in 1..=3 {
            client.receive(&frame(0x32, &[b"\0\x03q/x\0", &[pkid, 6], b"\x08\0\x03r/1"]));
            client.events();
            let (delivery, _) = client.running.pop().unwrap();
            let user_properties = vec![("k".into(), "x".repeat(70_000))];
            let reply = Reply { status: 200, user_properties, ..Reply::default() };
            client.command(Command::Reply { delivery, reply: Some(Box::new(reply)) });
            client.drain();
        }
        assert!(client.published.is_empty() && client.session.held() == 0);
        assert_eq!(client.session.in_flight(), 0);
    }

    #[test]
    fn a_request_too_large_lets_the_next_one_in() {
        let mut client = Client::new(Client::options());
        let Command::OpenRequester { requester, options } = default_requester() else { unreachable!() };
        let options = RequesterOptions { max_pending_requests: 2, ..options };
        client.command(Command::OpenRequester { requester, options });
        // Room for one request at a time, and for small packets.
        client.connect(&connack(0, &[0x21, 0, 1, 0x27, 0, 0, 0, 200]));
        let ask = |client: &mut Client, payload: usize| {
            let token = client.token();
            client.requests.insert(token, (Bytes::new(), ""));
            let message = Message {
                topic: Bytes::from_static(b"q/x"),
                payload: vec![0; payload].into(),
                qos: 1,
                ..Message::default()
            };
            client.session.command(
                Command::Request(Box::new(NewRequest {
                    token,
                    requester: 1,
                    message,
                    started: client.now,
                    timeout: Duration::from_secs(5),
                    fail_fast: true,
                    many: None,
                })),
                client.now,
            );
        };
        ask(&mut client, 1);
        ask(&mut client, 1000);
        ask(&mut client, 1);
        client.session.settle(client.now);
        // 6: the SUBACK, then the PUBACK and the answer of the first.
        run(&mut client, &[6, 0, 1, 6, 1, 0]);
        client.drain();
        assert_eq!(client.published.len(), 1, "the third was written once the first was acknowledged");
    }

    #[test]
    fn a_broker_that_sends_and_never_reads_is_disconnected() {
        let mut client = connected();
        let releases = frame(0x62, &[b"\0\x01"]).repeat(64 * 1024);
        for _ in 0..24 {
            if client.lost.is_empty() {
                client.input.extend_from_slice(&releases);
                if let Err(lost) = client.session.input(&mut client.input, client.now) {
                    client.lose(&lost);
                }
            }
            assert!(client.session.out.len() < 6 << 20, "what waits to be read is bounded");
        }
        assert!(client.lost.contains("0x93 Receive Maximum exceeded"), "{}", client.lost);
        // One that reads may send as much as it likes.
        let mut client = connected();
        for _ in 0..24 {
            client.input.extend_from_slice(&releases);
            client.session.input(&mut client.input, client.now).unwrap();
            client.drain();
        }
    }

    #[test]
    fn a_broker_has_one_question_at_a_time() {
        let mut options = Client::options();
        options.authentication_method = Some("x".into());
        let mut client = Client::new(options);
        let auth = frame(0xF0, &[b"\x18\x08\x15\0\x01x\x16\0\x01y"]);
        client.connect(&auth);
        client.receive(&auth);
        assert!(client.lost.contains("an AUTH out of turn"), "{}", client.lost);
        assert_eq!(client.disconnect, Some(0x82));
        // A CONNACK that has to be checked is not vouched for by the answer to what was asked before.
        client.connect(&connack(0, &[0x15, 0, 1, b'x', 0x16, 0, 1, b'z']));
        let Some(Event::Ask { number, .. }) = client.session.events().pop() else { panic!("no question") };
        assert!(client.session.asks(number) && !client.session.asks(number - 1));
        assert!(!client.session.online());
        client.session.answer(Ok(Answer::default()), client.now).unwrap();
        assert!(client.session.online());
        // Nobody asked to authenticate again.
        client.receive(&auth);
        assert!(client.lost.contains("an AUTH"), "{}", client.lost);
    }

    fn responding(deduplicate: bool, ack: Ack) -> Client {
        let mut client = Client::new(Client::options());
        let options = ResponderOptions { deduplicate, ack, ..responder_options("q/#") };
        let token = client.token();
        client.command(Command::OpenResponder { token, responder: 1, options: Arc::new(options) });
        client.connect(&connack(0, &[]));
        client
    }

    /// Without the checks of `step`: they are for small scripts.
    fn feed(client: &mut Client, bytes: &[u8]) {
        client.input.extend_from_slice(bytes);
        client.session.input(&mut client.input, client.now).unwrap();
    }

    #[test]
    fn qos_0_requests_that_wait_are_bounded_in_number_and_in_bytes() {
        let mut client = responding(true, Ack::AfterResponse);
        let counters = client.session.counters();
        let small = frame(0x30, &[b"\0\x03q/x\0"]);
        for _ in 0..11_000 {
            feed(&mut client, &small);
        }
        assert_eq!(counters.read().requests_dropped, 1_000 - CONCURRENCY as u64);
        let mut client = responding(true, Ack::AfterResponse);
        let counters = client.session.counters();
        // 1,500 pairs of nothing take 96 kB in memory, and 7.5 kB on the wire.
        let properties = [0x26, 0, 0, 0, 0].repeat(1_500);
        let large = frame(0x30, &[b"\0\x03q/x\xCC\x3A", &properties]);
        for _ in 0..1_000 {
            feed(&mut client, &large);
        }
        let (received, dropped) = (counters.read().requests_received, counters.read().requests_dropped);
        assert_eq!(received, 1_000);
        assert!((250..350).contains(&dropped), "{dropped}");
    }

    #[test]
    fn requests_of_connections_that_come_and_go_are_bounded() {
        let mut client = responding(false, Ack::AfterResponse);
        let counters = client.session.counters();
        for _ in 0..2_600 {
            for pkid in 1..=4 {
                feed(&mut client, &frame(0x32, &[b"\0\x03q/x\0", &[pkid, 0]]));
            }
            client.lose(&Lost::because("again"));
            client.connect(&connack(0, &[]));
        }
        assert!(counters.read().requests_dropped >= 300);
    }

    #[test]
    fn responses_that_the_broker_does_not_acknowledge_are_bounded() {
        let request = frame(0x32, &[b"\0\x03q/x\0\x01\x06\x08\0\x03r/1"]);
        let mut client = responding(false, Ack::OnReceipt);
        for _ in 0..200 {
            feed(&mut client, &request);
            client.events();
            let (delivery, _) = client.running.pop().unwrap();
            let payload = Bytes::from(vec![0; 1 << 20]);
            let reply = Reply { status: 200, payload, ..Reply::default() };
            client.command(Command::Reply { delivery, reply: Some(Box::new(reply)) });
            client.session.out.clear();
            client.session.written(client.now);
        }
        assert_eq!(client.session.in_flight(), 64);
        assert_eq!(client.session.queued(), 64);
    }

    #[test]
    fn qos_0_messages_that_the_program_does_not_take_are_bounded() {
        let mut client = connected();
        let options = SubscribeOptions {
            qos: 0,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
            subscription_identifier: None,
        };
        client.command(Command::Subscribe { token: 1, filters: vec!["s/#".into()], options });
        let message = frame(0x30, &[b"\0\x03s/x\0", &[0; 7_900]]);
        let mut mailbox = Vec::new();
        for _ in 0..10_000 {
            feed(&mut client, &message);
            mailbox.append(client.session.events());
            client.session.delivered(false);
        }
        assert!((8_000..9_000).contains(&mailbox.len()), "{}", mailbox.len());
        // Once it is taken, there is room again.
        client.session.delivered(true);
        feed(&mut client, &message);
        assert_eq!(client.session.events().len(), 1);
    }

    #[test]
    fn answered_requests_are_remembered_up_to_a_number_and_a_size() {
        for (requests, payload) in [(10_100_u16, 0), (300, 100_000)] {
            let mut client = responding(true, Ack::OnReceipt);
            for number in 0..requests {
                let [high, low] = number.to_be_bytes();
                feed(&mut client, &frame(0x30, &[b"\0\x03q/x\x0B\x08\0\x03r/1\x09\0\x02", &[high, low]]));
                client.events();
                let (delivery, _) = client.running.pop().unwrap();
                let payload = Bytes::from(vec![0; payload]);
                let reply = Reply { status: 200, payload, ..Reply::default() };
                client.command(Command::Reply { delivery, reply: Some(Box::new(reply)) });
                client.session.out.clear();
                client.session.written(client.now);
            }
            let (entries, bytes) = client.session.remembered();
            // It is swept before the next is let in: one may be over.
            assert!(entries <= 10_001 && bytes <= (16 << 20) + 100_100, "{entries} {bytes}");
            assert!(entries > 9_000 || bytes > 15 << 20, "{entries} {bytes}");
        }
    }

    #[test]
    fn messages_of_a_resumed_session_wait_for_ten_seconds_and_not_without_bound() {
        let mut options = Client::options();
        options.clean_start = false;
        let mut client = Client::new(options);
        client.connect(&connack(1, &[]));
        for pkid in 1..=4 {
            client.receive(&frame(0x32, &[b"\0\x03s/x\0", &[pkid, 0]]));
        }
        // At QoS 0 nobody could tell that it came: it is not kept.
        client.receive(&frame(0x30, &[b"\0\x03s/x\0"]));
        assert_eq!(client.session.held(), 4);
        client.pass(Duration::from_secs(11));
        assert_eq!(client.session.held(), 0, "nobody came, and they are acknowledged");
        assert!(client.lost.is_empty());
    }

    #[test]
    fn a_broker_of_mqtt_3_is_named_as_such() {
        // Return code 1, unacceptable protocol version, without properties: what MQTT 3.1.1 answers to level 5. Some
        // put a Property Length behind it. 5 is "not authorized".
        for connack in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 1, 0], &[0x20, 3, 0, 5, 0]] {
            let mut client = Client::new(Client::options());
            client.connect(connack);
            assert!(client.lost.contains("answers as MQTT 3 does"), "{}", client.lost);
            assert_eq!(client.disconnect, None, "it would not understand it");
        }
    }

    #[test]
    fn a_connack_that_makes_no_sense_is_refused() {
        for (properties, said) in [
            (&[0x21, 0, 0][..], "0x82 Protocol Error"),
            (&[0x27, 0, 0, 0, 0], "Maximum Packet Size 0"),
            (&[0x24, 3], "Maximum QoS 3"),
            (&[0x7F], "0x81 Malformed Packet"),
        ] {
            let mut client = Client::new(Client::options());
            client.connect(&connack(0, properties));
            assert!(client.lost.contains(said), "{properties:?}: {}", client.lost);
            assert!(client.disconnect.is_some() && !client.session.known());
        }
    }
}
