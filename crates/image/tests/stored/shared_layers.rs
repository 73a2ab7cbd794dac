//! Promise: images with a layer in common have its files once on the disk, and each has
//! them as if it were alone in the store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::support::*;
use image::{Image, Input, NoProgress, Owners, Store, StoreOptions};
use proptest::prelude::*;
use tar::EntryType;
use test_support::tars::entry;

fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    build(&mut tar);
    tar.into_inner().unwrap()
}

fn base() -> Vec<u8> {
    tar_of(&[
        ("bin/tool", b"a tool"),
        ("etc/config", b"as delivered"),
        ("lib/data", b"data"),
    ])
}

fn layout(made: &Made) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_layout(folder.path(), &[(made, None)]);
    folder
}

fn import(home: &Home, name: &str, layers: &[Vec<u8>]) -> Image {
    home.import(name, layout(&image_of(layers)).path()).unwrap()
}

fn inode(image: &Image, path: &str) -> u64 {
    fs::metadata(image.root().join(path)).unwrap().ino()
}

fn are_one(one: &Image, other: &Image, path: &str) -> bool {
    inode(one, path) == inode(other, path)
}

/// What a program can see of a root, but for numbers of inodes and links: with each file
/// the first path that is a hard link to it.
fn seen(root: &Path) -> BTreeMap<PathBuf, (u32, Option<i64>, Vec<u8>, PathBuf)> {
    let mut paths = vec![root.to_owned()];
    let mut found = BTreeMap::new();
    while let Some(path) = paths.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let content = if about.is_dir() {
            let items = fs::read_dir(&path).unwrap();
            paths.extend(items.map(|item| item.unwrap().path()));
            Vec::new()
        } else if about.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        // What changed while it was unpacked has the time of that.
        let modified = (about.mtime() < 1_500_000_000).then(|| about.mtime());
        found.insert(path, (about.mode(), modified, content, about.ino()));
    }
    let mut first = BTreeMap::new();
    for (path, about) in &found {
        first.entry(about.3).or_insert_with(|| path.clone());
    }
    let relative = |path: &Path| path.strip_prefix(root).unwrap().to_owned();
    let found = found
        .into_iter()
        .map(|(path, (mode, modified, content, inode))| {
            let first = relative(&first[&inode]);
            (relative(&path), (mode, modified, content, first))
        });
    found.collect()
}

#[test]
fn images_with_a_layer_in_common_have_its_files_once() {
    let home = Home::new();
    let one = import(&home, "one", &[base(), tar_of(&[("etc/config", b"mine")])]);
    let other = import(&home, "other", &[base(), tar_of(&[("app", b"app")])]);
    for path in ["bin/tool", "lib/data"] {
        assert!(are_one(&one, &other, path), "{path}");
        // One link for each, and one for the store.
        assert_eq!(fs::metadata(one.root().join(path)).unwrap().nlink(), 3);
    }
    let config = |image: &Image| fs::read(image.root().join("etc/config")).unwrap();
    assert_eq!(config(&one), b"mine");
    assert_eq!(config(&other), b"as delivered");
    // What `one` has replaced was not kept for others, and is again since `other`.
    let third = import(&home, "third", &[base()]);
    assert!(are_one(&other, &third, "etc/config"));

    let sizes = |name: &str| {
        let list = home.store.list().unwrap();
        let entry = list.iter().find(|entry| entry.reference == reference(name));
        let entry = entry.unwrap();
        (entry.size, entry.shared)
    };
    assert_eq!(sizes("one"), (22 + 4, 22));
    assert_eq!(sizes("other"), (22 + 3, 22));
    drop((one, other));
    home.store.remove(&reference("other")).unwrap();
    home.store.remove(&reference("third")).unwrap();
    assert_eq!(sizes("one"), (22 + 4, 0));
}

#[test]
fn a_layer_is_shared_wherever_it_lies_in_an_image() {
    let home = Home::new();
    let tools = tar_of(&[("opt/tools/a", b"a"), ("opt/tools/b", b"b")]);
    let one = import(&home, "one", &[base(), tools.clone()]);
    let other = import(
        &home,
        "other",
        &[tar_of(&[("x", b"x")]), tools.clone(), tools],
    );
    assert!(are_one(&one, &other, "opt/tools/a"));
    assert!(are_one(&one, &other, "opt/tools/b"));
}

