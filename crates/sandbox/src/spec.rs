//! What a link's processes run and may have, as data that can be built and
//! compared without any privilege.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a zygote needs to know of its link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The folder that becomes `/`. It must have the folders of
    /// [`MOUNT_POINT_FOLDERS`](crate::MOUNT_POINT_FOLDERS).
    pub root: PathBuf,
    /// The program and its arguments. A first word without a slash is looked up
    /// in the `PATH` of `environment`, inside the root.
    pub command: Vec<String>,
    /// The whole environment; `PATH`, `HOME` and `HOSTNAME` are added where they
    /// are missing.
    pub environment: Vec<(String, String)>,
    /// A process may have arguments and variables of its own: see
    /// [`Zygote::strings`](crate::Zygote::strings).
    pub takes_strings: bool,
    /// Where the process starts, a path inside the root.
    pub working_directory: String,
    /// `name`, `uid`, `name:group`, `uid:gid`, or nothing for root: as in an
    /// image's `User`, names being those of the root's own `/etc/passwd` and
    /// `/etc/group`.
    pub user: String,
    /// Files that the root has beside its image.
    pub files: Vec<SpecFile>,
    /// Folders and files of the host that the root has beside its image.
    pub data: Vec<SpecData>,
    /// Whether a process may write to its root.
    pub writable: Writable,
    /// How much each process may keep in `/tmp`, in `/var/tmp`, and, where it is
    /// writable, in the rest of its root; all of it in memory. The private folders share
    /// one file system, with room for all of them.
    pub scratch_bytes: u64,
    /// How each process gets its input.
    pub input: Input,
    /// How each process gives its output.
    pub output: Output,
    /// Which network the processes see.
    pub network: Network,
    /// What `hostname` says inside.
    pub hostname: String,
    /// Which ids of the host the ids inside stand for.
    pub ids: Ids,
}

/// A [`Spec::scratch_bytes`] for whoever has no other wish: 1 GiB.
pub const SCRATCH_BYTES_DEFAULT: u64 = 1 << 30;

/// A file that a link's root has beside its image, read-only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecFile {
    /// Where: an absolute path, whose links are followed inside the root.
    pub path: PathBuf,
    /// The bits of its mode.
    pub mode: u32,
    /// What is in it.
    pub content: Content,
    /// It belongs to the link's user, and not to the root's.
    pub of_user: bool,
}

/// A folder or a file of the host that a link's root has beside its image, read-only,
/// without set-id bits and devices. All users must be able to read all of it, unless it
/// belongs to the link's own ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecData {
    /// Where: an absolute path, whose links are followed inside the root.
    pub path: PathBuf,
    /// What: a path of the host, whose links are followed there.
    pub source: PathBuf,
}

/// The content of a file. It may be a secret, so no text for developers shows it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content(Vec<u8>);

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Content {
        Content(bytes)
    }
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

/// Whether a process may write to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writable {
    /// No: all processes of the link share it.
    No,
    /// Yes: each has one of its own, and what it writes there goes with it.
    Private,
}

/// How a process gets its input. Where it is not through a pipe, its place must be
/// [prepared](crate::Zygote::prepare), and is used by one process only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Through a pipe.
    #[default]
    Pipe,
    /// As a file without a name, so that it can seek in its standard input.
    Seekable,
    /// As a file with this path, in a private folder.
    File(String),
    /// As what is in the folder with this path, which is in a private folder.
    Folder(String),
}

/// How a process gives its output. Where it is not through a pipe, its place is used by
/// one process only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Through a pipe.
    #[default]
    Pipe,
    /// As a file with this path, in a private folder.
    File(String),
    /// As what it leaves in the folder with this path, which is in a private folder.
    Folder(String),
}

impl Input {
    /// Where it lies, if it has a path.
    pub(crate) fn path(&self) -> &str {
        match self {
            Input::Pipe | Input::Seekable => "",
            Input::File(path) | Input::Folder(path) => path,
        }
    }
}

impl Output {
    /// Where it lies, if it has a path.
    pub(crate) fn path(&self) -> &str {
        match self {
            Output::Pipe => "",
            Output::File(path) | Output::Folder(path) => path,
        }
    }
}

/// Which network a link's processes see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// None at all, not even a loopback: neither internet nor netlink sockets.
    Sealed,
    /// A loopback of its own, for TCP and UDP, and nothing else.
    Loopback,
    /// The host's own.
    Host,
}

/// Which ids of the host the ids inside the sandbox stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Ids 0 to 65535 inside are `base` to `base + 65535` outside, which belong
    /// to nobody else; where a link runs as a higher one, that takes the place of
    /// 65534, and 65534 is not there. Needs privilege.
    Shifted {
        /// What id 0 inside is outside.
        base: u32,
    },
    /// One id, whichever the link runs as, stands for the caller's own. All
    /// that an unprivileged user may have. For root it is the weaker choice:
    /// the processes are root outside too, if without any capability.
    Own,
}

