//! Connects to a server, with TLS and credentials, for the connection that we read
//! ourselves. It supports the same options that [`super::options`] accepts for the client
//! library's connection.
//!
//! Files are read anew for each connection. Secrets must not get into errors.

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
use crate::error::with_causes;
use crate::transport::nats::wire::server_line::{self, Said};

/// The least room for one read, so that many small messages are read at once.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// How to connect to a server.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The connection's name at the server.
    pub(crate) name: String,
    pub(crate) identity: NatsIdentity,
    pub(crate) tls: Tls,
    /// Send no credentials without TLS, whatever the server says.
    pub(crate) wants_tls: bool,
}

/// A connection with or without TLS.
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
    /// Connects, starts TLS if either side requires it, sends the credentials, and waits
    /// until the server accepts them. Also returns the server's information on itself.
    ///
    /// # Errors
    /// The connection failed, for this reason, which does not contain the server's name.
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

    /// The `CONNECT` message, with our credentials and settings.
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
        let proof = identity::proof(&self.identity, info.nonce.as_bytes()).await;
        let proof = proof.map_err(|error| with_causes(&error))?;
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
    /// The server's next message. Cancel-safe.
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

    /// Like [`Dialled::said`], but only if the message was read already; does not wait.
    pub(crate) fn said_already(&mut self) -> Result<Option<Said>, Failure> {
        Ok(server_line::take(&mut self.came)?)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn encrypted(self, tls: &Tls, server: &ServerAddr) -> Result<Dialled, Failure> {
        if !self.came.is_empty() {
            // Bytes before TLS are not authentic: an attacker may have inserted them.
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

/// The TLS settings: trusted CAs, and our certificate if there is one.
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
