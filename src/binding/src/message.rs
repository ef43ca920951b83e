//! What Python sees of a message: `Message`, and `Request` and `Response` on top of it; `ConnAck`, `PubAck`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyMapping, PyString, PyTuple};
use reqtt_core::azure::is_supported;
use reqtt_core::command::Command;
use reqtt_core::message::{ConnAck as CoreConnAck, Message as CoreMessage, Properties, PubAck as CorePubAck};
use reqtt_core::topic::{self, Pattern};
use reqtt_core::{Reply, ResponderOptions};

use crate::errors;
use crate::outcome::Waiting;
use crate::owner::Owner;
use crate::payload::lend;

/// One message with its MQTT 5 properties, as it came (section 3.3).
///
/// Made by the library, immutable, and free of the connection: it may be kept, and read in any thread.
///
///     async with client.subscribe("state/+/power") as states:
///         async for message in states:
///             print(message.topic, message.text, message.user_properties)
#[pyclass(frozen, subclass, module = "reqtt")]
pub(crate) struct Message {
    pub inner: CoreMessage,
}

impl Message {
    pub fn new(py: Python<'_>, inner: CoreMessage) -> PyResult<Py<Self>> {
        Py::new(py, Self { inner })
    }
}

#[pymethods]
impl Message {
    /// The topic name (section 3.3.2.1).
    #[getter]
    fn topic(&self) -> &str {
        self.inner.topic()
    }

    /// The payload as it came.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.payload)
    }

    /// The payload as UTF-8 text. Raises `DecodeError` if it is none.
    #[getter]
    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        match std::str::from_utf8(&self.inner.payload) {
            Ok(text) => Ok(PyString::new(py, text)),
            Err(error) => Err(errors::simple(
                py,
                "DecodeError",
                &format!("the payload is no UTF-8 text ({error}): read .payload instead"),
            )),
        }
    }

    /// The payload as JSON, whatever its Content Type. Raises `DecodeError` if it is none.
    fn json<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let arguments =
            (slf.get().payload(py), py.import(intern!(py, "typing"))?.getattr(intern!(py, "Any"))?);
        codecs(py)?.call_method1(decoder_of(slf), arguments)
    }

    /// The payload as `type`, by the codec that an annotation would choose (`reqtt.codecs`).
    ///
    /// Raises `DecodeError` if it is none, or if its Content Type contradicts `type` (section 3.3.2.3.9), and
    /// `TypeError` if there is no codec for `type`.
    ///
    ///     reading = response.decode(Reading)
    fn decode<'py>(slf: &Bound<'py, Self>, r#type: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let arguments = (this.payload(py), r#type, this.content_type(), this.payload_format_indicator());
        codecs(py)?.call_method1(decoder_of(slf), arguments)
    }

    /// What the payload is, e.g. `application/json`; None if it does not say (section 3.3.2.3.9).
    #[getter]
    fn content_type(&self) -> Option<&str> {
        self.inner.properties.content_type.as_deref()
    }

    /// 1 where the payload is declared to be UTF-8 text, 0 where bytes, else None (section 3.3.2.3.2).
    #[getter]
    fn payload_format_indicator(&self) -> Option<u8> {
        self.inner.properties.payload_format_indicator
    }

    /// What was left of its lifetime when it arrived, in whole seconds, if it has an end
    /// (section 3.3.2.3.3).
    #[getter]
    fn message_expiry_interval(&self) -> Option<u32> {
        self.inner.properties.message_expiry_interval
    }

    /// Where a response is expected, if one is (section 3.3.2.3.5).
    #[getter]
    fn response_topic(&self) -> Option<&str> {
        self.inner.properties.response_topic.as_deref()
    }

    /// What ties a response to its request, up to 65,535 bytes (section 3.3.2.3.6).
    #[getter]
    fn correlation_data<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.inner.properties.correlation_data.as_ref().map(|data| PyBytes::new(py, data))
    }

    /// Name and value pairs, in order; names may repeat (section 3.3.2.3.7).
    #[getter]
    fn user_properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.properties.user_properties.iter())
    }

    /// The identifiers of the subscriptions that brought it (section 3.3.2.3.8).
    #[getter]
    fn subscription_identifiers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.properties.subscription_identifiers.iter())
    }

    /// 0, 1 or 2: as it was delivered (section 4.3).
    #[getter]
    fn qos(&self) -> u8 {
        self.inner.qos
    }

    /// Whether it is a retained message (section 3.3.1.3).
    #[getter]
    fn retain(&self) -> bool {
        self.inner.retain
    }

    /// Whether it may have been delivered before (section 3.3.1.1).
    #[getter]
    fn dup(&self) -> bool {
        self.inner.dup
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let message = &slf.get().inner;
        Ok(format!("<{} \"{}\" {} bytes>", slf.get_type().name()?, message.topic(), message.payload.len()))
    }
}

