//! A call's failure, as `application/problem+json` (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::headers;
use crate::http;
use crate::parameters::FormError;
use crate::portal::{ChainError, FailureReason};
use crate::text::excerpt;
use crate::trace::CallId;
use crate::transport::Limit;

/// A call's failure.
#[derive(Debug, Default, Serialize)]
pub(super) struct Problem {
    #[serde(flatten)]
    base: http::Problem,
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
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipestatus: Option<String>,
    /// The parameter that is to blame, and its value and pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
}

/// The title of a problem with the values of a chain's parameters.
const WRONG_PARAMETERS: &str = "the parameters are wrong";

/// The most characters of a name or a value that a problem shows.
const VALUE_CHARS_MAX: usize = 200;

impl Problem {
    /// A failure of a call of `chain` for which no link is to blame.
    pub(super) fn of_chain(
        chain: &str,
        status: StatusCode,
        title: &'static str,
        detail: impl Into<String>,
        call_id: &CallId,
    ) -> Problem {
        Problem {
            base: http::Problem::new(status, title, detail).with_call_id(call_id),
            chain: Some(chain.to_owned()),
            ..Problem::default()
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.base.status
    }

    /// Adds a reason, a lower-case fragment.
    pub(super) fn because(mut self, reason: &str) -> Problem {
        self.base.detail = format!("{}: {reason}", self.base.detail);
        self
    }

    /// A query that cannot be read.
    pub(super) fn of_query(chain: &str, error: &FormError, call_id: &CallId) -> Problem {
        let detail = format!("failed to {error}");
        let status = StatusCode::BAD_REQUEST;
        let mut problem = Problem::of_chain(chain, status, WRONG_PARAMETERS, detail, call_id);
        problem.parameter = error.name();
        problem
    }

    /// What made a run fail.
    pub(super) fn of_run(error: &ChainError, call_id: &CallId) -> Problem {
        let (status, title) = match &error.reason {
            FailureReason::Exited(_) => (StatusCode::BAD_GATEWAY, "a link failed"),
            FailureReason::Signalled(_) => (StatusCode::BAD_GATEWAY, "a link was killed"),
            FailureReason::CannotStart(_) => (StatusCode::BAD_GATEWAY, "a link cannot be started"),
            FailureReason::Lost(_) => (StatusCode::BAD_GATEWAY, "a link was lost"),
            FailureReason::NoOutput(_) | FailureReason::OddOutput(_) => {
                (StatusCode::BAD_GATEWAY, "a link has not written its output")
            }
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
            FailureReason::Parameter(_) => (StatusCode::BAD_REQUEST, WRONG_PARAMETERS),
        };
        let title = error.limit.map_or(title, title_of_limit);
        let detail = error.to_string();
        let mut problem = Problem::of_chain(&error.chain, status, title, detail, call_id);
        if let FailureReason::Parameter(error) = &error.reason {
            let shown = |text| excerpt(text, VALUE_CHARS_MAX);
            problem.parameter = error.name().map(shown);
            problem.value = error.value().map(shown);
            problem.pattern = error.pattern().map(str::to_owned);
            return problem;
        }
        problem.pipestatus = Some(headers::pipestatus(&error.report));
        // If the caller broke off, no link is to blame.
        if !error.reason.is_the_callers() {
            problem.link_index = Some(error.index);
            problem.link_name = Some(error.name.clone());
            problem.runner = error.runner.as_deref().map(str::to_owned);
            problem.stderr = Some(String::from_utf8_lossy(&error.stderr).into_owned());
            problem.hint = error.hint.as_deref().map(str::to_owned);
            problem.limit = error.limit.map(Limit::name);
        }
        match error.reason {
            FailureReason::Exited(code) => problem.exit_code = Some(code),
            FailureReason::Signalled(signal) => problem.signal = Some(signal),
            _ => {}
        }
        problem
    }
}

fn title_of_limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "a link needed too much memory",
        Limit::CpuTime => "a link took too much processor time",
        Limit::Output => "a link wrote too much",
        Limit::Scratch => "a link stored too much",
        Limit::Processes => "a link needed too many processes",
        Limit::Filter => "a link made a system call that is not allowed",
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        http::problem_response(self.status(), &self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portal::failure::LastWords;
    use crate::portal::{LinkReport, Report};
    use crate::transport::Usage;
    use bytes::Bytes;
    use chain::Chain;
    use std::time::Duration;

    const CHAIN: &str = "Name: words\nChain: [{Image: a, Command: x}, {Image: b, Command: grep}]";

    fn problem(reason: FailureReason) -> serde_json::Value {
        problem_of(CHAIN, reason, None)
    }

    fn problem_of(chain: &str, reason: FailureReason, limit: Option<Limit>) -> serde_json::Value {
        let chain = Chain::parse(chain, "", "").unwrap();
        let link = |runner: Option<&str>| LinkReport {
            name: String::new(),
            ending: None,
            elapsed: Duration::ZERO,
            runner: runner.map(Into::into),
            is_joined: false,
            usage: Usage::default(),
            limit: limit.filter(|_| runner.is_some()),
        };
        let report = Report {
            links: vec![link(None), link(Some("north"))],
        };
        let said = LastWords {
            stderr: Bytes::from_static(b"no \xff\n"),
            hint: Some("try less".into()),
        };
        let error = ChainError::new(&chain, 1, reason, said, report);
        let id = CallId::new(Some(b"seven"));
        serde_json::to_value(Problem::of_run(&error, &id)).unwrap()
    }

    #[test]
    fn it_has_all_that_is_known_of_a_failure() {
        let wanted = serde_json::json!({
            "status": 502, "title": "a link failed",
            "detail": "link 2 'grep' (b grep) on runner 'north' exited with code 3",
            "call_id": "seven", "chain": "words", "link_index": 1, "link_name": "grep",
            "runner": "north", "exit_code": 3, "stderr": "no \u{fffd}\n", "hint": "try less", "pipestatus": "-,-",
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
    fn a_limit_is_named_with_the_key_that_raises_it() {
        let limited = "Chain: [{Image: a, Command: x}, {Image: b, Command: c, Constraints: \
            {Memory: 64M, CPUTime: 1.5s, Output: 2K, Scratch: 1G, Processes: 7}}]";
        for (limit, allowed) in [
            (Limit::Memory, Some("Memory: 64M")),
            (Limit::CpuTime, Some("CPUTime: 1.5s")),
            (Limit::Output, Some("Output: 2K")),
            (Limit::Scratch, Some("Scratch: 1G")),
            (Limit::Processes, Some("Processes: 7")),
            (Limit::Filter, None),
        ] {
            let problem = problem_of(limited, FailureReason::Signalled(9), Some(limit));
            assert_eq!(problem["limit"], limit.name());
            assert_eq!(problem["title"], title_of_limit(limit));
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("signal 9 (SIGKILL): it "), "{detail}");
            if let Some(allowed) = allowed {
                let allowed = format!("than `Constraints: {{{allowed}}}` allows");
                assert!(detail.ends_with(&allowed), "{detail}");
            }
        }
        // What the chain file does not limit, runners do.
        let detail = problem_of(CHAIN, FailureReason::Exited(1), Some(Limit::Scratch));
        let detail = detail["detail"].as_str().unwrap();
        assert!(detail.contains("`Constraints: {Scratch: …}`"), "{detail}");
        let cut = FailureReason::InputCut("x".into());
        assert!(
            problem_of(CHAIN, cut, Some(Limit::Memory))
                .get("limit")
                .is_none()
        );
    }

    #[test]
    fn each_reason_has_its_status() {
        let cases = [
            (FailureReason::CannotStart("x".into()), 502),
            (FailureReason::Lost("x".into()), 502),
            (FailureReason::NoOutput("x".into()), 502),
            (FailureReason::OddOutput("x".into()), 502),
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
