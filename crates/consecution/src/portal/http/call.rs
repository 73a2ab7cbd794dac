//! One call of a chain: request in, reply out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::Chain;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER, TRAILER};
use hyper::{Request, Response, StatusCode, Version};
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::{Run, Running};
use super::metrics::{Kind, Tracked};
use super::prefer::{self, DUPLEX, PREFERENCE_APPLIED};
use super::problem::{PROBLEM_JSON, Problem, RETRY_AFTER_S};
use super::spool::{End, Mode, News};
use super::upload::{Progress, Upload};
use super::{Offered, Site, log, story};
use crate::http::{Answer, Client, Reset};
use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Report};
use crate::trace::{CallId, Trace, TraceParent};
use crate::transport::{Body, Cut};

/// How long a reply that may begin is held back behind its first byte, in case it
/// is also over: a filter writes its last bytes a moment before it ends, and a
/// reply that is complete has a length, its links' fate in its head, and may still
/// become a failure that can be told.
const SETTLE_WAIT_MAX: Duration = Duration::from_millis(10);

/// A reply of less than this is complete without a task and room of its own.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// What a chain's bytes are, as far as we know.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The trailers of a reply that began before its end was known.
const TRAILERS: HeaderValue = HeaderValue::from_static("Consecution-Pipestatus, Server-Timing");

/// A caller's place in a distributed trace, as W3C Trace Context has it.
const TRACEPARENT: &str = "traceparent";

/// How a reply begins.
enum Beginning {
    /// With all of it.
    Whole(Vec<Bytes>),
    /// With what has come so far. It may begin at that time, or, without one, ten
    /// milliseconds after its request is complete.
    Open(VecDeque<Bytes>, Option<Instant>),
    /// Not at all.
    Broken(Cut),
}

/// What of a call its reply is made of.
struct Call<'a> {
    site: &'a Site,
    chain: &'a Arc<Chain>,
    id: &'a CallId,
    progress: Progress,
    /// `None` when it follows a reply that has begun.
    tracked: Option<Tracked>,
    /// What to do where a connection that is closed would pass for an end.
    reset: Option<Reset>,
}

/// Runs a chain on a request.
pub(super) async fn call(
    site: &Site,
    chain: &Offered,
    request: Request<Incoming>,
    call_id: &CallId,
    client: &Client,
) -> Response<Answer> {
    let tracked = Tracked::begin(&chain.metrics);
    let (head, incoming) = request.into_parts();
    let is_closed_to_end = head.version < Version::HTTP_11;
    let is_held_back = head.headers.contains_key(EXPECT);
    let wants_duplex = prefer::has(&head.headers, DUPLEX);
    let parent = head.headers.get(TRACEPARENT);
    let trace = Trace {
        call_id: call_id.clone(),
        parent: parent.and_then(|parent| TraceParent::new(parent.as_bytes())),
    };
    let upload = Upload::new(incoming, site.request_bytes_max, is_held_back);
    let mut call = Call {
        site,
        chain: chain.portal.chain(),
        id: call_id,
        progress: upload.progress(),
        tracked: Some(tracked),
        reset: is_closed_to_end.then(|| client.reset().clone()),
    };
    if upload.is_announced_too_large() {
        return call.refuse_size();
    }
    let reply = chain.portal.stream(ChainRequest {
        body: Body::new(upload),
        trace,
        stderr: None,
        // While it is held, the client may give the call up.
        guard: Some(Box::new(client.run())),
    });
    if wants_duplex || !site.room.is_there() {
        let mut response = call.reply(reply, true).await;
        if wants_duplex && response.status() == StatusCode::OK {
            let duplex = HeaderValue::from_static(DUPLEX);
            response.headers_mut().insert(PREFERENCE_APPLIED, duplex);
        }
        return response;
    }
    let (progress, wait_max) = (call.progress.clone(), site.stall_wait_max);
    let stalled = async {
        progress.stalled(wait_max).await;
        // Before the request's body is dropped with the run.
        progress.give_up();
    };
    tokio::select! {
        biased;
        response = call.reply(reply, false) => return response,
        () = stalled => {}
    }
    call.refuse_to_wait()
}

