//! A place to unpack to, and something beside it that must stay as it is.

use std::fs;
use std::path::{Path, PathBuf};

use image::Limits;

const UNTOUCHED: &str = "untouched";

pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("trash")).expect("a folder");
        fs::create_dir(folder.path().join("outside")).expect("a folder");
        fs::write(folder.path().join("outside/file"), UNTOUCHED).expect("a file");
        Place { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    pub fn trash(&self) -> PathBuf {
        self.path().join("trash")
    }

    /// Fails if anything but the root was written to.
    pub fn check(self) {
        image::fuzzing::delete(&self.root());
        image::fuzzing::delete(&self.trash());
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).expect("it is there");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(self.path()), ["outside"]);
        assert_eq!(names(&self.path().join("outside")), ["file"]);
        let file = self.path().join("outside/file");
        assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some(UNTOUCHED));
        let found = fs::symlink_metadata(&file).expect("it is there");
        assert!(
            std::os::unix::fs::MetadataExt::nlink(&found) == 1,
            "a hard link to it"
        );
    }
}

/// So little that nothing lasts long.
pub fn limits() -> Limits {
    Limits {
        image_bytes_max: 1 << 20,
        entries_max: 200,
        ..Limits::default()
    }
}
