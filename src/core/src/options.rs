//! Validated connect options: URL, credentials, TLS, session, limits, will, reconnect. Pure data and the rules
//! of MQTT 5 for it. Knows neither tokio nor the codec, and opens no file and no socket.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::command::Answer;
use crate::error::{Error, Result};
use crate::topic::check_topic;

/// Strings and binary data carry a two-byte length (MQTT 5.0, sections 1.5.4 and 1.5.6).
const MAX_FIELD: usize = 65_535;

/// Below this not even a response with its topic and correlation data fits.
const MIN_PACKET_SIZE: u32 = 128;

const SCHEMES: &str = "mqtt://, mqtts://, ws://, wss:// and unix://";

/// What lies under the MQTT packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TCP, port 1883.
    Mqtt,
    /// TLS over TCP, port 8883.
    Mqtts,
    /// WebSocket over TCP, port 80.
    Ws,
    /// WebSocket over TLS, port 443.
    Wss,
    /// A Unix domain socket.
    Unix,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        [Self::Mqtt, Self::Mqtts, Self::Ws, Self::Wss, Self::Unix]
            .into_iter()
            .find(|scheme| scheme.name().eq_ignore_ascii_case(text))
    }

    /// As written in a URL, e.g. `mqtts`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Unix => "unix",
        }
    }

    /// The port where the URL names none; 0 where there is no port.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
            Self::Unix => 0,
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }
}

/// Bytes that are never printed, and are overwritten when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes themselves: for the wire, not for a log.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Vec<u8>>> From<T> for Secret {
    fn from(bytes: T) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the broker is, and what the URL said about who asks.
#[derive(Clone)]
pub struct Address {
    /// What lies under the MQTT packets.
    pub scheme: Scheme,
    /// Name or IP address, an IPv6 one without brackets; empty for a Unix socket.
    pub host: String,
    /// TCP port; 0 for a Unix socket.
    pub port: u16,
    /// WebSocket: path and query, as sent. Unix: the socket's path. Otherwise empty.
    pub path: String,
    /// From `user@`, percent-decoded.
    pub username: Option<String>,
    /// From `user:password@`, percent-decoded.
    pub password: Option<Secret>,
}

