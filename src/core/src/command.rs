//! The only types that cross the thread boundary: commands go down to the I/O thread, events come back
//! through the mailbox. Tokens are the caller's: the core hands them back and never looks into them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{Error, ReasonCode};
use crate::message::{ConnAck, Message, PubAck};
use crate::options::Secret;
use crate::responder::{Reply, ResponderOptions};

/// The caller's name for one operation whose outcome it waits for.
pub type Token = u64;

/// One request, validated and ready to go.
#[derive(Debug)]
pub struct NewRequest {
    /// Whose outcome this is.
    pub token: Token,
    /// Which requester asks.
    pub requester: u32,
    /// Topic, payload, QoS and properties. Response Topic, Correlation Data and Message Expiry Interval
    /// are filled in by the core where they are absent.
    pub message: Message,
    /// When it was asked for.
    pub started: Instant,
    /// How long all steps together may take.
    pub timeout: Duration,
    /// Whether 0x10 *No matching subscribers* ends it at once.
    pub fail_fast: bool,
    /// Takes every response that comes, and ends in `Event::Done`; `None` for the usual one.
    pub many: Option<Many>,
}

/// What ends a request that takes many responses, besides its timeout and its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Many {
    /// No response for so long after the last one.
    pub stall: Option<Duration>,
    /// It is a stream: its timeout is for the first response only, and whatever ends it here is an error.
    pub stream: bool,
}

/// How a requester chooses its response topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseTopic {
    /// From Response Information, else from the client identifier.
    Default,
    /// The user's own.
    Fixed(String),
}

/// What a requester is set to.
#[derive(Debug, Clone)]
pub struct RequesterOptions {
    /// Where responses come.
    pub response_topic: ResponseTopic,
    /// The QoS of the response subscription; `None` chooses by what else the client carries.
    pub response_qos: Option<u8>,
    /// How many requests may be under way; more wait.
    pub max_pending_requests: usize,
    /// Whether unacknowledged requests go out again after a reconnect.
    pub resend: bool,
    /// Match by topic alone, for responders that return no Correlation Data.
    pub match_by_topic: bool,
    /// Whether requests carry what the peers of Azure IoT Operations expect.
    pub azure: bool,
}

/// How a subscription is asked for (MQTT 5.0, section 3.8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The highest QoS of deliveries.
    pub qos: u8,
    /// Not what this client published itself.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag.
    pub retain_as_published: bool,
    /// 0 send retained messages, 1 only for a new subscription, 2 never.
    pub retain_handling: u8,
    /// An identifier that comes back with each message.
    pub subscription_identifier: Option<u32>,
}

/// What the caller asks of the I/O thread.
#[derive(Debug)]
pub enum Command {
    /// Connect; ends in `Event::ConnAck` or `Event::Failed` for the token.
    Connect {
        /// Whose outcome this is.
        token: Token,
    },
    /// Open a requester under an id that the caller chose; subscribes on its first request.
    OpenRequester {
        /// The caller's id; ids are not used again on one connection.
        requester: u32,
        /// Its settings.
        options: RequesterOptions,
    },
    /// Tells when a requester has no request under way: ends in `Event::Done`.
    DrainRequester {
        /// Whose outcome this is.
        token: Token,
        /// Which.
        requester: u32,
    },
    /// Ends all requests of a requester with `ClientClosed` and gives up its response topic.
    CloseRequester {
        /// Which.
        requester: u32,
    },
    /// Send a request.
    Request(Box<NewRequest>),
    /// The caller no longer waits for this request.
    Cancel {
        /// The request's token.
        token: Token,
    },
    /// Publish; ends in `Event::Published`.
    Publish {
        /// Whose outcome this is.
        token: Token,
        /// What to send.
        message: Message,
    },
    /// Subscribe for messages; ends in `Event::Subscribed`, then `Event::Message`s.
    Subscribe {
        /// Whose outcome this is, and the name of the subscription afterwards.
        token: Token,
        /// One filter or more.
        filters: Vec<String>,
        /// How.
        options: SubscribeOptions,
    },
    /// End a subscription.
    Unsubscribe {
        /// Its token.
        token: Token,
    },
    /// A message of a subscription was taken over: it may be acknowledged.
    Acknowledge {
        /// The number that came with the message.
        delivery: u64,
    },
    /// Start to respond; ends in `Event::Subscribed`.
    OpenResponder {
        /// Whose outcome this is.
        token: Token,
        /// The caller's id; ids are not used again on one connection.
        responder: u32,
        /// Its settings.
        options: Arc<ResponderOptions>,
    },
    /// Authenticate again on this connection (section 4.12.1); ends in `Event::Done`.
    Reauthenticate {
        /// Whose outcome this is.
        token: Token,
        /// The method's first data.
        data: Secret,
    },
    /// What `Event::Ask` asked for, or why there is no answer.
    Answer {
        /// The number of the question: an answer that comes too late is not taken for the next one's.
        question: u64,
        /// `Err` says why there is none.
        answer: Result<Answer, String>,
    },
    /// A handler is done.
    Reply {
        /// The number that came with the request.
        delivery: u64,
        /// What to send; `None` sends nothing.
        reply: Option<Box<Reply>>,
    },
    /// Unsubscribe these responders, finish what they have; ends in `Event::Done`.
    Drain {
        /// Whose outcome this is.
        token: Token,
        /// Which responders.
        responders: Vec<u32>,
    },
    /// Start no more handlers of these responders, and answer what waits with 503.
    StopResponders {
        /// Which responders.
        responders: Vec<u32>,
    },
    /// Take these responders away without waiting for anything.
    CloseResponders {
        /// Which responders.
        responders: Vec<u32>,
    },
    /// Disconnect in good order; pending work ends with `ClientClosed`. Ends in `Event::Done`.
    Disconnect {
        /// Whose outcome this is, if anybody waits.
        token: Option<Token>,
    },
}

