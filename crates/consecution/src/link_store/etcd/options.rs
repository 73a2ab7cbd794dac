//! Converts [`EtcdOptions`] to those of the client library. Reports at once every mistake
//! that can be found without a server.
//!
//! A secret must not get into an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use futures_util::FutureExt;
use hyper::Uri;

use super::failure::Failure;
use crate::config::{EtcdOptions, SecretError, Tls};

/// The etcd server to use if no option names one.
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:2379";

/// How long to wait for a connection before another server is tried: two attempts fit into
/// the time that a call may take.
const CONNECT_SECONDS_MAX: u64 = 2;

/// Interval of HTTP/2 pings while we wait for an answer. etcd closes a connection that
/// pings more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);

/// How long to wait for the answer to a ping.
const PING_PATIENCE: Duration = Duration::from_secs(4);

/// Options for etcd that cannot be right. The texts read well after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// An endpoint is no URL of an etcd server.
    #[error("use etcd endpoint {endpoint}: {reason}")]
    Endpoint {
        /// The endpoint, without a user or password.
        endpoint: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// A file for the encryption cannot be used.
    #[error("use {} for etcd", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what it must be.
        #[source]
        cause: Cause,
    },
    /// A client certificate cannot be used with its key.
    #[error("use {} for etcd with the key in {}", certificate.display(), key.display())]
    ClientFiles {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong with them.
        #[source]
        cause: Cause,
    },
    /// The password cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The system's certificates cannot be used.
    #[error("check the certificate of {endpoint} (give the file of the CA that vouches for it)")]
    SystemCertificates {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with them.
        #[source]
        cause: Cause,
    },
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The endpoints to use, after checking them and the files for TLS.
///
/// # Errors
/// One of them, or a file that is needed for it, cannot be used.
pub(super) fn checked_endpoints(options: &EtcdOptions) -> Result<Vec<String>, EtcdError> {
    let mut endpoints = options.endpoints.clone();
    if endpoints.is_empty() {
        endpoints.push(ENDPOINT_DEFAULT.to_owned());
    }
    for endpoint in &endpoints {
        let problem = endpoint_problem(endpoint, &options.tls);
        if let Some(reason) = problem {
            return Err(EtcdError::Endpoint {
                endpoint: without_secrets(endpoint),
                reason: reason.to_owned(),
            });
        }
        check_files(endpoint, &options.tls)?;
    }
    Ok(endpoints)
}

/// How to connect to that endpoint. Reads the files each time, and so blocks: a
/// certificate or a password that was changed is used from the next connection on.
///
/// # Errors
/// A file cannot be used.
pub(super) fn connect_options(
    endpoint: &str,
    options: &EtcdOptions,
) -> Result<ConnectOptions, EtcdError> {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .with_keep_alive(PING_EVERY, PING_PATIENCE)
        // etcd closes a connection that pings while it has nothing to answer.
        .with_keep_alive_while_idle(false)
        // A server that was cut off from its cluster refuses, so that another is asked.
        .with_require_leader(true);
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password.read()?);
    }
    if is_encrypted(endpoint) {
        connect = connect.with_tls(tls_options(&options.tls)?);
    }
    Ok(connect)
}

fn is_encrypted(endpoint: &str) -> bool {
    endpoint.starts_with("https://")
}

fn tls_options(tls: &Tls) -> Result<TlsOptions, EtcdError> {
    let with_ca = with_ca(TlsOptions::new(), tls)?;
    with_client_certificate(with_ca, tls)
}

fn with_ca(options: TlsOptions, tls: &Tls) -> Result<TlsOptions, EtcdError> {
    let Some(path) = &tls.ca_file else {
        return Ok(options.with_native_roots());
    };
    let pem = read_pem(path, "CERTIFICATE")?;
    Ok(options.ca_certificate(Certificate::from_pem(pem)))
}

fn with_client_certificate(options: TlsOptions, tls: &Tls) -> Result<TlsOptions, EtcdError> {
    let Some((certificate, key)) = &tls.client_files else {
        return Ok(options);
    };
    let certificate = read_pem(certificate, "CERTIFICATE")?;
    let key = read_pem(key, "PRIVATE KEY")?;
    Ok(options.identity(Identity::from_pem(certificate, key)))
}

/// Reads a PEM file, which must have a section whose name ends with `section`.
fn read_pem(path: &Path, section: &str) -> Result<Vec<u8>, EtcdError> {
    let error = |cause: Cause| EtcdError::File {
        path: path.to_owned(),
        cause,
    };
    let pem = fs::read(path).map_err(|cause| error(cause.into()))?;
    let is_there = String::from_utf8_lossy(&pem)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&format!("{section}-----")));
    if !is_there {
        let expected = format!("-----BEGIN {section}-----");
        return Err(error(
            format!("it has no {expected}: it must be PEM").into(),
        ));
    }
    Ok(pem)
}

