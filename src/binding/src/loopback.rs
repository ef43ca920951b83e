//! The loopback broker for Python: `reqtt.testing.LoopbackBroker` is this class with docstrings and context
//! managers around it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use reqtt_loopback::{Broker, Options, Recorded};

use crate::runtime;

/// An MQTT 5 broker on 127.0.0.1, on a thread of its own, with faults on demand.
#[pyclass(frozen, subclass, module = "reqtt._core")]
pub(crate) struct LoopbackBroker {
    options: Options,
    /// With the fork count it was started at.
    broker: Mutex<Option<(u32, Broker)>>,
}

impl LoopbackBroker {
    fn lock(&self) -> MutexGuard<'_, Option<(u32, Broker)>> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call leaves the interpreter: the broker's own thread must never wait for it.
    fn with<T: Send>(&self, py: Python<'_>, call: impl FnOnce(&Broker) -> T + Send) -> PyResult<T> {
        py.detach(|| self.lock().as_ref().map(|(_, broker)| call(broker))).ok_or_else(|| {
            PyRuntimeError::new_err("the broker does not run: use `with LoopbackBroker() as broker:`")
        })
    }

    fn end(&self) {
        if let Some((forks, broker)) = self.lock().take()
            && forks != runtime::forks()
        {
            // Its thread and its sockets are the parent's: there is nothing to join here.
            std::mem::forget(broker);
        }
    }
}

impl Drop for LoopbackBroker {
    fn drop(&mut self) {
        self.end();
    }
}

fn seconds(given: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(given)
        .map_err(|_| PyValueError::new_err(format!("{given} is no number of seconds")))
}

