//! A process's standard output: a body for its reader. If the reader goes away, the output
//! is read and discarded for a short while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use tokio::sync::oneshot;

use super::allowance::{Allowance, Counted};
use crate::pipe::{MOVED_BYTES_MAX, Moved, Reader, Writer};
use crate::transport::{Body, Chunks, Cut, MovedChunk};

/// How much a process may still write after its reader is gone. In a shell, a pipe has
/// room for this much before the process notices. A process that writes no more than this
/// exits by itself, and its exit code counts; a process that writes more is stopped. So the
/// result of a pipeline does not depend on which process was faster.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// How long a process may take to exit by itself after its reader is gone: one that has
/// written its last bytes exits within milliseconds.
pub(super) const UNREAD_WAIT_MAX: Duration = Duration::from_millis(250);

/// Why an output breaks off that is too large.
pub(super) const TOO_MUCH: &str = "it was more than a link may write";

/// A process's output for its reader. If the reader drops this before the end, the pipe is
/// handed back to the task that follows the process.
pub(super) struct Output {
    /// `None` after the end of the output.
    pipe: Option<Reader>,
    /// Resolves when nobody writes any more. The pipe may not show its end yet, because we
    /// hold a writing end.
    is_over: Over,
    hand_back: Option<oneshot::Sender<Option<Reader>>>,
    counted: Counted,
    allowance: Allowance,
    excess: Excess,
}

/// Whether nobody writes any more.
struct Over {
    told: oneshot::Receiver<()>,
    is_known: bool,
}

impl Over {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The other side only drops its sender and never sends.
        self.is_known = self.is_known || self.told.poll_unpin(context).is_ready();
        match self.is_known {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// The other side of an [`Output`], for the task that follows the process.
pub(super) struct OutputEnd {
    /// Drop this when nobody writes any more.
    pub(super) is_over: oneshot::Sender<()>,
    /// Receives the pipe if the reader goes away before the end.
    pub(super) handed_back: oneshot::Receiver<Option<Reader>>,
    /// What has been read.
    pub(super) counted: Counted,
}

/// Whether the output exceeded its limit. If so, the pipe stays open, because the process
/// may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    None,
    Found,
    Said,
}

impl Output {
    /// The output as a body, and its other side.
    pub(super) fn body(pipe: Reader, allowance: Allowance) -> (Body, OutputEnd) {
        let (tell, is_over) = oneshot::channel();
        let (hand_back, handed_back) = oneshot::channel();
        let counted = Counted::default();
        let body = Body::of(Output {
            pipe: Some(pipe),
            is_over: Over {
                told: is_over,
                is_known: false,
            },
            hand_back: Some(hand_back),
            counted: counted.clone(),
            allowance,
            excess: Excess::None,
        });
        let end = OutputEnd {
            is_over: tell,
            handed_back,
            counted,
        };
        (body, end)
    }

    /// The next chunk from the pipe; if nobody writes any more, what is left in it.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(None));
        };
        let mut counted = self.counted.lock();
        let chunk = if !self.is_over.is_known
            && let Poll::Ready(chunk) = pipe.poll_chunk(context)
        {
            chunk
        } else {
            ready!(self.is_over.poll(context));
            pipe.rest()
        };
        if let Ok(Some(chunk)) = &chunk {
            *counted += chunk.len() as u64;
        }
        Poll::Ready(chunk)
    }

    /// Counts `bytes` that were read against the limit: how many of them are within it.
    fn took(&mut self, bytes: usize) -> usize {
        let allowed = self.allowance.take(bytes);
        if allowed < bytes {
            self.excess = Excess::Found;
        }
        allowed
    }

    fn say_excess(&mut self) -> Option<Result<Bytes, Cut>> {
        let is_said = self.excess == Excess::Said;
        self.excess = Excess::Said;
        (!is_said).then(|| Err(Cut::new(TOO_MUCH)))
    }

    fn broken(&mut self, error: &io::Error) -> Cut {
        self.pipe = None;
        Cut::new(format!("read its output: {error}"))
    }
}

impl Stream for Output {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.excess != Excess::None {
            return Poll::Ready(self.say_excess());
        }
        Poll::Ready(match ready!(self.poll_chunk(context)) {
            Ok(Some(mut chunk)) => {
                chunk.truncate(self.took(chunk.len()));
                match chunk.is_empty() {
                    false => Some(Ok(chunk)),
                    true => self.say_excess(),
                }
            }
            Ok(None) => {
                self.pipe = None;
                None
            }
            Err(error) => Some(Err(self.broken(&error))),
        })
    }
}

impl Chunks for Output {
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        let this = &mut *self;
        if this.excess != Excess::None {
            return Poll::Ready(MovedChunk::NotHere);
        }
        let Some(pipe) = &mut this.pipe else {
            return Poll::Ready(MovedChunk::NotHere);
        };
        let bytes_max = this.allowance.of(MOVED_BYTES_MAX);
        if bytes_max == 0 {
            // What `poll_next` reads now is too much, or an end.
            return Poll::Ready(MovedChunk::NotHere);
        }
        let mut counted = this.counted.lock();
        let moved = pipe.poll_move_up_to(bytes_max, to, context);
        if let Poll::Ready(Ok(Moved::Bytes(bytes))) = moved {
            *counted += bytes as u64;
        }
        drop(counted);
        if moved.is_pending() {
            ready!(this.is_over.poll(context));
            // `poll_next` reads what is left.
            return Poll::Ready(MovedChunk::NotHere);
        }
        Poll::Ready(match ready!(moved) {
            Ok(Moved::Bytes(bytes)) => {
                this.took(bytes);
                MovedChunk::Moved
            }
            Ok(Moved::Unread) => MovedChunk::Unread,
            // `poll_next` will report this end or error.
            Ok(Moved::End) | Err(_) => MovedChunk::NotHere,
        })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let (Some(pipe), Some(hand_back)) = (self.pipe.take(), self.hand_back.take()) {
            // Fails only if the process is gone already.
            let _ = hand_back.send(Some(pipe));
        }
    }
}

/// Reads and discards the output in place of a reader that is gone. Resolves when the
/// writing process has had its chance to exit by itself. Does not resolve early if the
/// process closes its output: it may still run.
pub(super) async fn swallow(pipe: &mut Reader) {
    let swallow = async {
        let mut swallowed_bytes = 0;
        while swallowed_bytes <= UNREAD_BYTES_MAX {
            match pipe.chunk().await {
                Ok(Some(chunk)) => swallowed_bytes += chunk.len(),
                Ok(None) | Err(_) => return std::future::pending().await,
            }
        }
    };
    let _ = tokio::time::timeout(UNREAD_WAIT_MAX, swallow).await;
}
