//! What the requester and responder state machines want done: they touch no I/O, the session carries it out.

use std::time::Instant;

use crate::command::{Event, SubscribeOptions, Token};
use crate::correlation::SlotId;
use crate::message::Message;

/// Who a subscription belongs to, in the order in which they are made again: response topics first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// A response topic, by its number.
    ResponseTopic(u32),
    /// A responder.
    Responder(u32),
    /// A subscription of the user's, with the index of its filter.
    User(Token, u32),
}

/// A message on its way out that is no request.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub message: Message,
    /// To acknowledge once it is written.
    pub deliveries: Vec<u64>,
    /// It is not sent after this; Message Expiry Interval says how much is left when it is.
    pub expires: Option<Instant>,
}

/// Filled by a step, emptied by the session after it.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// To tell the other side.
    pub events: Vec<Event>,
    /// Requests that may go out, in this order.
    pub ready: Vec<SlotId>,
    /// Filters to subscribe to (again).
    pub subscribe: Vec<(Owner, String, SubscribeOptions)>,
    /// Subscriptions to end.
    pub unsubscribe: Vec<Owner>,
    /// Responses to publish.
    pub replies: Vec<Outgoing>,
    /// Deliveries to acknowledge now.
    pub acknowledge: Vec<u64>,
}

impl Effects {
    /// Whether the session has carried out everything; events are not its business.
    pub fn are_done(&self) -> bool {
        self.subscribe.is_empty()
            && self.unsubscribe.is_empty()
            && self.ready.is_empty()
            && self.replies.is_empty()
            && self.acknowledge.is_empty()
    }

    /// Ends a subscription, or one that was not begun yet: in one batch both may be asked for.
    pub fn end_subscription(&mut self, owner: Owner) {
        self.subscribe.retain(|(other, ..)| *other != owner);
        self.unsubscribe.push(owner);
    }
}
