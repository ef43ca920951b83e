//! A connection without an event loop: threads call, and wait for the core without the interpreter.
//!
//! The I/O thread hands each event straight to who waits for it, still as the core's own; the thread that takes it
//! makes Python's of it. So no thread has to run for another, and no interpreter is needed until there is a result.

mod inbox;
mod pending;
mod queue;
mod wait;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use reqtt_core::command::{Command, CommandQueue, Counters, Event, Token};
use reqtt_core::connection::Link;
use reqtt_core::mailbox::{Mailbox, Wake};
use reqtt_core::message::ConnAck;
use reqtt_core::options::Options;
use reqtt_core::{Error, ResponderOptions};

pub(crate) use self::inbox::Inbox;
pub(crate) use self::pending::Pending;
use self::queue::Queue;
use crate::outcome::Waiting;
use crate::waiters::Waiters;
use crate::{bridge, errors, runtime};

/// The threads' side of a connection.
pub(crate) struct Hub {
    link: Arc<Link>,
    router: Arc<Router>,
    /// A weak reference to the Python client, for `Request.client`.
    client: Py<PyAny>,
    detached: AtomicBool,
    forks: u32,
}

/// Where events go. The I/O thread has it, so it must hold nothing of Python's.
struct Router {
    mailbox: Weak<Mailbox<Event>>,
    /// For acknowledgements; known once the link is made.
    commands: OnceLock<Arc<CommandQueue>>,
    /// What only the caller knows.
    questions: Arc<Queue>,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    waiters: Waiters<Route>,
    /// Requests that wait for their outcome.
    requests: usize,
    responders: HashMap<u32, (Arc<ResponderOptions>, Arc<Queue>)>,
    listeners: Vec<Weak<Queue>>,
    known: Known,
    /// Scratch for a batch.
    events: Vec<Event>,
}

/// What is known of the connection.
#[derive(Clone, Default)]
pub(crate) struct Known {
    pub connected: bool,
    pub connack: Option<Arc<ConnAck>>,
    pub client_id: Option<String>,
    /// It will not come back: the broker's reason and what happened.
    pub lost: Option<(Option<u8>, String)>,
}

enum Route {
    Call {
        queue: Arc<Queue>,
        request: bool,
    },
    /// Messages, after the SUBACKs that `call` waits for.
    Subscription {
        call: Option<Arc<Queue>>,
        queue: Arc<Queue>,
    },
    Gather(Arc<Queue>),
}

impl Hub {
    /// A connection that is not open yet.
    pub fn new(
        py: Python<'_>,
        options: Arc<Options>,
        counters: Arc<Counters>,
        questions: &Inbox,
        client: Py<PyAny>,
    ) -> PyResult<Arc<Self>> {
        bridge::refuse_on_a_loop(py)?;
        let mut router = None;
        let mailbox = Arc::new_cyclic(|mailbox| {
            let made = Arc::new(Router {
                mailbox: mailbox.clone(),
                commands: OnceLock::new(),
                questions: questions.queue().clone(),
                routes: Mutex::default(),
            });
            router = Some(made.clone());
            Mailbox::new(Box::new(Shared(made)))
        });
        let router = router.expect("made with the mailbox");
        let link = Link::new(options, mailbox, counters, false);
        let _ = router.commands.set(link.queue().clone());
        let (detached, forks) = (AtomicBool::new(false), runtime::forks());
        Ok(Arc::new(Self { link, router, client, detached, forks }))
    }

    pub fn link(&self) -> Arc<Link> {
        self.link.clone()
    }

