//! Stores for tests: one with a busybox image that all tests share, and empty
//! ones for tests that change what is in them.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::command::{self, consecution};

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A root file system tar with this machine's busybox, packed once.
pub(crate) fn busybox_tar() -> &'static Path {
    static TAR: OnceLock<PathBuf> = OnceLock::new();
    TAR.get_or_init(|| {
        once("busybox-tar", |folder| {
            let tar = File::create(folder.join("busybox.tar")).unwrap();
            let script = workspace().join("scripts/busybox-image");
            let status = Command::new(script).stdout(tar).status().unwrap();
            assert!(
                status.success(),
                "scripts/busybox-image: {status}; scripts/setup test gets what it needs"
            );
        })
        .join("busybox.tar")
    })
}

/// A `--home` with the image `busybox`, shared by all tests and test processes
/// of one build of the program. Not to be changed.
pub(crate) fn shared() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| once("home", import_busybox))
}

/// A `--home` of one's own, with nothing in it.
pub(crate) fn empty() -> tempfile::TempDir {
    tempfile::Builder::new()
        // Not "home-": `once` clears away those.
        .prefix("own-home-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// A `--home` of one's own, with the image `busybox`.
pub(crate) fn with_busybox() -> tempfile::TempDir {
    let home = empty();
    import_busybox(home.path());
    home
}

fn import_busybox(home: &Path) {
    let mut import = consecution(home);
    import
        .args(["image", "import", "busybox"])
        .arg(busybox_tar());
    command::finish(import, b"", Duration::from_secs(60)).expect_success();
}

/// The folder of that name, filled once for each build of the program, however
/// many tests and test processes want it at the same time.
pub(crate) fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = all.join(format!("{name}-{}", build()));
    let lock = File::create(all.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !folder.join("filled").exists() {
        // Those of earlier builds, and one that was not finished.
        for entry in fs::read_dir(all).unwrap().flatten() {
            let theirs = entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{name}-"));
            if theirs && entry.path().is_dir() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        fs::create_dir_all(&folder).unwrap();
        fill(&folder);
        File::create(folder.join("filled")).unwrap();
    }
    folder
}

/// Tells this build of the program from others.
fn build() -> String {
    let program = fs::metadata(command::PROGRAM).unwrap();
    let mut hasher = DefaultHasher::new();
    (program.len(), program.modified().unwrap()).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
