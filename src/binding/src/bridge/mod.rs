//! Between the core's mailbox and one asyncio loop; this folder is the only place that knows asyncio.
//!
//! The slab of waiting calls lives here, on the loop's side. One wake-up of the loop drains everything that
//! the I/O thread has left, and what the program asks for within one tick of the loop goes down as one batch.

mod call;
mod parked;
mod wake;

use std::collections::HashMap;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use reqtt_core::command::{Command, Counters, Event, Token};
use reqtt_core::connection::Link;
use reqtt_core::mailbox::{Mailbox, Wake};
use reqtt_core::options::Options;
use reqtt_core::{Error, ResponderOptions};

pub(crate) use self::call::Call;
use self::call::Slot;
use self::parked::Parked;
use self::wake::{Shared, WakeFd, WakeThread, Waker};
use crate::outcome::{self, Waiting};
use crate::owner::Owner;
use crate::waiters::Waiters;
use crate::{errors, logging, message, payload, runtime};

enum Waiter {
    Call(Arc<Slot>, Waiting),
    /// Lives on after its SUBACK: messages go to `push`, the end of it to `fail`.
    Subscription {
        slot: Option<Arc<Slot>>,
        push: Py<PyAny>,
        fail: Py<PyAny>,
    },
    /// A request with many responses: each goes to `item`, the end to `end`.
    Gather {
        item: Py<PyAny>,
        end: Py<PyAny>,
    },
}

#[derive(Default)]
struct Inner {
    waiters: Waiters<Waiter>,
    /// Requests that wait for their outcome.
    requests: usize,
    /// What the program asked for in this tick of the loop.
    cork: Vec<Command>,
    flushing: bool,
    /// Room for the tasks that a batch of events wakes.
    woken: Vec<Py<Parked>>,
    /// Scratch for a drain.
    events: Vec<Event>,
    /// What the loop waits for on behalf of the connection.
    #[cfg(target_os = "linux")]
    watched: Option<Arc<std::os::fd::OwnedFd>>,
    responders: HashMap<u32, Arc<Responder>>,
    /// The tasks of running handlers, with their responder: the loop itself holds them weakly.
    running: HashMap<u64, (u32, Py<PyAny>)>,
}

struct Responder {
    options: Arc<ResponderOptions>,
    runner: Py<PyAny>,
    /// Makes a task of what `runner` gives.
    task: Py<PyAny>,
}

/// Ties one connection to one event loop.
#[pyclass(frozen, weakref, module = "reqtt._core")]
pub(crate) struct Bridge {
    event_loop: Py<PyAny>,
    call_soon: Py<PyAny>,
    /// Told of `Connected`, `Disconnected` and `Reconnecting`.
    on_event: Py<PyAny>,
    /// A weak reference to the Python client, for `Request.client`.
    client: Py<PyAny>,
    link: Arc<Link>,
    mailbox: Arc<Mailbox<Event>>,
    waker: Arc<Waker>,
    /// The same, as the log knows it.
    _log_waker: Arc<dyn Wake>,
    detached: AtomicBool,
    forks: u32,
    inner: Mutex<Inner>,
}

