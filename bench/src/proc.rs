//! The memory and processor time of processes, as the kernel counts them.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;

/// Written into `clear_refs`, this resets the peak of memory.
const RESET_PEAK: &str = "5";

/// Resets the peak of a process's memory.
pub(crate) fn reset_peak(pid: Pid) -> anyhow::Result<()> {
    let path = format!("/proc/{}/clear_refs", pid.as_raw_pid());
    std::fs::write(&path, RESET_PEAK).with_context(|| format!("failed to write {path}"))
}

/// The peak of a process's resident memory, in bytes.
pub(crate) fn peak(pid: Pid) -> anyhow::Result<u64> {
    status(pid, "VmHWM:")
}

/// A process's resident memory, in bytes.
pub(crate) fn resident(pid: Pid) -> anyhow::Result<u64> {
    status(pid, "VmRSS:")
}

/// The memory of a process and all its descendants, in bytes. Shared memory counts in equal
/// parts for each process that shares it.
pub(crate) fn memory_of_all(pid: Pid) -> anyhow::Result<u64> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.parse::<i32>().ok());
        // It may be gone by now.
        all.extend(id.and_then(|id| Some((id, Stat::read(id)?))));
    }
    let (mut bytes, mut family) = (0, vec![pid.as_raw_pid()]);
    while let Some(id) = family.pop() {
        let children = all.iter().filter(|(_, stat)| stat.parent == id);
        family.extend(children.map(|(&child, _)| child));
        let parent = all.get(&id).and_then(|stat| all.get(&stat.parent));
        let shares = parent.is_some_and(|parent| parent.addresses == all[&id].addresses);
        if !shares {
            bytes += proportional(id)?;
        }
    }
    Ok(bytes)
}

/// A process's proportional memory; 0 if the process is gone.
fn proportional(pid: i32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    match std::fs::read_to_string(&path) {
        Ok(text) => kibibytes(&text, "Pss:").with_context(|| format!("failed to read {path}")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(error).with_context(|| format!("failed to read {path}"))
        }
        Err(_) => Ok(0),
    }
}

/// Fields of a process's `stat`; see proc(5).
struct Stat {
    parent: i32,
    /// The addresses of its stack and its arguments, which are random for each executed
    /// program. If parent and child have the same, they share all of their memory, as the
    /// first process of a sandbox and its zygote do.
    addresses: (u64, u64),
}

impl Stat {
    fn read(pid: i32) -> Option<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the parenthesis may contain spaces.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Stat {
            parent: i32::try_from(field(1)?).ok()?,
            addresses: (field(25)?, field(45)?),
        })
    }
}

/// The processor time of a process, without that of its descendants.
pub(crate) fn processor_time(pid: Pid) -> anyhow::Result<Duration> {
    // Of each thread: the process's own file is only about its first thread.
    let threads = format!("/proc/{}/task", pid.as_raw_pid());
    let failed = || format!("failed to read schedstat in {threads}");
    let mut time = Duration::ZERO;
    for thread in std::fs::read_dir(&threads).with_context(failed)? {
        let path = thread?.path().join("schedstat");
        // A thread may end meanwhile; the ones that work do not.
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
        time += Duration::from_nanos(nanoseconds.with_context(failed)?);
    }
    Ok(time)
}

fn status(pid: Pid, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_pid());
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    kibibytes(&text, name).with_context(|| format!("failed to find {name} in {path}"))
}

/// An entry of that file, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::getpid;

    #[test]
    fn what_a_process_has_started_counts_too() {
        let alone = super::memory_of_all(getpid()).unwrap();
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cat = cat.spawn().unwrap();
        let child = rustix::process::Pid::from_child(&cat);
        assert!(alone > super::resident(getpid()).unwrap() / 16);
        assert!(super::memory_of_all(child).unwrap() > 0);
        assert!(super::memory_of_all(child).unwrap() <= super::peak(child).unwrap());
        drop(cat.stdin.take());
        cat.wait().unwrap();
    }

    #[test]
    fn an_entry_is_found_by_its_whole_name() {
        let status = "VmHWMX:\t 1 kB\nVmHWM:\t   20 kB\nThreads:\t3\n";
        assert_eq!(super::kibibytes(status, "VmHWM:"), Some(20 * 1024));
        assert_eq!(super::kibibytes(status, "Threads:"), None);
        assert_eq!(super::kibibytes(status, "VmRSS:"), None);
    }
}
