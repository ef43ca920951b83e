//! The connection: a task that owns the socket, drives the session, and connects again. This folder is the
//! only place that knows the codec (rumqttc) and tokio's I/O.
//!
//! The session is ours and only the codec is rumqttc's: its event loop loses publishes that share a read
//! with the end of the connection, cannot withdraw what it queued while offline, and makes a system call
//! per request, where a batch of requests, responses and acknowledgements can leave in one.

mod codec;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod inflight;
mod link;
#[doc(hidden)]
pub mod memory;
mod session;
#[cfg(test)]
mod simulation;
#[cfg(unix)]
mod socket;
pub(crate) mod transport;
#[cfg(target_os = "linux")]
mod watch;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::io::poll_read_buf;

pub use self::link::Link;
use self::link::{Reader, State};
use self::session::Lost;
use self::transport::{Connector, Stream};
use crate::command::{Answer, Command, Event, Question, Token, count};
use crate::error::{Error, Result};
use crate::options::{Options, Reconnect};

/// How much is read at a time.
const READ_SIZE: usize = 64 * 1024;
/// After a read of this many messages more are on their way: a moment later they come in one read.
const BURST: usize = 2;
/// That moment. Each packet that wakes us alone costs the broker a wake-up, and us two: gathering is worth
/// a third of the throughput and two thirds of the CPU at 100 requests in flight, and a lone request never waits.
const LULL: Duration = Duration::from_micros(100);
/// So many reads after the caller's event loop could not write, and it has the socket again.
const SETTLED: u32 = 8;
/// How long the client's reason may take to leave when it is the client that ends a connection.
const LAST_WORD: Duration = Duration::from_millis(100);
/// How long a good-bye may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// A connection has to last this many times the delay before it, or the next delay goes on growing: two clients
/// of one identifier would take the session from each other as fast as the network lets them.
const STEADY: u32 = 4;
/// A timer that is always armed costs less than one that comes and goes.
const FAR: Duration = Duration::from_secs(3600);

/// How the wait for something ended.
enum Outcome<T> {
    Ready(T),
    /// The owner asked for the end.
    Closing(Option<Token>),
}

struct Driver {
    link: Arc<Link>,
    /// Kept from one connection to the next: it has read the trusted authorities.
    connector: Option<Connector>,
    /// What the caller answered to the latest question.
    answer: Option<Result<Answer, String>>,
    /// Scratch for a batch.
    commands: Vec<Command>,
}

/// Runs one connection until its owner disconnects it. Spawn it on a tokio runtime with I/O and time.
pub async fn run(link: Arc<Link>) {
    let mut driver = Driver { link, connector: None, answer: None, commands: Vec::new() };
    let token = driver.live().await;
    let link = &driver.link;
    let mut state = link.lock();
    state.session.events().extend(token.map(|token| Event::Done { token }));
    // A command may have slipped in behind the last one.
    link.queue.take(&mut driver.commands);
    for command in driver.commands.drain(..) {
        state.session.refuse(command, &Error::ClientClosed);
    }
    deliver(link, &mut state);
}

/// Hands over what the session has to tell. Under the link's lock, so that the order is kept.
fn deliver(link: &Link, state: &mut State) {
    if !state.session.events().is_empty() {
        let taken = link.mailbox.append(state.session.events());
        state.session.delivered(taken);
    }
}

impl Driver {
    /// From the first connect to the end; gives the token of who asked for the end.
    async fn live(&mut self) -> Option<Token> {
        loop {
            let token = match self.wait_for_connect().await {
                Outcome::Ready(token) => token,
                Outcome::Closing(token) => return token,
            };
            self.link.lock().session.expect_connect(token);
            match self.connect_and_serve().await {
                Outcome::Closing(token) => return token,
                Outcome::Ready(lost) if self.link.lock().session.known() => {
                    return self.keep_alive(lost).await;
                }
                Outcome::Ready(lost) => {
                    let error = self.connect_error(lost);
                    let mut state = self.link.lock();
                    state.session.give_up(&error);
                    deliver(&self.link, &mut state);
                }
            }
        }
    }