/// Otherwise whoever guesses a file of an image could see that it is there.
#[test]
fn equal_files_of_other_layers_are_not_shared() {
    let home = Home::new();
    let one = import(&home, "one", &[base(), tar_of(&[("key", b"1234")])]);
    let other = tar_of(&[("key", b"1234"), ("more", b"")]);
    let other = import(&home, "other", &[base(), other]);
    assert!(are_one(&one, &other, "bin/tool"));
    assert!(!are_one(&one, &other, "key"));
}

#[test]
fn what_differs_in_mode_owner_or_time_is_not_shared() {
    let home = Home::new();
    let tar = |mode, uid, mtime| {
        layer(|tar| {
            let mut header = tar::Header::new_gnu();
            header.set_path("file").unwrap();
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_mtime(mtime);
            header.set_size(4);
            header.set_cksum();
            tar.append(&header, &b"same"[..]).unwrap();
        })
    };
    let tars = [
        tar(0o644, 0, 5),
        tar(0o600, 0, 5),
        tar(0o644, 7, 5),
        tar(0o644, 0, 6),
    ];
    let mut images = Vec::new();
    for (number, tar) in tars.into_iter().enumerate() {
        let image = import(&home, &format!("x{number}"), &[tar]);
        assert!(images.iter().all(|other| !are_one(&image, other, "file")));
        images.push(image);
    }
}

#[test]
fn who_has_other_ids_shares_nothing() {
    if !rustix::process::geteuid().is_root() {
        return test_support::skip("this test needs root");
    }
    let home = Home::new();
    let open = |base| {
        let owners = Owners::Shifted { base };
        let options = StoreOptions {
            owners,
            ..options()
        };
        Store::open(&home.path("home"), options).unwrap()
    };
    let made = [
        image_of(&[base()]),
        image_of(&[base(), tar_of(&[("x", b"")])]),
        image_of(&[base(), tar_of(&[("y", b"")])]),
    ];
    let import = |store: &Store, name: &str, made: &Made| {
        let layout = layout(made);
        let input = Input::Path(layout.path().to_owned());
        store.import(&reference(name), input, &NoProgress).unwrap()
    };
    let (a, b) = (open(200_000), open(300_000));
    let [one, other] = [import(&a, "one", &made[0]), import(&b, "other", &made[1])];
    assert!(!are_one(&one, &other, "bin/tool"));
    let third = import(&a, "third", &made[2]);
    assert!(are_one(&one, &third, "bin/tool"));
    // Each sweeps what the other one needs no more, and nothing else.
    drop((one, other, third));
    a.remove(&reference("other")).unwrap();
    assert_eq!(home.items("layers").len(), 2);
    b.remove(&reference("one")).unwrap();
    b.remove(&reference("third")).unwrap();
    assert_eq!(home.items("layers"), [""; 0]);
}

#[test]
fn an_image_keeps_its_files_when_others_go() {
    let home = Home::new();
    let one = import(&home, "one", &[base()]);
    let other = import(&home, "other", &[base(), tar_of(&[("app", b"app")])]);
    let before = seen(other.root());
    drop(one);
    home.store.remove(&reference("one")).unwrap();
    assert_eq!(seen(other.root()), before);
    // In use, and without a name.
    home.store.remove(&reference("other")).unwrap();
    assert_eq!(seen(other.root()), before);
    drop(other);
    drop(import(&home, "last", &[tar_of(&[("x", b"")])]));
    home.store.remove(&reference("last")).unwrap();
    for folder in ["roots", "layers", "tmp"] {
        assert_eq!(home.items(folder), [""; 0], "{folder}");
    }
}

