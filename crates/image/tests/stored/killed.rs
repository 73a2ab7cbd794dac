//! Promise: killed at any moment, a process leaves no half image, and nothing
//! that the next one does not clear away.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::server::Server;
use crate::support::*;
use image::{Input, NoProgress, Registries, Store};

/// Not a test of its own: what the other tests start and kill.
#[test]
fn child() {
    let Some(home) = std::env::var_os("KILLED_HOME") else {
        return;
    };
    let store = Store::open(Path::new(&home), options()).unwrap();
    let name = std::env::var("KILLED_NAME").unwrap();
    match std::env::var_os("KILLED_INPUT") {
        Some(input) => drop(
            store
                .import(&reference(&name), Input::Path(input.into()), &NoProgress)
                .unwrap(),
        ),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (name, registries) = (reference(&name), Registries::default());
            let pull = store.pull(&name, &registries, &NoProgress);
            drop(runtime.block_on(pull).unwrap());
        }
    }
}

fn start(home: &Home, name: &str, input: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &test_name(module_path!(), "child")])
        .env("KILLED_HOME", home.path("home"))
        .env("KILLED_NAME", name);
    if let Some(input) = input {
        command.env("KILLED_INPUT", input);
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const FILE_BYTES: usize = 2000;

/// A layer of that many files.
fn files(count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count)
        .map(|place| format!("folder{}/file{place}", place % 50))
        .collect();
    let content = [b'x'; FILE_BYTES];
    let list: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), &content[..]))
        .collect();
    tar_of(&list)
}

/// Whether that many [`files`] are there, each with all of its content.
fn whole(root: &Path, count: usize) -> bool {
    let folders = fs::read_dir(root).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let is_whole = |file: &io::Result<fs::DirEntry>| {
        file.as_ref().unwrap().metadata().unwrap().len() == FILE_BYTES as u64
    };
    files.filter(is_whole).count() == count
}

/// The first delay before a kill, in milliseconds.
const DELAY_MIN: u64 = 8;

/// Kills after growing delays until one process gets through.
fn kill_again_and_again(home: &Home, name: &str, input: Option<&Path>, count: usize) {
    let (mut killed, mut milliseconds) = (0, DELAY_MIN);
    for _ in 0..60 {
        let mut child = start(home, name, input);
        std::thread::sleep(Duration::from_millis(milliseconds));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever is there under its digest is whole.
        for root in fs::read_dir(home.images().join("roots"))
            .into_iter()
            .flatten()
        {
            assert!(whole(&root.unwrap().path().join("root"), count));
        }
        if let Some(image) = home.store.get(&reference(name)).unwrap() {
            assert!(whole(image.root(), count));
            drop(image);
            home.store.remove(&reference(name)).unwrap();
        }
        if !ended {
            killed += 1;
            milliseconds += milliseconds / 2;
        } else if killed > 2 {
            return;
        } else {
            // It is we who were too slow.
            milliseconds = DELAY_MIN;
        }
    }
    panic!("of 60, {killed} were killed before they had ended");
}

/// A file that was about to be put into its place may stay for some minutes.
fn expect_no_folders(home: &Home, path: &str) {
    let entries = fs::read_dir(home.images().join(path)).unwrap();
    let is_folder = |entry: &fs::DirEntry| entry.file_type().unwrap().is_dir();
    let folders: Vec<_> = entries.map(Result::unwrap).filter(is_folder).collect();
    assert!(folders.is_empty(), "{folders:?}");
}

#[test]
fn an_import_that_is_killed_leaves_nothing_for_long() {
    let home = Home::new();
    let count = 1500;
    let input = home.path("root.tar");
    fs::write(&input, files(count)).unwrap();
    kill_again_and_again(&home, "x", Some(&input), count);
    home.import("x", &input).unwrap();
    expect_no_folders(&home, "tmp");
    assert_eq!(home.items("roots").len(), 1);
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_for_long() {
    let home = Home::new();
    let count = 1500;
    let made = image_of(&[files(count)]);
    let server = Server::of(&made, |_, _| None);
    kill_again_and_again(&home, &server.name("x"), None, count);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let name = reference(&server.name("x"));
    runtime
        .block_on(home.store.pull(&name, &Registries::default(), &NoProgress))
        .unwrap();
    expect_no_folders(&home, "tmp");
    assert_eq!(home.items("blobs"), [""; 0]);
    assert_eq!(home.items("roots").len(), 1);
}

#[test]
fn an_import_that_shares_files_can_be_killed() {
    let home = Home::new();
    let count = 1500;
    let (base, more) = (
        files(count),
        tar_of(&[("folder0/file0", &[b'y'; FILE_BYTES])]),
    );
    let layouts = [&[base.clone()][..], &[base, more]].map(|layers| {
        let folder = tempfile::tempdir().unwrap();
        write_layout(folder.path(), &[(&image_of(layers), None)]);
        folder
    });
    let first = home.import("first", layouts[0].path()).unwrap();
    kill_again_and_again(&home, "x", Some(layouts[1].path()), count);
    assert!(whole(first.root(), count));
    let other = home.import("x", layouts[1].path()).unwrap();
    let inode = |root: &Path, file: &str| fs::metadata(root.join(file)).unwrap().ino();
    let is_shared = |file| inode(first.root(), file) == inode(other.root(), file);
    assert!(is_shared("folder1/file1") && !is_shared("folder0/file0"));
    expect_no_folders(&home, "tmp");
    drop((first, other));
    for name in ["first", "x"] {
        home.store.remove(&reference(name)).unwrap();
    }
    for folder in ["roots", "layers"] {
        expect_no_folders(&home, folder);
    }
}
