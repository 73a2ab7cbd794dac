//! Pulling from a registry: how it is reached, and what is asked of it.
//!
//! Written over reqwest rather than over a client library, since none resumes,
//! bounds and retries: [`endpoint`] is where a registry or mirror answers, [`api`]
//! by which URLs,
//! [`auth`] how it is shown who asks, [`session`] one request with its retries,
//! [`redirects`] where that leads and [`reach`] where it may, [`proxy`] through whom, [`body`] what it is
//! answered, [`retry_after`] when it is not to be asked, [`resolve`] from a name to a manifest, [`blob`] a download.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

mod api;
mod auth;
mod blob;
mod body;
pub(crate) mod credentials;
mod endpoint;
mod proxy;
mod reach;
mod redirects;
mod resolve;
mod retry_after;
mod session;

pub(crate) use resolve::Resolved;
pub(crate) use session::Session;

use credentials::{Credentials, CredentialsError};

use crate::layer::LayerError;
use crate::manifest::ContentError;
use crate::reference::Reference;
use crate::store::StoreError;

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
    /// For the next 64 KiB of an answer, where it has so many: a byte now and
    /// then is as good as none.
    pub pace: Duration,
    /// For a whole pull. What it has downloaded by then the next one goes on
    /// with, so a slow link needs several, and a registry that gives no end
    /// leaves others their turn.
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

/// A registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection broke and stayed broken.
    #[error(
        "reach registry {address}: {cause}; check the name, the network and that the registry runs"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong, innermost cause last.
        cause: String,
    },
    /// It sends, but hardly anything.
    #[error(
        "read what registry {address} sends: fewer than {bytes} bytes came within {within:?}; check the network, or try again when the registry has less to do"
    )]
    TooSlow {
        /// Host and port.
        address: String,
        /// How many would have been enough.
        bytes: usize,
        /// How long they were waited for.
        within: Duration,
    },
    /// It has no such image.
    #[error("find image {reference}: registry {address} has no such repository or tag{hint}")]
    NotFound {
        /// The image.
        reference: String,
        /// Host and port.
        address: String,
        /// What else may be the matter.
        hint: String,
    },
    /// 401 or 403.
    #[error("get {what} from registry {address}: {status}, {reason}; {advice}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// 401 or 403.
        status: u16,
        /// What the registry says.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// Any other status, after the retries.
    #[error("get {what} from registry {address}: it answers {status}, {reason}")]
    Status {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        reason: String,
    },
    /// It wants to be left alone for a while, and is.
    #[error(
        "get {what} from registry {address}: it answers {status}, {reason}, and is not to be asked again for {} s; wait, or log in where that raises a limit", .after.as_secs() + 1
    )]
    NotYet {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        reason: String,
        /// For how long.
        after: Duration,
    },
    /// It answers, but not as a registry does.
    #[error("get {what} from registry {address}: {problem}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// What it gave is wrong.
    #[error("{cause} (from registry {address})")]
    Content {
        /// Host and port.
        address: String,
        /// What is wrong.
        cause: ContentError,
    },
    /// A download cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry's side.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer's contents.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Our side.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It takes too long.
    #[error(
        "pull image {}: it was not done within {within:?}; what was downloaded is kept for a day, pull it again to go on", .reference.familiar()
    )]
    TooLong {
        /// The image.
        reference: Reference,
        /// How long it was waited for.
        within: Duration,
    },
    /// What was pulled is no image that we can use.
    #[error("use image {reference}: failed to {cause}")]
    Content {
        /// The image.
        reference: Reference,
        /// Why not.
        cause: ContentError,
    },
}
