//! Which requests were taken in already, and what they were answered with: a copy that comes later is not run again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashTable;
use slab::Slab;

use crate::message::Message;

/// How many answered requests are remembered, and how many bytes of keys and responses, per connection.
const ENTRIES: usize = 10_000;
const BYTES: usize = 16 * 1024 * 1024;
/// How long a request is remembered after its expiry, or at all if it names none: a copy may come late, and in
/// its last second Mosquitto delivers it without an expiry.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What came of a request that has a copy.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its handler waits or runs; these deliveries are acknowledged with it.
    Running(Vec<u64>),
    /// It was answered with this (`None`: with nothing).
    Answered(Option<Message>),
}

impl Outcome {
    /// Those of copies that came while it ran.
    fn deliveries(self) -> Vec<u64> {
        match self {
            Self::Running(deliveries) => deliveries,
            Self::Answered(_) => Vec::new(),
        }
    }
}

/// A request that is remembered: what makes two deliveries one request, and what came of it.
#[derive(Debug)]
pub(crate) struct Entry {
    hash: u64,
    correlation_data: Bytes,
    response_topic: String,
    topic: Bytes,
    pub outcome: Outcome,
    /// When its requester gives up.
    pub deadline: Option<Instant>,
    until: Instant,
    bytes: usize,
}

impl Entry {
    fn is(&self, correlation_data: &[u8], response_topic: &str, topic: &[u8]) -> bool {
        self.correlation_data == correlation_data
            && self.response_topic == response_topic
            && self.topic == topic
    }
}

/// What is known of a request.
pub(crate) enum Seen<'a> {
    /// Nothing until now; its number here, for whoever runs it, until it is answered or forgotten.
    First(usize),
    Before(&'a mut Entry),
}

#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    /// Keyed: peers choose the bytes, and could choose them to collide.
    hasher: RandomState,
    table: HashTable<usize>,
    entries: Slab<Entry>,
    /// Answered ones, oldest first.
    answered: VecDeque<usize>,
    bytes: usize,
}

impl Duplicates {
    /// Looks a request up, and notes it. `None` for one that cannot be told from others.
    pub fn see(&mut self, message: &Message, deadline: Option<Instant>, now: Instant) -> Option<Seen<'_>> {
        self.sweep(now);
        let correlation_data = message.properties.correlation_data.as_ref()?;
        let response_topic = message.properties.response_topic.as_ref()?;
        let topic = &message.topic;
        let hash = self.hasher.hash_one((correlation_data, response_topic, topic));
        let entries = &mut self.entries;
        let known =
            self.table.find(hash, |&index| entries[index].is(correlation_data, response_topic, topic));
        if let Some(&index) = known {
            return Some(Seen::Before(&mut entries[index]));
        }
        let index = entries.insert(Entry {
            hash,
            correlation_data: correlation_data.clone(),
            response_topic: response_topic.clone(),
            topic: topic.clone(),
            outcome: Outcome::Running(Vec::new()),
            deadline,
            until: deadline.unwrap_or(now) + REMEMBERED,
            bytes: 0,
        });
        self.table.insert_unique(hash, index, |&index| entries[index].hash);
        Some(Seen::First(index))
    }

    /// Keeps the response for copies that come later; gives the deliveries of copies that came meanwhile.
    pub fn answered(&mut self, index: usize, response: Option<&Message>) -> Vec<u64> {
        let entry = &mut self.entries[index];
        entry.bytes = response.map_or(0, |response| response.payload.len())
            + entry.correlation_data.len()
            + entry.response_topic.len()
            + entry.topic.len();
        self.bytes += entry.bytes;
        self.answered.push_back(index);
        std::mem::replace(&mut entry.outcome, Outcome::Answered(response.cloned())).deliveries()
    }

    /// It will not be run, so a copy may be; gives the deliveries of copies that came meanwhile.
    pub fn forget(&mut self, index: usize) -> Vec<u64> {
        let entry = self.entries.remove(index);
        if let Ok(found) = self.table.find_entry(entry.hash, |&other| other == index) {
            found.remove();
        }
        self.bytes -= entry.bytes;
        entry.outcome.deliveries()
    }

    /// The connection is gone, and the numbers of its deliveries with it.
    pub fn disconnected(&mut self) {
        for (_, entry) in &mut self.entries {
            if let Outcome::Running(deliveries) = &mut entry.outcome {
                deliveries.clear();
            }
        }
    }

    /// Forgets answered requests that are over, or too many. Those still running stay.
    fn sweep(&mut self, now: Instant) {
        while let Some(&oldest) = self.answered.front() {
            let over = self.entries[oldest].until <= now;
            if !over && self.answered.len() <= ENTRIES && self.bytes <= BYTES {
                break;
            }
            self.answered.pop_front();
            self.forget(oldest);
        }
    }

    /// How many answered requests are remembered, and in how many bytes.
    #[cfg(test)]
    pub fn remembered(&self) -> (usize, usize) {
        (self.answered.len(), self.bytes)
    }
}