    /// Raises where a thread must not wait, or the connection is not of this process.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        runtime::check_process(self.forks)?;
        bridge::refuse_on_a_loop(py)?;
        if self.detached.load(Ordering::Relaxed) {
            return Err(errors::to_py(py, &Error::ClientClosed));
        }
        Ok(())
    }

    /// Starts an operation: `command` is given the token that its outcome comes back under.
    pub fn start(
        this: &Arc<Self>,
        py: Python<'_>,
        waiting: Waiting,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Pending> {
        this.check(py)?;
        let queue = Arc::new(Queue::default());
        let request = matches!(waiting, Waiting::Request(_));
        let token = this.router.lock().add(Route::Call { queue: queue.clone(), request });
        this.tell(command(token));
        Ok(Pending::new(this.clone(), queue, token, waiting))
    }

    /// Starts a subscription, whose messages go to an `Inbox`.
    pub fn subscribe(
        this: &Arc<Self>,
        inbox: &Bound<'_, PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<(Token, Pending)> {
        this.check(inbox.py())?;
        let inbox = inbox_of(inbox)?;
        let (inbox, call) = (inbox.get().attach(this), Arc::new(Queue::default()));
        let route = Route::Subscription { call: Some(call.clone()), queue: inbox };
        let token = this.router.lock().add(route);
        this.tell(command(token));
        Ok((token, Pending::new(this.clone(), call, token, Waiting::Plain)))
    }

    /// Starts a request with many responses, which go to an `Inbox`.
    pub fn gather(
        this: &Arc<Self>,
        inbox: &Bound<'_, PyAny>,
        command: impl FnOnce(Token) -> Command,
    ) -> PyResult<Token> {
        this.check(inbox.py())?;
        let queue = inbox_of(inbox)?.get().attach(this);
        let token = this.router.lock().add(Route::Gather(queue));
        this.tell(command(token));
        Ok(token)
    }

    /// Registers a responder, whose requests go to an `Inbox`, and starts it.
    pub fn respond(
        this: &Arc<Self>,
        id: u32,
        options: ResponderOptions,
        inbox: &Bound<'_, PyAny>,
    ) -> PyResult<Pending> {
        this.check(inbox.py())?;
        let options = Arc::new(options);
        let queue = inbox_of(inbox)?.get().attach(this);
        this.router.lock().responders.insert(id, (options.clone(), queue));
        let command = |token| Command::OpenResponder { token, responder: id, options };
        Self::start(this, inbox.py(), Waiting::Plain, command)
    }

    /// Whoever waits for what happens to the connection.
    pub fn listen(this: &Arc<Self>, inbox: &Inbox) {
        let queue = inbox.attach(this);
        this.router.lock().listeners.push(Arc::downgrade(&queue));
    }

    fn responder(&self, id: u32) -> Option<Arc<ResponderOptions>> {
        self.router.lock().responders.get(&id).map(|(options, _)| options.clone())
    }

    /// Sends a command that has no outcome.
    pub fn tell(&self, command: Command) {
        // Else the socket is the parent's, and so is the session.
        if self.forks == runtime::forks() {
            self.link.submit(&mut vec![command]);
        }
    }

    /// The caller of `token` no longer waits.
    pub fn cancel(&self, token: Token) {
        if self.forks != runtime::forks() {
            return;
        }
        let route = self.router.lock().take(token);
        match route {
            Some(Route::Call { request: true, .. } | Route::Gather(_)) => {
                self.tell(Command::Cancel { token });
            }
            Some(Route::Subscription { .. }) => self.tell(Command::Unsubscribe { token }),
            Some(Route::Call { .. }) | None => {}
        }
    }

    pub fn pending(&self) -> usize {
        if self.forks == runtime::forks() { self.router.lock().requests } else { 0 }
    }

    pub fn known(&self) -> Known {
        if self.forks == runtime::forks() { self.router.lock().known.clone() } else { Known::default() }
    }

    pub fn client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.client.bind(py).call0()
    }

    /// Ends it: whatever waits ends with `ClientClosed`.
    pub fn detach(&self) {
        if self.detached.swap(true, Ordering::Relaxed) || self.forks != runtime::forks() {
            return;
        }
        let mut routes = self.router.lock();
        routes.requests = 0;
        routes.known.connected = false;
        let closed = || Event::Failed { token: 0, error: Error::ClientClosed };
        for route in routes.waiters.take_all() {
            match route {
                Route::Call { queue, .. } => queue.push(closed()),
                Route::Subscription { call, queue } => {
                    if let Some(call) = call {
                        call.push(closed());
                    }
                    queue.push(closed());
                    queue.end();
                }
                Route::Gather(queue) => {
                    queue.push(closed());
                    queue.end();
                }
            }
        }
        for (_, queue) in routes.responders.values() {
            queue.end();
        }
        self.router.questions.end();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // A client that nobody closed and nobody holds: its connection ends with it.
        self.detach();
        self.tell(Command::Disconnect { token: None });
    }
}