impl Address {
    /// Reads `mqtt://`, `mqtts://`, `ws://`, `wss://` and `unix://` URLs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], whose text never holds user or password.
    pub fn parse(url: &str) -> Result<Self> {
        // Whatever holds an `@` may hold a password, even where it does not parse as one
        // (`mqtt://user:pa/ss@host` has the "port" `pa`): then nothing of it is repeated.
        let secretive = url.contains('@');
        let invalid = |given: &str, rule: &str| {
            Error::InvalidArgument(if secretive {
                format!(
                    "invalid URL (not shown, as it holds user:password@): {rule}; \
                     percent-encode the characters @ : / ? # % in user and password, or give username= and password="
                )
            } else {
                format!("invalid URL \"{given}\": {rule}")
            })
        };
        let error = |rule: &str| invalid(url, rule);

        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(error(&format!(
                "it has no scheme: write e.g. mqtt://localhost:1883 (these work: {SCHEMES})"
            )));
        };
        let Some(scheme) = Scheme::parse(scheme) else {
            return Err(error(&format!("the scheme is unknown: these work: {SCHEMES}")));
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (userinfo, host_port) = match authority.rsplit_once('@') {
            Some((userinfo, host_port)) => (Some(userinfo), host_port),
            None => (None, authority),
        };
        let (username, password) = userinfo.map_or((None, None), |userinfo| {
            let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
            (Some(user), password)
        });
        let username = username
            .filter(|user| !user.is_empty())
            .map(|user| percent_decode_str(user).decode_utf8().map(String::from))
            .transpose()
            .map_err(|_| error("the user is not UTF-8 when percent-decoded"))?;
        let password =
            password.map(|password| Secret::from(percent_decode_str(password).collect::<Vec<u8>>()));

        if path.contains('#') {
            return Err(error("it has a fragment (#...): leave it out, or write %23"));
        }
        let (host, port) = match scheme {
            Scheme::Unix if host_port.is_empty() => (String::new(), 0),
            Scheme::Unix => {
                return Err(error(
                    "a socket's path is absolute: write three slashes, e.g. unix:///run/mosquitto.sock",
                ));
            }
            _ => parse_host_port(host_port, scheme).map_err(|rule| error(&rule))?,
        };
        let path = match scheme {
            Scheme::Mqtt | Scheme::Mqtts if matches!(path, "" | "/") => String::new(),
            Scheme::Mqtt | Scheme::Mqtts => {
                return Err(error(
                    "mqtt:// and mqtts:// have no path and no query: leave them out (a topic is given apart), or use ws:// or wss://",
                ));
            }
            Scheme::Ws | Scheme::Wss => {
                if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
                    return Err(error(
                        "the path holds a blank or a character outside ASCII: percent-encode it",
                    ));
                }
                // The customary path of MQTT over WebSocket; brokers differ, none requires "/" of everybody.
                if path.starts_with('/') { path.into() } else { format!("/mqtt{path}") }
            }
            Scheme::Unix => {
                if path.contains('?') {
                    return Err(error("unix:// has no query: leave it out, or write %3F"));
                }
                let path = percent_decode_str(path)
                    .decode_utf8()
                    .map_err(|_| error("the socket's path is not UTF-8 when percent-decoded"))?;
                if path.len() < 2 || path.contains('\0') {
                    return Err(error("the socket's path is missing: write e.g. unix:///run/mosquitto.sock"));
                }
                path.into_owned()
            }
        };
        Ok(Self { scheme, host, port, path, username, password })
    }

    /// The URL without user, password and query, for messages and logs.
    #[must_use]
    pub fn redacted(&self) -> String {
        let scheme = self.scheme.name();
        if self.scheme == Scheme::Unix {
            return format!("{scheme}://{}", self.path);
        }
        // The query of a WebSocket URL is where signed URLs carry their token.
        let (path, query) = match self.path.split_once('?') {
            Some((path, _)) => (path, "?***"),
            None => (self.path.as_str(), ""),
        };
        format!("{scheme}://{}{path}{query}", self.host_port())
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.redacted())
    }
}

fn parse_host_port(text: &str, scheme: Scheme) -> Result<(String, u16), String> {
    // The colon of the port is the one after the bracket, if there is a bracket.
    let end = text.find(']').map_or_else(|| text.find(':').unwrap_or(text.len()), |bracket| bracket + 1);
    let (host, port) = text.split_at(end);
    if port.matches(':').count() > 1 {
        return Err("an IPv6 address stands in brackets: write e.g. mqtt://[::1]:1883".into());
    }
    if host.is_empty() {
        return Err(format!("the host is missing: write e.g. {}://localhost", scheme.name()));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => scheme.default_port(),
        None => return Err("after the bracket of an IPv6 address only :port may follow".into()),
        // `u16::from_str` takes a leading plus, a URL does not.
        Some(digits) => Some(digits)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|port| *port != 0)
            .ok_or("the port must be a number from 1 to 65535")?,
    };
    let host = match url::Host::parse(host) {
        Ok(url::Host::Domain(name)) => name,
        Ok(url::Host::Ipv4(address)) => address.to_string(),
        Ok(url::Host::Ipv6(address)) => address.to_string(),
        Err(error) => return Err(format!("the host is neither a name nor an IP address ({error})")),
    };
    Ok((host, port))
}

/// Certificates or a key in PEM form: a file, or the text itself.
#[derive(Debug, Clone)]
pub enum Pem {
    /// A file, read at connect and again at each reconnect.
    Path(PathBuf),
    /// The PEM text.
    Inline(Secret),
}

