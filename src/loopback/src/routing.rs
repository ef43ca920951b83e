//! From one published message to every session that wants it: owns retained messages, the choice within a shared
//! subscription, and the merging of overlapping subscriptions.

use std::sync::Arc;

use crate::session::{Delivery, Offer, SessionId};
use crate::state::State;
use crate::topics::{Granted, Matches, Subscriber, matches};
use crate::wire::{Message, reason};

impl State {
    /// Stores a retained message and routes to subscribers; returns the reason code for the publisher.
    pub fn publish(&mut self, message: Arc<Message>, retain: bool, from: Option<SessionId>) -> u8 {
        if retain {
            if message.has_payload() {
                self.retained.insert(message.topic.clone(), message.clone());
            } else {
                self.retained.remove(&message.topic);
            }
        }
        let mut found = std::mem::take(&mut self.matches);
        self.tree.find(&message.topic, &mut found);
        let code = self.route(&message, retain, from, &mut found);
        found.plain.clear();
        found.groups.clear();
        self.matches = found;
        code
    }

    fn route(
        &mut self,
        message: &Arc<Message>,
        retain: bool,
        from: Option<SessionId>,
        found: &mut Matches,
    ) -> u8 {
        found.plain.retain(|(session, granted)| !(granted.no_local && from == Some(*session)));
        if found.plain.len() > 1 {
            found.plain.sort_unstable_by_key(|(session, _)| *session);
        }
        let mut taken = 0;
        let mut full = 0;
        for same_session in found.plain.chunk_by(|a, b| a.0 == b.0) {
            let delivery = merge(message, retain, same_session);
            match self.offer(same_session[0].0, delivery) {
                Offer::Full => full += 1,
                Offer::Taken | Offer::Absent => taken += 1,
            }
        }
        for (filter, members) in &found.groups {
            match self.offer_to_group(message, retain, filter, members) {
                Offer::Full => full += 1,
                Offer::Taken | Offer::Absent => taken += 1,
            }
        }
        match (taken, full) {
            (0, 0) if self.options.no_matching_subscribers => reason::NO_MATCHING_SUBSCRIBERS,
            (0, 1..) => reason::QUOTA_EXCEEDED,
            _ => reason::SUCCESS,
        }
    }

    fn offer(&mut self, id: SessionId, delivery: Delivery) -> Offer {
        let limit = self.options.max_queued_messages;
        let Some(session) = self.sessions.get_mut(&id) else { return Offer::Absent };
        if self.faults.duplicate {
            session.offer(delivery.clone(), self.now, limit, &mut self.counters);
        }
        session.offer(delivery, self.now, limit, &mut self.counters)
    }

    /// One member gets it: the next connected one, else one whose session can keep it (4.8.2).
    fn offer_to_group(
        &mut self,
        message: &Arc<Message>,
        retain: bool,
        filter: &Arc<str>,
        members: &[Subscriber],
    ) -> Offer {
        let mut outcome = Offer::Absent;
        for connected in [true, false] {
            for (id, granted) in members {
                let here = self.sessions.get(id).is_some_and(|session| session.link.is_some());
                if here != connected {
                    continue;
                }
                let mut delivery = merge(message, retain, &[(*id, *granted)]);
                delivery.share = Some(filter.clone());
                match self.offer(*id, delivery) {
                    Offer::Taken => return Offer::Taken,
                    other => outcome = other,
                }
            }
        }
        outcome
    }

    /// A message whose session ended before it was acknowledged goes to another member of its group.
    pub fn pass_on(&mut self, delivery: Delivery) {
        let Some(filter) = &delivery.share else { return };
        let members = self.tree.group(filter);
        if !members.is_empty() && !delivery.message.expired(self.now) {
            self.offer_to_group(&delivery.message, delivery.retain, filter, &members);
        }
    }

    /// Retained messages for a new subscription (3.8.3.1); Retain stays 1 whatever Retain As Published says.
    pub fn send_retained(&mut self, id: SessionId, filter: &str, granted: Granted) {
        self.drop_expired_retained();
        let mut found: Vec<Arc<Message>> =
            self.retained.values().filter(|message| matches(filter, &message.topic)).cloned().collect();
        found.sort_by(|a, b| a.topic.cmp(&b.topic));
        for message in found {
            let mut delivery = merge(&message, true, &[(id, granted)]);
            delivery.retain = true;
            self.offer(id, delivery);
        }
    }

    pub fn drop_expired_retained(&mut self) {
        let now = self.now;
        self.retained.retain(|_, message| !message.expired(now));
    }
}

/// One copy for all the subscriptions of a session that matched: the highest QoS, every identifier (3.3.4).
fn merge(message: &Arc<Message>, retain: bool, subscriptions: &[Subscriber]) -> Delivery {
    let granted = subscriptions.iter().map(|(_, granted)| granted);
    Delivery {
        message: message.clone(),
        qos: message.qos.min(granted.clone().map(|granted| granted.qos).max().unwrap_or(0)),
        retain: retain && granted.clone().any(|granted| granted.retain_as_published),
        identifiers: granted.filter_map(|granted| granted.identifier).collect(),
        share: None,
    }
}
