//! Authentication at a registry: Basic, and tokens from a token server.

use data_encoding::BASE64;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::body::read_bounded;
use super::credentials::Credential;
use super::endpoint::Endpoint;
use super::error::BadUrl;
use super::failure::Failure;
use super::redirects::{Follow, send};
use super::refusal::refusal;
use super::{Registries, RegistryError};
use crate::causes::Cause;

/// The most bytes of a token server's answer. Tokens have some KiB.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Where a registry challenged us, by the headers of its answer.
pub(super) enum Challenged {
    /// At the URL of what we asked for.
    Here(HeaderMap),
    /// At `/v2/`, where the scope that it names is of no use.
    AtTheDoor(HeaderMap),
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Answers the challenge of the endpoint itself; `None` if we cannot, and its 401 is the
/// result.
pub(super) async fn authorize(
    endpoint: &Endpoint,
    repository: &str,
    challenged: &Challenged,
    options: &Registries,
) -> Result<Option<HeaderValue>, Failure> {
    let (Challenged::Here(headers) | Challenged::AtTheDoor(headers)) = challenged;
    let Some(challenge) = challenge(headers) else {
        return Ok(None);
    };
    let credential = endpoint.credential(options).await;
    let value = match (challenge, credential) {
        (_, Some(Credential::Bearer(token))) => Some(format!("Bearer {token}")),
        (Challenge::Basic, Some(Credential::Basic { user, password })) => {
            Some(basic(&user, &password))
        }
        (Challenge::Basic, _) => None,
        (
            Challenge::Bearer {
                realm,
                service,
                scope,
            },
            credential,
        ) => {
            let scope = scope
                .filter(|_| matches!(challenged, Challenged::Here(_)))
                .unwrap_or_else(|| endpoint.api.scope(repository));
            let ask = TokenRequest {
                realm,
                service,
                scope,
            };
            Some(format!(
                "Bearer {}",
                token(endpoint, &ask, credential, options).await?
            ))
        }
    };
    Ok(value.and_then(|value| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    }))
}

fn basic(user: &str, password: &str) -> String {
    let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
    format!("Basic {encoded}")
}

struct TokenRequest {
    realm: String,
    service: Option<String>,
    scope: String,
}

async fn token(
    endpoint: &Endpoint,
    ask: &TokenRequest,
    credential: Option<Credential>,
    options: &Registries,
) -> Result<String, Failure> {
    let what = || "a token".to_owned();
    let protocol = |problem: Cause| {
        Failure::Final(RegistryError::Protocol {
            what: what(),
            address: endpoint.address.clone(),
            problem,
        })
    };
    let mut url: Url = ask.realm.parse().map_err(|cause| {
        let what = format!("its token server '{}'", ask.realm);
        protocol(BadUrl { what, cause }.into())
    })?;
    endpoint
        .reach
        .allow(&url)
        .map_err(|problem| protocol(format!("its token server {problem}").into()))?;
    let mut fields = vec![("scope", ask.scope.as_str())];
    fields.extend(ask.service.as_deref().map(|service| ("service", service)));
    let request = match &credential {
        Some(Credential::Identity(token)) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", "consecution"),
            ]);
            let mut form = Url::parse("x:").map_err(|_| protocol("no form can be made".into()))?;
            form.query_pairs_mut().extend_pairs(&fields);
            let body = form.query().unwrap_or_default().to_owned();
            let kind = "application/x-www-form-urlencoded";
            endpoint
                .client
                .post(url)
                .header("content-type", kind)
                .body(body)
        }
        _ => {
            url.query_pairs_mut().extend_pairs(&fields);
            let request = endpoint.client.get(url);
            match &credential {
                Some(Credential::Basic { user, password }) => {
                    request.header(AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        }
    };
    // The registry may name any token server; with credentials, that one may not redirect
    // further.
    let follow = match credential {
        Some(_) => Follow::OwnOrigin,
        None => Follow::Anywhere,
    };
    let request = request.timeout(options.timeouts.stall);
    let answer = send(endpoint, &what(), request, follow).await?;
    if !answer.status().is_success() {
        return Err(refusal(endpoint, what(), answer).await);
    }
    let bytes = read_bounded(endpoint, "token", answer, TOKEN_BYTES_MAX).await?;
    let answer: TokenAnswer = serde_json::from_slice(&bytes)
        .map_err(|_| protocol("its token server's answer is not JSON".into()))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty());
    token.ok_or_else(|| protocol("its token server's answer has no token".into()))
}

/// The challenge to answer: a token is better than a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let all: Vec<Challenge> = texts.flat_map(challenges).collect();
    let bearer = all
        .iter()
        .position(|challenge| *challenge != Challenge::Basic);
    all.into_iter().nth(bearer.unwrap_or(0))
}

/// `Scheme key="value", key=value, Scheme …`; what is not understood is left out.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = quoted(value);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            if !word.is_empty() {
                found.push((word.to_ascii_lowercase(), Vec::new()));
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| known(&scheme, parameters))
        .collect()
}

fn known(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

/// A value, quoted or bare, and what follows it.
fn quoted(text: &str) -> (String, &str) {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &inner[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = challenges(
            r#"Basic realm="x, y", Bearer realm="https://a/t",service="s\"q",scope=repository:a:pull"#,
        );
        let bearer = Challenge::Bearer {
            realm: "https://a/t".into(),
            service: Some("s\"q".into()),
            scope: Some("repository:a:pull".into()),
        };
        assert_eq!(read, [Challenge::Basic, bearer]);
        assert_eq!(challenges("Negotiate"), []);
        assert_eq!(challenges("Bearer"), []);
        assert_eq!(challenges("=,= \"\\"), []);
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let mut headers = HeaderMap::new();
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"x\""),
        );
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"https://t\""),
        );
        assert!(matches!(
            challenge(&headers),
            Some(Challenge::Bearer { .. })
        ));
    }
}
