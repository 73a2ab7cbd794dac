//! A reply's body: what is known at once, or what is still being written.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A reply's body. Dropping it before its end stops what writes it.
pub(crate) enum Answer {
    /// All of it; its length is known.
    Whole(Bytes),
    /// What is being written.
    Running(Pin<Box<dyn Body<Data = Bytes, Error = Broken> + Send>>),
    /// Nothing more.
    Over,
}

/// What writes a reply failed after the reply had begun, so it must not end.
#[derive(Debug, thiserror::Error)]
#[error("it failed after its reply had begun")]
pub(crate) struct Broken;

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match &mut *self {
            Answer::Over => return Poll::Ready(None),
            Answer::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Answer::Running(running) => ready!(running.as_mut().poll_frame(context)),
        };
        if !matches!((&*self, &frame), (Answer::Running(_), Some(Ok(frame))) if frame.is_data()) {
            *self = Answer::Over;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Over => true,
            Answer::Whole(bytes) => bytes.is_empty(),
            Answer::Running(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Over => SizeHint::with_exact(0),
            Answer::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Answer::Running(running) => running.size_hint(),
        }
    }
}
