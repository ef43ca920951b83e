//! From the core's events to what Python gets: the same for a loop and for threads.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use reqtt_core::Error;
use reqtt_core::command::{Answer, Event, Question};
use reqtt_core::options::Secret;

use crate::client::secret;
use crate::{errors, message};

/// What a waiting call stands for; the event that ends it is translated accordingly.
pub(crate) enum Waiting {
    /// A request; with the decoder of its `response_type`.
    Request(Option<Py<PyAny>>),
    /// A publish, for the topic in its error.
    Publish(String),
    /// The same, together with what else this tick of the loop brings.
    Item(String),
    /// `None` is its result.
    Plain,
    /// The connect.
    Connect,
}

impl Waiting {
    /// What the call ends with.
    pub fn outcome(self, py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
        match (event, self) {
            (Event::Response { message, request_topic, latency, .. }, Self::Request(decode)) => {
                message::outcome(py, message, &request_topic, latency.as_secs_f64(), decode)
            }
            (Event::Published { puback, .. }, Self::Publish(topic) | Self::Item(topic))
                if puback.reason_code.is_error() =>
            {
                let (reason_code, reason_string) = (puback.reason_code, puback.reason_string);
                Err(errors::to_py(py, &Error::Publish { topic, reason_code, reason_string }))
            }
            (Event::Published { puback, .. }, _) => {
                Py::new(py, message::PubAck::from(puback)).map(Py::into_any)
            }
            (Event::ConnAck { connack, .. }, _) => {
                Py::new(py, message::ConnAck::from(connack)).map(Py::into_any)
            }
            (Event::Failed { error, .. }, _) => Err(errors::to_py(py, &error)),
            _ => Ok(py.None()),
        }
    }
}

/// One of many responses to a request: an error of its responder is an item, too.
pub(crate) fn item(py: Python<'_>, event: Event) -> Py<PyAny> {
    Waiting::Request(None).outcome(py, event).unwrap_or_else(|error| error.into_value(py).into_any())
}

/// What has happened to the connection: a name and its facts.
pub(crate) fn news<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        Event::Connected { connack, client_id } => {
            let connack = Py::new(py, message::ConnAck::from(connack))?;
            ("connected", (connack, client_id)).into_pyobject(py)
        }
        Event::Disconnected { reason_code, detail, final_ } => {
            ("disconnected", (reason_code.map(|code| code.0), detail, final_)).into_pyobject(py)
        }
        Event::Reconnecting { attempt, delay } => {
            ("reconnecting", (attempt, delay.as_secs_f64())).into_pyobject(py)
        }
        _ => Ok(PyTuple::empty(py)),
    }
}

/// What the connection asks: a name, and the broker's data.
pub(crate) fn question<'py>(
    py: Python<'py>,
    question: &Question,
) -> (&'static str, Option<Bound<'py, PyBytes>>) {
    let (kind, data) = match question {
        Question::Connect => ("connect", None),
        Question::Challenge { data } => ("challenge", Some(data)),
        Question::Finish { data } => ("finish", data.as_ref()),
    };
    (kind, data.map(|data| PyBytes::new(py, data.as_bytes())))
}

/// What Python answers, or why it does not.
pub(crate) fn answer(
    username: Option<String>,
    password: Option<&Bound<'_, PyAny>>,
    data: Option<&[u8]>,
    error: Option<String>,
) -> PyResult<Result<Answer, String>> {
    if let Some(why) = error {
        return Ok(Err(why));
    }
    let password = password.map(secret).transpose()?.flatten();
    Ok(Ok(Answer { username, password, data: data.map(Secret::from) }))
}
