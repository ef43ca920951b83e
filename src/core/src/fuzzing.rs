//! What hostile bytes must not do to the core, as functions that the fuzz targets and a test call with the same
//! files (`fuzz/corpus`). Compiled for those two only. Each panics where a promise is broken.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use crate::topic::{Pattern, Router, check_filter, check_topic, filter_part, matches};

pub use crate::connection::hostile::{codec, requester, responder};

/// Takes choices off the front of a fuzzer's bytes; zeroes where there are none left.
#[derive(Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// At most `length` bytes.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes that a length byte stands before.
    pub fn block(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(usize::from(length))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Lines of text: each is a filter (or pattern) and a topic at once, so that all meet all.
pub fn topics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.split('\n').take(12).collect();
    let mut router = Router::new();
    let mut kept: Vec<&str> = Vec::new();
    for line in &lines {
        let part = filter_part(line);
        let inserted = router.insert(line, *line).is_ok();
        let there = kept.iter().any(|other| filter_part(other) == part);
        assert_eq!(inserted, check_filter(line).is_ok() && !there, "insert {line:?}");
        if inserted {
            kept.push(line);
        }
        if check_topic(line).is_ok() && !line.starts_with("$share/") {
            assert!(check_filter(line).is_ok() && matches(line, line), "a topic is a filter: {line:?}");
        }
        if let Ok(pattern) = Pattern::parse(line) {
            assert!(check_filter(pattern.filter()).is_ok(), "{line:?}");
            for topic in &lines {
                captures(&pattern, topic);
            }
        }
    }
    for topic in &lines {
        for filter in &kept {
            assert_eq!(matches(filter, topic), naive(filter_part(filter), topic), "{filter:?} {topic:?}");
        }
        let mut expected: Vec<&str> = kept.iter().copied().filter(|filter| matches(filter, topic)).collect();
        expected.sort_by_key(|filter| rank(filter_part(filter)));
        assert_eq!(router.route(topic).copied(), expected.first().copied(), "{topic:?}");
        assert_eq!(router.matching(topic).copied().collect::<Vec<_>>(), expected, "{topic:?}");
    }
    // Half of them go; the rest must not notice.
    let gone = kept.split_off(kept.len() / 2);
    for filter in gone {
        assert_eq!(router.remove(filter), Some(filter));
        assert_eq!(router.get(filter), None);
    }
    assert_eq!(router.len(), kept.len());
    for filter in kept {
        assert_eq!(router.remove(filter), Some(filter));
    }
    assert!(router.is_empty() && router.iter().next().is_none());
}

fn captures(pattern: &Pattern, topic: &str) {
    let found = pattern.captures(topic);
    assert_eq!(found.is_some(), matches(pattern.filter(), topic), "{pattern} {topic:?}");
    let levels: Vec<&str> = topic.split('/').collect();
    for (name, value) in found.into_iter().flatten() {
        assert!(pattern.names().any(|known| known == name));
        assert!(value.is_empty() || levels.contains(&value) || topic.ends_with(value), "{pattern} {topic:?}");
    }
}

/// Section 4.7 word for word, with recursion and without haste.
fn naive(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([one, filter @ ..], [other, topic @ ..]) => one == other && levels(filter, topic),
            _ => false,
        }
    }
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    if topic == [""] || topic[0].starts_with('$') && matches!(filter[0], "+" | "#") {
        return false;
    }
    levels(&filter, &topic)
}

/// Smaller is more specific.
fn rank(filter: &str) -> Vec<u8> {
    let rank = |level| match level {
        "+" => 1,
        "#" => 2,
        _ => 0,
    };
    filter.split('/').map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpus_of_topics_keeps_its_promises() {
        replay("topics", super::topics);
    }

    #[test]
    fn the_corpus_of_the_codec_keeps_its_promises() {
        replay("codec", super::codec);
    }

    #[test]
    fn the_corpus_of_requesters_keeps_its_promises() {
        replay("requester", super::requester);
    }

    #[test]
    fn the_corpus_of_responders_keeps_its_promises() {
        replay("responder", super::responder);
    }
}
