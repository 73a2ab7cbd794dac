//! Pulling from a registry: how it is reached, and what is asked of it.
//!
//! Written over reqwest rather than over a client library: none of those resumes,
//! bounds and retries. Each module imports only those that stand above it here:
//!
//! | module | for |
//! |---|---|
//! | [`address`], [`api`] | what a URL says of a server, and which URLs a registry has; pure |
//! | [`credentials`] | what Docker's tools know of who asks |
//! | [`proxy`], [`retry_after`], [`reach`] | through whom, when, and to where a request may go |
//! | [`endpoint`] | one registry or mirror, with all of that |
//! | [`failure`] | why an attempt failed, and when there is another |
//! | [`redirects`], [`body`] | sending a request, and reading what it is answered, within bounds |
//! | [`refusal`] | what an answer other than success means |
//! | [`auth`] | showing who asks |
//! | [`session`] | one request to one repository, with all of that |
//! | [`resolve`], [`blob`] | from a name to a manifest, and downloading a layer |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

mod address;
mod api;
mod auth;
mod blob;
mod body;
pub(crate) mod credentials;
mod endpoint;
mod error;
mod failure;
mod proxy;
mod reach;
mod redirects;
mod refusal;
mod resolve;
mod retry_after;
mod session;

pub use error::RegistryError;
pub(crate) use resolve::Resolved;
pub(crate) use session::Session;

use credentials::{Credentials, CredentialsError};

/// How registries are reached: credentials, mirrors, plain HTTP, patience.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// For a registry (`docker.io`), base URLs that are tried before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host` or `host:port`) that may be spoken to without TLS.
    /// Loopback always may.
    pub plain_http: BTreeSet<String>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How often to try again.
    pub retry: Retry,
    credentials: Credentials,
}

impl Registries {
    /// As Docker's tools are set up for this user: `config.json` in
    /// `DOCKER_CONFIG`, else in `~/.docker`. No file is no error.
    ///
    /// # Errors
    /// When there is a file and it cannot be read or understood.
    pub fn from_environment() -> Result<Self, CredentialsError> {
        Ok(Self {
            credentials: Credentials::from_environment()?,
            ..Self::default()
        })
    }

    /// With the credentials in this `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn from_docker_config(file: &Path) -> Result<Self, CredentialsError> {
        Ok(Self {
            credentials: Credentials::from_file(file)?,
            ..Self::default()
        })
    }
}

/// How long to wait, at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub stall: Duration,
    /// For the next 64 KiB of an answer, if it has so many: a server that sends a byte
    /// now and then is as good as dead.
    pub pace: Duration,
    /// For a whole pull. The next pull continues from what was downloaded, so an image
    /// may take several on a slow link; and a registry whose answers never end does not
    /// block other pulls for ever.
    pub pull: Duration,
    /// For a credential helper.
    pub helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            pace: Duration::from_secs(60),
            pull: Duration::from_secs(24 * 3600),
            helper: Duration::from_secs(30),
        }
    }
}

/// How often to try again what may pass: a lost connection, a busy server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row that got nowhere before we give up.
    pub attempts_max: u32,
    /// The wait before the second attempt; it doubles with each, up to 10 s.
    pub first_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            first_delay: Duration::from_millis(250),
        }
    }
}
