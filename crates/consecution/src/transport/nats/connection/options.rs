//! Converts our options to those of the client library. Reports at once every mistake that
//! can be found without a server.
//!
//! A secret must not get into an error or an address: the client library logs addresses.

use std::error::Error;
use std::path::Path;

use async_nats::rustls::pki_types::pem::{self, PemObject};
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{AuthError, ConnectOptions, ServerAddr};

use super::dial::Dial;
use super::error::NatsError;
use super::identity;
use crate::config::{NatsIdentity, NatsOptions, Secret, Tls};
use crate::error::with_causes;
use crate::transport::nats::role::Role;
use crate::transport::nats::wire::header;

/// The NATS server to use if no option names one.
const SERVER_DEFAULT: &str = "nats://127.0.0.1:4222";

/// The servers to connect to, and how.
pub(crate) struct Target {
    pub(crate) servers: Vec<ServerAddr>,
    pub(crate) options: ConnectOptions,
    /// The same for the connection for requests.
    pub(crate) for_requests: Dial,
}

pub(crate) fn target(options: &NatsOptions, role: Role, name: &str) -> Result<Target, NatsError> {
    let (servers, identity_in_url) = servers(&options.servers)?;
    let identity = match (&options.identity, identity_in_url) {
        (NatsIdentity::Anonymous, Some(identity)) => identity,
        (identity, _) => identity.clone(),
    };
    let name = match role {
        Role::Portal => format!("consecution portal {name}"),
        Role::Runner => format!("consecution runner {name}"),
    };
    let wants_tls = options.tls != Tls::default() || servers.iter().any(ServerAddr::tls_required);
    let for_requests = Dial {
        name: format!("{name} requests"),
        identity: identity.clone(),
        tls: options.tls.clone(),
        wants_tls,
    };
    identity::check(&identity)?;
    let prove = move |nonce: Vec<u8>| {
        let identity = identity.clone();
        async move {
            identity::proof(&identity, &nonce)
                .await
                .map_err(|error| AuthError::new(with_causes(&error)))
        }
    };
    let mut connect = ConnectOptions::with_auth_callback(prove)
        .name(name)
        .custom_inbox_prefix(role.inbox())
        .retry_on_initial_connect();
    if wants_tls {
        // A server announces other servers of its cluster before the connection is
        // encrypted. An attacker in between could announce a server of their own, and we
        // would send it our password.
        connect = connect.require_tls(true).ignore_discovered_servers();
    }
    Ok(Target {
        servers,
        options: encrypt(connect, &options.tls)?,
        for_requests,
    })
}

/// The addresses without users, and the user that they contain, if any.
fn servers(urls: &[String]) -> Result<(Vec<ServerAddr>, Option<NatsIdentity>), NatsError> {
    let default = [SERVER_DEFAULT.to_owned()];
    let urls = if urls.is_empty() { &default } else { urls };
    let mut user: Option<&str> = None;
    let mut servers = Vec::with_capacity(urls.len());
    for url in urls {
        let (bare, own) = without_user(url);
        if user.is_some() && own.is_some() && user != own {
            return Err(NatsError::Users);
        }
        user = user.or(own);
        let server = server_at(&bare).map_err(|cause| NatsError::Server {
            server: bare,
            cause,
        })?;
        servers.push(server);
    }
    Ok((servers, user.map(identity_of)))
}

/// Parses an address without a user.
fn server_at(address: &str) -> Result<ServerAddr, Box<dyn Error + Send + Sync>> {
    let server = address.parse::<ServerAddr>()?;
    match server.scheme() {
        "nats" | "tls" if !server.host().is_empty() => Ok(server),
        "nats" | "tls" => Err("it names no host".into()),
        scheme => Err(format!("{scheme}:// is not supported").into()),
    }
}

/// Splits `nats://user:password@host` into address and user.
fn without_user(url: &str) -> (String, Option<&str>) {
    let (scheme, rest) = url.trim().split_once("://").unwrap_or(("nats", url.trim()));
    match rest.rsplit_once('@') {
        Some((user, host)) => (format!("{scheme}://{host}"), Some(user)),
        None => (format!("{scheme}://{rest}"), None),
    }
}

/// The identity in an address. As in other NATS clients, a user without password is a
/// token.
fn identity_of(user: &str) -> NatsIdentity {
    match user.split_once(':') {
        Some((user, password)) => NatsIdentity::Password {
            user: unescaped(user),
            password: Secret::new(unescaped(password)),
        },
        None => NatsIdentity::Token(Secret::new(unescaped(user))),
    }
}