impl Call<'_> {
    /// The reply to a call, as soon as it begins.
    async fn reply(&mut self, reply: ChainReply, is_duplex: bool) -> Response<Answer> {
        let ChainReply { mut body, report } = reply;
        match begin(&mut body, &self.progress).await {
            Beginning::Whole(chunks) => {
                drop(body);
                match report.await {
                    Ok(report) => self.whole(report, joined(chunks)),
                    Err(error) => self.failed(error).await,
                }
            }
            Beginning::Open(first, at) => {
                let is_now = is_duplex || at.is_some_and(|at| at <= Instant::now());
                let mode = match is_now {
                    true => Mode::Direct,
                    false => Mode::Spooling,
                };
                let run = Run::go_on(first, body, report, &self.site.room, mode);
                match is_now {
                    true => self.open(run),
                    false => self.settle(run, at).await,
                }
            }
            Beginning::Broken(cut) => {
                drop(body);
                match report.await {
                    Err(error) => self.failed(error).await,
                    // A body is cut off only by a run that has failed.
                    Ok(_) => self.fault(&cut),
                }
            }
        }
    }

    /// Waits until the reply may begin, or the run is over.
    async fn settle(&mut self, run: Run, at: Option<Instant>) -> Response<Answer> {
        let progress = self.progress.clone();
        let settled = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => {
                    progress.over().await;
                    sleep(SETTLE_WAIT_MAX).await;
                }
            }
        };
        tokio::select! {
            biased;
            news = run.output.news() => match news {
                News::Over => return self.over(run).await,
                News::Full => log::spool_full(&self.chain.name, self.id),
            },
            () = settled => {}
        }
        run.output.begin();
        self.open(run)
    }

    /// The reply of a run that ended before it began.
    async fn over(&mut self, run: Run) -> Response<Answer> {
        match run.output.end() {
            Some(End::Succeeded(report)) => {
                let bytes = run.output.bytes();
                let mut response = self.running(run, Some(bytes));
                story::tell(&report, response.headers_mut());
                response
            }
            Some(End::Failed(error)) => {
                drop(run);
                self.failed(error).await
            }
            Some(End::Broken(cut)) => self.fault(&cut),
            None => self.fault(&Cut::new("its run has no end")),
        }
    }

    /// A reply whose end is not known yet.
    fn open(&mut self, run: Run) -> Response<Answer> {
        let mut response = self.running(run, None);
        response.headers_mut().insert(TRAILER, TRAILERS);
        response
    }

    fn running(&mut self, run: Run, bytes: Option<u64>) -> Response<Answer> {
        let (tracked, reset) = (self.tracked.take(), self.reset.clone());
        let running = Running::new(run, bytes, tracked, reset, self.id, self.chain);
        octets(Answer::Running(Box::pin(running)))
    }

    /// The run has ended.
    fn end(&mut self, result: &Result<Report, ChainError>) {
        if let Some(tracked) = &mut self.tracked {
            tracked.end(result);
        }
    }

    /// There will be no run, or no end of it.
    fn fail(&mut self, kind: Kind) {
        if let Some(tracked) = &mut self.tracked {
            tracked.fail(kind);
        }
    }

    fn whole(&mut self, report: Report, bytes: Bytes) -> Response<Answer> {
        let mut response = octets(Answer::Whole(bytes));
        story::tell(&report, response.headers_mut());
        self.end(&Ok(report));
        log::success(&self.chain.name, self.id);
        response
    }

    async fn failed(&mut self, error: ChainError) -> Response<Answer> {
        if self.progress.is_too_large() && matches!(error.reason, FailureReason::InputCut(_)) {
            return self.refuse_size();
        }
        let response = failed(self.site, &error, self.id).await;
        self.end(&Err(error));
        response
    }

    fn fault(&mut self, cut: &Cut) -> Response<Answer> {
        let (chain, status) = (&self.chain.name, StatusCode::INTERNAL_SERVER_ERROR);
        self.fail(Kind::Lost);
        log::fault(chain, self.id, cut, status);
        let problem = Problem::new(status, "a fault of ours", cut.to_string(), self.id);
        respond(&problem.of_chain(chain))
    }

    fn refuse_size(&mut self) -> Response<Answer> {
        self.fail(Kind::TooLarge);
        let bytes_max = self.site.request_bytes_max.unwrap_or_default();
        let detail = format!("the request's body is larger than {bytes_max} bytes");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        let problem = Problem::new(status, "the request is too large", detail, self.id);
        respond(&problem.of_chain(&self.chain.name))
    }

    /// The client has sent nothing for too long.
    fn refuse_to_wait(&mut self) -> Response<Answer> {
        self.fail(Kind::Stalled);
        let waited = self.site.stall_wait_max;
        let detail = format!("nothing more of the request's body has come for {waited:?}");
        let (chain, call_id, status) = (&self.chain.name, self.id, StatusCode::REQUEST_TIMEOUT);
        log::stalled(chain, call_id, status, &detail);
        let problem = Problem::new(status, "the request does not come", detail, call_id);
        let mut response = respond(&problem.of_chain(chain));
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    }
}

/// Waits for a reply to begin, and where its request is over a moment longer for
/// its end.
async fn begin(body: &mut Body, request: &Progress) -> Beginning {
    let mut chunks = VecDeque::new();
    let mut bytes = 0;
    match body.next().await {
        Some(Ok(chunk)) => {
            bytes += chunk.len();
            chunks.push_back(chunk);
        }
        Some(Err(cut)) => return Beginning::Broken(cut),
        None => return Beginning::Whole(Vec::new()),
    }
    if !request.is_over() {
        return Beginning::Open(chunks, None);
    }
    let at = Instant::now() + SETTLE_WAIT_MAX;
    let mut settled = std::pin::pin!(sleep_until(at));
    while bytes < SMALL_BYTES_MAX {
        let chunk = tokio::select! {
            biased;
            chunk = body.next() => chunk,
            () = &mut settled => break,
        };
        match chunk {
            Some(Ok(chunk)) => {
                bytes += chunk.len();
                chunks.push_back(chunk);
            }
            Some(Err(cut)) => return Beginning::Broken(cut),
            None => return Beginning::Whole(chunks.into()),
        }
    }
    Beginning::Open(chunks, Some(at))
}

fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        0 => Bytes::new(),
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    }
}

fn octets(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, OCTETS);
    response
}

async fn failed(site: &Site, error: &ChainError, call_id: &CallId) -> Response<Answer> {
    let problem = site.problem(error, call_id).await;
    log::failure("a call failed", error, call_id, problem.status);
    let mut response = respond(&problem);
    story::tell(&error.report, response.headers_mut());
    response
}

/// A problem as a reply.
pub(super) fn respond(problem: &Problem) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(problem.to_json().into()));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if problem.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
    }
    response
}