    async fn wait_for_connect(&mut self) -> Outcome<Token> {
        loop {
            self.link.queue.take(&mut self.commands);
            let mut commands = std::mem::take(&mut self.commands).into_iter();
            while let Some(command) = commands.next() {
                match command {
                    Command::Connect { token } => {
                        // What follows in this batch belongs to the connection.
                        let rest: Vec<Command> = commands.collect();
                        let closing = carry_out(&mut self.link.lock(), &mut self.answer, rest);
                        return match closing {
                            Some(closing) => Outcome::Closing(closing),
                            None => Outcome::Ready(token),
                        };
                    }
                    Command::Disconnect { token } => return Outcome::Closing(token),
                    // To a question of the attempt that failed.
                    Command::Answer { .. } => {}
                    // Requesters may be opened before.
                    command => self.link.lock().session.command(command, Instant::now()),
                }
            }
            // One that came while connecting failed must not wait for the next attempt.
            let _ = self.link.lock().session.tick(Instant::now());
            let deadline = self.deliver().unwrap_or_else(|| Instant::now() + FAR);
            tokio::select! {
                biased;
                () = self.link.queue.bell.notified() => {}
                () = sleep_until(deadline.into()) => {}
            }
        }
    }

    /// The connection was lost: connects again and again, until told or until it makes no sense.
    async fn keep_alive(&mut self, mut lost: Lost) -> Option<Token> {
        // How often the delay has doubled; not reset by a connection that does not last.
        let mut backoff = 0;
        loop {
            let since = Instant::now();
            let reconnect = self.link.options.reconnect.clone().filter(|_| lost.again);
            self.tell(Event::Disconnected {
                reason_code: lost.reason_code,
                detail: lost.detail.clone(),
                final_: reconnect.is_none(),
            });
            let Some(reconnect) = reconnect else { return self.end(&lost).await };
            let mut attempt = 0;
            lost = loop {
                attempt += 1;
                backoff += 1;
                let mut delay = reconnect.delay(backoff, fastrand::f64());
                if let Some(budget) = reconnect.give_up_after {
                    let left = budget.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return self.give_up(&lost, &reconnect, attempt - 1).await;
                    }
                    delay = delay.min(left);
                }
                self.tell(Event::Reconnecting { attempt, delay });
                if let Outcome::Closing(token) = self.offline(tokio::time::sleep(delay)).await {
                    return token;
                }
                let (connects, begun) = (self.link.lock().session.connects(), Instant::now());
                match self.connect_and_serve().await {
                    Outcome::Closing(token) => return token,
                    // It was up, and was lost again.
                    Outcome::Ready(next) if self.link.lock().session.connects() > connects => {
                        if begun.elapsed() >= STEADY * delay {
                            backoff = 0;
                        }
                        break next;
                    }
                    Outcome::Ready(next) => {
                        let again = next.again;
                        lost = next;
                        if !again {
                            self.tell(Event::Disconnected {
                                reason_code: lost.reason_code,
                                detail: lost.detail.clone(),
                                final_: true,
                            });
                            return self.end(&lost).await;
                        }
                    }
                }
            };
        }
    }

    async fn give_up(&mut self, lost: &Lost, reconnect: &Reconnect, attempts: u32) -> Option<Token> {
        let seconds = reconnect.give_up_after.unwrap_or_default().as_secs_f64();
        let detail = format!(
            "gave up after {seconds} s and {attempts} attempts to reconnect (Reconnect.give_up_after), the last: {}",
            lost.detail
        );
        self.tell(Event::Disconnected {
            reason_code: lost.reason_code,
            detail: detail.clone(),
            final_: true,
        });
        self.end(&Lost { detail, ..lost.clone() }).await
    }

    /// Fails what waits and all that comes, at once, until the owner disconnects.
    async fn end(&mut self, lost: &Lost) -> Option<Token> {
        let error = Error::ConnectionLost { reason_code: lost.reason_code, detail: lost.detail.clone() };
        self.link.lock().session.give_up(&error);
        loop {
            {
                let mut state = self.link.lock();
                self.link.queue.take(&mut self.commands);
                for command in std::mem::take(&mut self.commands) {
                    if let Command::Disconnect { token } = command {
                        return token;
                    }
                    state.session.refuse(command, &error);
                }
                deliver(&self.link, &mut state);
            }
            self.link.queue.bell.notified().await;
        }
    }

    /// One connection from the first byte to the last.
    async fn connect_and_serve(&mut self) -> Outcome<Lost> {
        let patience = self.link.options.connect_timeout;
        let deadline = Instant::now() + patience;
        let connector = self.connector.take();
        let options = self.link.options.clone();
        let connecting = timeout(patience, async move {
            let mut connector = match connector {
                Some(connector) => connector,
                None => Connector::new(&options)?,
            };
            let stream = connector.connect().await;
            Ok::<_, Error>((stream, connector))
        });
        let stream = match self.offline(connecting).await {
            Outcome::Closing(token) => return Outcome::Closing(token),
            Outcome::Ready(Ok(Ok((stream, connector)))) => {
                self.connector = Some(connector);
                stream
            }
            Outcome::Ready(Ok(Err(error))) => {
                return Outcome::Ready(Lost { invalid: true, ..Lost::because(error.to_string()) });
            }
            Outcome::Ready(Err(_)) => {
                let detail = format!(
                    "no connection within {} s (connect_timeout): check host, port and firewall",
                    patience.as_secs_f64()
                );
                return Outcome::Ready(Lost::because(detail));
            }
        };
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(Error::Connect { detail, .. }) => return Outcome::Ready(Lost::because(detail)),
            Err(error) => return Outcome::Ready(Lost::because(error.to_string())),
        };
        let answer = match self.ask(deadline).await {
            Outcome::Closing(token) => return Outcome::Closing(token),
            Outcome::Ready(Err(lost)) => return Outcome::Ready(lost),
            Outcome::Ready(Ok(answer)) => answer,
        };
        self.link.lock().open(answer);
        let outcome = self.serve(&mut stream, deadline).await;
        let mut out = self.link.lock().take_over();
        #[cfg(unix)]
        if let Stream::Socket(socket) = &mut stream {
            // It may have been left to the event loop. What cannot be watched cannot be waited for below.
            let _ = socket.watch();
        }
        match outcome {
            Ok(token) => {
                {
                    let mut state = self.link.lock();
                    state.session.close();
                    out.unsplit(std::mem::take(&mut state.session.out));
                }
                let _ = timeout(CLOSE_PATIENCE, good_bye(&mut stream, out)).await;
                Outcome::Closing(token)
            }
            Err(lost) => {
                if !out.is_empty() {
                    // A DISCONNECT that says why, if the network still takes it.
                    let _ = timeout(LAST_WORD, good_bye(&mut stream, out)).await;
                }
                self.link.lock().session.disconnected(&lost);
                Outcome::Ready(lost)
            }
        }
    }

    /// Asks for what CONNECT has to say and only the caller knows.
    async fn ask(&mut self, deadline: Instant) -> Outcome<Result<Answer, Lost>> {
        if !self.link.options.ask_credentials && self.link.options.authentication_method.is_none() {
            return Outcome::Ready(Ok(Answer::default()));
        }
        self.answer = None;
        self.link.lock().session.ask(Question::Connect);
        let queue = self.link.queue.clone();
        while Instant::now() < deadline {
            let tick = self.deliver().map_or(deadline, |tick| tick.min(deadline));
            tokio::select! {
                biased;
                () = queue.bell.notified() => {}
                () = sleep_until(tick.into()) => {}
            }
            if let Some(token) = self.catch_up() {
                return Outcome::Closing(token);
            }
            let Some(answer) = self.answer.take() else { continue };
            self.link.lock().session.answered();
            return Outcome::Ready(answer.and_then(Options::validate_answer).map_err(|why| {
                Lost::because(format!("no credentials to connect with, so nothing was sent: {why}"))
            }));
        }
        self.link.lock().session.answered();
        Outcome::Ready(Err(self.unanswered()))
    }

    fn unanswered(&self) -> Lost {
        Lost::because(format!(
            "username=, password= or authenticator= gave no answer within {} s (connect_timeout): have it answer sooner, or allow more time",
            self.link.options.connect_timeout.as_secs_f64()
        ))
    }

    /// Waits for something while there is no connection: commands are taken in, deadlines are kept.
    async fn offline<F: Future>(&mut self, waiting: F) -> Outcome<F::Output> {
        let mut waiting = pin!(waiting);
        let queue = self.link.queue.clone();
        loop {
            // First: a connection that broke may have heard the bell, and not have come to its commands.
            if let Some(token) = self.catch_up() {
                return Outcome::Closing(token);
            }
            let deadline = self.deliver().unwrap_or_else(|| Instant::now() + FAR);
            tokio::select! {
                biased;
                output = &mut waiting => return Outcome::Ready(output),
                () = queue.bell.notified() => {}
                () = sleep_until(deadline.into()) => {}
            }
        }
    }

    /// What is due while there is no connection; gives the token of a disconnect, if there was one.
    fn catch_up(&mut self) -> Option<Option<Token>> {
        let closing = self.take_commands();
        let mut state = self.link.lock();
        if closing.is_some() {
            state.session.close();
        } else {
            // There is no keep alive to miss while offline.
            let _ = state.session.tick(Instant::now());
        }
        closing
    }

    /// Carries out what was asked for; gives the token of a disconnect, if there was one.
    fn take_commands(&mut self) -> Option<Option<Token>> {
        let link = self.link.clone();
        let mut state = link.lock();
        // Under the lock: what comes later must not be carried out by another thread before it.
        link.queue.take(&mut self.commands);
        let mut commands = std::mem::take(&mut self.commands);
        let closing = carry_out(&mut state, &mut self.answer, commands.drain(..));
        self.commands = commands;
        closing
    }

    /// Tells one event.
    fn tell(&self, event: Event) {
        self.link.lock().session.events().push(event);
    }

    /// Hands over what there is to tell; gives when the session has something to do.
    fn deliver(&self) -> Option<Instant> {
        let mut state = self.link.lock();
        deliver(&self.link, &mut state);
        state.session.deadline()
    }

    /// Moves bytes until the connection is lost (`Err`) or is to be closed (`Ok`).
    async fn serve(&mut self, stream: &mut Stream, handshake: Instant) -> Result<Option<Token>, Lost> {
        let link = self.link.clone();
        let mut timer = pin!(sleep_until((Instant::now() + FAR).into()));
        let mut bell = pin!(link.queue.bell.notified());
        let mut gathering = Gathering::new();
        if let Some(token) = self.take_commands() {
            return Ok(token);
        }
        loop {
            self.arm(timer.as_mut(), handshake);
            let read = poll_fn(|cx| {
                let mut state = link.lock();
                if let Some(lost) = state.lost.take() {
                    return Poll::Ready(Err(lost));
                }
                // Writing comes first: what this turn produced leaves before the next is read.
                let wrote = match poll_write(&link, &mut state, stream, cx) {
                    Poll::Ready(outcome) => outcome?,
                    Poll::Pending => false,
                };
                let mut woken = wrote && !state.session.out.is_empty();
                if state.reader == Reader::Io && !state.session.holding() {
                    if std::mem::take(&mut gathering.burst) {
                        drop(state);
                        lull(Arc::as_ptr(&link) as usize);
                        state = link.lock();
                    }
                    match poll_read(&link, &mut state, stream, cx) {
                        Poll::Ready(read) => return Poll::Ready(read.map(|()| true)),
                        Poll::Pending => {}
                    }
                }
                if bell.as_mut().poll(cx).is_ready() {
                    bell.set(link.queue.bell.notified());
                    woken = true;
                }
                woken |= timer.as_mut().poll(cx).is_ready();
                if woken { Poll::Ready(Ok(false)) } else { Poll::Pending }
            })
            .await?;
            let closing = self.take_turn(&link, stream, read, &mut gathering)?;
            if let Some(token) = closing {
                return Ok(token);
            }
            let state = link.lock();
            if !state.session.online() && Instant::now() >= handshake {
                return Err(if state.session.asking() {
                    self.unanswered()
                } else {
                    Lost::because(
                        "the broker took the connection, but did not answer CONNECT in time (connect_timeout): check the port and the scheme (mqtt, mqtts, ws, wss)",
                    )
                });
            }
        }
    }

    /// Does what is to be done with what was read, was asked for, and is due.
    fn take_turn(
        &mut self,
        link: &Link,
        stream: &mut Stream,
        read: bool,
        gathering: &mut Gathering,
    ) -> Result<Option<Option<Token>>, Lost> {
        let now = Instant::now();
        {
            let mut state = link.lock();
            let State { session, input, .. } = &mut *state;
            if read {
                gathering.note(session.input(input, now)?);
                if session.out.is_empty() {
                    stream.acknowledge_now();
                }
            }
            #[cfg(target_os = "linux")]
            if state.reader == Reader::Loop {
                // Whatever woke us: if the loop is kept busy, what has arrived must not wait for it.
                link.read(&mut state, now)?;
            }
        }
        if let Some(token) = self.take_commands() {
            return Ok(Some(token));
        }
        let mut state = link.lock();
        if let Some(answer) = self.answer.take() {
            let State { session, input, .. } = &mut *state;
            let held = session.holding();
            session.answer(answer, now)?;
            if held {
                // What came with the CONNACK.
                session.input(input, now)?;
            }
        }
        state.session.tick(now)?;
        gathering.leave_to_the_loop(link, &mut state, stream);
        deliver(link, &mut state);
        Ok(None)
    }

    /// Sets the timer earlier where needed. One that fires too early costs less than one moved at each turn.
    fn arm(&self, mut timer: Pin<&mut Sleep>, handshake: Instant) {
        let mut state = self.link.lock();
        let now = Instant::now();
        let mut due = self.link.due(&state, now).unwrap_or_else(|| now + FAR);
        if !state.session.online() {
            due = due.min(handshake);
        }
        if timer.is_elapsed() || due < timer.deadline().into_std() {
            timer.as_mut().reset(due.into());
        }
        state.alarm = timer.deadline().into_std();
    }

    fn connect_error(&self, lost: Lost) -> Error {
        if lost.invalid {
            return Error::InvalidArgument(lost.detail);
        }
        Error::Connect {
            url: self.link.options.address.redacted(),
            reason_code: lost.reason_code,
            reason_string: lost.reason_string,
            detail: lost.detail,
        }
    }
}

