//! Promise: mirrors are asked before the registry, each in its own way.

use super::faults::registries;
use crate::support::server::{self, Reply, Server};
use crate::support::*;
use image::NoProgress;

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
