//! What limits are as files of cgroups, of either version.

use crate::spec::Limits;

/// The period over which processor time is counted, in microseconds: the
/// kernel's default.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;

/// What the kernel takes at least and at most; the latter is 175 million cores.
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

/// What if a file is not there, or does not take it?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The limit cannot be kept.
    Always,
    /// It can be kept all the same where the host has no swap space.
    WithSwap,
    /// Not every kernel has it.
    Never,
}

impl File {
    fn new(name: &'static str, value: impl ToString, need: Need) -> File {
        let value = value.to_string();
        File { name, value, need }
    }
}

/// What may be needed of memory before a command is executed: 6 MiB of arguments and
/// environment at most, by the kernel's own bound, and what it needs for a process.
/// Until then the process has the memory of the zygote, and where the kernel kills for
/// want of memory, it kills all that share that. So it must not come to it.
const BEFORE_EXECUTION_BYTES: u64 = 16 << 20;

/// Is there less memory than may be needed before a command is executed? Then its
/// limit is set once it has been: see [`memory`].
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

/// What these limits are as files, as long as no command has been executed.
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
