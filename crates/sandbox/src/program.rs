//! The program that zygotes execute: one that no command can change.
//!
//! A command is executed by a process that is still the zygote, so an image may
//! have `/proc/self/exe` for its command, or for a script's interpreter, and get
//! the zygote's own program. Were that the file on the host, a command could
//! open it, and, where it runs as the runner's own user, change it. There a
//! copy in memory takes its place, sealed. Where a command's ids are shifted the
//! file on the host is nobody's that it could be, and needs no copy, which would
//! take milliseconds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fd::AsRawFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::spec::Ids;

/// A program, copied when it is first wanted.
#[derive(Debug)]
pub(crate) struct Program {
    original: PathBuf,
    copy: Mutex<Option<File>>,
}

impl Program {
    pub(crate) fn new(original: PathBuf) -> Program {
        Program {
            original,
            copy: Mutex::new(None),
        }
    }

    /// The path that a child of this process may execute, for commands with
    /// those ids.
    pub(crate) fn path(&self, ids: Ids) -> io::Result<PathBuf> {
        if let Ids::Shifted { .. } = ids {
            return Ok(self.original.clone());
        }
        let mut copy = self
            .copy
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = match &mut *copy {
            Some(file) => file,
            none => none.insert(sealed_copy(&self.original)?),
        };
        Ok(path_of(file))
    }
}

fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
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
    fn a_program_that_is_not_there_is_an_error() {
        assert!(Program::new("/nonesuch".into()).path(Ids::Own).is_err());
    }
}
