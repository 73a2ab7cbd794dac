//! Promise: manifests, indexes and configs lead to this machine's image, or the error says
//! why not.

use super::faults::{error, pull};
use crate::support::server::{Reply, Server};
use crate::support::*;
use image::Digest;

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
