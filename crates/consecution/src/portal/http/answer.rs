//! A reply's body while a chain is still writing it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use chain::Chain;
use futures_util::{FutureExt, StreamExt};
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use hyper::header::HeaderMap;

use super::metrics::Tracked;
use super::{log, story};
use crate::http::{Broken, Reset};
use crate::portal::PendingReport;
use crate::trace::CallId;
use crate::transport;

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

impl Body for Running {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
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
                log::success(&self.chain.name, &self.call_id);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            result => {
                if let Err(error) = result {
                    let status = StatusCode::OK;
                    log::failure("a call was aborted", &error, &self.call_id, status);
                }
                if let Some(reset) = &self.reset {
                    reset.ask();
                }
                Poll::Ready(Some(Err(Broken)))
            }
        }
    }
}