/// How packets come, as the I/O thread sees it.
struct Gathering {
    /// The last read brought so many that more are on their way.
    burst: bool,
    /// Reads in a row that this thread made.
    reads: u32,
}

impl Gathering {
    /// A connection begins with little to read.
    const fn new() -> Self {
        Self { burst: false, reads: SETTLED }
    }

    const fn note(&mut self, messages: usize) {
        self.burst = messages >= BURST;
        self.reads = self.reads.saturating_add(1);
    }

    /// From now on the caller's event loop waits for the socket, if it can and nothing waits to be written.
    #[cfg(target_os = "linux")]
    fn leave_to_the_loop(&mut self, link: &Link, state: &mut State, stream: &mut Stream) {
        let Stream::Socket(socket) = stream else { return };
        let settled = self.reads >= SETTLED && state.session.online() && state.session.out.is_empty();
        if !link.loop_watches || !settled || state.reader == Reader::Loop {
            return;
        }
        let first = state.watch.is_none();
        if first {
            // Without descriptors for it, this thread goes on reading.
            state.watch = watch::Watch::new(socket.fd().clone()).ok();
        }
        let Some(watch) = &mut state.watch else { return };
        socket.unwatch();
        if watch.start().is_err() {
            return;
        }
        state.reader = Reader::Loop;
        self.reads = 0;
        if first {
            state.session.events().push(Event::Watch(watch.set().clone()));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn leave_to_the_loop(&mut self, _link: &Link, _state: &mut State, _stream: &mut Stream) {}
}

fn carry_out(
    state: &mut State,
    answer: &mut Option<Result<Answer, String>>,
    commands: impl IntoIterator<Item = Command>,
) -> Option<Option<Token>> {
    let now = Instant::now();
    let mut closing = None;
    for command in commands {
        match command {
            command if closing.is_some() => state.session.refuse(command, &Error::ClientClosed),
            Command::Disconnect { token } => closing = Some(token),
            Command::Connect { token } => state.session.connect_again(token),
            Command::Answer { question, answer: given } => {
                if state.session.asks(question) {
                    *answer = Some(given);
                }
            }
            command => state.session.command(command, now),
        }
    }
    state.session.settle(now);
    closing
}

/// Writes what there is; gives whether any of it left.
fn poll_write(
    link: &Link,
    state: &mut State,
    stream: &mut Stream,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, Lost>> {
    let lost = |error: &std::io::Error| Lost::because(transport::describe(error));
    #[cfg(unix)]
    if let Stream::Socket(socket) = stream
        && state.reader == Reader::Io
    {
        // Handed back by the loop.
        socket.watch().map_err(|error| lost(&error))?;
    }
    let mut wrote = 0;
    while !state.session.out.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, &state.session.out) {
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(Lost::because("the connection takes no more bytes")));
            }
            Poll::Ready(Ok(written)) => {
                state.session.out.advance(written);
                wrote += written;
            }
            #[cfg(unix)]
            Poll::Ready(Err(error))
                if error.kind() == std::io::ErrorKind::WouldBlock && state.reader == Reader::Loop =>
            {
                // Only who watches a socket can wait until it takes more.
                state.reader = Reader::Io;
                let Stream::Socket(socket) = stream else { unreachable!("the loop reads nothing else") };
                socket.watch().map_err(|error| lost(&error))?;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(&error))),
            Poll::Pending => break,
        }
    }
    // A buffering transport (TLS, WebSocket) holds bytes back until it is flushed.
    if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx) {
        return Poll::Ready(Err(lost(&error)));
    }
    if wrote > 0 {
        count(&link.counters.bytes_sent, wrote as u64);
        state.session.written(Instant::now());
    }
    Poll::Ready(Ok(wrote > 0))
}

