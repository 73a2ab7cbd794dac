//! What a process writes to standard output: read by whoever wants it, or, where
//! nobody wants it any more, swallowed for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use tokio::sync::oneshot;

use super::allowance::Allowance;
use crate::pipe::{Moved, Reader, Writer};
use crate::transport::{Body, Chunks, Cut, MovedChunk};

/// When nobody reads a process's output any more, a shell's pipe still has room
/// for this much before the process notices. A process that ends within that
/// room ends by itself, and its exit code counts; one that writes more is
/// stopped. So what a pipeline gives does not hang on who was quicker.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// And this is how long it may take to end by itself: what has written its last bytes ends
/// within milliseconds, and nobody waits for one that goes on for long.
pub(super) const UNREAD_WAIT_MAX: Duration = Duration::from_millis(250);

/// A process's output while somebody reads it. When that reader goes away
/// before the end, the pipe goes to whoever looks after the process.
pub(super) struct Output {
    /// `None` when it has ended.
    pipe: Option<Reader>,
    /// Told when nobody writes any more, of which the pipe itself may not know yet.
    is_over: Over,
    hand_back: Option<oneshot::Sender<Reader>>,
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
        // The other end is dropped, and never says a word.
        self.is_known = self.is_known || self.told.poll_unpin(context).is_ready();
        match self.is_known {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// The other side of an [`Output`], for the task that follows the process.
pub(super) struct OutputEnd {
    /// To be dropped when nobody writes any more.
    pub(super) is_over: oneshot::Sender<()>,
    /// Gives it back when nobody reads it any more, before its end.
    pub(super) handed_back: oneshot::Receiver<Reader>,
}

/// Whether it was more than is allowed. The pipe stays open then, since the
/// process may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    None,
    Found,
    Said,
}

impl Output {
    /// As a body.
    pub(super) fn body(pipe: Reader, allowance: Allowance) -> (Body, OutputEnd) {
        let (tell, is_over) = oneshot::channel();
        let (hand_back, handed_back) = oneshot::channel();
        let body = Body::of(Output {
            pipe: Some(pipe),
            is_over: Over {
                told: is_over,
                is_known: false,
            },
            hand_back: Some(hand_back),
            allowance,
            excess: Excess::None,
        });
        let end = OutputEnd {
            is_over: tell,
            handed_back,
        };
        (body, end)
    }

    /// What comes next out of the pipe; where nobody writes any more, what is left in it.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(None));
        };
        if !self.is_over.is_known
            && let Poll::Ready(chunk) = pipe.poll_chunk(context)
        {
            return Poll::Ready(chunk);
        }
        ready!(self.is_over.poll(context));
        Poll::Ready(pipe.rest())
    }

    /// So much was read.
    fn took(&mut self, bytes: usize) {
        if self.allowance.take(bytes).is_err() {
            self.excess = Excess::Found;
        }
    }

    fn say_excess(&mut self) -> Option<Result<Bytes, Cut>> {
        let is_said = self.excess == Excess::Said;
        self.excess = Excess::Said;
        (!is_said).then(|| Err(Cut::new("it was more than a link may write")))
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
            Ok(Some(chunk)) => {
                self.took(chunk.len());
                match self.excess {
                    Excess::None => Some(Ok(chunk)),
                    _ => self.say_excess(),
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
        if self.excess != Excess::None {
            return Poll::Ready(MovedChunk::NotHere);
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(MovedChunk::NotHere);
        };
        let moved = pipe.poll_move(to, context);
        if moved.is_pending() {
            ready!(self.is_over.poll(context));
            // What is left is read.
            return Poll::Ready(MovedChunk::NotHere);
        }
        Poll::Ready(match ready!(moved) {
            Ok(Moved::Bytes(bytes)) => {
                self.took(bytes);
                MovedChunk::Moved
            }
            Ok(Moved::Unread) => MovedChunk::Unread,
            // Reading it says so once more.
            Ok(Moved::End) | Err(_) => MovedChunk::NotHere,
        })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let (Some(pipe), Some(hand_back)) = (self.pipe.take(), self.hand_back.take()) {
            // Refused only when the process is gone already.
            let _ = hand_back.send(pipe);
        }
    }
}

/// Reads on in place of a reader that is gone, and resolves when the process that writes
/// has had its chance to end by itself; not where it has closed its output, which says
/// nothing of its end.
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
