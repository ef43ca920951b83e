//! The requester: validates the arguments of a request, and hands it down.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict};
use reqtt_core::azure;
use reqtt_core::command::{Command, Many, NewRequest, RequesterOptions, ResponseTopic, Token};
use reqtt_core::message::{Message as CoreMessage, Properties};
use reqtt_core::topic;

use crate::bridge::Call;
use crate::client::Connection;
use crate::errors;
use crate::message::{Given, check_qos, check_timeout, set_payload_as};
use crate::outcome::Waiting;
use crate::owner::Owner;

/// Which requester of the connection; 0 before it is opened.
static IDS: AtomicU32 = AtomicU32::new(1);

/// The part of a requester that sends requests.
#[pyclass(frozen, subclass, module = "reqtt._core")]
pub(crate) struct Requester {
    qos: u8,
    timeout: Duration,
    response_qos: Option<u8>,
    max_pending_requests: usize,
    resend: bool,
    match_by_topic: bool,
    azure: bool,
    /// What a request has that brings no `retry` of its own.
    retry: Option<Py<PyAny>>,
    opened: std::sync::Mutex<Option<(u32, Py<Connection>)>>,
}

impl Requester {
    fn bridge(&self, py: Python<'_>) -> PyResult<(u32, Owner)> {
        let opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match opened.as_ref() {
            Some((id, connection)) => Ok((*id, connection.get().bridge(py)?)),
            None => Err(errors::simple(
                py,
                "ReqttError",
                "the requester is not open: use `async with Requester(...) as req:`, or `with` for that of reqtt.blocking",
            )),
        }
    }
}

#[pymethods]
impl Requester {
    #[new]
    #[pyo3(signature = (*, qos=1, timeout=10.0, response_qos=None, max_pending_requests=10_000, resend=true, match_by_topic=false, azure=false, retry=None))]
    #[allow(clippy::too_many_arguments, reason = "the options")]
    fn new(
        qos: u8,
        timeout: f64,
        response_qos: Option<u8>,
        max_pending_requests: usize,
        resend: bool,
        match_by_topic: bool,
        azure: bool,
        retry: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        if max_pending_requests == 0 {
            return Err(PyValueError::new_err(
                "max_pending_requests=0 lets no request through: use 1 or more",
            ));
        }
        Ok(Self {
            qos: check_qos(qos)?,
            timeout: check_timeout(timeout)?,
            response_qos: response_qos.map(check_qos).transpose()?,
            max_pending_requests,
            resend,
            match_by_topic,
            azure,
            retry,
            opened: std::sync::Mutex::new(None),
        })
    }

    /// Opens it on a connection.
    #[pyo3(signature = (connection, response_topic=None))]
    fn _open(
        &self,
        py: Python<'_>,
        connection: Py<Connection>,
        response_topic: Option<String>,
    ) -> PyResult<()> {
        let bridge = connection.get().bridge(py)?;
        let response_topic = match response_topic {
            Some(topic) => {
                topic::check_topic(&topic).map_err(|error| errors::to_py(py, &error))?;
                ResponseTopic::Fixed(topic)
            }
            None => ResponseTopic::Default,
        };
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let options = RequesterOptions {
            response_topic,
            response_qos: self.response_qos,
            max_pending_requests: self.max_pending_requests,
            resend: self.resend,
            match_by_topic: self.match_by_topic,
            azure: self.azure,
        };
        bridge.tell(Command::OpenRequester { requester: id, options });
        *self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((id, connection));
        Ok(())
    }

    /// Ends when none of its requests is under way.
    fn _drain(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (requester, bridge) = self.bridge(py)?;
        bridge.start(py, Waiting::Plain, |token| Command::DrainRequester { token, requester })
    }