/// How TLS is done, for `mqtts://` and `wss://`.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The authorities to trust *instead of* the system's.
    pub ca: Option<Pem>,
    /// The client's certificate chain, its own certificate first.
    pub cert: Option<Pem>,
    /// The client's private key (PKCS#8, PKCS#1 or SEC1, not encrypted).
    pub key: Option<Pem>,
    /// Application protocols to offer, e.g. `mqtt` or `x-amzn-mqtt-ca`.
    pub alpn: Vec<String>,
    /// The name that the certificate must have, if it is not the URL's host. Sent as SNI, too.
    pub server_name: Option<String>,
    /// False: take any certificate. For tests only.
    pub verify: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca: None, cert: None, key: None, alpn: Vec::new(), server_name: None, verify: true }
    }
}

impl TlsOptions {
    fn validate(&self) -> Result<()> {
        match (&self.cert, &self.key) {
            (Some(_), None) => {
                return refuse("tls: cert= without key=: give the private key of that certificate");
            }
            (None, Some(_)) => {
                return refuse("tls: key= without cert=: give the certificate of that private key");
            }
            _ => {}
        }
        // RFC 7301, section 3.1: a name has a one-byte length, and an empty one is not allowed.
        if let Some(name) = self.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
            return refuse(format!("tls: a name in alpn= has {} bytes: 1 to 255 are allowed", name.len()));
        }
        if self.server_name.as_deref() == Some("") {
            return refuse("tls: server_name= is empty: leave it out, or give the name in the certificate");
        }
        Ok(())
    }
}

/// The message that the broker publishes when this client is gone (MQTT 5.0, section 3.1.2.5).
#[derive(Debug, Clone, Default)]
pub struct Will {
    /// Where it is published.
    pub topic: String,
    /// At most 65,535 bytes: it travels in the CONNECT packet.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Seconds that the broker waits for this client to come back.
    pub delay_interval: u32,
    /// 1: the payload is UTF-8 text. 0: bytes.
    pub payload_format_indicator: Option<u8>,
    /// Seconds after which nobody wants it any more.
    pub message_expiry_interval: Option<u32>,
    /// What the payload is, usually a MIME type.
    pub content_type: Option<String>,
    /// Where a response to it is expected.
    pub response_topic: Option<String>,
    /// What a response to it has to carry.
    pub correlation_data: Option<Bytes>,
    /// Name and value, in order.
    pub user_properties: Vec<(String, String)>,
}

impl Will {
    fn validate(&self) -> Result<()> {
        check_will_topic("topic", &self.topic)?;
        if let Some(topic) = &self.response_topic {
            check_will_topic("response_topic", topic)?;
        }
        if self.qos > 2 {
            return refuse(format!("will: qos is {}: 0, 1 and 2 are allowed", self.qos));
        }
        check_size("will: payload", self.payload.len(), "send a shorter one")?;
        if let Some(data) = &self.correlation_data {
            check_size("will: correlation_data", data.len(), "send shorter data")?;
        }
        match self.payload_format_indicator {
            Some(1) if std::str::from_utf8(&self.payload).is_err() => {
                return refuse(
                    "will: payload_format_indicator is 1, but the payload is not UTF-8: leave it out, or set it to 0",
                );
            }
            Some(other) if other > 1 => {
                return refuse(format!(
                    "will: payload_format_indicator is {other}: 0 (bytes) and 1 (UTF-8 text) are allowed"
                ));
            }
            _ => {}
        }
        if let Some(content_type) = &self.content_type {
            check_string("will: content_type", content_type)?;
        }
        check_user_properties("will: user_properties", &self.user_properties)
    }
}

/// When to try again after the connection was lost.
#[derive(Debug, Clone)]
pub struct Reconnect {
    /// Before the first attempt.
    pub initial: Duration,
    /// The delay doubles up to this.
    pub max: Duration,
    /// From 0 to 1: the part of a delay that is left to chance, so that many clients do not come back at once.
    pub jitter: f64,
    /// Since the connection was lost; `None`: never.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            jitter: 0.5,
            give_up_after: None,
        }
    }
}

