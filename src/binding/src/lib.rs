//! The native module `reqtt._core`: the list of what Python sees. The binding translates; what MQTT means is
//! decided in `reqtt-core`, what Python means in the package around it.

use pyo3::prelude::*;
use reqtt_core::topic::{Pattern, Router};

mod blocking;
mod bridge;
mod client;
mod errors;
mod logging;
mod loopback;
mod message;
mod outcome;
mod owner;
mod payload;
mod requester;
mod runtime;
mod waiters;

/// Name and value.
type Captures = Vec<(String, String)>;

/// The MQTT filter of `text`, and the names of its captures.
#[pyfunction]
fn parse_filter(py: Python<'_>, text: &str) -> PyResult<(String, Vec<String>)> {
    let pattern = Pattern::parse(text).map_err(|error| errors::to_py(py, &error))?;
    Ok((pattern.filter().to_owned(), pattern.names().map(str::to_owned).collect()))
}

/// Raises `InvalidTopic` unless `topic` can be published to.
#[pyfunction]
fn check_topic(py: Python<'_>, topic: &str) -> PyResult<()> {
    reqtt_core::topic::check_topic(topic).map_err(|error| errors::to_py(py, &error))
}

/// Raises `InvalidTopic` unless `topic_filter` can be subscribed to.
#[pyfunction]
fn check_filter(py: Python<'_>, topic_filter: &str) -> PyResult<()> {
    reqtt_core::topic::check_filter(topic_filter).map_err(|error| errors::to_py(py, &error))
}

/// Whether `topic` matches `topic_filter` (MQTT 5.0, section 4.7).
#[pyfunction]
fn topic_matches(topic_filter: &str, topic: &str) -> bool {
    reqtt_core::topic::matches(topic_filter, topic)
}

/// Which of these filters answers `topic`, the most specific: its place, and what it captures.
#[pyfunction]
fn route(py: Python<'_>, filters: Vec<String>, topic: &str) -> PyResult<Option<(usize, Captures)>> {
    let find = || {
        let mut router = Router::new();
        for (place, text) in filters.iter().enumerate() {
            let pattern = Pattern::parse(text)?;
            let filter = pattern.filter().to_owned();
            // The first of those that differ in their groups only.
            if router.get(&filter).is_none() {
                router.insert(&filter, (place, pattern))?;
            }
        }
        Ok(router.route(topic).map(|(place, pattern)| {
            let captures = pattern.captures(topic).unwrap_or_default().into_iter();
            (*place, captures.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        }))
    };
    find().map_err(|error: reqtt_core::Error| errors::to_py(py, &error))
}

/// The topic `name` below the place where this client may receive what others address to it.
#[pyfunction]
#[pyo3(signature = (client_id, response_information, name))]
fn own_topic(client_id: &str, response_information: Option<&str>, name: &str) -> String {
    reqtt_core::own_topic(client_id, response_information, name)
}

/// Whether a version of the RPC protocol of Azure IoT Operations, such as `1.0`, is understood.
#[pyfunction]
fn understands_azure(version: &str) -> bool {
    reqtt_core::azure::is_supported(version)
}

/// The standard's name of a reason code, e.g. `Not authorized`.
#[pyfunction]
fn reason_name(reason_code: u8) -> &'static str {
    reqtt_core::ReasonCode(reason_code).name()
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DEBUG", cfg!(debug_assertions))?;
    module.add_class::<client::Connection>()?;
    module.add_class::<bridge::Call>()?;
    module.add_class::<blocking::Pending>()?;
    module.add_class::<blocking::Inbox>()?;
    module.add_class::<requester::Requester>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<message::Request>()?;
    module.add_class::<message::Response>()?;
    module.add_class::<message::ConnAck>()?;
    module.add_class::<message::PubAck>()?;
    module.add_class::<loopback::LoopbackBroker>()?;
    module.add_function(wrap_pyfunction!(parse_filter, module)?)?;
    module.add_function(wrap_pyfunction!(check_topic, module)?)?;
    module.add_function(wrap_pyfunction!(check_filter, module)?)?;
    module.add_function(wrap_pyfunction!(topic_matches, module)?)?;
    module.add_function(wrap_pyfunction!(route, module)?)?;
    module.add_function(wrap_pyfunction!(own_topic, module)?)?;
    module.add_function(wrap_pyfunction!(reason_name, module)?)?;
    module.add_function(wrap_pyfunction!(understands_azure, module)?)?;
    module.add_function(wrap_pyfunction!(message::response_from, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::forked, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::ended, module)?)?;
    logging::install();
    runtime::watch_forks(module)?;
    runtime::watch_end(module)
}
