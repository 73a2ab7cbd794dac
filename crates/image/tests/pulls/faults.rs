//! Promise: what a network or a registry does wrong is survived or explained.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::server::{self, Reply, Server};
use crate::support::*;
use image::{Digest, Image, NoProgress, Progress, PullError, Registries, Retry, Timeouts};

fn registries() -> Registries {
    impatient(Registries::default())
}

fn impatient(mut registries: Registries) -> Registries {
    registries.timeouts = Timeouts {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(2),
        pace: Duration::from_secs(10),
        pull: Duration::from_secs(60),
        helper: Duration::from_secs(3),
    };
    registries.retry = Retry {
        attempts_max: 3,
        first_delay: Duration::from_millis(5),
    };
    registries
}

async fn pull(home: &Home, server: &Server) -> Result<Image, PullError> {
    home.store
        .pull(&reference(&server.name("x")), &registries(), &NoProgress)
        .await
}

async fn error(server: &Server) -> String {
    let home = Home::new();
    let error = pull(&home, server).await.unwrap_err().told();
    assert_eq!(home.items("roots"), [""; 0]);
    // What had been unpacked is deleted where nobody waits for it.
    while !home.items("tmp").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(
        error.contains(&server.address.port().to_string()),
        "{error}"
    );
    error
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let made = image_of(&[noise(3 << 20)]);
    let layer = made.blobs[0].0.to_string();
    let server = Server::of(&made, {
        let (layer, bytes) = (layer.clone(), made.blobs[0].1.clone());
        move |request, times| {
            let cut = request.path.ends_with(&layer) && times == 1;
            cut.then(|| Reply {
                cut_at: Some(2 << 20),
                ..Reply::new(200, &bytes)
            })
        }
    });
    let home = Home::new();
    pull(&home, &server).await.unwrap();
    let requests = server.requests.lock().unwrap();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|request| request.path.ends_with(&layer))
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].is_some_and(|from| from > 1 << 20), "{ranges:?}");
}

