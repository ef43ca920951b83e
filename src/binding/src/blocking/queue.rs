//! Events on their way from the I/O thread to a thread that waits for them. Knows no Python.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reqtt_core::command::Event;

/// Filled by the I/O thread, emptied by any other.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Messages that may wait; those of QoS 1 and 2 beyond it are held unacknowledged. 0: no limit.
    limit: usize,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    over: bool,
    /// Threads that wait at this moment.
    waiting: usize,
    /// QoS 0 messages for which there was no room.
    dropped: u64,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, event: Event) {
        let mut state = self.lock();
        if !state.over {
            state.events.push_back(event);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The same, but of the latest `limit` events.
    pub fn push_latest(&self, event: Event) {
        let mut state = self.lock();
        if !state.over {
            if state.events.len() == self.limit {
                state.events.pop_front();
            }
            state.events.push_back(event);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Takes in a message of a subscription. Gives the delivery that may be acknowledged now.
    pub fn push_message(&self, event: Event) -> Option<u64> {
        let mut state = self.lock();
        let mut event = event;
        let Event::Message { delivery, .. } = &mut event else { return None };
        if state.over {
            return *delivery;
        }
        let mut acknowledge = None;
        if state.events.len() < self.limit {
            acknowledge = delivery.take();
            state.events.push_back(event);
        } else if delivery.is_some() {
            state.events.push_back(event);
        } else {
            state.dropped += 1;
            let mut queued = state.events.iter().take(self.limit);
            let oldest = queued
                .position(|waiting| matches!(waiting, Event::Message { message, .. } if message.qos == 0))?;
            state.events.remove(oldest);
            // Before those that are held.
            state.events.insert(self.limit - 1, event);
        }
        drop(state);
        self.changed.notify_one();
        acknowledge
    }

    /// Nothing more comes in; what has come can still be taken.
    pub fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Ends it and forgets what waits. Gives the deliveries that are not acknowledged yet.
    pub fn clear(&self) -> Vec<u64> {
        let events = {
            let mut state = self.lock();
            state.over = true;
            std::mem::take(&mut state.events)
        };
        self.changed.notify_all();
        events.iter().filter_map(delivery_of).collect()
    }

    /// Waits until there is something, or there will be nothing any more (`Some(None)`), or it is late.
    pub fn take(&self, until: Option<Instant>) -> Option<Option<Event>> {
        let mut state = self.lock();
        while state.events.is_empty() && !state.over {
            state.waiting += 1;
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.waiting -= 1;
                        return None;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.waiting -= 1;
        }
        Some(state.events.pop_front())
    }

    /// One of the messages that are held has room now. Gives its delivery.
    pub fn let_in(&self) -> Option<u64> {
        if self.limit == 0 {
            return None;
        }
        match self.lock().events.get_mut(self.limit - 1) {
            Some(Event::Message { delivery, .. }) => delivery.take(),
            _ => None,
        }
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

fn delivery_of(event: &Event) -> Option<u64> {
    match event {
        Event::Message { delivery, .. } => *delivery,
        _ => None,
    }
}
