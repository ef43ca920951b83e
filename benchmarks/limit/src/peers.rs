//! The three roles.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::exit;
use std::time::{Duration, Instant};

use crate::Settings;
use crate::wire::{self, Frame, Publish};

/// Digits at the beginning of a payload that name the request.
const DIGITS: usize = 16;
/// After a read of so many packets more are on their way.
const BURST: usize = 4;
const LULL: Duration = Duration::from_micros(100);
/// A request without an answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    filled: usize,
    /// What a read caused, written at once.
    output: Vec<u8>,
    lull: bool,
}

impl Connection {
    fn new(socket: TcpStream, lull: bool) -> Self {
        socket.set_nodelay(true).expect("a TCP socket");
        Self { socket, input: vec![0; 1 << 18], filled: 0, output: Vec::new(), lull }
    }

    /// Connects and subscribes.
    fn open(settings: &Settings, filter: &str) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", settings.number("port"))).expect("a broker");
        let mut connection = Self::new(socket, settings.flag("lull"));
        wire::connect(&mut connection.output, settings.text("client-id"));
        wire::subscribe(&mut connection.output, filter, settings.number("qos"));
        connection.flush();
        let mut subscribed = false;
        while !subscribed {
            let open = connection.receive(|frame, _| subscribed |= frame.kind == wire::SUBACK);
            assert!(open.is_ok_and(|open| open), "the broker refused CONNECT");
        }
        connection
    }

    fn flush(&mut self) {
        if self.socket.write_all(&self.output).is_err() {
            exit(1);
        }
        self.output.clear();
    }

    /// Reads once and hands over each whole packet; false at the end of the stream.
    fn receive(&mut self, mut handle: impl FnMut(&Frame, &mut Vec<u8>)) -> std::io::Result<bool> {
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
        let read = self.socket.read(&mut self.input[self.filled..])?;
        self.filled += read;
        let (mut start, mut packets) = (0, 0);
        while let Some((frame, length)) = wire::frame(&self.input[start..self.filled]) {
            handle(&frame, &mut self.output);
            start += length;
            packets += 1;
        }
        self.input.copy_within(start..self.filled, 0);
        self.filled -= start;
        self.flush();
        if self.lull && packets >= BURST {
            std::thread::sleep(LULL);
        }
        Ok(read > 0)
    }
}

fn say(line: &str) {
    println!("{line}");
}

/// The process that started this one is gone, or needs it no more.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        exit(0);
    });
}

fn wait_for_a_line() {
    let mut line = String::new();
    if !matches!(std::io::stdin().read_line(&mut line), Ok(1..)) {
        exit(0);
    }
}

/// Answers a request with its own payload.
fn answer(frame: &Frame, output: &mut Vec<u8>, packet_id: &mut u16) {
    let Some(request) = Publish::read(frame) else { exit(1) };
    if request.qos > 0 {
        wire::puback(output, request.packet_id);
    }
    if !request.response_topic.is_empty() {
        *packet_id = packet_id.checked_add(1).unwrap_or(1);
        let (topic, data) = (request.response_topic, request.correlation_data);
        wire::publish(output, request.qos, *packet_id, topic, b"", data, request.payload);
    }
}

