//! All subjects and header names that are used on NATS. `docs/protocol.md` describes them
//! for authors of other clients.

use std::sync::LazyLock;

use async_nats::HeaderName;
use async_nats::header::IntoHeaderName;
use chain::LinkId;

use crate::transport::FOLLOWING_MAX;

/// The queue group of the runners that serve a link: each request goes to one of them.
pub const QUEUE_GROUP: &str = "runners";

/// The subject for calls of a link.
pub fn of_link(id: LinkId) -> String {
    format!("consecution.link.{id}")
}

/// A subject like that of a link, but that nobody serves: no link's MD5 is zero.
pub fn of_no_link() -> String {
    format!("consecution.link.{:032}", 0)
}

/// The subject on which portals ask all runners for their figures.
pub const STATS: &str = "consecution.stats";

/// The prefix of portals' private inboxes. It differs from that of runners, so that
/// permissions can tell them apart.
pub const PORTAL_INBOX: &str = "_INBOX.portal";
/// See [`PORTAL_INBOX`].
pub const RUNNER_INBOX: &str = "_INBOX.runner";

/// The call's id, in a request and in its reply.
pub static CALL_ID: HeaderName = HeaderName::from_static("Consecution-Call-Id");
/// In a request: the milliseconds until its deadline.
pub static TIMEOUT_MS: HeaderName = HeaderName::from_static("Consecution-Timeout-Ms");
/// In a request: the caller's place in a trace, as in W3C Trace Context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// In a request: what tracing systems add to that.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// In a request: the caller offers to continue in frames; see [`STREAM_VERSION`].
pub static STREAM: HeaderName = HeaderName::from_static("Consecution-Stream");
/// In a request: it is a probe, which only asks whether a runner serves the link.
pub static PROBE: HeaderName = HeaderName::from_static("Consecution-Probe");
/// In a request: the runner must start nothing before the caller has shown that it still
/// waits.
pub static CONFIRM: HeaderName = HeaderName::from_static("Consecution-Confirm");
/// In a request: [`STDERR_LIVE`]. In a reply: the end of standard error.
pub static STDERR: HeaderName = HeaderName::from_static("Consecution-Stderr");
/// In a request: the links that follow in the chain, which the same runner may run too.
pub static THEN: HeaderName = HeaderName::from_static("Consecution-Then");
/// In a request: the values of the parameters of its links.
pub static SET: HeaderName = HeaderName::from_static("Consecution-Set");
/// In the frame that accepts a call: how many of those links the runner runs too.
pub static JOINED: HeaderName = HeaderName::from_static("Consecution-Joined");
/// In a reply: the name of the runner that took the call.
pub static RUNNER: HeaderName = HeaderName::from_static("Consecution-Runner");
/// In a reply: how the call ended.
pub static ENDING: HeaderName = HeaderName::from_static("Consecution-Ending");
/// In a reply: what has become of the file or folder that is the link's output, if there
/// is none.
pub static OUTPUT: HeaderName = HeaderName::from_static("Consecution-Output");
/// In a reply: how many microseconds the process was at work.
pub static ELAPSED_US: HeaderName = HeaderName::from_static("Consecution-Elapsed-Us");
/// In a reply: what may help if the link has failed, in one line.
pub static HINT: HeaderName = HeaderName::from_static("Consecution-Hint");
/// In a reply: what the process has used, as far as it was counted.
pub static USAGE: HeaderName = HeaderName::from_static("Consecution-Usage");
/// In a reply: the limit that the process has met, if it is known.
pub static LIMIT: HeaderName = HeaderName::from_static("Consecution-Limit");
/// In a frame: its kind, its number, and its parameters.
pub static FRAME: HeaderName = HeaderName::from_static("Consecution-Frame");
/// In a reply: what went wrong, as an HTTP status. NATS services use this header.
pub static ERROR_CODE: HeaderName = HeaderName::from_static("Nats-Service-Error-Code");
/// In a reply: what went wrong, in one line. NATS services use this header.
pub static ERROR: HeaderName = HeaderName::from_static("Nats-Service-Error");

/// The headers about one link of a call, in a reply.
pub struct OfLink {
    /// As [`ENDING`].
    pub ending: HeaderName,
    /// As [`ELAPSED_US`].
    pub elapsed_us: HeaderName,
    /// As [`STDERR`].
    pub stderr: HeaderName,
    /// As [`HINT`].
    pub hint: HeaderName,
    /// As [`OUTPUT`].
    pub output: HeaderName,
    /// As [`USAGE`].
    pub usage: HeaderName,
    /// As [`LIMIT`].
    pub limit: HeaderName,
}

/// For each link of a call, its headers: first those of the called link; then those of the
/// joined links, whose names end in the link's place in the call, `-2` and so on.
pub static OF_LINKS: LazyLock<[OfLink; 1 + FOLLOWING_MAX]> = LazyLock::new(|| {
    std::array::from_fn(|at| {
        let of_link = |name: &HeaderName| match at {
            0 => name.clone(),
            _ => {
                let name: &str = name.as_ref();
                format!("{name}-{}", at + 1).into_header_name()
            }
        };
        OfLink {
            ending: of_link(&ENDING),
            elapsed_us: of_link(&ELAPSED_US),
            stderr: of_link(&STDERR),
            hint: of_link(&HINT),
            output: of_link(&OUTPUT),
            usage: of_link(&USAGE),
            limit: of_link(&LIMIT),
        }
    })
});

/// The version of the frame protocol.
pub const STREAM_VERSION: &str = "1";
/// In [`STREAM`]: this message has the whole body.
pub const STREAM_WHOLE: &str = "whole";
/// In [`STREAM`]: the body continues in frames.
pub const STREAM_OPEN: &str = "open";
/// In [`STDERR`] of a request: send standard error as it is written.
pub const STDERR_LIVE: &str = "live";
