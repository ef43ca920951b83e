//! Topic names, topic filters, `{captures}`, and the router in which the most specific filter wins. Owns the
//! rules of MQTT 5.0, section 4.7 and 4.8.2; must not know about connections, subscriptions or handlers.

use std::fmt;

use hashbrown::HashMap;

use crate::error::{Error, Result};

/// Topic names and filters are UTF-8 strings with a two-byte length [MQTT-4.7.3-3].
const MAX_LEN: usize = 65_535;

/// Whether `topic` is a topic name that can be published to.
///
/// # Errors
/// [`Error::InvalidTopic`] with the rule it breaks.
pub fn check_topic(topic: &str) -> Result<()> {
    check_text(topic)?;
    if topic.contains(['+', '#']) {
        // [MQTT-3.3.2-2]
        return Err(invalid(topic, "a topic to publish to has no wildcard: write the topic without + and #"));
    }
    Ok(())
}

/// Whether `filter` is a topic filter that can be subscribed to, `$share/<group>/<filter>` included.
///
/// # Errors
/// [`Error::InvalidTopic`] with the rule it breaks.
pub fn check_filter(filter: &str) -> Result<()> {
    check_text(filter)?;
    let mut levels = filter;
    if let Some(shared) = filter.strip_prefix("$share/") {
        // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
        let (group, rest) = shared.split_once('/').unwrap_or((shared, ""));
        if group.is_empty() {
            return Err(invalid(
                filter,
                "the group of a shared subscription is empty: write $share/<group>/<filter>",
            ));
        }
        if group.contains(['+', '#']) {
            return Err(invalid(
                filter,
                "the group of a shared subscription has no wildcard: leave out + and #",
            ));
        }
        if rest.is_empty() {
            return Err(invalid(
                filter,
                "a shared subscription needs a filter after its group: write $share/<group>/<filter>",
            ));
        }
        levels = rest;
    }
    let mut levels = levels.split('/').peekable();
    while let Some(level) = levels.next() {
        // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
        if level != "+" && level.contains('+') {
            return Err(invalid(filter, "+ stands for a whole level: write a/+/b, not a/x+/b"));
        }
        if level != "#" && level.contains('#') {
            return Err(invalid(filter, "# stands for whole levels: write a/#, not a/x#"));
        }
        if level == "#" && levels.peek().is_some() {
            return Err(invalid(filter, "# comes last: use + for one level in the middle"));
        }
    }
    Ok(())
}

/// Whether a message to `topic` reaches a subscription to `filter`; of a `$share/<group>/<filter>`, its
/// filter counts.
///
/// It checks neither: what is not valid matches by chance, or not at all.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter = filter_part(filter);
    if topic.is_empty() || (topic.starts_with('$') && filter.starts_with(['+', '#'])) {
        return false; // [MQTT-4.7.2-1]
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return filter.next().is_none(),
            (Some("+"), Some(_)) => {}
            (Some(expected), Some(level)) if expected == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The part of a filter that a topic is compared with: without `$share/<group>/`.
#[must_use]
pub fn filter_part(filter: &str) -> &str {
    let shared = filter.strip_prefix("$share/").and_then(|shared| shared.split_once('/'));
    shared.map_or(filter, |(_, part)| part)
}

fn check_text(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(invalid(text, "it is empty: a topic has at least one character")); // [MQTT-4.7.3-1]
    }
    if text.len() > MAX_LEN {
        let reason = format!("it takes {} bytes of UTF-8, MQTT allows {MAX_LEN}: shorten it", text.len());
        return Err(invalid(text, &reason));
    }
    if text.contains('\0') {
        return Err(invalid(text, "it contains the NUL character: leave it out")); // [MQTT-4.7.3-2]
    }
    Ok(())
}

fn invalid(topic: &str, reason: &str) -> Error {
    Error::InvalidTopic { topic: shortened(topic), reason: reason.into() }
}

/// A topic as it goes into an error message.
fn shortened(topic: &str) -> String {
    one_line(topic, 80)
}

