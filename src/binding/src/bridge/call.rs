//! The awaitable that every operation returns. It is a coroutine in the eyes of asyncio (`await`,
//! `create_task`, `gather` and `TaskGroup` take it), costs no task of its own, and an end of the wait,
//! by cancellation or because nobody holds it any more, frees what it stands for at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use reqtt_core::command::Token;

use super::Bridge;
use super::parked::Parked;

/// Where the drain leaves the outcome.
#[derive(Default)]
pub(crate) struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the waiting task is parked on.
    parked: Option<Py<Parked>>,
    outcome: Option<PyResult<Py<PyAny>>>,
    over: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the outcome; gives who waits for it, to be woken.
    pub(super) fn complete(&self, outcome: PyResult<Py<PyAny>>) -> Option<Py<Parked>> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        state.outcome = Some(outcome);
        state.parked.take()
    }
}

/// An operation under way. Await it once, by `await`, `create_task`, `gather` or a `TaskGroup`.
///
/// Ending the wait, or letting go of it, gives up what it stands for.
#[pyclass(frozen, generic, module = "reqtt._core", weakref)]
pub(crate) struct Call(Kind);

enum Kind {
    /// One command, and where its outcome is left.
    One(One),
    /// A coroutine that makes several of the former, and the first of them, which is under way already: a
    /// coroutine that is closed before it began keeps what it was given, from Python 3.12 on.
    Many { coroutine: Py<PyAny>, first: Py<PyAny> },
}

struct One {
    bridge: Py<Bridge>,
    slot: Arc<Slot>,
    token: Token,
}

impl One {
    /// Gives the outcome, or parks the task.
    fn step(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        {
            let mut state = self.slot.lock();
            if state.over {
                return Err(PyRuntimeError::new_err(
                    "this was awaited before: await a call once, and keep its result",
                ));
            }
            if let Some(outcome) = state.outcome.take() {
                state.over = true;
                drop(state);
                return Err(outcome.map_or_else(|error| error, |value| stop_iteration(py, value)));
            }
            if state.parked.is_some() {
                return Err(PyRuntimeError::new_err(
                    "another task awaits this already: await a call once, and share its result",
                ));
            }
        }
        let bridge = self.bridge.get();
        bridge.on_its_loop(py)?;
        let parked = Py::new(py, bridge.parked(py))?;
        self.slot.lock().parked = Some(parked.clone_ref(py));
        Ok(parked.into_any())
    }

    fn give_up(&self, py: Python<'_>) {
        let over = {
            let mut state = self.slot.lock();
            state.parked = None;
            let over = state.over || state.outcome.is_some();
            state.over = true;
            over
        };
        if !over {
            self.bridge.get().cancel(py, self.token);
        }
    }
}

impl Call {
    pub(super) fn new(bridge: Py<Bridge>, slot: Arc<Slot>, token: Token) -> Self {
        Self(Kind::One(One { bridge, slot, token }))
    }

    /// A coroutine as a call, and the first call that it waits for.
    pub(crate) fn of_coroutine(coroutine: Py<PyAny>, first: Py<PyAny>) -> Self {
        Self(Kind::Many { coroutine, first })
    }

    fn step(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        match &self.0 {
            Kind::One(one) => one.step(py),
            Kind::Many { coroutine, .. } => coroutine.call_method1(py, intern!(py, "send"), (value,)),
        }
    }
}

/// `StopIteration(value)`; a tuple must not be taken for its arguments.
fn stop_iteration(py: Python<'_>, value: Py<PyAny>) -> PyErr {
    match py.get_type::<PyStopIteration>().call1((value,)) {
        Ok(stop) => PyErr::from_value(stop),
        Err(error) => error,
    }
}

#[pymethods]
impl Call {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.step(py, None)
    }

    /// One step, for the event loop.
    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py, Some(value))
    }

    /// Ends the wait, and raises what is thrown: how the event loop cancels.
    #[pyo3(signature = (r#type, value=None, traceback=None))]
    fn throw(
        &self,
        py: Python<'_>,
        r#type: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        match &self.0 {
            Kind::One(one) => one.give_up(py),
            Kind::Many { coroutine, .. } => {
                let throw = intern!(py, "throw");
                return match value {
                    Some(value) => coroutine.call_method1(py, throw, (r#type, value, traceback)),
                    // Three arguments are deprecated from Python 3.12 on.
                    None => coroutine.call_method1(py, throw, (r#type,)),
                };
            }
        }
        let error = match value {
            Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => value.clone(),
            Some(value) => r#type.call1((value,))?,
            None if r#type.is_instance_of::<pyo3::types::PyType>() => r#type.call0()?,
            None => r#type.clone(),
        };
        if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
            error.call_method1(intern!(py, "with_traceback"), (traceback,))?;
        }
        Err(PyErr::from_value(error))
    }

    /// What asyncio calls it in a task's repr.
    #[getter]
    fn __name__(&self) -> &'static str {
        "reqtt call"
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        "reqtt call"
    }

    /// Ends the wait.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match &self.0 {
            Kind::One(one) => one.give_up(py),
            Kind::Many { coroutine, first } => {
                coroutine.call_method0(py, intern!(py, "close"))?;
                first.call_method0(py, intern!(py, "close"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        Python::attach(|py| match &self.0 {
            Kind::One(one) => one.give_up(py),
            Kind::Many { .. } => {
                // It may be let go of while an exception passes, which no call may meet.
                let passing = PyErr::take(py);
                if let Err(error) = self.close(py) {
                    error.write_unraisable(py, None);
                }
                if let Some(passing) = passing {
                    passing.restore(py);
                }
            }
        });
    }
}
