//! What an answer other than success means, by its status and what it says.

use reqwest::{Response, StatusCode};

use super::body::read_bounded;
use super::endpoint::Endpoint;
use super::failure::{DELAY_MAX, Failure};
use super::{RegistryError, retry_after};

/// The most bytes of an error's body that are read; a registry's JSON has some hundred.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// The most characters of its reason that are shown: two lines.
const REASON_CHARS_MAX: usize = 200;

/// The failure that an answer other than success means.
pub(super) async fn refusal(endpoint: &Endpoint, what: String, answer: Response) -> Failure {
    let status = answer.status();
    let after = retry_after::after(answer.headers());
    let url = answer.url().clone();
    let address = endpoint.address_of(answer.url());
    let body = read_bounded(endpoint, "error", answer, ERROR_BYTES_MAX)
        .await
        .unwrap_or_default();
    let reason = reason(&body).unwrap_or_else(|| {
        status
            .canonical_reason()
            .unwrap_or("without a reason")
            .to_lowercase()
    });
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Failure::Final(RegistryError::Denied {
            what,
            address,
            status: status.as_u16(),
            reason,
            logged_in: endpoint.is_logged_in(),
            no_login: endpoint.no_login(),
        });
    }
    let busy = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    if let Some(after) = after.filter(|after| busy && !after.is_zero()) {
        retry_after::leave_alone(&url, after, status, &reason);
        let error = RegistryError::NotYet {
            what,
            address,
            status: status.as_u16(),
            reason,
            after,
        };
        return Failure::Passing(error, Some(after));
    }
    let error = RegistryError::Status {
        what,
        address,
        status: status.as_u16(),
        reason,
    };
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    match passing {
        true => Failure::Passing(error, after.map(|after| after.min(DELAY_MAX))),
        false => Failure::Final(error),
    }
}

/// The first error of a registry's error document, made fit to print.
fn reason(body: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = document.get("errors").and_then(|errors| errors.get(0));
    let first = first.unwrap_or(&document);
    let texts = ["message", "details", "detail", "code"];
    let text = texts.iter().find_map(|key| first.get(key)?.as_str())?;
    let printable = text.chars().filter(|character| !character.is_control());
    let text: String = printable.take(REASON_CHARS_MAX).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_reason_is_found_and_made_printable() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"}]}"#;
        assert_eq!(reason(body).as_deref(), Some("no[31m way"));
        assert_eq!(reason(br#"{"details":"bad"}"#).as_deref(), Some("bad"));
        assert_eq!(reason(b"<html>"), None);
    }
}