impl Message {
    fn decode_with<'py>(&self, py: Python<'py>, decoder: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        decoder.call1((self.payload(py), self.content_type(), self.payload_format_indicator()))
    }
}

/// The answer to a request, or what a handler returns for full control of it (section 4.10).
///
/// A requester gets one for a success only: an error status is raised as `RemoteError`. It can be pickled.
///
/// Args:
///     payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
///     status: an HTTP status, 200 to 599 (RFC 9110, section 15); None: 200.
///     content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
///     payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
///     user_properties: pairs of text, in order, or a mapping; at most 65,535 bytes each (section 3.3.2.3.7).
///
/// Raises:
///     ValueError: `status`, the indicator or a text is out of range.
///     TypeError: no codec can encode the payload, or the user properties are no pairs of text.
///
/// Example:
///     @responder("cmnd/camera/picture")
///     def picture() -> Response:
///         return Response(CAMERA.jpeg(), content_type="image/jpeg")
#[pyclass(frozen, extends = Message, module = "reqtt")]
pub(crate) struct Response {
    /// The status (RFC 9110, section 15): what the responder gave, else 200, or 204 without a payload.
    #[pyo3(get)]
    status: u16,
    /// Seconds from the call of `request` to the arrival; 0.0 where it did not come from the network.
    #[pyo3(get)]
    latency: f64,
}

#[pymethods]
impl Response {
    #[new]
    #[pyo3(signature = (payload=None, *, status=None, content_type=None, payload_format_indicator=None, user_properties=None))]
    fn new(
        py: Python<'_>,
        payload: Option<&Bound<'_, PyAny>>,
        status: Option<u16>,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut inner = CoreMessage::default();
        set_payload_as(py, &mut inner, payload, content_type.as_deref())?;
        Given { content_type, payload_format_indicator, user_properties, ..Given::default() }
            .put_into(py, &mut inner)?;
        let status = status.unwrap_or(200);
        if !(200..=599).contains(&status) {
            return Err(PyValueError::new_err(format!("status={status} is no HTTP status: use 200 to 599")));
        }
        Ok(PyClassInitializer::from(Message { inner }).add_subclass(Self { status, latency: 0.0 }))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, message) = (slf.py(), &slf.as_super().get().inner);
        let properties = &message.properties;
        let arguments = (
            message.topic(),
            PyBytes::new(py, &message.payload),
            slf.get().status,
            slf.get().latency,
            properties.content_type.as_deref(),
            properties.payload_format_indicator,
            properties.correlation_data.as_ref().map(|data| PyBytes::new(py, data)),
            properties.user_properties.clone(),
        );
        let rebuild = py.import(intern!(py, "reqtt._core"))?.getattr(intern!(py, "_response"))?;
        Ok((rebuild, arguments.into_pyobject(py)?))
    }
}

/// What pickle and copy make a response from.
#[pyfunction(name = "_response")]
#[allow(clippy::too_many_arguments, reason = "all it is made of")]
pub(crate) fn response_from(
    py: Python<'_>,
    topic: &str,
    payload: &[u8],
    status: u16,
    latency: f64,
    content_type: Option<String>,
    payload_format_indicator: Option<u8>,
    correlation_data: Option<&[u8]>,
    user_properties: Vec<(String, String)>,
) -> PyResult<Py<Response>> {
    let inner = CoreMessage {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: Bytes::copy_from_slice(payload),
        properties: Properties {
            payload_format_indicator,
            content_type,
            correlation_data: correlation_data.map(Bytes::copy_from_slice),
            user_properties,
            ..Properties::default()
        },
        ..CoreMessage::default()
    };
    Py::new(py, PyClassInitializer::from(Message { inner }).add_subclass(Response { status, latency }))
}

