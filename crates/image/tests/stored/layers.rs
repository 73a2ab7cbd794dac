//! Promise: layers become the files that they describe, and stay harmless.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::*;
use image::{Image, MountPoint, Owners, StoreOptions};
use tar::EntryType;
use test_support::tars::entry;

fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    build(&mut tar);
    tar.into_inner().unwrap()
}

fn import(home: &Home, layers: &[Vec<u8>]) -> Image {
    let made = image_of(layers);
    let folder = home.path("layout");
    write_layout(&folder, &[(&made, None)]);
    home.import("x", &folder).unwrap()
}

fn read(image: &Image, path: &str) -> String {
    fs::read_to_string(image.root().join(path)).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let items = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = items
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let home = Home::new();
    let image = import(
        &home,
        &[
            tar_of(&[
                ("gone", b""),
                ("dir/a", b"lower"),
                ("dir/b", b"lower"),
                ("opaque/x", b"lower"),
                ("opaque/sub/y", b"lower"),
                ("kept", b""),
            ]),
            layer(|tar| {
                entry(tar, EntryType::Regular, "opaque/before", "", b"own");
                entry(tar, EntryType::Regular, "opaque/sub/z", "", b"own");
                entry(tar, EntryType::Regular, "opaque/.wh..wh..opq", "", b"");
                entry(tar, EntryType::Regular, "opaque/after", "", b"own");
                entry(tar, EntryType::Regular, ".wh.gone", "", b"");
                entry(tar, EntryType::Regular, "dir/.wh.a", "", b"");
                entry(tar, EntryType::Regular, "dir/b", "", b"own");
                entry(tar, EntryType::Regular, "dir/.wh.b", "", b"");
                entry(tar, EntryType::Regular, ".wh.never", "", b"");
                entry(tar, EntryType::Regular, ".wh..wh.plnk/1.2", "", b"");
            }),
        ],
    );
    assert_eq!(names(image.root()), ["dir", "kept", "opaque"]);
    assert_eq!(names(&image.root().join("dir")), ["b"]);
    assert_eq!(read(&image, "dir/b"), "own");
    assert_eq!(
        names(&image.root().join("opaque")),
        ["after", "before", "sub"]
    );
    assert_eq!(names(&image.root().join("opaque/sub")), ["z"]);
}

#[test]
fn a_whiteout_of_a_folder_that_its_layer_makes_anew_hides_the_old_content() {
    let home = Home::new();
    let image = import(
        &home,
        &[
            tar_of(&[("d/old", b"")]),
            tar_of(&[("d/", b""), ("d/new", b""), (".wh.d", b"")]),
        ],
    );
    assert_eq!(names(&image.root().join("d")), ["new"]);
}

