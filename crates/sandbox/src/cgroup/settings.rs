//! What limits are as files of cgroups, of either version.

use super::hierarchy::CPU_TIME;
use crate::spec::Limits;

/// The period over which processor time is counted, in microseconds: the
/// kernel's default.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;

/// The smallest and the largest quota that the kernel takes; the latter is 175 million
/// cores.
const CPU_QUOTA_MICROSECONDS_MIN: u64 = 1000;
const CPU_QUOTA_MICROSECONDS_MAX: u64 = (1 << 44) - 1;

/// A limit, as the files of both versions take it.
pub(super) struct Setting {
    pub(super) what: &'static str,
    pub(super) controller: &'static str,
    pub(super) one: Vec<File>,
    pub(super) two: Vec<File>,
}

/// A file of a cgroup, and what is written to it.
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) need: Need,
}

/// What it means if a file is missing or refuses its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The limit cannot be kept.
    Always,
    /// The limit can still be kept if the host has no swap space.
    WithSwap,
    /// Nothing: not every kernel has the file.
    Never,
}

impl File {
    fn new(name: &'static str, value: impl ToString, need: Need) -> File {
        let value = value.to_string();
        File { name, value, need }
    }
}

/// The most memory that executing a command needs: 6 MiB of arguments and environment, by
/// the kernel's own bound, and what a new process needs. Until then the process shares
/// the zygote's memory. If it went over a limit, the kernel would kill all processes that
/// share that memory, so no limit may be lower until then.
const BEFORE_EXECUTION_BYTES: u64 = 16 << 20;

/// Whether executing a command may need more than this. Then the limit is set afterwards:
/// see [`memory`].
pub(super) fn is_less_than_execution_needs(memory_bytes: u64) -> bool {
    memory_bytes < BEFORE_EXECUTION_BYTES
}

/// A limit on memory as files.
pub(super) fn memory(bytes: u64) -> Setting {
    Setting {
        what: "memory",
        controller: "memory",
        one: vec![
            File::new("memory.limit_in_bytes", bytes, Need::Always),
            // Of memory and swap together.
            File::new("memory.memsw.limit_in_bytes", bytes, Need::WithSwap),
            // Beside all that, unless it is asked for not even counted: what waits in sockets
            // of the internet's.
            File::new("memory.kmem.tcp.limit_in_bytes", bytes / 4, Need::Never),
        ],
        two: vec![
            File::new("memory.max", bytes, Need::Always),
            File::new("memory.swap.max", 0, Need::WithSwap),
            File::new("memory.oom.group", 1, Need::Never),
        ],
    }
}

/// These limits as files, for the time until the command is executed.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        settings.push(memory(bytes.max(BEFORE_EXECUTION_BYTES)));
    }
    if let Some(millicores) = limits.cpu_millicores {
        let period = CPU_PERIOD_MICROSECONDS;
        let quota = millicores.saturating_mul(period / 1000);
        let quota = quota.clamp(CPU_QUOTA_MICROSECONDS_MIN, CPU_QUOTA_MICROSECONDS_MAX);
        settings.push(Setting {
            what: "processor time",
            controller: "cpu",
            one: vec![
                File::new("cpu.cfs_period_us", period, Need::Always),
                File::new("cpu.cfs_quota_us", quota, Need::Always),
            ],
            two: vec![File::new(
                "cpu.max",
                format!("{quota} {period}"),
                Need::Always,
            )],
        });
    }
    if limits.counts_cpu_time {
        settings.push(Setting {
            what: "processor time in all",
            controller: CPU_TIME,
            one: Vec::new(),
            two: Vec::new(),
        });
    }
    if let Some(processes) = limits.processes {
        settings.push(Setting {
            what: "processes",
            controller: "pids",
            one: vec![File::new("pids.max", processes, Need::Always)],
            two: vec![File::new("pids.max", processes, Need::Always)],
        });
    }
    settings
}
