//! A client's encrypted connection, which hyper reads and writes, and which can be observed
//! meanwhile, like a [`Socket`].
//!
//! With TLS a client closes its sending half by a message, so that the kernel does not know of
//! it. What tells whether the client is still there is read here, a little ahead of hyper.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::{Socket, Watch};

/// How much is read ahead of hyper.
const AHEAD_BYTES_MAX: usize = 4096;

/// An encrypted connection. Clones share it; all of them are used by the task that serves it.
#[derive(Clone)]
pub(super) struct Encrypted(Arc<Mutex<State>>);

struct State {
    stream: TlsStream<Socket>,
    /// What was read ahead of hyper and is still to be given to it.
    ahead: Vec<u8>,
    /// hyper waits for more from the client, and so will notice its end.
    is_read: bool,
    /// The end was read.
    has_ended: bool,
}

impl Encrypted {
    pub(super) fn new(stream: TlsStream<Socket>) -> Encrypted {
        Encrypted(Arc::new(Mutex::new(State {
            stream,
            ahead: Vec::new(),
            is_read: false,
            has_ended: false,
        })))
    }
}

impl Watch for Encrypted {
    fn begin_poll(&self) {
        self.0.lock().is_read = false;
    }

    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.is_read || state.has_ended || !state.ahead.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = [0; AHEAD_BYTES_MAX];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut state.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                state.ahead.extend_from_slice(buffer.filled());
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if !state.ahead.is_empty() {
            let bytes = state.ahead.len().min(buffer.remaining());
            buffer.put_slice(&state.ahead[..bytes]);
            state.ahead.drain(..bytes);
            return Poll::Ready(Ok(()));
        }
        let (before, has_room) = (buffer.filled().len(), buffer.remaining() > 0);
        let read = Pin::new(&mut state.stream).poll_read(context, buffer);
        state.is_read = read.is_pending();
        state.has_ended |= read.is_ready() && has_room && buffer.filled().len() == before;
        read
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_shutdown(context)
    }
}
