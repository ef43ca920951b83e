//! The RPC protocol of Azure IoT Operations, version 1.0: the user properties that its peers expect on requests and
//! responses, and what its responders refuse.

use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::correlation::CorrelationSource;
use crate::message::{Message, Properties};
use crate::responder::Reply;

/// What is written for the version.
const VERSION: &str = "1.0";
/// The versions that are understood.
const MAJOR: &str = "1";
/// How far ahead of ours another clock may be, in milliseconds.
const MAX_DRIFT: u64 = 60_000;
/// The length of Correlation Data: a UUID as bytes.
pub const CORRELATION_DATA: usize = 16;

/// User properties of a request that belong to the protocol, and not to the caller.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    matches!(name, "__protVer" | "__srcId" | "__ts" | "$partition")
}

/// Says who asks, and when. A request that is written again keeps what it said.
pub(crate) fn mark_request(properties: &mut Properties, client_id: &str) {
    if properties.user_property("__protVer").is_none() {
        let users = &mut properties.user_properties;
        sign(users, client_id);
        // Which member of a shared group gets it.
        users.push(("$partition".into(), client_id.into()));
    }
}

/// Says who answers, and when.
pub(crate) fn mark_response(users: &mut Vec<(String, String)>, client_id: &str) {
    if !users.iter().any(|(name, _)| name == "__apErr") {
        users.push(("__apErr".into(), "false".into()));
    }
    sign(users, client_id);
}

fn sign(users: &mut Vec<(String, String)>, client_id: &str) {
    users.push(("__protVer".into(), VERSION.into()));
    users.push(("__srcId".into(), client_id.into()));
    if let Ok(now) = with_clock(|clock| clock.advance(None, wall())) {
        users.push(("__ts".into(), now));
    }
}

/// Takes the time of a response into account, if it has one that can be used.
pub(crate) fn observe(properties: &Properties) {
    if let Some(Ok(theirs)) = properties.user_property("__ts").map(Timestamp::parse) {
        let _ = with_clock(|clock| clock.advance(Some(&theirs), wall()));
    }
}

/// Whether a responder may take the request; if not, its answer.
pub(crate) fn check_request(message: &Message) -> Result<(), Reply> {
    let properties = &message.properties;
    match properties.correlation_data.as_deref() {
        None => return Err(refusal(400, "Correlation Data is missing", "Correlation Data", None)),
        Some(data) if data.len() != CORRELATION_DATA => {
            // Bytes may be no text that MQTT can carry [MQTT-1.5.4-2].
            let text = String::from_utf8(data.to_vec()).ok();
            let shown = text.filter(|text| !text.contains(char::is_control));
            let text = format!("Correlation Data has {} bytes, not {CORRELATION_DATA}", data.len());
            return Err(refusal(400, &text, "Correlation Data", shown));
        }
        Some(_) => {}
    }
    if properties.message_expiry_interval.is_none() {
        return Err(refusal(400, "Message Expiry Interval is missing", "Message Expiry", None));
    }
    let version = properties.user_property("__protVer").unwrap_or(VERSION);
    if !is_supported(version) {
        let mut reply = refusal(505, &format!("protocol version {MAJOR}.x is supported"), "__protVer", None);
        reply.user_properties.push(("__supProtMajVer".into(), MAJOR.into()));
        reply.user_properties.push(("__requestProtVer".into(), version.to_owned()));
        return Err(reply);
    }
    let Some(theirs) = properties.user_property("__ts") else { return Ok(()) };
    let advanced =
        Timestamp::parse(theirs).and_then(|theirs| with_clock(|clock| clock.advance(Some(&theirs), wall())));
    let status = match advanced {
        Ok(_) => return Ok(()),
        Err(Unusable::Malformed) => 400,
        Err(Unusable::Ahead) => 503,
        Err(Unusable::Full) => 500,
    };
    let text = advanced.unwrap_err().to_string();
    Err(refusal(status, &text, "__ts", Some(theirs.to_owned())))
}

/// Whether a version, such as `1.0`, is one that we understand.
#[must_use]
pub fn is_supported(version: &str) -> bool {
    version.split_once('.').is_some_and(|(major, minor)| major == MAJOR && minor.parse::<u16>().is_ok())
}

fn refusal(status: u16, text: &str, about: &str, value: Option<String>) -> Reply {
    let mut user_properties = vec![
        ("__stMsg".to_owned(), text.to_owned()),
        ("__apErr".to_owned(), "false".to_owned()),
        ("__propName".to_owned(), about.to_owned()),
    ];
    user_properties.extend(value.map(|value| ("__propVal".to_owned(), value)));
    Reply { status, user_properties, ..Reply::default() }
}

