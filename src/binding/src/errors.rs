//! From the core's error to the exception tree of `reqtt.errors`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use reqtt_core::Error;

/// The exception for `error`: its text as the message, its facts as attributes.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|failed| failed)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let facts = PyDict::new(py);
    let name = match error {
        Error::Connect { reason_code, reason_string, .. } => {
            facts.set_item("reason_code", reason_code.map(|code| code.0))?;
            facts.set_item("reason_string", reason_string)?;
            "ConnectError"
        }
        Error::ConnectionLost { reason_code, .. } => {
            facts.set_item("reason_code", reason_code.map(|code| code.0))?;
            "ConnectionLost"
        }
        Error::ClientClosed => "ClientClosed",
        Error::Subscribe { topic_filter, reason_code, reason_string, .. } => {
            facts.set_item("topic_filter", topic_filter)?;
            facts.set_item("reason_code", reason_code.0)?;
            facts.set_item("reason_string", reason_string)?;
            "SubscribeError"
        }
        Error::Publish { topic, reason_code, reason_string } => {
            facts.set_item("topic", topic)?;
            facts.set_item("reason_code", reason_code.0)?;
            facts.set_item("reason_string", reason_string)?;
            "PublishError"
        }
        Error::NoMatchingSubscribers { topic } => {
            facts.set_item("topic", topic)?;
            facts.set_item("reason_code", 0x10)?;
            "NoMatchingSubscribers"
        }
        Error::Timeout { topic, timeout, phase } => {
            facts.set_item("topic", topic)?;
            facts.set_item("timeout", timeout.as_secs_f64())?;
            facts.set_item("phase", phase.name())?;
            "ResponseTimeout"
        }
        Error::InvalidTopic { .. } => "InvalidTopic",
        Error::InvalidArgument(text) => return Ok(pyo3::exceptions::PyValueError::new_err(text.clone())),
        Error::PacketTooLarge { size, maximum, .. } => {
            facts.set_item("size", size)?;
            facts.set_item("maximum", maximum)?;
            "PacketTooLarge"
        }
    };
    exception(py, name, &error.to_string(), Some(&facts))
}

/// An exception of `reqtt.errors` by its name.
pub(crate) fn exception(
    py: Python<'_>,
    name: &str,
    message: &str,
    facts: Option<&Bound<'_, PyDict>>,
) -> PyResult<PyErr> {
    let class = py.import("reqtt.errors")?.getattr(PyString::new(py, name))?;
    Ok(PyErr::from_value(class.call((message,), facts)?))
}

/// `reqtt.errors.<name>(message)`.
pub(crate) fn simple(py: Python<'_>, name: &str, message: &str) -> PyErr {
    exception(py, name, message, None).unwrap_or_else(|failed| failed)
}
