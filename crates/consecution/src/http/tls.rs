//! Certificates of a server, and what it asks of its clients.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{Error as RustlsError, RootCertStore, ServerConfig};

use super::watched::Watched;

/// The protocols that clients may choose from, the best one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP_2, HTTP_1];
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The files for an encrypted address, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, followed by those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose certificates clients may show. Who shows another one is not let
    /// in; who shows none has to say in another way who they are.
    pub client_ca: Option<PathBuf>,
}

/// The certificates of a server, read again whenever their files change. Clones share them.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<Watched<ServerConfig>>,
    /// Whether clients may show certificates.
    pub(super) knows_clients: bool,
}

/// The certificates cannot be used. The text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum TlsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("read {what} in {}, which must be PEM", path.display())]
    Pem {
        what: &'static str,
        path: PathBuf,
        source: PemError,
    },
    #[error("find a certificate in {}, which must be PEM", path.display())]
    NoCertificate { path: PathBuf },
    #[error("use the certificate in {} with the key in {}", files.0.display(), files.1.display())]
    Pair {
        files: Box<(PathBuf, PathBuf)>,
        source: RustlsError,
    },
    #[error("use the certificates of {}", path.display())]
    ClientCa {
        path: PathBuf,
        source: VerifierBuilderError,
    },
    #[error("use a certificate in {}", path.display())]
    Root { path: PathBuf, source: RustlsError },
}

impl Tls {
    /// The certificates in these files. If they are broken when they are read again, the log
    /// says so, and they stay as they were. Connections that are open stay, too. Needs a
    /// runtime of tokio.
    ///
    /// # Errors
    /// A file cannot be read, is wrong, or does not fit the others.
    pub fn open(files: TlsFiles) -> Result<Tls, TlsError> {
        let knows_clients = files.client_ca.is_some();
        let mut all = vec![files.certificate.clone(), files.key.clone()];
        all.extend(files.client_ca.clone());
        let config = Watched::start(all, "the certificates", move || config(&files))?;
        Ok(Tls {
            config,
            knows_clients,
        })
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.now())
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
        what: "the private key",
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    // The versions are those of the provider itself.
    let versions = builder.with_safe_default_protocol_versions();
    let pair = |source| TlsError::Pair {
        files: Box::new((files.certificate.clone(), files.key.clone())),
        source,
    };
    let builder = versions.map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider)
                .allow_unauthenticated()
                .build();
            let path = path.clone();
            let verifier = verifier.map_err(|source| TlsError::ClientCa { path, source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|source| TlsError::Pem {
        what: "the certificates",
        path: path.to_owned(),
        source,
    })?;
    match all.is_empty() {
        true => Err(TlsError::NoCertificate {
            path: path.to_owned(),
        }),
        false => Ok(all),
    }
}

/// The most bytes of a file with certificates: a bundle of all public authorities has less.
const FILE_BYTES_MAX: u64 = 4 << 20;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| {
        let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if read as u64 > FILE_BYTES_MAX {
            let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::other(reason));
        }
        Ok(())
    });
    read.map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}