/// Checks that the client library takes the files: the CA's first, so that an error names
/// the right one.
fn check_files(endpoint: &str, tls: &Tls) -> Result<(), EtcdError> {
    if !is_encrypted(endpoint) {
        return Ok(());
    }
    let ca = with_ca(TlsOptions::new(), tls)?;
    try_tls(endpoint, &ca).map_err(|cause| match &tls.ca_file {
        Some(path) => EtcdError::File {
            path: path.clone(),
            cause: cause.into(),
        },
        None => EtcdError::SystemCertificates {
            endpoint: endpoint.to_owned(),
            cause: cause.into(),
        },
    })?;
    let Some((certificate, key)) = &tls.client_files else {
        return Ok(());
    };
    let with_both = with_client_certificate(ca, tls)?;
    try_tls(endpoint, &with_both).map_err(|cause| EtcdError::ClientFiles {
        certificate: certificate.clone(),
        key: key.clone(),
        cause: cause.into(),
    })
}

/// Makes a client, which checks the files. It connects only when it is first used.
fn try_tls(endpoint: &str, tls: &TlsOptions) -> Result<(), Failure> {
    let options = ConnectOptions::new().with_tls(tls.clone());
    let client: Option<Result<Client, Error>> =
        Client::connect([endpoint], Some(options)).now_or_never();
    match client {
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// What is wrong with an endpoint, and what to write instead.
fn endpoint_problem(endpoint: &str, tls: &Tls) -> Option<&'static str> {
    let Ok(url) = endpoint.parse::<Uri>() else {
        return Some("it is no URL; write http://HOST:2379");
    };
    let has_files = *tls != Tls::default();
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if !has_files => {}
        Some("http") => {
            return Some(
                "there are certificates for etcd, but this is not encrypted; write https://",
            );
        }
        _ => return Some("it must begin with http:// or https://"),
    }
    if url.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Some("give the user and password by their own options, not in the URL");
    }
    if url.port_u16().is_none() {
        return Some("it has no port; etcd listens on 2379 unless told otherwise");
    }
    (url.path() != "/" || url.query().is_some()).then_some("there must be nothing behind the port")
}

/// The endpoint as far as it may be shown: scheme and host.
fn without_secrets(endpoint: &str) -> String {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), endpoint),
    };
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}…@{}", host_of(rest)),
        None => format!("{scheme}{}", host_of(rest)),
    }
}

fn host_of(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::with_causes;

    fn problem(endpoint: &str) -> String {
        let options = EtcdOptions {
            endpoints: vec![endpoint.to_owned()],
            ..EtcdOptions::default()
        };
        checked_endpoints(&options).unwrap_err().to_string()
    }

    fn with_ca_file(path: &Path) -> EtcdOptions {
        let ca_file = Some(path.to_owned());
        let client_files = None;
        EtcdOptions {
            endpoints: vec!["https://localhost:2379".to_owned()],
            tls: Tls {
                ca_file,
                client_files,
            },
            ..EtcdOptions::default()
        }
    }

    #[test]
    fn without_endpoints_it_is_the_local_one() {
        let endpoints = checked_endpoints(&EtcdOptions::default()).unwrap();
        assert_eq!(endpoints, ["http://127.0.0.1:2379"]);
    }

    #[test]
    fn endpoints_are_checked() {
        for (endpoint, wanted) in [
            ("", "it is no URL"),
            ("etcd:2379", "it must begin with http:// or https://"),
            ("nats://etcd:2379", "it must begin with http:// or https://"),
            ("http://etcd", "it has no port"),
            ("http://etcd:2379/path", "there must be nothing behind"),
            ("http://etcd:2379/?a=b", "there must be nothing behind"),
        ] {
            let error = problem(endpoint);
            assert!(error.contains(wanted), "{error}");
        }
        for endpoint in [
            "http://etcd:2379",
            "http://[::1]:2379/",
            "http://10.0.0.1:1",
        ] {
            assert_eq!(endpoint_problem(endpoint, &Tls::default()), None);
        }
    }

    #[test]
    fn secrets_in_an_endpoint_are_not_shown() {
        for endpoint in [
            "http://root:hidden@etcd:2379",
            "http://root:hid/hidden@etcd:2379",
            "root:hidden@etcd:2379",
            "http://etcd:2379/hidden",
            "http://etcd:2379?token=hidden",
            "http://ro ot:hidden@etcd:2379",
        ] {
            let error = problem(endpoint);
            assert!(error.contains("etcd:2379"), "{error}");
            assert!(!error.contains("hid"), "{error}");
        }
    }

    #[tokio::test]
    async fn files_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = |options: &EtcdOptions| with_causes(&checked_endpoints(options).unwrap_err());
        let options = with_ca_file(&path);
        let missing = error(&options);
        assert!(
            missing.contains("ca.pem") && missing.contains("No such file"),
            "{missing}"
        );
        fs::write(&path, "hello").unwrap();
        let garbage = error(&options);
        assert!(garbage.contains("-----BEGIN CERTIFICATE-----"), "{garbage}");
    }

    #[test]
    fn certificates_are_not_given_for_nothing() {
        let mut options = with_ca_file(Path::new("ca.pem"));
        options.endpoints.push("http://localhost:2379".to_owned());
        options.endpoints.reverse();
        let error = checked_endpoints(&options).unwrap_err().to_string();
        assert!(error.contains("write https://"), "{error}");
    }
}