impl Bridge {
    /// Attaches to the running loop.
    pub fn attach(
        py: Python<'_>,
        options: Arc<Options>,
        counters: Arc<Counters>,
        on_event: Py<PyAny>,
        client: Py<PyAny>,
    ) -> PyResult<Py<Self>> {
        let event_loop = running_loop(py)?.ok_or_else(|| {
            PyRuntimeError::new_err(
                "no running event loop: call this from a coroutine, or use reqtt.blocking",
            )
        })?;
        let failed = |error: std::io::Error| {
            PyRuntimeError::new_err(format!("cannot make a wake-up descriptor: {error}"))
        };
        let fd = WakeFd::new().map_err(failed)?;
        // The reader needs the bridge, and the bridge what the reader watches: try the loop first.
        let probe = py.eval(c"lambda: None", None, None)?;
        let waker = match event_loop.call_method1(intern!(py, "add_reader"), (fd.number(), &probe)) {
            Ok(_) => Waker::Fd(fd),
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyNotImplementedError>(py) => {
                Waker::Thread(Arc::new(WakeThread::default()))
            }
            Err(error) => return Err(error),
        };
        let waker = Arc::new(waker);
        let mailbox = Arc::new(Mailbox::new(Box::new(Shared(waker.clone()))));
        let loop_watches = matches!(&*waker, Waker::Fd(_));
        let link = Link::new(options, mailbox.clone(), counters, loop_watches);
        let log_waker: Arc<dyn Wake> = Arc::new(Shared(waker.clone()));
        logging::register(&log_waker);
        let bridge = Py::new(
            py,
            Self {
                call_soon: event_loop.getattr(intern!(py, "call_soon"))?.unbind(),
                event_loop: event_loop.clone().unbind(),
                on_event,
                client,
                link,
                mailbox,
                waker,
                _log_waker: log_waker,
                detached: AtomicBool::new(false),
                forks: runtime::forks(),
                inner: Mutex::new(Inner::default()),
            },
        )?;
        let bound = bridge.bind(py);
        let drain = bound.getattr(intern!(py, "drain"))?;
        match &*bridge.get().waker {
            Waker::Fd(fd) => {
                event_loop.call_method1(intern!(py, "add_reader"), (fd.number(), drain))?;
            }
            Waker::Thread(thread) => {
                let tell = event_loop.getattr(intern!(py, "call_soon_threadsafe"))?.unbind();
                // Weakly: the thread must not keep a bridge that nobody else holds.
                let weak = py.import("weakref")?.getattr("ref")?.call1((bound,))?;
                thread.start(tell, weak.unbind()).map_err(failed)?;
            }
        }
        Ok(bridge)
    }

