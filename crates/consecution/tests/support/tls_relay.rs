//! A relay that encrypts: what is said to it in the clear it says to a server of ours over
//! TLS, with each end of a stream and each reset.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::https::{Authority, Pair};

/// Runs until it is dropped.
pub(crate) struct TlsRelay {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl TlsRelay {
    /// To that server, with a certificate that `authority` has signed; it shows that of
    /// `client`, if there is one.
    pub(crate) fn to(server: SocketAddr, authority: &Authority, client: Option<&Pair>) -> TlsRelay {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(authority.ca()).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(
            tokio_rustls::rustls::crypto::ring::default_provider(),
        ));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let certificate = CertificateDer::from_pem_file(&pair.certificate).unwrap();
                let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
                config
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        let connector = TlsConnector::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((plain, _)) = listener.accept().await {
                tokio::spawn(pass_on(plain, server, connector.clone()));
            }
        });
        TlsRelay {
            address,
            _runtime: runtime,
        }
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
