//! Topic filters: owns their syntax, their matching (4.7), and the tree that finds the subscriptions of a topic.

use std::collections::HashMap;
use std::sync::Arc;

use crate::session::SessionId;

/// The options of one subscription (3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub identifier: Option<u32>,
}

pub(crate) type Subscriber = (SessionId, Granted);

/// `$share/{group}/{filter}` taken apart; Err when it starts like one and is none [MQTT-4.8.2-1].
pub(crate) fn split_share(filter: &str) -> Result<(Option<&str>, &str), ()> {
    let Some(rest) = filter.strip_prefix("$share/") else { return Ok((None, filter)) };
    match rest.split_once('/') {
        Some((group, inner)) if !group.is_empty() && !group.contains(['+', '#']) => Ok((Some(group), inner)),
        _ => Err(()),
    }
}

/// More levels than any plan of topics has. The tree is walked, and dropped, by recursion: 65,535 levels, which one
/// SUBSCRIBE can hold, would overflow the stack.
const MAX_LEVELS: usize = 256;

pub(crate) fn valid_filter(filter: &str) -> bool {
    if filter.split('/').nth(MAX_LEVELS).is_some() {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if wild && (level.len() > 1 || (level == "#" && levels.peek().is_some())) {
            return false;
        }
    }
    !filter.is_empty()
}

pub(crate) fn has_wildcards(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    // [MQTT-4.7.2-1]
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Subscriptions by filter, a node for each level.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// The filter that ends here, if any session holds it.
    here: Subscribers,
}

#[derive(Debug, Default)]
struct Subscribers {
    plain: Vec<Subscriber>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    /// The whole `$share/...` filter.
    filter: Arc<str>,
    members: Vec<Subscriber>,
    next: usize,
}

/// All that a topic matched: each plain subscription, and for each group its members in the order to try them.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub plain: Vec<Subscriber>,
    pub groups: Vec<(Arc<str>, Vec<Subscriber>)>,
}

impl Tree {
    pub fn insert(&mut self, filter: &str, session: SessionId, granted: Granted) {
        let Ok((group, inner)) = split_share(filter) else { return };
        let mut node = &mut self.root;
        for level in inner.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let members = match group {
            None => &mut node.here.plain,
            Some(_) => {
                let groups = &mut node.here.groups;
                let at = groups.iter().position(|group| &*group.filter == filter).unwrap_or_else(|| {
                    groups.push(Group { filter: filter.into(), members: Vec::new(), next: 0 });
                    groups.len() - 1
                });
                &mut groups[at].members
            }
        };
        match members.iter_mut().find(|(member, _)| *member == session) {
            Some((_, old)) => *old = granted,
            None => members.push((session, granted)),
        }
    }

    pub fn remove(&mut self, filter: &str, session: SessionId) {
        if let Ok((_, inner)) = split_share(filter) {
            self.root.remove(inner.split('/'), filter, session);
        }
    }

    pub fn find(&mut self, topic: &str, found: &mut Matches) {
        let levels: Vec<&str> = topic.split('/').collect();
        self.root.find(&levels, !topic.starts_with('$'), found);
    }

    /// The members of one group, in the order to try them.
    pub fn group(&mut self, filter: &str) -> Vec<Subscriber> {
        let Ok((_, inner)) = split_share(filter) else { return Vec::new() };
        let mut node = &mut self.root;
        for level in inner.split('/') {
            match node.children.get_mut(level) {
                Some(child) => node = child,
                None => return Vec::new(),
            }
        }
        let group = node.here.groups.iter_mut().find(|group| &*group.filter == filter);
        group.map_or_else(Vec::new, Group::turn)
    }
}

impl Node {
    fn find(&mut self, levels: &[&str], wildcards: bool, found: &mut Matches) {
        if wildcards && let Some(rest) = self.children.get_mut("#") {
            rest.here.collect(found);
        }
        let Some((level, deeper)) = levels.split_first() else { return self.here.collect(found) };
        if let Some(child) = self.children.get_mut(*level) {
            child.find(deeper, true, found);
        }
        if wildcards && let Some(child) = self.children.get_mut("+") {
            child.find(deeper, true, found);
        }
    }

    fn remove(&mut self, mut levels: std::str::Split<'_, char>, filter: &str, session: SessionId) {
        let Some(level) = levels.next() else { return self.here.remove(filter, session) };
        if let Some(child) = self.children.get_mut(level) {
            child.remove(levels, filter, session);
            if child.children.is_empty() && child.here.plain.is_empty() && child.here.groups.is_empty() {
                self.children.remove(level);
            }
        }
    }
}

impl Subscribers {
    fn collect(&mut self, found: &mut Matches) {
        found.plain.extend_from_slice(&self.plain);
        for group in &mut self.groups {
            found.groups.push((group.filter.clone(), group.turn()));
        }
    }

    fn remove(&mut self, filter: &str, session: SessionId) {
        if filter.starts_with("$share/") {
            for group in self.groups.iter_mut().filter(|group| &*group.filter == filter) {
                group.members.retain(|(member, _)| *member != session);
            }
            self.groups.retain(|group| !group.members.is_empty());
        } else {
            self.plain.retain(|(member, _)| *member != session);
        }
    }
}

impl Group {
    fn turn(&mut self) -> Vec<Subscriber> {
        let start = self.next % self.members.len().max(1);
        self.next = start + 1;
        let mut order = self.members.clone();
        order.rotate_left(start);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&str, &str, bool); 14] = [
        ("a/b", "a/b", true),
        ("a/b", "a/b/c", false),
        ("a/+", "a/b", true),
        ("a/+", "a", false),
        ("a/+", "a/", true),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("#", "a", true),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("$SYS/#", "$SYS/x", true),
        ("+/+", "/b", true),
        ("/+", "/b", true),
        ("+", "/b", false),
    ];

    #[test]
    fn a_filter_matches_as_section_4_7_says() {
        for (filter, topic, expected) in CASES {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
            let mut tree = Tree::default();
            tree.insert(
                filter,
                7,
                Granted { qos: 0, no_local: false, retain_as_published: false, identifier: None },
            );
            let mut found = Matches::default();
            tree.find(topic, &mut found);
            assert_eq!(found.plain.len(), usize::from(expected), "tree: {filter} {topic}");
            tree.remove(filter, 7);
            assert!(tree.root.children.is_empty());
        }
    }

    #[test]
    fn a_filter_with_a_misplaced_wildcard_is_invalid() {
        for filter in ["", "a#", "a/#/b", "a+", "+a/b", "##"] {
            assert!(!valid_filter(filter), "{filter}");
        }
        for filter in ["#", "+", "/", "a/+/b/#", "$SYS/#"] {
            assert!(valid_filter(filter), "{filter}");
        }
        assert!(valid_filter(&"/".repeat(255)) && !valid_filter(&"/".repeat(256)));
        assert_eq!(split_share("$share/g/a/b"), Ok((Some("g"), "a/b")));
        assert_eq!(split_share("$share/g"), Err(()));
        assert_eq!(split_share("$share//a"), Err(()));
    }
}