impl Reconnect {
    /// The delay before an attempt (the first is 1), given a random number from 0 to 1.
    ///
    /// Doubles with each attempt up to `max`; then chance takes off up to `jitter` of it. Zero only if
    /// `initial` is.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        if self.initial.is_zero() {
            return Duration::ZERO;
        }
        // From about 2^64 on every delay is `max`, and f64 is far from infinity.
        let doubled = self.initial.as_secs_f64() * f64::from(attempt.saturating_sub(1).min(64)).exp2();
        let full = doubled.min(self.max.as_secs_f64());
        let floor = full.min(0.001);
        Duration::from_secs_f64((full * (1.0 - self.jitter * random)).max(floor))
    }

    fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.jitter) {
            return refuse(format!("reconnect: jitter is {}: 0 to 1 is allowed", self.jitter));
        }
        if self.max < self.initial {
            return refuse(format!(
                "reconnect: max ({} s) is less than initial ({} s): raise max, or lower initial",
                self.max.as_secs_f64(),
                self.initial.as_secs_f64()
            ));
        }
        Ok(())
    }
}

/// Everything a connection is made of.
#[derive(Clone)]
pub struct Options {
    /// Where to.
    pub address: Address,
    /// `None`: the broker chooses one.
    pub client_id: Option<String>,
    /// Wins over the URL's; see [`Options::credentials`].
    pub username: Option<String>,
    /// Wins over the URL's; see [`Options::credentials`].
    pub password: Option<Secret>,
    /// For `mqtts://` and `wss://`; `None`: the defaults.
    pub tls: Option<TlsOptions>,
    /// Seconds, 0: off.
    pub keep_alive: u16,
    /// For all steps up to the CONNACK together.
    pub connect_timeout: Duration,
    /// Whether the broker forgets the session of an earlier connection.
    pub clean_start: bool,
    /// Seconds that the broker keeps the session after the connection; 0: not at all.
    pub session_expiry_interval: u32,
    /// How many unacknowledged QoS 1 and 2 messages the broker may send, from 1.
    pub receive_maximum: u16,
    /// The largest packet accepted, in bytes.
    pub maximum_packet_size: u32,
    /// How many topic aliases the broker may use.
    pub topic_alias_maximum: u16,
    /// Whether to ask the broker for Response Information.
    pub request_response_information: bool,
    /// What the broker publishes when this client is gone.
    pub will: Option<Will>,
    /// Of the CONNECT packet: name and value, in order.
    pub user_properties: Vec<(String, String)>,
    /// `None`: a lost connection stays lost.
    pub reconnect: Option<Reconnect>,
    /// The method of enhanced authentication (section 4.12); its data is asked for when it is needed.
    pub authentication_method: Option<String>,
    /// Whether user name and password are asked for before each CONNECT, because they change.
    pub ask_credentials: bool,
}