    pub fn link(&self) -> Arc<Link> {
        self.link.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises unless the caller runs on this bridge's loop, in the process that opened it.
    pub fn on_its_loop(&self, py: Python<'_>) -> PyResult<()> {
        runtime::check_process(self.forks)?;
        if self.detached.load(Ordering::Relaxed) {
            return Err(errors::to_py(py, &Error::ClientClosed));
        }
        match running_loop(py)? {
            Some(running) if running.is(&self.event_loop) => Ok(()),
            Some(_) => Err(PyRuntimeError::new_err(
                "this client belongs to another event loop: open one in this loop, or hand the call over with asyncio.run_coroutine_threadsafe()",
            )),
            None => Err(PyRuntimeError::new_err(
                "no event loop runs in this thread: hand the call over to the client's loop with asyncio.run_coroutine_threadsafe(), or use reqtt.blocking",
            )),
        }
    }

    pub(super) fn parked(&self, py: Python<'_>) -> Parked {
        Parked::new(self.event_loop.clone_ref(py))
    }

    /// Starts an operation: `command` is given the token that its outcome comes back under.
    pub fn start(
        slf: &Bound<'_, Self>,
        waiting: Waiting,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Call> {
        let py = slf.py();
        let this = slf.get();
        this.on_its_loop(py)?;
        let slot = Arc::new(Slot::default());
        let request = matches!(waiting, Waiting::Request(_));
        let item = matches!(waiting, Waiting::Item(_));
        let mut inner = this.lock();
        let token = inner.wait(Waiter::Call(slot.clone(), waiting));
        inner.cork.push(command(token));
        // With nothing else under way there is nothing to wait for: a lone request leaves at once.
        let alone = inner.requests == 0;
        inner.requests += usize::from(request);
        if !item && (!request || alone) {
            this.send_cork(inner);
        } else {
            Self::send_cork_soon(slf, inner)?;
        }
        Ok(Call::new(slf.clone().unbind(), slot, token))
    }

    /// Starts a subscription; its messages go to `push(message, delivery)`, its end to `fail(exception)`.
    pub fn subscribe(
        slf: &Bound<'_, Self>,
        push: Py<PyAny>,
        fail: Py<PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<(Token, Call)> {
        let this = slf.get();
        this.on_its_loop(slf.py())?;
        let slot = Arc::new(Slot::default());
        let mut inner = this.lock();
        let token = inner.wait(Waiter::Subscription { slot: Some(slot.clone()), push, fail });
        inner.cork.push(command(token));
        this.send_cork(inner);
        Ok((token, Call::new(slf.clone().unbind(), slot, token)))
    }

    /// Starts a request with many responses; each goes to `item(outcome)`, its end to `end(exception or None)`.
    pub fn gather(
        slf: &Bound<'_, Self>,
        item: Py<PyAny>,
        end: Py<PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Token> {
        let this = slf.get();
        this.on_its_loop(slf.py())?;
        let mut inner = this.lock();
        let token = inner.wait(Waiter::Gather { item, end });
        inner.requests += 1;
        inner.cork.push(command(token));
        this.send_cork(inner);
        Ok(token)
    }

    /// Registers a responder and starts it.
    pub fn respond(
        slf: &Bound<'_, Self>,
        id: u32,
        options: ResponderOptions,
        runner: Py<PyAny>,
    ) -> PyResult<Call> {
        let options = Arc::new(options);
        let task = task_maker(slf.get().event_loop.bind(slf.py()), runner.bind(slf.py()))?;
        let responder = Responder { options: options.clone(), runner, task };
        slf.get().lock().responders.insert(id, Arc::new(responder));
        Self::start(slf, Waiting::Plain, |token| Command::OpenResponder { token, responder: id, options })
    }

    /// Sends a command that has no outcome.
    pub fn tell(&self, command: Command) {
        let mut inner = self.lock();
        inner.cork.push(command);
        self.send_cork(inner);
    }

    /// The same, but together with what else this tick of the loop brings.
    pub fn tell_soon(slf: &Bound<'_, Self>, command: Command) -> PyResult<()> {
        let mut inner = slf.get().lock();
        inner.cork.push(command);
        Self::send_cork_soon(slf, inner)
    }

    fn send_cork(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut batch = std::mem::take(&mut inner.cork);
        if self.forks != runtime::forks() {
            // The socket is the parent's, and so is the session.
            return;
        }
        self.link.submit(&mut batch);
        inner.cork = batch;
    }

    fn send_cork_soon(slf: &Bound<'_, Self>, mut inner: MutexGuard<'_, Inner>) -> PyResult<()> {
        if inner.flushing {
            return Ok(());
        }
        inner.flushing = true;
        drop(inner);
        // Bound anew each time: one that is kept would keep the bridge alive for ever.
        let flush = slf.getattr(intern!(slf.py(), "flush"))?;
        slf.get().call_soon.bind(slf.py()).call1((flush,))?;
        Ok(())
    }

    /// The caller of `token` no longer waits. What is dropped here is Python's, so the interpreter is held.
    pub(super) fn cancel(&self, _held: Python<'_>, token: Token) {
        let mut inner = self.lock();
        let Some(waiter) = inner.take(token) else { return };
        let command = match &waiter {
            Waiter::Call(_, Waiting::Request(_)) | Waiter::Gather { .. } => Some(Command::Cancel { token }),
            Waiter::Subscription { .. } => Some(Command::Unsubscribe { token }),
            Waiter::Call(..) => None,
        };
        if self.forks == runtime::forks()
            && let Some(command) = command
        {
            inner.cork.push(command);
            self.send_cork(inner);
        } else {
            drop(inner);
        }
        drop(waiter);
    }

    /// A handler's task: held until its request is answered.
    pub fn answered(&self, delivery: u64) -> Option<Py<PyAny>> {
        self.lock().running.remove(&delivery).map(|(_, task)| task)
    }

    /// The tasks of these responders' handlers that still run.
    pub fn tasks(&self, py: Python<'_>, responders: &[u32]) -> Vec<Py<PyAny>> {
        let inner = self.lock();
        let theirs = inner.running.values().filter(|(responder, _)| responders.contains(responder));
        theirs.map(|(_, task)| task.clone_ref(py)).collect()
    }

    /// Requests that wait for their outcome, as the caller's side knows it: without the delay of the hop.
    pub fn pending(&self) -> usize {
        self.lock().requests
    }

    pub fn client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.client.bind(py).call0()
    }

    /// Ends it: the loop forgets the descriptor, whatever waits ends with `ClientClosed`.
    pub fn detach(&self, py: Python<'_>) -> PyResult<()> {
        if self.detached.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let waiters = {
            let mut inner = self.lock();
            inner.requests = 0;
            inner.waiters.take_all()
        };
        for waiter in waiters {
            let closed = errors::to_py(py, &Error::ClientClosed);
            match waiter {
                Waiter::Call(slot, _) => {
                    if let Some(parked) = slot.complete(Err(closed)) {
                        Parked::wake_soon(parked.bind(py))?;
                    }
                }
                Waiter::Subscription { fail: end, .. } | Waiter::Gather { end, .. } => {
                    drop(end.bind(py).call1((closed.value(py),))?);
                }
            }
        }
        if self.forks != runtime::forks() {
            // The selector is the parent's: epoll would forget the descriptor there, too.
            return Ok(());
        }
        match &*self.waker {
            Waker::Fd(fd) => {
                if !self.event_loop.bind(py).call_method0(intern!(py, "is_closed"))?.is_truthy()? {
                    self.unwatch(py)?;
                    self.event_loop.bind(py).call_method1(intern!(py, "remove_reader"), (fd.number(),))?;
                }
            }
            Waker::Thread(thread) => thread.stop(),
        }
        Ok(())
    }

    /// Tells one event; whom it wakes goes to `woken`. An error here is a bug or a loop that is closing: it goes to the
    /// loop's handler.
    fn handle(slf: &Bound<'_, Self>, event: Event, woken: &mut Vec<Py<Parked>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        match event {
            Event::Response { token, .. } => {
                let mut inner = this.lock();
                if let Some(Waiter::Gather { item, .. }) = inner.get(token) {
                    let item = item.clone_ref(py);
                    drop(inner);
                    return item.bind(py).call1((outcome::item(py, event),)).map(drop);
                }
                let waiter = inner.take(token);
                drop(inner);
                let Some(Waiter::Call(slot, waiting)) = waiter else { return Ok(()) };
                woken.extend(slot.complete(waiting.outcome(py, event)));
                Ok(())
            }
            Event::Request { responder, delivery, message, deadline } => {
                let Some(known) = this.lock().responders.get(&responder).cloned() else { return Ok(()) };
                let owner = Owner::Loop(slf.clone().unbind());
                let options = known.options.clone();
                let request = message::Request::incoming(py, owner, options, delivery, message, deadline)?;
                let coroutine = known.runner.bind(py).call1((request.clone_ref(py),))?;
                let task = known.task.bind(py).call1((coroutine,))?;
                if !request.get().is_over() {
                    this.lock().running.insert(delivery, (responder, task.unbind()));
                }
                Ok(())
            }
            Event::Message { token, message, delivery } => {
                let push = match this.lock().get(token) {
                    Some(Waiter::Subscription { push, .. }) => push.clone_ref(py),
                    _ => return Ok(()),
                };
                push.bind(py).call1((message::Message::new(py, message)?, delivery))?;
                Ok(())
            }
            Event::Published { token, .. } | Event::ConnAck { token, .. } => {
                if let Some(Waiter::Call(slot, waiting)) = this.take(token) {
                    woken.extend(slot.complete(waiting.outcome(py, event)));
                }
                Ok(())
            }
            Event::Subscribed { token } => {
                let slot = {
                    let mut inner = this.lock();
                    match inner.get(token) {
                        Some(Waiter::Subscription { slot, .. }) => slot.take(),
                        _ => match inner.take(token) {
                            Some(Waiter::Call(slot, _)) => Some(slot),
                            _ => None,
                        },
                    }
                };
                woken.extend(slot.and_then(|slot| slot.complete(Ok(py.None()))));
                Ok(())
            }
            Event::Done { token } => match this.take(token) {
                Some(Waiter::Call(slot, _)) => {
                    woken.extend(slot.complete(Ok(py.None())));
                    Ok(())
                }
                Some(Waiter::Gather { end, .. }) => end.bind(py).call1((py.None(),)).map(drop),
                _ => Ok(()),
            },
            Event::Failed { token, error } => match this.take(token) {
                Some(Waiter::Call(slot, _)) => {
                    woken.extend(slot.complete(Err(errors::to_py(py, &error))));
                    Ok(())
                }
                Some(Waiter::Subscription { slot, fail, .. }) => {
                    let error = errors::to_py(py, &error);
                    fail.bind(py).call1((error.value(py),))?;
                    woken.extend(slot.and_then(|slot| slot.complete(Err(error))));
                    Ok(())
                }
                Some(Waiter::Gather { end, .. }) => {
                    end.bind(py).call1((errors::to_py(py, &error).value(py),)).map(drop)
                }
                None => Ok(()),
            },
            Event::Connected { .. } | Event::Disconnected { .. } | Event::Reconnecting { .. } => {
                this.on_event.bind(py).call1(outcome::news(py, event)?).map(drop)
            }
            Event::Ask { number, question } => {
                let (kind, data) = outcome::question(py, &question);
                this.on_event.bind(py).call1(("ask", (slf, number, kind, data)))?;
                Ok(())
            }
            #[cfg(target_os = "linux")]
            Event::Watch(watched) => Self::watch(slf, watched),
        }
    }

    fn take(&self, token: Token) -> Option<Waiter> {
        self.lock().take(token)
    }

    /// From now on the loop waits for this descriptor.
    #[cfg(target_os = "linux")]
    fn watch(slf: &Bound<'_, Self>, watched: Arc<std::os::fd::OwnedFd>) -> PyResult<()> {
        let this = slf.get();
        if this.detached.load(Ordering::Relaxed) {
            return Ok(());
        }
        this.unwatch(slf.py())?;
        let readable = slf.getattr(intern!(slf.py(), "readable"))?;
        let number = watched.as_raw_fd();
        this.event_loop.bind(slf.py()).call_method1(intern!(slf.py(), "add_reader"), (number, readable))?;
        this.lock().watched = Some(watched);
        Ok(())
    }

    /// The loop forgets it; it must do so before the descriptor is closed.
    #[cfg(target_os = "linux")]
    fn unwatch(&self, py: Python<'_>) -> PyResult<()> {
        let Some(watched) = self.lock().watched.take() else { return Ok(()) };
        self.event_loop.bind(py).call_method1(intern!(py, "remove_reader"), (watched.as_raw_fd(),)).map(drop)
    }

    /// Tells what has gathered in `events`, which goes back for the next time, then lets the tasks go on that wait for
    /// it. Only the loop calls this: no task runs.
    fn handle_all(slf: &Bound<'_, Self>, mut events: Vec<Event>, write: bool) -> PyResult<()> {
        let this = slf.get();
        let py = slf.py();
        let several = events.len() > 1;
        let mut handlers = false;
        let (mut woken, flushing) = {
            let mut inner = this.lock();
            // What these tasks ask for leaves in one write.
            (std::mem::take(&mut inner.woken), std::mem::replace(&mut inner.flushing, true))
        };
        let mut passing = Ok(());
        let mut note = |outcome: PyResult<()>| {
            let Err(error) = outcome else { return };
            // What stops the loop is for the loop, when all others have been told, too.
            let exception = error.is_instance_of::<PyException>(py);
            let told = if exception { this.complain(py, &error) } else { Err(error) };
            if passing.is_ok() {
                passing = told;
            }
        };
        for event in events.drain(..) {
            handlers |= several && matches!(event, Event::Request { .. });
            note(Self::handle(slf, event, &mut woken));
        }
        // Behind all events: a task finds what they say, such as whether the client is connected.
        for parked in woken.drain(..) {
            note(Parked::wake(parked.bind(py)));
        }
        let mut inner = this.lock();
        inner.events = events;
        inner.woken = woken;
        inner.flushing = flushing;
        drop(inner);
        payload::take_back(py);
        if handlers && !flushing {
            // Behind the handlers that these events have begun.
            Self::send_cork_soon(slf, this.lock())?;
        } else if write || !this.lock().cork.is_empty() {
            this.send_cork(this.lock());
        }
        passing
    }
}

#[pymethods]
impl Bridge {
    /// Everything the I/O thread has left, in one go.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if let Waker::Fd(fd) = &*this.waker {
            fd.clear();
        }
        if let Err(error) = logging::drain(py) {
            this.complain(py, &error)?;
        }
        let mut events = std::mem::take(&mut this.lock().events);
        this.mailbox.take(&mut events);
        Self::handle_all(slf, events, false)
    }

