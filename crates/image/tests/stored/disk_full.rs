//! Promise: a full disk is told, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use crate::support::*;
use image::{Input, NoProgress, Store};

/// Runs itself again in a mount namespace of its own, on a tiny file system.
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let name = test_name(module_path!(), "a_full_disk_is_told_and_leaves_nothing");
    let Some(small) = std::env::var_os("SMALL_DISK") else {
        if !have(&["unshare", "mount"]) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = r#"mount -t tmpfs -o size=2m none "$SMALL_DISK" && exec "$0" --exact "$1""#;
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env("SMALL_DISK", folder.path())
            .output()
            .unwrap();
        expect_one_passed(&output);
        return;
    };
    let home = Path::new(&small).join("home");
    let store = Store::open(&home, options()).unwrap();
    // Into the root itself, from a layout outside, and while spooling a stream.
    let source = tempfile::tempdir().unwrap();
    let content = vec![0; 4 << 20];
    write_layout(
        source.path(),
        &[(&image_of(&[tar_of(&[("large", &content)])]), None)],
    );
    let stream = || {
        Input::Read(Box::new(std::io::Cursor::new(tar_of(&[(
            "large",
            &vec![0; 4 << 20],
        )]))))
    };
    for input in [Input::Path(source.path().to_owned()), stream()] {
        let error = store
            .import(&reference("x"), input, &NoProgress)
            .unwrap_err()
            .told();
        assert!(error.contains("no space left"), "{error}");
        for folder in ["tmp", "roots", "references"] {
            assert_eq!(
                std::fs::read_dir(home.join("images").join(folder))
                    .unwrap()
                    .count(),
                0
            );
        }
    }
    // What an image shares takes no room again, and is left alone when there is none.
    let base = tar_of(&[("base", &vec![b'b'; 1 << 20])]);
    let import = |name: &str, more: &[u8]| {
        let source = tempfile::tempdir().unwrap();
        let made = image_of(&[base.clone(), tar_of(&[("own", more)])]);
        write_layout(source.path(), &[(&made, None)]);
        let input = Input::Path(source.path().to_owned());
        store.import(&reference(name), input, &NoProgress)
    };
    let one = import("one", b"1").unwrap();
    let other = import("other", b"2").unwrap();
    let error = import("large", &vec![0; 4 << 20]).unwrap_err().told();
    assert!(error.contains("no space left"), "{error}");
    for image in [one, other] {
        let content = std::fs::read(image.root().join("base")).unwrap();
        assert_eq!(content, vec![b'b'; 1 << 20]);
    }
    assert!(import("third", b"3").is_ok());
    // With what is small there is room again.
    let input = Input::Read(Box::new(std::io::Cursor::new(tar_of(&[("small", b"1")]))));
    store.import(&reference("x"), input, &NoProgress).unwrap();
}
