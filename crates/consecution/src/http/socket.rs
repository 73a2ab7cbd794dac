//! A client's socket, which hyper reads and writes, and which can be observed meanwhile.
//!
//! While a reply is pending, hyper does not read: a client that has closed its sending half
//! still gets the reply. So whether the client is still there is checked here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that hyper reads and writes, and that can be observed meanwhile. Clones share
/// it.
pub(super) trait Watch: AsyncRead + AsyncWrite + Clone + Unpin {
    /// Call this before hyper is polled: it resets what hyper waits for.
    fn begin_poll(&self);

    /// Ready when the client has closed its sending half, or the whole connection, and hyper
    /// will not notice it: everything was read, and hyper waits for nothing more.
    ///
    /// While something is left to read, poll this again after it was read, in the task that
    /// reads.
    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// A client's socket. Clones share it.
#[derive(Clone)]
pub(super) struct Socket(Arc<State>);

struct State {
    stream: TcpStream,
    /// hyper waits for more from the client, and so will notice its end.
    is_read: AtomicBool,
    /// The end was read.
    has_ended: AtomicBool,
    passed: Passed,
}

/// The counts of bytes that have passed a socket.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    /// Whether the last write found no room.
    pub(super) is_blocked: AtomicBool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Socket {
        Socket(Arc::new(State {
            stream,
            is_read: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            passed: Passed::default(),
        }))
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    pub(super) fn passed(&self) -> &Passed {
        &self.0.passed
    }
}

impl Watch for Socket {
    fn begin_poll(&self) {
        self.0.is_read.store(false, Ordering::Relaxed);
    }

    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()> {
        let State {
            stream,
            is_read,
            has_ended,
            ..
        } = &*self.0;
        if is_read.load(Ordering::Relaxed) || has_ended.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let mut byte = [0];
        match stream.poll_peek(context, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let State {
            stream,
            is_read,
            has_ended,
            passed,
        } = &*self.0;
        loop {
            is_read.store(true, Ordering::Relaxed);
            ready!(stream.poll_read_ready(context))?;
            is_read.store(false, Ordering::Relaxed);
            let has_room = buffer.remaining() > 0;
            match stream.try_read_buf(buffer) {
                Ok(bytes) => {
                    let read = &passed.bytes_read;
                    read.fetch_add(bytes as u64, Ordering::Relaxed);
                    if bytes == 0 && has_room {
                        has_ended.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_send(
        &self,
        context: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let State { stream, passed, .. } = &*self.0;
        loop {
            let ready = stream.poll_write_ready(context);
            passed
                .is_blocked
                .store(ready.is_pending(), Ordering::Relaxed);
            ready!(ready)?;
            match send(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    let bytes = *sent.as_ref().unwrap_or(&0) as u64;
                    passed.bytes_written.fetch_add(bytes, Ordering::Relaxed);
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(self.stream(), rustix::net::Shutdown::Write);
        match shut {
            // The client is already gone.
            Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut.map_err(io::Error::from)),
        }
    }
}
