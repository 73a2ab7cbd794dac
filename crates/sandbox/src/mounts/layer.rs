//! What lies over the image for all processes of a link, as one more layer of its root:
//! mount points that the image lacks, and small files that programs look for. Where the
//! image has a folder, the layer's is the same one with more in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use super::inside::{Kind, Spot, below};
use super::scaffold::{IMAGE, LAYER};
use super::{io_failure, shown};
use crate::failure::{Failure, Step};

/// Makes a mount point, which nothing but a mount is ever seen at.
pub(super) fn add_point(path: &Path, is_folder: bool, step: Step) -> Result<(), Failure> {
    match is_folder {
        true => add_folder(path),
        false => add_file(path, b""),
    }
    .map_err(io_failure(step, &shown(path)))
}

/// Adds a file that who may write to the root may change there, like one of the image,
/// unless the image has something else in that place.
pub(super) fn add_small_file(spot: &Spot, content: &[u8]) -> Result<(), Failure> {
    match spot.kind {
        Kind::Folder => Ok(()),
        Kind::File | Kind::Missing => {
            add_file(&spot.path, content).map_err(io_failure(Step::AddFiles, &shown(&spot.path)))
        }
    }
}

/// Adds a folder unless the image has something in that place.
pub(super) fn add_small_folder(spot: &Spot) -> Result<(), Failure> {
    match spot.kind {
        Kind::Folder | Kind::File => Ok(()),
        Kind::Missing => {
            add_folder(&spot.path).map_err(io_failure(Step::AddFiles, &shown(&spot.path)))
        }
    }
}

/// Adds a folder, with those that it lies in.
fn add_folder(path: &Path) -> std::io::Result<()> {
    let folders: Vec<_> = path.ancestors().collect();
    for folder in folders.into_iter().rev().skip(1) {
        let made = below(Path::new(LAYER), folder);
        match fs::create_dir(&made) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        // It is seen instead of the image's.
        if let Ok(found) = fs::symlink_metadata(below(Path::new(IMAGE), folder)) {
            // An owner whose id is not there stands for nobody in particular.
            let _ = chown(&made, Some(found.uid()), Some(found.gid()));
            fs::set_permissions(&made, Permissions::from_mode(found.mode() & 0o1777))?;
        }
    }
    Ok(())
}

fn add_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        add_folder(folder)?;
    }
    fs::write(below(Path::new(LAYER), path), content)
}
