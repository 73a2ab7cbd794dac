//! The arguments and environment of one request.
//!
//! A process's own strings come to its init as a file in memory: arguments, then values
//! of the environment, each `NAME=VALUE` and each with a NUL behind it. How many there
//! are is known when the zygote is opened; only what they say differs from request to
//! request.

use std::io::{self, Write};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};

/// The longest string that the kernel takes, its NUL included.
pub const STRING_BYTES_MAX: usize = 128 * 1024;

/// The most that the strings of a process may take, with their NULs and a pointer each.
/// The kernel takes a quarter of the stack's limit, which is 8 MiB, for these, for the
/// program's path, and, should that be a script, for its interpreter.
pub const STRINGS_BYTES_MAX: usize = 2 * 1024 * 1024 - 8 * 1024;

/// Strings for one process, instead of those of its link.
#[derive(Debug)]
pub struct Strings(OwnedFd);

/// Strings that no process can be given. The texts read well after "failed to".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum StringsError {
    #[error("pass {given} arguments and variables to a command that has {expected}")]
    Count { given: usize, expected: usize },
    #[error(
        "pass an argument or variable of {bytes} bytes: the system takes at most {} \
         in each",
        STRING_BYTES_MAX - 1
    )]
    Long { bytes: usize },
    #[error(
        "pass {bytes} bytes of arguments and environment: the system takes at most \
         {STRINGS_BYTES_MAX} in all, with 8 for each"
    )]
    TooMany { bytes: usize },
    #[error("pass a NUL byte in an argument or the environment, which no program can be given")]
    Nul,
    #[error("pass arguments: {0}")]
    Io(#[from] io::Error),
}

impl Strings {
    /// These arguments, the program's name among them, and these variables.
    pub(crate) fn new(
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Strings, StringsError> {
        let pairs = environment.iter().map(|(name, value)| [name, "=", value]);
        let all: Vec<u8> = {
            let mut all = Vec::new();
            let arguments = arguments.iter().map(|argument| [argument, "", ""]);
            for parts in arguments.chain(pairs) {
                let begin = all.len();
                for part in parts {
                    all.extend_from_slice(part.as_bytes());
                }
                let string = &all[begin..];
                if string.contains(&0) {
                    return Err(StringsError::Nul);
                }
                if string.len() >= STRING_BYTES_MAX {
                    let bytes = string.len();
                    return Err(StringsError::Long { bytes });
                }
                all.push(0);
            }
            all
        };
        let pointers = (arguments.len() + environment.len()) * size_of::<usize>();
        let bytes = all.len() + pointers;
        if bytes > STRINGS_BYTES_MAX {
            return Err(StringsError::TooMany { bytes });
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("strings", flags).map_err(io::Error::from)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&all)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
        Ok(Strings(file.into()))
    }
}

impl AsFd for Strings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn text(length: usize) -> String {
        "x".repeat(length)
    }

    #[test]
    fn strings_lie_one_behind_the_other_and_stay() {
        let strings = Strings::new(
            &["cat".to_owned(), String::new(), "-ä".to_owned()],
            &[("A".to_owned(), "1\n2".to_owned())],
        );
        let file = std::fs::File::from(strings.unwrap().0);
        let mut found = [0; 64];
        let length = file.read_at(&mut found, 0).unwrap();
        assert_eq!(&found[..length], "cat\0\0-ä\0A=1\n2\0".as_bytes());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        let one = |string: String| Strings::new(&[string], &[]).map(drop);
        assert!(one(text(STRING_BYTES_MAX - 1)).is_ok());
        assert!(matches!(
            one(text(STRING_BYTES_MAX)),
            Err(StringsError::Long {
                bytes: STRING_BYTES_MAX
            })
        ));
        assert!(matches!(one("a\0b".to_owned()), Err(StringsError::Nul)));
        let nul = Strings::new(&[], &[("A\0".to_owned(), String::new())]);
        assert!(matches!(nul, Err(StringsError::Nul)));
        let each = STRING_BYTES_MAX - 1 - size_of::<usize>();
        let most = STRINGS_BYTES_MAX / (each + 1 + size_of::<usize>());
        assert!(Strings::new(&vec![text(each); most], &[]).is_ok());
        assert!(matches!(
            Strings::new(&vec![text(each); most + 1], &[]),
            Err(StringsError::TooMany { .. })
        ));
    }
}
