//! One connection as Python sees it: options in, operations out. The lifecycle around it (context managers,
//! events, draining) is Python's, in `reqtt.client`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use reqtt_core::command::{Command, Counters, SubscribeOptions, Token};
use reqtt_core::message::Message as CoreMessage;
use reqtt_core::options::{Options, Pem, Reconnect, Secret, TlsOptions, Will};
use reqtt_core::topic::{self, Pattern};
use reqtt_core::{Ack, ResponderOptions, connection};

use crate::blocking::{Hub, Inbox};
use crate::bridge::Bridge;
use crate::message::{ConnAck, Given, bytes_of, check_qos, pairs, set_payload, set_payload_as};
use crate::outcome::{self, Waiting};
use crate::owner::Owner;
use crate::{errors, runtime};

static RESPONDER_IDS: AtomicU32 = AtomicU32::new(1);

/// One connection: not yet open, open, or closed for good.
#[pyclass(frozen, weakref, module = "reqtt._core")]
pub(crate) struct Connection {
    options: Arc<Options>,
    counters: Arc<Counters>,
    on_event: Py<PyAny>,
    client: Py<PyAny>,
    bridge: Mutex<State>,
}

enum State {
    New,
    Open(Owner),
    Closed,
}

impl Connection {
    /// The open bridge; raises what a user has to know if there is none.
    pub fn bridge(&self, py: Python<'_>) -> PyResult<Owner> {
        match &*self.state() {
            State::Open(bridge) => Ok(bridge.clone_ref(py)),
            State::New => Err(errors::simple(
                py,
                "ReqttError",
                "the client is not connected: use `async with Client(...)`, or await connect() first; with reqtt.blocking, `with Client(...)` or connect()",
            )),
            State::Closed => Err(errors::to_py(py, &reqtt_core::Error::ClientClosed)),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Connection {
    /// `options` are the keyword arguments of `reqtt.Client`, by name.
    #[new]
    fn new(
        py: Python<'_>,
        url: &str,
        options: &Bound<'_, PyDict>,
        on_event: Py<PyAny>,
        client: Py<PyAny>,
    ) -> PyResult<Self> {
        let options = read_options(url, options)?;
        options.validate().map_err(|error| errors::to_py(py, &error))?;
        Ok(Self {
            options: Arc::new(options),
            counters: Arc::default(),
            on_event,
            client,
            bridge: Mutex::new(State::New),
        })
    }

    /// The address, without credentials.
    #[getter]
    fn url(&self) -> String {
        self.options.address.redacted()
    }

    /// Connects; the first call ties the connection to the running loop, or to none where `on_event` is an
    /// `Inbox`.
    fn connect(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let bridge = {
            let opened = match &*self.state() {
                State::New => None,
                State::Open(bridge) => Some(bridge.clone_ref(py)),
                State::Closed => return Err(errors::to_py(py, &reqtt_core::Error::ClientClosed)),
            };
            match opened {
                Some(bridge) => bridge,
                None => self.open(py)?,
            }
        };
        bridge.start(py, Waiting::Connect, |token| Command::Connect { token })
    }

    /// Authenticates again, with the method's first data (section 4.12.1).
    fn reauthenticate(&self, py: Python<'_>, data: &[u8]) -> PyResult<Py<PyAny>> {
        let bridge = self.bridge(py)?;
        let data = Secret::from(data);
        bridge.start(py, Waiting::Plain, |token| Command::Reauthenticate { token, data })
    }

    /// Ends the connection with DISCONNECT 0x00.
    fn disconnect(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let bridge = self.bridge(py)?;
        bridge.start(py, Waiting::Plain, |token| Command::Disconnect { token: Some(token) })
    }

    /// Lets go of the loop. Whatever still waits ends with `ClientClosed`.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        let state = std::mem::replace(&mut *self.state(), State::Closed);
        if let State::Open(bridge) = state {
            bridge.detach(py)?;
        }
        Ok(())
    }

    /// Publishes; ends with the broker's `PubAck`.
    #[pyo3(signature = (topic, payload=None, *, qos=1, retain=false, content_type=None, payload_format_indicator=None,
        message_expiry_interval=None, response_topic=None, correlation_data=None, user_properties=None))]
    #[allow(clippy::too_many_arguments, reason = "the properties of a PUBLISH")]
    fn publish(
        &self,
        py: Python<'_>,
        topic: &str,
        payload: Option<&Bound<'_, PyAny>>,
        qos: u8,
        retain: bool,
        content_type: Option<String>,
        payload_format_indicator: Option<u8>,
        message_expiry_interval: Option<u32>,
        response_topic: Option<String>,
        correlation_data: Option<&[u8]>,
        user_properties: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let bridge = self.bridge(py)?;
        topic::check_topic(topic).map_err(|error| errors::to_py(py, &error))?;
        let mut message = CoreMessage {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            qos: check_qos(qos)?,
            retain,
            ..CoreMessage::default()
        };
        set_payload_as(py, &mut message, payload, content_type.as_deref())?;
        Given {
            content_type,
            payload_format_indicator,
            message_expiry_interval,
            response_topic,
            correlation_data,
            user_properties,
        }
        .put_into(py, &mut message)?;
        let waiting = Waiting::Publish(topic.to_owned());
        bridge.start(py, waiting, |token| Command::Publish { token, message })
    }

    /// Subscribes; gives the subscription's token, and the call that ends with its SUBACKs.
    #[pyo3(signature = (topic_filters, push, fail, *, qos, no_local, retain_as_published, retain_handling, subscription_identifier))]
    #[allow(clippy::too_many_arguments, reason = "the options of a SUBSCRIBE")]
    fn subscribe(
        &self,
        py: Python<'_>,
        topic_filters: Vec<String>,
        push: Py<PyAny>,
        fail: Py<PyAny>,
        qos: u8,
        no_local: bool,
        retain_as_published: bool,
        retain_handling: u8,
        subscription_identifier: Option<u32>,
    ) -> PyResult<(Token, Py<PyAny>)> {
        let bridge = self.bridge(py)?;
        let options = SubscribeOptions {
            qos: check_qos(qos)?,
            no_local,
            retain_as_published,
            retain_handling,
            subscription_identifier,
        };
        bridge.subscribe(py, push, fail, |token| Command::Subscribe {
            token,
            filters: topic_filters,
            options,
        })
    }

    /// Ends a subscription.
    fn unsubscribe(&self, py: Python<'_>, token: Token) -> PyResult<()> {
        let Ok(bridge) = self.bridge(py) else { return Ok(()) };
        bridge.unsubscribe(token);
        Ok(())
    }

    /// Sends the PUBACK or PUBREC of a delivery.
    fn acknowledge(&self, py: Python<'_>, delivery: u64) -> PyResult<()> {
        let Ok(bridge) = self.bridge(py) else { return Ok(()) };
        bridge.tell_soon(py, Command::Acknowledge { delivery })
    }

    /// Starts a responder; gives its id, and the call that ends with its SUBACK.
    #[pyo3(signature = (topic_filter, runner, *, group, qos, concurrency, ack_on_receipt, deduplicate,
        run_without_response_topic, allowed_response_topics, retained, azure))]
    #[allow(clippy::too_many_arguments, reason = "the options of a responder")]
    fn respond(
        &self,
        py: Python<'_>,
        topic_filter: &str,
        runner: Py<PyAny>,
        group: Option<String>,
        qos: u8,
        concurrency: usize,
        ack_on_receipt: bool,
        deduplicate: bool,
        run_without_response_topic: bool,
        allowed_response_topics: Vec<String>,
        retained: bool,
        azure: bool,
    ) -> PyResult<(u32, Py<PyAny>)> {
        let bridge = self.bridge(py)?;
        let options = ResponderOptions {
            pattern: Pattern::parse(topic_filter).map_err(|error| errors::to_py(py, &error))?,
            group,
            qos: check_qos(qos)?,
            concurrency,
            ack: if ack_on_receipt { Ack::OnReceipt } else { Ack::AfterResponse },
            deduplicate,
            run_without_response_topic,
            allowed_response_topics,
            retained,
            azure,
        };
        let id = RESPONDER_IDS.fetch_add(1, Ordering::Relaxed);
        Ok((id, bridge.respond(py, id, options, runner)?))
    }

    /// Unsubscribes responders; ends when all that they received is answered.
    fn drain(&self, py: Python<'_>, responders: Vec<u32>) -> PyResult<Py<PyAny>> {
        let bridge = self.bridge(py)?;
        bridge.start(py, Waiting::Plain, |token| Command::Drain { token, responders })
    }

    /// Starts no more handlers of these responders; what waits is answered with 503.
    fn stop_responders(&self, py: Python<'_>, responders: Vec<u32>) -> PyResult<()> {
        let Ok(bridge) = self.bridge(py) else { return Ok(()) };
        bridge.tell(Command::StopResponders { responders });
        Ok(())
    }

    /// Forgets responders; what they have not answered stays unacknowledged.
    fn close_responders(&self, py: Python<'_>, responders: Vec<u32>) -> PyResult<()> {
        let Ok(bridge) = self.bridge(py) else { return Ok(()) };
        bridge.tell(Command::CloseResponders { responders });
        Ok(())
    }

    /// The tasks of these responders' handlers that still run.
    fn tasks(&self, py: Python<'_>, responders: Vec<u32>) -> Vec<Py<PyAny>> {
        match &*self.state() {
            State::Open(bridge) => bridge.tasks(py, &responders),
            _ => Vec::new(),
        }
    }

    /// What is known of a connection without a loop: whether it is up, its latest CONNACK, its client
    /// identifier, and reason code and text once it is lost for good.
    #[allow(clippy::type_complexity, reason = "it is what the stub says")]
    fn known(
        &self,
        py: Python<'_>,
    ) -> PyResult<(bool, Option<Py<ConnAck>>, Option<String>, Option<(Option<u8>, String)>)> {
        let known = self.hub().map(|hub| hub.known()).unwrap_or_default();
        let connack = known.connack.map(|connack| Py::new(py, ConnAck::from(connack))).transpose()?;
        Ok((known.connected, connack, known.client_id, known.lost))
    }

    /// News of a connection without a loop go to `inbox` from now on, while that is held.
    fn listen(&self, py: Python<'_>, inbox: &Inbox) -> PyResult<()> {
        let new = matches!(&*self.state(), State::New);
        if new {
            self.open(py)?;
        }
        if let Some(hub) = self.hub() {
            Hub::listen(&hub, inbox);
        }
        Ok(())
    }

    /// Answers a question of a connection without a loop by its number.
    #[pyo3(signature = (question, *, username=None, password=None, data=None, error=None))]
    fn answer(
        &self,
        question: u64,
        username: Option<String>,
        password: Option<&Bound<'_, PyAny>>,
        data: Option<&[u8]>,
        error: Option<String>,
    ) -> PyResult<()> {
        let answer = outcome::answer(username, password, data, error)?;
        if let Some(hub) = self.hub() {
            hub.tell(Command::Answer { question, answer });
        }
        Ok(())
    }

    /// The counters, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.counters.read();
        let all = PyDict::new(py);
        for (name, value) in stats.iter() {
            all.set_item(name, value)?;
        }
        let pending = match &*self.state() {
            State::Open(bridge) => bridge.pending(),
            _ => 0,
        };
        all.set_item("pending", pending)?;
        Ok(all)
    }
}

