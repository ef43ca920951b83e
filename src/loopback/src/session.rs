//! One client's session (4.1): owns its subscriptions, its queue, the packet identifiers in flight and the link to the
//! connection that currently serves it. Knows nothing of other sessions.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rumqttc::mqttbytes::v5::LastWill;

use crate::options::Counters;
use crate::outbox::Outbox;
use crate::topics::Granted;
use crate::wire::{self, Head, Message, first_byte, reason};

pub(crate) type SessionId = u64;

/// The connection of a session, and what the client allowed on it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Tells this connection from earlier and later ones of the same session.
    pub number: u64,
    pub outbox: Arc<Outbox>,
    pub receive_maximum: usize,
    pub maximum_packet_size: usize,
    /// Request Problem Information (3.1.2.11.7): may Reason Strings be sent?
    pub problem_information: bool,
    pub aliases: HashMap<u16, Bytes>,
    /// QoS 1 and 2 PUBLISHes received here, and how many of them were acknowledged when last looked.
    pub publishes: u64,
    pub acknowledged: u64,
}

/// One message for one session.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub message: Arc<Message>,
    pub qos: u8,
    pub retain: bool,
    pub identifiers: Vec<u32>,
    /// The `$share/...` filter that brought it here.
    pub share: Option<Arc<str>>,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    delivery: Delivery,
    /// PUBREC has arrived; only PUBREL is repeated from here on.
    released: bool,
}

/// What became of a message that was offered to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Taken,
    /// QoS 0 for a session without a connection: there is nobody to tell.
    Absent,
    Full,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub client_id: Arc<str>,
    pub link: Option<Link>,
    /// Session Expiry Interval in seconds; `u32::MAX` never expires.
    pub expiry: u32,
    pub expires_at: Option<Instant>,
    pub will: Option<LastWill>,
    pub will_at: Option<Instant>,
    pub subscriptions: BTreeMap<String, Granted>,
    /// Identifiers of QoS 2 PUBLISHes received and not yet released by the client.
    pub incoming: HashSet<u16>,
    queue: VecDeque<Delivery>,
    /// By the order in which they were first sent, which is the order to send them again in [MQTT-4.6.0-1].
    in_flight: BTreeMap<u64, InFlight>,
    by_packet_id: HashMap<u16, u64>,
    resend: VecDeque<u64>,
    next_sequence: u64,
    last_packet_id: u16,
}

impl Session {
    pub fn new(client_id: Arc<str>) -> Self {
        Self {
            client_id,
            link: None,
            expiry: 0,
            expires_at: None,
            will: None,
            will_at: None,
            subscriptions: BTreeMap::new(),
            incoming: HashSet::new(),
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            by_packet_id: HashMap::new(),
            resend: VecDeque::new(),
            next_sequence: 0,
            last_packet_id: 0,
        }
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn window_open(&self) -> bool {
        let sent = self.in_flight.len() - self.resend.len();
        self.link.as_ref().is_some_and(|link| sent < link.receive_maximum)
    }

    /// Sends or queues a message.
    pub fn offer(
        &mut self,
        delivery: Delivery,
        now: Instant,
        limit: usize,
        counters: &mut Counters,
    ) -> Offer {
        if self.link.is_none() && delivery.qos == 0 {
            return Offer::Absent;
        }
        if delivery.qos == 0 || (self.window_open() && self.queue.is_empty() && self.resend.is_empty()) {
            self.send(delivery, now, counters);
        } else if self.queue.len() < limit {
            self.queue.push_back(delivery);
        } else {
            counters.dropped += 1;
            return Offer::Full;
        }
        Offer::Taken
    }

    fn send(&mut self, delivery: Delivery, now: Instant, counters: &mut Counters) {
        let Some(link) = &self.link else { return };
        let mut head = Head {
            qos: delivery.qos,
            dup: false,
            retain: delivery.retain,
            packet_id: 0,
            identifiers: &delivery.identifiers,
        };
        // [MQTT-3.1.2-25]: what is too large for the client is dropped as if it had been sent.
        if wire::publish_size(&delivery.message, &head) > link.maximum_packet_size {
            counters.dropped += 1;
            return;
        }
        if delivery.qos == 0 {
            if link.outbox.offer(|out| wire::write_publish(out, &delivery.message, &head, now)) {
                counters.sent[3] += 1;
            } else {
                counters.dropped += 1;
            }
            return;
        }
        head.packet_id = loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.by_packet_id.contains_key(&self.last_packet_id) {
                break self.last_packet_id;
            }
        };
        link.outbox.push(false, |out| wire::write_publish(out, &delivery.message, &head, now));
        counters.sent[3] += 1;
        let packet_id = head.packet_id;
        self.by_packet_id.insert(packet_id, self.next_sequence);
        self.in_flight.insert(self.next_sequence, InFlight { packet_id, delivery, released: false });
        self.next_sequence += 1;
    }