/// A peer's text as it goes into a message or a log: at most `shown` characters of it, and none that moves a
/// terminal's cursor or starts a line that looks like another entry.
pub(crate) fn one_line(peers: &str, shown: usize) -> String {
    let mut text = String::new();
    for (n, character) in peers.chars().enumerate() {
        if n == shown {
            text.push('…');
            break;
        }
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// A filter with named parts: `cmnd/{device}/power`, `cmnd/{rest:#}`; `+` and `#` without a name remain
/// possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    filter: String,
    captures: Vec<Capture>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Capture {
    name: String,
    /// Which level of the topic, from 0.
    level: usize,
    /// That level and all that follow.
    rest: bool,
}

impl Pattern {
    /// Reads a pattern. `{name}` and `{name:+}` capture one level, `{name:#}` the rest.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`]: a capture that is not a whole level, a name that is no identifier or used
    /// twice, a `{name:#}` that is not last, or a filter that MQTT does not allow.
    pub fn parse(text: &str) -> Result<Self> {
        let part = filter_part(text);
        let mut filter = text[..text.len() - part.len()].to_owned();
        if filter.contains(['{', '}']) {
            return Err(invalid(
                text,
                "the group of a shared subscription captures nothing: leave out the braces",
            ));
        }
        let mut captures: Vec<Capture> = Vec::new();
        for (level, word) in part.split('/').enumerate() {
            if level > 0 {
                filter.push('/');
            }
            let Some(inner) = capture(text, word)? else {
                filter.push_str(word);
                continue;
            };
            let (name, wildcard) = inner.split_once(':').unwrap_or((inner, "+"));
            if !is_identifier(name) {
                let reason =
                    format!("\"{}\" is no name for a capture: use letters, digits and _", shortened(name));
                return Err(invalid(text, &reason));
            }
            if !matches!(wildcard, "+" | "#") {
                return Err(invalid(text, "a capture is {name} for one level or {name:#} for the rest"));
            }
            if captures.iter().any(|other| other.name == name) {
                return Err(invalid(
                    text,
                    &format!("{{{}}} is there twice: give each capture its own name", shortened(name)),
                ));
            }
            filter.push_str(wildcard);
            captures.push(Capture { name: name.into(), level, rest: wildcard == "#" });
        }
        if let Some(rest) = captures.iter().find(|it| it.rest && it.level < part.split('/').count() - 1) {
            let reason = format!("{{{}:#}} captures the rest, so it comes last", shortened(&rest.name));
            return Err(invalid(text, &reason));
        }
        check_filter(&filter).map_err(|error| match error {
            Error::InvalidTopic { reason, .. } => invalid(text, &reason),
            other => other,
        })?;
        Ok(Self { text: text.into(), filter, captures })
    }

    /// The MQTT filter, with `+` and `#` in the place of the captures.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of the captures, from the left.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.captures.iter().map(|it| it.name.as_str())
    }

    /// What the captures hold for this topic, from the left; `None` where the pattern does not match.
    ///
    /// `{rest:#}` holds the remaining levels with their `/`, and `""` where it matched the parent level.
    #[must_use]
    pub fn captures<'s, 't>(&'s self, topic: &'t str) -> Option<Vec<(&'s str, &'t str)>> {
        if !matches(&self.filter, topic) {
            return None;
        }
        let (mut level, mut left) = (0, Some(topic));
        let mut found = Vec::with_capacity(self.captures.len());
        for it in &self.captures {
            while level < it.level {
                left = left.and_then(|text| text.split_once('/')).map(|(_, after)| after);
                level += 1;
            }
            let rest = left.unwrap_or_default();
            let one = rest.split('/').next().unwrap_or_default();
            found.push((it.name.as_str(), if it.rest { rest } else { one }));
        }
        Some(found)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is between the braces of a level, or `None` where it has none.
fn capture<'w>(text: &str, word: &'w str) -> Result<Option<&'w str>> {
    if !word.contains(['{', '}']) {
        return Ok(None);
    }
    let opened = word.matches('{').count();
    if opened != word.matches('}').count() || word.find('{') > word.find('}') {
        return Err(invalid(text, "its braces do not pair up: write {name} as one whole level"));
    }
    match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
        Some(inner) if opened == 1 => Ok(Some(inner)),
        _ => Err(invalid(text, "a capture is a whole level: write a/{name}/b, not a/x{name}/b")),
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|it| it.is_ascii_alphanumeric() || it == '_')
}

