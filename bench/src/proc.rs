//! What a process has of the machine, as the kernel counts it.

use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;

/// What resets the peak, written into `clear_refs`.
const RESET_PEAK: &str = "5";

/// Lets the peak of a process begin anew.
pub(crate) fn reset_peak(pid: Pid) -> anyhow::Result<()> {
    let path = format!("/proc/{}/clear_refs", pid.as_raw_pid());
    std::fs::write(&path, RESET_PEAK).with_context(|| format!("failed to write {path}"))
}

/// The most that a process has had in memory, in bytes.
pub(crate) fn peak(pid: Pid) -> anyhow::Result<u64> {
    status(pid, "VmHWM:")
}

/// How long a process has had a processor; what it has started does not count.
pub(crate) fn processor_time(pid: Pid) -> anyhow::Result<Duration> {
    // Of each thread: the process' own file is about its first one only.
    let threads = format!("/proc/{}/task", pid.as_raw_pid());
    let failed = || format!("failed to read schedstat in {threads}");
    let mut time = Duration::ZERO;
    for thread in std::fs::read_dir(&threads).with_context(failed)? {
        let path = thread?.path().join("schedstat");
        // A thread may end meanwhile; those that do the work stay.
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
    #[test]
    fn an_entry_is_found_by_its_whole_name() {
        let status = "VmHWMX:\t 1 kB\nVmHWM:\t   20 kB\nThreads:\t3\n";
        assert_eq!(super::kibibytes(status, "VmHWM:"), Some(20 * 1024));
        assert_eq!(super::kibibytes(status, "Threads:"), None);
        assert_eq!(super::kibibytes(status, "VmRSS:"), None);
    }
}
