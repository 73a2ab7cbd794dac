//! What it takes to reach a server: addresses, certificates, secrets.
//!
//! Plain data, for whoever embeds a portal or a runner, and for the command
//! line. A secret is never printed: neither here nor by who uses it.

use std::fmt;
use std::path::PathBuf;

/// How to reach NATS.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// URLs of servers of one cluster; with none, the local one.
    pub servers: Vec<String>,
    /// Who we are, to the servers.
    pub identity: NatsIdentity,
    /// Encryption; a server that asks for it gets it in any case.
    pub tls: Tls,
}

/// Who we are, to NATS.
#[derive(Debug, Clone, Default)]
pub enum NatsIdentity {
    /// Nobody, or whoever a server's URL says.
    #[default]
    Anonymous,
    /// A user and their password.
    Password {
        /// The user.
        user: String,
        /// Their password.
        password: Secret,
    },
    /// A token that the server knows.
    Token(Secret),
    /// The seed of an NKey.
    NKey(Secret),
    /// A credentials file, as `nsc` makes it: a JWT and the seed for it.
    Credentials(PathBuf),
}

/// How to reach etcd.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// URLs of members of one cluster; with none, the local one.
    pub endpoints: Vec<String>,
    /// A user and their password.
    pub user: Option<(String, Secret)>,
    /// Encryption, for endpoints at `https://`.
    pub tls: Tls,
}

/// Files for an encrypted connection, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may vouch for the server; if not given, whoever the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, where the server asks for one.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// What must not be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it from being printed.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The secret itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let identity = NatsIdentity::Token(Secret::new("hidden"));
        assert!(!format!("{identity:?}").contains("hidden"));
    }
}
