//! Promise: whatever a registry says and does, a pull ends, and takes no more
//! of the disk than it may.

use std::fs;
use std::time::Duration;

use crate::support::server::{Reply, Server};
use crate::support::*;
use image::{Image, NoProgress, PullError, Registries, Retry, StoreOptions};

const MEGABYTE: usize = 1 << 20;
/// Within what every pull here ends, or fails its test.
const PATIENCE: Duration = Duration::from_secs(60);

fn registries() -> Registries {
    let mut registries = Registries::default();
    registries.retry = Retry {
        attempts_max: 3,
        first_delay: Duration::from_millis(5),
    };
    registries
}

/// A home whose images may have so many bytes.
fn limited_to(image_bytes_max: usize) -> Home {
    Home::with(StoreOptions {
        limits: image::Limits {
            image_bytes_max: image_bytes_max as u64,
            ..Default::default()
        },
        ..options()
    })
}

async fn pull(home: &Home, server: &Server, registries: &Registries) -> Result<Image, PullError> {
    let name = reference(&server.name("x"));
    let pull = home.store.pull(&name, registries, &NoProgress);
    tokio::time::timeout(PATIENCE, pull).await.unwrap()
}

async fn error(home: &Home, server: &Server, registries: &Registries) -> String {
    let error = pull(home, server, registries).await.unwrap_err();
    assert_eq!(home.items("roots"), [""; 0]);
    error.told()
}

#[tokio::test]
async fn layers_of_too_many_bytes_are_not_even_asked_for() {
    let made = image_of(&[noise(1000), noise(2000)]);
    let huge = u64::MAX.to_string();
    for sizes in [["1152921504606846976", "1"], [&huge, &huge]] {
        let mut text = String::from_utf8(made.manifest.clone()).unwrap();
        for ((_, bytes), size) in made.blobs.iter().zip(sizes) {
            let old = format!("\"size\":{}}}", bytes.len());
            text = text.replacen(&old, &format!("\"size\":{size}}}"), 1);
        }
        let server = Server::of(&made, move |request, _| {
            let reply = Reply::new(200, text.as_bytes()).with("Content-Type", MANIFEST);
            request.path.contains("manifests").then_some(reply)
        });
        let error = error(&Home::new(), &server, &registries()).await;
        assert!(error.contains("at most 68719476736"), "{error}");
        assert_eq!(server.count("blobs"), 0);
    }
}

#[tokio::test]
async fn what_is_left_of_downloads_is_no_more_than_one_image_may_have() {
    let home = limited_to(MEGABYTE);
    for seed in 1..5 {
        let made = image_of(&[noise_of(700_000, seed)]);
        let (layer, bytes) = made.blobs[0].clone();
        let server = Server::of(&made, move |request, times| {
            // Cut once, and then nothing more.
            let reply = match times {
                1 => Reply {
                    cut_at: Some(600_000),
                    ..Reply::new(200, &bytes)
                },
                _ => Reply::new(500, b""),
            };
            request.path.ends_with(layer.as_str()).then_some(reply)
        });
        error(&home, &server, &registries()).await;
        assert!(bytes_of(&home, &made.blobs[0].0) >= Some(500_000));
    }
    // The next pull sweeps.
    let made = image_of(&[noise(1000)]);
    pull(&home, &Server::of(&made, |_, _| None), &registries())
        .await
        .unwrap();
    let left = home.items("blobs");
    let bytes: u64 = left
        .iter()
        .map(|name| {
            fs::metadata(home.images().join("blobs").join(name))
                .unwrap()
                .len()
        })
        .sum();
    assert!(left.len() == 1 && bytes <= MEGABYTE as u64, "{left:?}");
}

#[tokio::test]
async fn a_server_that_sends_a_byte_now_and_then_is_given_up() {
    let made = image_of(&[noise(300_000)]);
    let mut registries = registries();
    registries.timeouts.pace = Duration::from_millis(300);
    for part in ["manifests", "blobs"] {
        let body = made.blobs[0].1.clone();
        let server = Server::of(&made, move |request, _| {
            let reply = Reply {
                drip: Some((1, Duration::from_millis(20))),
                ..Reply::new(200, &body).with("Content-Type", MANIFEST)
            };
            request.path.contains(part).then_some(reply)
        });
        let error = error(&Home::new(), &server, &registries).await;
        assert!(
            error.contains("fewer than 65536 bytes came within 300ms"),
            "{error}"
        );
        assert_eq!(server.count(part), 3);
    }
}

#[tokio::test]
async fn a_slow_link_is_given_the_time_that_it_needs() {
    let made = image_of(&[noise(MEGABYTE)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, _| {
        request.path.ends_with(layer.as_str()).then(|| Reply {
            drip: Some((16 << 10, Duration::from_millis(50))),
            ..Reply::new(200, &bytes)
        })
    });
    let mut registries = registries();
    registries.timeouts.pace = Duration::from_secs(2);
    registries.retry.attempts_max = 1;
    let began = std::time::Instant::now();
    pull(&Home::new(), &server, &registries).await.unwrap();
    assert!(began.elapsed() > registries.timeouts.pace);
}

#[tokio::test]
async fn what_is_thrown_away_and_fetched_again_is_no_progress() {
    let made = image_of(&[noise(3 * MEGABYTE)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, _| {
        request
            .path
            .ends_with(layer.as_str())
            .then(|| match request.range {
                Some(_) => Reply::new(416, b""),
                None => Reply {
                    cut_at: Some(MEGABYTE),
                    ..Reply::new(200, &bytes)
                },
            })
    });
    let error = error(&Home::new(), &server, &registries()).await;
    assert!(error.contains(&made.blobs[0].0.to_string()) || error.contains("reach"));
    assert!(server.count("blobs") < 10, "{}", server.count("blobs"));
}

#[tokio::test]
async fn a_layer_is_fetched_a_few_times_and_no_more() {
    let made = image_of(&[noise(3 * MEGABYTE)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, times| {
        // It cannot resume, and gives a little more each time.
        request.path.ends_with(layer.as_str()).then(|| Reply {
            cut_at: Some((times as usize * 300_000).min(bytes.len() - 1)),
            ..Reply::new(200, &bytes)
        })
    });
    let error = error(&Home::new(), &server, &registries()).await;
    assert!(error.contains("begun anew so often"), "{error}");
    let (fetches, size) = (server.count("blobs"), made.blobs[0].1.len());
    let fetched: usize = (1..fetches).map(|times| times * 300_000).sum();
    assert!(fetched <= 6 * size, "{fetches} of {size}");
}

#[tokio::test]
async fn a_pull_has_an_end_and_the_next_one_goes_on() {
    let made = image_of(&[noise(2 * MEGABYTE)]);
    let (layer, bytes) = made.blobs[0].clone();
    let server = Server::of(&made, move |request, times| {
        let first = request.path.ends_with(layer.as_str()) && times == 1;
        first.then(|| Reply {
            drip: Some((3 * MEGABYTE / 2, Duration::from_secs(600))),
            ..Reply::new(200, &bytes)
        })
    });
    let home = Home::new();
    let mut hasty = registries();
    hasty.timeouts.pull = Duration::from_secs(4);
    let error = error(&home, &server, &hasty).await;
    assert!(error.contains("not done within 4s"), "{error}");
    pull(&home, &server, &registries()).await.unwrap();
    let requests = server.requests.lock().unwrap();
    let resumed = |from| from >= MEGABYTE as u64;
    assert!(
        requests
            .iter()
            .any(|request| request.range.is_some_and(resumed))
    );
}