/// Filters, each with a value, asked by topic. Level by level from the left, a literal is more specific than
/// `+`, and `+` than `#`.
///
/// A trie: a topic visits the filters that share its beginning, whatever else there is. The group of a
/// `$share/<group>/<filter>` is no part of the key, since a message does not say through which subscription
/// it came: `$share/g/x` and `x` are the same filter here.
pub struct Router<T> {
    /// In one vector, with each node's parent: neither a search nor a drop recurses, however many levels a
    /// topic has.
    nodes: Vec<Node<T>>,
    unused: Vec<u32>,
    len: usize,
}

struct Node<T> {
    parent: u32,
    /// Whether the parent's `+` leads here.
    is_plus: bool,
    literals: HashMap<Box<str>, u32>,
    plus: Option<u32>,
    /// The filter that ends here.
    here: Option<Route<T>>,
    /// The filter that ends here with `/#`.
    rest: Option<Route<T>>,
}

struct Route<T> {
    filter: Box<str>,
    value: T,
}

const ROOT: u32 = 0;

impl<T> Node<T> {
    fn new(parent: u32, is_plus: bool) -> Self {
        Self { parent, is_plus, literals: HashMap::new(), plus: None, here: None, rest: None }
    }

    fn is_unused(&self) -> bool {
        self.literals.is_empty() && self.plus.is_none() && self.here.is_none() && self.rest.is_none()
    }

    const fn end(&self, rest: bool) -> Option<&Route<T>> {
        if rest { self.rest.as_ref() } else { self.here.as_ref() }
    }

    const fn end_mut(&mut self, rest: bool) -> &mut Option<Route<T>> {
        if rest { &mut self.rest } else { &mut self.here }
    }
}

impl<T> Router<T> {
    /// A router without filters.
    #[must_use]
    pub fn new() -> Self {
        Self { nodes: vec![Node::new(ROOT, false)], unused: Vec::new(), len: 0 }
    }

    /// Adds a filter.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] if MQTT does not allow it, [`Error::InvalidArgument`] if it is there already.
    pub fn insert(&mut self, filter: &str, value: T) -> Result<()> {
        check_filter(filter)?;
        if let Some(there) = self.find(filter).and_then(|(node, rest)| self.nodes[node as usize].end(rest)) {
            let (filter, there) = (shortened(filter), shortened(&there.filter));
            let again = if filter == there { String::new() } else { format!(" (as \"{there}\")") };
            return Err(Error::InvalidArgument(format!(
                "the filter \"{filter}\" is there already{again}: use one for each filter"
            )));
        }
        let (levels, rest) = levels(filter);
        let mut node = ROOT;
        for level in levels {
            node = self.child(node, level).unwrap_or_else(|| self.add_child(node, level));
        }
        *self.nodes[node as usize].end_mut(rest) = Some(Route { filter: filter.into(), value });
        self.len += 1;
        Ok(())
    }

    /// Removes a filter, and gives its value.
    pub fn remove(&mut self, filter: &str) -> Option<T> {
        let (mut node, rest) = self.find(filter)?;
        let route = self.nodes[node as usize].end_mut(rest).take()?;
        self.len -= 1;
        for level in levels(filter).0.rev() {
            if !self.nodes[node as usize].is_unused() {
                break;
            }
            let parent = self.nodes[node as usize].parent;
            // An unused node keeps no table of its own.
            self.nodes[node as usize].literals = HashMap::new();
            self.unused.push(node);
            match level {
                "+" => self.nodes[parent as usize].plus = None,
                level => drop(self.nodes[parent as usize].literals.remove(level)),
            }
            node = parent;
        }
        Some(route.value)
    }

    /// The value of a filter, by the filter.
    #[must_use]
    pub fn get(&self, filter: &str) -> Option<&T> {
        let (node, rest) = self.find(filter)?;
        Some(&self.nodes[node as usize].end(rest)?.value)
    }

    /// The value of a filter, by the filter, to change it.
    #[must_use]
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut T> {
        let (node, rest) = self.find(filter)?;
        Some(&mut self.nodes[node as usize].end_mut(rest).as_mut()?.value)
    }

    /// The value of the most specific filter that matches this topic. Allocates nothing.
    #[must_use]
    pub fn route(&self, topic: &str) -> Option<&T> {
        self.matching(topic).next()
    }

