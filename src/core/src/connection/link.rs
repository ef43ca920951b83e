//! One connection between two threads. The I/O thread always serves it; where the socket is a plain one and the
//! caller's event loop can wait for descriptors, the loop's own thread reads and writes it: a hop to another thread
//! and back costs more than all the rest of a lone request.
//!
//! Whoever holds the lock drives the session. Only one of the two waits for the socket at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::session::{Lost, Session};
#[cfg(target_os = "linux")]
use super::watch::Watch;
use crate::command::{Answer, Command, CommandQueue, Counters, Event, count};
use crate::mailbox::Mailbox;
use crate::options::Options;

/// How long what has arrived may lie in the socket when the event loop is kept busy by something else: then
/// the I/O thread looks after it.
const NEGLECT: Duration = Duration::from_millis(100);

/// Who waits for the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The I/O thread.
    Io,
    /// The thread of the caller's event loop.
    Loop,
}

pub(super) struct State {
    pub session: Session,
    /// What was read, and is no whole packet yet.
    pub input: BytesMut,
    pub reader: Reader,
    /// When the I/O thread wakes by itself, at the latest.
    pub alarm: Instant,
    /// The loop found that the connection is over; the I/O thread acts on it.
    pub lost: Option<Lost>,
    /// What the loop waits for, if it can.
    #[cfg(target_os = "linux")]
    pub watch: Option<Watch>,
    #[cfg(unix)]
    pub read_size: usize,
}

impl State {
    /// A stream is there: writes CONNECT.
    pub fn open(&mut self, answer: Answer) {
        self.input.clear();
        self.reader = Reader::Io;
        self.lost = None;
        self.session.open(answer, Instant::now());
    }

    /// The stream is at its end: the loop has no part in it any more. Gives what is not written yet.
    pub fn take_over(&mut self) -> BytesMut {
        self.reader = Reader::Io;
        #[cfg(target_os = "linux")]
        if let Some(mut watch) = self.watch.take() {
            watch.stop();
        }
        std::mem::take(&mut self.session.out)
    }
}

/// A handle of a connection: what its owner's thread does with it.
pub struct Link {
    pub(super) options: Arc<Options>,
    pub(super) queue: Arc<CommandQueue>,
    pub(super) mailbox: Arc<Mailbox<Event>>,
    pub(super) counters: Arc<Counters>,
    /// Whether the owner's event loop can wait for a socket.
    pub(super) loop_watches: bool,
    state: Mutex<State>,
}

impl Link {
    /// A connection that is not open yet. `loop_watches` tells whether its owner takes [`Event::Watch`].
    #[must_use]
    pub fn new(
        options: Arc<Options>,
        mailbox: Arc<Mailbox<Event>>,
        counters: Arc<Counters>,
        loop_watches: bool,
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            state: Mutex::new(State {
                session: Session::new(options.clone(), counters.clone(), now),
                input: BytesMut::new(),
                reader: Reader::Io,
                alarm: now,
                lost: None,
                #[cfg(target_os = "linux")]
                watch: None,
                #[cfg(unix)]
                read_size: super::socket::SMALL_READ,
            }),
            options,
            queue: Arc::default(),
            mailbox,
            counters,
            loop_watches,
        })
    }

    /// Where commands for the I/O thread go.
    #[must_use]
    pub const fn queue(&self) -> &Arc<CommandQueue> {
        &self.queue
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands commands over: carries them out on this thread where that is possible without waiting, else the
    /// I/O thread does. Leaves `batch` empty with its capacity.
    pub fn submit(&self, batch: &mut Vec<Command>) {
        if !self.carry_out(batch) {
            self.queue.append(batch);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn carry_out(&self, _batch: &mut Vec<Command>) -> bool {
        false
    }

    #[cfg(target_os = "linux")]
    fn carry_out(&self, batch: &mut Vec<Command>) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        // Nothing may overtake what waits for the I/O thread.
        if state.reader != Reader::Loop || !self.queue.is_empty() || batch.iter().any(Command::is_drivers) {
            return false;
        }
        let now = Instant::now();
        for command in batch.drain(..) {
            state.session.command(command, now);
        }
        state.session.settle(now);
        self.write(&mut state, now);
        super::deliver(self, &mut state);
        self.set_alarm(&state, now);
        true
    }

    /// What [`Event::Watch`] names is readable: takes what is there, and what the I/O thread has left before.
    /// Tells whether there are bytes to be written: acknowledgements leave with what the caller asks for next, or
    /// by an empty [`Link::submit`].
    #[cfg(target_os = "linux")]
    pub fn readable(&self, events: &mut Vec<Event>) -> bool {
        let mut state = self.lock();
        self.mailbox.take(events);
        if state.reader != Reader::Loop {
            return false;
        }
        let now = Instant::now();
        if let Err(lost) = self.read(&mut state, now) {
            state.lost = Some(lost);
            self.hand_over(&mut state);
        }
        events.append(state.session.events());
        state.session.delivered(true);
        self.set_alarm(&state, now);
        state.reader == Reader::Loop && !state.session.out.is_empty()
    }

    /// From now on the I/O thread waits for the socket.
    #[cfg(target_os = "linux")]
    fn hand_over(&self, state: &mut State) {
        state.reader = Reader::Io;
        if let Some(watch) = &mut state.watch {
            watch.stop();
        }
        self.queue.ring();
    }

    /// Reads once, and has the loop woken for what comes next.
    #[cfg(target_os = "linux")]
    pub(super) fn read(&self, state: &mut State, now: Instant) -> Result<(), Lost> {
        use super::{READ_SIZE, socket, transport};
        let Some(watch) = &mut state.watch else { return Ok(()) };
        let lost = |error: &std::io::Error| Lost::because(transport::describe(error));
        let size = state.read_size;
        let read = match socket::receive(watch.socket(), &mut state.input, size) {
            Ok(0) => return Err(Lost::because("the broker closed the connection")),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(lost(&error)),
        };
        let mut messages = 0;
        if read > 0 {
            state.read_size = socket::next_size(size, read, READ_SIZE);
            count(&self.counters.bytes_received, read as u64);
            messages = state.session.input(&mut state.input, now)?;
            if state.session.out.is_empty() {
                socket::acknowledge_now(watch.socket());
            }
        }
        watch.note(messages, read, state.session.awaited(), now).map_err(|error| lost(&error))
    }

    /// Writes what the system takes; the I/O thread waits until it takes the rest.
    #[cfg(target_os = "linux")]
    fn write(&self, state: &mut State, now: Instant) {
        let Some(fd) = state.watch.as_ref().map(|watch| watch.socket().clone()) else { return };
        while !state.session.out.is_empty() {
            match super::socket::transmit(&fd, &state.session.out) {
                Ok(written) => {
                    state.session.out.advance(written);
                    count(&self.counters.bytes_sent, written as u64);
                    state.session.written(now);
                }
                // A broken connection shows there, too.
                Err(_) => return self.hand_over(state),
            }
        }
    }

    /// Wakes the I/O thread if it would sleep for too long.
    #[cfg(target_os = "linux")]
    fn set_alarm(&self, state: &State, now: Instant) {
        if self.due(state, now).is_some_and(|due| due < state.alarm) {
            self.queue.ring();
        }
    }

    /// When the I/O thread has something to do, at the latest.
    pub(super) fn due(&self, state: &State, now: Instant) -> Option<Instant> {
        let neglected =
            (state.reader == Reader::Loop && state.session.expects_answers()).then(|| now + NEGLECT);
        [state.session.deadline(), neglected].into_iter().flatten().min()
    }
}
