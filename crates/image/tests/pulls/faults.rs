//! Promise: what a network or a registry does wrong is survived or explained.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::server::{Reply, Server};
use crate::support::*;
use image::{Digest, Image, NoProgress, Progress, PullError, Registries, Retry, Timeouts};

pub(super) fn registries() -> Registries {
    impatient(Registries::default())
}

pub(super) fn impatient(mut registries: Registries) -> Registries {
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

pub(super) async fn pull(home: &Home, server: &Server) -> Result<Image, PullError> {
    home.store
        .pull(&reference(&server.name("x")), &registries(), &NoProgress)
        .await
}

pub(super) async fn error(server: &Server) -> String {
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
    let requests = server.requests.lock().unwrap();
    let layer = made.blobs[0].0.as_str();
    let of_layer = requests
        .iter()
        .filter(|request| request.path.ends_with(layer));
    let ranges: Vec<_> = of_layer.map(|request| request.range).collect();
    assert!(matches!(ranges[..], [None, Some(1..)]), "{ranges:?}");
}

#[tokio::test]
async fn passing_server_errors_are_waited_out() {
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
async fn lasting_server_errors_are_reported() {
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
    // A second attempt would not end within the test's patience.
    let mut options = registries();
    options.retry.first_delay = Duration::from_secs(3600);
    let pull = home.store.pull(&name, &options, &NoProgress);
    let pulled = tokio::time::timeout(Duration::from_secs(60), pull).await;
    let text = pulled.expect("no second attempt").unwrap_err().told();
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
