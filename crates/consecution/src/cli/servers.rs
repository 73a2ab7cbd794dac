//! The options for NATS and etcd: addresses, credentials and TLS.

use std::path::PathBuf;

use crate::config::{EtcdOptions, NatsIdentity, NatsOptions, Secret, Tls};
use crate::error::FailedTo;
use anyhow::bail;

/// NATS, which carries the calls.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "NATS")]
pub(crate) struct Nats {
    /// URLs of the NATS servers of one cluster, separated by commas.
    #[arg(
        long,
        env = "NATS_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    nats: Vec<String>,
    /// User to sign in to NATS as. The password comes from --nats-password-file or
    /// CONSECUTION_NATS_PASSWORD.
    #[arg(long, env = "CONSECUTION_NATS_USER", value_name = "USER")]
    nats_user: Option<String>,
    /// File with the password of --nats-user.
    #[arg(
        long,
        env = "CONSECUTION_NATS_PASSWORD_FILE",
        value_name = "FILE",
        requires = "nats_user"
    )]
    nats_password_file: Option<PathBuf>,
    /// File with a token to sign in to NATS with. CONSECUTION_NATS_TOKEN may hold the
    /// token itself instead.
    #[arg(
        long,
        env = "CONSECUTION_NATS_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with_all = ["nats_user", "nats_nkey_file", "nats_credentials"]
    )]
    nats_token_file: Option<PathBuf>,
    /// File with the seed of an NKey to sign in to NATS with.
    #[arg(
        long,
        env = "CONSECUTION_NATS_NKEY_FILE",
        value_name = "FILE",
        conflicts_with_all = ["nats_user", "nats_credentials"]
    )]
    nats_nkey_file: Option<PathBuf>,
    /// Credentials file (JWT and NKey seed, as nsc writes it) to sign in to NATS with.
    #[arg(
        long,
        env = "CONSECUTION_NATS_CREDENTIALS",
        value_name = "FILE",
        conflicts_with = "nats_user"
    )]
    nats_credentials: Option<PathBuf>,
    /// CA certificates (PEM) to verify the NATS servers with [default: the system's
    /// trusted CAs].
    #[arg(long, env = "CONSECUTION_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// Client certificate (PEM) to present to NATS.
    #[arg(
        long,
        env = "CONSECUTION_NATS_CERT",
        value_name = "FILE",
        requires = "nats_key"
    )]
    nats_cert: Option<PathBuf>,
    /// Private key (PEM) of --nats-cert.
    #[arg(
        long,
        env = "CONSECUTION_NATS_KEY",
        value_name = "FILE",
        requires = "nats_cert"
    )]
    nats_key: Option<PathBuf>,
}

/// etcd, which keeps the links.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "etcd")]
pub(crate) struct Etcd {
    /// URLs of the etcd members of one cluster, separated by commas.
    #[arg(
        long,
        env = "ETCD_ENDPOINTS",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        hide_env_values = true
    )]
    etcd: Vec<String>,
    /// User to sign in to etcd as. The password comes from --etcd-password-file or
    /// CONSECUTION_ETCD_PASSWORD.
    #[arg(long, env = "CONSECUTION_ETCD_USER", value_name = "USER")]
    etcd_user: Option<String>,
    /// File with the password of --etcd-user.
    #[arg(
        long,
        env = "CONSECUTION_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_user"
    )]
    etcd_password_file: Option<PathBuf>,
    /// CA certificates (PEM) to verify the etcd members with [default: the system's
    /// trusted CAs].
    #[arg(long, env = "CONSECUTION_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// Client certificate (PEM) to present to etcd.
    #[arg(
        long,
        env = "CONSECUTION_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    etcd_cert: Option<PathBuf>,
    /// Private key (PEM) of --etcd-cert.
    #[arg(
        long,
        env = "CONSECUTION_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,
}

/// Environment variables that may hold a secret itself, instead of a file with it.
const NATS_PASSWORD: &str = "CONSECUTION_NATS_PASSWORD";
const NATS_TOKEN: &str = "CONSECUTION_NATS_TOKEN";
const ETCD_PASSWORD: &str = "CONSECUTION_ETCD_PASSWORD";

impl Nats {
    /// The options to connect with. Fails if a file with a secret cannot be read.
    pub(crate) fn options(&self) -> anyhow::Result<NatsOptions> {
        Ok(NatsOptions {
            servers: self.nats.clone(),
            identity: self.identity()?,
            tls: tls(&self.nats_ca, &self.nats_cert, &self.nats_key),
        })
    }

    fn identity(&self) -> anyhow::Result<NatsIdentity> {
        if let Some(user) = &self.nats_user {
            let Some(password) = secret(&self.nats_password_file, NATS_PASSWORD)? else {
                bail!(
                    "failed to sign in to NATS as {user}: give a password, with \
                     --nats-password-file or {NATS_PASSWORD}"
                );
            };
            let user = user.clone();
            return Ok(NatsIdentity::Password { user, password });
        }
        if let Some(path) = &self.nats_nkey_file {
            return Ok(NatsIdentity::NKey(read(path)?));
        }
        if let Some(path) = &self.nats_credentials {
            return Ok(NatsIdentity::Credentials(path.clone()));
        }
        let token = secret(&self.nats_token_file, NATS_TOKEN)?;
        Ok(token.map_or(NatsIdentity::Anonymous, NatsIdentity::Token))
    }
}

impl Etcd {
    /// The options to connect with. Fails if a file with a secret cannot be read.
    pub(crate) fn options(&self) -> anyhow::Result<EtcdOptions> {
        let user = match &self.etcd_user {
            Some(user) => match secret(&self.etcd_password_file, ETCD_PASSWORD)? {
                Some(password) => Some((user.clone(), password)),
                None => bail!(
                    "failed to sign in to etcd as {user}: give a password, with \
                     --etcd-password-file or {ETCD_PASSWORD}"
                ),
            },
            None => None,
        };
        Ok(EtcdOptions {
            endpoints: self.etcd.clone(),
            user,
            tls: tls(&self.etcd_ca, &self.etcd_cert, &self.etcd_key),
        })
    }
}

fn tls(ca: &Option<PathBuf>, cert: &Option<PathBuf>, key: &Option<PathBuf>) -> Tls {
    Tls {
        ca_file: ca.clone(),
        client_files: cert.clone().zip(key.clone()),
    }
}

/// A secret from its file if one is given, else from the environment.
fn secret(file: &Option<PathBuf>, variable: &str) -> anyhow::Result<Option<Secret>> {
    if let Some(path) = file {
        return read(path).map(Some);
    }
    match std::env::var(variable) {
        Ok(secret) => Ok(Some(Secret::new(secret))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => bail!("failed to read {variable}: not UTF-8"),
    }
}

/// A secret in a file. Reads it once now, so that a missing file is an error at start.
fn read(path: &PathBuf) -> anyhow::Result<Secret> {
    let secret = Secret::in_file(path);
    secret.read().map_err(FailedTo)?;
    Ok(secret)
}
