//! What a link's root has beside its image: files of the link, data, the host's network
//! files. Each is a mount of something in the scaffold, read-only for whoever may write
//! to the root. Here it is found out where each belongs, and what has to be there first.
//!
//! In a private folder, which is empty at first, that is a mount point of the process's
//! own. What a place has before its command starts must not be changed by one request for
//! the next, and a folder in a private folder could be (its mode, its times) without any
//! trace. So if a path leads through such folders, the first of them is a read-only mount
//! with the others in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::inside::{self, Kind, Spot, below};
use super::private::OwnFolders;
use super::scaffold::{FOLDERS, IMAGE};
use super::{io_failure, shown};
use crate::failure::{Failure, Step};

/// Something that is mounted into the root.
pub(super) struct Addition {
    /// Where, as the link names it.
    pub(super) path: PathBuf,
    /// In the scaffold.
    pub(super) source: PathBuf,
    pub(super) is_folder: bool,
    /// Where the image has a link of that name, it takes its place.
    pub(super) replaces_link: bool,
    pub(super) step: Step,
}

/// A mount of something in the scaffold, at a path of the root without a link in it.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    /// In a private folder, of which each process has another.
    pub(super) is_in_own: bool,
    pub(super) step: Step,
}

/// A mount point in a private folder.
#[derive(Debug)]
pub(super) struct Point {
    /// The name of the private folder, and the one in it.
    pub(super) path: PathBuf,
    pub(super) is_folder: bool,
    pub(super) step: Step,
}

/// Where everything belongs.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Mount points that the image lacks.
    pub(super) missing: Vec<(PathBuf, bool, Step)>,
    /// Mount points that each process makes.
    pub(super) points: Vec<Point>,
    /// In the order in which they are made.
    pub(super) binds: Vec<Bind>,
    /// Of mounts that lie where others are made: which folder of [`FOLDERS`] is mounted
    /// there.
    folders: Vec<PathBuf>,
}

/// Finds where all of them belong, in the image at [`IMAGE`].
pub(super) fn place(additions: &[Addition], own: &OwnFolders) -> Result<Placed, Failure> {
    let mut placed = Placed::default();
    let mut taken: Vec<(PathBuf, &Addition)> = Vec::new();
    for addition in additions {
        let spot = find(addition, own)?;
        check(addition, &spot, own)?;
        let (path, kind) = (spot.path, spot.kind);
        let meets = |(other, _): &&(PathBuf, &Addition)| {
            path.starts_with(other) || other.starts_with(&path)
        };
        if let Some((_, other)) = taken.iter().find(meets) {
            return Err(refused(
                addition,
                format!("it and {} lie in each other", shown(&other.path)),
            ));
        }
        match own.around(&path) {
            Some(folder) => placed.add_in_own(addition, &path, &folder.path, folder.name)?,
            None => {
                if kind == Kind::Missing {
                    let missing = (path.clone(), addition.is_folder, addition.step);
                    placed.missing.push(missing);
                }
                placed.bind(addition.source.clone(), path.clone(), false, addition.step);
            }
        }
        taken.push((path, addition));
    }
    Ok(placed)
}

fn find(addition: &Addition, own: &OwnFolders) -> Result<Spot, Failure> {
    let path = &addition.path;
    if !path.is_absolute() {
        return Err(refused(addition, "it is no absolute path".into()));
    }
    let failure = |errno| Failure::new(addition.step, shown(path), errno);
    let find = |path: &Path| inside::find(Path::new(IMAGE), path, |at| own.is_own(at));
    let (Some(folder), Some(name), true) =
        (path.parent(), path.file_name(), addition.replaces_link)
    else {
        return find(path).map_err(failure);
    };
    let folder = find(folder).map_err(failure)?;
    let path = folder.path.join(name);
    let found = fs::symlink_metadata(below(Path::new(IMAGE), &path));
    let kind = match found {
        Ok(found) if found.is_dir() => Kind::Folder,
        Ok(found) if found.is_file() => Kind::File,
        _ => Kind::Missing,
    };
    Ok(Spot { path, kind })
}

fn check(addition: &Addition, spot: &Spot, own: &OwnFolders) -> Result<(), Failure> {
    let path = &spot.path;
    if let Some(inner) = own.paths().find(|inner| inner.starts_with(path)) {
        let reason = match inner == path {
            true => "each process has one of its own".to_owned(),
            false => format!(
                "each process has a {} of its own, which lies in it",
                shown(inner)
            ),
        };
        return Err(refused(addition, reason));
    }
    match own.hiding(path) {
        Some(folder) if own.around(path).is_none() => {
            let reason = format!("each process has a {} of its own", shown(folder));
            return Err(refused(addition, reason));
        }
        _ => {}
    }
    let wrong = |errno| Failure::new(addition.step, shown(&addition.path), errno);
    match (spot.kind, addition.is_folder) {
        (Kind::Folder, false) => Err(wrong(libc::EISDIR)),
        (Kind::File, true) => Err(wrong(libc::ENOTDIR)),
        _ => Ok(()),
    }
}

fn refused(addition: &Addition, reason: String) -> Failure {
    Failure::because(addition.step, shown(&addition.path), reason)
}

impl Placed {
    fn bind(&mut self, source: PathBuf, target: PathBuf, is_in_own: bool, step: Step) {
        self.binds.push(Bind {
            source,
            target,
            is_in_own,
            step,
        });
    }

    /// Places it at `path` in the private folder `folder`.
    fn add_in_own(
        &mut self,
        addition: &Addition,
        path: &Path,
        folder: &Path,
        name: &str,
    ) -> Result<(), Failure> {
        let step = addition.step;
        let inner = path.strip_prefix(folder).unwrap_or(path);
        let mut names = inner.iter();
        let first = Path::new(names.next().unwrap_or(OsStr::new("")));
        let rest = names.as_path();
        let point = |is_folder| Point {
            path: Path::new(name).join(first),
            is_folder,
            step,
        };
        if rest.as_os_str().is_empty() {
            self.points.push(point(addition.is_folder));
        } else {
            let top = folder.join(first);
            let known = self.folders.iter().position(|known| *known == top);
            let number = known.unwrap_or(self.folders.len());
            let made = Path::new(FOLDERS).join(number.to_string());
            if known.is_none() {
                self.points.push(point(true));
                self.bind(made.clone(), top.clone(), true, step);
                self.folders.push(top);
            }
            make_point(&made.join(rest), addition.is_folder)
                .map_err(io_failure(step, &shown(path)))?;
        }
        self.bind(addition.source.clone(), path.to_owned(), true, step);
        Ok(())
    }
}

fn make_point(path: &Path, is_folder: bool) -> std::io::Result<()> {
    if is_folder {
        return fs::create_dir_all(path);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, "")
}
