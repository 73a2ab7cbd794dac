//! Promise: no layer, whatever it says, touches anything outside its root.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::support::*;
use proptest::prelude::*;
use tar::EntryType;
use test_support::tars::entry;

/// Everything around the roots that the store makes, with what could change of it: what is
/// beside the store, and the store itself but for what images leave there rightly.
fn surroundings(home: &Home) -> BTreeMap<PathBuf, About> {
    let own: Vec<_> = ["tmp", "roots", "layers", "references", "blobs", "locks"]
        .map(|folder| home.images().join(folder))
        .into();
    let mut found = BTreeMap::new();
    let mut pending = vec![home.folder.path().to_owned()];
    while let Some(path) = pending.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let content = match about.is_file() {
            true => fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        // Of its own folders, only what they are, and not what has come and gone in them.
        let is_own = own.contains(&path);
        if about.is_dir() && !is_own {
            let items = fs::read_dir(&path).unwrap();
            pending.extend(items.map(|item| item.unwrap().path()));
        }
        let changed = (!is_own).then(|| (about.mtime(), about.nlink()));
        found.insert(path, (about.mode(), changed, content));
    }
    found
}

/// Mode; time of the last change and number of links; content.
type About = (u32, Option<(i64, u64)>, Vec<u8>);

/// The store has nothing of its images but a root each, which has nothing beside it.
fn has_only_roots(home: &Home) -> bool {
    let mut images = home.items("roots").into_iter();
    let is_root = |image: String| {
        let mut items = home.items(&format!("roots/{image}"));
        items.sort();
        items == ["image.json", "root"]
    };
    images.all(is_root) && home.items("tmp").is_empty() && home.items("blobs").is_empty()
}

fn with_victim() -> Home {
    let home = Home::new();
    fs::create_dir(home.path("victim")).unwrap();
    fs::write(home.path("victim/file"), "untouched").unwrap();
    home
}

fn error_of(home: &Home, entries: &[(EntryType, &str, &str)]) -> String {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, link) in entries {
        entry(
            &mut tar,
            *kind,
            path,
            link,
            if kind.is_file() { b"evil" } else { b"" },
        );
    }
    let before = surroundings(home);
    let error = home
        .import_bytes("x", &tar.into_inner().unwrap())
        .unwrap_err()
        .told();
    assert_eq!(before, surroundings(home));
    assert_eq!(home.items("roots"), [""; 0]);
    assert_eq!(home.items("tmp"), [""; 0]);
    error
}

#[test]
fn dot_dot_is_an_error_that_names_layer_and_entry() {
    let home = with_victim();
    for path in ["../evil", "a/../../evil", "..", "/../evil"] {
        let error = error_of(&home, &[(EntryType::Regular, path, "")]);
        assert!(
            error.contains(path) && error.contains("'..'") && error.contains("layer"),
            "{error}"
        );
    }
    let error = error_of(&home, &[(EntryType::Link, "evil", "../../victim/file")]);
    assert!(
        error.contains("hard link") && error.contains("../../victim/file"),
        "{error}"
    );
}

