//! A request's body, as input of the first link.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::http::{look_every, swallow};
use crate::transport::Cut;

/// A request's body, chunk by chunk. It is cut off if the client breaks off, or sends more
/// than it may.
pub(super) struct Upload {
    /// `None` once the body has ended or was cut off.
    incoming: Option<Body>,
    bytes_left: u64,
    progress: Progress,
    /// The client waits for `100 Continue`, which is sent when the body is first polled.
    is_held_back: bool,
}

/// How far a body is, for those that do not read it. Clones belong to the same body.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    is_too_large: AtomicBool,
    is_over: AtomicBool,
    /// Notified when the body is over; for one waiter.
    over: Notify,
    /// The body was polled, and the client has not sent more yet.
    is_waiting: AtomicBool,
    bytes_taken: AtomicU64,
    /// The rest of the body is not needed, so it is not read.
    is_given_up: AtomicBool,
}

impl Progress {
    /// Whether the body turned out larger than it may be.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.is_too_large.load(Ordering::Acquire)
    }

    /// Whether nothing more of the body will be read.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    /// Resolves when nothing more of the body will be read. For one waiter.
    pub(super) async fn over(&self) {
        while !self.is_over() {
            self.0.over.notified().await;
        }
    }

    /// Resolves when we have waited for the client for that long without a byte. Time in which
    /// nobody polls the body does not count.
    pub(super) async fn stalled(&self, wait_max: Duration) {
        let every = look_every(wait_max);
        let (mut taken, mut since) = (0, Instant::now());
        loop {
            sleep(every).await;
            let is_waiting = self.0.is_waiting.load(Ordering::Acquire) && !self.is_over();
            let before = taken;
            taken = self.0.bytes_taken.load(Ordering::Acquire);
            if taken != before || !is_waiting {
                since = Instant::now();
            } else if since.elapsed() >= wait_max {
                return;
            }
        }
    }

    /// The rest of the body need not be read.
    pub(super) fn give_up(&self) {
        self.0.is_given_up.store(true, Ordering::Release);
    }

    fn end(&self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.over.notify_one();
    }

    fn waits(&self, is_waiting: bool) {
        self.0.is_waiting.store(is_waiting, Ordering::Release);
    }
}

impl Upload {
    pub(super) fn new(incoming: Body, bytes_max: Option<u64>, is_held_back: bool) -> Upload {
        let progress = Progress::default();
        if incoming.is_end_stream() {
            progress.end();
        }
        Upload {
            incoming: Some(incoming),
            bytes_left: bytes_max.unwrap_or(u64::MAX),
            progress,
            is_held_back,
        }
    }

    /// How far the body is, now and later.
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
            let frame = Pin::new(&mut *incoming).poll_frame(context);
            upload.progress.waits(frame.is_pending());
            let cut = match ready!(frame) {
                None => {
                    upload.incoming = None;
                    upload.progress.end();
                    return Poll::Ready(None);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if chunk.len() as u64 <= upload.bytes_left => {
                        let bytes = chunk.len() as u64;
                        upload.bytes_left -= bytes;
                        let taken = &upload.progress.0.bytes_taken;
                        taken.fetch_add(bytes, Ordering::Release);
                        if incoming.is_end_stream() {
                            upload.progress.end();
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
                    // Trailers: a pipe has no place for them.
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
        self.progress.waits(false);
        let is_given_up = self.progress.0.is_given_up.load(Ordering::Acquire);
        if let Some(incoming) = self.incoming.take()
            && !self.is_held_back
            && !is_given_up
            && !incoming.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // A client that sends everything before it reads gets its reply only then.
            let progress = self.progress.clone();
            runtime.spawn(async move {
                swallow(incoming).await;
                progress.end();
            });
        } else {
            self.progress.end();
        }
    }
}
