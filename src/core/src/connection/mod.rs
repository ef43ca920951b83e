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
mod session;
pub(crate) mod transport;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::io::poll_read_buf;

use self::session::{Lost, Session};
use self::transport::{Connector, Stream};
use crate::command::{Answer, Command, CommandQueue, Counters, Event, Question, Token, count};
use crate::error::{Error, Result};
use crate::mailbox::Mailbox;
use crate::options::{Options, Reconnect};

/// How much is read at a time.
const READ_SIZE: usize = 64 * 1024;
/// After a read of this many packets more are on their way: a moment later they come in one read.
const BURST: usize = 4;
/// That moment. Each packet that wakes us alone costs the broker a wake-up, and us two: gathering is worth
/// a third of the throughput and two thirds of the CPU at 100 requests in flight, and a lone request never waits.
const LULL: Duration = Duration::from_micros(100);
/// How long a good-bye may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// A timer that is always armed costs less than one that comes and goes.
const FAR: Duration = Duration::from_secs(3600);

/// How the wait for something ended.
enum Outcome<T> {
    Ready(T),
    /// The owner asked for the end.
    Closing(Option<Token>),
}

struct Driver {
    options: Arc<Options>,
    queue: Arc<CommandQueue>,
    mailbox: Arc<Mailbox<Event>>,
    counters: Arc<Counters>,
    session: Session,
    /// Kept from one connection to the next: it has read the trusted authorities.
    connector: Option<Connector>,
    /// What the caller answered to the latest question.
    answer: Option<(u64, Result<Answer, String>)>,
    /// Scratch for a batch.
    commands: Vec<Command>,
}

/// Runs one connection until its owner disconnects it. Spawn it on a tokio runtime with I/O and time.
pub async fn run(
    options: Arc<Options>,
    queue: Arc<CommandQueue>,
    mailbox: Arc<Mailbox<Event>>,
    counters: Arc<Counters>,
) {
    let session = Session::new(options.clone(), counters.clone(), Instant::now());
    let mut driver = Driver {
        options,
        queue,
        mailbox,
        counters,
        session,
        connector: None,
        answer: None,
        commands: Vec::new(),
    };
    let token = driver.live().await;
    driver.session.events().extend(token.map(|token| Event::Done { token }));
    driver.deliver();
    // A command may have slipped in behind the last one.
    driver.queue.take(&mut driver.commands);
    for command in std::mem::take(&mut driver.commands) {
        driver.session.refuse(command, &Error::ClientClosed);
    }
    driver.deliver();
}

impl Driver {
    /// From the first connect to the end; gives the token of who asked for the end.
    async fn live(&mut self) -> Option<Token> {
        loop {
            let token = match self.wait_for_connect().await {
                Outcome::Ready(token) => token,
                Outcome::Closing(token) => return token,
            };
            self.session.expect_connect(token);
            match self.connect_and_serve().await {
                Outcome::Closing(token) => return token,
                Outcome::Ready(lost) if self.session.known() => return self.keep_alive(lost).await,
                Outcome::Ready(lost) => {
                    let error = self.connect_error(lost);
                    self.session.give_up(&error);
                    self.deliver();
                }
            }
        }
    }

    async fn wait_for_connect(&mut self) -> Outcome<Token> {
        loop {
            self.queue.take(&mut self.commands);
            let mut commands = std::mem::take(&mut self.commands).into_iter();
            while let Some(command) = commands.next() {
                match command {
                    Command::Connect { token } => {
                        // What follows in this batch belongs to the connection.
                        let rest: Vec<Command> = commands.collect();
                        return match self.carry_out(rest) {
                            Some(closing) => Outcome::Closing(closing),
                            None => Outcome::Ready(token),
                        };
                    }
                    Command::Disconnect { token } => return Outcome::Closing(token),
                    // Requesters may be opened before.
                    command => self.session.command(command, Instant::now()),
                }
            }
            self.deliver();
            self.queue.bell.notified().await;
        }
    }

