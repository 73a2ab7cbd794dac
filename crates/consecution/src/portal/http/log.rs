//! Log lines about calls over HTTP. Call, trace, chain, link, runner and the name of the caller's
//! key have the same keys in all of them.
//!
//! Text from links and callers is escaped where log lines are written.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;

use super::headers::milliseconds;
use crate::parameters::FormError;
use crate::portal::{ChainError, FailureReason};
use crate::trace::Trace;
use crate::transport::{Cut, Limit};

/// How much of the end of a failed link's standard error a line shows.
const STDERR_BYTES_MAX: usize = 4096;

/// Whose call a line is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) trace: Trace,
    /// The name of the caller's key.
    pub(super) key: Option<Arc<str>>,
}

/// Logs a line about a call, with the keys that all of them have, and more if there are.
macro_rules! line {
    ($level:ident, $about:expr, $chain:expr, $($rest:tt)+) => {
        tracing::$level!(
            call_id = %$about.trace.call_id,
            trace_id = $about.trace.trace_id(),
            span_id = $about.trace.span_id(),
            key = $about.key.as_deref(),
            chain = $chain,
            $($rest)+
        )
    };
}

/// Logs that a call has failed: as a warning, unless the caller is to blame.
pub(super) fn failure(what: &str, error: &ChainError, about: &About, status: StatusCode) {
    let status = status.as_u16();
    if error.reason.is_the_callers() {
        line!(info, about, error.chain, status, "{what}: {error}");
        return;
    }
    let (exit_code, signal) = match error.reason {
        FailureReason::Exited(code) => (Some(code), None),
        FailureReason::Signalled(signal) => (None, Some(signal)),
        _ => (None, None),
    };
    let link = error.report.links.get(error.index);
    let ran = link.filter(|link| link.ending.is_some());
    line!(
        warn,
        about,
        error.chain,
        link = error.name,
        link_id = %error.link_id,
        runner = error.runner.as_deref(),
        status,
        exit_code,
        signal,
        limit = error.limit.map(Limit::name),
        elapsed_ms = ran.map(|link| milliseconds(link.elapsed)),
        stderr = last_lines(&error.stderr).as_deref(),
        "{what}: {error}"
    );
}

/// Logs that a call was refused because its query cannot be read.
pub(super) fn refused(chain: &str, about: &About, status: StatusCode, error: &FormError) {
    let status = status.as_u16();
    line!(
        info,
        about,
        chain,
        status,
        "a call failed: failed to {error}"
    );
}

/// Logs that a call has succeeded.
pub(super) fn success(chain: &str, about: &About) {
    let status = StatusCode::OK.as_u16();
    line!(debug, about, chain, status, "a call succeeded");
}

/// Logs that a call has failed although no link did.
pub(super) fn fault(chain: &str, about: &About, cut: &Cut, status: StatusCode) {
    let status = status.as_u16();
    line!(
        error,
        about,
        chain,
        status,
        "a call failed although no link did: {cut}"
    );
}

/// Logs that a call was aborted because its client has sent nothing for too long.
pub(super) fn stalled(chain: &str, about: &About, status: StatusCode, detail: &str) {
    let status = status.as_u16();
    line!(info, about, chain, status, "a call was given up: {detail}");
}

/// Logs that a reply begins before its request is complete, because the spool is full.
pub(super) fn spool_full(chain: &str, about: &About) {
    line!(
        warn,
        about,
        chain,
        "the spool is full: a reply begins before its request is complete, \
         which many clients and proxies do not understand"
    );
}

/// The end of a link's standard error, from the start of a line if possible; `None` if the
/// link wrote nothing.
pub(super) fn last_lines(stderr: &[u8]) -> Option<Cow<'_, str>> {
    let stderr = stderr.trim_ascii_end();
    let end = &stderr[stderr.len().saturating_sub(STDERR_BYTES_MAX)..];
    let is_cut = end.len() < stderr.len();
    let line = end
        .iter()
        .position(|byte| *byte == b'\n')
        .filter(|_| is_cut);
    let end = line.map_or(end, |at| &end[at + 1..]);
    (!end.is_empty()).then(|| String::from_utf8_lossy(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_stderr_begins_with_a_line_and_has_a_bound() {
        assert_eq!(last_lines(b""), None);
        assert_eq!(last_lines(b" \n"), None);
        assert_eq!(last_lines(b"one\ntwo\n\n").unwrap(), "one\ntwo");
        let lines = "0123456789\n".repeat(1000);
        let shown = last_lines(lines.as_bytes()).unwrap();
        assert!(shown.starts_with("0123456789\n") && shown.ends_with("\n0123456789"));
        assert!((4000..=STDERR_BYTES_MAX).contains(&shown.len()));
        let without_end = vec![b'x'; 2 * STDERR_BYTES_MAX];
        assert_eq!(last_lines(&without_end).unwrap().len(), STDERR_BYTES_MAX);
    }
}
