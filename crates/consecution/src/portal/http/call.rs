//! One call of a chain: request in, reply out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, TRAILER};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chain::Chain;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::{Run, Running};
use super::log::About;
use super::metrics::{Kind, Tracked};
use super::prefer::{self, DUPLEX, PREFERENCE_APPLIED};
use super::problem::Problem;
use super::spool::{End, Mode, News};
use super::upload::{Progress, Upload};
use super::{Offered, Site, headers, log, traced};
use crate::http::access::Caller;
use crate::http::{self, Client, Reset};
use crate::parameters::{self, FormError};
use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal, Report};
use crate::trace::CallId;
use crate::transport::{Body, Cut};

/// How long a reply that may begin waits after its first byte for its end: a filter writes
/// its last bytes a moment before it ends. A complete reply has a length, and has in its head
/// how its links ended; and a failure can still be reported as such.
const SETTLE_WAIT_MAX: Duration = Duration::from_millis(10);

/// A complete reply of less than this needs no task and no spool.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// The type of a chain's output if its file does not say: nobody knows more of it.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The beginning of a reply.
enum Beginning {
    /// The whole reply.
    Whole(Vec<Bytes>),
    /// The chunks that have come so far. The reply may begin at that time or, without one, ten
    /// milliseconds after its request is complete.
    Open(VecDeque<Bytes>, Option<Instant>),
    /// None: the output was cut off.
    Broken(Cut),
}

/// What of a call its reply is made of.
struct Call<'a> {
    site: &'a Site,
    chain: &'a Arc<Chain>,
    about: About,
    progress: Progress,
    /// `None` when it follows a reply that has begun.
    tracked: Option<Tracked>,
    /// Resets the connection if its close would look like the end of the reply.
    reset: Option<Reset>,
}

/// Runs a chain on a request.
pub(super) async fn call(
    site: &Site,
    chain: &Offered,
    request: Request,
    call_id: &CallId,
    client: &Client,
    caller: &Caller,
) -> Response {
    let (head, incoming) = request.into_parts();
    let (trace, span) = traced::begin(&head, chain, call_id);
    let tracked = Tracked::begin(&chain.metrics, span);
    let is_closed_to_end = head.version < Version::HTTP_11;
    let is_held_back = http::is_held_back(&head.headers);
    let upload = Upload::new(incoming, site.request_bytes_max, is_held_back);
    let mut call = Call {
        site,
        chain: chain.portal.chain(),
        about: About {
            trace,
            key: caller.name().map(Arc::from),
        },
        progress: upload.progress(),
        tracked: Some(tracked),
        reset: is_closed_to_end.then(|| client.reset().clone()),
    };
    let response = call.answer(&chain.portal, &head, upload, client).await;
    if let Some(tracked) = &call.tracked {
        tracked.replied(response.status());
    }
    response
}