impl Connection {
    fn open(&self, py: Python<'_>) -> PyResult<Owner> {
        let io = runtime::io()?;
        let (options, counters) = (self.options.clone(), self.counters.clone());
        let client = self.client.clone_ref(py);
        let (owner, link) = match self.on_event.bind(py).cast::<Inbox>() {
            Ok(questions) => {
                let hub = Hub::new(py, options, counters, questions.get(), client)?;
                let link = hub.link();
                (Owner::Threads(hub), link)
            }
            Err(_) => {
                let on_event = self.on_event.clone_ref(py);
                let bridge = Bridge::attach(py, options, counters, on_event, client)?;
                let link = bridge.get().link();
                (Owner::Loop(bridge), link)
            }
        };
        io.spawn(connection::run(link));
        *self.state() = State::Open(owner.clone_ref(py));
        Ok(owner)
    }

    fn hub(&self) -> Option<std::sync::Arc<Hub>> {
        match &*self.state() {
            State::Open(Owner::Threads(hub)) => Some(hub.clone()),
            _ => None,
        }
    }
}

/// Reads the keyword arguments of `reqtt.Client`.
fn read_options(url: &str, given: &Bound<'_, PyDict>) -> PyResult<Options> {
    let py = given.py();
    let mut options = Options::new(url).map_err(|error| errors::to_py(py, &error))?;
    for (name, value) in given {
        let name: String = name.extract()?;
        let name = name.as_str();
        let wrong = |error: PyErr| wrong_type(py, name, &value, &error);
        match name {
            "client_id" => options.client_id = value.extract().map_err(wrong)?,
            "authentication_method" => options.authentication_method = value.extract().map_err(wrong)?,
            "ask_credentials" => options.ask_credentials = value.extract().map_err(wrong)?,
            "username" => options.username = value.extract().map_err(wrong)?,
            "password" => options.password = secret(&value).map_err(wrong)?,
            "tls" => options.tls = tls(&value, &options).map_err(wrong)?,
            "keep_alive" => options.keep_alive = value.extract().map_err(wrong)?,
            "connect_timeout" => {
                options.connect_timeout = crate::message::check_timeout(value.extract().map_err(wrong)?)
                    .map_err(|_| {
                        PyValueError::new_err("connect_timeout takes a finite number of seconds above 0")
                    })?;
            }
            "clean_start" => options.clean_start = value.extract().map_err(wrong)?,
            "session_expiry_interval" => options.session_expiry_interval = value.extract().map_err(wrong)?,
            "receive_maximum" => options.receive_maximum = value.extract().map_err(wrong)?,
            "maximum_packet_size" => options.maximum_packet_size = value.extract().map_err(wrong)?,
            "topic_alias_maximum" => options.topic_alias_maximum = value.extract().map_err(wrong)?,
            "request_response_information" => {
                options.request_response_information = value.extract().map_err(wrong)?;
            }
            "will" => options.will = if value.is_none() { None } else { Some(will(&value).map_err(wrong)?) },
            "user_properties" => options.user_properties = pairs(Some(&value))?,
            "reconnect" => options.reconnect = if value.is_none() { None } else { Some(reconnect(&value)?) },
            name => {
                return Err(PyTypeError::new_err(format!(
                    "unexpected argument {name}=: see reqtt.Client for what there is"
                )));
            }
        }
    }
    Ok(options)
}