/// Reads once.
fn poll_read(
    link: &Link,
    state: &mut State,
    stream: &mut Stream,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Lost>> {
    let outcome = match stream {
        #[cfg(unix)]
        Stream::Socket(socket) => {
            let size = state.read_size;
            let outcome = ready!(socket.poll_receive(cx, &mut state.input, size));
            if let Ok(read) = outcome {
                state.read_size = socket::next_size(size, read, READ_SIZE);
            }
            outcome
        }
        stream => {
            state.input.reserve(READ_SIZE / 4);
            ready!(poll_read_buf(Pin::new(stream), cx, &mut state.input))
        }
    };
    Poll::Ready(match outcome {
        Ok(0) => Err(Lost::because("the broker closed the connection")),
        Ok(read) => {
            count(&link.counters.bytes_received, read as u64);
            Ok(())
        }
        Err(error) => Err(Lost::because(transport::describe(&error))),
    })
}

/// Writes what is left (DISCONNECT is the last of it) and waits for the broker to close: a socket closed with
/// unread bytes is reset, and the reset can overtake what was written.
async fn good_bye(stream: &mut Stream, mut out: BytesMut) -> std::io::Result<()> {
    stream.write_all_buf(&mut out).await?;
    stream.shutdown().await?;
    let mut rest = BytesMut::with_capacity(READ_SIZE);
    while stream.read_buf(&mut rest).await? > 0 {
        rest.clear();
    }
    Ok(())
}

thread_local! {
    /// Whose the latest pause was, and when it ended.
    static LAST_LULL: std::cell::Cell<(usize, Option<Instant>)> = const { std::cell::Cell::new((0, None)) };
}

/// Lets packets gather. Connections share the I/O thread, so they share its pauses, too: one that comes right
/// after another's has gathered already.
fn lull(connection: usize) {
    let (other, last) = LAST_LULL.get();
    if other == connection || last.is_none_or(|last| last.elapsed() >= LULL) {
        std::thread::sleep(LULL);
        LAST_LULL.set((connection, Some(Instant::now())));
    }
}
