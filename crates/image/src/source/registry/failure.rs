//! Why an attempt failed, and how often and when another is made.

use std::time::Duration;

use super::endpoint::Endpoint;
use super::error::ClientError;
use super::{Registries, RegistryError};
use crate::causes::with_causes;

/// The longest wait between two attempts that we choose.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(10);
/// The longest that a server chooses. One that wants more time does not get an
/// attempt more from this pull.
const AFTER_MAX: Duration = Duration::from_secs(60);
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
        tracing::debug!(error = with_causes(&error), ?delay, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Says that a mirror was left out, and why.
pub(super) fn skipped(error: &RegistryError) {
    let error = with_causes(error);
    tracing::warn!(error, "mirror failed, going on to the next");
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
