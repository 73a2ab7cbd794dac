//! Errors as `application/problem+json` (RFC 9457).

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Serialize, Serializer};

use super::access::NotAllowed;
use crate::trace::CallId;

/// After how many seconds a client should retry after a 503 or 429.
pub(crate) const RETRY_AFTER_S: u32 = 1;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error as a client reads it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Problem {
    #[serde(serialize_with = "as_number")]
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// The request's id, as in the reply's header.
    call_id: String,
    /// The right that the caller lacks, for 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    /// The value of `Allow`, for 405.
    #[serde(skip)]
    allow: Option<&'static str>,
}

fn as_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            status,
            title,
            detail: detail.into(),
            ..Problem::default()
        }
    }

    /// 404, with a `detail` that says what is not there.
    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "there is nothing of that name",
            detail,
        )
    }

    /// 405: `path` takes only the methods that `allow` lists.
    pub(crate) fn not_allowed(path: &str, allow: &'static str) -> Problem {
        let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed");
        Problem {
            allow: Some(allow),
            ..Problem::new(status, title, format!("{path} takes {allow}"))
        }
    }

    /// 403: the caller lacks the right `missing`.
    pub(crate) fn forbidden(missing: String, detail: impl Into<String>) -> Problem {
        let title = "the key does not allow it";
        Problem {
            missing: Some(missing),
            ..Problem::new(StatusCode::FORBIDDEN, title, detail)
        }
    }

    pub(crate) fn with_call_id(self, call_id: &CallId) -> Problem {
        Problem {
            call_id: call_id.to_string(),
            ..self
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = problem_response(self.status, &self);
        if self.missing.is_some() {
            response.extensions_mut().insert(NotAllowed);
        }
        if let Some(allow) = self.allow {
            let headers = response.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// A response with `problem`, which has the members of [`Problem`] and perhaps more.
pub(crate) fn problem_response(status: StatusCode, problem: &impl Serialize) -> Response<Body> {
    let mut response = super::json(status, problem);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
    }
    response
}
