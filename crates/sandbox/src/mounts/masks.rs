//! Masks over the parts of `/proc` that tell of the host: Docker's list, and what names
//! single things of other links and of the host. Where Docker has further paths
//! read-only, here all of `/proc` is.
//!
//! A mask is a mount for each process, which costs microseconds. So only what is
//! there on this host gets one, and what a command could open without it: much
//! of the list belongs to the host's root alone, which a command is not.

use std::fs;
use std::path::Path;

/// What a mask lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// What Docker masks in `/proc` (moby, `daemon/pkg/oci/defaults.go`); `locks`, which has
/// the locks of open files of all processes of the host; and counters of the host that a
/// command can move by one at will, and nobody else moves: so they keep what one request
/// wants to tell a later one.
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

/// Which of them need a mask in a process's `/proc`, judged by the zygote's own,
/// which who asks must see: may it read them, so may a command.
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