impl Options {
    /// The defaults, for this URL.
    ///
    /// # Errors
    /// Those of [`Address::parse`].
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self {
            address: Address::parse(url)?,
            client_id: None,
            username: None,
            password: None,
            tls: None,
            keep_alive: 30,
            connect_timeout: Duration::from_secs(5),
            clean_start: true,
            session_expiry_interval: 0,
            receive_maximum: 1024,
            maximum_packet_size: 16 * 1024 * 1024,
            topic_alias_maximum: 0,
            request_response_information: true,
            will: None,
            user_properties: Vec::new(),
            reconnect: Some(Reconnect::default()),
            authentication_method: None,
            ask_credentials: false,
        })
    }

    /// User name and password of the CONNECT packet: each explicit one wins over the URL's.
    #[must_use]
    pub fn credentials(&self) -> (Option<&str>, Option<&Secret>) {
        (
            self.username.as_deref().or(self.address.username.as_deref()),
            self.password.as_ref().or(self.address.password.as_ref()),
        )
    }

    /// What [`Options::validate`] could not check yet: it is given when a CONNECT or an AUTH needs it.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold none of it.
    pub(crate) fn validate_answer(answer: Answer) -> Result<Answer, String> {
        let check = || {
            if let Some(username) = &answer.username {
                check_string("username", username)?;
            }
            if let Some(password) = &answer.password {
                check_size("password", password.as_bytes().len(), "use a shorter one")?;
            }
            answer.data.as_ref().map_or(Ok(()), check_authentication_data)
        };
        match check() {
            Ok(()) => Ok(answer),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Checks all that a broker would answer with a refusal, or by cutting the connection.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] or [`Error::InvalidTopic`]: what was given, the rule, what to do.
    pub fn validate(&self) -> Result<()> {
        if let Some(client_id) = &self.client_id {
            check_string("client_id", client_id)?;
        }
        // A password without a user name is allowed since MQTT 5 (section 3.1.2.9).
        let (username, password) = self.credentials();
        if let Some(username) = username {
            check_string("username", username)?;
        }
        if let Some(password) = password {
            check_size("password", password.as_bytes().len(), "use a shorter one")?;
        }
        if let Some(method) = &self.authentication_method {
            check_string("the authenticator's method", method)?;
        }
        if !self.clean_start && self.client_id.as_deref().unwrap_or_default().is_empty() {
            return refuse(
                "clean_start=False without client_id=: a session is found by its client identifier: give a fixed one, or leave clean_start=True",
            );
        }
        if let Some(tls) = &self.tls {
            match self.address.scheme {
                Scheme::Mqtt => {
                    return refuse("tls= with an mqtt:// URL, which is not encrypted: use mqtts://");
                }
                Scheme::Ws => return refuse("tls= with a ws:// URL, which is not encrypted: use wss://"),
                Scheme::Unix => return refuse("tls= with a unix:// URL, which has no TLS: leave tls= out"),
                Scheme::Mqtts | Scheme::Wss => tls.validate()?,
            }
        }
        if self.connect_timeout.is_zero() {
            return refuse("connect_timeout is 0: give the seconds that connecting may take");
        }
        if self.receive_maximum == 0 {
            return refuse("receive_maximum is 0: 1 to 65535 is allowed (MQTT 5.0, section 3.1.2.11.3)");
        }
        if self.maximum_packet_size < MIN_PACKET_SIZE {
            return refuse(format!(
                "maximum_packet_size is {} bytes: {MIN_PACKET_SIZE} or more are needed for a message with its properties",
                self.maximum_packet_size
            ));
        }
        check_user_properties("user_properties", &self.user_properties)?;
        self.will.as_ref().map_or(Ok(()), Will::validate)?;
        self.reconnect.as_ref().map_or(Ok(()), Reconnect::validate)
    }
}

// By hand: a user name is a credential for brokers that authorize by token.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (username, password) = self.credentials();
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("client_id", &self.client_id)
            .field("username", &username.map(|_| Secret::from("")))
            .field("password", &password)
            .field("tls", &self.tls)
            .field("keep_alive", &self.keep_alive)
            .field("connect_timeout", &self.connect_timeout)
            .field("clean_start", &self.clean_start)
            .field("session_expiry_interval", &self.session_expiry_interval)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("will", &self.will)
            .field("user_properties", &self.user_properties)
            .field("reconnect", &self.reconnect)
            .field("authentication_method", &self.authentication_method)
            .field("ask_credentials", &self.ask_credentials)
            .finish()
    }
}

fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::InvalidArgument(what.into()))
}

fn check_size(what: &str, size: usize, advice: &str) -> Result<()> {
    if size > MAX_FIELD {
        return refuse(format!("{what} has {size} bytes: {MAX_FIELD} at most are allowed: {advice}"));
    }
    Ok(())
}