fn unescaped(text: &str) -> String {
    String::from_utf8_lossy(&header::unescape(text)).into_owned()
}

/// Adds files for TLS. If any is given, TLS is required; see [`target`].
fn encrypt(mut connect: ConnectOptions, tls: &Tls) -> Result<ConnectOptions, NatsError> {
    if let Some(ca_file) = &tls.ca_file {
        has_certificates("the certificates of the CA", ca_file)?;
        connect = connect.add_root_certificates(ca_file.clone());
    }
    if let Some((certificate, key)) = &tls.client_files {
        has_certificates("our certificate", certificate)?;
        PrivateKeyDer::from_pem_file(key).map_err(|cause| NatsError::Certificate {
            what: "our key",
            path: key.clone(),
            cause,
        })?;
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(connect)
}

fn has_certificates(what: &'static str, path: &Path) -> Result<(), NatsError> {
    let error = |cause| NatsError::Certificate {
        what,
        path: path.to_owned(),
        cause,
    };
    let mut certificates = CertificateDer::pem_file_iter(path).map_err(error)?;
    match certificates.next() {
        Some(certificate) => certificate.map(|_| ()).map_err(error),
        None => Err(error(pem::Error::NoItemsFound)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn error_of(options: NatsOptions) -> String {
        match target(&options, Role::Portal, "name") {
            Ok(_) => panic!("{options:?} should be refused"),
            Err(error) => with_causes(&error),
        }
    }

    fn at(server: &str) -> NatsOptions {
        NatsOptions {
            servers: vec![server.to_owned()],
            ..NatsOptions::default()
        }
    }

    #[test]
    fn one_server_that_wants_encryption_is_all_that_may_not_go_without() {
        let wants = |servers: &[&str]| {
            let options = NatsOptions {
                servers: servers.iter().map(|server| (*server).to_owned()).collect(),
                ..NatsOptions::default()
            };
            let Ok(target) = target(&options, Role::Runner, "name") else {
                panic!("{servers:?}");
            };
            target.for_requests.wants_tls
        };
        assert!(!wants(&[]));
        assert!(!wants(&["nats://a", "b"]));
        assert!(wants(&["tls://a"]));
        assert!(wants(&["nats://a", "tls://b"]));
    }

    #[test]
    fn no_error_shows_a_password() {
        for server in [
            "nats://user:hidden@",
            "http://user:hidden@host",
            "nats://user:hidden@host:port",
            "nats://user:hidden@@host:70000",
            "user:hidden@[host",
        ] {
            let error = error_of(at(server));
            assert!(!error.contains("hidden"), "{server}: {error}");
        }
        let error = error_of(NatsOptions {
            identity: NatsIdentity::NKey(Secret::new("hidden")),
            ..NatsOptions::default()
        });
        assert!(!error.contains("hidden"), "{error}");
    }

    #[test]
    fn a_user_in_an_address_is_used_and_taken_out_of_it() {
        let urls = ["nats://us%3Aer:p%40ss@one:1".to_owned(), "two".to_owned()];
        let (servers, identity) = servers(&urls).unwrap();
        let addresses: Vec<_> = servers.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(addresses, ["nats://one:1", "nats://two"]);
        match identity {
            Some(NatsIdentity::Password { user, password }) => {
                assert_eq!(
                    (user.as_str(), password.read().unwrap().as_str()),
                    ("us:er", "p@ss")
                );
            }
            other => panic!("{other:?}"),
        }
        match super::servers(&["nats://token@one".to_owned()]).unwrap().1 {
            Some(NatsIdentity::Token(token)) => assert_eq!(token.read().unwrap(), "token"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_of_different_users_are_refused() {
        let options = NatsOptions {
            servers: vec!["nats://a:1@one".to_owned(), "nats://b:1@two".to_owned()],
            ..NatsOptions::default()
        };
        assert!(matches!(
            target(&options, Role::Portal, ""),
            Err(NatsError::Users)
        ));
    }

    #[test]
    fn a_file_that_is_missing_or_is_none_of_its_kind_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing");
        for path in [empty, missing] {
            let name = path.display().to_string();
            let credentials = NatsOptions {
                identity: NatsIdentity::Credentials(path.clone()),
                ..NatsOptions::default()
            };
            assert!(error_of(credentials).contains(&name));
            for tls in [
                Tls {
                    ca_file: Some(path.clone()),
                    client_files: None,
                },
                Tls {
                    ca_file: None,
                    client_files: Some((path.clone(), path)),
                },
            ] {
                let options = NatsOptions {
                    tls,
                    ..NatsOptions::default()
                };
                assert!(error_of(options).contains(&name));
            }
        }
    }
}
