//! What the core logs, handed to Python's `logging`. The I/O thread only queues records: the loop's side
//! writes them when it drains, because the I/O thread never takes the interpreter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;
use reqtt_core::mailbox::Wake;

/// More than a person reads; what comes on top is dropped, oldest first.
const LIMIT: usize = 1000;

struct Queue {
    records: Mutex<VecDeque<(Level, String, String)>>,
    wakers: Mutex<Vec<Weak<dyn Wake>>>,
}

static QUEUE: Queue = Queue { records: Mutex::new(VecDeque::new()), wakers: Mutex::new(Vec::new()) };

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("reqtt")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == LIMIT {
            records.pop_front();
        }
        records.push_back((record.level(), record.target().to_owned(), record.args().to_string()));
        drop(records);
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|waker| waker.strong_count() > 0);
        if let Some(waker) = wakers.last().and_then(Weak::upgrade) {
            waker.wake();
        }
    }

    fn flush(&self) {}
}

/// Routes the core's log here. Another copy of the module in the process may have been first: then that is it.
pub(crate) fn install() {
    if log::set_logger(&QUEUE).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Somebody who drains when woken.
pub(crate) fn register(waker: &Arc<dyn Wake>) {
    QUEUE.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(waker));
}

/// Writes what is queued to Python's `logging`.
pub(crate) fn drain(py: Python<'_>) -> PyResult<()> {
    let records = {
        let mut records = QUEUE.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.is_empty() {
            return Ok(());
        }
        std::mem::take(&mut *records)
    };
    let logging = py.import("logging")?;
    for (level, target, text) in records {
        let level = match level {
            Level::Error => 40,
            Level::Warn => 30,
            Level::Info => 20,
            Level::Debug | Level::Trace => 10,
        };
        let target = target.replace("::", ".");
        logging.call_method1("getLogger", (target,))?.call_method1("log", (level, "%s", text))?;
    }
    Ok(())
}
