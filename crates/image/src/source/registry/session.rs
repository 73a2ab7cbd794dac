//! One registry, one repository: a request with its authentication and retries.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE};
use reqwest::{Response, StatusCode};

use super::auth::{Challenged, authorize};
use super::body::read_bounded;
use super::endpoint::Endpoint;
use super::redirects::{Follow, send};
use super::{Registries, RegistryError, retry_after};
use crate::layer::Limits;
use crate::reference::Reference;

/// The longest wait between two attempts that we choose.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// The longest that a server chooses. One that wants more time does not get an
/// attempt more from this pull.
const AFTER_MAX: Duration = Duration::from_secs(60);
/// Most bytes of an error's body that are read, and shown.
const ERROR_BYTES_MAX: u64 = 64 << 10;
const REASON_CHARS_MAX: usize = 200;

/// Access to one repository and its mirrors.
pub(crate) struct Session<'o> {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) reference: &'o Reference,
    pub(super) options: &'o Registries,
    pub(super) limits: &'o Limits,
}

/// Why an attempt failed, and whether another may do better.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may pass; the server may say after how long.
    Passing(RegistryError, Option<Duration>),
    Final(RegistryError),
}

impl Failure {
    pub(super) fn into_error(self) -> RegistryError {
        match self {
            Self::Passing(error, _) | Self::Final(error) => error,
        }
    }
}

/// What a request asks for.
pub(super) struct Ask<'a> {
    /// For messages: `the manifest of x`.
    pub(super) what: &'a str,
    /// The path behind `/v2/<repository>/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// The first byte wanted.
    pub(super) from: u64,
}

impl<'o> Session<'o> {
    pub(crate) async fn open(
        reference: &'o Reference,
        options: &'o Registries,
        limits: &'o Limits,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            endpoints: Endpoint::all(reference.registry(), options).await?,
            reference,
            options,
            limits,
        })
    }

    /// One attempt. Anything but success is a failure, told apart.
    pub(super) async fn ask(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<Response, Failure> {
        let repository = self.reference.repository();
        let url = endpoint.api.url(repository, ask.path);
        let mut asked_again = false;
        loop {
            let authorization = endpoint.authorization.lock().await.clone();
            let anonymous = authorization.is_none();
            let mut request = endpoint.client.get(&url);
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = send(endpoint, ask.what, request, Follow::Anywhere).await?;
            // Whom the registry leads us to may not ask for its credentials.
            let is_own = endpoint.reach.is_own(answer.url());
            if is_own && !asked_again {
                let challenged = match answer.status() {
                    StatusCode::UNAUTHORIZED => Some(Challenged::Here(answer.headers().clone())),
                    // Some tell nobody what they do not show to everybody.
                    StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if anonymous => {
                        self.ping(endpoint).await.map(Challenged::AtTheDoor)
                    }
                    _ => None,
                };
                if let Some(challenged) = challenged {
                    asked_again = true;
                    let fresh = authorize(endpoint, repository, &challenged, self.options).await?;
                    if fresh.is_some() {
                        *endpoint.authorization.lock().await = fresh;
                        continue;
                    }
                }
            }
            if answer.status() == StatusCode::FORBIDDEN {
                endpoint.look_up_login(self.options).await;
            }
            return match answer.status() {
                status if status.is_success() => Ok(answer),
                StatusCode::NOT_FOUND if ask.path.starts_with("manifests/") => {
                    Err(Failure::Final(RegistryError::NotFound {
                        reference: self.reference.familiar(),
                        address: endpoint.address.clone(),
                        hint: endpoint.hint(),
                    }))
                }
                _ => Err(said(endpoint, ask.what.to_owned(), answer).await),
            };
        }
    }

    /// The headers of the challenge that the registry has for everybody, `None`
    /// where it has none, or cannot be asked.
    async fn ping(&self, endpoint: &Endpoint) -> Option<HeaderMap> {
        let request = endpoint.client.get(endpoint.api.ping_url());
        let sent = send(endpoint, "a challenge", request, Follow::Anywhere).await;
        let answer = sent.ok()?;
        let challenges =
            answer.status() == StatusCode::UNAUTHORIZED && endpoint.reach.is_own(answer.url());
        challenges.then(|| answer.headers().clone())
    }

    /// The endpoints from `first` on: those that may fail since another follows,
    /// and the last, whose error counts.
    pub(super) fn endpoints_from(&self, first: usize) -> Option<(&[Endpoint], &Endpoint)> {
        let (last, others) = self.endpoints.split_last()?;
        Some((others.get(first..).unwrap_or_default(), last))
    }

    /// That there is no endpoint at all, which no registry name leads to.
    pub(super) fn nowhere(&self) -> RegistryError {
        RegistryError::NotFound {
            reference: self.reference.familiar(),
            address: self.reference.registry().to_owned(),
            hint: String::new(),
        }
    }
}

/// Counts attempts that got nowhere, and waits between them.
pub(super) struct Tries<'o> {
    options: &'o Registries,
    failed: u32,
}

impl<'o> Tries<'o> {
    pub(super) fn new(options: &'o Registries) -> Self {
        Self { options, failed: 0 }
    }

    /// The last attempt got somewhere: what failed before counts no more.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before another attempt, or gives the failure back for good.
    pub(super) async fn wait_after(&mut self, failure: Failure) -> Result<(), RegistryError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, after) => (error, after),
        };
        self.failed += 1;
        let too_long = after.is_some_and(|after| after > AFTER_MAX);
        if too_long || self.failed >= self.options.retry.attempts_max {
            return Err(error);
        }
        let doubled = 1u32.checked_shl(self.failed - 1).unwrap_or(u32::MAX);
        let delay = self.options.retry.first_delay.saturating_mul(doubled);
        let delay = after.unwrap_or_else(|| delay.min(DELAY_MAX));
        tracing::debug!(%error, ?delay, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// What went wrong below HTTP.
pub(super) fn transport(endpoint: &Endpoint, cause: &reqwest::Error) -> Failure {
    let text = if cause.is_timeout() {
        "no answer in time".to_owned()
    } else {
        innermost(cause)
    };
    let error = RegistryError::Unreachable {
        address: cause
            .url()
            .map_or_else(|| endpoint.address.clone(), |url| endpoint.address_of(url)),
        cause: text,
    };
    // A refused connection, an unknown host, a bad certificate will not pass
    // within seconds; a lost connection or a timeout may.
    let permanent = (cause.is_connect() && !cause.is_timeout()) || cause.is_builder();
    match permanent {
        true => Failure::Final(error),
        false => Failure::Passing(error, None),
    }
}

/// The cause at the bottom, which is the one that tells.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "no reason given".to_owned(),
    }
}

/// The failure that an answer other than success means.
pub(super) async fn said(endpoint: &Endpoint, what: String, answer: Response) -> Failure {
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
            advice: endpoint.advice(status),
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