#[test]
fn links_lead_nowhere_outside() {
    let home = with_victim();
    let victim = home.path("victim");
    let victim = victim.to_str().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, EntryType::Symlink, "abs", victim, b"");
    entry(&mut tar, EntryType::Regular, "abs/file", "", b"evil");
    entry(&mut tar, EntryType::Regular, "abs/new", "", b"evil");
    entry(
        &mut tar,
        EntryType::Symlink,
        "up",
        "../../../../../../../../../..",
        b"",
    );
    entry(
        &mut tar,
        EntryType::Regular,
        &format!("up{victim}/file"),
        "",
        b"evil",
    );
    entry(&mut tar, EntryType::Regular, "/absolute", "", b"inside");
    let before = surroundings(&home);
    let image = home.import_bytes("x", &tar.into_inner().unwrap()).unwrap();
    assert_eq!(before, surroundings(&home));
    assert!(has_only_roots(&home));
    assert_eq!(fs::read(image.root().join("absolute")).unwrap(), b"inside");
    assert_eq!(
        fs::read(image.root().join(&victim[1..]).join("file")).unwrap(),
        b"evil"
    );
    let home = with_victim();
    let error = error_of(
        &home,
        &[
            (EntryType::Symlink, "s", victim),
            (EntryType::Link, "h", "s/file"),
        ],
    );
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn a_file_is_not_written_through_a_link_at_its_own_name() {
    let home = with_victim();
    let mut tar = tar::Builder::new(Vec::new());
    let victim = home.path("victim/file");
    entry(
        &mut tar,
        EntryType::Symlink,
        "x",
        victim.to_str().unwrap(),
        b"",
    );
    entry(&mut tar, EntryType::Regular, "x", "", b"evil");
    entry(
        &mut tar,
        EntryType::Symlink,
        "d",
        home.path("victim").to_str().unwrap(),
        b"",
    );
    entry(&mut tar, EntryType::Directory, "d", "", b"");
    entry(&mut tar, EntryType::Regular, "d/file", "", b"evil");
    let before = surroundings(&home);
    let image = home.import_bytes("x", &tar.into_inner().unwrap()).unwrap();
    assert_eq!(before, surroundings(&home));
    assert!(has_only_roots(&home));
    assert!(
        fs::symlink_metadata(image.root().join("x"))
            .unwrap()
            .is_file()
    );
    assert!(
        fs::symlink_metadata(image.root().join("d"))
            .unwrap()
            .is_dir()
    );
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let home = with_victim();
    let error = error_of(&home, &[(EntryType::Regular, ".", "")]);
    assert!(error.contains("root folder"), "{error}");
    let error = error_of(&home, &[(EntryType::Link, "l", "missing")]);
    assert!(error.contains("does not exist"), "{error}");
    let error = error_of(
        &home,
        &[
            (EntryType::Directory, "d/", ""),
            (EntryType::Link, "l", "d"),
        ],
    );
    assert!(error.contains("is a folder"), "{error}");
    let error = error_of(
        &home,
        &[
            (EntryType::Regular, "f", ""),
            (EntryType::Regular, "f/x", ""),
        ],
    );
    assert!(error.contains("no folder"), "{error}");
    let error = error_of(
        &home,
        &[
            (EntryType::Symlink, "a", "b"),
            (EntryType::Symlink, "b", "a"),
            (EntryType::Regular, "a/x", ""),
        ],
    );
    assert!(error.contains("too many symbolic links"), "{error}");
    let error = error_of(&home, &[(EntryType::new(b'Z'), "z", "")]);
    assert!(error.contains("unknown type 'Z'"), "{error}");
}

/// A tar with a link `s` at which a long way through a deep folder begins: links to
/// links, each up and down many times. Returned with room for more entries.
fn with_a_long_way(links: usize) -> tar::Builder<Vec<u8>> {
    let deep = "d/".repeat(1000);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    tar.append_data(&mut header, &deep, &b""[..]).unwrap();
    header.set_entry_type(EntryType::Symlink);
    for number in 0..links {
        let target = format!("{}x{}", "../d/".repeat(700), number + 1);
        let link = format!("{deep}x{number}");
        tar.append_link(&mut header, link, target).unwrap();
    }
    tar.append_link(&mut header, "s", format!("{deep}x0"))
        .unwrap();
    tar
}

