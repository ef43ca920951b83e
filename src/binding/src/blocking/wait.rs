//! How a thread waits: without the interpreter, and with an eye on signals.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use reqtt_core::command::Event;

use super::queue::Queue;
use crate::{logging, runtime};

/// How long Ctrl-C may go unseen. Only the main thread sees it (`PyErr_CheckSignals` does nothing elsewhere).
const GLANCE: Duration = Duration::from_millis(20);

/// What a wait ended with.
#[allow(clippy::large_enum_variant, reason = "it is moved once, and made into Python's")]
pub(super) enum Waited {
    Event(Event),
    /// There will be nothing any more.
    Over,
    /// Nothing until the given moment.
    Late,
}

/// Waits for an event; raises what a signal handler raises.
pub(super) fn wait(py: Python<'_>, queue: &Queue, until: Option<Instant>) -> PyResult<Waited> {
    let glances = is_main_thread(py)?;
    loop {
        let glance = glances.then(|| Instant::now() + GLANCE);
        let pause = [glance, until].into_iter().flatten().min();
        let (found, back) = py.detach(|| {
            let found = queue.take(pause);
            (found, runtime::come_back())
        });
        drop(back);
        match found {
            Some(Some(event)) => return Ok(Waited::Event(event)),
            Some(None) => return Ok(Waited::Over),
            None => {}
        }
        py.check_signals()?;
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Waited::Late);
        }
    }
}

/// Writes what the core has logged meanwhile. A logging handler that raises must not cost a result.
pub(super) fn log(py: Python<'_>) {
    if let Err(error) = logging::drain(py) {
        error.write_unraisable(py, None);
    }
}

/// After a fork another thread may be the main one.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    thread_local! {
        static KNOWN: Cell<Option<(u32, bool)>> = const { Cell::new(None) };
    }
    let forks = runtime::forks();
    if let Some((_, main)) = KNOWN.get().filter(|(at, _)| *at == forks) {
        return Ok(main);
    }
    let threading = py.import("threading")?;
    let main: u64 = threading.call_method0("main_thread")?.getattr("ident")?.extract()?;
    let here: u64 = threading.call_method0("get_ident")?.extract()?;
    KNOWN.set(Some((forks, main == here)));
    Ok(main == here)
}