/// What a request ends with: a `Response`, its decoded payload, or the remote error it carries.
pub(crate) fn outcome(
    py: Python<'_>,
    message: CoreMessage,
    request_topic: &[u8],
    latency: f64,
    decode: Option<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let stat = message.properties.user_property("__stat").map(str::parse::<u16>);
    // Of Azure IoT Operations: a version that may not be ours, an error of the application in a success.
    let azure = message
        .properties
        .user_properties
        .iter()
        .any(|(name, value)| name == "AppErrCode" || name == "__protVer" && !is_supported(value));
    let problem = message
        .properties
        .content_type
        .as_deref()
        .is_some_and(|kind| kind.starts_with("application/problem+json"));
    let status = match stat {
        Some(Ok(status)) => status,
        _ if message.payload.is_empty() => 204,
        _ => 200,
    };
    let failed =
        azure || problem || stat.is_some_and(|stat| !stat.is_ok_and(|status| (200..300).contains(&status)));
    let response = Py::new(
        py,
        PyClassInitializer::from(Message { inner: message }).add_subclass(Response { status, latency }),
    )?;
    if failed {
        static FROM_RESPONSE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let error = FROM_RESPONSE
            .import(py, "reqtt._status", "error_from_response")?
            .call1((&response, String::from_utf8_lossy(request_topic)))?;
        if !error.is_none() {
            return Err(PyErr::from_value(error));
        }
    }
    match decode {
        None => Ok(response.into_any()),
        Some(decode) => Ok(response.bind(py).as_super().get().decode_with(py, decode.bind(py))?.unbind()),
    }
}

/// A request as its handler sees it: the message, what its filter captured, and how long there is left.
///
/// Handlers get theirs from the network. One made here is for testing a handler or a middleware without a
/// broker.
///
/// Args:
///     topic: a topic name, without wildcards (section 4.7).
///     payload: bytes go as they are, str as text, None as nothing, the rest as JSON (`reqtt.codecs`).
///     captures: what `{name}` in the filter stands for, by name.
///     response_topic: where the response is expected (section 3.3.2.3.5).
///     correlation_data: what the response has to carry (section 3.3.2.3.6).
///     content_type: what the payload is; None: what its codec says (section 3.3.2.3.9).
///     payload_format_indicator: 0 bytes, 1 UTF-8 text; None: what its codec says (section 3.3.2.3.2).
///     user_properties: pairs of text, in order, or a mapping (section 3.3.2.3.7).
///     message_expiry_interval: whole seconds that the requester waits; None: it did not say
///         (section 3.3.2.3.3).
///     qos: 0, 1 or 2.
///
/// Raises:
///     InvalidTopic: `topic` cannot be published to.
///     ValueError: another argument is out of range.
///     TypeError: no codec can encode the payload, or the user properties are no pairs of text.
///
/// Example:
///     @responder("cmnd/{device}/power")
///     async def power(request: Request) -> str:
///         return f"{request.captures['device']}: {request.remaining()} s left"
#[pyclass(frozen, extends = Message, module = "reqtt")]
pub(crate) struct Request {
    origin: Origin,
    expires: Option<Instant>,
    over: AtomicBool,
    state: Mutex<Option<Py<PyAny>>>,
}

enum Origin {
    /// From the network.
    Delivery { owner: Owner, options: Arc<ResponderOptions>, delivery: u64 },
    /// Made by a test: captures are given, the outcome is kept.
    Made { captures: Vec<(String, String)>, outcome: Mutex<Option<Py<PyTuple>>> },
}

