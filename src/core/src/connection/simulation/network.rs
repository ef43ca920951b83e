//! The simulated network: links that keep the order of bytes, but split, delay, cut and swallow them.
//! Knows nothing of MQTT.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;

/// Microseconds since the world began.
pub(super) type Time = u64;
pub(super) const MS: Time = 1000;
pub(super) const SECOND: Time = 1_000_000;

pub(super) type LinkId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Towards the broker.
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Pipe {
    segments: VecDeque<(Time, Vec<u8>)>,
    /// Nothing overtakes: no later segment arrives before this.
    latest: Time,
    /// How many more bytes get through before the link breaks.
    breaks_after: Option<usize>,
    /// When the reader sees the end.
    end: Option<Time>,
}

#[derive(Debug, Default)]
struct Link {
    up: Pipe,
    down: Pipe,
    /// Half-open: nothing arrives any more, not even the end.
    silent: bool,
    /// Longest way of a segment.
    latency: Time,
}

impl Link {
    fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

pub(super) struct Network {
    pub rng: Rng,
    links: BTreeMap<LinkId, Link>,
    opened: LinkId,
    /// Longest way of a segment, for new links.
    pub latency: Time,
}

impl Network {
    pub fn new(rng: Rng) -> Self {
        Self { rng, links: BTreeMap::new(), opened: 0, latency: 20 * MS }
    }

    pub fn connect(&mut self) -> LinkId {
        self.opened += 1;
        self.links.insert(self.opened, Link { latency: self.latency, ..Link::default() });
        self.opened
    }

    pub fn send(&mut self, id: LinkId, direction: Direction, bytes: &[u8], now: Time) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.silent) else { return };
        let latency = link.latency;
        let pipe = link.pipe(direction);
        if pipe.end.is_some() || bytes.is_empty() {
            return;
        }
        let breaks = pipe.breaks_after.filter(|left| *left <= bytes.len());
        if let Some(left) = &mut pipe.breaks_after {
            *left = left.saturating_sub(bytes.len());
        }
        let mut rest = &bytes[..breaks.unwrap_or(bytes.len())];
        while !rest.is_empty() {
            // One in three writes arrives in pieces, the smallest of one byte.
            let length = if self.rng.u8(..3) == 0 { 1 + self.rng.usize(..rest.len()) } else { rest.len() };
            pipe.latest = pipe.latest.max(now + self.rng.u64(50..50 + latency));
            pipe.segments.push_back((pipe.latest, rest[..length].to_vec()));
            rest = &rest[length..];
        }
        if breaks.is_some() {
            self.cut(id, now);
        }
    }

    /// Both sides see the end, each in its own time; what was to arrive later is lost.
    pub fn cut(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.silent) else { return };
        for direction in [Direction::Up, Direction::Down] {
            let end = now + self.rng.u64(..=link.latency);
            let pipe = link.pipe(direction);
            // What the cut let through arrives, and then the end.
            let end = if pipe.breaks_after == Some(0) { pipe.latest } else { end };
            let end = *pipe.end.get_or_insert(end);
            pipe.segments.retain(|(arrival, _)| *arrival <= end);
        }
    }

    pub fn cut_after(&mut self, id: LinkId, direction: Direction, bytes: usize) {
        if let Some(link) = self.links.get_mut(&id) {
            link.pipe(direction).breaks_after = Some(bytes);
        }
    }

    /// Nothing breaks any more, and nothing is slow.
    pub fn heal(&mut self) {
        for link in self.links.values_mut() {
            link.latency = self.latency;
            link.up.breaks_after = None;
            link.down.breaks_after = None;
        }
    }

    pub fn silence(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.silent = true;
            link.up.segments.clear();
            link.down.segments.clear();
        }
    }

    pub fn slow_down(&mut self, id: LinkId, latency: Time) {
        if let Some(link) = self.links.get_mut(&id) {
            link.latency = latency;
        }
    }

    /// One side closes in good order: the other reads what was written, then the end.
    pub fn close(&mut self, id: LinkId, reader: Direction) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.silent) else { return };
        let pipe = link.pipe(reader);
        pipe.end.get_or_insert(pipe.latest);
    }

    /// The next bytes that have arrived; `None`: the end. Empty where nothing is there yet.
    pub fn read(&mut self, id: LinkId, direction: Direction, now: Time) -> Option<Vec<u8>> {
        let Some(link) = self.links.get_mut(&id) else { return Some(Vec::new()) };
        let pipe = link.pipe(direction);
        let mut bytes = Vec::new();
        while pipe.segments.front().is_some_and(|(arrival, _)| *arrival <= now)
            && (bytes.is_empty() || self.rng.bool())
        {
            bytes.append(&mut pipe.segments.pop_front().expect("looked at above").1);
        }
        let ended = bytes.is_empty() && pipe.end.is_some_and(|end| end <= now);
        (!ended).then_some(bytes)
    }

    /// When the reader has something to do.
    pub fn due(&self, id: LinkId, direction: Direction) -> Option<Time> {
        let link = self.links.get(&id)?;
        let pipe = if direction == Direction::Up { &link.up } else { &link.down };
        let next = pipe.segments.front().map(|(arrival, _)| *arrival);
        next.or(pipe.end.filter(|_| !link.silent))
    }
}
