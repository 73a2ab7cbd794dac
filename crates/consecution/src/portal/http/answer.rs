//! A reply's body: what is known at once, or what a chain is still writing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use chain::Chain;
use futures_util::{FutureExt, StreamExt};
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;

use super::metrics::Tracked;
use super::{call, story};
use crate::portal::PendingReport;
use crate::trace::CallId;
use crate::transport;

/// A reply's body. Dropping it before its end stops the run behind it.
pub(super) enum Answer {
    /// All of it; its length is known.
    Whole(Bytes),
    /// What a chain writes.
    Running(Box<Running>),
    /// Nothing more.
    Over,
}

/// A run whose reply has begun.
pub(super) struct Running {
    /// What was read before the reply began.
    pub(super) first: VecDeque<Bytes>,
    /// `None` once it has ended, one way or the other.
    pub(super) body: Option<transport::Body>,
    pub(super) report: PendingReport,
    pub(super) tracked: Tracked,
    /// What to do where a connection that is closed would pass for an end.
    pub(super) reset: Option<Reset>,
    pub(super) call_id: CallId,
    pub(super) chain: Arc<Chain>,
    /// The body was cut off, and what came before has been given time to leave.
    pub(super) is_cut: bool,
}

/// Asks for the connection to be reset when it is closed.
#[derive(Debug, Clone, Default)]
pub(super) struct Reset(Arc<AtomicBool>);

impl Reset {
    pub(super) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The run failed after its reply had begun, so the reply must not end.
#[derive(Debug, thiserror::Error)]
#[error("the chain failed after its reply had begun")]
pub(super) struct Broken;

impl Running {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(chunk) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if let Some(body) = &mut self.body {
            match ready!(body.poll_next_unpin(context)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                Some(Err(_)) => self.is_cut = true,
                None => {}
            }
            self.body = None;
            if self.is_cut {
                // What has been written so far leaves before the connection goes.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let result = ready!(self.report.poll_unpin(context));
        self.tracked.end(&result);
        match result {
            Ok(report) if !self.is_cut => {
                let mut trailers = HeaderMap::new();
                story::tell(&report, &mut trailers);
                call::log_success(&self.chain.name, &self.call_id);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            result => {
                if let Err(error) = result {
                    let status = StatusCode::OK;
                    call::log_failure("a call was aborted", &error, &self.call_id, status);
                }
                if let Some(Reset(asked)) = &self.reset {
                    asked.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Err(Broken)))
            }
        }
    }
}

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
            Answer::Running(running) => ready!(running.poll(context)),
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
            Answer::Running(_) => SizeHint::default(),
        }
    }
}
