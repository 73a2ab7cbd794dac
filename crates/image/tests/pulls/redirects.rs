//! Promise: credentials go to the registry that they are for, and to the token
//! server that it names itself; to nobody whom those lead us to.

use std::fs;
use std::sync::{Arc, OnceLock};

use crate::support::server::{Reply, Request, Server};
use crate::support::*;
use image::{Image, NoProgress, PullError, Registries, Retry};

/// What `docker login` writes for a password, and what is sent then.
const PASSWORD: (&str, &str) = (r#""auth":"dXNlcjpzZWNyZXQ=""#, "Basic dXNlcjpzZWNyZXQ=");
/// For a token that others are fetched with.
const IDENTITY: (&str, &str) = (r#""identitytoken":"long""#, "refresh_token=long");

async fn pull(registry: &Server, auth: &str) -> Result<Image, PullError> {
    let home = Home::new();
    let file = home.path("config.json");
    let config = format!(r#"{{"auths":{{"{}":{{{auth}}}}}}}"#, registry.address);
    fs::write(&file, config).unwrap();
    let mut registries = Registries::from_docker_config(&file).unwrap();
    registries.retry = Retry {
        attempts_max: 1,
        ..Retry::default()
    };
    let name = reference(&registry.name("x"));
    home.store.pull(&name, &registries, &NoProgress).await
}

async fn error(registry: &Server, auth: &str) -> String {
    pull(registry, auth).await.unwrap_err().told()
}

/// Whether anything that it was sent is a secret of ours.
fn was_told(server: &Server, secret: &str) -> bool {
    let requests = server.requests.lock().unwrap();
    let tells = |request: &Request| {
        request.authorization.is_some()
            || [&request.query, &request.body]
                .iter()
                .any(|text| text.contains(secret) || text.contains("long"))
    };
    requests.iter().any(tells)
}

fn unauthorized(challenge: &str) -> Reply {
    Reply::new(401, b"").with("WWW-Authenticate", challenge)
}

/// A server that asks for credentials in every way, and says where to bring them:
/// to itself.
fn thief(challenge: fn(&str) -> String) -> Server {
    let own: Arc<OnceLock<String>> = Arc::default();
    let address = Arc::clone(&own);
    let server = Server::start(move |request| match request.path.as_str() {
        "/token" => Reply::new(200, br#"{"token":"stolen"}"#),
        _ => unauthorized(&challenge(address.get().unwrap())),
    });
    own.set(server.address.to_string()).unwrap();
    server
}

#[tokio::test]
async fn whom_a_registry_redirects_to_cannot_ask_for_its_credentials() {
    let made = image_of(&[noise(1000)]);
    let challenges: [fn(&str) -> String; 2] = [
        |own| format!("Bearer realm=\"http://{own}/token\",service=\"s\""),
        |_| "Basic realm=\"x\"".to_owned(),
    ];
    for challenge in challenges {
        for (auth, secret) in [PASSWORD, IDENTITY] {
            for part in ["blobs", "manifests"] {
                let thief = thief(challenge);
                let to = thief.address;
                let registry = Server::of(&made, move |request, _| {
                    let target = format!("http://{to}{}", request.path);
                    request
                        .path
                        .contains(part)
                        .then(|| Reply::new(307, b"").with("Location", target))
                });
                let text = error(&registry, auth).await;
                assert!(text.contains("401"), "{text}");
                assert!(text.contains(&format!("which leads to {to}")), "{text}");
                assert!(thief.count("") > 0 && !was_told(&thief, secret));
                // Nor is the registry told what the thief's challenge asks for.
                assert!(!was_told(&registry, secret));
            }
        }
    }
}

#[tokio::test]
async fn credentials_are_left_behind_where_another_port_is_redirected_to() {
    let made = image_of(&[noise(1000)]);
    let storage = Server::of(&made, |_, _| None);
    let to = storage.address;
    let registry = Server::of(&made, move |request, _| {
        if request.path != "/v2/" && request.authorization.is_none() {
            return Some(unauthorized("Basic realm=\"x\""));
        }
        let target = format!("http://user:secret@{to}{}", request.path);
        request
            .path
            .contains("blobs")
            .then(|| Reply::new(302, b"").with("Location", target))
    });
    pull(&registry, PASSWORD.0).await.unwrap();
    assert_eq!(storage.count("blobs"), 2);
    assert!(was_told(&registry, PASSWORD.1) && !was_told(&storage, PASSWORD.1));
}

/// A registry whose token server, on itself, answers so.
fn with_token_server(made: &Made, answer: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    let own: Arc<OnceLock<String>> = Arc::default();
    let address = Arc::clone(&own);
    let server = Server::of(made, move |request, _| {
        if request.path == "/token" {
            return Some(answer());
        }
        let authorized = request.authorization.as_deref() == Some("Bearer short");
        let challenge = format!("Bearer realm=\"http://{}/token\"", address.get().unwrap());
        (!authorized && request.path != "/v2/").then(|| unauthorized(&challenge))
    });
    own.set(server.address.to_string()).unwrap();
    server
}

#[tokio::test]
async fn a_token_server_cannot_send_credentials_on() {
    let made = image_of(&[noise(1000)]);
    for (auth, secret) in [PASSWORD, IDENTITY] {
        for status in [301, 302, 303, 307, 308] {
            let other = Server::start(|_| Reply::new(200, br#"{"token":"short"}"#));
            let to = other.address;
            let registry = with_token_server(&made, move || {
                Reply::new(status, b"").with("Location", format!("http://{to}/token"))
            });
            let text = error(&registry, auth).await;
            assert!(text.contains("token"), "{text}");
            assert!(!was_told(&other, secret), "{status}");
            assert_eq!(other.count(""), 0, "{status}");
        }
    }
    // Where there is nothing to tell, it may be elsewhere.
    let other = Server::start(|_| Reply::new(200, br#"{"token":"short"}"#));
    let to = other.address;
    let registry = with_token_server(&made, move || {
        Reply::new(307, b"").with("Location", format!("http://{to}/token"))
    });
    pull(&registry, "").await.unwrap();
}

#[tokio::test]
async fn a_token_server_may_redirect_to_itself() {
    let made = image_of(&[noise(1000)]);
    for (auth, _) in [PASSWORD, IDENTITY] {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let registry = with_token_server(&made, move || {
            match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Reply::new(308, b"").with("Location", "/token?moved"),
                _ => Reply::new(200, br#"{"token":"short"}"#),
            }
        });
        pull(&registry, auth).await.unwrap();
        let requests = registry.requests.lock().unwrap();
        let moved = requests
            .iter()
            .find(|request| request.query == "moved")
            .unwrap();
        let told =
            moved.authorization.as_deref() == Some(PASSWORD.1) || moved.body.contains(IDENTITY.1);
        assert!(told, "{moved:?}");
    }
}

#[tokio::test]
async fn endless_redirects_are_an_error() {
    let made = image_of(&[]);
    let registry = Server::of(&made, |request, _| {
        request
            .path
            .contains("manifests")
            .then(|| Reply::new(307, b"").with("Location", request.path.clone()))
    });
    let text = error(&registry, "").await;
    assert!(text.contains("more than 10 times"), "{text}");
}
