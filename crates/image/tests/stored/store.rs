//! Promise: several processes share a store, and nothing in use goes away.

use std::fs;

use crate::support::*;
use image::{Input, NoProgress, Store};

#[test]
fn what_was_imported_is_found_listed_and_removed() {
    let home = Home::new();
    let one = home
        .import_bytes("busybox", &tar_of(&[("a", b"one")]))
        .unwrap();
    home.import_bytes("me/other:2", &tar_of(&[("a", b"other")]))
        .unwrap();
    let again = Store::open(&home.path("home"), options()).unwrap();
    let found = again
        .get(&reference("docker.io/library/busybox:latest"))
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.digest.clone(), found.root()),
        (one.digest.clone(), one.root())
    );
    assert!(again.get(&reference("busybox:2")).unwrap().is_none());
    let list = again.list().unwrap();
    let names: Vec<String> = list
        .iter()
        .map(|entry| entry.reference.familiar())
        .collect();
    assert_eq!(names, ["busybox:latest", "me/other:2"]);
    assert_eq!((list[0].size, list[1].size), (3, 5));
    assert!(list[0].created.elapsed().unwrap().as_secs() < 60);
    let error = again.remove(&reference("busibox")).unwrap_err().told();
    assert!(error.contains("did you mean busybox:latest?"), "{error}");
    again.remove(&reference("busybox")).unwrap();
    assert!(again.get(&reference("busybox")).unwrap().is_none());
    assert_eq!(again.list().unwrap().len(), 1);
}

#[test]
fn a_digest_means_itself_alone() {
    let home = Home::new();
    let image = home.import_bytes("x:1", &tar_of(&[("a", b"")])).unwrap();
    assert_eq!(image.pin(), &image.digest);
    let pinned = reference(&format!("x:1@{}", image.digest));
    assert_eq!(
        home.store.get(&pinned).unwrap().unwrap().digest,
        image.digest
    );
    let other = reference(&format!("x:1@{}", image::Digest::of(b"other")));
    assert!(home.store.get(&other).unwrap().is_none());
}

#[test]
fn a_root_in_use_outlives_its_name() {
    let home = Home::new();
    let image = home.import_bytes("x", &tar_of(&[("a", b"1")])).unwrap();
    let clone = image.clone();
    drop(image);
    home.store.remove(&reference("x")).unwrap();
    assert!(home.store.get(&reference("x")).unwrap().is_none());
    assert_eq!(fs::read(clone.root().join("a")).unwrap(), b"1");
    drop(clone);
    home.import_bytes("y", &tar_of(&[("a", b"2")])).unwrap();
    assert_eq!(home.items("roots").len(), 1);
}

#[test]
fn a_name_can_move_and_two_names_share_a_root() {
    let home = Home::new();
    let tar = tar_of(&[("a", b"1")]);
    let one = home.import_bytes("x", &tar).unwrap();
    let two = home.import_bytes("y", &tar).unwrap();
    assert_eq!(one.root(), two.root());
    drop((one, two));
    home.import_bytes("x", &tar_of(&[("a", b"2")])).unwrap();
    home.store.remove(&reference("x")).unwrap();
    assert_eq!(
        fs::read(
            home.store
                .get(&reference("y"))
                .unwrap()
                .unwrap()
                .root()
                .join("a")
        )
        .unwrap(),
        b"1"
    );
    home.store.remove(&reference("y")).unwrap();
    assert_eq!(home.items("roots"), [""; 0]);
}

#[test]
fn one_root_however_many_import_at_once() {
    let home = Home::new();
    let tar = tar_of(&[("a", &[7; 100_000])]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(&home.path("home"), options()).unwrap();
                let input = Input::Read(Box::new(std::io::Cursor::new(tar.clone())));
                let image = store.import(&reference("x"), input, &NoProgress).unwrap();
                assert_eq!(fs::read(image.root().join("a")).unwrap(), [7; 100_000]);
            });
        }
    });
    assert_eq!(home.items("roots").len(), 1);
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[test]
fn importing_and_removing_at_once_never_shows_half_an_image() {
    let home = Home::new();
    let tar = tar_of(&[("a", b"whole"), ("z", b"whole")]);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (home, tar) = (&home, &tar);
            scope.spawn(move || {
                for _ in 0..40 {
                    let name = format!("x{}", worker % 2);
                    if worker < 2 {
                        home.import_bytes(&name, tar).unwrap();
                    } else {
                        let _ = home.store.remove(&reference(&name));
                    }
                    if let Some(image) = home.store.get(&reference("x0")).unwrap() {
                        assert_eq!(fs::read(image.root().join("z")).unwrap(), b"whole");
                    }
                }
            });
        }
    });
}

