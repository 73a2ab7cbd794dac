//! Every subject and header name that is used on NATS.
//!
//! What they mean, and what may stand in them, is described for writers of
//! other clients in `docs/protocol.md`.

use std::sync::LazyLock;

use async_nats::HeaderName;
use async_nats::header::IntoHeaderName;
use chain::LinkId;

use crate::transport::FOLLOWING_MAX;

/// The queue group of those who serve a link: each request goes to one of them.
pub const QUEUE_GROUP: &str = "runners";

/// The subject on which calls of a link are requested.
pub fn of_link(id: LinkId) -> String {
    format!("consecution.link.{id}")
}

/// A subject beside those of links that nobody serves: its id would be that of a link
/// whose MD5 is zero.
pub fn of_no_link() -> String {
    format!("consecution.link.{:032}", 0)
}

/// What the private inboxes of portals and of runners start with, so that
/// permissions can tell them apart.
pub const PORTAL_INBOX: &str = "_INBOX.portal";
/// See [`PORTAL_INBOX`].
pub const RUNNER_INBOX: &str = "_INBOX.runner";

/// The call's id, in a request and in its reply.
pub static CALL_ID: HeaderName = HeaderName::from_static("Consecution-Call-Id");
/// In a request: how many milliseconds are left until its deadline.
pub static TIMEOUT_MS: HeaderName = HeaderName::from_static("Consecution-Timeout-Ms");
/// In a request: the caller's place in a trace, as in W3C Trace Context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// In a request: the caller understands frames; see [`STREAM_VERSION`].
pub static STREAM: HeaderName = HeaderName::from_static("Consecution-Stream");
/// In a request: only asks whether somebody is there.
pub static PROBE: HeaderName = HeaderName::from_static("Consecution-Probe");
/// In a request: nothing may be started before the caller has shown that it still
/// waits.
pub static CONFIRM: HeaderName = HeaderName::from_static("Consecution-Confirm");
/// In a request, [`STDERR_LIVE`]; in a reply, the end of standard error.
pub static STDERR: HeaderName = HeaderName::from_static("Consecution-Stderr");
/// In a request: the links that follow in the chain, which the runner may go on
/// with by itself.
pub static THEN: HeaderName = HeaderName::from_static("Consecution-Then");
/// In the frame that takes a call: how many of those it goes on with.
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
/// Says that a message is a frame of a stream, which, and its number.
pub static FRAME: HeaderName = HeaderName::from_static("Consecution-Frame");
/// In a reply: what went wrong, as a number of HTTP's; NATS services have it.
pub static ERROR_CODE: HeaderName = HeaderName::from_static("Nats-Service-Error-Code");
/// In a reply: what went wrong, in a line; NATS services have it.
pub static ERROR: HeaderName = HeaderName::from_static("Nats-Service-Error");

/// The headers of a reply that are about one of the links of a call.
pub struct OfLink {
    /// As [`ENDING`].
    pub ending: HeaderName,
    /// As [`ELAPSED_US`].
    pub elapsed_us: HeaderName,
    /// As [`STDERR`].
    pub stderr: HeaderName,
    /// As [`OUTPUT`].
    pub output: HeaderName,
}

/// For each link of a call: first the one that was called, and then those that
/// may be joined, whose headers have their place, counted from 1, behind the name.
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
            output: of_link(&OUTPUT),
        }
    })
});

/// The version of the protocol of frames that is spoken here.
pub const STREAM_VERSION: &str = "1";
/// In [`STREAM`]: the body is whole in this message.
pub const STREAM_WHOLE: &str = "whole";
/// In [`STREAM`]: the body goes on in frames.
pub const STREAM_OPEN: &str = "open";
/// In [`STDERR`] of a request: send standard error while it is written.
pub const STDERR_LIVE: &str = "live";
