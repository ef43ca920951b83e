//! What an event loop waits for instead of a socket: one descriptor that is readable when the socket is, or, with
//! much under way, a moment after the last read. Each packet that wakes us alone costs the broker a wake-up,
//! and us two: what gathers meanwhile comes in one read and is answered in one write.
//!
//! An epoll set with a timer in it, so that the loop is free during that moment: its own timers know milliseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::LULL;

/// So many messages within that moment, and more are on their way.
const BURST: usize = 4;
/// So many moments in a row that were not worth waiting for, and each packet is news again ...
const CALM: u32 = 40;
/// ... for so long at least.
const REST: Duration = Duration::from_millis(50);
/// After a read of so many bytes the next one waits for nothing: that much has gathered meanwhile anyway.
const PLENTY: usize = 16 * 1024;

/// How long what comes may gather. With more under way each of them waits for longer in any case.
fn lull(awaited: usize) -> Duration {
    let each = LULL / 40;
    each.saturating_mul(awaited.try_into().unwrap_or(u32::MAX)).clamp(LULL, 3 * LULL)
}

/// A moment that brings fewer messages was not worth waiting for. With four requests under way, which is for all
/// that a responder can tell, four at a time are all there are, and nothing comes while we wait for more.
const fn worth(awaited: usize) -> usize {
    if awaited > 3 * BURST { 2 } else { BURST + 1 }
}

/// What is to wake the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing: the I/O thread has the socket.
    Off,
    /// The socket; the timer not before `rest`. Messages that came since then.
    Socket { since: Instant, messages: usize, rest: Instant },
    /// The timer. Reads in a row that brought little.
    Timer { calm: u32 },
}

#[derive(Debug)]
pub(super) struct Watch {
    set: Arc<OwnedFd>,
    timer: OwnedFd,
    socket: Arc<OwnedFd>,
    mode: Mode,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new(socket: Arc<OwnedFd>) -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&set, &timer, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self { set: Arc::new(set), timer, socket, mode: Mode::Off })
    }

    /// What the loop waits for.
    pub const fn set(&self) -> &Arc<OwnedFd> {
        &self.set
    }

    pub const fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// From now on the loop has the socket.
    pub fn start(&mut self) -> io::Result<()> {
        self.stop();
        epoll::add(&self.set, &self.socket, EventData::new_u64(0), EventFlags::IN)?;
        let now = Instant::now();
        self.mode = Mode::Socket { since: now, messages: 0, rest: now };
        Ok(())
    }

    /// From now on it has not. An event that is not masked would wake it again and again.
    pub fn stop(&mut self) {
        if self.mode != Mode::Off {
            let _ = epoll::delete(&self.set, &self.socket);
            let _ = self.arm(Duration::ZERO);
            self.mode = Mode::Off;
        }
    }

    /// The loop has read, and so many requests are still `awaited`: says when it is to read again.
    pub fn note(&mut self, messages: usize, bytes: usize, awaited: usize, now: Instant) -> io::Result<()> {
        match &mut self.mode {
            Mode::Off => return Ok(()),
            Mode::Socket { since, messages: before, rest } => {
                if now.duration_since(*since) > LULL {
                    (*since, *before) = (now, 0);
                }
                *before += messages;
                if *before < BURST || now < *rest {
                    return Ok(());
                }
                self.mask(EventFlags::empty())?;
                self.mode = Mode::Timer { calm: 0 };
            }
            Mode::Timer { calm } if messages >= worth(awaited) => *calm = 0,
            Mode::Timer { calm } if *calm < CALM => *calm += 1,
            Mode::Timer { .. } => {
                self.mode = Mode::Socket { since: now, messages: 0, rest: now + REST };
                self.arm(Duration::ZERO)?;
                return self.mask(EventFlags::IN);
            }
        }
        self.arm(if bytes >= PLENTY { Duration::from_nanos(1) } else { lull(awaited) })
    }

    /// Lets the timer wake the loop once, after so long; with zero, not at all.
    fn arm(&self, after: Duration) -> io::Result<()> {
        let it_value = Timespec { tv_sec: 0, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn mask(&self, events: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.set, &self.socket, EventData::new_u64(0), events)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// A watch with something to read on its socket, and the other end.
    fn watch() -> (Watch, UnixStream) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"x").unwrap();
        let mut watch = Watch::new(Arc::new(near.into())).unwrap();
        watch.start().unwrap();
        (watch, far)
    }

    fn wakes(watch: &Watch, within: Duration) -> bool {
        let patience = Timespec::try_from(within).unwrap();
        poll(&mut [PollFd::new(&**watch.set(), PollFlags::IN)], Some(&patience)).unwrap() > 0
    }

    fn at_once(watch: &Watch) -> bool {
        wakes(watch, Duration::ZERO)
    }

    #[test]
    fn a_lone_message_is_news_at_once() {
        let (mut watch, _far) = watch();
        let now = Instant::now();
        for read in 0..100 {
            assert!(at_once(&watch));
            watch.note(1, 50, 1, now + read * LULL).unwrap();
        }
    }

    #[test]
    fn after_a_burst_the_timer_wakes() {
        let (mut watch, _far) = watch();
        let now = Instant::now();
        watch.note(BURST - 1, 200, 0, now).unwrap();
        assert!(at_once(&watch), "not a burst yet");
        watch.note(1, 50, 0, now).unwrap();
        assert!(!at_once(&watch) || now.elapsed() > LULL);
        assert!(wakes(&watch, Duration::from_secs(5)));
        watch.note(BURST + 1, PLENTY, 0, now).unwrap();
        assert!(wakes(&watch, LULL / 2), "much has gathered already");
    }

    #[test]
    fn waiting_for_little_ends_and_does_not_begin_again_at_once() {
        let (mut watch, _far) = watch();
        let now = Instant::now();
        watch.note(BURST, 200, 0, now).unwrap();
        for _ in 0..=CALM {
            assert!(matches!(watch.mode, Mode::Timer { .. }));
            watch.note(BURST, 200, 0, now).unwrap();
        }
        assert!(matches!(watch.mode, Mode::Socket { .. }));
        assert!(at_once(&watch));
        watch.note(BURST, 200, 0, now).unwrap();
        assert!(matches!(watch.mode, Mode::Socket { .. }));
        watch.note(BURST, 200, 0, now + REST).unwrap();
        assert!(matches!(watch.mode, Mode::Timer { .. }));
    }

    #[test]
    fn a_requester_with_many_under_way_waits_for_fewer_at_a_time() {
        let (mut watch, _far) = watch();
        let now = Instant::now();
        watch.note(BURST, 200, 100, now).unwrap();
        for _ in 0..3 * CALM {
            watch.note(2, 100, 100, now).unwrap();
        }
        assert!(matches!(watch.mode, Mode::Timer { .. }));
        assert_eq!((lull(0), lull(80), lull(usize::MAX)), (LULL, 2 * LULL, 3 * LULL));
    }

    #[test]
    fn who_has_stopped_is_not_woken_even_by_the_end() {
        let (mut watch, far) = watch();
        watch.note(BURST, 200, 0, Instant::now()).unwrap();
        watch.stop();
        drop(far);
        assert!(!wakes(&watch, 2 * LULL));
        watch.start().unwrap();
        assert!(at_once(&watch));
    }
}