#[test]
fn a_long_way_through_links_is_an_error_that_names_the_entry() {
    let home = Home::new();
    let mut tar = with_a_long_way(30);
    entry(&mut tar, EntryType::Regular, "s/n/f", "", b"");
    let error = home
        .import_bytes("x", &tar.into_inner().unwrap())
        .unwrap_err()
        .told();
    assert!(error.contains("'s/n'"), "{error}");
    assert!(error.contains("more than 4096 folders"), "{error}");

    // Also where nothing is to be made.
    let mut tar = with_a_long_way(30);
    entry(&mut tar, EntryType::Link, "l", "s/f", b"");
    let error = home
        .import_bytes("x", &tar.into_inner().unwrap())
        .unwrap_err()
        .told();
    assert!(error.contains("more than 4096 folders"), "{error}");
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[test]
fn the_ways_of_all_entries_have_a_bound_together() {
    let limited_to = |steps_max| {
        Home::with(image::StoreOptions {
            limits: image::Limits {
                steps_max,
                ..Default::default()
            },
            ..options()
        })
    };
    let mut tar = with_a_long_way(1);
    for number in 0..20 {
        let path = format!("s/{number}/f");
        entry(&mut tar, EntryType::Regular, &path, "", b"");
    }
    let tar = tar.into_inner().unwrap();
    limited_to(1_000_000).import_bytes("x", &tar).unwrap();
    let home = limited_to(20_000);
    let error = home.import_bytes("x", &tar).unwrap_err().told();
    assert!(error.contains("more than 20000 folders"), "{error}");
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[test]
fn up_and_down_through_links_leads_where_it_says() {
    let home = Home::new();
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, EntryType::Directory, "a/b/c", "", b"");
    entry(&mut tar, EntryType::Directory, "e", "", b"");
    entry(
        &mut tar,
        EntryType::Symlink,
        "a/up",
        "b/c/../../../../e",
        b"",
    );
    entry(&mut tar, EntryType::Symlink, "a/down", "b/./c/..", b"");
    entry(&mut tar, EntryType::Regular, "a/up/one", "", b"1");
    entry(&mut tar, EntryType::Regular, "a/down/two", "", b"2");
    entry(&mut tar, EntryType::Link, "three", "a/down/two", b"");
    let image = home.import_bytes("x", &tar.into_inner().unwrap()).unwrap();
    let read = |path: &str| fs::read_to_string(image.root().join(path)).unwrap();
    assert_eq!(
        (read("e/one"), read("a/b/two"), read("three")),
        ("1".to_owned(), "2".to_owned(), "2".to_owned())
    );
}

/// Stands in a path for the folder that must not be touched.
const VICTIM: &str = "VICTIM";

/// Paths made of parts that are likely to collide, with so much `..`: an entry's own path
/// that has it is refused, a link's target leads up.
fn path(dot_dot_weight: u32) -> impl Strategy<Value = String> {
    let part = prop_oneof![
        40 => "[ab]".prop_map(String::from),
        dot_dot_weight => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just(".wh.a".to_owned()),
        1 => Just(".wh..wh..opq".to_owned()),
        1 => Just(VICTIM.to_owned()),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn kind() -> impl Strategy<Value = EntryType> {
    prop_oneof![
        30 => Just(EntryType::Regular),
        20 => Just(EntryType::Directory),
        30 => Just(EntryType::Symlink),
        3 => Just(EntryType::Link),
        1 => Just(EntryType::Fifo),
        1 => Just(EntryType::Char),
    ]
}

/// Whether there is but what may be: files, folders and symbolic links.
fn is_harmless(root: &Path) -> bool {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            let kind = item.file_type().unwrap();
            if kind.is_dir() {
                folders.push(item.path());
            } else if !kind.is_file() && !kind.is_symlink() {
                return false;
            }
        }
    }
    true
}

/// How many images are tried.
const CASES: u32 = 200;

#[test]
fn no_layers_of_any_entries_escape() {
    let item = (
        kind(),
        path(1),
        prop_oneof![path(40), path(40).prop_map(|path| format!("/{path}"))],
    );
    let layers = proptest::collection::vec(proptest::collection::vec(item, 1..6), 1..4);
    let imported = Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let ran = runner.run(&layers, |layers| {
        let home = with_victim();
        let before = surroundings(&home);
        let victim = home.path("victim");
        let victim = &victim.to_str().unwrap()[1..];
        let tars: Vec<Vec<u8>> = layers
            .iter()
            .map(|entries| {
                let mut tar = tar::Builder::new(Vec::new());
                for (kind, path, link) in entries {
                    let short = |path: &str| {
                        let mut path = path.replace(VICTIM, victim);
                        path.truncate(99);
                        path
                    };
                    entry(
                        &mut tar,
                        *kind,
                        &short(path),
                        &short(link),
                        if kind.is_file() { b"evil" } else { b"" },
                    );
                }
                tar.into_inner().unwrap()
            })
            .collect();
        let layout = tempfile::tempdir().unwrap();
        write_layout(layout.path(), &[(&image_of(&tars), None)]);
        if let Ok(image) = home.import("x", layout.path()) {
            imported.set(imported.get() + 1);
            prop_assert!(is_harmless(image.root()));
            prop_assert!(has_only_roots(&home));
            drop(image);
            home.store.remove(&reference("x")).unwrap();
        }
        prop_assert_eq!(&before, &surroundings(&home));
        prop_assert_eq!(home.items("roots"), [""; 0]);
        prop_assert_eq!(home.items("tmp"), [""; 0]);
        Ok(())
    });
    ran.unwrap();
    // What is refused at its first entry shows nothing.
    let imported = imported.get();
    assert!(
        imported > CASES / 4,
        "only {imported} of {CASES} were images"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_tars_are_errors_or_images_but_never_panics(
        at in 0usize..4096, bytes in proptest::collection::vec(any::<u8>(), 1..40)
    ) {
        let home = Home::new();
        let mut tar = tar_of(&[("a/b", b"content"), ("c", b"more"), ("d/", b"")]);
        for (place, byte) in bytes.iter().enumerate() {
            let place = (at + place) % tar.len();
            tar[place] = *byte;
        }
        if let Ok(image) = home.import_bytes("x", &tar) {
            prop_assert!(is_harmless(image.root()));
        }
        prop_assert!(has_only_roots(&home));
    }
}
