//! What can be wrong with options for NATS.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use async_nats::rustls::pki_types::pem;

use crate::config::SecretError;

/// How long the seed of an NKey is, and what that of a user starts with.
pub(crate) const SEED_CHARS: usize = 58;
pub(crate) const SEED_PREFIX: &str = "SU";

/// Options for NATS that cannot be right. The texts read well after "failed to".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum NatsError {
    #[error(
        "use `{server}` as the address of a NATS server \
         (it should look like nats://host:4222 or tls://host:4222)"
    )]
    Server {
        server: String,
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    #[error(
        "use the addresses of the NATS servers: they name different users; name one, or give user and password by themselves"
    )]
    Users,
    #[error("use the NKey seed for NATS: it must be {SEED_CHARS} characters, {SEED_PREFIX} first")]
    Seed,
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("read the NATS credentials file {}", path.display())]
    Credentials {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("read {what} for NATS from {} (it must be in PEM)", path.display())]
    Certificate {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: pem::Error,
    },
}