    /// Ends its requests with `ClientClosed`, and gives up its response topic.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        let opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((id, connection)) = opened.as_ref() else { return Ok(()) };
        if let Ok(bridge) = connection.get().bridge(py) {
            bridge.check(py)?;
            bridge.tell(Command::CloseRequester { requester: *id });
        }
        Ok(())
    }

    /// Send a request and await its response (MQTT 5.0, section 4.10).
    ///
    /// Arguments are checked in the call, before anything is sent. What it returns is awaited once, by
    /// `await`, `asyncio.create_task`, `asyncio.gather` or a `TaskGroup`. Cancelling it, or letting go of
    /// it, frees its slot at once; the responder is not told.
    ///
    /// Args:
    ///     topic: a topic name, without wildcards (section 4.7).
    ///     payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
    ///     response_type: what the payload of the response is decoded to; None: the `Response` itself.
    ///     timeout: seconds, above 0, for all steps: connect, subscribe, publish and the wait. None: the
    ///         requester's.
    ///     qos: 0, 1 or 2; None: the requester's.
    ///     content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
    ///     payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
    ///     user_properties: pairs of text, in order, or a mapping; up to 65,535 bytes each
    ///         (section 3.3.2.3.7).
    ///     message_expiry_interval: whole seconds, from 1; never more is sent than what remains of
    ///         `timeout`, which is also what None sends, rounded up (section 3.3.2.3.3).
    ///     correlation_data: up to 65,535 bytes, not in flight on the same response topic; None: chosen here
    ///         (section 3.3.2.3.6).
    ///     response_topic: for this request only; None: the requester's (section 3.3.2.3.5).
    ///     fail_fast: end with `NoMatchingSubscribers` as soon as the broker says so; False waits
    ///         for a response all the same.
    ///     retry: asks again where it failed; each attempt has `timeout`. None: the requester's; False: not.
    ///     hedge: seconds, above 0, after which a request without an answer is sent a second time, with other
    ///         Correlation Data: another member of a shared group may be faster. The first answer counts, the
    ///         other is dropped. "p95": what 95 % of the latest hedged requests to this topic took at most,
    ///         once 20 of them are known. For what may run twice only.
    ///
    /// Raises:
    ///     InvalidTopic, ValueError, TypeError: an argument that cannot be sent; in the call.
    ///     ResponseTimeout: no response in time; its `phase` says how far the request had come.
    ///     NoMatchingSubscribers: the broker knows of no responder (0x10, section 3.4.2.1).
    ///     RemoteError: the responder answered with an error, e.g. `NotFound`.
    ///     InvalidResponse: a status that is no number, or an error body that cannot be read.
    ///     DecodeError: the payload is not what `response_type` says.
    ///     PublishError, SubscribeError: the broker refused the request, or the response topic.
    ///     PacketTooLarge: the broker takes no packet of this size (section 3.2.2.3.6).
    ///     ConnectionLost: there will be no other connection, or with `resend=False` it broke before the
    ///         PUBACK.
    ///     ClientClosed: the requester or its client was closed.
    ///
    /// Example:
    ///     async with reqtt.Requester("mqtt://localhost:1883") as req:
    ///         response = await req.request("cmnd/light-in-bedroom/power", "ON", timeout=2)
    ///         power = await req.request("cmnd/light-in-bedroom/energy", response_type=Energy)
    #[pyo3(signature = (topic, payload=None, *, response_type=None, timeout=None, qos=None, content_type=None,
        payload_format_indicator=None, user_properties=None, message_expiry_interval=None, correlation_data=None,
        response_topic=None, fail_fast=true, retry=None, hedge=None))]
    #[allow(clippy::too_many_arguments, reason = "the public contract")]
    fn request(
        slf: &Bound<'_, Self>,
        topic: &str,
        payload: Option<&Bound<'_, PyAny>>,
        response_type: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
        qos: Option<u8>,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: Option<&Bound<'_, PyAny>>,
        message_expiry_interval: Option<u32>,
        correlation_data: Option<&[u8]>,
        response_topic: Option<String>,
        fail_fast: bool,
        retry: Option<&Bound<'_, PyAny>>,
        hedge: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let timeout = timeout.map_or(Ok(this.timeout), check_timeout)?;
        let retry = retry.or(this.retry.as_ref().map(|retry| retry.bind(py)));
        if hedge.is_some() || retry.is_some_and(|retry| !retry.is(PyBool::new(py, false))) {
            let options = PyDict::new(py);
            options.set_item(intern!(py, "response_type"), response_type)?;
            options.set_item(intern!(py, "qos"), qos)?;
            options.set_item(intern!(py, "content_type"), content_type)?;
            options.set_item(intern!(py, "payload_format_indicator"), payload_format_indicator)?;
            options.set_item(intern!(py, "user_properties"), user_properties)?;
            options.set_item(intern!(py, "message_expiry_interval"), message_expiry_interval)?;
            options.set_item(intern!(py, "correlation_data"), correlation_data)?;
            options.set_item(intern!(py, "response_topic"), response_topic)?;
            options.set_item(intern!(py, "fail_fast"), fail_fast)?;
            static START: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let start = START.import(py, "reqtt.retry", "start")?;
            let begun = start.call1((slf, topic, payload, timeout.as_secs_f64(), retry, hedge, options))?;
            let (coroutine, first) = begun.extract()?;
            return Ok(Py::new(py, Call::of_coroutine(coroutine, first))?.into_any());
        }
        let given = Given {
            content_type,
            payload_format_indicator,
            message_expiry_interval,
            response_topic,
            correlation_data,
            user_properties,
        };
        let (requester, bridge, message) = Self::prepare(slf, topic, payload, qos, given)?;
        let decode = response_type.map(|kind| compile_decoder(py, kind)).transpose()?;
        bridge.start(py, Waiting::Request(decode), |token| {
            Command::Request(Box::new(NewRequest {
                token,
                requester,
                message,
                started: Instant::now(),
                timeout,
                fail_fast,
                many: None,
            }))
        })
    }

    /// Sends a request that takes many responses. Each goes to `item(response or RemoteError)`, the end to
    /// `end(exception or None)`. Gives the token by which it is given up. `credit` makes it a stream, whose
    /// responder may send so many items; then `timeout` is for the first response only.
    #[pyo3(signature = (topic, payload, item, end, *, timeout=None, stall=None, credit=None, qos=None,
        content_type=None, payload_format_indicator=None, user_properties=None, message_expiry_interval=None, correlation_data=None,
        response_topic=None, fail_fast=true))]
    #[allow(clippy::too_many_arguments, reason = "the public contract")]
    fn _gather(
        slf: &Bound<'_, Self>,
        topic: &str,
        payload: Option<&Bound<'_, PyAny>>,
        item: Py<PyAny>,
        end: Py<PyAny>,
        timeout: Option<f64>,
        stall: Option<f64>,
        credit: Option<u64>,
        qos: Option<u8>,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: Option<&Bound<'_, PyAny>>,
        message_expiry_interval: Option<u32>,
        correlation_data: Option<&[u8]>,
        response_topic: Option<String>,
        fail_fast: bool,
    ) -> PyResult<Token> {
        let given = Given {
            content_type,
            payload_format_indicator,
            message_expiry_interval,
            response_topic,
            correlation_data,
            user_properties,
        };
        let (requester, bridge, mut message) = Self::prepare(slf, topic, payload, qos, given)?;
        let marks = &mut message.properties.user_properties;
        match credit {
            Some(credit) => {
                marks.push(("rq-stream".into(), "1".into()));
                marks.push(("rq-credit".into(), credit.to_string()));
            }
            None => marks.push((reqtt_core::GATHER.into(), "1".into())),
        }
        let timeout = timeout.map_or(Ok(slf.get().timeout), check_timeout)?;
        let many = Some(Many { stall: stall.map(check_timeout).transpose()?, stream: credit.is_some() });
        bridge.gather(slf.py(), item, end, |token| {
            let started = Instant::now();
            Command::Request(Box::new(NewRequest {
                token,
                requester,
                message,
                started,
                timeout,
                fail_fast,
                many,
            }))
        })
    }

    /// Ends a gathering.
    fn _give_up(&self, py: Python<'_>, token: Token) -> PyResult<()> {
        if let Ok((_, bridge)) = self.bridge(py) {
            bridge.cancel(py, token);
        }
        Ok(())
    }
}

