//! Makes things outlast a power failure: a file's content, the names in a folder, and all
//! that was written to a file system. Nothing else in the store waits for the disk
//! itself, or makes something appear that others rely on.

use std::fs::File;
use std::io;
use std::path::Path;

/// Writes all of the file system to the disk that `folder` is on.
pub(super) fn file_system(folder: &File) -> io::Result<()> {
    did("all written", Path::new(""));
    Ok(rustix::fs::syncfs(folder)?)
}

/// Writes a file's content to the disk.
pub(super) fn content(file: &File, path: &Path) -> io::Result<()> {
    did("written", path);
    file.sync_all()
}

/// Makes renames and removals in a path's folder last.
pub(super) fn names_beside(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    did("named", folder);
    File::open(folder)?.sync_all()
}

/// Notes that something appears at `path`, for a test of the order.
pub(super) fn appears(path: &Path) {
    did("appears", path);
}

#[cfg(not(test))]
fn did(_: &'static str, _: &Path) {}

#[cfg(test)]
fn did(what: &'static str, path: &Path) {
    tests::LOG.with_borrow_mut(|log| log.push((what, path.to_owned())));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::io::Cursor;
    use std::path::PathBuf;

    use crate::source::archive::Input;
    use crate::{NoProgress, Reference, Store, StoreOptions};

    thread_local! {
        pub(super) static LOG: RefCell<Vec<(&'static str, PathBuf)>> = RefCell::default();
    }

    /// What was done since this was asked before, with the kind of thing it was done to.
    fn done(home: &tempfile::TempDir) -> Vec<String> {
        let images = home.path().join("images");
        let log = LOG.take().into_iter();
        let done = log.map(|(what, path)| {
            let path = path.strip_prefix(&images).unwrap_or(&path);
            let kind = path.components().next();
            let kind = kind.map_or("", |kind| kind.as_os_str().to_str().unwrap());
            format!("{what} {kind}").trim_end().to_owned()
        });
        done.collect()
    }

    fn tar(content: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), content).unwrap();
        let mut tar = std::process::Command::new("tar");
        let tar = tar.args(["-c", "-C"]).arg(folder.path()).arg("a");
        tar.output().unwrap().stdout
    }

    #[test]
    fn nothing_appears_before_it_would_outlast_a_power_failure() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path(), StoreOptions::default()).unwrap();
        let name: Reference = "x".parse().unwrap();
        done(&home);
        for content in ["1", "2"] {
            let input = Input::Read(Box::new(Cursor::new(tar(content))));
            drop(store.import(&name, input, &NoProgress).unwrap());
            // All of a root, the root's own name, and then what leads to it.
            let expected = [
                "all written",
                "appears roots",
                "named roots",
                "written tmp",
                "appears references",
                "named references",
            ];
            assert_eq!(done(&home), expected);
        }
        store.remove(&name).unwrap();
        assert_eq!(done(&home), ["named references"]);
    }

    #[test]
    fn files_are_shared_only_when_they_would_outlast_a_power_failure() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path(), StoreOptions::default()).unwrap();
        let layer = tar("1");
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [crate::Digest::of(&layer)]},
        });
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
        put("layer.tar", &layer);
        put("config.json", config.to_string().as_bytes());
        put(
            "manifest.json",
            br#"[{"Config": "config.json", "Layers": ["layer.tar"]}]"#,
        );
        let mut archive = std::process::Command::new("tar");
        let archive = archive.args(["-c", "-C"]).arg(folder.path());
        let archive = archive.args(["manifest.json", "config.json", "layer.tar"]);
        let input = Input::Read(Box::new(Cursor::new(archive.output().unwrap().stdout)));
        done(&home);
        drop(
            store
                .import(&"x".parse().unwrap(), input, &NoProgress)
                .unwrap(),
        );
        let done = done(&home);
        let at = |what: &str| done.iter().position(|done| done == what).unwrap();
        assert!(at("all written") < at("appears roots"), "{done:?}");
        assert!(at("named roots") < at("appears layers"), "{done:?}");
    }
}