pub(crate) fn check_authentication_data(data: &Secret) -> Result<()> {
    check_size("the authenticator's data", data.as_bytes().len(), "use a method that sends less")
}

/// [MQTT-1.5.4-2]: no U+0000. (Rust's strings hold no surrogates [MQTT-1.5.4-1].)
fn check_string(what: &str, text: &str) -> Result<()> {
    check_size(what, text.len(), "use a shorter one")?;
    if text.contains('\0') {
        return refuse(format!("{what} holds a NUL character, which MQTT does not allow: take it out"));
    }
    Ok(())
}

fn check_user_properties(what: &str, properties: &[(String, String)]) -> Result<()> {
    properties.iter().try_for_each(|(name, value)| {
        check_string(&format!("{what}: a name"), name)?;
        check_string(&format!("{what}: a value"), value)
    })
}

fn check_will_topic(which: &str, topic: &str) -> Result<()> {
    check_topic(topic).map_err(|error| match error {
        Error::InvalidTopic { topic, reason } => {
            Error::InvalidTopic { topic, reason: format!("{reason} (it is the will's {which})") }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Options)) -> String {
        let mut options = Options::new("mqtts://broker.example").unwrap();
        change(&mut options);
        options.validate().unwrap_err().to_string()
    }

    fn will() -> Will {
        Will { topic: "status/panel-7".into(), payload: Bytes::from_static(b"gone"), ..Will::default() }
    }

    #[test]
    fn each_scheme_has_its_default_port() {
        for (url, port, path) in [
            ("mqtt://h", 1883, ""),
            ("MQTTS://h/", 8883, ""),
            ("ws://h", 80, "/mqtt"),
            ("wss://h?a=b", 443, "/mqtt?a=b"),
            ("ws://h:8080/", 8080, "/"),
            ("ws://h/a/b?token=x", 80, "/a/b?token=x"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(
                (address.host.as_str(), address.port, address.path.as_str()),
                ("h", port, path),
                "{url}"
            );
        }
        let unix = Address::parse("unix:///run/my%20broker.sock").unwrap();
        assert_eq!((unix.host.as_str(), unix.port, unix.path.as_str()), ("", 0, "/run/my broker.sock"));
    }

    #[test]
    fn hosts_may_be_names_and_both_kinds_of_addresses() {
        for (url, host, redacted) in [
            ("mqtt://[::1]:1884", "::1", "mqtt://[::1]:1884"),
            ("mqtt://[2001:db8::7]", "2001:db8::7", "mqtt://[2001:db8::7]:1883"),
            ("mqtt://192.0.2.1", "192.0.2.1", "mqtt://192.0.2.1:1883"),
            ("mqtt://my_broker.local", "my_broker.local", "mqtt://my_broker.local:1883"),
            ("mqtt://b\u{fc}cher.example", "xn--bcher-kva.example", "mqtt://xn--bcher-kva.example:1883"),
            ("wss://h/mqtt?token=x", "h", "wss://h:443/mqtt?***"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.host, host);
            assert_eq!(address.redacted(), redacted);
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let address = Address::parse("mqtt://al%40ice:p%3A%2F%ff@h:1").unwrap();
        assert_eq!(address.username.as_deref(), Some("al@ice"));
        assert_eq!(address.password.unwrap().as_bytes(), b"p:/\xff");
        let address = Address::parse("mqtt://:token@h").unwrap();
        assert_eq!(address.username, None);
        assert_eq!(address.password.unwrap().as_bytes(), b"token");
        let address = Address::parse("unix://u:p@/run/x").unwrap();
        assert_eq!((address.username.as_deref(), address.path.as_str()), (Some("u"), "/run/x"));
    }

    #[test]
    fn a_bad_url_is_refused_with_advice() {
        for (url, advice) in [
            ("", "no scheme"),
            ("localhost:1883", "write e.g. mqtt://localhost:1883"),
            ("http://h", "mqtt://, mqtts://, ws://, wss:// and unix://"),
            ("mqtt://", "the host is missing"),
            ("mqtt://:1883", "the host is missing"),
            ("mqtt://h:", "the port must be"),
            ("mqtt://h:+1", "the port must be"),
            ("mqtt://h:0", "the port must be"),
            ("mqtt://h:65536", "the port must be"),
            ("mqtt://::1", "in brackets"),
            ("mqtt://2001:db8::1", "in brackets"),
            ("mqtt://[::1]1883", "only :port may follow"),
            ("mqtt://[::g]", "neither a name nor an IP address"),
            ("mqtt://a b", "neither a name nor an IP address"),
            ("mqtt://h/topic", "no path"),
            ("mqtt://h?x=1", "no path and no query"),
            ("ws://h/a#b", "fragment"),
            ("ws://h/a b", "percent-encode"),
            ("unix://run/x.sock", "three slashes"),
            ("unix://", "path is missing"),
            ("unix:///run/x?y", "no query"),
        ] {
            let text = Address::parse(url).unwrap_err().to_string();
            assert!(text.contains(advice), "{url}: {text}");
        }
    }

    #[test]
    fn no_error_shows_the_password() {
        for url in [
            "mqtt://alice:hunter2@",
            "mqtt://alice:hunter2@h:x",
            "mqtt://alice:hunter2@h/topic",
            "mqtt://alice:hunter/2@h",
            "mqtt://alice:hunter?2@h",
            "mqtt://alice:hunter#2@h",
            "mqtt://alice:hunter2 @[x]",
            "http://alice:hunter2@h",
            "alice:hunter2@h",
            "unix://alice:hunter2@run/x",
        ] {
            let error = Address::parse(url).unwrap_err();
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains("hunter") && !text.contains("alice"), "{text}");
            }
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut options = Options::new("wss://alice:hunter2@h/mqtt?token=hunter2").unwrap();
        let inline = || Some(Pem::Inline(Secret::from("hunter2")));
        options.tls =
            Some(TlsOptions { ca: inline(), cert: inline(), key: inline(), ..TlsOptions::default() });
        let mut explicit = options.clone();
        explicit.username = Some("alice".into());
        explicit.password = Some(Secret::from("hunter2"));
        for text in [
            format!("{options:?}"),
            format!("{explicit:#?}"),
            format!("{:?}", options.address),
            options.address.redacted(),
        ] {
            assert!(!text.contains("hunter2") && !text.contains("alice"), "{text}");
            // Nor as a list of numbers.
            assert!(!text.contains("104, 117"), "{text}");
        }
    }

    #[test]
    fn explicit_credentials_win_over_the_url() {
        let mut options = Options::new("mqtt://alice:hunter2@h").unwrap();
        options.password = Some(Secret::from("better"));
        let (username, password) = options.credentials();
        assert_eq!((username, password.unwrap().as_bytes()), (Some("alice"), &b"better"[..]));
    }

    #[test]
    fn the_defaults_are_valid() {
        for url in ["mqtt://localhost:1883", "mqtts://h", "ws://h", "wss://h", "unix:///run/x", "mqtt://:p@h"]
        {
            Options::new(url).unwrap().validate().unwrap();
        }
        let mut options = Options::new("mqtts://h").unwrap();
        options.tls = Some(TlsOptions::default());
        options.will = Some(will());
        options.client_id = Some("panel-7".into());
        options.clean_start = false;
        options.validate().unwrap();
    }

    #[test]
    fn what_a_broker_would_punish_is_refused_before() {
        let long = || "x".repeat(65_536);
        let set = |change: fn(&mut Will)| {
            refusal(|options| {
                let mut will = will();
                change(&mut will);
                options.will = Some(will);
            })
        };
        for (text, part) in [
            (refusal(|o| o.client_id = Some(long())), "client_id has 65536 bytes"),
            (refusal(|o| o.client_id = Some("a\0".into())), "client_id holds a NUL"),
            (refusal(|o| o.username = Some(long())), "username has 65536"),
            (refusal(|o| o.password = Some(Secret::from(long()))), "password has 65536"),
            (refusal(|o| o.clean_start = false), "give a fixed one"),
            (refusal(|o| o.receive_maximum = 0), "receive_maximum is 0"),
            (refusal(|o| o.maximum_packet_size = 0), "maximum_packet_size is 0"),
            (refusal(|o| o.connect_timeout = Duration::ZERO), "connect_timeout is 0"),
            (refusal(|o| o.user_properties = vec![("a".into(), long())]), "user_properties: a value has"),
            (refusal(|o| o.user_properties = vec![("\0".into(), String::new())]), "a name holds a NUL"),
            (refusal(|o| o.reconnect.as_mut().unwrap().jitter = f64::NAN), "jitter is NaN"),
            (refusal(|o| o.reconnect.as_mut().unwrap().max = Duration::ZERO), "raise max"),
            (set(|w| w.topic = "a/+".into()), "the will's topic"),
            (set(|w| w.topic.clear()), "the will's topic"),
            (set(|w| w.response_topic = Some("#".into())), "the will's response_topic"),
            (set(|w| w.qos = 3), "qos is 3"),
            (set(|w| w.payload = vec![0; 65_536].into()), "payload has 65536"),
            (set(|w| w.correlation_data = Some(vec![0; 65_536].into())), "correlation_data has"),
            (set(|w| w.payload_format_indicator = Some(2)), "payload_format_indicator is 2"),
            (
                set(|w| {
                    w.payload_format_indicator = Some(1);
                    w.payload = Bytes::from_static(b"\xff");
                }),
                "not UTF-8",
            ),
            (set(|w| w.content_type = Some("\0".into())), "content_type holds"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn tls_needs_a_url_with_tls() {
        for (url, advice) in
            [("mqtt://h", "use mqtts://"), ("ws://h", "use wss://"), ("unix:///x", "leave tls= out")]
        {
            let mut options = Options::new(url).unwrap();
            options.tls = Some(TlsOptions::default());
            assert!(options.validate().unwrap_err().to_string().contains(advice));
        }
        let pem = || Some(Pem::Path("x.pem".into()));
        let tls = |tls: TlsOptions| refusal(|options| options.tls = Some(tls));
        let defaults = TlsOptions::default;
        assert!(tls(TlsOptions { cert: pem(), ..defaults() }).contains("cert= without key="));
        assert!(tls(TlsOptions { key: pem(), ..defaults() }).contains("key= without cert="));
        assert!(tls(TlsOptions { alpn: vec![String::new()], ..defaults() }).contains("alpn="));
        assert!(tls(TlsOptions { server_name: Some(String::new()), ..defaults() }).contains("server_name="));
    }

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let reconnect = Reconnect { jitter: 0.0, ..Reconnect::default() };
        let millis = |attempt| reconnect.delay(attempt, 0.9).as_millis();
        assert_eq!([millis(1), millis(2), millis(3), millis(9)], [100, 200, 400, 25_600]);
        assert_eq!([millis(10), millis(u32::MAX)], [30_000, 30_000]);
    }

    #[test]
    fn jitter_shortens_the_delay_and_never_to_zero() {
        let reconnect = Reconnect::default();
        assert_eq!(reconnect.delay(1, 0.0), Duration::from_millis(100));
        assert_eq!(reconnect.delay(1, 0.5), Duration::from_millis(75));
        let all = Reconnect { jitter: 1.0, ..Reconnect::default() };
        assert_eq!(all.delay(1, 1.0), Duration::from_millis(1));
        assert_eq!(Reconnect { initial: Duration::ZERO, ..all }.delay(5, 0.3), Duration::ZERO);
    }
}
