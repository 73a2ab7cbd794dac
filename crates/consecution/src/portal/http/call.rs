//! One call of a chain: request in, reply out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER, TRAILER};
use hyper::{Request, Response, StatusCode, Version};

use super::answer::Running;
use super::metrics::{Kind, Tracked};
use super::problem::{PROBLEM_JSON, Problem, RETRY_AFTER_S};
use super::upload::{Progress, Upload};
use super::{Offered, Site, story};
use crate::http::{Answer, Client};
use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason};
use crate::trace::{CallId, Trace, TraceParent};
use crate::transport::{Body, Cut};

/// How long a reply that has begun is held back once all of the request has come,
/// in case it is also over: a filter writes its last bytes a moment before it
/// ends, and a reply that is complete has a length, its links' fate in its head,
/// and may still become a failure that can be told. While more of the request may
/// come, somebody may wait for the reply to what there was.
const SETTLE_WAIT_MAX: Duration = Duration::from_millis(10);

/// And no more than this of it.
const SETTLE_BYTES_MAX: usize = 64 * 1024;

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
    /// With what has come so far.
    Open(VecDeque<Bytes>),
    /// Not at all.
    Broken(Cut),
}

/// Runs a chain on a request.
pub(super) async fn call(
    site: &Site,
    chain: &Offered,
    request: Request<Incoming>,
    call_id: &CallId,
    client: &Client,
) -> Response<Answer> {
    let bytes_max = site.request_bytes_max;
    let mut tracked = Tracked::begin(&chain.metrics, client.run());
    let name = &chain.portal.chain().name;
    let is_closed_to_end = request.version() < Version::HTTP_11;
    let is_held_back = request.headers().contains_key(EXPECT);
    let parent = request.headers().get(TRACEPARENT);
    let trace = Trace {
        call_id: call_id.clone(),
        parent: parent.and_then(|parent| TraceParent::new(parent.as_bytes())),
    };
    let upload = Upload::new(request.into_body(), bytes_max, is_held_back);
    let progress = upload.progress();
    if upload.is_announced_too_large() {
        tracked.fail(Kind::TooLarge);
        return refuse_size(name, bytes_max, call_id);
    }
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest {
        trace,
        ..ChainRequest::new(Body::new(upload))
    });
    let cut = match begin(&mut body, &progress).await {
        Beginning::Open(first) => {
            let running = Running {
                first,
                body: Some(body),
                report,
                tracked,
                reset: is_closed_to_end.then(|| client.reset().clone()),
                call_id: call_id.clone(),
                chain: Arc::clone(chain.portal.chain()),
                is_cut: false,
            };
            let mut response = Response::new(Answer::Running(Box::pin(running)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, OCTETS);
            headers.insert(TRAILER, TRAILERS);
            return response;
        }
        Beginning::Whole(chunks) => {
            let result = report.await;
            tracked.end(&result);
            match result {
                Ok(report) => {
                    log_success(name, call_id);
                    let mut response = Response::new(Answer::Whole(joined(chunks)));
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_TYPE, OCTETS);
                    story::tell(&report, headers);
                    return response;
                }
                Err(error) => return failed(site, &error, call_id).await,
            }
        }
        Beginning::Broken(cut) => cut,
    };
    drop(body);
    match report.await {
        Err(error) if progress.is_too_large() && is_cut(&error) => {
            tracked.fail(Kind::TooLarge);
            refuse_size(name, bytes_max, call_id)
        }
        Err(error) => {
            tracked.end(&Err(error.clone()));
            failed(site, &error, call_id).await
        }
        // A body is cut off only by a run that has failed.
        Ok(report) => {
            tracked.end(&Ok(report));
            let (status, detail) = (StatusCode::INTERNAL_SERVER_ERROR, cut.to_string());
            tracing::error!(
                %call_id,
                chain = name,
                status = status.as_u16(),
                "a call failed although no link did: {detail}"
            );
            let problem = Problem::new(status, "a fault of ours", detail, call_id);
            respond(&problem.of_chain(name))
        }
    }
}

fn is_cut(error: &ChainError) -> bool {
    matches!(error.reason, FailureReason::InputCut(_))
}

/// Waits for a reply to begin, and where its request is over a moment longer for
/// its end.
async fn begin(body: &mut Body, request: &Progress) -> Beginning {
    let mut chunks = VecDeque::new();
    let mut bytes = 0;
    let mut take = |chunk: Option<Result<Bytes, Cut>>, chunks: &mut VecDeque<Bytes>| match chunk {
        Some(Ok(chunk)) => {
            bytes += chunk.len();
            chunks.push_back(chunk);
            (bytes >= SETTLE_BYTES_MAX).then(|| Beginning::Open(std::mem::take(chunks)))
        }
        Some(Err(cut)) => Some(Beginning::Broken(cut)),
        None => Some(Beginning::Whole(std::mem::take(chunks).into())),
    };
    let first = body.next().await;
    if let Some(beginning) = take(first, &mut chunks) {
        return beginning;
    }
    if !request.is_over() {
        return Beginning::Open(chunks);
    }
    let mut settled = std::pin::pin!(tokio::time::sleep(SETTLE_WAIT_MAX));
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = body.next() => chunk,
            () = &mut settled => return Beginning::Open(chunks),
        };
        if let Some(beginning) = take(chunk, &mut chunks) {
            return beginning;
        }
    }
}

fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        0 => Bytes::new(),
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    }
}

async fn failed(site: &Site, error: &ChainError, call_id: &CallId) -> Response<Answer> {
    let problem = site.problem(error, call_id).await;
    log_failure("a call failed", error, call_id, problem.status);
    let mut response = respond(&problem);
    story::tell(&error.report, response.headers_mut());
    response
}

/// Says that a call has failed, for whoever looks for its id, its chain or a
/// runner.
pub(super) fn log_failure(what: &str, error: &ChainError, call_id: &CallId, status: StatusCode) {
    tracing::info!(
        %call_id,
        chain = error.chain,
        link = error.name,
        runner = error.runner.as_deref(),
        status = status.as_u16(),
        "{what}: {error}"
    );
}

/// Says that a call has succeeded.
pub(super) fn log_success(chain: &str, call_id: &CallId) {
    let status = StatusCode::OK.as_u16();
    tracing::debug!(%call_id, chain, status, "a call succeeded");
}

fn refuse_size(chain: &str, bytes_max: Option<u64>, call_id: &CallId) -> Response<Answer> {
    let bytes_max = bytes_max.unwrap_or_default();
    let detail = format!("the request's body is larger than {bytes_max} bytes");
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    respond(&Problem::new(status, "the request is too large", detail, call_id).of_chain(chain))
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