    /// The connection was lost: connects again and again, until told or until it makes no sense.
    async fn keep_alive(&mut self, mut lost: Lost) -> Option<Token> {
        loop {
            let since = Instant::now();
            let reconnect = self.options.reconnect.clone().filter(|_| lost.again);
            self.session.events().push(Event::Disconnected {
                reason_code: lost.reason_code,
                detail: lost.detail.clone(),
                final_: reconnect.is_none(),
            });
            let Some(reconnect) = reconnect else { return self.end(&lost).await };
            let mut attempt = 0;
            lost = loop {
                attempt += 1;
                let mut delay = reconnect.delay(attempt, fastrand::f64());
                if let Some(budget) = reconnect.give_up_after {
                    let left = budget.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return self.give_up(&lost, &reconnect, attempt - 1).await;
                    }
                    delay = delay.min(left);
                }
                self.session.events().push(Event::Reconnecting { attempt, delay });
                if let Outcome::Closing(token) = self.offline(tokio::time::sleep(delay)).await {
                    return token;
                }
                let reconnects = self.session.connects();
                match self.connect_and_serve().await {
                    Outcome::Closing(token) => return token,
                    // It was up, and was lost again: counted from the start.
                    Outcome::Ready(next) if self.session.connects() > reconnects => break next,
                    Outcome::Ready(next) => {
                        let again = next.again;
                        lost = next;
                        if !again {
                            self.session.events().push(Event::Disconnected {
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
        self.session.events().push(Event::Disconnected {
            reason_code: lost.reason_code,
            detail: detail.clone(),
            final_: true,
        });
        self.end(&Lost { detail, ..lost.clone() }).await
    }

    /// Fails what waits and all that comes, at once, until the owner disconnects.
    async fn end(&mut self, lost: &Lost) -> Option<Token> {
        let error = Error::ConnectionLost { reason_code: lost.reason_code, detail: lost.detail.clone() };
        self.session.give_up(&error);
        loop {
            self.queue.take(&mut self.commands);
            for command in std::mem::take(&mut self.commands) {
                if let Command::Disconnect { token } = command {
                    return token;
                }
                self.session.refuse(command, &error);
            }
            self.deliver();
            self.queue.bell.notified().await;
        }
    }

    /// One connection from the first byte to the last.
    async fn connect_and_serve(&mut self) -> Outcome<Lost> {
        let patience = self.options.connect_timeout;
        let deadline = Instant::now() + patience;
        let connector = self.connector.take();
        let options = self.options.clone();
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
        self.session.open(answer, Instant::now());
        match self.serve(&mut stream, deadline).await {
            Ok(token) => {
                self.session.close();
                self.say_good_bye(&mut stream).await;
                Outcome::Closing(token)
            }
            Err(lost) => {
                // A DISCONNECT that says why, if the network still takes it.
                let _ =
                    timeout(Duration::from_millis(100), stream.write_all_buf(&mut self.session.out)).await;
                self.session.disconnected(&lost);
                Outcome::Ready(lost)
            }
        }
    }

    /// Asks for what CONNECT has to say and only the caller knows.
    async fn ask(&mut self, deadline: Instant) -> Outcome<Result<Answer, Lost>> {
        if !self.options.ask_credentials && self.options.authentication_method.is_none() {
            return Outcome::Ready(Ok(Answer::default()));
        }
        self.answer = None;
        let asked = self.session.ask(Question::Connect);
        let queue = self.queue.clone();
        while Instant::now() < deadline {
            self.deliver();
            let tick = self.session.deadline().map_or(deadline, |tick| tick.min(deadline));
            tokio::select! {
                biased;
                () = queue.bell.notified() => {}
                () = sleep_until(tick.into()) => {}
            }
            if let Some(token) = self.catch_up() {
                return Outcome::Closing(token);
            }
            match self.answer.take().filter(|(number, _)| *number == asked).map(|(_, answer)| answer) {
                Some(Ok(answer)) => return Outcome::Ready(Ok(answer)),
                Some(Err(why)) => {
                    return Outcome::Ready(Err(Lost::because(format!(
                        "no credentials to connect with: {why}"
                    ))));
                }
                None => {}
            }
        }
        let detail = "the credentials or the authenticator gave no answer in time (connect_timeout)";
        Outcome::Ready(Err(Lost::because(detail)))
    }

    /// Waits for something while there is no connection: commands are taken in, deadlines are kept.
    async fn offline<F: Future>(&mut self, waiting: F) -> Outcome<F::Output> {
        let mut waiting = pin!(waiting);
        let queue = self.queue.clone();
        loop {
            self.deliver();
            let deadline = self.session.deadline().unwrap_or_else(|| Instant::now() + FAR);
            tokio::select! {
                biased;
                output = &mut waiting => return Outcome::Ready(output),
                () = queue.bell.notified() => {}
                () = sleep_until(deadline.into()) => {}
            }
            if let Some(token) = self.catch_up() {
                return Outcome::Closing(token);
            }
        }
    }

    /// What is due while there is no connection; gives the token of a disconnect, if there was one.
    fn catch_up(&mut self) -> Option<Option<Token>> {
        let closing = self.take_commands();
        if closing.is_some() {
            self.session.close();
        } else {
            // There is no keep alive to miss while offline.
            let _ = self.session.tick(Instant::now());
        }
        closing
    }

    /// Carries out what was asked for; gives the token of a disconnect, if there was one.
    fn take_commands(&mut self) -> Option<Option<Token>> {
        self.queue.take(&mut self.commands);
        let mut commands = std::mem::take(&mut self.commands);
        let closing = self.carry_out(commands.drain(..));
        self.commands = commands;
        closing
    }

    fn carry_out(&mut self, commands: impl IntoIterator<Item = Command>) -> Option<Option<Token>> {
        let now = Instant::now();
        let mut closing = None;
        for command in commands {
            match command {
                command if closing.is_some() => self.session.refuse(command, &Error::ClientClosed),
                Command::Disconnect { token } => closing = Some(token),
                Command::Connect { token } => self.session.connect_again(token),
                Command::Answer { number, answer } => self.answer = Some((number, answer)),
                command => self.session.command(command, now),
            }
        }
        self.session.settle(now);
        closing
    }

    /// Moves bytes until the connection is lost (`Err`) or is to be closed (`Ok`).
    async fn serve(&mut self, stream: &mut Stream, handshake: Instant) -> Result<Option<Token>, Lost> {
        let queue = self.queue.clone();
        let mut input = BytesMut::with_capacity(READ_SIZE);
        let mut timer = pin!(sleep_until((Instant::now() + FAR).into()));
        let mut bell = pin!(queue.bell.notified());
        let mut burst = false;
        if let Some(token) = self.take_commands() {
            return Ok(token);
        }
        loop {
            self.deliver();
            self.arm(timer.as_mut(), handshake);
            let session = &mut self.session;
            let counters = &self.counters;
            let woken = poll_fn(|cx| {
                // Writing comes first: what this turn produced leaves before the next is read.
                let mut wrote = 0;
                while !session.out.is_empty() {
                    match Pin::new(&mut *stream).poll_write(cx, &session.out) {
                        Poll::Ready(Ok(0)) => {
                            return Poll::Ready(Err(Lost::because("the connection takes no more bytes")));
                        }
                        Poll::Ready(Ok(written)) => {
                            session.out.advance(written);
                            wrote += written;
                        }
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(Lost::because(transport::describe(&error))));
                        }
                        Poll::Pending => break,
                    }
                }
                // A buffering transport (TLS, WebSocket) holds bytes back until it is flushed.
                if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx) {
                    return Poll::Ready(Err(Lost::because(transport::describe(&error))));
                }
                if wrote > 0 {
                    count(&counters.bytes_sent, wrote as u64);
                    session.written(Instant::now());
                }
                if std::mem::take(&mut burst) {
                    lull(Arc::as_ptr(&queue) as usize);
                }
                input.reserve(READ_SIZE / 4);
                let mut woken = wrote > 0 && !session.out.is_empty();
                match poll_read_buf(Pin::new(&mut *stream), cx, &mut input) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Lost::because("the broker closed the connection")));
                    }
                    Poll::Ready(Ok(read)) => {
                        count(&counters.bytes_received, read as u64);
                        return Poll::Ready(Ok(true));
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Lost::because(transport::describe(&error))));
                    }
                    Poll::Pending => {}
                }
                if bell.as_mut().poll(cx).is_ready() {
                    bell.set(queue.bell.notified());
                    woken = true;
                }
                woken |= timer.as_mut().poll(cx).is_ready();
                if woken { Poll::Ready(Ok(false)) } else { Poll::Pending }
            })
            .await?;
            let now = Instant::now();
            if woken {
                burst = self.session.input(&mut input, now)? >= BURST;
                if self.session.out.is_empty() {
                    stream.acknowledge_now();
                }
            }
            if let Some(token) = self.take_commands() {
                return Ok(token);
            }
            if let Some((number, answer)) = self.answer.take() {
                self.session.answer(number, answer, now)?;
            }
            self.session.tick(now)?;
            if !self.session.online() && now >= handshake {
                return Err(Lost::because(
                    "the broker took the connection, but did not answer CONNECT in time (connect_timeout): check the port and the scheme (mqtt, mqtts, ws, wss)",
                ));
            }
        }
    }

    /// Sets the timer earlier where needed. One that fires too early costs less than one moved at each turn.
    fn arm(&self, mut timer: Pin<&mut Sleep>, handshake: Instant) {
        let deadline = if self.session.online() {
            self.session.deadline()
        } else {
            Some(self.session.deadline().map_or(handshake, |deadline| deadline.min(handshake)))
        };
        let deadline = deadline.unwrap_or_else(|| Instant::now() + FAR).into();
        if timer.is_elapsed() || deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
    }

    /// Writes what is left (DISCONNECT is the last of it) and waits for the broker to close: a socket closed
    /// with unread bytes is reset, and the reset can overtake what was written.
    async fn say_good_bye(&mut self, stream: &mut Stream) {
        let _ = timeout(CLOSE_PATIENCE, async {
            stream.write_all_buf(&mut self.session.out).await?;
            stream.shutdown().await?;
            let mut rest = BytesMut::with_capacity(READ_SIZE);
            while stream.read_buf(&mut rest).await? > 0 {
                rest.clear();
            }
            std::io::Result::Ok(())
        })
        .await;
    }

    fn connect_error(&self, lost: Lost) -> Error {
        if lost.invalid {
            return Error::InvalidArgument(lost.detail);
        }
        Error::Connect {
            url: self.options.address.redacted(),
            reason_code: lost.reason_code,
            reason_string: lost.reason_string,
            detail: lost.detail,
        }
    }

    fn deliver(&mut self) {
        if !self.session.events().is_empty() {
            let taken = self.mailbox.append(self.session.events());
            self.session.delivered(taken);
        }
    }
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
