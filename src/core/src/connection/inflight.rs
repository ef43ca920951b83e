//! Packets that wait for the broker's answer, by packet identifier; and deliveries that wait for ours, in
//! the order in which they arrived.

use std::collections::VecDeque;
use std::time::Instant;

use rumqttc::mqttbytes::v5::Publish;
use slab::Slab;

use crate::command::Token;
use crate::correlation::SlotId;
use crate::effects::Owner;

/// Who waits for the outcome of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Request(SlotId),
    User(Token),
    Reply,
}

/// How far a QoS 1 or 2 PUBLISH has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaiting {
    Puback,
    Pubrec,
    Pubcomp,
}

#[derive(Debug)]
pub(super) enum InFlight {
    Publish {
        packet: Box<Publish>,
        sender: Sender,
        awaiting: Awaiting,
        order: u64,
        /// Of what is no request: it is not sent again after this.
        expires: Option<Instant>,
    },
    Subscribe(Owner),
    Unsubscribe(Owner, String),
}

/// Packet identifiers 1..=65,535 and what each stands for.
#[derive(Debug, Default)]
pub(super) struct InFlights {
    slots: Slab<InFlight>,
    order: u64,
    publishes: usize,
    /// Of the payloads of those PUBLISHes.
    bytes: usize,
    /// Those of a resumed session that are still to be sent again, in their order.
    again: VecDeque<u16>,
}

impl InFlights {
    /// The identifier that the next `insert` gives, if one is free.
    pub fn vacant(&self) -> Option<u16> {
        u16::try_from(self.slots.vacant_key() + 1).ok()
    }

    pub fn insert(&mut self, in_flight: InFlight) {
        if let InFlight::Publish { packet, .. } = &in_flight {
            self.publishes += 1;
            self.bytes += packet.payload.len();
        }
        self.slots.insert(in_flight);
    }

    pub fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub fn get_mut(&mut self, pkid: u16) -> Option<&mut InFlight> {
        self.slots.get_mut(usize::from(pkid).checked_sub(1)?)
    }

    pub fn remove(&mut self, pkid: u16) -> Option<InFlight> {
        let removed = self.slots.try_remove(usize::from(pkid).checked_sub(1)?)?;
        if let InFlight::Publish { packet, .. } = &removed {
            self.publishes -= 1;
            self.bytes -= packet.payload.len();
            self.again.retain(|again| *again != pkid);
        }
        Some(removed)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many PUBLISHes count against the broker's Receive Maximum.
    pub const fn publishes(&self) -> usize {
        self.publishes
    }

    /// How many bytes of payload they hold.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The identifiers of all PUBLISHes in the order in which they were sent.
    pub fn publishes_in_order(&self) -> Vec<u16> {
        let mut all: Vec<(u64, u16)> = self
            .slots
            .iter()
            .filter_map(|(index, in_flight)| match in_flight {
                InFlight::Publish { order, .. } => Some((*order, u16::try_from(index + 1).ok()?)),
                _ => None,
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, pkid)| pkid).collect()
    }

    /// The session goes on: all are to be sent again.
    pub fn begin_again(&mut self) {
        self.again = self.publishes_in_order().into();
    }

    /// The next to be sent again, with so many under way at most.
    pub fn next_again(&mut self, most: usize) -> Option<u16> {
        if self.publishes.saturating_sub(self.again.len()) < most { self.again.pop_front() } else { None }
    }

    pub fn sends_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// The connection is gone.
    pub fn stop_again(&mut self) {
        self.again.clear();
    }

    /// SUBSCRIBE and UNSUBSCRIBE do not outlive their connection.
    pub fn drop_subscribes(&mut self) -> Vec<(Owner, String)> {
        let mut unsubscribed = Vec::new();
        self.slots.retain(|_, in_flight| match in_flight {
            InFlight::Publish { .. } => true,
            InFlight::Subscribe(_) => false,
            InFlight::Unsubscribe(owner, filter) => {
                unsubscribed.push((*owner, std::mem::take(filter)));
                false
            }
        });
        unsubscribed
    }
}

#[derive(Debug)]
struct Delivery {
    pkid: u16,
    qos: u8,
    /// How many still work on it.
    users: u32,
    /// When nobody waits for its response any more.
    expires: Option<Instant>,
    /// The program has it for good, acknowledged or not: another copy would be one too many.
    taken: bool,
}

/// QoS 1 and 2 messages received and not yet acknowledged. Their numbers never repeat, so that a late
/// acknowledgement for an older connection finds nothing.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    first: u64,
    queue: VecDeque<Delivery>,
}

impl Deliveries {
    /// How many the broker has to count against our Receive Maximum.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes one in that nobody has yet; `set_users` says who gets it.
    pub fn add(&mut self, pkid: u16, qos: u8) -> u64 {
        self.queue.push_back(Delivery { pkid, qos, users: 1, expires: None, taken: false });
        self.first + self.queue.len() as u64 - 1
    }

    /// How many work on it, until when at most, and whether they have it for good.
    pub fn set_users(&mut self, number: u64, users: u32, expires: Option<Instant>, taken: bool) {
        if let Some(delivery) = self.get_mut(number) {
            delivery.users = users;
            delivery.expires = expires;
            delivery.taken = taken;
        }
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Delivery> {
        self.queue.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// One user is done with it.
    pub fn done(&mut self, number: u64) {
        if let Some(delivery) = self.get_mut(number) {
            delivery.users = delivery.users.saturating_sub(1);
        }
    }

    /// The next to acknowledge. PUBACKs leave in the order in which the PUBLISHes arrived [MQTT-4.6.0-2].
    pub fn next_acknowledged(&mut self) -> Option<(u16, u8)> {
        let Delivery { pkid, qos, .. } = *self.queue.front().filter(|delivery| delivery.users == 0)?;
        self.queue.pop_front();
        self.first += 1;
        Some((pkid, qos))
    }

    /// When the delivery that holds up the others may be acknowledged whatever its handler does: then its
    /// requester has given up, and a slow handler must not stand in the way of the rest any longer.
    pub fn expires(&self) -> Option<Instant> {
        self.queue.front().and_then(|delivery| delivery.expires)
    }

    /// Lets go of expired deliveries at the front.
    pub fn expire(&mut self, now: Instant) {
        for delivery in &mut self.queue {
            if delivery.expires.is_none_or(|expires| expires > now) {
                break;
            }
            delivery.users = 0;
        }
    }

    pub fn holds(&self, pkid: u16) -> bool {
        self.queue.iter().any(|delivery| delivery.pkid == pkid)
    }

    /// The connection is gone, and their numbers with it; gives the packet identifiers of those that are
    /// wanted again.
    pub fn forget(&mut self) -> impl Iterator<Item = u16> {
        self.first += self.queue.len() as u64;
        let again = std::mem::take(&mut self.queue).into_iter().filter(|delivery| !delivery.taken);
        again.map(|delivery| delivery.pkid)
    }
}