#[test]
fn kinds_replace_one_another() {
    let home = Home::new();
    let image = import(
        &home,
        &[
            tar_of(&[("file", b""), ("folder/deep/er", b""), ("other", b"")]),
            layer(|tar| {
                entry(tar, EntryType::Directory, "file/", "", b"");
                entry(tar, EntryType::Regular, "file/in", "", b"1");
                entry(tar, EntryType::Regular, "folder", "", b"2");
                entry(tar, EntryType::Symlink, "other", "folder", b"");
            }),
        ],
    );
    assert_eq!(read(&image, "file/in"), "1");
    assert_eq!(read(&image, "folder"), "2");
    assert_eq!(read(&image, "other"), "2");
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[test]
fn links_modes_times_and_devices() {
    let home = Home::new();
    let tar = layer(|tar| {
        entry(tar, EntryType::Directory, "./", "", b"");
        entry(tar, EntryType::Regular, "a/file", "", b"x");
        entry(tar, EntryType::Link, "hard", "a/file", b"");
        entry(tar, EntryType::Link, "absolute", "/a/file", b"");
        entry(tar, EntryType::Link, "a/file", "a/file", b"");
        entry(tar, EntryType::Symlink, "soft", "/a/file", b"");
        entry(tar, EntryType::Fifo, "fifo", "", b"");
        entry(tar, EntryType::Char, "null", "", b"");
        entry(tar, EntryType::Block, "disk", "", b"");
        let mut header = tar::Header::new_gnu();
        header.set_path("suid").unwrap();
        header.set_mode(0o7755);
        header.set_mtime(5);
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
    });
    let image = import(&home, &[tar]);
    let about = |path: &str| fs::symlink_metadata(image.root().join(path)).unwrap();
    assert_eq!(
        names(image.root()),
        ["a", "absolute", "hard", "soft", "suid"]
    );
    assert_eq!(about("a/file").ino(), about("hard").ino());
    // One of them is the store's.
    assert_eq!(about("a/file").nlink(), 3 + 1);
    assert_eq!(
        fs::read_link(image.root().join("soft")).unwrap(),
        Path::new("/a/file")
    );
    assert_eq!(
        (about("suid").mode() & 0o7777, about("suid").mtime()),
        (0o1755, 5)
    );
    assert_eq!(
        (about("a/file").mode() & 0o7777, about("a/file").mtime()),
        (0o644, 1_000_000_000)
    );
    assert_eq!(about("soft").mtime(), 1_000_000_000);
    assert_eq!(about("").mode() & 0o7777, 0o755);
}

#[test]
fn what_is_neither_file_nor_folder_nor_link_is_left_out() {
    let home = Home::new();
    for kind in [EntryType::Fifo, EntryType::Char, EntryType::Block] {
        let lower = layer(|tar| {
            entry(tar, EntryType::Regular, "file", "", b"lower");
            entry(tar, EntryType::Regular, "other", "", b"lower");
            entry(tar, EntryType::Regular, "folder/in", "", b"lower");
            entry(tar, kind, "alone", "", b"");
            entry(tar, kind, "later", "", b"");
            entry(tar, kind, "hidden", "", b"");
            entry(tar, kind, "a/below", "", b"");
        });
        let upper = layer(|tar| {
            // Over what was there, and over that a hard link to nothing.
            entry(tar, kind, "file", "", b"");
            entry(tar, kind, "folder", "", b"");
            entry(tar, EntryType::Link, "other", "file", b"");
            entry(tar, EntryType::Link, "again", "other", b"");
            entry(tar, EntryType::Link, "below", "alone", b"");
            entry(tar, EntryType::Regular, ".wh.hidden", "", b"");
            entry(tar, EntryType::Regular, "a/.wh..wh..opq", "", b"");
            entry(tar, EntryType::Regular, "later", "", b"upper");
            entry(tar, EntryType::Link, "linked", "later", b"");
            entry(tar, kind, "inside", "", b"");
            entry(tar, EntryType::Regular, "inside/in", "", b"upper");
        });
        let image = import(&home, &[lower, upper]);
        assert_eq!(names(image.root()), ["a", "inside", "later", "linked"]);
        assert_eq!(names(&image.root().join("a")), [""; 0]);
        assert_eq!(read(&image, "linked"), "upper");
        assert_eq!(read(&image, "inside/in"), "upper");
    }
}

#[test]
fn what_is_left_out_counts() {
    let tar = layer(|tar| {
        for number in 0..10 {
            entry(tar, EntryType::Fifo, &number.to_string(), "", b"");
        }
    });
    let home = Home::with(image::StoreOptions {
        limits: image::Limits {
            entries_max: 9,
            ..Default::default()
        },
        ..options()
    });
    let error = home.import_bytes("x", &tar).unwrap_err().told();
    assert!(error.contains("more than 9 entries"), "{error}");
}

#[test]
fn what_is_remembered_of_a_layer_has_a_bound_in_memory() {
    let fifos = |from: usize, count: usize| {
        layer(|tar| {
            for number in from..from + count {
                entry(tar, EntryType::Fifo, &format!("f{number}"), "", b"");
            }
        })
    };
    let folders = layer(|tar| {
        for number in 0..1000 {
            entry(tar, EntryType::Directory, &format!("f{number}"), "", b"");
        }
    });
    let import = |layers: &[Vec<u8>]| {
        let home = Home::with(image::StoreOptions {
            limits: image::Limits {
                memory_bytes_max: 10_000,
                ..Default::default()
            },
            ..options()
        });
        let layout = home.path("layout");
        write_layout(&layout, &[(&image_of(layers), None)]);
        home.import("x", &layout).map(drop)
    };
    for layers in [vec![fifos(0, 2000)], vec![fifos(0, 1), folders]] {
        let error = import(&layers).unwrap_err().told();
        assert!(error.contains("10000 bytes to remember"), "{error}");
    }
    // Of what there is, what is remembered of a layer is forgotten at its end.
    let files = |from: usize| {
        layer(|tar| {
            for number in from..from + 600 {
                entry(tar, EntryType::Regular, &format!("f{number}"), "", b"");
            }
        })
    };
    import(&[files(0), files(600), files(1200)]).unwrap();
}

#[test]
fn long_names_and_sparse_files_of_gnu_tar_in_every_format() {
    if !have(&["tar"]) {
        return;
    }
    let home = Home::new();
    let source = home.path("source");
    let long = ["n".repeat(200), "m".repeat(150)].join("/");
    fs::create_dir_all(source.join(&long)).unwrap();
    fs::write(source.join(&long).join("file"), "long").unwrap();
    std::os::unix::fs::symlink(&long, source.join("link")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    for part in 0..30u64 {
        std::os::unix::fs::FileExt::write_at(
            &sparse,
            format!("part {part}").as_bytes(),
            part * (1 << 20),
        )
        .unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=1.0"],
        &["--format=pax", "--sparse-version=0.1"],
    ] {
        let file = home.path("tar");
        let mut arguments = format.to_vec();
        arguments.extend([
            "--sparse",
            "-C",
            source.to_str().unwrap(),
            "-cf",
            file.to_str().unwrap(),
            ".",
        ]);
        run("tar", &arguments);
        let image = home.import("x", &file).unwrap();
        assert_eq!(read(&image, &format!("{long}/file")), "long", "{format:?}");
        assert_eq!(read(&image, "link/file"), "long", "{format:?}");
        let unpacked = image.root().join("sparse");
        assert!(
            fs::read(&unpacked).unwrap() == fs::read(source.join("sparse")).unwrap(),
            "{format:?}"
        );
        assert!(
            fs::metadata(&unpacked).unwrap().blocks() < 4096,
            "{format:?} lost its holes"
        );
        let mtime = |path: &Path| fs::metadata(path).unwrap().mtime();
        assert_eq!(mtime(&unpacked), mtime(&source.join("sparse")));
    }
    let file = home.path("tar");
    run(
        "tar",
        &[
            "--format=pax",
            "--sparse-version=0.0",
            "--sparse",
            "-C",
            source.to_str().unwrap(),
            "-cf",
            file.to_str().unwrap(),
            ".",
        ],
    );
    let error = home.import("x", &file).unwrap_err().told();
    assert!(error.contains("sparse-version=1.0"), "{error}");
}

#[test]
fn missing_parents_are_made_also_through_links() {
    let home = Home::new();
    let image = import(
        &home,
        &[layer(|tar| {
            entry(tar, EntryType::Regular, "a/b/c", "", b"1");
            entry(tar, EntryType::Symlink, "abs", "/a/b", b"");
            entry(tar, EntryType::Regular, "abs/d", "", b"2");
            entry(tar, EntryType::Symlink, "up", "../../../../a", b"");
            entry(tar, EntryType::Regular, "up/e", "", b"3");
            entry(tar, EntryType::Symlink, "dangling", "new/place", b"");
            entry(tar, EntryType::Regular, "dangling/f", "", b"4");
        })],
    );
    assert_eq!(read(&image, "a/b/d"), "2");
    assert_eq!(read(&image, "a/e"), "3");
    assert_eq!(read(&image, "new/place/f"), "4");
    assert_eq!(
        fs::metadata(image.root().join("a")).unwrap().mode() & 0o7777,
        0o755
    );
}

const POINTS: &[MountPoint] = &[
    MountPoint::Directory("dev"),
    MountPoint::Directory("var/tmp"),
    MountPoint::Directory("run"),
    MountPoint::Directory("proc"),
    MountPoint::File("etc/hosts"),
    MountPoint::File("etc/resolv.conf"),
];

#[test]
fn mount_points_are_made_where_absent_and_within_the_root() {
    let home = Home::with(StoreOptions {
        mount_points: POINTS,
        ..options()
    });
    let image = import(
        &home,
        &[layer(|tar| {
            entry(tar, EntryType::Symlink, "var", "/else/where", b"");
            entry(
                tar,
                EntryType::Symlink,
                "etc/resolv.conf",
                "../run/systemd/resolv.conf",
                b"",
            );
            entry(tar, EntryType::Regular, "proc", "", b"a file");
            entry(tar, EntryType::Symlink, "run", "run", b"");
        })],
    );
    assert!(image.root().join("dev").is_dir());
    assert!(image.root().join("else/where/tmp").is_dir());
    assert_eq!(read(&image, "etc/hosts"), "");
    assert_eq!(read(&image, "proc"), "a file");
    let plain = Home::with(StoreOptions {
        mount_points: POINTS,
        ..options()
    });
    let image = import(
        &plain,
        &[layer(|tar| {
            entry(
                tar,
                EntryType::Symlink,
                "etc/resolv.conf",
                "../run/systemd/resolv.conf",
                b"",
            )
        })],
    );
    assert_eq!(read(&image, "run/systemd/resolv.conf"), "");
}

#[test]
fn a_folder_is_searched_once_however_often_it_is_made_opaque() {
    let home = Home::new();
    let below = tar_of(&[("folder/old", b""), ("folder/sub/old", b"")]);
    let above = layer(|tar| {
        for number in 0..6000 {
            let path = format!("folder/sub/{number}");
            entry(tar, EntryType::Regular, &path, "", b"");
        }
        for _ in 0..20_000 {
            for path in ["folder/sub/.wh..wh..opq", "folder/.wh..wh..opq"] {
                entry(tar, EntryType::Regular, path, "", b"");
            }
        }
        entry(tar, EntryType::Regular, "folder/new", "", b"");
    });
    let began = std::time::Instant::now();
    let image = import(&home, &[below, above]);
    // Searched each time, it would take hundreds of millions of steps more.
    assert!(began.elapsed() < std::time::Duration::from_secs(100));
    let count = |path| fs::read_dir(image.root().join(path)).unwrap().count();
    assert_eq!((count("folder"), count("folder/sub")), (2, 6000));
}

#[test]
fn owners_are_shifted_into_the_sandboxs_range() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "root is needed in CI");
        eprintln!("SKIPPED: not root");
        return;
    }
    let home = Home::with(StoreOptions {
        owners: Owners::Shifted { base: 200_000 },
        ..options()
    });
    let tar = layer(|tar| {
        for (path, id) in [("root", 0), ("seven", 7), ("high", 70_000)] {
            let mut header = tar::Header::new_gnu();
            header.set_path(path).unwrap();
            header.set_size(0);
            header.set_mode(0o600);
            header.set_uid(id);
            header.set_gid(id + 1);
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
        }
        entry(tar, EntryType::Symlink, "implied/link", "x", b"");
    });
    let image = import(&home, &[tar]);
    let owner = |path: &str| {
        let about = fs::symlink_metadata(image.root().join(path)).unwrap();
        (about.uid(), about.gid())
    };
    assert_eq!(owner(""), (200_000, 200_000));
    assert_eq!(owner("root"), (200_000, 200_001));
    assert_eq!(owner("seven"), (200_007, 200_008));
    assert_eq!(owner("high"), (265_534, 265_534));
    assert_eq!(owner("implied"), (200_000, 200_000));
    assert_eq!(owner("implied/link"), (200_000, 200_000));
    // Nobody else gets to the files.
    assert_eq!(fs::metadata(home.images()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn however_deep_a_tree_it_can_be_replaced_and_deleted() {
    let home = Home::new();
    let mut tar = tar::Builder::new(Vec::new());
    // Each link leads one hundred folders further down than the one before.
    let steps = "d/".repeat(40);
    entry(
        &mut tar,
        EntryType::Directory,
        &format!("deep/{steps}"),
        "",
        b"",
    );
    entry(
        &mut tar,
        EntryType::Symlink,
        "l0",
        &format!("deep/{steps}"),
        b"",
    );
    for step in 1..60 {
        entry(
            &mut tar,
            EntryType::Directory,
            &format!("l{}/{steps}", step - 1),
            "",
            b"",
        );
        // A link straight to the folder would need its whole path, so the tree
        // is turned round: what is deep moves into what is new by its link.
        entry(
            &mut tar,
            EntryType::Symlink,
            &format!("l{step}"),
            &format!("l{}/{steps}", step - 1),
            b"",
        );
        if step >= 38 {
            break;
        }
    }
    let deep = tar.into_inner().unwrap();
    let image = import(&home, &[deep, tar_of(&[("deep", b"a file now")])]);
    assert_eq!(read(&image, "deep"), "a file now");
    drop(image);
    home.store.remove(&reference("x")).unwrap();
    assert_eq!(home.items("roots"), [""; 0]);
    assert_eq!(home.items("tmp"), [""; 0]);
}
