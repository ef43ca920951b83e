//! A plain socket that two threads may use: the I/O thread waits for it through tokio, or leaves it to the thread
//! of an event loop that waits for it by itself. Who may is the link's business.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The first read; grows with what comes, since each byte of room is cleared first.
pub(super) const SMALL_READ: usize = 8 * 1024;

/// The I/O thread's side of the socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
    /// Absent while an event loop waits for the socket: the system would wake both.
    watch: Watch,
}

/// tokio's registration, on a descriptor of its own.
#[derive(Debug)]
enum Watch {
    Tcp(Option<TcpStream>),
    Unix(Option<UnixStream>),
}

impl Socket {
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        let mut socket = Self { fd: Arc::new(stream.into_std()?.into()), watch: Watch::Tcp(None) };
        socket.watch()?;
        Ok(socket)
    }

    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        let mut socket = Self { fd: Arc::new(stream.into_std()?.into()), watch: Watch::Unix(None) };
        socket.watch()?;
        Ok(socket)
    }

    pub(crate) const fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// From now on tokio waits for it.
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        match &mut self.watch {
            Watch::Tcp(watch @ None) => {
                *watch = Some(TcpStream::from_std(self.fd.try_clone()?.into())?);
            }
            Watch::Unix(watch @ None) => {
                *watch = Some(UnixStream::from_std(self.fd.try_clone()?.into())?);
            }
            Watch::Tcp(_) | Watch::Unix(_) => {}
        }
        Ok(())
    }

    /// From now on somebody else does.
    pub(crate) fn unwatch(&mut self) {
        match &mut self.watch {
            Watch::Tcp(watch) => *watch = None,
            Watch::Unix(watch) => *watch = None,
        }
    }

    /// Reads at most `size` bytes onto the end of `input`. Zero is the end of the stream.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        let filled = input.len();
        input.resize(filled + size, 0);
        let mut room = ReadBuf::new(&mut input[filled..]);
        let outcome = Pin::new(self).poll_read(cx, &mut room);
        let read = room.filled().len();
        input.truncate(filled + read);
        ready!(outcome)?;
        Poll::Ready(Ok(read))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // An event loop may hold it a moment longer; the other side is to know now.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}

/// How much to read at a time, after a read of `last` bytes with room for `size`.
pub(crate) const fn next_size(size: usize, last: usize, most: usize) -> usize {
    if last < size {
        SMALL_READ
    } else if size >= most / 2 {
        most
    } else {
        size * 2
    }
}

/// Reads at most `size` bytes onto the end of `input`, without waiting.
pub(crate) fn receive(fd: &impl AsFd, input: &mut BytesMut, size: usize) -> io::Result<usize> {
    let filled = input.len();
    input.resize(filled + size, 0);
    let outcome = loop {
        match rustix::io::read(fd, &mut input[filled..]) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome,
        }
    };
    input.truncate(filled + outcome.unwrap_or(0));
    Ok(outcome?)
}

/// Writes what the system takes, without waiting.
pub(crate) fn transmit(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(fd, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Sends the TCP acknowledgement of what was read at once; see `Stream::acknowledge_now`.
pub(crate) fn acknowledge_now(fd: &impl AsFd) {
    // It only costs time where it fails, as it does for a Unix socket.
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_quickack(fd, true);
    #[cfg(not(target_os = "linux"))]
    let _ = fd;
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().watch {
            Watch::Tcp(Some(stream)) => Pin::new(stream).poll_read(cx, buf),
            Watch::Unix(Some(stream)) => Pin::new(stream).poll_read(cx, buf),
            Watch::Tcp(None) | Watch::Unix(None) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &mut this.watch {
            Watch::Tcp(Some(stream)) => Pin::new(stream).poll_write(cx, bytes),
            Watch::Unix(Some(stream)) => Pin::new(stream).poll_write(cx, bytes),
            // Who does not watch it cannot be woken, and so is told at once.
            Watch::Tcp(None) | Watch::Unix(None) => Poll::Ready(transmit(&this.fd, bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write)?))
    }
}
