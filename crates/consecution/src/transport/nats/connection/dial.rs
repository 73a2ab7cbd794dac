//! From a server's address to a connection on which it knows who we are, for the
//! connection that we read ourselves. What may be asked for is what
//! [`super::options`] lets through for the other one.
//!
//! Files are read anew for each connection. No secret gets into an error.

use std::io;
use std::sync::Arc;

use async_nats::{ServerAddr, ServerInfo};
use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::identity;
use crate::config::{NatsIdentity, Tls};
use crate::transport::nats::wire::server_line::{self, Said};

/// How much is read at a time, at least, and how much memory is taken for that: for
/// many small messages at once.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// How to become known to a server.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// What the server calls the connection.
    pub(crate) name: String,
    pub(crate) identity: NatsIdentity,
    pub(crate) tls: Tls,
    /// Nobody is to be told who we are without encryption, whatever a server says.
    pub(crate) wants_tls: bool,
}

/// Either kind of connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a server.
pub(crate) struct Dialled {
    stream: Box<dyn Stream>,
    came: BytesMut,
}

/// Why there is no connection, as a lower-case fragment.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Dial {
    /// Connects, encrypts where either side wants that, says who we are, and waits
    /// until the server lets us in. Also gives what the server says about itself.
    ///
    /// # Errors
    /// Why not, without the server's name.
    pub(crate) async fn connect(
        &self,
        server: &ServerAddr,
    ) -> Result<(Dialled, ServerInfo), Failure> {
        let stream = TcpStream::connect((server.host(), server.port())).await?;
        stream.set_nodelay(true)?;
        let mut dialled = Dialled {
            stream: Box::new(stream),
            came: BytesMut::new(),
        };
        let Said::Info(info) = dialled.said().await? else {
            return Err("it does not say who it is".into());
        };
        let info: ServerInfo = serde_json::from_slice(&info)?;
        if self.wants_tls || info.tls_required {
            dialled = dialled.encrypted(&self.tls, server).await?;
        }
        let connect = self.introduction(&info, self.wants_tls).await?;
        let hello = format!("CONNECT {connect}\r\nPING\r\n");
        dialled.write(hello.as_bytes()).await?;
        loop {
            match dialled.said().await? {
                Said::Pong => return Ok((dialled, info)),
                Said::Error(error) => return Err(error.to_lowercase().into()),
                _ => {}
            }
        }
    }

    /// Who we are, and how we want to be spoken to.
    async fn introduction(&self, info: &ServerInfo, tls_required: bool) -> Result<Value, Failure> {
        let mut connect = json!({
            "verbose": false,
            "pedantic": false,
            "tls_required": tls_required,
            "name": self.name,
            "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": 1,
            "echo": false,
            "headers": true,
        });
        let proof = identity::proof(&self.identity, info.nonce.as_bytes()).await?;
        let signature = proof.signature.map(|it| BASE64URL_NOPAD.encode(&it));
        let fields = [
            ("user", proof.username),
            ("pass", proof.password),
            ("auth_token", proof.token),
            ("jwt", proof.jwt),
            ("nkey", proof.nkey),
            ("sig", signature),
        ];
        if let Some(connect) = connect.as_object_mut() {
            for (name, value) in fields {
                connect.extend(value.map(|value| (name.to_owned(), value.into())));
            }
        }
        Ok(connect)
    }
}

impl Dialled {
    /// The next thing that the server says. May be given up at any time.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn said(&mut self) -> Result<Said, Failure> {
        loop {
            if let Some(said) = self.said_already()? {
                return Ok(said);
            }
            if self.came.capacity() - self.came.len() < READ_BYTES_MIN {
                self.came.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.came).await? == 0 {
                return Err("it has closed the connection".into());
            }
        }
    }

    /// As [`Dialled::said`], if that has come with what was read before.
    pub(crate) fn said_already(&mut self) -> Result<Option<Said>, Failure> {
        Ok(server_line::take(&mut self.came)?)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn encrypted(self, tls: &Tls, server: &ServerAddr) -> Result<Dialled, Failure> {
        if !self.came.is_empty() {
            // It was not encrypted, so anybody may have said it.
            return Err("it goes on talking before the connection is encrypted".into());
        }
        let tls = tls.clone();
        let config = blocking(move || encryption(&tls)).await?;
        let name = ServerName::try_from(server.host().to_owned())?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, self.stream).await?;
        Ok(Dialled {
            stream: Box::new(stream),
            came: self.came,
        })
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await?
}

/// Whom we trust, and our certificate where there is one.
fn encryption(tls: &Tls) -> io::Result<ClientConfig> {
    let mut trusted = RootCertStore::empty();
    match &tls.ca_file {
        Some(file) => {
            for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
                let certificate = certificate.map_err(io::Error::other)?;
                trusted.add(certificate).map_err(io::Error::other)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            trusted.add_parsable_certificates(found.certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(trusted);
    let Some((certificate, key)) = &tls.client_files else {
        return Ok(config.with_no_client_auth());
    };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain: Result<Vec<_>, _> = chain.collect();
    let chain = chain.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)
}
