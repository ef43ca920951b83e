//! Request/response over MQTT 5: connection, correlation map, responder. No Python in it.
//!
//! ```text
//! caller -> command -> requester -> correlation -> connection -> wire
//! caller <- mailbox <- requester <- correlation <- connection <- wire
//! ```
//!
//! A request goes down once and comes back once. [`connection::run`] is a task that owns one connection;
//! commands reach it through its [`connection::Link`], events leave through a [`mailbox::Mailbox`].

pub mod azure;
pub mod command;
pub mod connection;
pub mod correlation;
mod duplicates;
mod effects;
pub mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod mailbox;
pub mod message;
pub mod options;
mod requester;
mod responder;
pub mod topic;

pub use error::{Error, ReasonCode, Result};
pub use requester::own_topic;
pub use responder::{Ack, GATHER, Reply, ResponderOptions};
