//! Options that say who may use an address, and whether it is encrypted.

use std::path::PathBuf;

use crate::error::FailedTo;
use crate::http::{self, Keys, Origin, Tls, TlsFiles};

/// Who may use an address.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP, protected")]
pub(crate) struct Protection {
    /// File with the keys of those who may use the address, and what each may do. It is
    /// read again when it changes. `consecution key new` makes keys [default: everyone
    /// may do everything].
    #[arg(long, env = "CONSECUTION_KEYS", value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Certificate (PEM) for HTTPS, followed by those between it and its root. It is
    /// read again when it changes, like the other two files [default: no encryption].
    #[arg(
        long,
        env = "CONSECUTION_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert.
    #[arg(
        long,
        env = "CONSECUTION_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// CA certificates (PEM) that sign clients' certificates. Without --keys, a
    /// client with such a certificate may do everything.
    #[arg(
        long,
        env = "CONSECUTION_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,
}

/// Which pages in browsers may use an address.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP, protected")]
pub(crate) struct Browsers {
    /// Origin whose pages may call chains, such as https://app.example.org, or `*` for
    /// all. Repeat the option for several [default: only pages of this address].
    #[arg(
        long,
        env = "CONSECUTION_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    cors_origin: Vec<Origin>,
    /// Name under which browsers reach this address over plain HTTP, besides `localhost`
    /// and IP addresses. Repeat the option for several.
    #[arg(
        long,
        env = "CONSECUTION_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    host: Vec<String>,
}

impl Protection {
    /// The server's options with these. Reads the files, and goes on looking at them.
    pub(crate) fn add_to(&self, options: &mut http::Options) -> anyhow::Result<()> {
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let files = TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
            };
            options.tls = Some(Tls::open(files).map_err(FailedTo)?);
        }
        if let Some(path) = &self.keys {
            options.keys = Some(Keys::open(path).map_err(FailedTo)?);
        }
        Ok(())
    }
}

impl Browsers {
    pub(crate) fn add_to(&self, options: &mut http::Options) {
        options.origins.clone_from(&self.cors_origin);
        options.hosts.clone_from(&self.host);
    }
}