    /// Sends what the client's Receive Maximum leaves room for: unacknowledged messages first, then the queue.
    pub fn pump(&mut self, now: Instant, counters: &mut Counters) {
        while self.window_open() {
            if let Some(sequence) = self.resend.pop_front() {
                self.send_again(sequence, now, counters);
            } else if let Some(delivery) = self.queue.pop_front() {
                if delivery.message.expired(now) {
                    counters.dropped += 1;
                } else {
                    self.send(delivery, now, counters);
                }
            } else {
                return;
            }
        }
    }

    fn send_again(&self, sequence: u64, now: Instant, counters: &mut Counters) {
        let (Some(link), Some(item)) = (&self.link, self.in_flight.get(&sequence)) else { return };
        if item.released {
            counters.sent[6] += 1;
            link.outbox.push(false, |out| {
                wire::write_ack(out, first_byte::PUBREL, item.packet_id, reason::SUCCESS, None);
            });
            return;
        }
        let delivery = &item.delivery;
        let head = Head {
            qos: delivery.qos,
            dup: true,
            retain: delivery.retain,
            packet_id: item.packet_id,
            identifiers: &delivery.identifiers,
        };
        if wire::publish_size(&delivery.message, &head) <= link.maximum_packet_size {
            counters.sent[3] += 1;
            link.outbox.push(false, |out| wire::write_publish(out, &delivery.message, &head, now));
        }
    }

    /// A new connection: everything in flight is to be sent again [MQTT-4.4.0-1], expired QoS 1 messages excepted.
    pub fn resume(&mut self, now: Instant, counters: &mut Counters) {
        let stale = |item: &InFlight| item.delivery.qos == 1 && item.delivery.message.expired(now);
        let expired: Vec<u64> =
            self.in_flight.iter().filter(|(_, item)| stale(item)).map(|(sequence, _)| *sequence).collect();
        for sequence in expired {
            counters.dropped += 1;
            self.forget(sequence);
        }
        self.resend = self.in_flight.keys().copied().collect();
    }

    /// Sends every PUBLISH that is not yet acknowledged once more, on the same connection.
    pub fn redeliver(&self, now: Instant, counters: &mut Counters) {
        for (sequence, item) in &self.in_flight {
            if !item.released && !self.resend.contains(sequence) {
                self.send_again(*sequence, now, counters);
            }
        }
    }

    fn forget(&mut self, sequence: u64) {
        if let Some(item) = self.in_flight.remove(&sequence) {
            self.by_packet_id.remove(&item.packet_id);
        }
    }

    fn find(&mut self, packet_id: u16, qos: u8) -> Option<(u64, &mut InFlight)> {
        let sequence = *self.by_packet_id.get(&packet_id)?;
        let item = self.in_flight.get_mut(&sequence)?;
        (item.delivery.qos == qos).then_some((sequence, item))
    }

    pub fn on_puback(&mut self, packet_id: u16) {
        if let Some((sequence, _)) = self.find(packet_id, 1) {
            self.forget(sequence);
        }
    }

    /// The reason code of the PUBREL to send, or None when the client refused the message.
    pub fn on_pubrec(&mut self, packet_id: u16, refused: bool) -> Option<u8> {
        match self.find(packet_id, 2) {
            None => Some(reason::PACKET_IDENTIFIER_NOT_FOUND),
            Some((sequence, _)) if refused => {
                self.forget(sequence);
                None
            }
            Some((_, item)) => {
                item.released = true;
                Some(reason::SUCCESS)
            }
        }
    }

    pub fn on_pubcomp(&mut self, packet_id: u16) {
        if let Some((sequence, _)) = self.find(packet_id, 2) {
            self.forget(sequence);
        }
    }

    /// The QoS 1 messages of shared subscriptions that another member of the group should get now (4.8.2).
    pub fn into_unserved(self) -> impl Iterator<Item = Delivery> {
        let sent = self.in_flight.into_values().map(|item| item.delivery);
        sent.chain(self.queue).filter(|delivery| delivery.qos == 1 && delivery.share.is_some())
    }
}
