//! Where a registry, or a mirror of it, answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};

use super::address::{authority, authority_with_port, is_loopback, is_plain_allowed, may_be_plain};
use super::api::Api;
use super::credentials::{Credential, CredentialsError};
use super::error::{BadUrl, ClientError, NoClient};
use super::reach::{LedTo, Reach};
use super::{Registries, RegistryError, Timeouts, proxy, retry_after};
use crate::causes::{Cause, with_causes};

/// Failures of credentials that are remembered, so that each is logged once.
const WARNINGS_MAX: usize = 64;

/// Whether there are credentials for an endpoint.
#[derive(Debug, Clone, Default)]
enum Login {
    #[default]
    NotAsked,
    Nobody,
    Somebody,
    /// Nobody, since reading the credentials failed.
    Failed(Arc<CredentialsError>),
}

/// A base URL and what is known about it.
pub(super) struct Endpoint {
    pub(super) api: Api,
    /// Host and port, and the proxy if there is one, for messages.
    pub(super) address: String,
    /// The name of its credentials in Docker's config.
    pub(super) credentials_key: String,
    /// Asks the endpoint itself.
    pub(super) client: Client,
    /// Asks the hosts that its answers lead to, with connections and TLS sessions of its
    /// own.
    led_to: Client,
    /// How long to wait for its answers.
    pub(super) timeouts: Timeouts,
    /// Where its answers may lead us.
    pub(super) reach: Arc<Reach>,
    /// What is known of who asks.
    login: Mutex<Login>,
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
            endpoints.push(Self::mirror(mirror, registry, options).await?);
        }
        endpoints.push(Self::registry(registry, options).await?);
        Ok(endpoints)
    }

    async fn mirror(
        url: &str,
        registry: &str,
        options: &Registries,
    ) -> Result<Self, RegistryError> {
        let bad = |problem: Cause| RegistryError::Protocol {
            what: "images".to_owned(),
            address: url.to_owned(),
            problem,
        };
        let url: Url = url.parse().map_err(|cause| {
            let what = "the mirror's URL".to_owned();
            bad(BadUrl { what, cause }.into())
        })?;
        let authority = authority(&url);
        if !may_be_plain(&url, options) && url.scheme() != "https" {
            return Err(bad(
                "the mirror's URL has no https://, and its host is not among those allowed without"
                    .into(),
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad(
                "a mirror's URL has no '?' or '#'; leave that out: 'ns=' with the registry's name is sent to each mirror"
                    .into(),
            ));
        }
        let api = Api::of_mirror(&url, registry);
        Self::new(api, &authority, &url, options).await
    }

    async fn registry(registry: &str, options: &Registries) -> Result<Self, RegistryError> {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let secure = Self::at("https", host, registry, options).await?;
        if !is_plain_allowed(registry, options) {
            return Ok(secure);
        }
        // Whether it speaks plain HTTP is asked without any credentials.
        let plain = Self::at("http", host, registry, options).await?;
        // A server that wants to be left alone has answered before, so we know how it is
        // asked.
        for endpoint in [&plain, &secure] {
            if retry_after::left_alone(endpoint.reach.own()).is_some() {
                return Self::at(endpoint.reach.own().scheme(), host, registry, options).await;
            }
        }
        let ping = plain
            .client
            .get(plain.api.ping_url())
            .timeout(options.timeouts.stall)
            .send()
            .await;
        match ping {
            // The answer of servers that expect TLS.
            Ok(answer) if answer.status() == 400 => Ok(secure),
            _ => Ok(plain),
        }
    }

    async fn at(
        scheme: &str,
        host: &str,
        registry: &str,
        options: &Registries,
    ) -> Result<Self, RegistryError> {
        let base = format!("{scheme}://{host}");
        let url = base.parse().map_err(|cause| RegistryError::Protocol {
            what: "images".to_owned(),
            address: host.to_owned(),
            problem: BadUrl {
                what: "its name".to_owned(),
                cause,
            }
            .into(),
        })?;
        Self::new(Api::at(&base), registry, &url, options).await
    }

    async fn new(
        api: Api,
        credentials_key: &str,
        url: &Url,
        options: &Registries,
    ) -> Result<Self, RegistryError> {
        let reach = Arc::new(Reach::of(url, options));
        Self::with_reach(api, credentials_key, url, options, reach).await
    }

    /// As if it were on another machine.
    #[cfg(test)]
    pub(super) async fn elsewhere(url: &Url, options: &Registries) -> Result<Self, RegistryError> {
        let reach = Arc::new(Reach::elsewhere(url));
        Self::with_reach(Api::at(url.as_str()), "x", url, options, reach).await
    }

    async fn with_reach(
        api: Api,
        credentials_key: &str,
        url: &Url,
        options: &Registries,
        reach: Arc<Reach>,
    ) -> Result<Self, RegistryError> {
        let address = shown_address(url, url);
        let (at, timeouts) = (url.clone(), options.timeouts.clone());
        let led = Arc::clone(&reach);
        // Elsewhere, since root certificates are read for each.
        let made = tokio::task::spawn_blocking(move || {
            let own = client(&at, &timeouts, None)?;
            Ok((own, client(&at, &timeouts, Some(&led))?))
        });
        let fail = |cause: Cause| RegistryError::Unreachable {
            address: address.clone(),
            cause,
        };
        let made = made.await.map_err(|cause| fail(cause.into()))?;
        let no_client = |cause| fail(NoClient(ClientError(cause)).into());
        let (own, led_to) = made.map_err(no_client)?;
        Ok(Self {
            api,
            address,
            credentials_key: credentials_key.to_owned(),
            client: own,
            led_to,
            timeouts: options.timeouts.clone(),
            reach,
            login: Mutex::default(),
            authorization: tokio::sync::Mutex::new(None),
        })
    }

    /// What asks for a URL that may be asked for.
    pub(super) fn client_for(&self, url: &Url) -> &Client {
        match self.reach.is_own(url) {
            true => &self.client,
            false => &self.led_to,
        }
    }

    /// The credential for it, if there is one. A failure to read credentials does not end
    /// the pull, because most images are public. It is logged once, and told again if the
    /// registry refuses ([`no_login`](Self::no_login)).
    pub(super) async fn credential(&self, options: &Registries) -> Option<Credential> {
        if matches!(self.login(), Login::Failed(_)) {
            return None;
        }
        let patience = options.timeouts.helper;
        let found = options
            .credentials
            .get(&self.credentials_key, patience)
            .await;
        let (login, credential) = match found {
            Ok(Some(credential)) => (Login::Somebody, Some(credential)),
            Ok(None) => (Login::Nobody, None),
            Err(error) => {
                warn_once(&error);
                (Login::Failed(Arc::new(error)), None)
            }
        };
        *self.login.lock() = login;
        credential
    }

    /// Looks for credentials, if nobody has done that so far.
    pub(super) async fn look_up_login(&self, options: &Registries) {
        if matches!(self.login(), Login::NotAsked) {
            self.credential(options).await;
        }
    }

    fn login(&self) -> Login {
        self.login.lock().clone()
    }

    /// Whether it is sent credentials.
    pub(super) fn is_logged_in(&self) -> bool {
        matches!(self.login(), Login::Somebody)
    }

    /// Why no credentials could be had for it, where that was tried.
    pub(super) fn no_login(&self) -> Option<Arc<CredentialsError>> {
        match self.login() {
            Login::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// The address that an answer came from, for messages, since redirects may lead
    /// elsewhere.
    pub(super) fn address_of(&self, url: &Url) -> String {
        match self.reach.is_own(url) {
            true => self.address.clone(),
            false => format!(
                "{}, which leads to {}",
                self.address,
                shown_address(url, self.reach.own())
            ),
        }
    }
}

/// Where a URL leads, for messages: asked for an endpoint's sake.
fn shown_address(url: &Url, own: &Url) -> String {
    let address = authority_with_port(url);
    match is_loopback(own) {
        true => address,
        false => proxy::named(address, url),
    }
}

fn warn_once(error: &CredentialsError) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock();
    let error = with_causes(error);
    if told.len() < WARNINGS_MAX && told.insert(error.clone()) {
        tracing::warn!("going on without credentials: failed to {error}");
    }
}

fn client(url: &Url, timeouts: &Timeouts, led_to: Option<&Arc<Reach>>) -> reqwest::Result<Client> {
    // This fails if another part of the program has done it already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match client_builder(url, timeouts, led_to).build() {
        // Without TLS, missing root certificates are no obstacle.
        Err(_) if url.scheme() == "http" => client_builder(url, timeouts, led_to)
            .tls_certs_only([])
            .build(),
        built => built,
    }
}

/// Redirects are followed by [`send`](super::redirects::send), which asks where
/// they may lead; the address of a page that led elsewhere is told to nobody.
fn client_builder(url: &Url, timeouts: &Timeouts, led_to: Option<&Arc<Reach>>) -> ClientBuilder {
    let mut builder = Client::builder()
        .user_agent(concat!("consecution/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeouts.connect)
        .read_timeout(timeouts.stall)
        .referer(false)
        .redirect(Policy::none());
    if let Some(reach) = led_to {
        builder = builder.dns_resolver(Arc::new(LedTo(Arc::clone(reach))));
    }
    match is_loopback(url) {
        true => builder.no_proxy(),
        false => builder,
    }
}