#[test]
fn an_import_removes_what_its_name_meant_before() {
    let home = Home::new();
    let tars = [tar_of(&[("a", b"1")]), tar_of(&[("a", b"2")])];
    let import = |name: &str, tar: &[u8]| home.import_bytes(name, tar).unwrap();
    drop(import("x", &tars[0]));
    drop(import("x", &tars[1]));
    assert_eq!(home.items("roots").len(), 1);
    // Also where it comes to mean one that is here already.
    drop(import("y", &tars[0]));
    drop(import("x", &tars[0]));
    assert_eq!(home.items("roots").len(), 1);
    // Not where somebody uses it, or another name means it.
    let used = import("x", &tars[0]);
    drop(import("x", &tars[1]));
    drop(import("z", &tars[1]));
    drop(import("y", &tars[1]));
    assert_eq!(fs::read(used.root().join("a")).unwrap(), b"1");
    assert_eq!(home.items("roots").len(), 2);
    drop(used);
    drop(import("x", &tars[0]));
    drop(import("x", &tars[1]));
    assert_eq!(home.items("roots").len(), 1);
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[tokio::test]
async fn a_pull_removes_what_its_name_meant_before() {
    let images = [1u8, 2].map(|content| image_of(&[tar_of(&[("a", &[content])])]));
    let [one, two] = &images;
    let answers = images.each_ref().map(|made| {
        let blobs = made.blobs.clone();
        (made.manifest.clone(), blobs)
    });
    let latest = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let which = std::sync::Arc::clone(&latest);
    let server = crate::support::server::Server::start(move |request| {
        let which = which.load(std::sync::atomic::Ordering::Relaxed);
        if request.path.ends_with("/manifests/latest") {
            let reply = crate::support::server::Reply::new(200, &answers[which].0);
            return reply.with("Content-Type", MANIFEST);
        }
        let mut blobs = answers.iter().flat_map(|(_, blobs)| blobs);
        match blobs.find(|(digest, _)| request.path.ends_with(digest.as_str())) {
            Some((_, bytes)) => crate::support::server::Reply::new(200, bytes),
            None => crate::support::server::Reply::new(404, b""),
        }
    });
    let home = Home::new();
    let name = reference(&server.name("x"));
    let registries = image::Registries::default();
    for (place, wanted) in [one, two, one, two].into_iter().enumerate() {
        latest.store(place % 2, std::sync::atomic::Ordering::Relaxed);
        let pulled = home.store.pull(&name, &registries, &NoProgress).await;
        assert_eq!(pulled.unwrap().digest, wanted.digest);
        assert_eq!(home.items("roots").len(), 1);
    }
    // One that is used stays until nobody uses it, and something else is changed.
    let used = home.store.get(&name).unwrap().unwrap();
    latest.store(0, std::sync::atomic::Ordering::Relaxed);
    let pull = || home.store.pull(&name, &registries, &NoProgress);
    pull().await.unwrap();
    assert_eq!(fs::read(used.root().join("a")).unwrap(), [2]);
    assert_eq!(home.items("roots").len(), 2);
    // It is here still, so nothing is fetched, and the other one goes.
    latest.store(1, std::sync::atomic::Ordering::Relaxed);
    let blobs = server.count("blobs");
    pull().await.unwrap();
    assert_eq!(
        (home.items("roots").len(), server.count("blobs")),
        (1, blobs)
    );
}

/// A layout whose `index.json` leads to an image through an index of its own, and
/// that index's digest.
fn indexed_layout(home: &Home, made: &Made) -> (std::path::PathBuf, image::Digest) {
    let folder = home.path("indexed");
    write_layout(&folder, &[(made, None)]);
    let index = fs::read(folder.join("index.json")).unwrap();
    let digest = image::Digest::of(&index);
    fs::write(folder.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": INDEX, "digest": digest, "size": index.len()},
    ]});
    fs::write(folder.join("index.json"), outer.to_string()).unwrap();
    (folder, digest)
}

#[test]
fn a_sweep_leaves_the_images_of_other_ranges_of_ids() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let [one, two] = [200_000, 300_000].map(|base| image::StoreOptions {
        owners: image::Owners::Shifted { base },
        ..options()
    });
    let home = Home::with(one);
    let other = Store::open(&home.path("home"), two).unwrap();
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    let (folder, index) = indexed_layout(&home, &made);
    drop(home.import("x", &folder).unwrap());
    let pinned = reference(&format!("x@{index}"));
    let is_here = |store: &Store| store.get(&pinned).unwrap().is_some();
    assert!(is_here(&home.store) && !is_here(&other));
    // Each of these sweeps.
    let import = |name: &str, tar: &[u8]| {
        let input = Input::Read(Box::new(std::io::Cursor::new(tar.to_vec())));
        drop(other.import(&reference(name), input, &NoProgress).unwrap());
    };
    import("y", &tar_of(&[("a", b"2")]));
    import("y", &tar_of(&[("a", b"3")]));
    other.remove(&reference("y")).unwrap();
    assert!(is_here(&home.store));
    // Once it is unpacked for both, both have it, until neither has.
    let input = Input::Path(folder);
    drop(other.import(&reference("x"), input, &NoProgress).unwrap());
    assert!(is_here(&home.store) && is_here(&other));
    assert_eq!(home.items("roots").len(), 2);
    other.remove(&reference("x")).unwrap();
    assert!(!is_here(&home.store) && !is_here(&other));
    assert_eq!(home.items("aliases"), [""; 0]);
    assert_eq!(home.items("roots"), [""; 0]);
}