/// An argument of the wrong type or size; a password is not repeated.
fn wrong_type(py: Python<'_>, name: &str, value: &Bound<'_, PyAny>, error: &PyErr) -> PyErr {
    if error.is_instance_of::<PyValueError>(py) {
        return PyValueError::new_err(error.value(py).to_string());
    }
    let shown = if name == "password" {
        "a value of another type".to_owned()
    } else {
        value.repr().map_or_else(|_| "?".to_owned(), |repr| repr.to_string())
    };
    let text = format!("{name}={shown} cannot be used: {}", error.value(py));
    if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) {
        PyValueError::new_err(text)
    } else {
        PyTypeError::new_err(text)
    }
}

pub(crate) fn secret(value: &Bound<'_, PyAny>) -> PyResult<Option<Secret>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Some(Secret::from(text.to_str()?)));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Some(Secret::from(bytes.as_bytes())));
    }
    Err(PyTypeError::new_err("str or bytes is needed"))
}

/// A path, or the PEM text itself.
fn pem(value: &Bound<'_, PyAny>) -> PyResult<Option<Pem>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Some(Pem::Inline(Secret::from(bytes.as_bytes()))));
    }
    if let Ok(text) = value.cast::<PyString>()
        && text.to_str()?.contains("-----BEGIN")
    {
        return Ok(Some(Pem::Inline(Secret::from(text.to_str()?))));
    }
    Ok(Some(Pem::Path(value.extract()?)))
}

