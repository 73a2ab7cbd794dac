//! Bodies: streams of bytes that either end, and are then complete, or are cut off.

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
/// The reader pulls: nothing moves unless it asks for the next chunk, so back-pressure
/// needs no further mechanism. Chunks are never empty. Dropping the body tells the writer
/// that nobody reads any more.
pub struct Body(Pin<Box<dyn Chunks>>);

/// A body broke off before its end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the stream was cut off: {reason}")]
pub struct Cut {
    /// Why the body broke off, as a lower-case fragment.
    pub reason: Arc<str>,
}

impl Cut {
    /// A cut with this reason, a lower-case fragment.
    pub fn new(reason: impl Into<Arc<str>>) -> Cut {
        Cut {
            reason: reason.into(),
        }
    }
}

/// The source of a body's chunks.
pub(crate) trait Chunks: Stream<Item = Result<Bytes, Cut>> + Send {
    /// Moves the next bytes into the pipe `to` within the kernel, if they are in a pipe too
    /// and no code on the way must see them. This is an optimization: an implementation may
    /// always return [`MovedChunk::NotHere`].
    fn poll_move(self: Pin<&mut Self>, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk>;
}

/// The result of moving the next chunk of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MovedChunk {
    /// Bytes were moved.
    Moved,
    /// Nobody reads the pipe any more.
    Unread,
    /// Nothing can be moved: poll the stream for the next chunk, or the end.
    NotHere,
}

/// The next item of a body that is written to a pipe.
#[derive(Debug)]
pub(crate) enum Next {
    /// Bytes were moved into the pipe.
    Moved,
    /// A chunk that the caller must write to the pipe.
    Chunk(Bytes),
    /// Nobody reads the pipe any more.
    Unread,
    /// The body is complete.
    End,
}

impl Body {
    /// A body of these chunks; empty chunks are left out.
    pub fn new(chunks: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Body {
        let chunks = chunks
            .filter(|chunk| std::future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty())));
        Body::of(Plain(Box::pin(chunks)))
    }

    /// A body of these chunks, none of which may be empty.
    pub(crate) fn of(chunks: impl Chunks + 'static) -> Body {
        Body(Box::pin(chunks))
    }

    /// A body that is read from a pipe. Its bytes can be moved within the kernel. At the
    /// end of the pipe, `judge` decides whether the body is complete. The pipe becomes
    /// non-blocking for everyone who shares it.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The descriptor is not a pipe that can be waited for.
    pub fn of_pipe(
        pipe: impl Into<OwnedFd>,
        judge: impl FnOnce() -> Result<(), Cut> + Send + Unpin + 'static,
    ) -> io::Result<Body> {
        Ok(Body::of(Piped {
            pipe: Reader::new(pipe)?,
            judge: Some(judge),
        }))
    }

    /// A complete body without bytes.
    pub fn empty() -> Body {
        Body::of(Whole(None))
    }

    /// The next item, for writing the body to `pipe`. Cancel-safe: nothing is lost if the
    /// future is dropped.
    ///
    /// # Errors
    /// The body was cut off.
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

    /// See [`Chunks::poll_move`].
    pub(crate) fn poll_move(&mut self, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk> {
        self.0.as_mut().poll_move(to, context)
    }

    /// Collects the whole body in memory. Use this only for bodies whose size is bounded.
    ///
    /// # Errors
    /// The body was cut off.
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

/// Chunks that do not come from a pipe.
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
    /// `None` after it was called.
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
            // The next read returns the same end or error.
            Ok(Moved::End) | Err(_) => MovedChunk::NotHere,
        })
    }
}
