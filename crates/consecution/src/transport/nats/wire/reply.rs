//! The headers of replies in one message. Reading validates each of them.

use std::sync::Arc;

use async_nats::HeaderMap;

use super::header::{Malformed, short, text_of, value};
use super::outcome::{self, write_error};
use super::subject::{CALL_ID, ENDING, ERROR, ERROR_CODE, RUNNER};
use crate::trace::CallId;
use crate::transport::{Outcome, RefusalReason};

/// The content of a reply in one message.
#[derive(Debug)]
pub(crate) struct ReplyHead {
    pub(crate) runner: Option<Arc<str>>,
    pub(crate) end: End,
}

/// How a call ended, or that it never began.
#[derive(Debug)]
pub(crate) enum End {
    Ran(Outcome),
    Refused(RefusalReason),
}

/// Why a runner answers without an outcome.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Busy,
    CannotStart(Arc<str>),
    Malformed(Malformed),
    /// The output does not fit into one message, and the caller takes no stream.
    TooLarge,
    /// The output was cut off, for that reason.
    OutputCut(Arc<str>),
}

impl ReplyHead {
    /// Reads a reply to a call.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read(headers: &HeaderMap) -> Result<ReplyHead, Malformed> {
        let ending = value(headers, &ENDING)
            .ok_or_else(|| Malformed("a reply without `Consecution-Ending`".to_owned()))?;
        let (word, detail) = ending.split_once(' ').unwrap_or((ending, ""));
        let error = || value(headers, &ERROR).unwrap_or(word).into();
        let end = match word {
            "busy" => End::Refused(RefusalReason::Busy),
            "cannot-start" => End::Refused(RefusalReason::CannotStart(text_of(detail))),
            "malformed" => End::Refused(RefusalReason::Malformed(error())),
            // A retry would not help.
            "too-large" => End::Refused(RefusalReason::CannotStart(error())),
            _ => End::Ran(outcome::read(headers)?),
        };
        Ok(ReplyHead {
            runner: runner(headers),
            end,
        })
    }
}

/// The name of the runner that sent a message.
pub(crate) fn runner(headers: &HeaderMap) -> Option<Arc<str>> {
    value(headers, &RUNNER).map(text_of)
}

/// The headers of an answer that is no outcome.
pub(crate) fn fault(fault: &Fault, runner: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let (ending, code, what) = match fault {
        Fault::Busy => (
            "busy".to_owned(),
            503,
            "it is busy; ask again soon".to_owned(),
        ),
        Fault::CannotStart(reason) => (
            format!("cannot-start {}", short(reason)),
            502,
            reason.to_string(),
        ),
        Fault::Malformed(malformed) => (
            "malformed".to_owned(),
            400,
            format!("malformed request: {malformed}"),
        ),
        Fault::TooLarge => (
            "too-large".to_owned(),
            413,
            "the output does not fit into one message; ask for a stream".to_owned(),
        ),
        Fault::OutputCut(reason) => {
            let reason = format!("its output was cut off: {reason}");
            (format!("lost {}", short(&reason)), 502, reason)
        }
    };
    headers.insert(ENDING.clone(), ending);
    write_error(&mut headers, code, &format!("{what}, on runner {runner}"));
    headers
}

/// The code and the text of [`gone`].
pub(crate) const GONE_CODE: &str = "404";
pub(crate) const GONE: &str = "no call has this inbox, or not any more";

/// The headers of the answer to a message for an inbox that does not exist.
pub(crate) fn gone() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ERROR_CODE.clone(), GONE_CODE);
    headers.insert(ERROR.clone(), GONE);
    headers
}

/// The headers that every reply has.
pub(crate) fn about(call_id: &CallId, runner: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CALL_ID.clone(), call_id.as_str());
    headers.insert(RUNNER.clone(), runner);
    headers
}
