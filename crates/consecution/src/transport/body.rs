//! Streams of bytes that either end or are cut off.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream::{Stream, StreamExt};

use crate::pipe::{Moved, Reader, Writer};

/// A stream of bytes that either ends, which means that it is complete, or is
/// cut off, which must never be mistaken for an end.
///
/// It is pulled: nothing moves unless the reader asks for the next chunk, so
/// back-pressure needs no further mechanism. Chunks are never empty.
/// Dropping it tells the writer that nobody reads any more.
pub struct Body(Pin<Box<dyn Chunks>>);

/// A body broke off before its end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the stream was cut off: {reason}")]
pub struct Cut {
    /// Why, as a lower-case fragment.
    pub reason: Arc<str>,
}

impl Cut {
    /// A cut for that reason, a lower-case fragment.
    pub fn new(reason: impl Into<Arc<str>>) -> Cut {
        Cut {
            reason: reason.into(),
        }
    }
}

/// What a body is made of.
pub(crate) trait Chunks: Stream<Item = Result<Bytes, Cut>> + Send {
    /// Moves what comes next into a pipe, where it lies in a pipe itself and
    /// nobody on the way has to see it. A matter of speed: it may always say that
    /// it does not.
    fn poll_move(self: Pin<&mut Self>, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk>;
}

/// What came of moving the next chunk of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MovedChunk {
    /// It was moved.
    Moved,
    /// Nobody reads the pipe any more.
    Unread,
    /// The next thing, a chunk or an end, has to be taken as it is.
    NotHere,
}

/// The next thing of a body, for whoever writes it to a pipe.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is in the pipe already.
    Moved,
    /// It is still to be written.
    Chunk(Bytes),
    /// Nobody reads the pipe any more.
    Unread,
    /// The body is complete.
    End,
}

impl Body {
    /// A body that gives what `chunks` gives; empty chunks are left out.
    pub fn new(chunks: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Body {
        let chunks = chunks
            .filter(|chunk| std::future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty())));
        Body::of(Plain(Box::pin(chunks)))
    }

    /// A body made of that, which gives no empty chunks.
    pub(crate) fn of(chunks: impl Chunks + 'static) -> Body {
        Body(Box::pin(chunks))
    }

    /// What comes through a pipe, which is moved to a process here within the kernel. At
    /// its end, `judge` says whether it is complete. The pipe becomes non-blocking, for
    /// everybody who has it.
    ///
    /// To be called within a runtime of tokio.
    ///
    /// # Errors
    /// It is not a pipe that can be waited for.
    pub fn of_pipe(
        pipe: impl Into<OwnedFd>,
        judge: impl FnOnce() -> Result<(), Cut> + Send + Unpin + 'static,
    ) -> io::Result<Body> {
        Ok(Body::of(Piped {
            pipe: Reader::new(pipe)?,
            judge: Some(judge),
        }))
    }

    /// A body that is complete and has nothing in it.
    pub fn empty() -> Body {
        Body::of(Whole(None))
    }

    /// The next thing of it, for whoever writes it to that pipe. Nothing is lost
    /// when it is given up.
    ///
    /// # Errors
    /// It was cut off.
    pub(crate) async fn next_for(&mut self, pipe: &Writer) -> Result<Next, Cut> {
        poll_fn(|context| {
            Poll::Ready(match ready!(self.poll_move(pipe, context)) {
                MovedChunk::Moved => Ok(Next::Moved),
                MovedChunk::Unread => Ok(Next::Unread),
                MovedChunk::NotHere => match ready!(self.poll_next_unpin(context)) {
                    Some(chunk) => chunk.map(Next::Chunk),
                    None => Ok(Next::End),
                },
            })
        })
        .await
    }

    /// As [`Chunks::poll_move`].
    pub(crate) fn poll_move(&mut self, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk> {
        self.0.as_mut().poll_move(to, context)
    }

    /// All of it in one piece.
    ///
    /// # Errors
    /// The stream was cut off. The memory used is as large as the body: for
    /// bodies whose size is bounded elsewhere.
    pub async fn collect(mut self) -> Result<Bytes, Cut> {
        let Some(first) = self.next().await.transpose()? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.next().await.transpose()? else {
            return Ok(first);
        };
        let mut all = Vec::from(first);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.next().await.transpose()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        let bytes = bytes.into();
        Body::of(Whole((!bytes.is_empty()).then_some(bytes)))
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Body")
    }
}

/// One chunk, or none.
struct Whole(Option<Bytes>);

impl Stream for Whole {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

impl Chunks for Whole {
    fn poll_move(self: Pin<&mut Self>, _: &Writer, _: &mut Context<'_>) -> Poll<MovedChunk> {
        Poll::Ready(MovedChunk::NotHere)
    }
}

/// Chunks that lie in no pipe.
struct Plain<S>(Pin<Box<S>>);

impl<S: Stream<Item = Result<Bytes, Cut>> + Send> Stream for Plain<S> {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<S: Stream<Item = Result<Bytes, Cut>> + Send> Chunks for Plain<S> {
    fn poll_move(self: Pin<&mut Self>, _: &Writer, _: &mut Context<'_>) -> Poll<MovedChunk> {
        Poll::Ready(MovedChunk::NotHere)
    }
}

/// See [`Body::of_pipe`].
struct Piped<J> {
    pipe: Reader,
    /// `None` when it has been asked.
    judge: Option<J>,
}

impl<J: FnOnce() -> Result<(), Cut>> Piped<J> {
    fn end(&mut self) -> Result<(), Cut> {
        self.judge.take().map_or(Ok(()), |judge| judge())
    }
}

impl<J: FnOnce() -> Result<(), Cut> + Send + Unpin> Stream for Piped<J> {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.pipe.poll_chunk(context)) {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => self.end().err().map(Err),
            Err(error) => Some(Err(Cut::new(format!("read a pipe: {error}")))),
        })
    }
}

impl<J: FnOnce() -> Result<(), Cut> + Send + Unpin> Chunks for Piped<J> {
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        Poll::Ready(match ready!(self.pipe.poll_move(to, context)) {
            Ok(Moved::Bytes(_)) => MovedChunk::Moved,
            Ok(Moved::Unread) => MovedChunk::Unread,
            // Reading it says so once more.
            Ok(Moved::End) | Err(_) => MovedChunk::NotHere,
        })
    }
}