impl Request {
    pub fn incoming(
        py: Python<'_>,
        owner: Owner,
        options: Arc<ResponderOptions>,
        delivery: u64,
        inner: CoreMessage,
        expires: Option<Instant>,
    ) -> PyResult<Py<Self>> {
        let origin = Origin::Delivery { owner, options, delivery };
        Py::new(
            py,
            PyClassInitializer::from(Message { inner }).add_subclass(Self {
                origin,
                expires,
                over: AtomicBool::new(false),
                state: Mutex::new(None),
            }),
        )
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether this is the first outcome.
    fn end(&self) -> bool {
        // What is in it may lead back here, by a traceback for example.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(state);
        !self.over.swap(true, Ordering::Relaxed)
    }
}

#[pymethods]
impl Request {
    #[new]
    #[pyo3(signature = (topic, payload=None, *, captures=None, response_topic=None, correlation_data=None, content_type=None,
        payload_format_indicator=None, user_properties=None, message_expiry_interval=None, qos=1))]
    #[allow(clippy::too_many_arguments, reason = "the properties of a PUBLISH")]
    fn new(
        py: Python<'_>,
        topic: &str,
        payload: Option<&Bound<'_, PyAny>>,
        captures: Option<std::collections::HashMap<String, String>>,
        response_topic: Option<String>,
        correlation_data: Option<&[u8]>,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: Option<&Bound<'_, PyAny>>,
        message_expiry_interval: Option<u32>,
        qos: u8,
    ) -> PyResult<PyClassInitializer<Self>> {
        topic::check_topic(topic).map_err(|error| errors::to_py(py, &error))?;
        let mut inner = CoreMessage {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            qos: check_qos(qos)?,
            ..CoreMessage::default()
        };
        set_payload_as(py, &mut inner, payload, content_type.as_deref())?;
        Given {
            content_type,
            payload_format_indicator,
            message_expiry_interval,
            response_topic,
            correlation_data,
            user_properties,
        }
        .put_into(py, &mut inner)?;
        let expires =
            message_expiry_interval.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let origin = Origin::Made {
            captures: captures.unwrap_or_default().into_iter().collect(),
            outcome: Mutex::new(None),
        };
        Ok(PyClassInitializer::from(Message { inner }).add_subclass(Self {
            origin,
            expires,
            over: AtomicBool::new(false),
            state: Mutex::new(None),
        }))
    }

    /// What each `{name}` in the responder's filter stands for in this topic.
    #[getter]
    fn captures<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let captures = PyDict::new(slf.py());
        match &slf.get().origin {
            Origin::Made { captures: given, .. } => {
                for (name, value) in given {
                    captures.set_item(name, value)?;
                }
            }
            Origin::Delivery { options, .. } => {
                let topic = slf.as_super().get().inner.topic();
                for (name, value) in captures_of(&options.pattern, topic) {
                    captures.set_item(name, value)?;
                }
            }
        }
        Ok(captures)
    }

    /// When the requester stops waiting, in seconds of `time.monotonic()`; None if it did not say.
    #[getter]
    fn deadline(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let Some(expires) = self.expires else { return Ok(None) };
        static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let now: f64 = MONOTONIC.import(py, "time", "monotonic")?.call0()?.extract()?;
        Ok(Some(now + seconds_until(expires)))
    }

    /// Seconds that remain until the requester stops waiting, never below 0; None if it did not say.
    ///
    ///     async with asyncio.timeout(request.remaining()):
    ///         return await measure()
    fn remaining(&self) -> Option<f64> {
        self.expires.map(|expires| seconds_until(expires).max(0.0))
    }

    /// What middleware leaves for other middleware and for the handler, as attributes of any name. It is
    /// this request's alone, and is let go when the request is answered.
    ///
    ///     async def who_asks(request, call_next):
    ///         request.state.user = await users.find(request)
    ///         return await call_next(request)
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static NAMESPACE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some(state) = &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(state.bind(py).clone());
        }
        // Not under the lock: Python may let another thread run.
        let empty = NAMESPACE.import(py, "types", "SimpleNamespace")?.call0()?.unbind();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.get_or_insert(empty).bind(py).clone())
    }

    /// The client that received it, for requests of the handler's own; None in a test.
    #[getter]
    fn client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.origin {
            Origin::Delivery { owner, .. } => owner.client(py),
            Origin::Made { .. } => Ok(py.None().into_bound(py)),
        }
    }

    #[pyo3(signature = (payload, status, content_type, payload_format_indicator, user_properties))]
    fn _reply(
        &self,
        py: Python<'_>,
        payload: &Bound<'_, PyAny>,
        status: u16,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        // Checked first: what cannot be sent leaves the request open for another answer.
        if let Some(content_type) = &content_type {
            check_text("content_type", content_type)?;
        }
        let payload_format_indicator = check_indicator(payload_format_indicator)?;
        let user_properties = pairs(Some(user_properties))?;
        let bytes = bytes_of(payload)?;
        if !self.end() {
            return Ok(());
        }
        match &self.origin {
            Origin::Delivery { owner, delivery, .. } => {
                let reply = Box::new(Reply {
                    payload: bytes,
                    status,
                    content_type,
                    payload_format_indicator,
                    user_properties,
                });
                // Held here so that a task which ends in this very call is not dropped under the lock.
                let _task = owner.answered(*delivery);
                owner.tell_soon(py, Command::Reply { delivery: *delivery, reply: Some(reply) })
            }
            Origin::Made { outcome, .. } => {
                let user_properties = PyTuple::new(py, user_properties)?;
                let kept =
                    ("reply", payload, status, content_type, payload_format_indicator, user_properties);
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(kept.into_pyobject(py)?.unbind());
                Ok(())
            }
        }
    }

    /// Publishes an item of a stream to the Response Topic; ends with the broker's `PubAck`.
    /// `control` is where the requester answers the items.
    #[pyo3(signature = (payload, content_type, payload_format_indicator, user_properties, control=None))]
    fn _item(
        slf: &Bound<'_, Self>,
        payload: &Bound<'_, PyAny>,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        user_properties: &Bound<'_, PyAny>,
        control: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let (py, request) = (slf.py(), &slf.as_super().get().inner);
        let Origin::Delivery { owner, .. } = &slf.get().origin else {
            return Err(PyRuntimeError::new_err("a request that was made here has nobody to stream to"));
        };
        let Some(topic) = request.properties.response_topic.clone() else {
            return Err(PyRuntimeError::new_err("the request has no Response Topic"));
        };
        if let Some(content_type) = &content_type {
            check_text("content_type", content_type)?;
        }
        let message = CoreMessage {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: bytes_of(payload)?,
            qos: request.qos,
            properties: Properties {
                payload_format_indicator: check_indicator(payload_format_indicator)?,
                content_type,
                response_topic: control,
                correlation_data: request.properties.correlation_data.clone(),
                user_properties: pairs(Some(user_properties))?,
                ..Properties::default()
            },
            ..CoreMessage::default()
        };
        owner.start(py, Waiting::Item(topic), |token| Command::Publish { token, message })
    }

    fn _done(&self, py: Python<'_>) -> PyResult<()> {
        if !self.end() {
            return Ok(());
        }
        match &self.origin {
            Origin::Delivery { owner, delivery, .. } => {
                let _task = owner.answered(*delivery);
                owner.tell_soon(py, Command::Reply { delivery: *delivery, reply: None })
            }
            Origin::Made { outcome, .. } => {
                let kept = ("done",).into_pyobject(py)?.unbind();
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
                Ok(())
            }
        }
    }

    /// What became of a request made in a test.
    #[getter]
    fn _outcome(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        match &self.origin {
            Origin::Made { outcome, .. } => {
                outcome.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|kept| kept.clone_ref(py))
            }
            Origin::Delivery { .. } => None,
        }
    }
}