#[tokio::test]
async fn a_server_that_cannot_resume_is_asked_for_all_of_it() {
    let made = image_of(&[noise(1 << 20)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, times| {
        let reply = Reply::new(200, &bytes);
        match (request.path.ends_with(layer.as_str()), times) {
            (true, 1) => Some(Reply {
                cut_at: Some(700_000),
                ..reply
            }),
            (true, _) => Some(reply),
            _ => None,
        }
    });
    pull(&Home::new(), &server).await.unwrap();
}

#[tokio::test]
async fn server_errors_pass() {
    let made = image_of(&[noise(1000), noise(2000)]);
    let server = Server::of(&made, |request, times| {
        (times == 1 && request.path != "/v2/")
            .then(|| Reply::new(503, b"busy").with("Retry-After", "0"))
    });
    pull(&Home::new(), &server).await.unwrap();
}

/// Answers a manifest request that it wants to be left alone for so long, as often as
/// it is asked up to so many times.
fn busy(made: &Made, status: u16, after: String, times_max: u32) -> Server {
    Server::of(made, move |request, times| {
        (request.path.contains("manifests") && times <= times_max)
            .then(|| Reply::new(status, b"").with("Retry-After", after.clone()))
    })
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_when_it_says() {
    let made = image_of(&[noise(1000)]);
    for status in [429, 503] {
        let server = busy(&made, status, "2".into(), 1);
        let start = Instant::now();
        pull(&Home::new(), &server).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(2));
        assert_eq!(server.count("manifests"), 2);
    }
    // Over the date's seconds and no more.
    let date = std::time::SystemTime::now() + Duration::from_secs(3);
    let server = busy(&made, 429, httpdate::fmt_http_date(date), 1);
    let start = Instant::now();
    pull(&Home::new(), &server).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(1500));
    assert_eq!(server.count("manifests"), 2);
    // A date that is over, or nothing that can be read, is no reason to wait.
    for after in ["Sun, 01 Nov 2020 12:00:00 GMT", "soon", "0"] {
        let server = busy(&made, 429, after.into(), 1);
        pull(&Home::new(), &server).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_asks_a_server_before_the_time_that_it_names() {
    let made = image_of(&[noise(1000)]);
    for after in [
        "3000",
        "Fri, 01 Jan 2100 12:00:00 GMT",
        "99999999999999999999",
    ] {
        let server = busy(&made, 429, after.into(), u32::MAX);
        let home = Home::new();
        let start = Instant::now();
        let asked = || server.requests.lock().unwrap().len();
        let mut first = None;
        for repository in ["x", "x", "another"] {
            let name = reference(&server.name(repository));
            let pulled = home.store.pull(&name, &registries(), &NoProgress).await;
            let text = pulled.unwrap_err().told();
            assert!(
                text.contains("429") && text.contains("not to be asked again for"),
                "{text}"
            );
            assert_eq!(*first.get_or_insert(asked()), asked());
        }
        assert_eq!(server.count("manifests"), 1);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn server_errors_that_stay_are_told() {
    let made = image_of(&[noise(1000)]);
    let server = Server::of(&made, |_, _| {
        Some(Reply::new(500, br#"{"errors":[{"message":"on fire"}]}"#))
    });
    let text = error(&server).await;
    assert!(text.contains("500") && text.contains("on fire"), "{text}");
    assert_eq!(server.count("manifests"), 3);
}

#[tokio::test]
async fn a_refused_connection_names_the_address_and_is_not_repeated() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let name = reference(&format!("{address}/x"));
    let text = home
        .store
        .pull(&name, &registries(), &NoProgress)
        .await
        .unwrap_err()
        .told();
    assert!(
        text.contains(&address.to_string()) && text.contains("connection refused"),
        "{text}"
    );
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let made = image_of(&[noise(1000)]);
    for (place, (digest, bytes)) in made.blobs.clone().into_iter().enumerate() {
        let mut wrong = bytes.clone();
        wrong[5] ^= 1;
        let wanted = digest.clone();
        let server = Server::of(&made, move |request, _| {
            request
                .path
                .ends_with(wanted.as_str())
                .then(|| Reply::new(200, &wrong))
        });
        let text = error(&server).await;
        assert!(
            text.contains("digest") && text.contains(digest.as_str()),
            "{place}: {text}"
        );
        let server = Server::of(&made, move |request, _| {
            request
                .path
                .ends_with(digest.as_str())
                .then(|| Reply::new(200, &bytes[..100]))
        });
        let text = error(&server).await;
        assert!(
            text.contains("100 bytes") || text.contains("instead of"),
            "{place}: {text}"
        );
    }
    let manifest = made.manifest.clone();
    let server = Server::of(&made, move |request, _| {
        let wrong = Digest::of(b"other").to_string();
        request.path.contains("manifests").then(|| {
            Reply::new(200, &manifest)
                .with("Content-Type", MANIFEST)
                .with("Docker-Content-Digest", wrong)
        })
    });
    assert!(error(&server).await.contains("digest"));
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let made = image_of(&[]);
    let kinds: [(&str, &[u8], &str); 4] = [
        ("text/html", b"<html>", "text/html"),
        (MANIFEST, b"{}", "schemaVersion"),
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            b"{}",
            "schema 1",
        ),
        (
            INDEX,
            br#"{"schemaVersion":2,"manifests":[]}"#,
            "find an image for linux/",
        ),
    ];
    for (kind, body, says) in kinds {
        let server = Server::of(&made, move |request, _| {
            request
                .path
                .contains("manifests")
                .then(|| Reply::new(200, body).with("Content-Type", kind))
        });
        let text = error(&server).await;
        assert!(text.contains(says), "{text}");
    }
    let other = image_for("vax", &[]);
    let server = Server::of(&other, |_, _| None);
    let text = pull(&Home::new(), &server).await.unwrap_err().told();
    assert!(text.contains("linux/vax"), "{text}");
}

#[tokio::test]
async fn endless_and_silent_answers_end() {
    let made = image_of(&[noise(1000)]);
    let layer = made.blobs[0].0.to_string();
    let server = Server::of(&made, |request, _| {
        request.path.contains("manifests").then(|| {
            Reply {
                endless: true,
                ..Reply::new(200, b"")
            }
            .with("Content-Type", MANIFEST)
        })
    });
    assert!(error(&server).await.contains("at most 4194304"));
    let wanted = layer.clone();
    let server = Server::of(&made, move |request, _| {
        request.path.ends_with(&wanted).then(|| Reply {
            endless: true,
            ..Reply::new(200, b"")
        })
    });
    assert!(error(&server).await.contains(&layer));
    let server = Server::of(&made, |request, _| {
        request.path.contains("blobs").then(|| Reply {
            silent: true,
            ..Reply::new(200, b"")
        })
    });
    let start = Instant::now();
    assert!(error(&server).await.contains("no answer in time"));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn an_index_leads_to_this_machines_image() {
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": Digest::of(b"no"), "size": 2, "platform": {"os": "linux", "architecture": "vax"}},
        {"mediaType": MANIFEST, "digest": made.digest, "size": made.manifest.len(), "platform": {"os": "linux", "architecture": architecture()}},
    ]});
    let index = index.to_string().into_bytes();
    let index_digest = Digest::of(&index);
    let server = Server::of(&made, move |request, _| {
        request
            .path
            .ends_with("/manifests/latest")
            .then(|| Reply::new(200, &index).with("Content-Type", INDEX))
    });
    let home = Home::new();
    let image = pull(&home, &server).await.unwrap();
    assert_eq!(image.digest, made.digest);
    for digest in [&made.digest, &index_digest] {
        let pinned = reference(&format!("{}@{digest}", server.name("x")));
        assert_eq!(
            home.store.get(&pinned).unwrap().unwrap().digest,
            made.digest
        );
    }

    // Its pin is what leads others, also of another kind, to theirs.
    let name = reference(&server.name("x"));
    let found = home.store.get(&name).unwrap().unwrap();
    let again = pull(&home, &server).await.unwrap();
    let pinned = reference(&format!("{}@{}", server.name("x"), image.pin()));
    let pinned = home.store.get(&pinned).unwrap().unwrap();
    for image in [image, found, again, pinned] {
        assert_eq!((image.pin(), &image.digest), (&index_digest, &made.digest));
    }
}

/// An index of these manifests, in order, without platforms.
fn index_of(manifests: &[&[u8]]) -> Vec<u8> {
    let entry = |bytes: &&[u8]| serde_json::json!({"mediaType": MANIFEST, "digest": Digest::of(bytes), "size": bytes.len()});
    let entries: Vec<_> = manifests.iter().map(entry).collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
    index.to_string().into_bytes()
}

#[tokio::test]
async fn an_artifact_before_the_image_is_passed_over() {
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    let text = String::from_utf8(made.manifest.clone()).unwrap();
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let artifact = text
        .replace(layer, "application/vnd.in-toto+json")
        .into_bytes();
    let serve = |index: Vec<u8>| {
        let artifact = artifact.clone();
        let name = Digest::of(&artifact).to_string();
        Server::of(&made, move |request, _| {
            let reply = |body: &[u8], kind| Reply::new(200, body).with("Content-Type", kind);
            match &request.path {
                path if path.ends_with("/manifests/latest") => Some(reply(&index, INDEX)),
                path if path.ends_with(&name) => Some(reply(&artifact, MANIFEST)),
                _ => None,
            }
        })
    };
    let server = serve(index_of(&[&artifact, &made.manifest]));
    let image = pull(&Home::new(), &server).await.unwrap();
    assert_eq!(image.digest, made.digest);
    assert!(image.index.is_some());
    let text = error(&serve(index_of(&[&artifact]))).await;
    assert!(text.contains("in-toto"), "{text}");
}

#[tokio::test]
async fn a_config_that_goes_by_another_media_type_is_one_all_the_same() {
    for kind in ["text/html", "application/json"] {
        let mut made = image_of(&[tar_of(&[("a", b"1")])]);
        let text = String::from_utf8(made.manifest).unwrap();
        let config = "application/vnd.oci.image.config.v1+json";
        made.manifest = text.replace(config, kind).into_bytes();
        made.digest = Digest::of(&made.manifest);
        let server = Server::of(&made, |_, _| None);
        pull(&Home::new(), &server).await.unwrap();
        // What is no config is refused for what it is.
        let (config, _) = made.blobs.pop().unwrap();
        let page = b"<html>".to_vec();
        let text = String::from_utf8(made.manifest).unwrap();
        let text = text.replace(config.as_str(), Digest::of(&page).as_str());
        let at = text.find("\"size\":").unwrap();
        let size = format!("\"size\":{}", page.len());
        let end = text[at..].find('}').unwrap() + at;
        made.manifest = format!("{}{size}{}", &text[..at], &text[end..]).into_bytes();
        made.digest = Digest::of(&made.manifest);
        made.blobs.push((Digest::of(&page), page));
        let server = Server::of(&made, |_, _| None);
        let text = pull(&Home::new(), &server).await.unwrap_err().told();
        assert!(text.contains("read the config"), "{text}");
    }
}

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
async fn what_only_the_door_challenges_is_pulled_with_its_password() {
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

#[tokio::test]
async fn redirects_are_followed_without_the_credentials() {
    let made = image_of(&[noise(1000)]);
    let storage = Server::of(&made, |_, _| None);
    let to = storage.address;
    let front = Server::of(&made, move |request, _| {
        let target = format!("http://{to}{}", request.path);
        request
            .path
            .contains("blobs")
            .then(|| Reply::new(307, b"").with("Location", target))
    });
    pull(&Home::new(), &front).await.unwrap();
    assert_eq!(storage.count("blobs"), 2);
    // To a host that is not allowed without TLS, they are not.
    let front = Server::of(&made, |request, _| {
        request
            .path
            .contains("blobs")
            .then(|| Reply::new(307, b"").with("Location", "http://registry.example.com/"))
    });
    assert!(error(&front).await.contains("without TLS"));
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_where_it_fails() {
    let made = image_of(&[noise(1000)]);
    let mirror = Server::of(&made, |_, _| None);
    let registry = Server::of(&made, |_, _| None);
    let mut options = registries();
    let urls = vec![
        "http://127.0.0.1:1/dead".to_owned(),
        format!("http://{}", mirror.address),
    ];
    options.mirrors.insert(registry.address.to_string(), urls);
    let name = reference(&registry.name("x"));
    Home::new()
        .store
        .pull(&name, &options, &NoProgress)
        .await
        .unwrap();
    assert_eq!((mirror.count("blobs"), registry.count("blobs")), (2, 0));
    options.mirrors.insert(
        registry.address.to_string(),
        vec!["http://127.0.0.1:1".to_owned()],
    );
    Home::new()
        .store
        .pull(&name, &options, &NoProgress)
        .await
        .unwrap();
    assert_eq!(registry.count("blobs"), 2);
    options.mirrors.insert(
        registry.address.to_string(),
        vec!["http://example.com".to_owned()],
    );
    let text = Home::new()
        .store
        .pull(&name, &options, &NoProgress)
        .await
        .unwrap_err()
        .told();
    assert!(text.contains("no https://"), "{text}");
}

#[tokio::test]
async fn a_mirror_below_a_path_is_asked_there_and_told_for_whom() {
    let made = image_of(&[noise(1000)]);
    let registry = Server::of(&made, |_, _| None);
    for (below, v2) in [
        ("/v2/hub/mirrors", "/v2/hub/mirrors"),
        ("/some/path/", "/some/path/v2"),
    ] {
        let inner = Server::of(&made, |_, _| None);
        let asked = format!("{v2}/x/");
        let mirror = Server::start(move |request| {
            let Some(rest) = request.path.strip_prefix(&asked) else {
                return Reply::new(404, b"");
            };
            let path = format!("/v2/x/{rest}");
            inner.forward(&server::Request {
                path,
                ..request.clone()
            })
        });
        let mut options = registries();
        let url = format!("http://{}{below}", mirror.address);
        options
            .mirrors
            .insert(registry.address.to_string(), vec![url]);
        let name = reference(&registry.name("x"));
        let home = Home::new();
        home.store.pull(&name, &options, &NoProgress).await.unwrap();
        assert_eq!((mirror.count("blobs"), registry.count("x/")), (2, 0));
        for request in mirror.requests.lock().unwrap().iter() {
            assert_eq!(
                request.query,
                format!("ns=127.0.0.1%3A{}", registry.address.port())
            );
        }
    }
    for url in [
        "https://mirror/?ns=docker.io",
        "https://mirror/x?",
        "https://mirror/#x",
    ] {
        let mut options = registries();
        options
            .mirrors
            .insert(registry.address.to_string(), vec![url.to_owned()]);
        let name = reference(&registry.name("x"));
        let pulled = Home::new().store.pull(&name, &options, &NoProgress).await;
        let text = pulled.unwrap_err().told();
        assert!(text.contains(url) && text.contains("'ns='"), "{text}");
    }
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

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn layer(&self, _: &Digest, total_bytes: u64) {
        self.0
            .lock()
            .unwrap()
            .push(format!("layer {}", total_bytes > 0));
    }
    fn advanced(&self, _: &Digest, _: u64) {}
    fn done(&self, _: &Digest) {
        self.0.lock().unwrap().push("done".into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pulls_at_once_do_the_work_once() {
    let made = image_of(&[noise(200_000), noise(100_000)]);
    let server = std::sync::Arc::new(Server::of(&made, |_, _| None));
    let home = Home::new();
    let pulls: Vec<_> = (0..6)
        .map(|_| {
            // Each with a store of its own, as another process would have.
            let store = image::Store::open(&home.path("home"), options()).unwrap();
            let name = reference(&server.name("x"));
            tokio::spawn(async move {
                store
                    .pull(&name, &registries(), &NoProgress)
                    .await
                    .map(|image| image.digest)
            })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap(), made.digest);
    }
    assert_eq!(server.count("blobs"), made.blobs.len());
    let heard = Heard::default();
    let home = Home::new();
    home.store
        .pull(&reference(&server.name("x")), &registries(), &heard)
        .await
        .unwrap();
    assert_eq!(
        *heard.0.lock().unwrap(),
        ["layer true", "layer true", "done", "done"]
    );
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing_and_the_next_one_resumes() {
    let made = image_of(&[noise(2 << 20)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, times| {
        let first = request.path.ends_with(layer.as_str()) && times == 1;
        first.then(|| Reply {
            cut_at: Some(1_500_000),
            ..Reply::new(200, &bytes)
        })
    });
    let home = Home::new();
    let mut slow = registries();
    slow.retry.first_delay = Duration::from_secs(600);
    let name = reference(&server.name("x"));
    let pull = home.store.pull(&name, &slow, &NoProgress);
    assert!(
        tokio::time::timeout(Duration::from_secs(2), pull)
            .await
            .is_err()
    );
    assert_eq!(home.items("roots"), [""; 0]);
    home.store
        .pull(&name, &registries(), &NoProgress)
        .await
        .unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(
        requests
            .iter()
            .any(|request| request.range.is_some_and(|from| from >= 1_000_000))
    );
}
