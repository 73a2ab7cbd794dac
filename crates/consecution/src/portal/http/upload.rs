//! A request's body, as the first link reads it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::poll_fn;
use hyper::body::{Body as _, Incoming};

use crate::transport::Cut;

/// How much of a body that no link wants any more is still taken from the
/// client, and for how long: one that is sending would find its connection
/// reset, and never see the reply.
const LEFTOVER_BYTES_MAX: u64 = 256 * 1024 * 1024;
const LEFTOVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// A request's body: pulled chunk by chunk, and cut off where the client broke
/// off or sent more than it may.
pub(super) struct Upload {
    /// `None` when it has ended, one way or the other.
    incoming: Option<Incoming>,
    bytes_left: u64,
    progress: Progress,
    /// The client waits for our word before it sends anything, and has not got
    /// it: asking for the body is that word.
    is_held_back: bool,
}

/// How far a body is, for whoever does not read it. Clones are of the same body.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    is_too_large: AtomicBool,
    is_over: AtomicBool,
}

impl Progress {
    /// Whether it turned out larger than it may be.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.is_too_large.load(Ordering::Acquire)
    }

    /// Whether nothing more of it will be read.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    fn over(&self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Upload {
    pub(super) fn new(incoming: Incoming, bytes_max: Option<u64>, is_held_back: bool) -> Upload {
        Upload {
            incoming: Some(incoming),
            bytes_left: bytes_max.unwrap_or(u64::MAX),
            progress: Progress::default(),
            is_held_back,
        }
    }

    /// How far it is, from now on.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Whether the client has announced more than it may send.
    pub(super) fn is_announced_too_large(&self) -> bool {
        let announced = self
            .incoming
            .as_ref()
            .map(|incoming| incoming.size_hint().lower());
        announced.is_some_and(|announced| announced > self.bytes_left)
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let upload = &mut *self;
        let Some(incoming) = &mut upload.incoming else {
            return Poll::Ready(None);
        };
        upload.is_held_back = false;
        loop {
            let cut = match ready!(Pin::new(&mut *incoming).poll_frame(context)) {
                None => {
                    upload.incoming = None;
                    upload.progress.over();
                    return Poll::Ready(None);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if chunk.len() as u64 <= upload.bytes_left => {
                        upload.bytes_left -= chunk.len() as u64;
                        if incoming.is_end_stream() {
                            upload.progress.over();
                        }
                        return Poll::Ready(Some(Ok(chunk)));
                    }
                    Ok(_) => {
                        upload
                            .progress
                            .0
                            .is_too_large
                            .store(true, Ordering::Release);
                        upload.bytes_left = 0;
                        return Poll::Ready(Some(Err(Cut::new("it is larger than it may be"))));
                    }
                    // Trailers say nothing that a pipe could take.
                    Err(_) => continue,
                },
                Some(Err(error)) => Cut::new(format!("read the request's body: {error}")),
            };
            upload.incoming = None;
            return Poll::Ready(Some(Err(cut)));
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.over();
        let Some(incoming) = self.incoming.take() else {
            return;
        };
        if self.is_held_back || incoming.is_end_stream() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LEFTOVER_WAIT_MAX, swallow(incoming)));
        }
    }
}

/// Reads what is left of a body, for a while.
async fn swallow(mut incoming: Incoming) {
    let mut bytes = 0;
    while bytes < LEFTOVER_BYTES_MAX {
        let frame = poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await;
        let Some(Ok(frame)) = frame else { return };
        bytes += frame.data_ref().map_or(0, |chunk| chunk.len() as u64);
    }
}