#[test]
fn a_damaged_record_loses_its_own_name_only() {
    for damage in [
        "",
        "{",
        "\0\0\0\0",
        "null",
        r#"{"reference":"x","digest":"md5:0"}"#,
    ] {
        let home = Home::new();
        let import = |name: &str, content: &[u8]| {
            let tar = tar_of(&[("a", content)]);
            drop(home.import_bytes(name, &tar).unwrap());
        };
        import("good", b"1");
        import("bad", b"2");
        let record = home.images().join("references");
        let bad = record.join("docker.io+library+bad:latest");
        fs::write(&bad, damage).unwrap();
        let names = || -> Vec<String> {
            let list = home.store.list().unwrap();
            list.iter()
                .map(|entry| entry.reference.familiar())
                .collect()
        };
        assert_eq!(names(), ["good:latest"]);
        let error = home.store.get(&reference("bad")).unwrap_err().told();
        assert!(
            error.contains("bad:latest") && error.contains("get it again"),
            "{error}"
        );
        // Sweeps go on: what is replaced goes, what is named stays.
        import("good", b"3");
        import("other", b"4");
        home.store.remove(&reference("other")).unwrap();
        assert_eq!(home.items("roots").len(), 1, "{damage}");
        let good = home.store.get(&reference("good")).unwrap().unwrap();
        assert_eq!(fs::read(good.root().join("a")).unwrap(), b"3");
        // What is damaged is mended by getting it again, and can be removed.
        import("bad", b"5");
        assert_eq!(names(), ["bad:latest", "good:latest"]);
        fs::write(&bad, damage).unwrap();
        home.store.remove(&reference("bad")).unwrap();
        assert_eq!(names(), ["good:latest"]);
    }
}

#[test]
fn files_that_are_no_part_of_the_store_stop_no_sweep() {
    let home = Home::new();
    drop(home.import_bytes("x", &tar_of(&[("a", b"1")])).unwrap());
    let images = home.images();
    let stray = image::Digest::of(b"stray")
        .to_string()
        .replacen(':', "-", 1);
    fs::create_dir(images.join("references/folder")).unwrap();
    fs::create_dir(images.join("aliases/folder")).unwrap();
    fs::create_dir(images.join("locks/folder")).unwrap();
    for number in 0..3 {
        fs::write(images.join(format!("roots/{stray}-{number}")), b"").unwrap();
    }
    drop(home.import_bytes("x", &tar_of(&[("a", b"2")])).unwrap());
    assert_eq!(home.items("roots").len(), 1 + 3);
    assert_eq!(home.store.list().unwrap().len(), 1);
}

#[test]
fn files_that_a_power_failure_has_damaged_are_replaced() {
    for damage in ["", "{", "\0\0\0\0", "null", "{}"] {
        let home = Home::new();
        let made = image_of(&[tar_of(&[("a", b"1")])]);
        let (folder, index) = indexed_layout(&home, &made);
        drop(home.import("x", &folder).unwrap());
        let pinned = reference(&format!("x@{index}"));
        let is_here = |name: &image::Reference| home.store.get(name).unwrap().is_some();
        let damage_file = |kind: &str, name: &str| {
            let item = home.images().join(kind).join(&home.items(kind)[0]);
            fs::write(item.join(name), damage).unwrap();
        };
        damage_file("roots", "image.json");
        // Whoever uses it goes on; nobody else begins to.
        let root = home.images().join("roots").join(&home.items("roots")[0]);
        let used = fs::File::open(&root).unwrap();
        rustix::fs::flock(&used, rustix::fs::FlockOperation::LockShared).unwrap();
        let error = home.store.get(&reference("x")).unwrap_err().told();
        assert!(error.contains("get it again"), "{error}");
        drop(used);
        assert!(!is_here(&reference("x")), "{damage}");
        assert_eq!(home.items("roots"), [""; 0]);
        assert_eq!(home.items("tmp"), [""; 0]);
        drop(home.import("x", &folder).unwrap());
        assert!(is_here(&reference("x")) && is_here(&pinned));
        // What an index means here.
        let alias = home
            .images()
            .join("aliases")
            .join(&home.items("aliases")[0]);
        fs::write(alias, damage).unwrap();
        assert!(!is_here(&pinned) && is_here(&reference("x")));
        drop(home.import("x", &folder).unwrap());
        assert!(is_here(&pinned));
        // The store's own version.
        if matches!(damage, "" | "\0\0\0\0") {
            fs::write(home.images().join("version"), damage).unwrap();
            let store = Store::open(&home.path("home"), options()).unwrap();
            assert!(store.get(&pinned).unwrap().is_some());
        }
    }
}