    /// The connection has something to read.
    #[cfg(target_os = "linux")]
    fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let mut events = std::mem::take(&mut this.lock().events);
        let write = this.link.readable(&mut events);
        Self::handle_all(slf, events, write)
    }

    /// Answers a question of the connection by its number.
    #[pyo3(signature = (question, *, username=None, password=None, data=None, error=None))]
    fn answer(
        &self,
        question: u64,
        username: Option<String>,
        password: Option<&Bound<'_, PyAny>>,
        data: Option<&[u8]>,
        error: Option<String>,
    ) -> PyResult<()> {
        if self.detached.load(Ordering::Relaxed) {
            return Ok(());
        }
        let answer = outcome::answer(username, password, data, error)?;
        self.tell(Command::Answer { question, answer });
        Ok(())
    }

    /// Sends what this tick of the loop has brought together.
    fn flush(&self) {
        let mut inner = self.lock();
        inner.flushing = false;
        self.send_cork(inner);
    }
}

impl Bridge {
    fn complain(&self, py: Python<'_>, error: &PyErr) -> PyResult<()> {
        let context = PyDict::new(py);
        context.set_item("message", "reqtt could not deliver an event")?;
        context.set_item("exception", error.value(py))?;
        self.event_loop.bind(py).call_method1(intern!(py, "call_exception_handler"), (context,))?;
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if self.forks == runtime::forks() {
            if let Waker::Thread(thread) = &*self.waker {
                thread.stop();
            }
            // A client that nobody closed and nobody holds: its connection ends with it.
            self.link.queue().push(Command::Disconnect { token: None });
        }
    }
}