fn captures_of<'p>(pattern: &'p Pattern, topic: &'p str) -> Vec<(&'p str, &'p str)> {
    pattern.captures(topic).unwrap_or_default()
}

fn seconds_until(when: Instant) -> f64 {
    let now = Instant::now();
    match when.checked_duration_since(now) {
        Some(left) => left.as_secs_f64(),
        None => -now.duration_since(when).as_secs_f64(),
    }
}

/// What the broker said when it accepted the connection (section 3.2), by the specification's names.
///
/// Where the broker left a property out, it has the specification's default.
///
///     async with Client("mqtt://localhost") as client:
///         if client.connack.maximum_packet_size is not None:
///             print("at most", client.connack.maximum_packet_size, "bytes")
#[pyclass(frozen, module = "reqtt")]
pub(crate) struct ConnAck {
    inner: Arc<CoreConnAck>,
}

impl From<Arc<CoreConnAck>> for ConnAck {
    fn from(inner: Arc<CoreConnAck>) -> Self {
        Self { inner }
    }
}

macro_rules! connack_getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $get:expr),* $(,)?) => {
        #[pymethods]
        impl ConnAck {
            $($(#[$doc])* #[getter] fn $name(&self) -> $type { let get: fn(&CoreConnAck) -> $type = $get; get(&self.inner) })*

            /// Name and value pairs, in order; names may repeat.
            #[getter]
            fn user_properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
                PyTuple::new(py, self.inner.user_properties.clone())
            }

            fn __repr__(&self) -> String {
                format!("<ConnAck {} session_present={}>", self.inner.reason_code, self.inner.session_present)
            }
        }
    };
}