fn inbox_of<'a, 'py>(inbox: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, Inbox>> {
    inbox.cast::<Inbox>().map_err(|_| PyTypeError::new_err("without a loop this takes an Inbox"))
}

impl Router {
    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self, routes: &mut Routes, event: Event) {
        match event {
            Event::Request { responder, .. } => {
                if let Some((_, queue)) = routes.responders.get(&responder) {
                    queue.push(event);
                }
            }
            Event::Message { token, .. } => {
                let acknowledge = match (routes.waiters.get(token), event) {
                    (Some(Route::Subscription { queue, .. }), event) => queue.push_message(event),
                    // It has just been closed.
                    (_, Event::Message { delivery, .. }) => delivery,
                    _ => None,
                };
                if let (Some(delivery), Some(commands)) = (acknowledge, self.commands.get()) {
                    commands.push(Command::Acknowledge { delivery });
                }
            }
            Event::Response { token, .. } => match routes.waiters.get(token) {
                Some(Route::Gather(queue)) => queue.push(event),
                _ => routes.end(token, event),
            },
            Event::Subscribed { token } => match routes.waiters.get(token) {
                Some(Route::Subscription { call, .. }) => {
                    if let Some(call) = call.take() {
                        call.push(event);
                    }
                }
                _ => routes.end(token, event),
            },
            Event::Published { token, .. }
            | Event::ConnAck { token, .. }
            | Event::Done { token }
            | Event::Failed { token, .. } => routes.end(token, event),
            Event::Ask { .. } => self.questions.push(event),
            Event::Connected { connack, client_id } => {
                routes.known.connected = true;
                routes.known.connack = Some(connack.clone());
                routes.known.client_id = Some(client_id.clone());
                routes.tell(|| Event::Connected { connack: connack.clone(), client_id: client_id.clone() });
            }
            Event::Disconnected { reason_code, detail, final_ } => {
                routes.known.connected = false;
                if final_ {
                    routes.known.lost = Some((reason_code.map(|code| code.0), detail.clone()));
                }
                routes.tell(|| Event::Disconnected { reason_code, detail: detail.clone(), final_ });
            }
            Event::Reconnecting { attempt, delay } => {
                routes.tell(|| Event::Reconnecting { attempt, delay });
            }
            // No loop watches here.
            #[cfg(target_os = "linux")]
            Event::Watch(_) => {}
        }
    }
}

impl Routes {
    fn add(&mut self, route: Route) -> Token {
        self.requests += usize::from(route.is_request());
        self.waiters.add(route)
    }

    fn take(&mut self, token: Token) -> Option<Route> {
        let route = self.waiters.take(token)?;
        self.requests -= usize::from(route.is_request());
        Some(route)
    }

    /// The last event of `token`.
    fn end(&mut self, token: Token, event: Event) {
        match self.take(token) {
            Some(Route::Call { queue, .. }) => queue.push(event),
            Some(Route::Gather(queue)) => {
                queue.push(event);
                queue.end();
            }
            Some(Route::Subscription { call, queue }) => {
                if let (Some(call), Event::Failed { error, .. }) = (call, &event) {
                    call.push(Event::Failed { token, error: error.clone() });
                }
                queue.push(event);
                queue.end();
            }
            None => {}
        }
    }

    fn tell(&mut self, news: impl Fn() -> Event) {
        self.listeners.retain(|listener| {
            let Some(queue) = listener.upgrade() else { return false };
            queue.push_latest(news());
            true
        });
    }
}

impl Route {
    const fn is_request(&self) -> bool {
        matches!(self, Self::Call { request: true, .. } | Self::Gather(_))
    }
}

/// The mailbox owns one handle, the hub another.
struct Shared(Arc<Router>);

impl Wake for Shared {
    /// Nothing waits here: each lock is held for a few instructions.
    fn wake(&self) {
        let Some(mailbox) = self.0.mailbox.upgrade() else { return };
        let mut routes = self.0.lock();
        let mut events = std::mem::take(&mut routes.events);
        mailbox.take(&mut events);
        for event in events.drain(..) {
            self.0.route(&mut routes, event);
        }
        routes.events = events;
    }
}