impl Inner {
    fn wait(&mut self, waiter: Waiter) -> Token {
        self.waiters.add(waiter)
    }

    fn get(&mut self, token: Token) -> Option<&mut Waiter> {
        self.waiters.get(token)
    }

    fn take(&mut self, token: Token) -> Option<Waiter> {
        let waiter = self.waiters.take(token)?;
        let request = matches!(waiter, Waiter::Call(_, Waiting::Request(_)) | Waiter::Gather { .. });
        self.requests -= usize::from(request);
        Some(waiter)
    }
}

/// Raises on a thread that runs an event loop: a call that waits would stop that.
pub(crate) fn refuse_on_a_loop(py: Python<'_>) -> PyResult<()> {
    match running_loop(py)? {
        None => Ok(()),
        // The cells of a notebook run on the loop of its kernel, which waits for them anyway.
        Some(_) if is_notebook(py)? => Ok(()),
        Some(_) => Err(PyRuntimeError::new_err(
            "a blocking call would stop the event loop that runs in this thread: await reqtt.Client, Requester or Responder here, or make the call in another thread, with asyncio.to_thread()",
        )),
    }
}

/// Whether this is where the kernel of a notebook runs its cells.
fn is_notebook(py: Python<'_>) -> PyResult<bool> {
    let modules = py.import("sys")?.getattr("modules")?;
    let kernel = modules.call_method1("get", ("ipykernel.kernelapp",))?;
    if kernel.is_none() || !kernel.getattr("IPKernelApp")?.call_method0("initialized")?.is_truthy()? {
        return Ok(false);
    }
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?;
    Ok(threading.call_method0("current_thread")?.is(&main))
}

fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = RUNNING
        .get_or_try_init(py, || PyResult::Ok(py.import("asyncio")?.getattr("_get_running_loop")?.unbind()))?;
    let running = running.bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}

/// How the tasks of a handler are made: under its name, and eagerly where Python can (3.12), so that one that never
/// waits costs no turn of the loop.
fn task_maker(event_loop: &Bound<'_, PyAny>, runner: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    let options = PyDict::new(py);
    options.set_item("loop", event_loop)?;
    options.set_item("name", runner.getattr("__name__")?)?;
    if py.version_info() >= (3, 12) {
        options.set_item("eager_start", true)?;
    }
    let partial = py.import("functools")?.getattr("partial")?;
    Ok(partial.call((py.import("asyncio")?.getattr("Task")?,), Some(&options))?.unbind())
}