connack_getters! {
    /// Whether the broker kept a session for this client.
    session_present: bool = |c| c.session_present,
    /// 0x00 (section 3.2.2.2).
    reason_code: u8 = |c| c.reason_code.0,
    /// The broker's own words, if it sent any.
    reason_string: Option<&str> = |c| c.reason_string.as_deref(),
    /// The client identifier that the broker chose.
    assigned_client_identifier: Option<&str> = |c| c.assigned_client_identifier.as_deref(),
    /// Seconds the broker keeps the session; None: as asked for.
    session_expiry_interval: Option<u32> = |c| c.session_expiry_interval,
    /// How many QoS 1 and 2 messages may be unacknowledged towards the broker.
    receive_maximum: u16 = |c| c.receive_maximum,
    /// The highest QoS that the broker takes.
    maximum_qos: u8 = |c| c.maximum_qos,
    /// Whether retained messages are available.
    retain_available: bool = |c| c.retain_available,
    /// The largest packet that the broker takes, in bytes; None: no limit.
    maximum_packet_size: Option<u32> = |c| c.maximum_packet_size,
    /// The highest topic alias that the broker takes.
    topic_alias_maximum: u16 = |c| c.topic_alias_maximum,
    /// Whether filters may hold wildcards.
    wildcard_subscription_available: bool = |c| c.wildcard_subscription_available,
    /// Whether subscriptions may carry an identifier.
    subscription_identifiers_available: bool = |c| c.subscription_identifiers_available,
    /// Whether `$share/...` works.
    shared_subscription_available: bool = |c| c.shared_subscription_available,
    /// Keep alive in seconds, where the broker overrides it; else None.
    server_keep_alive: Option<u16> = |c| c.server_keep_alive,
    /// The base of a permitted Response Topic, if the broker gave one (section 3.2.2.3.15).
    response_information: Option<&str> = |c| c.response_information.as_deref(),
    /// Another server to use, if the broker named one (section 4.11).
    server_reference: Option<&str> = |c| c.server_reference.as_deref(),
}

/// How the broker took a publish (section 3.4); for QoS 2 it is what the PUBREC said (section 3.5).
///
///     puback = await client.publish("state/lamp", "ON")
///     if puback.reason_code == 0x10:
///         print("nobody listens")
#[pyclass(frozen, module = "reqtt", get_all)]
pub(crate) struct PubAck {
    /// 0x00, or 0x10 where nobody subscribes (section 3.4.2.1). An error is raised, not returned.
    reason_code: u8,
    /// The broker's own words, if it sent any.
    reason_string: Option<String>,
}

impl From<CorePubAck> for PubAck {
    fn from(puback: CorePubAck) -> Self {
        Self { reason_code: puback.reason_code.0, reason_string: puback.reason_string }
    }
}

#[pymethods]
impl PubAck {
    fn __repr__(&self) -> String {
        format!("<PubAck {}>", reqtt_core::ReasonCode(self.reason_code))
    }
}

/// A request's body that does not decode is the requester's fault, and it is told so.
fn decoder_of(message: &Bound<'_, Message>) -> &'static str {
    if message.is_instance_of::<Request>() { "decode_request" } else { "decode" }
}

fn codecs(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "reqtt.codecs"))
}

/// Bytes of a bytes-like object.
pub(crate) fn bytes_of(payload: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(payload) = payload.cast::<PyBytes>() {
        return Ok(lend(payload));
    }
    let payload = payload.py().get_type::<PyBytes>().call1((payload,))?;
    Ok(lend(payload.cast::<PyBytes>()?))
}

/// Puts a payload in; what is not bytes is encoded, and says what it is.
pub(crate) fn set_payload(
    py: Python<'_>,
    message: &mut CoreMessage,
    payload: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    set_payload_as(py, message, payload, None)
}

