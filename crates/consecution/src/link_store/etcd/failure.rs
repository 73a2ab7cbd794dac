//! Classifies errors of etcd, and of the connection to it, by what can be done about them.

use std::error::Error as _;

use etcd_client::Error;

/// Status codes of gRPC.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// An operation on etcd failed.
///
/// It has no source: the client nests errors that repeat one another, so its text has the
/// innermost one alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    /// What can be done about it.
    pub(super) kind: FailureKind,
    /// Why, as a lower-case fragment, with what to do where that is known.
    pub(super) reason: String,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// This server does not answer, or cannot now: ask another one, or later.
    Unreachable,
    /// Our authentication token is no longer valid: sign in again.
    Forgotten,
    /// The server has answered, and refuses the operation.
    Refused,
    /// The server has answered that we have no permission.
    Denied,
}

impl FailureKind {
    /// Whether a server has answered, so that another one would say the same.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, FailureKind::Refused | FailureKind::Denied)
    }
}

impl Failure {
    pub(super) fn unreachable(reason: impl Into<String>) -> Failure {
        Failure {
            kind: FailureKind::Unreachable,
            reason: reason.into(),
        }
    }

    pub(super) fn refused(reason: impl Into<String>) -> Failure {
        Failure {
            kind: FailureKind::Refused,
            reason: reason.into(),
        }
    }

    /// Classifies a gRPC status, which comes from etcd or from the connection to it.
    fn of_status(code: i32, message: &str) -> Failure {
        // A token also becomes invalid when the user's roles are changed.
        let is_forgotten =
            code == code::UNAUTHENTICATED || message.contains("revision of auth store is old");
        let kind = match code {
            _ if is_forgotten => FailureKind::Forgotten,
            code::PERMISSION_DENIED => FailureKind::Denied,
            code::INVALID_ARGUMENT
            | code::NOT_FOUND
            | code::FAILED_PRECONDITION
            | code::OUT_OF_RANGE
            | code::UNIMPLEMENTED => FailureKind::Refused,
            // The HTTP/2 layer uses the same code if the connection is overused.
            code::RESOURCE_EXHAUSTED if message.starts_with("etcdserver:") => FailureKind::Refused,
            _ => FailureKind::Unreachable,
        };
        let message = message.strip_prefix("etcdserver: ").unwrap_or(message);
        let reason = match advice(message) {
            Some(advice) => format!("{message}; {advice}"),
            None => message.to_owned(),
        };
        Failure { kind, reason }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::GRpcStatus(status) => {
                let mut failure = Failure::of_status(status.code().into(), status.message());
                if let Some(cause) = status.source().and_then(innermost)
                    && !failure.reason.contains(&cause)
                {
                    failure.reason = format!("{}: {cause}", failure.reason);
                }
                failure
            }
            Error::TransportError(error) => {
                Failure::unreachable(innermost(error).unwrap_or_else(|| error.to_string()))
            }
            Error::LeaseKeepAliveError(reason) => Failure::refused(reason),
            _ => Failure::unreachable(error.to_string()),
        }
    }
}

/// The text of the last cause.
fn innermost(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    Some(causes.last()?.to_string())
}

/// What to do about this message of etcd.
fn advice(message: &str) -> Option<&'static str> {
    let cases = [
        (
            "permission denied",
            "the etcd user needs a role that allows it",
        ),
        (
            "user name is empty",
            "etcd asks for a user and password: give those of an etcd user",
        ),
        ("authentication failed", "check the etcd user and password"),
        (
            "authentication is not enabled",
            "leave the etcd user out, or enable authentication in etcd",
        ),
        (
            "database space exceeded",
            "compact and defragment etcd, then disarm its alarm",
        ),
    ];
    let (_, advice) = cases.iter().find(|(part, _)| message.contains(part))?;
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_means_what_can_be_done() {
        use FailureKind::{Denied, Forgotten, Refused, Unreachable};
        let cases = [
            (16, "etcdserver: invalid auth token", Forgotten),
            (3, "etcdserver: revision of auth store is old", Forgotten),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                Refused,
            ),
            (3, "etcdserver: user name is empty", Refused),
            (7, "etcdserver: permission denied", Denied),
            (8, "etcdserver: mvcc: database space exceeded", Refused),
            (8, "h2 protocol error", Unreachable),
            (9, "etcdserver: authentication is not enabled", Refused),
            (
                11,
                "etcdserver: mvcc: required revision has been compacted",
                Refused,
            ),
            (14, "etcdserver: no leader", Unreachable),
            (14, "etcdserver: request timed out", Unreachable),
            (2, "transport error", Unreachable),
            (1, "operation was canceled", Unreachable),
        ];
        for (code, message, kind) in cases {
            assert_eq!(Failure::of_status(code, message).kind, kind, "{message}");
        }
    }

    #[test]
    fn a_reason_says_what_to_do() {
        let failure = Failure::of_status(7, "etcdserver: permission denied");
        assert_eq!(
            failure.reason,
            "permission denied; the etcd user needs a role that allows it"
        );
    }
}