impl Command {
    /// Whether it concerns the connection as a whole, which only the I/O thread makes and ends.
    pub(crate) const fn is_drivers(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Disconnect { .. } | Self::Answer { .. })
    }
}

/// What the connection cannot know by itself.
#[derive(Debug)]
pub enum Question {
    /// Before a CONNECT: credentials, or the first data of enhanced authentication.
    Connect,
    /// The broker's authentication data, for the client's next.
    Challenge {
        /// As it came.
        data: Secret,
    },
    /// The broker's last word: it only has to be checked.
    Finish {
        /// As it came; `None`: the broker sent no data.
        data: Option<Secret>,
    },
}

/// The answer to a question; what was not asked for is `None`.
#[derive(Default)]
pub struct Answer {
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Authentication data.
    pub data: Option<Secret>,
}

// By hand: a user name is a credential, too, for brokers that authorize by token.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

/// What the I/O thread tells.
#[derive(Debug)]
pub enum Event {
    /// A request has its response.
    Response {
        /// The request's token.
        token: Token,
        /// The response as it came.
        message: Message,
        /// What was asked.
        request_topic: Bytes,
        /// From the call to the arrival.
        latency: Duration,
    },
    /// Any operation ended badly.
    Failed {
        /// Its token.
        token: Token,
        /// Why.
        error: Error,
    },
    /// A connection is up, the first or a later one.
    Connected {
        /// What the broker said.
        connack: Arc<ConnAck>,
        /// The client identifier in use.
        client_id: String,
    },
    /// A connect has ended well.
    ConnAck {
        /// The token of `Command::Connect`.
        token: Token,
        /// What the broker said.
        connack: Arc<ConnAck>,
    },
    /// The connection is gone.
    Disconnected {
        /// The broker's reason, if it gave one.
        reason_code: Option<ReasonCode>,
        /// What happened.
        detail: String,
        /// Whether it stays so.
        final_: bool,
    },
    /// Something that only the caller knows; to be given by `Command::Answer`.
    Ask {
        /// Its number, which the answer repeats.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// The caller's event loop is to wait for this descriptor instead of the one before, and to call
    /// `Link::readable` for it.
    #[cfg(target_os = "linux")]
    Watch(Arc<std::os::fd::OwnedFd>),
    /// Another attempt comes.
    Reconnecting {
        /// Counted from 1 since the connection was lost.
        attempt: u32,
        /// How long until it starts.
        delay: Duration,
    },
    /// A publish was acknowledged (or handed to the network, at QoS 0).
    Published {
        /// Its token.
        token: Token,
        /// How the broker took it.
        puback: PubAck,
    },
    /// A subscription or a responder is in force.
    Subscribed {
        /// Its token.
        token: Token,
    },
    /// A message for a subscription.
    Message {
        /// The subscription's token.
        token: Token,
        /// The message.
        message: Message,
        /// To be given back by `Command::Acknowledge`; `None` at QoS 0.
        delivery: Option<u64>,
    },
    /// A request for a responder.
    Request {
        /// Which responder.
        responder: u32,
        /// To be given back by `Command::Reply`.
        delivery: u64,
        /// The request.
        message: Message,
        /// When its answer is worth nothing any more.
        deadline: Option<Instant>,
    },
    /// A drain, an unsubscribe or a disconnect is done.
    Done {
        /// Its token.
        token: Token,
    },
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters of one connection; written by the I/O thread, read by anybody.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        /// The counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),* }

        impl Stats {
            /// Names and values.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl Counters {
            /// Reads every counter.
            #[must_use]
            pub fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Requests that wait for their outcome.
    pending,
    /// QoS 1 and 2 packets that the broker has not acknowledged.
    in_flight,
    /// Requests asked for.
    requests,
    /// Responses handed to their callers.
    responses,
    /// Responses to requests that had timed out or were cancelled.
    late,
    /// Responses that answer nothing we know.
    unmatched,
    /// Responses to requests already answered.
    duplicates,
    /// Retained messages on a response topic.
    retained,
    /// Requests that ended by timeout.
    timeouts,
    /// Requests that were cancelled.
    cancelled,
    /// Requests received by responders.
    requests_received,
    /// Responses sent by responders, repeated ones included.
    responses_sent,
    /// Copies of a request answered from the duplicate cache or by the running handler.
    duplicates_suppressed,
    /// Requests not run: expired, retained, or with a Response Topic that is not allowed.
    requests_dropped,
    /// Connections made again after the first.
    reconnects,
    /// Bytes written to the network.
    bytes_sent,
    /// Bytes read from the network.
    bytes_received,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The queue of commands, and the bell that the I/O task listens to.
#[derive(Debug, Default)]
pub struct CommandQueue {
    commands: std::sync::Mutex<Vec<Command>>,
    pub(crate) bell: tokio::sync::Notify,
}

impl CommandQueue {
    /// Moves a batch in, and rings when the queue was empty.
    pub fn append(&self, batch: &mut Vec<Command>) {
        let was_empty = {
            let mut commands = self.commands.lock().expect("no panic while the queue is locked");
            let was_empty = commands.is_empty();
            commands.append(batch);
            was_empty
        };
        if was_empty {
            self.bell.notify_one();
        }
    }

    /// Wakes the I/O thread.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commands.lock().expect("no panic while the queue is locked").is_empty()
    }

    /// Adds one command.
    pub fn push(&self, command: Command) {
        self.append(&mut vec![command]);
    }

    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.commands.lock().expect("no panic while the queue is locked"), into);
    }
}
