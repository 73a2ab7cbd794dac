//! What a process writes to standard output: read by whoever wants it, moved on
//! to another process, or, where nobody wants it any more, swallowed for a while.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::splice::{self, Flow, Moved};
use crate::transport::{Body, Cut};

/// How much is read from a pipe at a time: what a pipe holds by default.
const CHUNK_BYTES: usize = 64 * 1024;

/// And where a lot goes through: enough that what a chunk costs does not count,
/// and little enough that it is still in the processor's cache when it goes on.
const WIDE_CHUNK_BYTES: usize = 128 * 1024;

/// When nobody reads a process's output any more, a shell's pipe still has room
/// for this much before the process notices. A process that ends within that
/// room ends by itself, and its exit code counts; one that writes more is
/// stopped. So what a pipeline gives does not hang on who was quicker.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// And this is how long it may take to end by itself.
const UNREAD_WAIT_MAX: Duration = Duration::from_millis(250);

/// A process's output while somebody reads it. When that reader goes away
/// before the end, the pipe goes to whoever looks after the process.
pub(in crate::runner) struct Output {
    /// `None` when it has ended.
    pipe: Option<pipe::Receiver>,
    hand_back: Option<oneshot::Sender<pipe::Receiver>>,
    flow: Flow,
}

impl Output {
    pub(super) fn new(pipe: pipe::Receiver, unread: &mut Unread) -> Output {
        Output {
            pipe: Some(pipe),
            hand_back: Some(unread.hand_back()),
            flow: Flow::default(),
        }
    }

    /// For whoever reads it chunk by chunk.
    pub(in crate::runner) fn into_body(self) -> Body {
        Body::new(stream::unfold(self, |mut output| async {
            let pipe = output.pipe.as_mut()?;
            let bytes_max = match output.flow.is_wide() {
                true => WIDE_CHUNK_BYTES,
                false => CHUNK_BYTES,
            };
            match read_chunk(pipe, bytes_max).await {
                Ok(Some(chunk)) => {
                    output.flow.add(chunk.len(), pipe);
                    return Some((Ok(chunk), output));
                }
                Ok(None) => drop(output.pipe.take()),
                Err(error) => return Some((Err(output.broken(&error)), output)),
            }
            None
        }))
    }

    /// Moves what there is next into the input of another process; `None` where
    /// nothing more will come. Nothing is lost when it is given up.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub(super) async fn move_into(&mut self, stdin: &pipe::Sender) -> Result<Option<Moved>, Cut> {
        let Some(pipe) = &self.pipe else {
            return Ok(None);
        };
        match splice::next(pipe, stdin).await {
            Ok(Moved::Bytes(0)) => {
                self.pipe = None;
                Ok(None)
            }
            Ok(moved) => {
                if let Moved::Bytes(bytes) = moved {
                    self.flow.add(bytes, pipe);
                }
                Ok(Some(moved))
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&mut self, error: &io::Error) -> Cut {
        self.pipe = None;
        Cut::new(format!("read its output: {error}"))
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

/// A process's output once nobody reads it any more.
#[derive(Debug, Default)]
pub(super) struct Unread {
    handed_back: Option<oneshot::Receiver<pipe::Receiver>>,
    pipe: Option<pipe::Receiver>,
}

impl Unread {
    /// Where whoever reads the output is to leave it.
    fn hand_back(&mut self) -> oneshot::Sender<pipe::Receiver> {
        let (hand_back, handed_back) = oneshot::channel();
        self.handed_back = Some(handed_back);
        hand_back
    }

    /// Resolves when nobody reads the output any more and the process has had
    /// its chance to end by itself.
    pub(super) async fn over(&mut self) {
        if let Some(handed_back) = &mut self.handed_back {
            self.pipe = handed_back.await.ok();
            self.handed_back = None;
        }
        // Without a word: the output was read to its end.
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        let swallow = async {
            let mut swallowed_bytes = 0;
            while swallowed_bytes <= UNREAD_BYTES_MAX {
                match read_chunk(pipe, CHUNK_BYTES).await {
                    Ok(Some(chunk)) => swallowed_bytes += chunk.len(),
                    // It has closed its output, which says nothing of its end.
                    Ok(None) | Err(_) => return std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(UNREAD_WAIT_MAX, swallow).await;
    }
}

/// What is in the pipe, up to `bytes_max`; `None` at its end.
async fn read_chunk(pipe: &mut pipe::Receiver, bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(bytes_max);
    let length = pipe.read_buf(&mut chunk).await?;
    Ok((length > 0).then(|| chunk.freeze()))
}

/// What is in the pipe, or comes next; `None` at its end.
pub(super) async fn read_some(pipe: &mut pipe::Receiver) -> io::Result<Option<Bytes>> {
    read_chunk(pipe, CHUNK_BYTES).await
}
