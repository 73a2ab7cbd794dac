//! A relay that encrypts: what is said to it in the clear it says to a server of ours over
//! TLS, with each end of a stream and each reset.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::https::{Authority, Pair};

/// Runs as long as the test.
pub(crate) struct TlsRelay {
    pub(crate) address: SocketAddr,
}

impl TlsRelay {
    /// To that server, with a certificate that `authority` has signed; it shows that of
    /// `client`, if there is one.
    pub(crate) fn to(server: SocketAddr, authority: &Authority, client: Option<&Pair>) -> TlsRelay {
        let connector = connector(authority, client, &[]);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let relaying = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((plain, _)) = listener.accept().await {
                tokio::spawn(pass_on(plain, server, connector.clone()));
            }
        };
        // A test may have a runtime of its own.
        std::thread::spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(relaying);
        });
        TlsRelay { address }
    }
}

async fn pass_on(mut plain: TcpStream, server: SocketAddr, connector: TlsConnector) {
    let name = ServerName::from(server.ip());
    let Ok(stream) = TcpStream::connect(server).await else {
        return;
    };
    let passed = async {
        let mut encrypted = connector.connect(name, stream).await?;
        copy_bidirectional(&mut plain, &mut encrypted).await
    };
    if passed.await.is_err() {
        // A reset is passed on as one.
        let _ = set_socket_linger(&plain, Some(std::time::Duration::ZERO));
    }
}

/// Connects to servers whose certificates `authority` has signed, with these protocols.
pub(crate) fn connector(
    authority: &Authority,
    client: Option<&Pair>,
    protocols: &[&[u8]],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.ca()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let certificate = CertificateDer::from_pem_file(&pair.certificate).unwrap();
            let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
            config
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}
