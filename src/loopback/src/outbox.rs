//! Bytes on their way to one connection: owns their order, their delay, and how the connection ends. Knows nothing of MQTT
//! beyond "this packet acknowledges a PUBLISH".

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::record::Record;

/// QoS 0 messages are dropped while a reader is this far behind.
const SLOW_READER: usize = 64 << 20;

/// Delayed packets that fall due this close together leave in one write.
const SAME_MOMENT: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Where packets are written down, and for whom.
    record: Option<(Arc<Record>, Arc<str>)>,
    /// Something to write, or the end.
    pub wake: Notify,
    /// The end is near: no more is accepted.
    pub closing: Notify,
    /// The connection must be dropped, whatever is left to write.
    pub cut: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    ready: BytesMut,
    ready_acks: u64,
    delayed: VecDeque<Delayed>,
    delayed_len: usize,
    /// Packets that others may overtake.
    aside: Vec<(Instant, BytesMut)>,
    delay: Duration,
    acks_taken: u64,
    closed: bool,
}

#[derive(Debug)]
struct Delayed {
    due: Instant,
    bytes: BytesMut,
    acks: u64,
}

/// What the writer is to do next.
pub(crate) enum Next {
    Write,
    WaitUntil(Option<Instant>),
    End,
}

impl Outbox {
    pub fn new(delay: Duration, record: Option<(Arc<Record>, Arc<str>)>) -> Self {
        Self { queue: Mutex::new(Queue { delay, ..Queue::default() }), record, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, packet: &[u8]) {
        if let Some((record, client_id)) = &self.record {
            record.add(client_id, true, packet);
        }
    }

    fn noted(&self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        let start = out.len();
        write(out);
        self.note(&out[start..]);
    }

    /// Appends the packet that `write` writes. `acks` says that it returns one unit of the client's send quota.
    pub fn push(&self, acks: bool, write: impl FnOnce(&mut BytesMut)) {
        self.lock().push(acks, |out| self.noted(out, write));
        self.wake.notify_one();
    }

    /// Like `push`, but false when the reader is too far behind.
    pub fn offer(&self, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut queue = self.lock();
        if queue.ready.len() + queue.delayed_len > SLOW_READER {
            return false;
        }
        queue.push(false, |out| self.noted(out, write));
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// Sends `bytes` after `delay`; packets pushed later may leave earlier.
    pub fn push_aside(&self, delay: Duration, bytes: BytesMut) {
        self.note(&bytes);
        self.lock().aside.push((Instant::now() + delay, bytes));
        self.wake.notify_one();
    }

    pub fn release_aside(&self) {
        self.lock().release_aside(None);
        self.wake.notify_one();
    }

    /// Every later packet leaves this much later. Zero also releases those that wait.
    pub fn set_delay(&self, delay: Duration) {
        let mut queue = self.lock();
        queue.delay = delay;
        if delay.is_zero() {
            queue.release_delayed(None);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Nothing more is accepted; what is here is written, then the connection ends.
    pub fn close(&self) {
        let mut queue = self.lock();
        queue.release_delayed(None);
        queue.release_aside(None);
        queue.closed = true;
        drop(queue);
        self.closing.notify_one();
        self.wake.notify_one();
    }

    /// The writer's side: fills the empty `buffer` with all that is due.
    pub fn take(&self, buffer: &mut BytesMut) -> Next {
        let mut queue = self.lock();
        if !queue.delayed.is_empty() || !queue.aside.is_empty() {
            let now = Some(Instant::now());
            queue.release_delayed(now);
            queue.release_aside(now);
        }
        if !queue.ready.is_empty() {
            std::mem::swap(&mut queue.ready, buffer);
            queue.acks_taken += std::mem::take(&mut queue.ready_acks);
            return Next::Write;
        }
        if queue.closed {
            return Next::End;
        }
        let delayed = queue.delayed.front().map(|delayed| delayed.due);
        let aside = queue.aside.iter().map(|(due, _)| *due).min();
        Next::WaitUntil(delayed.into_iter().chain(aside).min())
    }

    /// Acknowledgements given to the writer so far.
    pub fn acks_taken(&self) -> u64 {
        self.lock().acks_taken
    }
}

impl Queue {
    fn push(&mut self, acks: bool, write: impl FnOnce(&mut BytesMut)) {
        if self.closed {
            return;
        }
        if self.delay.is_zero() && self.delayed.is_empty() {
            write(&mut self.ready);
            self.ready_acks += u64::from(acks);
            return;
        }
        let due = Instant::now() + self.delay;
        let together = self.delayed.back().is_some_and(|last| due.duration_since(last.due) < SAME_MOMENT);
        if !together {
            self.delayed.push_back(Delayed { due, bytes: BytesMut::new(), acks: 0 });
        }
        if let Some(last) = self.delayed.back_mut() {
            let before = last.bytes.len();
            write(&mut last.bytes);
            last.acks += u64::from(acks);
            self.delayed_len += last.bytes.len() - before;
        }
    }

    /// Moves what is due to `ready`; without a time, everything.
    fn release_delayed(&mut self, now: Option<Instant>) {
        while self.delayed.front().is_some_and(|first| now.is_none_or(|now| first.due <= now)) {
            let Some(first) = self.delayed.pop_front() else { break };
            self.delayed_len -= first.bytes.len();
            self.ready.extend_from_slice(&first.bytes);
            self.ready_acks += first.acks;
        }
    }

    fn release_aside(&mut self, now: Option<Instant>) {
        let ready = &mut self.ready;
        self.aside.retain(|(due, bytes)| {
            let keep = now.is_some_and(|now| *due > now);
            if !keep {
                ready.extend_from_slice(bytes);
            }
            keep
        });
    }
}
