//! Why an attempt failed, and how often and when another is made.

use std::time::Duration;

use super::endpoint::Endpoint;
use super::error::ClientError;
use super::{Registries, RegistryError, Retry};
use crate::causes::with_causes;

/// The longest wait between two attempts that we choose.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(10);

/// The longest wait that a server may choose. If it wants more, this pull makes no further
/// attempt.
const SERVER_DELAY_MAX: Duration = Duration::from_secs(60);

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

/// Counts attempts that got nowhere, and waits between them.
pub(super) struct Attempts<'o> {
    retry: &'o Retry,
    failed: u32,
    /// The next wait, if the server does not choose it.
    delay: Duration,
}

impl<'o> Attempts<'o> {
    pub(super) fn new(options: &'o Registries) -> Self {
        let retry = &options.retry;
        Self {
            retry,
            failed: 0,
            delay: retry.first_delay,
        }
    }

    /// The last attempt got somewhere: earlier failures no longer count.
    pub(super) fn progressed(&mut self) {
        (self.failed, self.delay) = (0, self.retry.first_delay);
    }

    /// Waits before another attempt, or gives the failure back for good.
    pub(super) async fn wait_after(&mut self, failure: Failure) -> Result<(), RegistryError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, after) => (error, after),
        };
        self.failed += 1;
        let too_long = after.is_some_and(|after| after > SERVER_DELAY_MAX);
        if too_long || self.failed >= self.retry.attempts_max {
            return Err(error);
        }
        let delay = after.unwrap_or_else(|| self.delay.min(DELAY_MAX));
        self.delay = self.delay.saturating_mul(2);
        tracing::debug!(error = with_causes(&error), ?delay, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Logs that a mirror was skipped, and why.
pub(super) fn skipped(error: &RegistryError) {
    let error = with_causes(error);
    tracing::warn!(
        error,
        "a mirror failed; the next one, or the registry, is asked"
    );
}

/// What went wrong below HTTP.
pub(super) fn transport(endpoint: &Endpoint, cause: reqwest::Error) -> Failure {
    let url = cause.url();
    let address = url.map_or_else(|| endpoint.address.clone(), |url| endpoint.address_of(url));
    // A refused connection, an unknown host, a bad certificate will not pass
    // within seconds; a lost connection or a timeout may.
    let permanent = (cause.is_connect() && !cause.is_timeout()) || cause.is_builder();
    let cause = ClientError(cause).into();
    let error = RegistryError::Unreachable { address, cause };
    match permanent {
        true => Failure::Final(error),
        false => Failure::Passing(error, None),
    }
}
