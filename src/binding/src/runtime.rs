//! The I/O thread: one for the process, started with the first connection, never holding the interpreter.
//! It is not joined at exit: it holds no Python object, and a connection that its owner left open must look
//! to the broker like what it is, a client that went away.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle};

/// How often this process is the child of a fork since the module was imported.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// The handle of the I/O thread, and the fork count it was started at.
static IO: Mutex<Option<(u32, Handle)>> = Mutex::new(None);

/// The I/O thread of this process.
pub(crate) fn io() -> PyResult<Handle> {
    let mut io = IO.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = FORKS.load(Ordering::Relaxed);
    if let Some((_, handle)) = io.as_ref().filter(|(at, _)| *at == forks) {
        return Ok(handle.clone());
    }
    let failed =
        |error: std::io::Error| PyRuntimeError::new_err(format!("cannot start the I/O thread: {error}"));
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("reqtt-io".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(failed)?;
    if let Some((_, inherited)) = io.replace((forks, handle.clone())) {
        // Its thread did not survive the fork; touching it would touch the parent's sockets.
        std::mem::forget(inherited);
    }
    Ok(handle)
}

/// Whether the interpreter is about to end; read-locked by native threads while they are attached to it.
static ENDED: RwLock<bool> = RwLock::new(false);
/// How long the interpreter waits for them.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// For native threads: runs in the interpreter, unless that is about to end. It would end the thread where it
/// stands, in the middle of code that cannot be unwound.
pub(crate) fn attach<R>(work: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let ended = ENDED.read().unwrap_or_else(PoisonError::into_inner);
    (!*ended).then(|| Python::attach(work))
}

/// Whether Python's own threads that wait here must not come back to the interpreter either.
static OVER: AtomicBool = AtomicBool::new(false);
/// Those that are on their way back.
static COMING_BACK: AtomicU32 = AtomicU32::new(0);
thread_local! {
    /// Whether this is the thread that ends the interpreter.
    static ENDS_IT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A thread of Python's own that was detached and comes back to the interpreter; to be dropped once it is there.
pub(crate) struct ComingBack;

impl Drop for ComingBack {
    fn drop(&mut self) {
        COMING_BACK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Called at the end of a wait without the interpreter. Where that has ended, this thread stays here for good: the
/// interpreter would end it in the middle of code that cannot be unwound.
pub(crate) fn come_back() -> ComingBack {
    COMING_BACK.fetch_add(1, Ordering::SeqCst);
    let coming = ComingBack;
    if OVER.load(Ordering::SeqCst) && !ENDS_IT.get() {
        drop(coming);
        loop {
            std::thread::park();
        }
    }
    coming
}

/// Called by `atexit`: afterwards no native thread comes in.
#[pyfunction(name = "_ended")]
pub(crate) fn ended(py: Python<'_>) {
    ENDS_IT.set(true);
    OVER.store(true, Ordering::SeqCst);
    py.detach(|| {
        let patience = Instant::now() + END_PATIENCE;
        // Bounded: in the child of a fork the lock may be that of a thread which is not there.
        while Instant::now() < patience {
            if COMING_BACK.load(Ordering::SeqCst) == 0
                && let Ok(mut ended) = ENDED.try_write()
            {
                *ended = true;
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

pub(crate) fn watch_end(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.py().import("atexit")?.call_method1("register", (module.getattr("_ended")?,))?;
    Ok(())
}

/// To be compared later: a connection lives in the process that opened it.
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Raises where `forks` says that something was made in another process.
pub(crate) fn check_process(forks: u32) -> PyResult<()> {
    if forks == self::forks() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "this client was opened before fork(): its connection belongs to the parent process, open a new client in the child",
    ))
}

/// Called in the child of a fork, by `os.register_at_fork`.
#[pyfunction(name = "_forked")]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // Other threads are not here.
    COMING_BACK.store(0, Ordering::SeqCst);
}

pub(crate) fn watch_forks(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let os = py.import("os")?;
    if !os.hasattr("register_at_fork")? {
        return Ok(());
    }
    let options = pyo3::types::PyDict::new(py);
    options.set_item("after_in_child", module.getattr("_forked")?)?;
    os.call_method("register_at_fork", (), Some(&options))?;
    Ok(())
}
