//! How the I/O thread wakes the loop: a file descriptor that the loop's selector watches, or, where loops
//! have no `add_reader` (Windows' proactor), a thread that calls `call_soon_threadsafe`, once per batch.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use pyo3::prelude::*;
use reqtt_core::mailbox::Wake;

use crate::runtime;

/// Readable when something waits in the mailbox.
#[cfg(target_os = "linux")]
pub(super) struct WakeFd(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl WakeFd {
    pub fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    pub fn number(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.0.as_raw_fd()
    }

    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

#[cfg(target_os = "linux")]
impl Wake for WakeFd {
    fn wake(&self) {
        // It fails only when the counter is full, that is when the loop is woken already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Readable when something waits in the mailbox.
#[cfg(all(unix, not(target_os = "linux")))]
pub(super) struct WakeFd {
    read: std::os::unix::net::UnixStream,
    write: std::os::unix::net::UnixStream,
}

#[cfg(all(unix, not(target_os = "linux")))]
impl WakeFd {
    pub fn new() -> std::io::Result<Self> {
        let (read, write) = std::os::unix::net::UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        Ok(Self { read, write })
    }

    pub fn number(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.read.as_raw_fd()
    }

    pub fn clear(&self) {
        use std::io::Read;
        while matches!((&self.read).read(&mut [0; 64]), Ok(64)) {}
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
impl Wake for WakeFd {
    fn wake(&self) {
        use std::io::Write;
        let _ = (&self.write).write(&[1]);
    }
}

/// Nothing to watch: Windows always takes the thread.
#[cfg(not(unix))]
pub(super) struct WakeFd;

#[cfg(not(unix))]
impl WakeFd {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub fn number(&self) -> i32 {
        -1
    }

    pub fn clear(&self) {}
}

#[cfg(not(unix))]
impl Wake for WakeFd {
    fn wake(&self) {}
}

#[derive(Default)]
struct Flag {
    woken: bool,
    over: bool,
}

/// The way without `add_reader`: the I/O thread sets a flag, this thread tells the loop.
#[derive(Default)]
pub(super) struct WakeThread {
    flag: Mutex<Flag>,
    changed: Condvar,
}

impl WakeThread {
    /// `bridge` is a weak reference to the one that the loop is to drain.
    pub fn start(
        self: &Arc<Self>,
        call_soon_threadsafe: Py<PyAny>,
        bridge: Py<PyAny>,
    ) -> std::io::Result<()> {
        let this = self.clone();
        std::thread::Builder::new().name("reqtt-wake".into()).spawn(move || {
            // A loop that is closed meanwhile has nobody left to tell. The error ends here, under the
            // interpreter's lock.
            let tell = |py: Python<'_>| {
                let bridge = bridge.call0(py)?;
                if !bridge.is_none(py) {
                    call_soon_threadsafe.call1(py, (bridge.getattr(py, "drain")?,))?;
                }
                PyResult::Ok(())
            };
            while this.wait() && runtime::attach(|py| tell(py).is_ok()) == Some(true) {}
            let held = std::mem::ManuallyDrop::new((call_soon_threadsafe, bridge));
            // Else the interpreter takes them along.
            runtime::attach(|_| drop(std::mem::ManuallyDrop::into_inner(held)));
        })?;
        Ok(())
    }

    fn wait(&self) -> bool {
        let mut flag = self.flag.lock().unwrap_or_else(PoisonError::into_inner);
        while !flag.woken && !flag.over {
            flag = self.changed.wait(flag).unwrap_or_else(PoisonError::into_inner);
        }
        flag.woken = false;
        !flag.over
    }

    pub fn stop(&self) {
        self.flag.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_one();
    }
}

impl Wake for WakeThread {
    fn wake(&self) {
        self.flag.lock().unwrap_or_else(PoisonError::into_inner).woken = true;
        self.changed.notify_one();
    }
}

/// Chosen when the bridge is attached to its loop.
pub(super) enum Waker {
    Fd(WakeFd),
    Thread(Arc<WakeThread>),
}

impl Wake for Waker {
    fn wake(&self) {
        match self {
            Self::Fd(fd) => fd.wake(),
            Self::Thread(thread) => thread.wake(),
        }
    }
}

/// The mailbox owns one handle, the bridge and the log another.
pub(super) struct Shared(pub Arc<Waker>);

impl Wake for Shared {
    fn wake(&self) {
        self.0.wake();
    }
}