    /// The values of all filters that match this topic, the most specific first. Allocates nothing.
    pub fn matching<'r, 't>(&'r self, topic: &'t str) -> Matching<'r, 't, T> {
        let step = if topic.is_empty() { Step::Done } else { Step::Enter };
        Matching { router: self, topic, node: ROOT, at: 0, step }
    }

    /// Whether any filter matches this topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.route(topic).is_some()
    }

    /// How many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every filter, as inserted, with its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let routes = self.nodes.iter().flat_map(|node| [&node.here, &node.rest]).flatten();
        routes.map(|route| (&*route.filter, &route.value))
    }

    fn child(&self, node: u32, level: &str) -> Option<u32> {
        let node = &self.nodes[node as usize];
        if level == "+" { node.plus } else { node.literals.get(level).copied() }
    }

    fn add_child(&mut self, parent: u32, level: &str) -> u32 {
        let child = Node::new(parent, level == "+");
        let number = if let Some(number) = self.unused.pop() {
            self.nodes[number as usize] = child;
            number
        } else {
            self.nodes.push(child);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 levels")
        };
        let parent = &mut self.nodes[parent as usize];
        if level == "+" {
            parent.plus = Some(number);
        } else {
            parent.literals.insert(level.into(), number);
        }
        number
    }

    fn find(&self, filter: &str) -> Option<(u32, bool)> {
        let (mut levels, rest) = levels(filter);
        let node = levels.try_fold(ROOT, |node, level| self.child(node, level))?;
        Some((node, rest))
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Router<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The levels of a filter that lead to its node, and whether a `#` follows them.
fn levels(filter: &str) -> (impl DoubleEndedIterator<Item = &str>, bool) {
    let part = filter_part(filter);
    let (before, rest) = match part.strip_suffix("/#") {
        Some(before) => (Some(before), true),
        None if part == "#" => (None, true),
        None => (Some(part), false),
    };
    (before.into_iter().flat_map(|before| before.split('/')), rest)
}

/// The filters of a [`Router`] that match a topic, the most specific first.
///
/// It walks the trie depth first, literal before `+` before `#`, and goes back by the nodes' parents.
pub struct Matching<'r, 't, T> {
    router: &'r Router<T>,
    topic: &'t str,
    node: u32,
    /// Where the next level of the topic begins; beyond its end once all are used.
    at: usize,
    step: Step,
}

/// What to try next at a node.
enum Step {
    Enter,
    Plus,
    Rest,
    Up,
    Done,
}

impl<'r, T> Iterator for Matching<'r, '_, T> {
    type Item = &'r T;

    fn next(&mut self) -> Option<&'r T> {
        loop {
            let node = &self.router.nodes[self.node as usize];
            // [MQTT-4.7.2-1]: no wildcard at the beginning matches a `$`.
            let wildcards = self.node != ROOT || !self.topic.starts_with('$');
            match self.step {
                Step::Enter if self.at > self.topic.len() => {
                    self.step = Step::Rest;
                    if let Some(route) = &node.here {
                        return Some(&route.value);
                    }
                }
                Step::Enter if node.literals.is_empty() => self.step = Step::Plus,
                Step::Enter => match node.literals.get(self.level()) {
                    Some(&child) => self.down(child),
                    None => self.step = Step::Plus,
                },
                Step::Plus => match node.plus.filter(|_| wildcards) {
                    Some(child) => self.down(child),
                    None => self.step = Step::Rest,
                },
                Step::Rest => {
                    self.step = Step::Up;
                    if let Some(route) = node.rest.as_ref().filter(|_| wildcards) {
                        return Some(&route.value);
                    }
                }
                Step::Up if self.node == ROOT => self.step = Step::Done,
                Step::Up => {
                    self.step = if node.is_plus { Step::Rest } else { Step::Plus };
                    self.node = node.parent;
                    self.at = self.topic[..self.at - 1].rfind('/').map_or(0, |slash| slash + 1);
                }
                Step::Done => return None,
            }
        }
    }
}

impl<'t, T> Matching<'_, 't, T> {
    fn level(&self) -> &'t str {
        let left = &self.topic[self.at..];
        &left[..slash(left)]
    }

    fn down(&mut self, child: u32) {
        self.at += slash(&self.topic[self.at..]) + 1;
        self.node = child;
        self.step = Step::Enter;
    }
}

fn slash(text: &str) -> usize {
    text.bytes().position(|byte| byte == b'/').unwrap_or(text.len())
}
