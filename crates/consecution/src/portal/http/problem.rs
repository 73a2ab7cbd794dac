//! A failure, as `application/problem+json` (RFC 9457). Pure.

use hyper::StatusCode;
use serde::Serialize;

use super::story;
use crate::portal::{ChainError, FailureReason};
use crate::trace::CallId;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// How soon to come back, in seconds, where that may help.
pub(super) const RETRY_AFTER_S: u32 = 1;

/// What went wrong, for whoever called.
#[derive(Debug, Default, Serialize)]
pub(super) struct Problem {
    #[serde(serialize_with = "as_number")]
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) detail: String,
    pub(super) call_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipestatus: Option<String>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem that is no link's.
    pub(super) fn new(
        status: StatusCode,
        title: &'static str,
        detail: impl Into<String>,
        call_id: &CallId,
    ) -> Problem {
        Problem {
            status,
            title,
            detail: detail.into(),
            call_id: call_id.to_string(),
            ..Problem::default()
        }
    }

    /// With the reason for it, a lower-case fragment.
    pub(super) fn because(mut self, reason: &str) -> Problem {
        self.detail = format!("{}: {reason}", self.detail);
        self
    }

    /// With the chain that it is about.
    pub(super) fn of_chain(mut self, chain: &str) -> Problem {
        self.chain = Some(chain.to_owned());
        self
    }

    /// What made a run fail.
    pub(super) fn of_run(error: &ChainError, call_id: &CallId) -> Problem {
        let (status, title) = match &error.reason {
            FailureReason::Exited(_) => (StatusCode::BAD_GATEWAY, "a link failed"),
            FailureReason::Signalled(_) => (StatusCode::BAD_GATEWAY, "a link was killed"),
            FailureReason::CannotStart(_) => (StatusCode::BAD_GATEWAY, "a link cannot be started"),
            FailureReason::Lost(_) => (StatusCode::BAD_GATEWAY, "a link was lost"),
            FailureReason::NoRunner => (StatusCode::SERVICE_UNAVAILABLE, "no runner"),
            FailureReason::Busy => (StatusCode::SERVICE_UNAVAILABLE, "all runners are busy"),
            FailureReason::Unreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no runner can be asked")
            }
            FailureReason::DeadlinePassed => {
                (StatusCode::GATEWAY_TIMEOUT, "the deadline has passed")
            }
            FailureReason::InputCut(_) => (
                StatusCode::BAD_REQUEST,
                "the request's body is not complete",
            ),
        };
        let mut problem = Problem::new(status, title, error.to_string(), call_id);
        problem.chain = Some(error.chain.clone());
        problem.pipestatus = Some(story::pipestatus(&error.report));
        // Where the caller broke off, no link is to blame.
        if !matches!(error.reason, FailureReason::InputCut(_)) {
            problem.link_index = Some(error.index);
            problem.link_name = Some(error.name.clone());
            problem.runner = error.runner.as_deref().map(str::to_owned);
            problem.stderr = Some(String::from_utf8_lossy(&error.stderr).into_owned());
        }
        match error.reason {
            FailureReason::Exited(code) => problem.exit_code = Some(code),
            FailureReason::Signalled(signal) => problem.signal = Some(signal),
            _ => {}
        }
        problem
    }

    /// As JSON, and a line's end for whoever reads it in a terminal.
    pub(super) fn to_json(&self) -> String {
        // Text and numbers can always be written.
        let mut json = serde_json::to_string(self).unwrap_or_default();
        json.push('\n');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portal::{LinkReport, Report};
    use bytes::Bytes;
    use chain::Chain;
    use std::time::Duration;

    fn problem(reason: FailureReason) -> serde_json::Value {
        let text = "Name: words\nChain: [{Image: a, Command: x}, {Image: b, Command: grep}]";
        let chain = Chain::parse(text, "", "").unwrap();
        let link = |runner: Option<&str>| LinkReport {
            name: String::new(),
            ending: None,
            elapsed: Duration::ZERO,
            runner: runner.map(Into::into),
            is_joined: false,
        };
        let report = Report {
            links: vec![link(None), link(Some("north"))],
        };
        let error = ChainError::new(&chain, 1, reason, Bytes::from_static(b"no \xff\n"), report);
        let id = CallId::new(Some(b"seven"));
        serde_json::from_str(&Problem::of_run(&error, &id).to_json()).unwrap()
    }

    #[test]
    fn it_tells_the_whole_story() {
        let wanted = serde_json::json!({
            "status": 502, "title": "a link failed",
            "detail": "link 2 'grep' (b grep) on runner 'north' exited with code 3",
            "call_id": "seven", "chain": "words", "link_index": 1, "link_name": "grep",
            "runner": "north", "exit_code": 3, "stderr": "no \u{fffd}\n", "pipestatus": "-,-",
        });
        assert_eq!(problem(FailureReason::Exited(3)), wanted);
        let killed = problem(FailureReason::Signalled(9));
        assert_eq!(
            (&killed["signal"], &killed["status"]),
            (&9.into(), &502.into())
        );
        assert!(killed.get("exit_code").is_none());
    }

    #[test]
    fn each_reason_has_its_status() {
        let cases = [
            (FailureReason::CannotStart("x".into()), 502),
            (FailureReason::Lost("x".into()), 502),
            (FailureReason::NoRunner, 503),
            (FailureReason::Busy, 503),
            (FailureReason::Unreachable("x".into()), 503),
            (FailureReason::DeadlinePassed, 504),
            (FailureReason::InputCut("x".into()), 400),
        ];
        for (reason, status) in cases {
            assert_eq!(problem(reason.clone())["status"], status, "{reason:?}");
        }
        assert!(
            problem(FailureReason::InputCut("x".into()))
                .get("link_name")
                .is_none()
        );
    }
}
