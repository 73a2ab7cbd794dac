//! The program that zygotes execute: one that no command can change.
//!
//! A command is executed by a process that is still the zygote, so an image may
//! have `/proc/self/exe` for a script's interpreter, and get the zygote's own
//! program, in which its own loader may then run code. Were that the file on the
//! host, a command could read where it lies there, could open it, and, where it
//! runs as the runner's own user, change it. So a zygote executes something else:
//!
//! - Where a command's ids are shifted, a mount of that file alone, which is
//!   read-only and in no place: it has no path but `/`. Made in microseconds.
//! - Else, or where mounts are not ours to make, a copy in memory, sealed. It takes
//!   milliseconds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::spec::Ids;
use crate::sys;

/// A program, mounted or copied when it is first wanted.
#[derive(Debug)]
pub(crate) struct Program {
    original: PathBuf,
    mount: Mutex<Option<File>>,
    copy: Mutex<Option<File>>,
}

impl Program {
    pub(crate) fn new(original: PathBuf) -> Program {
        Program {
            original,
            mount: Mutex::default(),
            copy: Mutex::default(),
        }
    }

    /// The path that a child of this process may execute, for commands with
    /// those ids.
    pub(crate) fn path(&self, ids: Ids) -> io::Result<PathBuf> {
        if let Ids::Shifted { .. } = ids
            && let Ok(path) = self.made(&self.mount, read_only_mount)
        {
            return Ok(path);
        }
        self.made(&self.copy, sealed_copy)
    }

    fn made(
        &self,
        kept: &Mutex<Option<File>>,
        make: fn(&Path) -> io::Result<File>,
    ) -> io::Result<PathBuf> {
        let mut kept = kept.lock();
        let file = match &mut *kept {
            Some(file) => file,
            none => none.insert(make(&self.original)?),
        };
        Ok(path_of(file))
    }
}

fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A mount of the file alone. There is no other way to the file than this mount from
/// where it is executed, so that nobody there can write to it, whoever he is.
fn read_only_mount(original: &Path) -> io::Result<File> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, original, clone)?;
    sys::mount_set_attributes(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)
        .map_err(io::Error::from_raw_os_error)?;
    Ok(mount.into())
}

fn sealed_copy(original: &Path) -> io::Result<File> {
    let mut original = File::open(original)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create("zygote", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 all of them are executable.
        Err(Errno::INVAL) => memfd_create("zygote", flags),
        made => made,
    };
    let mut memory = File::from(memory?);
    io::copy(&mut original, &mut memory)?;
    let content = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    // The kernel refuses seals that it does not know: this one is of Linux 6.3.
    let mode = SealFlags::from_bits_retain(libc::F_SEAL_EXEC.cast_unsigned());
    fcntl_add_seals(&memory, content | mode | SealFlags::SEAL)
        .or_else(|_| fcntl_add_seals(&memory, content | SealFlags::SEAL))?;
    // What is open for writing cannot be executed.
    File::open(path_of(&memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_copy_is_faithful_and_cannot_be_changed() {
        let program = Program::new("/bin/sh".into());
        let path = program.path(Ids::Own).unwrap();
        assert_eq!(program.path(Ids::Own).unwrap(), path);
        assert!(std::fs::read(&path).unwrap() == std::fs::read("/bin/sh").unwrap());

        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!(std::io::Write::write_all(&mut file, b"x").is_err());
        assert!(file.set_len(0).is_err());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        let not_executable = std::fs::Permissions::from_mode(mode & !0o111);
        assert!(std::fs::set_permissions(&path, not_executable).is_err());
    }

    #[test]
    fn the_mount_is_faithful_and_cannot_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("program");
        std::fs::copy("/bin/sh", &original).unwrap();
        let mount = match read_only_mount(&original) {
            // Who may mount nothing gets a copy.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            made => made.unwrap(),
        };
        let path = path_of(&mount);
        assert!(std::fs::read(&path).unwrap() == std::fs::read("/bin/sh").unwrap());
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("/"));
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        let mut writing = std::fs::OpenOptions::new();
        assert!(writing.write(true).open(&path).is_err_and(refused));
        let mode = std::fs::Permissions::from_mode(0o777);
        assert!(std::fs::set_permissions(&path, mode).is_err_and(refused));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(Program::new("/nonesuch".into()).path(Ids::Own).is_err());
    }
}
