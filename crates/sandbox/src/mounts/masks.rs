//! Masks over the parts of `/proc` that show the host: Docker's list, and files that show
//! single objects of other links or of the host. Docker makes further paths read-only;
//! here all of `/proc` is.
//!
//! A mask is one more mount for each process, which costs microseconds. So a path gets
//! one only if it exists on this host and a command could open it otherwise: only the
//! host's root can read much of the list.

use std::fs;
use std::path::Path;

/// What a mask lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// What Docker masks in `/proc` (moby, `daemon/pkg/oci/defaults.go`); `locks`, which
/// lists the file locks of all processes of the host; and counters of the host that a
/// command can raise by one as it likes, and nothing else raises: through them one
/// request could leave a message for a later one.
pub(super) const MASKED: [&str; 12] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "locks",
    "sched_debug",
    "scsi",
    "timer_list",
    "vmstat",
    "zoneinfo",
];

/// The paths that need a mask in a process's `/proc`. Looks at the zygote's own `/proc`,
/// which the caller must see: a command could read what the zygote can read.
pub(super) fn needed() -> impl Iterator<Item = (&'static str, Kind)> {
    MASKED.into_iter().filter_map(|name| {
        let path = Path::new("/proc").join(name);
        let found = fs::metadata(&path).ok()?;
        if found.is_dir() {
            fs::read_dir(&path).ok().map(|_| (name, Kind::Folder))
        } else {
            fs::File::open(&path).ok().map(|_| (name, Kind::File))
        }
    })
}
