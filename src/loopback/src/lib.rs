//! In-process MQTT 5 broker for demos and tests, with faults on demand. Never for production.
//!
//! ```text
//! socket -> net (one task per connection) -> packets / connect -> routing -> session -> outbox -> net -> socket
//! ```
//!
//! One thread serves all connections; all state is behind one lock that is held for a batch of packets at a time. A
//! method of [`Broker`] takes that lock, changes what it is to change, and returns: packets that are handled later see
//! the change.
//!
//! ```
//! use reqtt_loopback::{Broker, Options};
//!
//! let broker = Broker::start(Options::default())?;
//! assert!(broker.url().starts_with("mqtt://127.0.0.1:"));
//! # Ok::<(), std::io::Error>(())
//! ```

mod connect;
mod faults;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod net;
mod options;
mod outbox;
mod packets;
mod record;
mod routing;
mod session;
mod state;
mod topics;
mod wire;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net::Shared;
pub use options::{Options, Stats};
pub use record::Recorded;
use state::{Farewell, State};

/// The longest stall or delay; an instant further away might not exist.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A running broker. Dropping it stops it.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    port: u16,
    ws_port: u16,
}

impl Broker {
    /// Binds both listeners on 127.0.0.1 and serves them on a thread of its own.
    ///
    /// # Errors
    ///
    /// A port cannot be bound, or the system gives no thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let tcp = bind(options.port)?;
        let ws = bind(options.ws_port)?;
        let (port, ws_port) = (tcp.local_addr()?.port(), ws.local_addr()?.port());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tcp, ws) = {
            let _context = runtime.enter();
            (tokio::net::TcpListener::from_std(tcp)?, tokio::net::TcpListener::from_std(ws)?)
        };
        let shared = Arc::new(Shared::new(State::new(options)));
        let serve = net::run(shared.clone(), tcp, ws);
        let thread = std::thread::Builder::new()
            .name("reqtt-loopback".to_owned())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), port, ws_port })
    }

    /// Sends DISCONNECT 0x8B to everyone, closes all connections and ends the thread. A second call does nothing.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.set_accepting(false);
        self.shared.stall.send_replace(None);
        self.detach_all(Farewell::Disconnect(wire::reason::SERVER_SHUTTING_DOWN));
        self.shared.stop.notify_one();
        if thread.join().is_err() {
            log::error!("the broker's thread had panicked");
        }
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// WebSocket port.
    pub fn ws_port(&self) -> u16 {
        self.ws_port
    }

    /// `mqtt://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// `ws://127.0.0.1:PORT/mqtt`
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/mqtt", self.ws_port)
    }

    /// Drops every connection now, without DISCONNECT. Sessions are kept for their expiry; wills are published.
    pub fn cut(&self) {
        self.detach_all(Farewell::Cut);
    }

    /// Sends DISCONNECT with this reason code to everyone and closes.
    pub fn disconnect(&self, reason: u8) {
        self.detach_all(Farewell::Disconnect(reason));
    }

    fn detach_all(&self, farewell: Farewell) {
        self.shared.lock().detach_all(farewell);
        self.shared.hang_up.send_replace(());
        self.shared.deadlines.notify_one();
    }

    /// Neither reads nor writes on any connection for this long, then goes on. Returns at once; zero ends it.
    pub fn stall(&self, duration: Duration) {
        let until = Instant::now() + duration.min(LONGEST);
        self.shared.stall.send_replace((!duration.is_zero()).then_some(until));
    }

    /// Every outgoing packet leaves this much later, order kept, on present and future connections. Zero ends it and
    /// lets those that wait go.
    pub fn delay(&self, duration: Duration) {
        let duration = duration.min(LONGEST);
        let mut state = self.shared.lock();
        state.faults.delay = duration;
        for session in state.sessions.values() {
            if let Some(link) = &session.link {
                link.outbox.set_delay(duration);
            }
        }
    }

    /// Only SUBACKs are this much later; other packets overtake them. Zero ends it and lets those that wait go.
    pub fn delay_suback(&self, duration: Duration) {
        let mut state = self.shared.lock();
        state.faults.delay_suback = duration.min(LONGEST);
        for session in state.sessions.values().filter(|_| duration.is_zero()) {
            if let Some(link) = &session.link {
                link.outbox.release_aside();
            }
        }
    }

    /// New clients get a CONNACK with this reason code, until None.
    pub fn refuse_connect(&self, reason: Option<u8>) {
        self.shared.lock().faults.refuse_connect = reason;
    }

    /// A PUBLISH whose topic matches `filter` gets a PUBACK or PUBREC with this reason code and goes nowhere; at QoS 0
    /// it just goes nowhere. None removes the rule.
    pub fn refuse_publish(&self, filter: &str, reason: Option<u8>) {
        self.shared.lock().faults.set_refuse_publish(filter, reason);
    }

    /// A subscription whose filter equals `filter`, or is matched by it as a topic, gets this code in its SUBACK. None
    /// removes the rule.
    pub fn refuse_subscribe(&self, filter: &str, reason: Option<u8>) {
        self.shared.lock().faults.set_refuse_subscribe(filter, reason);
    }

    /// Sends every QoS 1 or 2 PUBLISH that a connected client has not yet acknowledged again, with DUP.
    pub fn redeliver(&self) {
        self.shared.lock().redeliver();
    }

    /// Every PUBLISH to a subscriber goes out twice, the second with a packet identifier of its own.
    pub fn duplicate(&self, on: bool) {
        self.shared.lock().faults.duplicate = on;
    }

    /// Forgets all sessions and cuts every connection; wills are not published. Retained messages stay.
    pub fn lose_session(&self) {
        self.shared.lock().lose_sessions();
        self.shared.hang_up.send_replace(());
    }

    /// Messages are routed, but their publishers get no PUBACK or PUBREC.
    pub fn drop_puback(&self, on: bool) {
        self.shared.lock().faults.drop_puback = on;
    }

    /// The Response Information of later CONNACKs, for clients that ask for it.
    pub fn response_information(&self, value: Option<String>) {
        self.shared.lock().options.response_information = value;
    }

    /// False: new TCP connections are closed at once. True: as usual.
    pub fn set_accepting(&self, accepting: bool) {
        self.shared.lock().accepting = accepting;
    }

    /// Client identifiers that are connected, sorted.
    pub fn connections(&self) -> Vec<String> {
        let state = self.shared.lock();
        let connected = state.sessions.values().filter(|session| session.link.is_some());
        let mut clients: Vec<String> = connected.map(|session| session.client_id.to_string()).collect();
        clients.sort_unstable();
        clients
    }

    /// Client identifier, filter and granted QoS of every subscription, sorted.
    pub fn subscriptions(&self) -> Vec<(String, String, u8)> {
        let state = self.shared.lock();
        let mut all: Vec<_> = state
            .sessions
            .values()
            .flat_map(|session| {
                let of_session = session.subscriptions.iter();
                of_session
                    .map(|(filter, granted)| (session.client_id.to_string(), filter.clone(), granted.qos))
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// Retained messages that have not expired.
    pub fn retained(&self) -> usize {
        let mut state = self.shared.lock();
        state.now = Instant::now();
        state.drop_expired_retained();
        state.retained.len()
    }

    /// The latest packets, in the order in which the broker handled them; None unless they are recorded. What a delay
    /// holds back, or a cut connection no longer took, is among them.
    pub fn packets(&self) -> Option<Vec<Recorded>> {
        let record = self.shared.lock().record.clone();
        record.map(|record| record.packets())
    }

    /// Forgets the packets recorded so far.
    pub fn clear_packets(&self) {
        if let Some(record) = &self.shared.lock().record {
            record.clear();
        }
    }

    /// Counters since the start, and sizes now.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
