//! Where threads take what comes one after the other: messages, responses, requests, news and questions.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use reqtt_core::command::{Command, Event};

use super::Hub;
use super::queue::Queue;
use super::wait::{self, Waited, wait};
use crate::message::{Message, Request, check_timeout};
use crate::owner::Owner;
use crate::{bridge, errors, outcome, payload, runtime};

/// What comes one after the other, for any thread that waits for it.
#[pyclass(frozen, weakref, module = "reqtt._core")]
pub(crate) struct Inbox {
    queue: Arc<Queue>,
    hub: Mutex<Weak<Hub>>,
    forks: u32,
}

impl Inbox {
    pub(super) const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// From now on it belongs to this connection.
    pub(super) fn attach(&self, hub: &Arc<Hub>) -> Arc<Queue> {
        *self.hub.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(hub);
        self.queue.clone()
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn translate(&self, py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
        match event {
            Event::Message { message, .. } => {
                // It made room for one that was held.
                if let (Some(delivery), Some(hub)) = (self.queue.let_in(), self.hub()) {
                    hub.tell(Command::Acknowledge { delivery });
                }
                Ok(Message::new(py, message)?.into_any())
            }
            Event::Request { responder, delivery, message, deadline } => {
                let hub = self.hub();
                let known = hub.and_then(|hub| hub.responder(responder).map(|options| (hub, options)));
                let Some((hub, options)) = known else { return Ok(py.None()) };
                let owner = Owner::Threads(hub);
                let request = Request::incoming(py, owner, options, delivery, message, deadline)?;
                Ok((responder, request).into_pyobject(py)?.into_any().unbind())
            }
            Event::Ask { number, question } => {
                let (kind, data) = outcome::question(py, &question);
                Ok((number, kind, data).into_pyobject(py)?.into_any().unbind())
            }
            Event::Failed { error, .. } => Err(errors::to_py(py, &error)),
            Event::Response { .. } => Ok(outcome::item(py, event)),
            Event::Connected { .. } | Event::Disconnected { .. } | Event::Reconnecting { .. } => {
                Ok(outcome::news(py, event)?.into_any().unbind())
            }
            _ => Ok(py.None()),
        }
    }
}

#[pymethods]
impl Inbox {
    /// `limit`: how many messages, or news, may wait; None: any number.
    #[new]
    #[pyo3(signature = (limit=None))]
    fn new(limit: Option<usize>) -> PyResult<Self> {
        if limit == Some(0) {
            return Err(PyValueError::new_err("a limit of 0 holds nothing: use 1 or more"));
        }
        let queue = Arc::new(Queue::new(limit.unwrap_or(0)));
        Ok(Self { queue, hub: Mutex::new(Weak::new()), forks: runtime::forks() })
    }

    /// The next one; None at the end. Raises its error, and `TimeoutError` after `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let until = timeout.map(check_timeout).transpose()?.map(|timeout| Instant::now() + timeout);
        runtime::check_process(self.forks)?;
        bridge::refuse_on_a_loop(py)?;
        let waited = wait(py, &self.queue, until)?;
        wait::log(py);
        payload::take_back(py);
        match waited {
            Waited::Event(event) => self.translate(py, event),
            Waited::Over => Ok(py.None()),
            Waited::Late => Err(PyTimeoutError::new_err(())),
        }
    }

    /// Nothing more comes in; what has come can still be taken.
    fn end(&self) {
        if self.forks == runtime::forks() {
            self.queue.end();
        }
    }

    /// Nothing more comes in, and what waits is forgotten.
    fn close(&self) {
        if self.forks != runtime::forks() {
            return;
        }
        let unacknowledged = self.queue.clear();
        if let Some(hub) = self.hub() {
            for delivery in unacknowledged {
                hub.tell(Command::Acknowledge { delivery });
            }
        }
    }

    /// How many threads wait at this moment.
    #[getter]
    fn idle(&self) -> usize {
        self.queue.waiting()
    }

    /// How many QoS 0 messages found no room.
    #[getter]
    fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}
