//! Where a registry, or a mirror of it, answers.

use std::net::IpAddr;

use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::{Registries, RegistryError, Timeouts};

/// Most redirects that one request follows.
const REDIRECTS_MAX: usize = 10;

/// A base URL and what is known about it.
pub(super) struct Endpoint {
    /// Without a slash at its end.
    base: String,
    /// Host and port, for messages.
    pub(super) address: String,
    /// Under which name its credentials stand.
    pub(super) credentials_key: String,
    pub(super) client: Client,
    /// How long to wait for its answers.
    pub(super) timeouts: Timeouts,
    /// Whether credentials may travel to it in the clear.
    pub(super) plain: bool,
    /// What the last authentication gave.
    pub(super) authorization: tokio::sync::Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    /// The mirrors of a registry, in order, and then the registry.
    pub(super) async fn all(
        registry: &str,
        options: &Registries,
    ) -> Result<Vec<Self>, RegistryError> {
        let mut endpoints = Vec::new();
        for mirror in options.mirrors.get(registry).into_iter().flatten() {
            endpoints.push(Self::mirror(mirror, options)?);
        }
        endpoints.push(Self::registry(registry, options).await?);
        Ok(endpoints)
    }

    fn mirror(url: &str, options: &Registries) -> Result<Self, RegistryError> {
        let bad = |problem: String| RegistryError::Protocol {
            what: "images".to_owned(),
            address: url.to_owned(),
            problem,
        };
        let url: Url = url
            .parse()
            .map_err(|cause| bad(format!("the mirror's URL cannot be used, {cause}")))?;
        let authority = authority(&url);
        if !may_be_plain(&url, options) && url.scheme() != "https" {
            return Err(bad(
                "the mirror's URL has no https://, and its host is not among those allowed without"
                    .to_owned(),
            ));
        }
        Self::new(
            url.as_str().trim_end_matches('/').to_owned(),
            &authority,
            &url,
            options,
        )
    }

    async fn registry(registry: &str, options: &Registries) -> Result<Self, RegistryError> {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let secure = Self::at("https", host, registry, options)?;
        if !is_plain_allowed(registry, options) {
            return Ok(secure);
        }
        // Whether it speaks plain HTTP is asked without any credentials.
        let plain = Self::at("http", host, registry, options)?;
        let ping = plain
            .client
            .get(plain.url("/v2/"))
            .timeout(options.timeouts.stall)
            .send()
            .await;
        match ping {
            // What servers answer who expected TLS.
            Ok(answer) if answer.status() == 400 => Ok(secure),
            _ => Ok(plain),
        }
    }

    fn at(
        scheme: &str,
        host: &str,
        registry: &str,
        options: &Registries,
    ) -> Result<Self, RegistryError> {
        let base = format!("{scheme}://{host}");
        let url = base.parse().map_err(|cause| RegistryError::Protocol {
            what: "images".to_owned(),
            address: host.to_owned(),
            problem: format!("its name is no address, {cause}"),
        })?;
        Self::new(base, registry, &url, options)
    }

    fn new(
        base: String,
        credentials_key: &str,
        url: &Url,
        options: &Registries,
    ) -> Result<Self, RegistryError> {
        let address = authority_with_port(url);
        let plain = may_be_plain(url, options);
        let client = client(url, options).map_err(|cause| RegistryError::Unreachable {
            address: address.clone(),
            cause: format!(
                "no TLS client can be made, {}; are the ca-certificates installed?",
                super::session::innermost(&cause)
            ),
        })?;
        Ok(Self {
            base,
            address,
            credentials_key: credentials_key.to_owned(),
            client,
            timeouts: options.timeouts.clone(),
            plain,
            authorization: tokio::sync::Mutex::new(None),
        })
    }

    /// The URL of a path on it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn client(url: &Url, options: &Registries) -> reqwest::Result<Client> {
    // An error says that another part of the program was first: just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allowed = options.clone();
    let redirects = Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("too many redirects")
        } else if attempt.url().scheme() != "https" && !may_be_plain(attempt.url(), &allowed) {
            attempt.error("it redirects to a host without TLS, which is not allowed")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("consecution/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.timeouts.connect)
        .read_timeout(options.timeouts.stall)
        .redirect(redirects);
    if is_loopback(url.host_str().unwrap_or_default()) {
        builder = builder.no_proxy();
    }
    match builder.build() {
        // Without TLS, missing root certificates are no obstacle.
        Err(_) if url.scheme() == "http" => Client::builder()
            .tls_certs_only([])
            .connect_timeout(options.timeouts.connect)
            .read_timeout(options.timeouts.stall)
            .redirect(Policy::none())
            .build(),
        built => built,
    }
}

/// Whether this URL may be spoken to without TLS.
pub(super) fn may_be_plain(url: &Url, options: &Registries) -> bool {
    let host = url.host_str().unwrap_or_default();
    is_loopback(host)
        || options.plain_http.contains(host)
        || options.plain_http.contains(&authority(url))
}

fn is_plain_allowed(registry: &str, options: &Registries) -> bool {
    format!("http://{registry}")
        .parse()
        .is_ok_and(|url| may_be_plain(&url, options))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// `host` or `host:port`, as the URL has it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn authority_with_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_may_be_plain_and_others_only_where_allowed() {
        let mut options = Registries::default();
        options.plain_http.insert("in.house:5000".into());
        let plain = |registry| is_plain_allowed(registry, &options);
        for registry in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "in.house:5000",
        ] {
            assert!(plain(registry), "{registry}");
        }
        for registry in [
            "docker.io",
            "in.house",
            "localhost.example.com",
            "10.0.0.1",
            "127.0.0.1.example.com",
        ] {
            assert!(!plain(registry), "{registry}");
        }
    }
}