#[test]
fn a_store_of_an_earlier_version_is_used_and_shares_what_comes() {
    let home = Home::new();
    let before = import(&home, "before", &[base()]);
    // As it was: nothing is known of layers.
    let folder = before.root().parent().unwrap().to_owned();
    drop(before);
    let text = fs::read(folder.join("image.json")).unwrap();
    let mut description: serde_json::Value = serde_json::from_slice(&text).unwrap();
    description
        .as_object_mut()
        .unwrap()
        .remove("layers")
        .unwrap();
    fs::write(folder.join("image.json"), description.to_string()).unwrap();
    fs::remove_dir_all(home.images().join("layers")).unwrap();

    let before = home.store.get(&reference("before")).unwrap().unwrap();
    let one = import(&home, "one", &[base(), tar_of(&[("1", b"")])]);
    let other = import(&home, "other", &[base(), tar_of(&[("2", b"")])]);
    assert!(!are_one(&before, &one, "bin/tool"));
    assert!(are_one(&one, &other, "bin/tool"));
    drop((before, one, other));
    home.store.remove(&reference("before")).unwrap();
    assert_eq!(home.items("roots").len(), 2);
}

/// The name of the folder with what the store has of its only shared layer.
fn only_layer(home: &Home) -> PathBuf {
    let layers = home.items("layers");
    let [layer] = &layers[..] else {
        panic!("{layers:?}")
    };
    home.images().join("layers").join(layer)
}

#[test]
fn what_is_damaged_or_missing_in_layers_is_written_again() {
    let home = Home::new();
    let alone = seen(import(&home, "one", &[base()]).root());
    let layer = only_layer(&home);
    // Entries are counted from 1.
    fs::remove_file(layer.join("1")).unwrap();
    fs::remove_file(layer.join("2")).unwrap();
    fs::write(layer.join("2"), "as delivered").unwrap();
    fs::remove_file(layer.join("3")).unwrap();
    fs::create_dir(layer.join("3")).unwrap();
    let other = import(&home, "other", &[base(), tar_of(&[("x", b"")])]);
    let mut with_more = seen(other.root());
    with_more.remove(Path::new("x")).unwrap();
    with_more.insert(PathBuf::new(), alone[Path::new("")].clone());
    assert_eq!(with_more, alone);
    // What was missing is there for the next one.
    let third = import(&home, "third", &[base(), tar_of(&[("y", b"")])]);
    assert!(are_one(&other, &third, "bin/tool"));
    assert!(!are_one(&other, &third, "etc/config"));
}

/// A layer that says it is another one is refused, and what is shared stays as it is.
#[test]
fn a_layer_that_lies_about_itself_changes_nothing() {
    let home = Home::new();
    let honest = import(&home, "honest", &[base()]);
    let before = seen(honest.root());
    let evil = tar_of(&[
        ("bin/tool", b"a fool"),
        ("etc/config", b"as delivered"),
        ("lib/data", b"evil"),
    ]);
    let mut made = image_of(&[evil]);
    // The config is the last blob, and says which layer it is.
    let wrong = image_of(&[base()]).blobs.pop().unwrap();
    let old = std::mem::replace(made.blobs.last_mut().unwrap(), wrong.clone());
    let manifest = String::from_utf8(made.manifest).unwrap();
    let manifest = manifest.replace(old.0.as_str(), wrong.0.as_str());
    made.manifest = manifest.into_bytes();
    made.digest = image::Digest::of(&made.manifest);
    let error = home.import("evil", layout(&made).path()).unwrap_err();
    let error = error.told();
    assert!(error.contains("tampered with"), "{error}");
    assert_eq!(seen(honest.root()), before);
    assert_eq!((home.items("roots").len(), home.items("tmp").len()), (1, 0));
    let again = import(&home, "again", &[base(), tar_of(&[("x", b"")])]);
    assert_eq!(fs::read(again.root().join("bin/tool")).unwrap(), b"a tool");
}

/// Times of folders are set last, by their paths. Such a path may lead to a file of
/// another layer by then.
#[test]
fn a_layer_does_not_change_files_of_others_by_the_times_of_folders() {
    let home = Home::new();
    let victim = import(&home, "victim", &[base()]);
    let before = seen(victim.root());
    for last in ["x/tool/", "y/"] {
        let evil = layer(|tar| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..last.len()].copy_from_slice(last.as_bytes());
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_mtime(666);
            header.set_size(0);
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
            entry(tar, EntryType::Symlink, "x", "bin", b"");
            entry(tar, EntryType::Link, "y", "bin/tool", b"");
        });
        let evil = import(&home, "evil", &[base(), evil]);
        assert!(are_one(&victim, &evil, "bin/tool"));
        assert_eq!(inode(&evil, "y"), inode(&victim, "bin/tool"));
        assert_eq!(seen(victim.root()), before, "{last}");
    }
}

