//! Promise: what a digest names is what it is a digest of: no manifest is taken
//! for a config, no config for a manifest. In stores of earlier versions, too,
//! whose images stay usable.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;
use image::{Digest, Image};
use rustix::fs::{CWD, FileType, Mode};

/// An honest image, and a layout of it.
fn honest(home: &Home) -> (Made, PathBuf) {
    let made = image_of(&[tar_of(&[("a", b"honest")])]);
    let folder = home.path("honest");
    write_layout(&folder, &[(&made, None)]);
    (made, folder)
}

fn pinned(home: &Home, digest: &Digest) -> Option<Image> {
    let name = reference(&format!("honest@{digest}"));
    home.store.get(&name).unwrap()
}

#[test]
fn a_manifest_or_an_index_is_no_config() {
    let home = Home::new();
    let (made, folder) = honest(&home);
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": made.digest, "size": made.manifest.len()},
    ]});
    let index = index.to_string().into_bytes();
    // Both at once, for two readers who look at different parts.
    let mut both: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    both["architecture"] = architecture().into();
    both["os"] = "linux".into();
    both["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": []});
    let both = both.to_string().into_bytes();
    for document in [&made.manifest, &index, &both] {
        let error = home
            .import_bytes("evil", &docker_save_of_old(document, &[]))
            .unwrap_err()
            .told();
        assert!(error.contains("no config"), "{error}");
        assert!(pinned(&home, &Digest::of(document)).is_none());
        assert_eq!(home.items("roots"), [""; 0]);
    }
    let error = home
        .import_bytes("evil", &docker_save_of_old(b"{}", &[]))
        .unwrap_err()
        .told();
    assert!(error.contains("rootfs"), "{error}");

    // In an image of today, whose config a manifest names by its digest.
    let mut evil = image_of(&[]);
    let config = evil.blobs.pop().unwrap().1;
    let text = String::from_utf8(evil.manifest).unwrap();
    let text = text
        .replace(Digest::of(&config).as_str(), made.digest.as_str())
        .replace(
            &format!("\"size\":{}", config.len()),
            &format!("\"size\":{}", made.manifest.len()),
        );
    evil.manifest = text.into_bytes();
    evil.digest = Digest::of(&evil.manifest);
    evil.blobs = vec![(made.digest.clone(), made.manifest.clone())];
    let layout = home.path("evil");
    write_layout(&layout, &[(&evil, None)]);
    let error = home.import("evil", &layout).unwrap_err().told();
    assert!(error.contains("no config"), "{error}");

    home.import("honest", &folder).unwrap();
    let image = pinned(&home, &made.digest).unwrap();
    assert_eq!(fs::read(image.root().join("a")).unwrap(), b"honest");
}

#[test]
fn roots_by_a_config_are_apart_and_found_by_its_digest() {
    let home = Home::new();
    let layers = [tar_of(&[("a", b"1")])];
    let config = image_of(&layers).blobs[1].1.clone();
    let saved = docker_save_of_old(&config, &layers);
    let image = home.import_bytes("x", &saved).unwrap();
    assert_eq!(image.digest, Digest::of(&config));
    let name = image.digest.as_str().replace(':', "-");
    assert_eq!(home.items("roots"), [format!("config-{name}-mine")]);
    for found in [
        home.store.get(&reference("x")).unwrap(),
        pinned(&home, &image.digest),
    ] {
        let found = found.unwrap();
        assert_eq!((&found.digest, found.root()), (&image.digest, image.root()));
    }
    drop(image);
    home.store.remove(&reference("x")).unwrap();
    assert_eq!(home.items("roots"), [""; 0]);
}

/// Makes a root what an earlier version would have made of it.
fn make_earlier(home: &Home, digest: &Digest) -> PathBuf {
    let name = digest.as_str().replace(':', "-");
    let roots = home.images().join("roots");
    let place = roots.join(format!("{name}-mine"));
    let of_config = roots.join(format!("config-{name}-mine"));
    if of_config.exists() {
        fs::rename(of_config, &place).unwrap();
    }
    let file = place.join("image.json");
    let mut about = description(&place);
    about.as_object_mut().unwrap().remove("version");
    fs::write(file, about.to_string()).unwrap();
    place
}

