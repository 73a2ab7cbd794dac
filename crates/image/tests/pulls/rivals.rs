//! Promise: nobody who gets an image or a layer from one place waits for whoever
//! gets the same from another, nor is harmed by what that one says about it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::server::{Reply, Request, Server};
use crate::support::*;
use image::{Digest, Image, NoProgress, PullError, Registries, Store};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Within what everything here ends, or fails its test.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than enough for a minute's pace, and not for an end within it.
const DRIP: (usize, Duration) = (100, Duration::from_millis(50));

async fn pull(store: &Store, server: &Server) -> Result<Image, PullError> {
    let name = reference(&server.name("x"));
    let registries = Registries::default();
    let pull = store.pull(&name, &registries, &NoProgress);
    timeout(PATIENCE, pull).await.unwrap()
}

/// A pull by another process, which goes on beside the test.
fn beside(home: &Home, server: Arc<Server>) -> JoinHandle<Result<Image, PullError>> {
    let store = Store::open(&home.path("home"), options()).unwrap();
    tokio::spawn(async move { pull(&store, &server).await })
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, so).await.expect(what);
}

fn file_name(digest: &Digest) -> String {
    digest.as_str().replace(':', "-")
}

/// A registry of that image which takes for ever for its first layer.
fn dripping(made: &Made) -> Arc<Server> {
    let (layer, bytes) = made.blobs[0].clone();
    Arc::new(Server::of(made, move |request, _| {
        request.path.ends_with(layer.as_str()).then(|| Reply {
            drip: Some(DRIP),
            ..Reply::new(200, &bytes)
        })
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_waited_for_where_it_comes_from_elsewhere() {
    let made = image_of(&[noise(1 << 20), noise_of(1000, 2)]);
    let home = Home::new();
    let slow = dripping(&made);
    let rival = beside(&home, Arc::clone(&slow));
    let first = &made.blobs[0].0;
    until("the layer to be begun", || bytes_of(&home, first).is_some()).await;

    let honest = Server::of(&made, |_, _| None);
    let image = pull(&home.store, &honest).await.unwrap();
    assert_eq!(image.digest, made.digest);
    assert!(!rival.is_finished());
    rival.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_not_waited_for_where_another_image_has_it_too() {
    let popular = noise(1 << 20);
    let evil = image_of(&[popular.clone(), noise_of(1000, 2)]);
    let made = image_of(&[popular, noise_of(1000, 3)]);
    let home = Home::new();
    let rival = beside(&home, dripping(&evil));
    let first = &evil.blobs[0].0;
    until("the layer to be begun", || bytes_of(&home, first).is_some()).await;

    let honest = Server::of(&made, |_, _| None);
    let image = pull(&home.store, &honest).await.unwrap();
    assert_eq!(image.digest, made.digest);
    assert!(!rival.is_finished());
    // What it was downloaded to is gone, what the other one writes is not.
    let left = home.items("blobs");
    assert_eq!(left.len(), 2, "{left:?}");
    for (rivals, _) in &evil.blobs[..2] {
        assert!(bytes_of(&home, rivals).is_some(), "{left:?}");
    }
    let popular = file_name(&evil.blobs[0].0);
    assert!(!left.contains(&popular), "{left:?}");
    rival.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_no_registry() {
    let made = image_of(&[noise(1 << 20)]);
    let home = Arc::new(Home::new());
    let rival = beside(&home, dripping(&made));
    let first = &made.blobs[0].0;
    until("the layer to be begun", || bytes_of(&home, first).is_some()).await;
    let layout = home.path("layout");
    write_layout(&layout, &[(&made, None)]);
    let importer = Arc::clone(&home);
    let import = tokio::task::spawn_blocking(move || importer.import("x", &layout));
    let image = timeout(PATIENCE, import).await.unwrap().unwrap().unwrap();
    assert_eq!(image.digest, made.digest);
    assert!(!rival.is_finished());
    rival.abort();
}

/// What a manifest says instead of the size of its first layer.
fn with_size(made: &Made, size: usize) -> Vec<u8> {
    let text = String::from_utf8(made.manifest.clone()).unwrap();
    let (digest, bytes) = &made.blobs[0];
    let old = format!(
        "\"digest\":\"{digest}\",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"size\":{}",
        bytes.len()
    );
    assert!(text.contains(&old), "{text}");
    let new = old.replace(
        &format!("\"size\":{}", bytes.len()),
        &format!("\"size\":{size}"),
    );
    text.replace(&old, &new).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_size_harms_no_layer_that_is_here() {
    let popular = noise(1 << 20);
    let gated = noise_of(1000, 2);
    let made = image_of(&[gated, popular.clone()]);
    let evil = image_of(&[popular]);
    let whole = evil.blobs[0].1.len();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (first, bytes) = made.blobs[0].clone();
    let closed = Arc::clone(&gate);
    let honest = Arc::new(Server::of(&made, move |request, _| {
        request.path.ends_with(first.as_str()).then(|| {
            let open = closed.0.lock().unwrap();
            drop(closed.1.wait_while(open, |open| !*open).unwrap());
            Reply::new(200, &bytes)
        })
    }));
    let home = Home::new();
    let victim = beside(&home, Arc::clone(&honest));
    let popular = home.images().join("blobs");
    let popular = popular.join(file_name(&evil.blobs[0].0));
    until("the layer to be here", || popular.exists()).await;

    for size in [whole - 1, whole + 1000, 1] {
        let manifest = with_size(&evil, size);
        let garbage = vec![b'x'; size + 1];
        let layer = evil.blobs[0].0.clone();
        let server = Server::of(&evil, move |request, _| {
            if request.path.contains("manifests") {
                return Some(Reply::new(200, &manifest).with("Content-Type", MANIFEST));
            }
            request
                .path
                .ends_with(layer.as_str())
                .then(|| match request.range {
                    None => Reply::new(200, &garbage),
                    Some(from) => Reply::new(206, &garbage[..100])
                        .with("Content-Range", format!("bytes {from}-")),
                })
        });
        pull(&home.store, &server).await.unwrap_err();
    }

    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let image = timeout(PATIENCE, victim).await.unwrap().unwrap().unwrap();
    assert_eq!(image.digest, made.digest);
    assert_eq!(honest.count(made.blobs[1].0.as_str()), 1);
}

#[tokio::test]
async fn a_layer_that_an_image_has_often_is_downloaded_once() {
    let layer = noise(100_000);
    let made = image_of(&[layer.clone(), layer.clone(), layer]);
    let server = Server::of(&made, |_, _| None);
    let home = Home::new();
    pull(&home.store, &server).await.unwrap();
    assert_eq!(server.count(made.blobs[0].0.as_str()), 1);
    assert_eq!(home.items("blobs"), [""; 0]);
}

#[tokio::test]
async fn what_a_slow_registry_gave_is_kept_for_the_next_pull() {
    let made = image_of(&[noise(500_000)]);
    let server = dripping(&made);
    let home = Home::new();
    let layer = &made.blobs[0].0;
    let name = reference(&server.name("x"));
    let registries = Registries::default();
    let pull = home.store.pull(&name, &registries, &NoProgress);
    let kept = until("something to be written", || {
        bytes_of(&home, layer) > Some(0)
    });
    tokio::select! {
        pulled = pull => panic!("{pulled:?}"),
        () = kept => {}
    }
}

/// Pulls what the registry cuts off in the middle, and never gives the rest of.
async fn begun(home: &Home, made: &Made) -> (Server, u64) {
    let (layer, bytes) = made.blobs[0].clone();
    let half = bytes.len() / 2;
    let server = Server::of(made, move |request, times| {
        let reply = match (times, request.range) {
            (1, None) => Reply {
                cut_at: Some(half),
                ..Reply::new(200, &bytes)
            },
            (_, None) => Reply::new(200, &bytes),
            (2, _) => Reply::new(404, b""),
            (_, Some(from)) => Reply::new(206, &bytes[from as usize..])
                .with("Content-Range", format!("bytes {from}-")),
        };
        request.path.ends_with(layer.as_str()).then_some(reply)
    });
    pull(&home.store, &server).await.unwrap_err();
    let there = bytes_of(home, &made.blobs[0].0).unwrap();
    assert!(there > 0);
    (server, there)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_registry_gives_harms_no_unfinished_download() {
    let popular = noise(1 << 20);
    let made = image_of(&[popular.clone(), noise_of(1000, 2)]);
    let evil = image_of(&[popular]);
    let layer = &made.blobs[0].0;
    let home = Home::new();
    let (honest, there) = begun(&home, &made).await;

    let whole = evil.blobs[0].1.len();
    for size in [whole, 1, there as usize] {
        let manifest = with_size(&evil, size);
        let garbage = vec![b'x'; whole];
        let wanted = layer.clone();
        let server = Server::of(&evil, move |request, _| {
            if request.path.contains("manifests") {
                return Some(Reply::new(200, &manifest).with("Content-Type", MANIFEST));
            }
            let rubbish = match request.range {
                None => Reply::new(200, &garbage[..size]),
                Some(from) => Reply::new(206, &garbage[from as usize..])
                    .with("Content-Range", format!("bytes {from}-")),
            };
            request.path.ends_with(wanted.as_str()).then_some(rubbish)
        });
        pull(&home.store, &server).await.unwrap_err();
        assert_eq!(bytes_of(&home, layer), Some(there), "{size}");
    }
    let image = pull(&home.store, &honest).await.unwrap();
    assert_eq!(image.digest, made.digest);
    let requests = honest.requests.lock().unwrap();
    let of_it = |request: &&Request| request.path.ends_with(layer.as_str());
    let last = requests.iter().rfind(of_it).unwrap();
    assert_eq!(last.range, Some(there));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_left_on_its_way_is_replaced() {
    let made = image_of(&[noise(100_000)]);
    let (layer, bytes) = &made.blobs[0];
    for left in [&bytes[..1000], &vec![0; bytes.len()]] {
        let home = Home::new();
        fs::write(home.images().join("blobs").join(file_name(layer)), left).unwrap();
        let server = Server::of(&made, |_, _| None);
        let image = pull(&home.store, &server).await.unwrap();
        assert_eq!(image.digest, made.digest);
        assert_eq!(home.items("blobs"), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_whole_is_used_wherever_it_came_from() {
    let made = image_of(&[noise(100_000)]);
    let (layer, bytes) = &made.blobs[0];
    let home = Home::new();
    fs::write(home.images().join("blobs").join(file_name(layer)), bytes).unwrap();
    let server = Server::of(&made, |_, _| None);
    pull(&home.store, &server).await.unwrap();
    assert_eq!(server.count(layer.as_str()), 0);
}

/// Whoever has one layer of it gives no other file to an image of another registry.
#[tokio::test]
async fn images_of_two_registries_share_the_layer_that_both_have() {
    let home = Home::new();
    let base = tar_of(&[("bin/tool", b"a tool")]);
    let mut images = Vec::new();
    for own in [b"1", b"2"] {
        let made = image_of(&[base.clone(), tar_of(&[("own", own)])]);
        let server = Server::of(&made, |_, _| None);
        images.push(pull(&home.store, &server).await.unwrap());
    }
    let inodes = |path: &str| {
        let of_each = images.iter().map(|image| image.root().join(path));
        let inodes: Vec<u64> = of_each
            .map(|path| fs::metadata(path).unwrap().ino())
            .collect();
        inodes
    };
    let (tool, own) = (inodes("bin/tool"), inodes("own"));
    assert_eq!(tool[0], tool[1]);
    assert_ne!(own[0], own[1]);
    assert_eq!(fs::read(images[1].root().join("own")).unwrap(), b"2");
}
