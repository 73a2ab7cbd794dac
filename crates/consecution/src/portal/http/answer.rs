//! Moves a run in a task of its own, and gives its output as the body of a reply.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use chain::Chain;
use futures_util::StreamExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinSet;

use super::log::About;
use super::metrics::Tracked;
use super::spool::{self, End, Mode, Next, Reader, Room, Unread, Writer};
use super::{headers, log};
use crate::http::Reset;
use crate::portal::{ChainError, PendingReport, Report};
use crate::transport;

/// A run that proceeds whatever the client does. Dropping this stops the run.
pub(super) struct Run {
    pub(super) output: Reader,
    _task: JoinSet<()>,
}

impl Run {
    /// Continues a run of which `first` was read already.
    pub(super) fn go_on(
        first: VecDeque<Bytes>,
        body: transport::Body,
        report: PendingReport,
        room: &Arc<Room>,
        mode: Mode,
    ) -> Run {
        let (writer, output) = spool::pipe(room, mode);
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Ok(end) = run(first, body, report, &writer).await {
                writer.end(end);
            }
        });
        Run {
            output,
            _task: task,
        }
    }
}

/// Passes the output of a run on, and then how it ended. A failed run, for example at its
/// deadline, is over even if nobody reads its output.
async fn run(
    first: VecDeque<Bytes>,
    mut body: transport::Body,
    mut report: PendingReport,
    writer: &Writer,
) -> Result<End, Unread> {
    let passing = async {
        for chunk in first {
            writer.push(chunk).await?;
        }
        loop {
            match body.next().await {
                Some(Ok(chunk)) => writer.push(chunk).await?,
                Some(Err(cut)) => return Ok(Some(cut)),
                None => return Ok(None),
            }
        }
    };
    let mut passing = Box::pin(passing);
    let (result, cut) = tokio::select! {
        biased;
        passed = &mut passing => {
            let cut = passed?;
            // The reply is gone. Dropping the body tells the run.
            drop(passing);
            drop(body);
            (report.await, cut)
        }
        result = &mut report => match result {
            // Output that was read may not have been passed on yet.
            Ok(report) => (Ok(report), passing.await?),
            Err(error) => (Err(error), None),
        },
    };
    Ok(match (result, cut) {
        (Err(error), _) => End::Failed(error),
        (Ok(_), Some(cut)) => End::Broken(cut),
        (Ok(report), None) => End::Succeeded(report),
    })
}

/// A run failed after its reply had begun, so the reply must not end.
#[derive(Debug, thiserror::Error)]
#[error("it failed after its reply had begun")]
pub(super) struct Broken;

/// The body of a reply that has begun. Dropping it before its end stops the run.
pub(super) struct Running {
    run: Run,
    /// The bytes that are left, if the whole length is known.
    bytes_left: Option<u64>,
    tracked: Option<Tracked>,
    /// Resets the connection if its close would look like the end of the reply.
    reset: Option<Reset>,
    about: About,
    chain: Arc<Chain>,
    /// Whether the body broke off, and what came before was given time to be sent.
    is_broken: bool,
}

impl Running {
    pub(super) fn new(
        run: Run,
        bytes: Option<u64>,
        tracked: Option<Tracked>,
        reset: Option<Reset>,
        about: &About,
        chain: &Arc<Chain>,
    ) -> Running {
        Running {
            run,
            bytes_left: bytes,
            tracked,
            reset,
            about: about.clone(),
            chain: Arc::clone(chain),
            is_broken: false,
        }
    }

    /// So many bytes were passed on, which may have been the last.
    fn gave(&mut self, bytes: u64) {
        let Some(left) = &mut self.bytes_left else {
            return;
        };
        *left = left.saturating_sub(bytes);
        // hyper does not poll beyond a known length.
        if *left == 0
            && let Some(end) = self.run.output.end()
        {
            self.end(end);
        }
    }

    fn track(&mut self, result: &Result<Report, ChainError>) {
        if let Some(tracked) = &mut self.tracked {
            tracked.end(result, &self.about.trace.call_id);
        }
    }

    /// The reply has ended so; returns the trailers if the run has succeeded.
    fn end(&mut self, end: End) -> Option<HeaderMap> {
        match end {
            End::Succeeded(report) => {
                let mut trailers = HeaderMap::new();
                headers::insert(&report, &mut trailers);
                self.track(&Ok(report));
                log::success(&self.chain.name, &self.about);
                Some(trailers)
            }
            End::Failed(error) => {
                let status = StatusCode::OK;
                log::failure("a call was aborted", &error, &self.about, status);
                self.track(&Err(error));
                None
            }
            End::Broken(cut) => {
                log::fault(&self.chain.name, &self.about, &cut, StatusCode::OK);
                None
            }
        }
    }
}

impl Body for Running {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let running = &mut *self;
        if running.is_broken {
            if let Some(reset) = &running.reset {
                reset.ask();
            }
            return Poll::Ready(Some(Err(Broken)));
        }
        match ready!(running.run.output.poll_next(context)) {
            Next::Chunk(chunk) => {
                running.gave(chunk.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Next::End(end) => match running.end(end) {
                Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                None => {
                    running.is_broken = true;
                    // So what was written so far is sent before the connection is closed.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.bytes_left {
            Some(bytes) => SizeHint::with_exact(bytes),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Running {
    /// The client may not have read all of the reply. If the run has ended by now, its result
    /// counts.
    fn drop(&mut self) {
        if let Some(end @ End::Failed(_)) = self.run.output.end() {
            self.end(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};

    use futures_util::FutureExt;
    use futures_util::stream;

    use super::*;
    use crate::portal::http::spool::SpoolOptions;

    // The run may be over before its first output has been passed on.
    #[tokio::test]
    async fn all_that_a_good_run_has_written_is_passed_on_however_late_it_is_read() {
        for mode in [Mode::Direct, Mode::Spooling] {
            let room = Arc::new(Room::open(SpoolOptions::default()));
            let first = [b"this\n".as_slice(), b"is\n"].map(Bytes::from_static);
            let body = stream::iter([Ok(Bytes::from_static(b"raw\n"))]);
            let report = ready(Ok(Report { links: Vec::new() }));
            let mut run = Run::go_on(
                first.into(),
                transport::Body::new(body),
                PendingReport::new(report.boxed()),
                &room,
                mode,
            );
            let mut bytes = Vec::new();
            let end = loop {
                match poll_fn(|context| run.output.poll_next(context)).await {
                    Next::Chunk(chunk) => bytes.extend_from_slice(&chunk),
                    Next::End(end) => break end,
                }
            };
            assert!(matches!(end, End::Succeeded(_)), "{mode:?}");
            assert_eq!(bytes, b"this\nis\nraw\n", "{mode:?}");
        }
    }
}
