//! Promise: whoever is logged in is shown what it may see, by whatever means the registry
//! asks for, and credentials that cannot be had are no obstacle where nobody needs them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use super::faults::impatient;
use crate::support::server::{Reply, Server};
use crate::support::*;
use image::{NoProgress, Registries};

#[tokio::test]
async fn a_token_is_fetched_with_a_password_and_with_an_identity_token() {
    let made = image_of(&[noise(1000)]);
    for (auth, expected) in [
        (r#""auth":"dXNlcjpzZWNyZXQ=""#, "Basic dXNlcjpzZWNyZXQ="),
        (r#""identitytoken":"long""#, "refresh_token=long"),
    ] {
        let server = Server::of(&made, move |request, _| {
            if request.path == "/token" {
                let shown = request.authorization.as_deref() == Some(expected)
                    || request.body.contains(expected);
                let scoped = format!("{}{}", request.query, request.body)
                    .contains("scope=repository%3Ax%3Apull");
                return Some(match shown && scoped {
                    true => Reply::new(200, br#"{"token":"short"}"#),
                    false => Reply::new(401, b""),
                });
            }
            let authorized = request.authorization.as_deref() == Some("Bearer short");
            // The realm is on the same server, which only the request knows.
            (!authorized && request.path != "/v2/")
                .then(|| Reply::new(401, b"").with("WWW-Authenticate", "@realm"))
        });
        let server = with_realm(server);
        let home = Home::new();
        let file = home.path("config.json");
        fs::write(
            &file,
            format!(r#"{{"auths":{{"{}":{{{auth}}}}}}}"#, server.address),
        )
        .unwrap();
        let registries = impatient(Registries::from_docker_config(&file).unwrap());
        home.store
            .pull(&reference(&server.name("x")), &registries, &NoProgress)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_challenge_at_the_base_url_alone_is_answered() {
    let made = image_of(&[noise(1000)]);
    for status in [404, 403] {
        for (challenge, expected) in [
            ("Basic realm=\"x\"", "Basic dXNlcjpzZWNyZXQ="),
            ("@realm", "Bearer short"),
        ] {
            let server = Server::of(&made, move |request, _| {
                let shown = request.authorization.as_deref();
                if request.path == "/token" {
                    // The scope that the door names is another one.
                    let scoped = request.query.contains("scope=repository%3Ax%3Apull");
                    let known = shown == Some("Basic dXNlcjpzZWNyZXQ=");
                    return Some(match scoped && known {
                        true => Reply::new(200, br#"{"token":"short"}"#),
                        false => Reply::new(200, br#"{"token":"anonymous"}"#),
                    });
                }
                match request.path.as_str() {
                    "/v2/" => Some(Reply::new(401, b"").with("WWW-Authenticate", challenge)),
                    _ => (shown != Some(expected)).then(|| Reply::new(status, b"")),
                }
            });
            let server = with_realm_of(server, "registry:catalog:*");
            let home = Home::new();
            let file = home.path("config.json");
            let name = reference(&server.name("x"));
            let login = format!(
                r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#,
                server.address
            );
            for (config, pulled) in [("{}", false), (&login, true)] {
                fs::write(&file, config).unwrap();
                let options = impatient(Registries::from_docker_config(&file).unwrap());
                match home.store.pull(&name, &options, &NoProgress).await {
                    Ok(_) => assert!(pulled),
                    Err(error) => {
                        let says = if status == 404 {
                            "no such repository"
                        } else {
                            "403"
                        };
                        assert!(!pulled && error.told().contains(says), "{error}");
                    }
                }
            }
        }
    }
}

/// A server in front that fills in its own address as the token server's.
fn with_realm(inner: Server) -> Server {
    with_realm_of(inner, "repository:x:pull")
}

/// The same, which wants this scope.
fn with_realm_of(inner: Server, scope: &'static str) -> Server {
    let port = std::sync::Arc::new(Mutex::new(0));
    let own = std::sync::Arc::clone(&port);
    let outer = Server::start(move |request| {
        let mut reply = inner.forward(request);
        for (name, value) in &mut reply.headers {
            if *name == "WWW-Authenticate" && value == "@realm" {
                *value = format!(
                    r#"Bearer realm="http://127.0.0.1:{}/token",service="s",scope="{scope}""#,
                    own.lock().unwrap()
                );
            }
        }
        reply
    });
    *port.lock().unwrap() = outer.address.port();
    outer
}

const HELPERS: [(&str, &str, &str); 8] = [
    (
        "good",
        r#"cat >/dev/null; echo '{"Username":"user","Secret":"secret"}'"#,
        "pulled",
    ),
    ("hangs", "sleep 600", "no answer within"),
    ("fails", "echo locked; exit 1", "locked"),
    (
        "none",
        "echo credentials not found in native keychain; exit 1",
        "401",
    ),
    ("babbles", "echo hello", "not the JSON"),
    ("complains", "echo >&2 no dbus; exit 1", "says: no dbus"),
    ("silent", "exit 1", "says: nothing"),
    // What it leaves behind holds its standard error.
    (
        "leaves",
        "sleep 600 >&- & echo >&2 left; exit 1",
        "says: left",
    ),
];

/// Helpers are found by PATH, so this test runs itself again with one of its own.
#[tokio::test]
async fn credential_helpers_are_asked_and_not_waited_for_for_ever() {
    let home = Home::new();
    if std::env::var_os("WITH_HELPERS").is_none() {
        for (name, script, _) in HELPERS {
            let path = home.path(&format!("docker-credential-{name}"));
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = home.path("docker-credential-foreign");
        fs::write(&path, "#!/usr/bin/no-such-interpreter -x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut path = home.folder.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        let name = "credential_helpers_are_asked_and_not_waited_for_for_ever";
        let name = test_name(module_path!(), name);
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .envs([
                ("WITH_HELPERS", std::ffi::OsString::from("1")),
                ("PATH", path),
            ])
            .output()
            .unwrap();
        expect_one_passed(&output);
        return;
    }
    let made = image_of(&[noise(1000)]);
    let server = Server::of(&made, |request, _| {
        let shown = request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=");
        (!shown && request.path != "/v2/")
            .then(|| Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"x\""))
    });
    for (helper, says) in HELPERS
        .map(|(name, _, says)| (name, says))
        .into_iter()
        .chain([
            ("missing", "not in PATH"),
            (
                "foreign",
                "interpreter /usr/bin/no-such-interpreter -x is not there",
            ),
        ])
    {
        let file = home.path("config.json");
        fs::write(
            &file,
            format!(r#"{{"credHelpers":{{"{}":"{helper}"}}}}"#, server.address),
        )
        .unwrap();
        let options = impatient(Registries::from_docker_config(&file).unwrap());
        let result = home
            .store
            .pull(&reference(&server.name("x")), &options, &NoProgress)
            .await;
        let text = result.map_or_else(|error| error.told(), |_| "pulled".to_owned());
        assert!(text.contains(says), "{helper}: {text}");
        let failed = !["good", "none"].contains(&helper);
        assert_eq!(
            text.contains("docker-credential-"),
            failed,
            "{helper}: {text}"
        );
    }
    // Where nobody needs to log in, none of them is in the way.
    let open = Server::of(&made, |request, _| {
        let token = request.authorization.as_deref() == Some("Bearer short");
        match request.path.as_str() {
            "/token" if request.authorization.is_none() => {
                Some(Reply::new(200, br#"{"token":"short"}"#))
            }
            "/v2/" => None,
            _ => (!token).then(|| Reply::new(401, b"").with("WWW-Authenticate", "@realm")),
        }
    });
    let open = with_realm(open);
    for helper in ["hangs", "fails", "babbles", "missing", "foreign"] {
        for key in ["credsStore", "credHelpers"] {
            let file = home.path("config.json");
            let value = match key {
                "credsStore" => format!(r#""{helper}""#),
                _ => format!(r#"{{"{}":"{helper}"}}"#, open.address),
            };
            fs::write(&file, format!(r#"{{"{key}":{value}}}"#)).unwrap();
            let options = impatient(Registries::from_docker_config(&file).unwrap());
            let name = reference(&open.name("x"));
            let home = Home::new();
            home.store.pull(&name, &options, &NoProgress).await.unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_is_logged_in_is_not_told_to_log_in() {
    let made = image_of(&[noise(1000)]);
    let home = Home::new();
    let file = home.path("config.json");
    for challenges in [false, true] {
        let server = Server::of(&made, move |request, _| match request.path.as_str() {
            "/v2/" if challenges && request.authorization.is_none() => {
                Some(Reply::new(401, b"").with("WWW-Authenticate", "Basic realm=\"x\""))
            }
            "/v2/" => None,
            _ => Some(Reply::new(403, b"")),
        });
        let name = reference(&server.name("x"));
        for (config, says) in [
            ("{}".to_owned(), "log in with 'docker login'"),
            (
                format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, server.address),
                "may not read it",
            ),
        ] {
            fs::write(&file, config).unwrap();
            let options = impatient(Registries::from_docker_config(&file).unwrap());
            let pulled = home.store.pull(&name, &options, &NoProgress).await;
            let text = pulled.unwrap_err().told();
            assert!(text.contains("403") && text.contains(says), "{text}");
            let advised = text.contains("docker login");
            assert_eq!(advised, says.contains("docker login"), "{text}");
        }
    }
}