#[pymethods]
impl LoopbackBroker {
    #[new]
    #[pyo3(signature = (*, port=0, ws_port=0, username=None, password=None, response_information=None,
        receive_maximum=None, maximum_packet_size=None, maximum_qos=None, topic_alias_maximum=0, server_keep_alive=None,
        shared_subscription_available=true, wildcard_subscription_available=true,
        subscription_identifiers_available=true, retain_available=true, no_matching_subscribers=true, record=false))]
    #[allow(clippy::too_many_arguments, reason = "what a CONNACK can say")]
    fn new(
        port: u16,
        ws_port: u16,
        username: Option<String>,
        password: Option<String>,
        response_information: Option<String>,
        receive_maximum: Option<u16>,
        maximum_packet_size: Option<u32>,
        maximum_qos: Option<u8>,
        topic_alias_maximum: u16,
        server_keep_alive: Option<u16>,
        shared_subscription_available: bool,
        wildcard_subscription_available: bool,
        subscription_identifiers_available: bool,
        retain_available: bool,
        no_matching_subscribers: bool,
        record: bool,
    ) -> Self {
        let credentials = username.map(|username| (username, password.unwrap_or_default()));
        let options = Options {
            port,
            ws_port,
            credentials,
            response_information,
            receive_maximum,
            maximum_packet_size,
            maximum_qos,
            retain_available,
            topic_alias_maximum,
            server_keep_alive,
            shared_subscription_available,
            wildcard_subscription_available,
            subscription_identifiers_available,
            no_matching_subscribers,
            record,
            ..Options::default()
        };
        Self { options, broker: Mutex::new(None) }
    }

    /// Listens. Nothing where it runs already. Raises `OSError` where a port is taken.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut broker = self.lock();
            if broker.is_none() {
                *broker = Some((runtime::forks(), Broker::start(self.options.clone())?));
            }
            Ok(())
        })
    }

    /// Closes every connection and forgets every session.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }

    /// The TCP port.
    #[getter]
    fn port(&self, py: Python<'_>) -> PyResult<u16> {
        self.with(py, Broker::port)
    }

    /// The WebSocket port.
    #[getter]
    fn ws_port(&self, py: Python<'_>) -> PyResult<u16> {
        self.with(py, Broker::ws_port)
    }

    /// The address over TCP, `mqtt://127.0.0.1:<port>`.
    #[getter]
    fn url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, Broker::url)
    }

    /// The address over WebSocket, `ws://127.0.0.1:<ws_port>/mqtt`.
    #[getter]
    fn ws_url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, Broker::ws_url)
    }

    /// Drops every connection, without DISCONNECT. Sessions stay for their expiry; wills are published.
    fn cut(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Broker::cut)
    }

    /// Sends DISCONNECT with this reason code to everyone, and closes (section 3.14).
    #[pyo3(signature = (reason_code=0x8B))]
    fn disconnect(&self, py: Python<'_>, reason_code: u8) -> PyResult<()> {
        self.with(py, |broker| broker.disconnect(reason_code))
    }

    /// Neither reads nor writes for `duration` seconds, then goes on. Returns at once; 0 ends it.
    fn stall(&self, py: Python<'_>, duration: f64) -> PyResult<()> {
        let duration = seconds(duration)?;
        self.with(py, |broker| broker.stall(duration))
    }

    /// Every packet leaves `duration` seconds later, order kept. 0 ends it, and lets go what waits.
    fn delay(&self, py: Python<'_>, duration: f64) -> PyResult<()> {
        let duration = seconds(duration)?;
        self.with(py, |broker| broker.delay(duration))
    }

    /// Only SUBACKs are `duration` seconds late; other packets overtake them. 0 ends it.
    fn delay_suback(&self, py: Python<'_>, duration: f64) -> PyResult<()> {
        let duration = seconds(duration)?;
        self.with(py, |broker| broker.delay_suback(duration))
    }

    /// New clients get a CONNACK with this reason code, until None (section 3.2.2.2).
    fn refuse_connect(&self, py: Python<'_>, reason_code: Option<u8>) -> PyResult<()> {
        self.with(py, |broker| broker.refuse_connect(reason_code))
    }

    /// What is published to a topic that `filter` matches gets this reason code, and goes nowhere. None
    /// ends the rule.
    #[pyo3(signature = (reason_code, filter="#"))]
    fn refuse_publish(&self, py: Python<'_>, reason_code: Option<u8>, filter: &str) -> PyResult<()> {
        self.with(py, |broker| broker.refuse_publish(filter, reason_code))
    }

    /// A SUBSCRIBE of `filter`, or of one that it matches, gets this reason code. None ends the rule.
    #[pyo3(signature = (reason_code, filter="#"))]
    fn refuse_subscribe(&self, py: Python<'_>, reason_code: Option<u8>, filter: &str) -> PyResult<()> {
        self.with(py, |broker| broker.refuse_subscribe(filter, reason_code))
    }

    /// Sends again, with DUP, every QoS 1 or 2 PUBLISH that a connected client has not acknowledged.
    fn redeliver(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Broker::redeliver)
    }

    /// Every PUBLISH to a subscriber goes out twice, the second as a message of its own.
    fn duplicate(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        self.with(py, |broker| broker.duplicate(on))
    }

    /// Forgets all sessions, and cuts every connection. Retained messages stay.
    fn lose_session(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Broker::lose_session)
    }

    /// Messages are routed, but their publishers get no PUBACK or PUBREC.
    fn drop_puback(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        self.with(py, |broker| broker.drop_puback(on))
    }

    /// The Response Information of later CONNACKs, for clients that ask for it (section 3.2.2.3.15).
    fn set_response_information(&self, py: Python<'_>, value: Option<String>) -> PyResult<()> {
        self.with(py, |broker| broker.response_information(value))
    }

    /// False: new connections are closed at once.
    fn set_accepting(&self, py: Python<'_>, accepting: bool) -> PyResult<()> {
        self.with(py, |broker| broker.set_accepting(accepting))
    }

    /// The client identifiers that are connected, sorted.
    fn connections(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, Broker::connections)
    }

    /// Client identifier, filter and granted QoS of every subscription, sorted.
    fn subscriptions(&self, py: Python<'_>) -> PyResult<Vec<(String, String, u8)>> {
        self.with(py, Broker::subscriptions)
    }

    /// The latest packets: client identifier, whether the broker sent it, and its bytes.
    fn _recorded<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, bool, Bound<'py, PyBytes>)>> {
        let packets = self.with(py, Broker::packets)?.ok_or_else(|| {
            PyRuntimeError::new_err("packets are not recorded: start it with LoopbackBroker(record=True)")
        })?;
        let given = |it: Recorded| (it.client_id.to_string(), it.sent, PyBytes::new(py, &it.bytes));
        Ok(packets.into_iter().map(given).collect())
    }

    /// Forgets the packets recorded so far.
    fn clear_packets(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Broker::clear_packets)
    }

    /// Counters since the start (`received`, `sent`, `dropped`, and by packet type), and sizes now
    /// (`queued`, `in_flight`, `sessions`).
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.with(py, Broker::stats)?;
        let all = PyDict::new(py);
        all.set_item("received", stats.received)?;
        all.set_item("sent", stats.sent)?;
        all.set_item("dropped", stats.dropped)?;
        all.set_item("queued", stats.queued)?;
        all.set_item("in_flight", stats.in_flight)?;
        all.set_item("sessions", stats.sessions)?;
        all.set_item("received_by_type", stats.received_by_type)?;
        all.set_item("sent_by_type", stats.sent_by_type)?;
        Ok(all)
    }
}