/// The ids that a privileged runner uses: in the gap that systemd's table of ids
/// leaves to no one (0x70000000 to 0x7FFDFFFF), above what directory services
/// take from it by default; so that neither users, nor their sub-ids, nor other
/// container engines meet it.
pub const SHIFTED_IDS: Ids = Ids::Shifted {
    base: SHIFTED_IDS_BASE,
};

const SHIFTED_IDS_BASE: u32 = 0x7800_0000;

/// How many ids a shifted range has.
pub(crate) const SHIFTED_IDS_COUNT: u32 = 65536;

impl Ids {
    /// [`SHIFTED_IDS`] where this process may use them, else [`Ids::Own`].
    pub fn detect() -> Ids {
        Ids::shifted(SHIFTED_IDS_BASE).unwrap_or(Ids::Own)
    }

    /// The ids from `base` on, so that two runners on a host need not share
    /// theirs.
    ///
    /// # Errors
    /// This process may not use them, or they are none that belong to nobody.
    pub fn shifted(base: u32) -> Result<Ids, IdsError> {
        if base < SHIFTED_IDS_COUNT {
            return Err(IdsError::Reserved);
        }
        if base.checked_add(SHIFTED_IDS_COUNT).is_none() {
            return Err(IdsError::TooHigh);
        }
        if !rustix::process::geteuid().is_root() {
            return Err(IdsError::NotRoot);
        }
        let has_all = ["uid_map", "gid_map"].iter().all(|file| {
            let map = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
            map_covers(&map, base, SHIFTED_IDS_COUNT)
        });
        if has_all {
            Ok(Ids::Shifted { base })
        } else {
            Err(IdsError::NotMapped)
        }
    }
}

/// A range of ids cannot be used. The texts read well after the range's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum IdsError {
    #[error("is where the host's own users are: a range begins at 65536 or above")]
    Reserved,
    #[error("does not have {SHIFTED_IDS_COUNT} ids: a range begins at 4294901759 or below")]
    TooHigh,
    #[error("can be used by root only: others have one id, their own")]
    NotRoot,
    #[error("is not there for this process: it runs in a user namespace without those ids")]
    NotMapped,
}

/// Whether this `uid_map` has the `count` ids from `first` on in one extent.
fn map_covers(map: &str, first: u32, count: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(start)), Some(Ok(_)), Some(Ok(length))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        start <= u64::from(first) && u64::from(first) + u64::from(count) <= start + length
    })
}

/// How much each process may use, with whatever it starts. Absent: no limit of
/// its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Memory in bytes, private folders included.
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of a core.
    pub cpu_millicores: Option<u64>,
    /// Processes and threads at a time; absent: [`PROCESSES_DEFAULT`].
    pub processes: Option<u32>,
    /// Processor time is counted for each process with all that it starts, so that
    /// somebody can limit it: see [`Process::cpu_time_by_now`](crate::Process::cpu_time_by_now).
    pub counts_cpu_time: bool,
    /// Files that each of its processes may have open; absent: 1024, or 4096 if it raises
    /// that. No cgroup is needed for this one.
    pub open_files: Option<u32>,
    /// Keep those that can be kept here, and let the others be. Otherwise one
    /// that cannot be kept is an error.
    pub best_effort: bool,
}

impl Limits {
    /// Whether there is anything to enforce.
    pub(crate) fn any(&self) -> bool {
        self.each().next().is_some()
    }

    /// Each limit that is set and that a cgroup keeps, by itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = Limits> + use<> {
        let none = Limits::default();
        let memory_bytes = self.memory_bytes;
        let cpu_millicores = self.cpu_millicores;
        let processes = self.processes;
        let counts_cpu_time = self.counts_cpu_time;
        [
            Limits {
                memory_bytes,
                ..none
            },
            Limits {
                cpu_millicores,
                ..none
            },
            Limits { processes, ..none },
            Limits {
                counts_cpu_time,
                ..none
            },
        ]
        .into_iter()
        .filter(move |single| *single != none)
    }

    /// These limits, and those of `other` that are not set here.
    pub(crate) fn and(self, other: &Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            cpu_millicores: self.cpu_millicores.or(other.cpu_millicores),
            processes: self.processes.or(other.processes),
            counts_cpu_time: self.counts_cpu_time || other.counts_cpu_time,
            open_files: self.open_files.or(other.open_files),
            best_effort: self.best_effort,
        }
    }
}

/// The most processes and threads of a process without such a limit of its own, itself
/// included. Enough for a runtime with a thread for each core of a large host; a fork
/// bomb gets no further.
pub const PROCESSES_DEFAULT: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_covers_what_lies_in_one_extent() {
        assert!(map_covers(
            "         0          0 4294967295\n",
            0x7800_0000,
            65536
        ));
        assert!(map_covers("0 1000 1\n1 100000 65536\n", 1, 65536));
        assert!(!map_covers("0 1000 1\n1 100000 65536\n", 1, 65537));
        assert!(!map_covers(
            "0 1000 1\n1 100000 65536\n",
            0x7800_0000,
            65536
        ));
        assert!(!map_covers("", 0, 1));
    }
}
