//! How to reach the servers: addresses, certificates, secrets.
//!
//! All of it is plain data with a [`Default`]: a server on this machine, without
//! credentials. Secrets are never printed.

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
    /// URLs of servers of one cluster; if empty, `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The credentials for the servers.
    pub identity: NatsIdentity,
    /// Certificates. A server that requires TLS gets it without any of these too.
    pub tls: Tls,
}

/// Credentials for NATS.
#[derive(Debug, Clone, Default)]
pub enum NatsIdentity {
    /// None, or the user and password in a server's URL.
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
    /// URLs of members of one cluster; if empty, `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// A user and the password; `None` if etcd asks for none.
    pub user: Option<(String, Secret)>,
    /// Certificates, for endpoints at `https://`.
    pub tls: Tls,
}

/// Files for an encrypted connection, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificates of the authorities that may have signed the server's; if `None`,
    /// those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key, if the server asks for one.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// A password, token or key. Its [`Debug`](fmt::Debug) text does not show it.
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
    /// This text.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(Kept::Here(secret.into()))
    }

    /// The content of a file, without the end of the line. The file is read whenever the
    /// secret is needed, so a new secret is used without a restart.
    pub fn in_file(path: impl Into<PathBuf>) -> Secret {
        Secret(Kept::InFile(path.into()))
    }

    /// The text of the secret. Reads the file, if it is in one: blocks the thread.
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