fn description(place: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(place.join("image.json")).unwrap()).unwrap()
}

#[test]
fn images_of_an_earlier_version_are_used_where_they_are() {
    let home = Home::new();
    let layers = [tar_of(&[("a", b"1")])];
    let made = image_of(&layers);
    let saved = docker_save_of_old(&made.blobs[1].1, &layers);
    let folder = home.path("layout");
    write_layout(&folder, &[(&made, None)]);
    let of_config = home.import_bytes("saved", &saved).unwrap().digest;
    let of_manifest = home.import("layout", &folder).unwrap().digest;
    for digest in [&of_config, &of_manifest] {
        let place = make_earlier(&home, digest);
        let image = pinned(&home, digest).unwrap();
        assert_eq!(image.root(), place.join("root"));
    }
    home.import_bytes("saved", &saved).unwrap();
    home.import("layout", &folder).unwrap();
    assert_eq!(home.items("roots").len(), 2);
    for name in ["saved", "layout"] {
        let image = home.store.get(&reference(name)).unwrap().unwrap();
        assert_eq!(fs::read(image.root().join("a")).unwrap(), b"1");
    }
}

#[test]
fn a_root_without_files_of_an_earlier_version_is_in_nobodys_way() {
    let home = Home::new();
    let (made, folder) = honest(&home);
    // What an earlier version made of an archive whose config is that manifest.
    home.import("evil", &folder).unwrap();
    let place = make_earlier(&home, &made.digest);
    fs::remove_file(place.join("root/a")).unwrap();
    let evil = r#"{"config":{},"bytes":0}"#;
    fs::write(place.join("image.json"), evil).unwrap();

    assert!(pinned(&home, &made.digest).is_none());
    assert!(home.store.get(&reference("evil")).unwrap().is_none());
    assert_eq!(home.items("roots"), [""; 0]);
    home.import("honest", &folder).unwrap();
    let image = pinned(&home, &made.digest).unwrap();
    assert_eq!(fs::read(image.root().join("a")).unwrap(), b"honest");
    assert_eq!(home.items("tmp"), [""; 0]);
}

fn put_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn fifos_of_an_earlier_version_are_taken_out_once_before_the_image_is_used() {
    let home = Home::new();
    let (made, folder) = honest(&home);
    let in_use = home.import("honest", &folder).unwrap();
    let place = make_earlier(&home, &made.digest);
    let root = place.join("root");
    put_fifo(&root.join("fifo"));
    fs::create_dir(root.join("below")).unwrap();
    // The paths of sockets are short.
    let socket = home.path("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fs::rename(socket, root.join("below/socket")).unwrap();

    let stores: Vec<_> = (0..4)
        .map(|_| image::Store::open(&home.path("home"), options()).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| {
                let image = store.get(&reference("honest")).unwrap().unwrap();
                assert!(!image.root().join("fifo").exists());
                assert!(!image.root().join("below/socket").exists());
            });
        }
    });
    assert_eq!(fs::read(in_use.root().join("a")).unwrap(), b"honest");
    assert_eq!(description(&place)["version"], 1);

    // It is not gone through again.
    put_fifo(&root.join("fifo"));
    home.store.get(&reference("honest")).unwrap().unwrap();
    assert!(root.join("fifo").exists());
}

#[test]
fn fifos_that_were_taken_out_only_in_part_are_when_it_is_opened_next() {
    let home = Home::new();
    let (made, folder) = honest(&home);
    home.import("honest", &folder).unwrap();
    let place = make_earlier(&home, &made.digest);
    put_fifo(&place.join("root/fifo"));
    // No replacing of files: as if it ended before it could say that it is done.
    let tmp = home.images().join("tmp");
    fs::remove_dir(&tmp).unwrap();
    home.store.get(&reference("honest")).unwrap().unwrap();
    assert!(description(&place).get("version").is_none());
    put_fifo(&place.join("root/fifo"));
    fs::create_dir(&tmp).unwrap();
    home.store.get(&reference("honest")).unwrap().unwrap();
    assert!(!place.join("root/fifo").exists());
    assert_eq!(description(&place)["version"], 1);
}
