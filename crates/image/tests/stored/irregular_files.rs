//! Promise: what is no regular file is named, and neither waited for nor read,
//! wherever an image or credentials are looked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::*;
use image::{Digest, Registries};
use rustix::fs::{CWD, FileType, Mode};

/// Within what everything here ends, or fails its test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts something that is no regular file where one was, if one was.
type Put = fn(&Path);

const IRREGULAR: [(&str, Put); 5] = [
    ("a FIFO", |path| {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    }),
    ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ("a folder", |path| fs::create_dir(path).unwrap()),
    ("a device", |path| symlink("/dev/zero", path).unwrap()),
    ("out of the folder", |path| {
        symlink("/etc/passwd", path).unwrap();
    }),
];

fn within_patience<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).unwrap()
}

/// Why the import of that fails.
fn refused(path: &Path) -> String {
    let path = path.to_owned();
    within_patience(move || {
        let home = Home::new();
        let error = home.import("x", &path).unwrap_err().told();
        assert_eq!(home.items("roots"), [""; 0], "{error}");
        assert_eq!(home.items("tmp"), [""; 0], "{error}");
        error
    })
}

#[test]
fn files_of_a_layout_are_regular_ones() {
    let made = image_of(&[noise(1000)]);
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let files = [
        "oci-layout".to_owned(),
        "index.json".to_owned(),
        blob(&made.digest),
        blob(&made.blobs[0].0),
        blob(&made.blobs[1].0),
    ];
    for (kind, put) in IRREGULAR {
        for file in &files {
            let folder = tempfile::tempdir().unwrap();
            write_layout(folder.path(), &[(&made, None)]);
            let path = folder.path().join(file);
            fs::remove_file(&path).unwrap();
            put(&path);
            let error = refused(folder.path());
            let says = match kind {
                // A device is out of the folder, too.
                "a device" => "out of the folder",
                kind => kind,
            };
            assert!(error.contains(says) && error.contains(file), "{error}");
        }
    }
}

#[test]
fn links_within_a_layout_are_followed() {
    let made = image_of(&[noise(1000)]);
    let home = Home::new();
    let folder = home.path("layout");
    write_layout(&folder, &[(&made, None)]);
    let blobs = folder.join("blobs/sha256");
    for (digest, _) in &made.blobs {
        let aside = format!("aside-{}", digest.hex());
        fs::rename(blobs.join(digest.hex()), folder.join(&aside)).unwrap();
        symlink(format!("../../{aside}"), blobs.join(digest.hex())).unwrap();
    }
    assert_eq!(home.import("x", &folder).unwrap().digest, made.digest);
}

#[test]
fn what_is_imported_is_a_file_or_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, put) in IRREGULAR.into_iter().filter(|(_, put)| {
        // Folders and links to files are fine.
        let path = folder.path().join("probe");
        put(&path);
        let fine = path.is_dir() || path.is_file();
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        !fine
    }) {
        let path = folder.path().join("it");
        put(&path);
        let error = refused(&path);
        assert!(error.contains(kind) && error.contains("'-'"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn credentials_are_in_a_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, put) in &IRREGULAR[..4] {
        let path = folder.path().join(format!("{kind}.json"));
        put(&path);
        let file = path.clone();
        let read = within_patience(move || Registries::from_docker_config(&file));
        let error = read.unwrap_err().told();
        assert!(error.contains(kind), "{error}");
    }
}

#[test]
fn files_of_the_store_are_regular_ones() {
    let made = image_of(&[noise(1000)]);
    let digest = made.digest.as_str().replace(':', "-");
    let files = [
        "references/docker.io+library+x:latest".to_owned(),
        format!("roots/{digest}-mine/image.json"),
    ];
    for file in files {
        let home = Home::new();
        let layout = home.path("layout");
        write_layout(&layout, &[(&made, None)]);
        home.import("x", &layout).unwrap();
        let path: PathBuf = home.images().join(file);
        fs::remove_file(&path).unwrap();
        (IRREGULAR[0].1)(&path);
        let error = within_patience(move || {
            let found = home.store.get(&reference("x"));
            found.unwrap_err().told()
        });
        assert!(error.contains("a FIFO"), "{error}");
    }
}
