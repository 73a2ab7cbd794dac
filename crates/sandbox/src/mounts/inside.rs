//! Where a path of an image leads, by the image's own links and never out of it: found
//! component by component, so that the kernel is only asked for paths without a link.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::sys::Errno;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Missing,
    Folder,
    File,
}

/// Where a path leads: an absolute path inside the image, with no link in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Finds where `path` leads in the image at `root`. What lies in a folder that `is_own`
/// (of a process, so that nobody sees what the image has there) is taken by its name,
/// and so is what lies in a folder that is missing.
pub(super) fn find(
    root: &Path,
    path: &Path,
    is_own: impl Fn(&Path) -> bool,
) -> Result<Spot, Errno> {
    let mut ahead: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut kind = Kind::Folder;
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            // What is missing has no parent for the kernel, either.
            if kind == Kind::Missing {
                return Err(libc::ENOENT);
            }
            at.pop();
            continue;
        }
        if kind == Kind::Missing || is_own(&at) {
            at.push(name);
            kind = Kind::Missing;
            continue;
        }
        let here = below(root, &at.join(&name));
        match std::fs::symlink_metadata(&here) {
            Ok(found) if found.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(libc::ELOOP);
                }
                let target = std::fs::read_link(&here).map_err(errno)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    ahead.push_front(name);
                }
            }
            Ok(found) => {
                at.push(name);
                kind = match found.is_dir() {
                    true => Kind::Folder,
                    false if ahead.is_empty() => Kind::File,
                    false => return Err(libc::ENOTDIR),
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                at.push(name);
                kind = Kind::Missing;
            }
            Err(error) => return Err(errno(error)),
        }
    }
    Ok(Spot { path: at, kind })
}

/// An absolute path of the image, as one of ours.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn spot(path: &str, kind: Kind) -> Result<Spot, Errno> {
        Ok(Spot {
            path: path.into(),
            kind,
        })
    }

    #[test]
    fn links_are_followed_inside() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("usr/etc/app")).unwrap();
        std::fs::create_dir_all(at("run/old")).unwrap();
        std::fs::write(at("usr/etc/app/conf"), "").unwrap();
        symlink("/usr/etc", at("etc")).unwrap();
        symlink("../../../../../etc/app", at("usr/app")).unwrap();
        symlink("/nowhere/x", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("old", at("run/new")).unwrap();
        let find = |path: &str| find(root.path(), Path::new(path), |at| at == Path::new("/run"));
        assert_eq!(find("/etc/app/conf"), spot("/usr/etc/app/conf", Kind::File));
        assert_eq!(find("/usr/app"), spot("/usr/etc/app", Kind::Folder));
        assert_eq!(find("/"), spot("/", Kind::Folder));
        assert_eq!(find("/models/a"), spot("/models/a", Kind::Missing));
        assert_eq!(find("/dangling/y"), spot("/nowhere/x/y", Kind::Missing));
        // What the image has there, nobody sees.
        assert_eq!(find("/run/new/x"), spot("/run/new/x", Kind::Missing));
        assert_eq!(find("/loop/x"), Err(libc::ELOOP));
        assert_eq!(find("/etc/app/conf/x"), Err(libc::ENOTDIR));
        assert_eq!(find("/models/../etc"), Err(libc::ENOENT));
    }
}