/// One for the process: its requesters and responders agree on what came first.
static CLOCK: LazyLock<Mutex<Timestamp>> = LazyLock::new(|| {
    let node = String::from_utf8_lossy(&CorrelationSource::new().next()).into_owned();
    Mutex::new(Timestamp { milliseconds: 0, counter: 0, node })
});

/// Advances the clock, and gives its time as text.
fn with_clock(change: impl FnOnce(&mut Timestamp) -> Result<(), Unusable>) -> Result<String, Unusable> {
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut clock)?;
    Ok(clock.to_string())
}

fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A hybrid logical clock: wall time, a counter for what happens within the same millisecond or while another
/// clock is ahead, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Timestamp {
    milliseconds: u64,
    counter: u64,
    node: String,
}

/// Why a timestamp is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("__ts is not of the form <milliseconds>:<counter>:<node>")]
    Malformed,
    #[error("__ts is more than {} s ahead of the clock here", MAX_DRIFT / 1000)]
    Ahead,
    #[error("the counter of __ts is at its end")]
    Full,
}

impl Timestamp {
    fn parse(text: &str) -> Result<Self, Unusable> {
        let mut parts = text.split(':');
        let (Some(milliseconds), Some(counter), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unusable::Malformed);
        };
        let number = |text: &str| text.parse().map_err(|_| Unusable::Malformed);
        Ok(Self { milliseconds: number(milliseconds)?, counter: number(counter)?, node: node.to_owned() })
    }

    /// Later than before, than `theirs`, and not before `now`. An error leaves it as it was.
    fn advance(&mut self, theirs: Option<&Self>, now: u64) -> Result<(), Unusable> {
        let theirs = theirs.filter(|theirs| theirs.node != self.node);
        let ahead = theirs.map_or(0, |theirs| theirs.milliseconds);
        let latest = self.milliseconds.max(ahead);
        if now > latest {
            (self.milliseconds, self.counter) = (now, 0);
            return Ok(());
        }
        if latest - now > MAX_DRIFT {
            return Err(Unusable::Ahead);
        }
        let own = (self.milliseconds == latest).then_some(self.counter);
        let other = theirs.filter(|theirs| theirs.milliseconds == latest).map(|theirs| theirs.counter);
        let counter = own.max(other).unwrap_or_default().checked_add(1).ok_or(Unusable::Full)?;
        (self.milliseconds, self.counter) = (latest, counter);
        Ok(())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:015}:{:05}:{}", self.milliseconds, self.counter, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64, counter: u64, node: &str) -> Timestamp {
        Timestamp { milliseconds, counter, node: node.into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let stamp = at(1_700_000_000_123, 7, "node");
        assert_eq!(stamp.to_string(), "001700000000123:00007:node");
        assert_eq!(Timestamp::parse(&stamp.to_string()), Ok(stamp));
        for text in ["", "1:2", "1:2:n:x", "-1:2:n", "1:x:n", "99999999999999999999:0:n"] {
            assert_eq!(Timestamp::parse(text), Err(Unusable::Malformed), "{text}");
        }
    }

    #[test]
    fn it_never_goes_back() {
        let mut clock = at(0, 0, "a");
        clock.advance(None, 100).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (100, 0));
        clock.advance(None, 90).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (100, 1));
        clock.advance(Some(&at(100, 5, "b")), 100).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (100, 6));
        clock.advance(Some(&at(200, 3, "b")), 150).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (200, 4));
        clock.advance(Some(&at(150, 9, "b")), 150).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (200, 5));
        clock.advance(Some(&at(900, 9, "a")), 150).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (200, 6), "its own time says nothing new");
        clock.advance(Some(&at(200, 9, "b")), 300).unwrap();
        assert_eq!((clock.milliseconds, clock.counter), (300, 0));
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let mut clock = at(100, 1, "a");
        let ahead = at(100 + MAX_DRIFT + 1, 0, "b");
        assert_eq!(clock.advance(Some(&ahead), 100), Err(Unusable::Ahead));
        assert_eq!(clock.advance(Some(&at(101, u64::MAX, "b")), 100), Err(Unusable::Full));
        assert_eq!(clock, at(100, 1, "a"));
    }

    #[test]
    fn versions() {
        assert!(is_supported("1.0") && is_supported("1.7"));
        for version in ["", "1", "0.1", "2.0", "1.", "1.x", "1.0.0", "one"] {
            assert!(!is_supported(version), "{version}");
        }
    }
}
