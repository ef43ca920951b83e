//! Who a connection belongs to: an event loop, or whichever thread calls.

use std::sync::Arc;

use pyo3::prelude::*;
use reqtt_core::ResponderOptions;
use reqtt_core::command::{Command, Token};

use crate::blocking::Hub;
use crate::bridge::Bridge;
use crate::outcome::Waiting;

/// The owner's side of an open connection.
pub(crate) enum Owner {
    Loop(Py<Bridge>),
    Threads(Arc<Hub>),
}

impl Owner {
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Loop(bridge) => Self::Loop(bridge.clone_ref(py)),
            Self::Threads(hub) => Self::Threads(hub.clone()),
        }
    }

    /// Raises where the caller may not use it.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Loop(bridge) => bridge.get().on_its_loop(py),
            Self::Threads(hub) => hub.check(py),
        }
    }

    /// Starts an operation: gives what is to be awaited, or to be waited for.
    pub fn start(
        &self,
        py: Python<'_>,
        waiting: Waiting,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Py<PyAny>> {
        match self {
            Self::Loop(bridge) => {
                let call = Bridge::start(bridge.bind(py), waiting, command)?;
                Ok(Py::new(py, call)?.into_any())
            }
            Self::Threads(hub) => {
                let pending = Hub::start(hub, py, waiting, command)?;
                Ok(Py::new(py, pending)?.into_any())
            }
        }
    }

    /// Starts a subscription. For threads `push` is an `Inbox`.
    pub fn subscribe(
        &self,
        py: Python<'_>,
        push: Py<PyAny>,
        fail: Py<PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<(Token, Py<PyAny>)> {
        match self {
            Self::Loop(bridge) => {
                let (token, call) = Bridge::subscribe(bridge.bind(py), push, fail, command)?;
                Ok((token, Py::new(py, call)?.into_any()))
            }
            Self::Threads(hub) => {
                let (token, pending) = Hub::subscribe(hub, push.bind(py), command)?;
                Ok((token, Py::new(py, pending)?.into_any()))
            }
        }
    }

    /// Starts a request with many responses. For threads `item` is an `Inbox`.
    pub fn gather(
        &self,
        py: Python<'_>,
        item: Py<PyAny>,
        end: Py<PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Token> {
        match self {
            Self::Loop(bridge) => Bridge::gather(bridge.bind(py), item, end, command),
            Self::Threads(hub) => Hub::gather(hub, item.bind(py), command),
        }
    }

    /// Registers a responder and starts it. For threads `runner` is an `Inbox`.
    pub fn respond(
        &self,
        py: Python<'_>,
        id: u32,
        options: ResponderOptions,
        runner: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        match self {
            Self::Loop(bridge) => {
                let call = Bridge::respond(bridge.bind(py), id, options, runner)?;
                Ok(Py::new(py, call)?.into_any())
            }
            Self::Threads(hub) => {
                let pending = Hub::respond(hub, id, options, runner.bind(py))?;
                Ok(Py::new(py, pending)?.into_any())
            }
        }
    }

    /// Sends a command that has no outcome.
    pub fn tell(&self, command: Command) {
        match self {
            Self::Loop(bridge) => bridge.get().tell(command),
            Self::Threads(hub) => hub.tell(command),
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, token: Token) {
        match self {
            Self::Loop(bridge) => bridge.get().tell(Command::Unsubscribe { token }),
            Self::Threads(hub) => hub.cancel(token),
        }
    }

    /// The same as `tell`; with a loop, together with what else this tick of it brings.
    pub fn tell_soon(&self, py: Python<'_>, command: Command) -> PyResult<()> {
        match self {
            Self::Loop(bridge) => Bridge::tell_soon(bridge.bind(py), command),
            Self::Threads(hub) => {
                hub.tell(command);
                Ok(())
            }
        }
    }

    /// The caller of `token` no longer waits.
    pub fn cancel(&self, py: Python<'_>, token: Token) {
        match self {
            Self::Loop(bridge) => bridge.get().cancel(py, token),
            Self::Threads(hub) => hub.cancel(token),
        }
    }

    /// The task of a handler that has answered.
    pub fn answered(&self, delivery: u64) -> Option<Py<PyAny>> {
        match self {
            Self::Loop(bridge) => bridge.get().answered(delivery),
            Self::Threads(_) => None,
        }
    }

    /// The tasks of these responders' handlers that still run; threads have none.
    pub fn tasks(&self, py: Python<'_>, responders: &[u32]) -> Vec<Py<PyAny>> {
        match self {
            Self::Loop(bridge) => bridge.get().tasks(py, responders),
            Self::Threads(_) => Vec::new(),
        }
    }

    /// Requests that wait for their outcome.
    pub fn pending(&self) -> usize {
        match self {
            Self::Loop(bridge) => bridge.get().pending(),
            Self::Threads(hub) => hub.pending(),
        }
    }

    pub fn client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Loop(bridge) => bridge.get().client(py),
            Self::Threads(hub) => hub.client(py),
        }
    }

    /// Ends it: whatever waits ends with `ClientClosed`.
    pub fn detach(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Loop(bridge) => bridge.get().detach(py),
            Self::Threads(hub) => {
                hub.detach();
                Ok(())
            }
        }
    }
}
