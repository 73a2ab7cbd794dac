//! The options for connecting to servers: addresses, certificates, secrets.
//!
//! They are plain data. A secret must never be printed, neither here nor where it is used.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// The largest file with a secret: more than any token or key needs. It stops reading if the
/// path names something else, such as a device.
const SECRET_BYTES_MAX: u64 = 4096;

/// How to reach NATS.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// URLs of servers of one cluster; with none, the local one.
    pub servers: Vec<String>,
    /// The identity that we prove to the servers.
    pub identity: NatsIdentity,
    /// Files for TLS. TLS is also used if a server requires it.
    pub tls: Tls,
}

/// An identity that a NATS server can verify.
#[derive(Debug, Clone, Default)]
pub enum NatsIdentity {
    /// The user in a server's URL, or none.
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
    /// A credentials file of `nsc`, with a JWT and its seed. It is read for each connection.
    Credentials(PathBuf),
}

/// How to reach etcd.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// URLs of members of one cluster; with none, the local one.
    pub endpoints: Vec<String>,
    /// A user and their password.
    pub user: Option<(String, Secret)>,
    /// Files for TLS, for `https://` endpoints.
    pub tls: Tls,
}

/// Files for an encrypted connection, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificates of the CAs to verify the server with; by default, those that the system
    /// trusts.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, for servers that ask for one.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// A secret, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Here(String),
    InFile(PathBuf),
}

/// A secret cannot be read. The text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("read the secret in {}", path.display())]
pub struct SecretError {
    path: PathBuf,
    source: io::Error,
}

impl Secret {
    /// A secret in memory.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(Kept::Here(secret.into()))
    }

    /// A secret in a file, without the end of the line. The file is read whenever the secret is
    /// needed, so that a changed one is used at once.
    pub fn in_file(path: impl Into<PathBuf>) -> Secret {
        Secret(Kept::InFile(path.into()))
    }

    /// Reads the secret. Blocks while it reads a file.
    ///
    /// # Errors
    /// Its file cannot be read, or is too large for a secret.
    pub fn read(&self) -> Result<String, SecretError> {
        let path = match &self.0 {
            Kept::Here(secret) => return Ok(secret.clone()),
            Kept::InFile(path) => path,
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| {
            let read = file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
            if read as u64 > SECRET_BYTES_MAX {
                let reason = format!("it is larger than {SECRET_BYTES_MAX} bytes");
                return Err(io::Error::other(reason));
            }
            Ok(())
        });
        let path = path.clone();
        read.map_err(|source| SecretError { path, source })?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(text)
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
    use crate::error::with_causes;

    #[test]
    fn a_secret_is_not_printed() {
        let identity = NatsIdentity::Token(Secret::new("hidden"));
        assert!(!format!("{identity:?}").contains("hidden"));
    }

    #[test]
    fn a_secret_in_a_file_is_what_stands_there_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::in_file(&path);
        let error = with_causes(&secret.read().unwrap_err());
        assert!(error.starts_with("read the secret in /"), "{error}");
        for (text, expected) in [("one\r\n", "one"), (" two ", " two "), ("", "")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(secret.read().unwrap(), expected);
        }
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let error = with_causes(&secret.read().unwrap_err());
        assert!(error.ends_with("it is larger than 4096 bytes"), "{error}");
    }
}