impl Call<'_> {
    /// The answer to a call, which may be that it is refused.
    async fn answer(
        &mut self,
        portal: &Portal,
        head: &Parts,
        upload: Upload,
        client: &Client,
    ) -> Response {
        if upload.is_announced_too_large() {
            return self.refuse_size();
        }
        let parameters = match self.parameters(&head.uri) {
            Ok(parameters) => parameters,
            Err(error) => return self.refuse_query(&error),
        };
        let reply = portal.stream(ChainRequest {
            body: Body::new(upload),
            parameters,
            trace: self.about.trace.clone(),
            stderr: None,
            // While this is held, the client may give the call up.
            guard: Some(Box::new(client.run())),
        });
        let wants_duplex = prefer::has(&head.headers, DUPLEX);
        if wants_duplex || !self.site.room.is_there() {
            let mut response = self.reply(reply, true).await;
            if wants_duplex && response.status() == StatusCode::OK {
                let duplex = HeaderValue::from_static(DUPLEX);
                response.headers_mut().insert(PREFERENCE_APPLIED, duplex);
            }
            return response;
        }
        let (progress, wait_max) = (self.progress.clone(), self.site.stall_wait_max);
        let stalled = async {
            progress.stalled(wait_max).await;
            // Before the request's body is dropped with the run.
            progress.give_up();
        };
        tokio::select! {
            biased;
            response = self.reply(reply, false) => return response,
            () = stalled => {}
        }
        self.refuse_to_wait()
    }

    /// The values of parameters in the query of a request. The query of a chain without
    /// parameters is ignored.
    fn parameters(&self, uri: &Uri) -> Result<BTreeMap<String, String>, FormError> {
        match uri.query() {
            Some(query) if !self.chain.parameters.is_empty() => parameters::read(query),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// The reply to a call, as soon as it begins.
    async fn reply(&mut self, reply: ChainReply, is_duplex: bool) -> Response {
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
    async fn settle(&mut self, run: Run, at: Option<Instant>) -> Response {
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
                News::Full => log::spool_full(&self.chain.name, &self.about),
            },
            () = settled => {}
        }
        run.output.begin();
        self.open(run)
    }

    /// The reply of a run that ended before it began.
    async fn over(&mut self, run: Run) -> Response {
        match run.output.end() {
            Some(End::Succeeded(report)) => {
                let bytes = run.output.bytes();
                let mut response = self.running(run, Some(bytes));
                headers::insert(&report, response.headers_mut());
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
    fn open(&mut self, run: Run) -> Response {
        let mut response = self.running(run, None);
        response.headers_mut().insert(TRAILER, headers::TRAILERS);
        response
    }

    fn running(&mut self, run: Run, bytes: Option<u64>) -> Response {
        let (tracked, reset) = (self.tracked.take(), self.reset.clone());
        if let Some(tracked) = &tracked {
            tracked.replied(StatusCode::OK);
        }
        let running = Running::new(run, bytes, tracked, reset, &self.about, self.chain);
        self.output(HttpBody::new(running))
    }

    /// The run has ended.
    fn end(&mut self, result: &Result<Report, ChainError>) {
        if let Some(tracked) = &mut self.tracked {
            tracked.end(result, &self.about.trace.call_id);
        }
    }

    /// The call is refused before a run, or aborted.
    fn fail(&mut self, kind: Kind) {
        if let Some(tracked) = &mut self.tracked {
            tracked.fail(kind);
        }
    }

    fn whole(&mut self, report: Report, bytes: Bytes) -> Response {
        let mut response = self.output(bytes.into());
        headers::insert(&report, response.headers_mut());
        self.end(&Ok(report));
        log::success(&self.chain.name, &self.about);
        response
    }

    async fn failed(&mut self, error: ChainError) -> Response {
        if self.progress.is_too_large() && matches!(error.reason, FailureReason::InputCut(_)) {
            return self.refuse_size();
        }
        let response = failed(self.site, &error, &self.about).await;
        self.end(&Err(error));
        response
    }

    fn fault(&mut self, cut: &Cut) -> Response {
        let (chain, status) = (&self.chain.name, StatusCode::INTERNAL_SERVER_ERROR);
        self.fail(Kind::Lost);
        log::fault(chain, &self.about, cut, status);
        let (detail, id) = (cut.to_string(), &self.about.trace.call_id);
        Problem::of_chain(chain, status, "a fault of ours", detail, id).into_response()
    }

    /// A reply with the chain's output.
    fn output(&self, body: HttpBody) -> Response {
        let mut response = Response::new(body);
        let kind = self.chain.content_type.as_deref();
        let kind = kind.and_then(|kind| HeaderValue::from_str(kind).ok());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind.unwrap_or(OCTETS));
        response
    }

    fn refuse_query(&mut self, error: &FormError) -> Response {
        self.fail(Kind::Parameter);
        let problem = Problem::of_query(&self.chain.name, error, &self.about.trace.call_id);
        log::refused(&self.chain.name, &self.about, problem.status(), error);
        problem.into_response()
    }

    fn refuse_size(&mut self) -> Response {
        self.fail(Kind::TooLarge);
        let bytes_max = self.site.request_bytes_max.unwrap_or_default();
        let detail = format!("the request's body is larger than {bytes_max} bytes");
        let (status, title) = (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
        let (chain, id) = (&self.chain.name, &self.about.trace.call_id);
        Problem::of_chain(chain, status, title, detail, id).into_response()
    }

    /// The client has sent nothing for too long.
    fn refuse_to_wait(&mut self) -> Response {
        self.fail(Kind::Stalled);
        let waited = self.site.stall_wait_max;
        let detail = format!("nothing more of the request's body has come for {waited:?}");
        let (chain, status) = (&self.chain.name, StatusCode::REQUEST_TIMEOUT);
        log::stalled(chain, &self.about, status, &detail);
        let title = "the request does not come";
        let problem = Problem::of_chain(chain, status, title, detail, &self.about.trace.call_id);
        let mut response = problem.into_response();
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

async fn failed(site: &Site, error: &ChainError, about: &About) -> Response {
    let problem = site.problem(error, &about.trace.call_id).await;
    log::failure("a call failed", error, about, problem.status());
    let mut response = problem.into_response();
    headers::insert(&error.report, response.headers_mut());
    response
}
