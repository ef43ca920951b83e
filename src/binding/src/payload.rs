//! Payloads on their way out. A small one is copied; a large one stays where Python has it until the connection
//! needs it no more, so that the only copy is the one into the packet.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// Up to here a copy costs less than the bookkeeping, in bytes.
const SMALL: usize = 4096;

/// What the connection is done with. Only a thread that holds the interpreter may drop it, and the I/O thread
/// never does.
static RETURNED: Mutex<Vec<PyBackedBytes>> = Mutex::new(Vec::new());

fn returned() -> MutexGuard<'static, Vec<PyBackedBytes>> {
    RETURNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Python's bytes, on loan.
struct Lent(Option<PyBackedBytes>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        returned().extend(self.0.take());
    }
}

/// Bytes for the core.
pub(crate) fn lend(payload: &Bound<'_, PyBytes>) -> Bytes {
    let bytes = payload.as_bytes();
    if bytes.len() <= SMALL {
        return Bytes::copy_from_slice(bytes);
    }
    Bytes::from_owner(Lent(Some(payload.clone().into())))
}

/// Lets go of what has come back.
pub(crate) fn take_back(_held: Python<'_>) {
    let all = {
        let mut returned = returned();
        if returned.is_empty() {
            return;
        }
        std::mem::take(&mut *returned)
    };
    // Not under the lock: it is Python's memory.
    drop(all);
}