fn tls(value: &Bound<'_, PyAny>, options: &Options) -> PyResult<Option<TlsOptions>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(wanted) = value.extract::<bool>() {
        return match wanted {
            true => Ok(Some(TlsOptions::default())),
            false if options.address.scheme.is_tls() => Err(PyValueError::new_err(
                "tls=False contradicts the URL: use mqtt:// or ws:// for a connection without TLS",
            )),
            false => Ok(None),
        };
    }
    Ok(Some(TlsOptions {
        ca: pem(&value.getattr("ca")?)?,
        cert: pem(&value.getattr("cert")?)?,
        key: pem(&value.getattr("key")?)?,
        alpn: value.getattr("alpn")?.extract()?,
        server_name: value.getattr("server_name")?.extract()?,
        verify: value.getattr("verify")?.extract()?,
    }))
}

fn will(value: &Bound<'_, PyAny>) -> PyResult<Will> {
    let mut message = CoreMessage::default();
    set_payload(value.py(), &mut message, Some(&value.getattr("payload")?))?;
    let content_type: Option<String> = value.getattr("content_type")?.extract()?;
    let correlation_data = value.getattr("correlation_data")?;
    Ok(Will {
        topic: value.getattr("topic")?.extract()?,
        payload: message.payload,
        qos: value.getattr("qos")?.extract()?,
        retain: value.getattr("retain")?.extract()?,
        delay_interval: value.getattr("delay_interval")?.extract()?,
        payload_format_indicator: value
            .getattr("payload_format_indicator")?
            .extract::<Option<u8>>()?
            .or(message.properties.payload_format_indicator),
        message_expiry_interval: value.getattr("message_expiry_interval")?.extract()?,
        content_type: content_type.or(message.properties.content_type),
        response_topic: value.getattr("response_topic")?.extract()?,
        correlation_data: if correlation_data.is_none() { None } else { Some(bytes_of(&correlation_data)?) },
        user_properties: pairs(Some(&value.getattr("user_properties")?))?,
    })
}

fn reconnect(value: &Bound<'_, PyAny>) -> PyResult<Reconnect> {
    let seconds = |name: &str| -> PyResult<Option<Duration>> {
        let given: Option<f64> = value.getattr(name)?.extract()?;
        given
            .map(|seconds| {
                Duration::try_from_secs_f64(seconds).map_err(|_| {
                    PyValueError::new_err(format!(
                        "Reconnect({name}={seconds}): use a finite number of seconds, 0 or more"
                    ))
                })
            })
            .transpose()
    };
    Ok(Reconnect {
        initial: seconds("initial")?.unwrap_or_default(),
        max: seconds("max")?.unwrap_or_default(),
        jitter: value.getattr("jitter")?.extract()?,
        give_up_after: seconds("give_up_after")?,
    })
}