impl Requester {
    /// Checks what every request has, and makes the message of it.
    fn prepare(
        slf: &Bound<'_, Self>,
        topic: &str,
        payload: Option<&Bound<'_, PyAny>>,
        qos: Option<u8>,
        given: Given<'_, '_>,
    ) -> PyResult<(u32, Owner, CoreMessage)> {
        let (py, this) = (slf.py(), slf.get());
        let (requester, bridge) = this.bridge(py)?;
        topic::check_topic(topic).map_err(|error| errors::to_py(py, &error))?;
        let mut message = CoreMessage {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            qos: qos.map_or(Ok(this.qos), check_qos)?,
            ..CoreMessage::default()
        };
        set_payload_as(py, &mut message, payload, given.content_type.as_deref())?;
        given.put_into(py, &mut message)?;
        if this.azure {
            check_azure(&message.properties)?;
        }
        Ok((requester, bridge, message))
    }
}

/// What the protocol says of a request itself cannot be the caller's.
fn check_azure(properties: &Properties) -> PyResult<()> {
    if let Some((name, _)) = properties.user_properties.iter().find(|(name, _)| azure::is_reserved(name)) {
        return Err(PyValueError::new_err(format!(
            "the user property {name} is written by interop=\"azure\": leave it out"
        )));
    }
    match &properties.correlation_data {
        Some(data) if data.len() != azure::CORRELATION_DATA => Err(PyValueError::new_err(format!(
            "correlation_data has {} bytes: with interop=\"azure\" it takes {}, or leave it out",
            data.len(),
            azure::CORRELATION_DATA
        ))),
        _ => Ok(()),
    }
}

fn compile_decoder(py: Python<'_>, kind: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static COMPILE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(COMPILE.import(py, "reqtt.codecs", "compile_decoder")?.call1((kind,))?.unbind())
}
