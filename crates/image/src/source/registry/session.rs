//! One registry, one repository: a request with its authentication and retries.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE};
use reqwest::{Response, StatusCode};

use super::auth::{Challenged, authorize};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::redirects::{Follow, send};
use super::refusal::refusal;
use super::{Registries, RegistryError};
use crate::layer::Limits;
use crate::reference::Reference;

/// Access to one repository and its mirrors.
pub(crate) struct Session<'o> {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) reference: &'o Reference,
    pub(super) options: &'o Registries,
    pub(super) limits: &'o Limits,
}

/// What a request asks for.
pub(super) struct Ask<'a> {
    /// For messages: `the manifest of x`.
    pub(super) what: &'a str,
    /// The path behind `/v2/<repository>/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// The first byte wanted.
    pub(super) from: u64,
}

impl<'o> Session<'o> {
    pub(crate) async fn open(
        reference: &'o Reference,
        options: &'o Registries,
        limits: &'o Limits,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            endpoints: Endpoint::all(reference.registry(), options).await?,
            reference,
            options,
            limits,
        })
    }

    /// Makes one attempt. Any answer but success is a failure.
    pub(super) async fn ask(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<Response, Failure> {
        let repository = self.reference.repository();
        let url = endpoint.api.url(repository, ask.path);
        let mut asked_again = false;
        loop {
            let authorization = endpoint.authorization.lock().await.clone();
            let anonymous = authorization.is_none();
            let mut request = endpoint.client.get(&url);
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = send(endpoint, ask.what, request, Follow::Anywhere).await?;
            // A host that the registry redirects to may not ask for the registry's
            // credentials.
            let is_own = endpoint.reach.is_own(answer.url());
            if is_own && !asked_again {
                let challenged = match answer.status() {
                    StatusCode::UNAUTHORIZED => Some(Challenged::Here(answer.headers().clone())),
                    // Some registries answer so for private images, to whoever is not
                    // logged in.
                    StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if anonymous => {
                        self.ping(endpoint).await.map(Challenged::AtTheDoor)
                    }
                    _ => None,
                };
                if let Some(challenged) = challenged {
                    asked_again = true;
                    let fresh = authorize(endpoint, repository, &challenged, self.options).await?;
                    if fresh.is_some() {
                        *endpoint.authorization.lock().await = fresh;
                        continue;
                    }
                }
            }
            if answer.status() == StatusCode::FORBIDDEN {
                endpoint.look_up_login(self.options).await;
            }
            return match answer.status() {
                status if status.is_success() => Ok(answer),
                StatusCode::NOT_FOUND if ask.path.starts_with("manifests/") => {
                    Err(Failure::Final(RegistryError::NotFound {
                        reference: self.reference.familiar(),
                        address: endpoint.address.clone(),
                        no_login: endpoint.no_login(),
                    }))
                }
                _ => Err(refusal(endpoint, ask.what.to_owned(), answer).await),
            };
        }
    }

    /// The headers of the challenge that the registry has for everybody, `None`
    /// where it has none, or cannot be asked.
    async fn ping(&self, endpoint: &Endpoint) -> Option<HeaderMap> {
        let request = endpoint.client.get(endpoint.api.ping_url());
        let sent = send(endpoint, "a challenge", request, Follow::Anywhere).await;
        let answer = sent.ok()?;
        let challenges =
            answer.status() == StatusCode::UNAUTHORIZED && endpoint.reach.is_own(answer.url());
        challenges.then(|| answer.headers().clone())
    }

    /// The endpoints from `first` on: those that may fail since another follows,
    /// and the last, whose error counts.
    pub(super) fn endpoints_from(&self, first: usize) -> Option<(&[Endpoint], &Endpoint)> {
        let (last, others) = self.endpoints.split_last()?;
        Some((others.get(first..).unwrap_or_default(), last))
    }

    /// The error for no endpoint at all, which cannot happen.
    pub(super) fn nowhere(&self) -> RegistryError {
        RegistryError::NotFound {
            reference: self.reference.familiar(),
            address: self.reference.registry().to_owned(),
            no_login: None,
        }
    }
}
