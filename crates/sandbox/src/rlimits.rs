//! Resource limits that every process of a link inherits from its zygote.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Open files: enough for any filter, and the soft limit that programs written
/// for `select` expect.
const OPEN_FILES_SOFT_MAX: u64 = 1024;
const OPEN_FILES_HARD_MAX: u64 = 65536;

/// Sets the limits: no core dumps, which would take an input's content to disk;
/// bounded open files, whatever the runner has raised its own to.
pub(crate) fn set() -> rustix::io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    let hard = rustix::process::getrlimit(Resource::Nofile)
        .maximum
        .map_or(OPEN_FILES_HARD_MAX, |hard| hard.min(OPEN_FILES_HARD_MAX));
    let files = Rlimit {
        current: Some(OPEN_FILES_SOFT_MAX.min(hard)),
        maximum: Some(hard),
    };
    setrlimit(Resource::Nofile, files)
}