#[test]
fn many_at_once_share_one_base() {
    let home = Home::new();
    let names: Vec<String> = (0..50).map(|number| format!("lib/{number}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), name.as_bytes()))
        .collect();
    let base = tar_of(&files);
    let layouts: Vec<_> = (0..4u8)
        .map(|number| layout(&image_of(&[base.clone(), tar_of(&[("own", &[number])])])))
        .collect();
    std::thread::scope(|scope| {
        for (number, layout) in layouts.iter().enumerate() {
            let (home, names) = (&home, &names);
            scope.spawn(move || {
                let store = Store::open(&home.path("home"), options()).unwrap();
                let name = reference(&format!("x{number}"));
                for _ in 0..8 {
                    let input = Input::Path(layout.path().to_owned());
                    let image = store.import(&name, input, &NoProgress).unwrap();
                    for name in names {
                        let content = fs::read(image.root().join(name)).unwrap();
                        assert_eq!(content, name.as_bytes());
                    }
                    drop(image);
                    store.remove(&name).unwrap();
                }
            });
        }
    });
    home.import_bytes("last", &tar_of(&[("x", b"")])).unwrap();
    assert_eq!(home.items("roots").len(), 1);
    for folder in ["layers", "tmp"] {
        assert_eq!(home.items(folder), [""; 0], "{folder}");
    }
    let [one, other] = [0, 1].map(|number| {
        home.import(&format!("x{number}"), layouts[number].path())
            .unwrap()
    });
    assert!(names.iter().all(|name| are_one(&one, &other, name)));
}

/// Entries that are likely to meet each other: of one layer, and of others.
fn entries(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        20 => Just(EntryType::Regular),
        6 => Just(EntryType::Directory),
        6 => Just(EntryType::Symlink),
        8 => Just(EntryType::Link),
        1 => Just(EntryType::Fifo),
    ];
    let part = prop_oneof![
        20 => "[abc]".prop_map(String::from),
        1 => Just(".wh.a".to_owned()),
        1 => Just(".wh..wh..opq".to_owned()),
    ];
    let path = || prop::collection::vec(part.clone(), 1..3).prop_map(|parts| parts.join("/"));
    let item = (kind, path(), path(), prop_oneof![Just("x"), Just("y")]);
    prop::collection::vec(item, 1..most).prop_map(|items| {
        layer(|tar| {
            for (kind, path, link, content) in items {
                let content = if kind.is_file() { content } else { "" };
                entry(tar, kind, &path, &link, content.as_bytes());
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever else has its layers, an image is the same; and so is the other one.
    #[test]
    fn an_image_is_as_if_it_were_alone(
        common in prop::collection::vec(entries(8), 1..3),
        ours in prop::collection::vec(entries(5), 0..3),
        others in prop::collection::vec(entries(5), 0..3),
    ) {
        let with = |more: &[Vec<u8>]| layout(&image_of(&[&common[..], more].concat()));
        let (ours, others) = (with(&ours), with(&others));
        let (alone, shared) = (Home::new(), Home::new());
        let other = shared.import("other", others.path());
        let before = other.as_ref().ok().map(|other| seen(other.root()));
        let told = |home: &Home| {
            let image = home.import("x", ours.path());
            image.map(|image| seen(image.root())).map_err(|error| error.told())
        };
        let wanted = told(&alone);
        prop_assert_eq!(&told(&shared), &wanted);
        if let (Ok(other), Some(before)) = (other, before) {
            prop_assert_eq!(seen(other.root()), before);
            drop(other);
            shared.store.remove(&reference("other")).unwrap();
        }
        // With what the other one has left, and without.
        if let (Some(image), Ok(wanted)) = (shared.store.get(&reference("x")).unwrap(), wanted) {
            prop_assert_eq!(seen(image.root()), wanted);
            drop(image);
            shared.store.remove(&reference("x")).unwrap();
        }
        for folder in ["roots", "tmp"] {
            prop_assert_eq!(shared.items(folder), [""; 0]);
        }
        prop_assert!(!shared.images().join("layers").exists() || shared.items("layers").is_empty());
    }
}
