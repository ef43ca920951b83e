//! What the task that awaits a call is parked on: as much of a future as asyncio's tasks ask of one. A future of the
//! loop's own tells its task by `call_soon`; this one, when the loop has called us to read, runs the task at once,
//! which spares each response a handle, and a lone one a turn of the loop.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[pyclass(frozen, module = "reqtt._core", weakref)]
pub(crate) struct Parked {
    event_loop: Py<PyAny>,
    state: Mutex<State>,
}

struct State {
    blocking: bool,
    wakeup: Option<Wakeup>,
    done: bool,
    cancelled: Option<Cancelled>,
}

/// What a task is told by, and the context to tell it in.
type Wakeup = (Py<PyAny>, Py<PyAny>);

/// With its message.
type Cancelled = Option<Py<PyAny>>;

impl Parked {
    pub fn new(event_loop: Py<PyAny>) -> Self {
        let state = State { blocking: true, wakeup: None, done: false, cancelled: None };
        Self { event_loop, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task goes on before this returns: only where none runs on this thread.
    pub fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().end(None) {
            Some((wakeup, context)) => {
                context.bind(slf.py()).call_method1(intern!(slf.py(), "run"), (wakeup, slf)).map(drop)
            }
            None => Ok(()),
        }
    }

    /// The task goes on in a turn of the loop.
    pub fn wake_soon(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().end(None).map_or(Ok(()), |wakeup| Self::call_soon(slf, wakeup))
    }

    /// Gives whom to wake, once: a task that was cancelled is on its way already.
    fn end(&self, cancelled: Option<Cancelled>) -> Option<Wakeup> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.done, true) {
            return None;
        }
        state.cancelled = cancelled;
        state.wakeup.take()
    }

    fn call_soon(slf: &Bound<'_, Self>, (wakeup, context): Wakeup) -> PyResult<()> {
        let py = slf.py();
        let options = PyDict::new(py);
        options.set_item(intern!(py, "context"), context)?;
        let event_loop = slf.get().event_loop.bind(py);
        event_loop.call_method(intern!(py, "call_soon"), (wakeup, slf), Some(&options)).map(drop)
    }
}

#[pymethods]
impl Parked {
    #[getter(_asyncio_future_blocking)]
    fn blocking(&self) -> bool {
        self.lock().blocking
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, blocking: bool) {
        self.lock().blocking = blocking;
    }

    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[pyo3(signature = (wakeup, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        wakeup: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => slf.py().import("contextvars")?.call_method0("copy_context")?.unbind(),
        };
        let mut state = slf.get().lock();
        if state.done {
            drop(state);
            return Self::call_soon(slf, (wakeup, context));
        }
        state.wakeup = Some((wakeup, context));
        Ok(())
    }

    fn done(&self) -> bool {
        self.lock().done
    }

    /// What a task raises, or None.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        let cancelled = match &self.lock().cancelled {
            None => return Ok(()),
            Some(message) => message.as_ref().map(|message| message.clone_ref(py)),
        };
        let kind = py.import("asyncio")?.getattr("CancelledError")?;
        let error = match cancelled {
            None => kind.call0()?,
            Some(message) => kind.call1((message,))?,
        };
        Err(PyErr::from_value(error))
    }

    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        if slf.get().done() {
            return Ok(false);
        }
        slf.get().end(Some(msg)).map_or(Ok(()), |wakeup| Self::call_soon(slf, wakeup))?;
        Ok(true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        if let Ok(state) = self.state.try_lock()
            && let Some((wakeup, context)) = &state.wakeup
        {
            visit.call(wakeup)?;
            visit.call(context)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let wakeup = self.lock().wakeup.take();
        drop(wakeup);
    }
}