pub fn responder(settings: &Settings) {
    end_with_stdin();
    let mut connection = Connection::open(settings, settings.text("topic"));
    say(r#"{"event": "ready"}"#);
    let mut packet_id = 0;
    while let Ok(true) = connection.receive(|frame, output| {
        if frame.kind == wire::PUBLISH {
            answer(frame, output, &mut packet_id);
        }
    }) {}
}

pub fn mirror() {
    end_with_stdin();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    say(&format!(r#"{{"event": "ready", "port": {port}}}"#));
    for socket in listener.incoming().flatten() {
        std::thread::spawn(move || reflect(&mut Connection::new(socket, false)));
    }
}

fn reflect(connection: &mut Connection) {
    let mut packet_id = 0;
    while let Ok(true) = connection.receive(|frame, output| match frame.kind {
        wire::CONNECT => output.extend([0x20, 3, 0, 0, 0]),
        wire::SUBSCRIBE | wire::UNSUBSCRIBE => {
            let _ = wire::grant(output, frame);
        }
        wire::PINGREQ => output.extend([0xD0, 0]),
        wire::PUBLISH => answer(frame, output, &mut packet_id),
        _ => {}
    }) {}
}

/// One of the requests in flight: encoded once, then only its number changes.
struct Slot {
    packet: Vec<u8>,
    places: wire::Places,
    /// Where the payload names the request.
    digits: usize,
    number: u64,
    sent: Instant,
}

impl Slot {
    fn new(settings: &Settings, index: usize) -> Self {
        let (payload, digits) = if settings.flag("json") {
            (format!("{{\"number\":\"{:0DIGITS$}\"}}", 0).into_bytes(), 11)
        } else {
            (vec![b'x'; settings.number("payload")], 0)
        };
        let mut packet = Vec::new();
        let places = wire::publish(
            &mut packet,
            settings.number("qos"),
            u16::try_from(index + 1).expect("at most 65,535 in flight"),
            settings.text("topic").as_bytes(),
            settings.text("response-topic").as_bytes(),
            &[[0; 8], (index as u64).to_be_bytes()].concat(),
            &payload,
        );
        Self { packet, digits: places.payload + digits, places, number: 0, sent: Instant::now() }
    }

    /// Correlation Data: the number, then the slot's index.
    fn send(&mut self, number: u64, now: Instant, output: &mut Vec<u8>) {
        self.number = number;
        self.sent = now;
        let data = self.places.correlation_data;
        self.packet[data..data + 8].copy_from_slice(&number.to_be_bytes());
        let mut rest = number;
        for digit in self.packet[self.digits..self.digits + DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        output.extend_from_slice(&self.packet);
    }

    fn answered_by(&self, response: &Publish) -> bool {
        response.correlation_data[..8] == self.number.to_be_bytes()
            && *response.payload == self.packet[self.places.payload..]
    }
}

/// The number and the index in a response's Correlation Data; what is none of ours gives what no request has.
fn named(response: &Publish) -> (u64, usize) {
    let Some((number, index)) = response.correlation_data.split_first_chunk() else {
        return (u64::MAX, usize::MAX);
    };
    let index = index.try_into().map_or(usize::MAX, |index| u64::from_be_bytes(index) as usize);
    (u64::from_be_bytes(*number), index)
}

#[derive(Default)]
struct Outcome {
    latencies: Vec<u64>,
    wrong: u64,
    timeouts: u64,
    seconds: f64,
}

impl Outcome {
    fn report(mut self) {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let last = self.latencies.len().saturating_sub(1);
            let nanos = self.latencies.get((share * last as f64).round() as usize).copied().unwrap_or(0);
            format!("{:.1}", nanos as f64 / 1000.0)
        };
        let percentiles: Vec<String> = (0..=100).map(|percent| at(f64::from(percent) / 100.0)).collect();
        say(&format!(
            r#"{{"event": "result", "completed": {}, "wrong": {}, "timeouts": {}, "errors": 0, "error": "", "seconds": {}, "percentiles_us": [{}], "p999_us": {}}}"#,
            self.latencies.len(),
            self.wrong,
            self.timeouts,
            self.seconds,
            percentiles.join(", "),
            at(0.999)
        ));
    }
}

/// Keeps each slot in flight until the time is up or `limit` are done, then waits for what is under way.
fn load(connection: &mut Connection, slots: &mut [Slot], seconds: f64, limit: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let (mut issued, mut pending) = (0, 0);
    for slot in slots.iter_mut().take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        issued += 1;
        pending += 1;
        slot.send(issued, Instant::now(), &mut connection.output);
    }
    connection.flush();
    while pending > 0 {
        let received = connection.receive(|frame, output| {
            if frame.kind != wire::PUBLISH {
                return;
            }
            let Some(response) = Publish::read(frame) else { exit(1) };
            let now = Instant::now();
            if response.qos > 0 {
                wire::puback(output, response.packet_id);
            }
            let Some(slot) = slots.get_mut(named(&response).1).filter(|slot| slot.answered_by(&response))
            else {
                outcome.wrong += 1;
                return;
            };
            outcome.latencies.push((now - slot.sent).as_nanos() as u64);
            pending -= 1;
            if now < end && issued < limit {
                issued += 1;
                pending += 1;
                slot.send(issued, now, output);
            }
        });
        match received {
            Ok(true) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                outcome.timeouts += pending;
                break;
            }
            _ => exit(1),
        }
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome
}

/// Requests leave when they are due, whatever has come back; what one waits for its turn to leave counts, too.
fn paced(connection: &mut Connection, slots: &mut [Slot], seconds: f64, rate: f64, qos: u8) -> Outcome {
    let mut outcome = Outcome::default();
    let due = (seconds * rate) as u64;
    let mut socket = connection.socket.try_clone().expect("a socket can be cloned");
    let start = Instant::now();
    let at = |number: u64| start + Duration::from_secs_f64(number as f64 / rate);
    std::thread::scope(|scope| {
        let slot = &mut slots[0];
        scope.spawn(move || {
            let mut output = Vec::new();
            let mut next = 0;
            while next < due {
                std::thread::sleep(at(next).saturating_duration_since(Instant::now()));
                while next < due && at(next) <= Instant::now() {
                    if qos > 0 {
                        let id = (1 + next % 65_535) as u16;
                        let at = slot.places.packet_id;
                        slot.packet[at..at + 2].copy_from_slice(&id.to_be_bytes());
                    }
                    slot.send(next, Instant::now(), &mut output);
                    next += 1;
                }
                if socket.write_all(&output).is_err() {
                    exit(1);
                }
                output.clear();
            }
        });
        let mut completed = 0;
        while completed < due {
            let received = connection.receive(|frame, output| {
                if frame.kind != wire::PUBLISH {
                    return;
                }
                let Some(response) = Publish::read(frame) else { exit(1) };
                if response.qos > 0 {
                    wire::puback(output, response.packet_id);
                }
                let (number, _) = named(&response);
                let digits = response.payload.get(..DIGITS).and_then(|text| std::str::from_utf8(text).ok());
                if number >= due || digits.and_then(|text| text.parse().ok()) != Some(number) {
                    outcome.wrong += 1;
                    return;
                }
                completed += 1;
                outcome.latencies.push((Instant::now() - at(number)).as_nanos() as u64);
            });
            if !received.is_ok_and(|open| open) {
                outcome.timeouts = due - completed;
                break;
            }
        }
    });
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome
}

pub fn requester(settings: &Settings) {
    let begun = Instant::now();
    let mut connection = Connection::open(settings, settings.text("response-topic"));
    connection.socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let connected = begun.elapsed();
    let in_flight: usize = settings.number("in-flight");
    let mut slots: Vec<Slot> = (0..in_flight).map(|index| Slot::new(settings, index)).collect();
    let asked = Instant::now();
    load(&mut connection, &mut slots, 1.0, 1);
    say(&format!(
        r#"{{"event": "first", "import_ms": 0, "connect_ms": {}, "request_ms": {}}}"#,
        connected.as_secs_f64() * 1e3,
        asked.elapsed().as_secs_f64() * 1e3
    ));
    load(&mut connection, &mut slots, settings.number("warmup"), u64::MAX);
    say(r#"{"event": "warm"}"#);
    wait_for_a_line();
    let seconds = settings.number("seconds");
    let rate: f64 = settings.number("rate");
    let outcome = if rate > 0.0 {
        paced(&mut connection, &mut slots, seconds, rate, settings.number("qos"))
    } else {
        load(&mut connection, &mut slots, seconds, u64::MAX)
    };
    outcome.report();
    end_with_stdin();
    std::thread::sleep(PATIENCE);
}
