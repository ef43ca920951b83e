//! The rules by which the broker misbehaves on demand. Plain state; the rooms that route and answer consult it.

use std::time::Duration;

use crate::topics::{has_wildcards, matches, split_share};

/// Reason String of whatever a rule refuses.
pub(crate) const REFUSED: &str = "refused by rule";

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub delay: Duration,
    pub delay_suback: Duration,
    pub refuse_connect: Option<u8>,
    pub duplicate: bool,
    pub drop_puback: bool,
    refuse_publish: Rules,
    refuse_subscribe: Rules,
}

#[derive(Debug, Default)]
struct Rules(Vec<(String, u8)>);

impl Rules {
    fn set(&mut self, filter: &str, code: Option<u8>) {
        self.0.retain(|(known, _)| known != filter);
        self.0.extend(code.map(|code| (filter.to_owned(), code)));
    }

    fn find(&self, applies: impl Fn(&str) -> bool) -> Option<u8> {
        self.0.iter().find(|(filter, _)| applies(filter)).map(|(_, code)| *code)
    }
}

impl Faults {
    pub fn set_refuse_publish(&mut self, filter: &str, code: Option<u8>) {
        self.refuse_publish.set(filter, code);
    }

    pub fn set_refuse_subscribe(&mut self, filter: &str, code: Option<u8>) {
        self.refuse_subscribe.set(filter, code);
    }

    pub fn publish_refusal(&self, topic: &str) -> Option<u8> {
        self.refuse_publish.find(|rule| matches(rule, topic))
    }

    /// A rule applies to the filter itself, to the filter inside a shared one, and to filters it matches as topics.
    pub fn subscribe_refusal(&self, filter: &str) -> Option<u8> {
        let inner = split_share(filter).map_or(filter, |(_, inner)| inner);
        self.refuse_subscribe
            .find(|rule| rule == filter || rule == inner || (has_wildcards(rule) && matches(rule, inner)))
    }
}
