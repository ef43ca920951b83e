//! An operation that a thread waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use reqtt_core::command::Token;

use super::Hub;
use super::queue::Queue;
use super::wait::{self, Waited, wait};
use crate::message::check_timeout;
use crate::outcome::Waiting;
use crate::payload;

/// An operation under way. Wait for it once.
///
/// An end of the wait by a signal, or letting go of it, gives up what it stands for.
#[pyclass(frozen, generic, module = "reqtt._core")]
pub(crate) struct Pending {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    token: Token,
    waiting: Mutex<Option<Waiting>>,
}

impl Pending {
    pub(super) fn new(hub: Arc<Hub>, queue: Arc<Queue>, token: Token, waiting: Waiting) -> Self {
        Self { hub, queue, token, waiting: Mutex::new(Some(waiting)) }
    }

    fn take(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Pending {
    /// Its result, or what it raises. `TimeoutError` after `timeout` seconds: then it is given up.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let until = timeout.map(check_timeout).transpose()?.map(|timeout| Instant::now() + timeout);
        let Some(waiting) = self.take() else {
            return Err(PyRuntimeError::new_err("this was waited for before: keep its result"));
        };
        let waited = wait(py, &self.queue, until);
        payload::take_back(py);
        match waited {
            Ok(Waited::Event(event)) => {
                wait::log(py);
                waiting.outcome(py, event)
            }
            Ok(Waited::Over | Waited::Late) => {
                self.hub.cancel(self.token);
                Err(PyTimeoutError::new_err(()))
            }
            Err(error) => {
                self.hub.cancel(self.token);
                Err(error)
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.take().is_some() {
            self.hub.cancel(self.token);
        }
    }
}
