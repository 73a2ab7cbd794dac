//! Data: folders and files of the host that a link can read.
//!
//! Each lies under an overlay, as the image does: by a mount of the host's folder itself
//! a link could lock what programs of the host lock, and be told when they read it.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};

use super::scaffold::{DATA, EMPTY};
use super::{HARMLESS, attach, clone_mount, failure, io_failure, root_overlay, shown};
use crate::failure::{Failure, Step};
use crate::spec::{Ids, SHIFTED_IDS_COUNT, Spec};
use crate::sys;

/// How many names of a link's data are looked at before it is used: some seconds of work
/// at most. Whether all users can read what lies beyond is not known then.
const NAMES_MAX: usize = 1_000_000;

/// A folder of the host, as a mount that is in no place yet, and the name of the file
/// that is wanted of it, if it is not all of it.
pub(crate) struct Data {
    mount: OwnedFd,
    file: Option<OsString>,
}

/// Fails unless everything in a link's data can be read by the link's user, whoever that
/// is: no id of the host is mapped, other than the image's own.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let mut left = NAMES_MAX;
    for data in &spec.data {
        let source = &data.source;
        let found = fs::metadata(source).map_err(io_failure(Step::OpenData, &shown(source)))?;
        check_one(source, &found, spec.ids)?;
        if found.is_dir() {
            check_below(source, spec.ids, &mut left)?;
        } else if let Some(folder) = source.canonicalize().ok().as_deref().and_then(Path::parent) {
            // Where the overlay finds it.
            let found = fs::metadata(folder);
            let found = found.map_err(io_failure(Step::OpenData, &shown(folder)))?;
            if !is_open(&found, 0o1, spec.ids) {
                return Err(refused(
                    folder,
                    "not all users may enter this folder: chmod o+x",
                ));
            }
        }
    }
    Ok(())
}

fn check_below(folder: &Path, ids: Ids, left: &mut usize) -> Result<(), Failure> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failure = |error| Failure::io(Step::OpenData, shown(&folder), &error);
        for entry in fs::read_dir(&folder).map_err(failure)? {
            let entry = entry.map_err(failure)?;
            if *left == 0 {
                return Ok(());
            }
            *left -= 1;
            let found = entry.metadata();
            let found = found.map_err(io_failure(Step::OpenData, &shown(&entry.path())))?;
            check_one(&entry.path(), &found, ids)?;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

fn check_one(path: &Path, found: &Metadata, ids: Ids) -> Result<(), Failure> {
    let kind = found.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    let (bits, reason) = match kind.is_dir() {
        true => (0o5, "not all users can read this folder: chmod o+rx"),
        false => (0o4, "not all users can read it: chmod o+r"),
    };
    if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
        let reason = "it is a device, a FIFO or a socket; data has files, folders and links";
        return Err(refused(path, reason));
    }
    match is_open(found, bits, ids) {
        true => Ok(()),
        false => Err(refused(path, reason)),
    }
}

/// Can everybody do that, or is it up to the image, whose ids these are?
fn is_open(found: &Metadata, bits: u32, ids: Ids) -> bool {
    let is_of_image = match ids {
        Ids::Shifted { base } => (base..base + SHIFTED_IDS_COUNT).contains(&found.uid()),
        Ids::Own => found.uid() == rustix::process::geteuid().as_raw(),
    };
    is_of_image || found.mode() & bits == bits
}

fn refused(path: &Path, reason: &str) -> Failure {
    Failure::because(Step::OpenData, shown(path), reason)
}

/// Opens the data of a link: as the host's user that we are, if that takes the host's
/// privileges.
pub(crate) fn open(spec: &Spec) -> Result<Vec<Data>, Failure> {
    let step = Step::OpenData;
    let open = |source: &PathBuf| {
        let place = source.canonicalize();
        let place = place.map_err(io_failure(step, &shown(source)))?;
        let (folder, file) = match (place.is_dir(), place.parent(), place.file_name()) {
            (false, Some(folder), Some(name)) => (folder, Some(name.to_owned())),
            _ => (&*place, None),
        };
        let mount = clone_mount(folder, source, step)?;
        sys::mount_set_attributes(mount.as_fd(), HARMLESS)
            .map_err(|errno| Failure::new(step, shown(source), errno))?;
        Ok(Data { mount, file })
    };
    spec.data.iter().map(|data| open(&data.source)).collect()
}

/// Mounts one into the scaffold, under an overlay. Gives its place there, and whether it
/// is a folder.
pub(super) fn mount(data: &Data, source: &Path, number: usize) -> Result<(PathBuf, bool), Failure> {
    let step = Step::OpenData;
    let [below, overlay_at] =
        ["below", "overlay"].map(|name| Path::new(DATA).join(format!("{number}-{name}")));
    for folder in [&below, &overlay_at] {
        fs::create_dir(folder).map_err(io_failure(step, &shown(source)))?;
    }
    attach(&data.mount, &below, step)?;
    let overlay = root_overlay::make(&format!("{}:{EMPTY}", shown(&below)), "data");
    attach(&overlay.map_err(failure(step, source))?, &overlay_at, step)?;
    Ok(match &data.file {
        Some(name) => (overlay_at.join(name), false),
        None => (overlay_at, true),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_first_that_cannot_be_read_by_all_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let chmod = |name: &str, mode| {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir_all(at("data/deep")).unwrap();
        fs::write(at("data/deep/file"), "").unwrap();
        symlink("/nowhere", at("data/link")).unwrap();
        // Ids that are nobody's here.
        let ids = Ids::Shifted { base: 0x7900_0000 };
        for name in ["", "data", "data/deep"] {
            chmod(name, 0o755);
        }
        let check = |name: &str| {
            let (path, found) = (at(name), fs::metadata(at(name)).unwrap());
            check_one(&path, &found, ids)?;
            check_below(&path, ids, &mut 100)
        };
        chmod("data/deep/file", 0o644);
        check("data").unwrap();
        chmod("data/deep/file", 0o640);
        let error = check("data").unwrap_err().to_string();
        assert!(
            error.contains("deep/file") && error.contains("chmod o+r"),
            "{error}"
        );
        chmod("data/deep/file", 0o644);
        chmod("data/deep", 0o750);
        let error = check("data").unwrap_err().to_string();
        assert!(
            error.contains("deep\"") && error.contains("chmod o+rx"),
            "{error}"
        );
        chmod("data/deep", 0o755);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("data/fifo"), rustix::fs::Mode::RUSR).unwrap();
        let error = check("data").unwrap_err().to_string();
        assert!(
            error.contains("data/fifo") && error.contains("FIFO"),
            "{error}"
        );
    }
}