/// The same, encoded as a Content Type says.
pub(crate) fn set_payload_as(
    py: Python<'_>,
    message: &mut CoreMessage,
    payload: Option<&Bound<'_, PyAny>>,
    content_type: Option<&str>,
) -> PyResult<()> {
    let Some(payload) = payload else { return Ok(()) };
    if let Ok(payload) = payload.cast_exact::<PyBytes>() {
        message.payload = lend(payload);
        return Ok(());
    }
    static ENCODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let encoded = ENCODE.import(py, "reqtt.codecs", "encode")?.call1((payload, content_type))?;
    let (bytes, content_type, indicator): (Bound<'_, PyAny>, Option<String>, Option<u8>) =
        encoded.extract()?;
    message.payload = bytes_of(&bytes)?;
    message.properties.content_type = content_type;
    message.properties.payload_format_indicator = indicator;
    Ok(())
}

/// The properties of a PUBLISH as a caller gives them.
#[derive(Default)]
pub(crate) struct Given<'a, 'py> {
    pub content_type: Option<String>,
    pub payload_format_indicator: Option<u8>,
    pub message_expiry_interval: Option<u32>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<&'a [u8]>,
    pub user_properties: Option<&'a Bound<'py, PyAny>>,
}

impl Given<'_, '_> {
    /// Checks them, and puts them into a message that has its payload; they go before what its codec says.
    pub fn put_into(self, py: Python<'_>, message: &mut CoreMessage) -> PyResult<()> {
        let properties = &mut message.properties;
        if let Some(content_type) = self.content_type {
            check_text("content_type", &content_type)?;
            properties.content_type = Some(content_type);
        }
        if self.payload_format_indicator.is_some() {
            properties.payload_format_indicator = check_indicator(self.payload_format_indicator)?;
        }
        if self.message_expiry_interval == Some(0) {
            return Err(PyValueError::new_err(
                "message_expiry_interval=0 expires before it is sent: use 1 or more seconds",
            ));
        }
        properties.message_expiry_interval = self.message_expiry_interval;
        if let Some(response_topic) = self.response_topic {
            topic::check_topic(&response_topic).map_err(|error| errors::to_py(py, &error))?;
            properties.response_topic = Some(response_topic);
        }
        if let Some(data) = self.correlation_data {
            if data.len() > 65_535 {
                return Err(PyValueError::new_err(format!(
                    "correlation_data of {} bytes: MQTT carries at most 65,535",
                    data.len()
                )));
            }
            properties.correlation_data = Some(Bytes::copy_from_slice(data));
        }
        properties.user_properties = pairs(self.user_properties)?;
        Ok(())
    }
}

/// User properties: pairs of text, in order. A mapping will do, where no name repeats.
pub(crate) fn pairs(given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<(String, String)>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(Vec::new()) };
    if let Ok(tuple) = given.cast::<PyTuple>()
        && tuple.is_empty()
    {
        return Ok(Vec::new());
    }
    let given = match given.cast::<PyMapping>() {
        Ok(mapping) => mapping.items()?.into_any(),
        Err(_) => given.clone(),
    };
    let mut pairs = Vec::new();
    for pair in given.try_iter().map_err(|_| not_pairs())? {
        let (name, value): (String, String) = pair?.extract().map_err(|_| not_pairs())?;
        check_text("user_properties", &name)?;
        check_text("user_properties", &value)?;
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn not_pairs() -> PyErr {
    PyTypeError::new_err("user_properties= takes pairs of text, e.g. [(\"name\", \"value\")], or a mapping")
}

/// What MQTT can carry as a UTF-8 string (section 1.5.4).
pub(crate) fn check_text(what: &str, text: &str) -> PyResult<()> {
    if text.len() > 65_535 || text.contains('\0') {
        return Err(PyValueError::new_err(format!(
            "{what} holds a text of {} bytes{}: MQTT carries at most 65,535 bytes without NUL",
            text.len(),
            if text.contains('\0') { " with a NUL" } else { "" }
        )));
    }
    Ok(())
}

pub(crate) fn check_qos(qos: u8) -> PyResult<u8> {
    if qos > 2 {
        return Err(PyValueError::new_err(format!("qos={qos} does not exist: use 0, 1 or 2")));
    }
    Ok(qos)
}

pub(crate) fn check_indicator(indicator: Option<u8>) -> PyResult<Option<u8>> {
    if indicator.is_some_and(|indicator| indicator > 1) {
        return Err(PyValueError::new_err("payload_format_indicator is 0 (bytes) or 1 (UTF-8 text)"));
    }
    Ok(indicator)
}

/// Seconds as asyncio takes them, with the rules of a timeout.
pub(crate) fn check_timeout(seconds: f64) -> PyResult<Duration> {
    if !seconds.is_finite() || seconds <= 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout={seconds} cannot be kept: use a finite number of seconds above 0"
        )));
    }
    Duration::try_from_secs_f64(seconds.min(4_294_967_295.0))
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
