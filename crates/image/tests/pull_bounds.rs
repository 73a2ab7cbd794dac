//! Promise: whatever a registry says, a pull takes no more of the disk than it
//! may.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::time::Duration;

use image::{Image, NoProgress, PullError, Registries, Retry, StoreOptions};
use support::server::{Reply, Server};
use support::*;

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
    error.to_string()
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
        assert!(
            error.contains("at most 68719476736") && error.contains("--image-max"),
            "{error}"
        );
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
        let newest = home.images().join("blobs");
        let newest = newest.join(made.blobs[0].0.as_str().replace(':', "-"));
        assert!(fs::metadata(newest).unwrap().len() >= 500_000);
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
