//! The folders and files that a sandbox mounts over, and the folders that an image
//! is to be run in, made where absent.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::root::{LINKS_MAX, Root};
use super::{LayerProblem, MountPoint, PATH_BYTES_MAX};

/// The longest name of a file that the kernel's file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl Root {
    /// Makes these if they are absent. What exists stays, even if it is something else:
    /// then the sandbox cannot use it, and says so.
    pub(crate) fn add_mount_points(&mut self, points: &[MountPoint]) -> Result<(), LayerProblem> {
        for point in points {
            let made = match point {
                MountPoint::Directory(path) => self.folder(path.as_bytes(), None).map(drop),
                MountPoint::File(path) => self.add_file(path.as_bytes()),
            };
            match made {
                Ok(()) | Err(LayerProblem::BadEntry { .. }) => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    /// Makes a folder that the image's config names, with the folders that lead to it, if
    /// they are absent: empty, mode 0755, owned by the image's root, as with Docker. The
    /// path is one in the root, whatever links there are. If no folder can be made there,
    /// that is no error here: whoever uses it gets one.
    pub(crate) fn add_folder(&mut self, path: &str) -> Result<(), LayerProblem> {
        let too_long =
            path.len() > PATH_BYTES_MAX || path.split('/').any(|name| name.len() > NAME_BYTES_MAX);
        if too_long || path.contains('\0') {
            return Ok(());
        }
        match self.folder(path.as_bytes(), None) {
            Ok(_) | Err(LayerProblem::BadEntry { .. }) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    /// Makes an empty file, where its links lead, if there is none.
    fn add_file(&mut self, path: &[u8]) -> Result<(), LayerProblem> {
        let mut path = path.to_vec();
        for _ in 0..LINKS_MAX {
            let slash = path.iter().rposition(|&byte| byte == b'/');
            let (folder, name) = match slash {
                Some(slash) => (path[..slash].to_vec(), path[slash + 1..].to_vec()),
                None => (Vec::new(), path.clone()),
            };
            if matches!(&*name, b"" | b"." | b"..") {
                return Ok(());
            }
            let io = |cause: Errno| LayerProblem::io("make", &path, cause);
            let parent = self.folder(&folder, None)?;
            match parent.examine(&name).map_err(io)? {
                None => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let mode = Mode::from_raw_mode(0o644);
                    let file = rustix::fs::openat(&parent.fd, &*name, flags, mode).map_err(io)?;
                    rustix::fs::fchmod(&file, mode).map_err(io)?;
                    return self.give(&parent, &name, 0, 0).map_err(io);
                }
                Some(there) if FileType::from_raw_mode(there.st_mode) == FileType::Symlink => {
                    let target =
                        rustix::fs::readlinkat(&parent.fd, &*name, Vec::new()).map_err(io)?;
                    path = match target.as_bytes() {
                        [b'/', ..] => target.into_bytes(),
                        relative => [&*folder, relative].join(&b'/'),
                    };
                }
                Some(_) => return Ok(()),
            }
        }
        Ok(())
    }
}
