//! Promise: the folders that an image is to be run in are there, empty, and made
//! in its root and nowhere else, whatever its config and its links say.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::support::server::Server;
use crate::support::*;
use image::{Image, Limits, NoProgress, Owners, Registries, StoreOptions};
use test_support::tars::entry;

/// An image whose config has this working directory and these volumes.
fn image_with(working: &str, volumes: &[&str], layers: &[Vec<u8>]) -> Made {
    let volumes: serde_json::Map<_, _> = volumes
        .iter()
        .map(|path| ((*path).to_owned(), serde_json::json!({})))
        .collect();
    let run = serde_json::json!({"WorkingDir": working, "Volumes": volumes});
    let mut made = image_of(layers);
    let (old, config) = made.blobs.pop().unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let old_bytes = config.to_string().len();
    config["config"] = run;
    let config = config.to_string().into_bytes();
    let new = image::Digest::of(&config);
    let text = String::from_utf8(made.manifest).unwrap();
    let text = text.replace(old.as_str(), new.as_str());
    let size = |bytes| format!("\"size\":{bytes}}},\"layers\"");
    let (old_size, new_size) = (size(old_bytes), size(config.len()));
    assert!(text.contains(&old_size), "{text}");
    made.manifest = text.replace(&old_size, &new_size).into_bytes();
    made.digest = image::Digest::of(&made.manifest);
    made.blobs.push((new, config));
    made
}

fn import(home: &Home, made: &Made) -> Result<Image, image::ImportError> {
    let folder = home.path("layout");
    let _ = fs::remove_dir_all(&folder);
    write_layout(&folder, &[(made, None)]);
    home.import("x", &folder)
}

fn names(path: &Path) -> Vec<String> {
    let items = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = items
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_no_layer_has_is_made_empty_and_the_images_roots() {
    let layer = tar_of(&[("there/file", b"1")]);
    let volumes = ["/data/deep", "/there", "relative"];
    let made = image_with("/work/in", &volumes, &[layer]);
    let home = Home::new();
    let server = Server::of(&made, |_, _| None);
    let pulled = Home::new();
    let name = reference(&server.name("x"));
    let registries = Registries::default();
    let pulled = pulled.store.pull(&name, &registries, &NoProgress).await;
    for image in [import(&home, &made).unwrap(), pulled.unwrap()] {
        let root = image.root();
        assert_eq!(names(root), ["data", "relative", "there", "work"]);
        for path in ["work", "work/in", "data", "data/deep", "relative"] {
            let about = fs::symlink_metadata(root.join(path)).unwrap();
            assert!(about.is_dir());
            assert_eq!(about.permissions().mode() & 0o7777, 0o755, "{path}");
        }
        for path in ["work/in", "data/deep", "relative"] {
            assert_eq!(names(&root.join(path)), [""; 0], "{path}");
        }
        assert_eq!(fs::read(root.join("there/file")).unwrap(), b"1");
    }
}

#[test]
fn it_belongs_to_the_images_root_on_the_host() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let owners = Owners::Shifted { base: 200_000 };
    let home = Home::with(StoreOptions {
        owners,
        ..options()
    });
    let image = import(&home, &image_with("/work", &["/data"], &[])).unwrap();
    for path in ["work", "data"] {
        let about = fs::metadata(image.root().join(path)).unwrap();
        assert_eq!((about.uid(), about.gid()), (200_000, 200_000));
    }
}

#[test]
fn what_a_layer_has_stays_as_it_is() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("work").unwrap();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    tar.append(&header, &b""[..]).unwrap();
    entry(&mut tar, tar::EntryType::Regular, "file", "", b"1");
    let tar = tar.into_inner().unwrap();
    let home = Home::new();
    let image = import(&home, &image_with("/work", &["/file", "/file/x"], &[tar])).unwrap();
    let about = fs::metadata(image.root().join("work")).unwrap();
    assert_eq!(about.permissions().mode() & 0o7777, 0o1777);
    assert_eq!(about.mtime(), 1_000_000_000);
    assert_eq!(fs::read(image.root().join("file")).unwrap(), b"1");
}

#[test]
fn links_and_odd_paths_lead_nowhere_else() {
    let links = [
        ("dangling", "/nowhere/x"),
        ("up", "../../../../up-and-away"),
        ("loop", "loop"),
        ("host", "/etc"),
    ];
    let mut tar = tar::Builder::new(Vec::new());
    for (path, target) in links {
        entry(&mut tar, tar::EntryType::Symlink, path, target, b"");
    }
    let tar = tar.into_inner().unwrap();
    let long = format!("/{}", "n".repeat(256));
    let longer = "/a".repeat(3000);
    let volumes = [
        "/up",
        "/loop/x",
        "/host/consecution-made-this",
        "/../../out",
        "../../../tmp/consecution-made-this-too",
        "/a\0b",
        &long,
        &longer,
        "",
        "/",
        ".",
    ];
    let home = Home::new();
    let image = import(&home, &image_with("/dangling", &volumes, &[tar])).unwrap();
    let root = image.root();
    let made = [
        "nowhere/x",
        "up-and-away",
        "etc/consecution-made-this",
        "out",
        "tmp/consecution-made-this-too",
    ];
    for path in made {
        assert!(
            fs::symlink_metadata(root.join(path)).unwrap().is_dir(),
            "{path}"
        );
    }
    let all = [
        "dangling",
        "etc",
        "host",
        "loop",
        "nowhere",
        "out",
        "tmp",
        "up",
        "up-and-away",
    ];
    assert_eq!(names(root), all);
    for path in [
        "/etc/consecution-made-this",
        "/tmp/consecution-made-this-too",
    ] {
        assert!(!Path::new(path).exists());
    }
    assert_eq!(names(root.parent().unwrap()), ["image.json", "root"]);
    assert_eq!(home.items("tmp"), [""; 0]);
}

#[test]
fn a_config_cannot_ask_for_more_folders_than_an_image_may_have() {
    let limits = Limits {
        entries_max: 100,
        ..Limits::default()
    };
    let home = Home::with(StoreOptions {
        limits,
        ..options()
    });
    let many: Vec<String> = (0..101).map(|place| format!("/v/{place}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let deep = "/v".repeat(101);
    for volumes in [&many[..], &[&deep]] {
        let error = import(&home, &image_with("", volumes, &[])).unwrap_err();
        assert!(error.told().contains("more than 100 entries"), "{error}");
        assert_eq!(home.items("roots"), [""; 0]);
        assert_eq!(home.items("tmp"), [""; 0]);
    }
}

#[test]
fn what_umoci_configures_is_there() {
    if !have(&["umoci", "busybox"]) {
        return;
    }
    let home = Home::new();
    let layout = busybox_layout(home.folder.path());
    let image = format!("{}:1", layout.display());
    let config = ["--config.workingdir", "/work", "--config.volume", "/data"];
    let mut arguments = vec!["config", "--image", &image];
    arguments.extend(config);
    run("umoci", &arguments);
    let image = home.import("x", &layout).unwrap();
    assert_eq!(image.config.working_directory.as_deref(), Some("/work"));
    for path in ["work", "data"] {
        assert_eq!(names(&image.root().join(path)), [""; 0]);
    }
}
