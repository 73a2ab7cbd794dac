//! What a link's process has used, and the limit that has ended it.

use std::time::Duration;

/// What a process and its descendants have used, as far as it was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user mode and in the kernel.
    pub cpu: Option<Duration>,
    /// The most memory at a time, in bytes. Counted only for a link that has a memory limit,
    /// since only that has a memory cgroup of its own.
    pub memory: Option<u64>,
    /// The bytes that it was given as input. Not counted between links that the kernel
    /// joins.
    pub bytes_in: Option<u64>,
    /// The bytes of its output. Not counted between links that the kernel joins.
    pub bytes_out: Option<u64>,
}

/// A limit of the link that its process has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `Constraints: Memory`: the kernel has killed a part of it.
    Memory,
    /// `Constraints: CPUTime`.
    CpuTime,
    /// `Constraints: Output`.
    Output,
    /// `Constraints: Scratch`: a private folder was full.
    Scratch,
    /// `Constraints: Processes`: the kernel has refused it a process or thread.
    Processes,
    /// A system call that the sandbox's filter answers by killing.
    Filter,
}

impl Limit {
    /// All limits.
    pub const ALL: [Limit; 6] = [
        Limit::Memory,
        Limit::CpuTime,
        Limit::Output,
        Limit::Scratch,
        Limit::Processes,
        Limit::Filter,
    ];

    /// Its name on the wire, over HTTP and in problems.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::CpuTime => "cpu-time",
            Limit::Output => "output",
            Limit::Scratch => "scratch",
            Limit::Processes => "processes",
            Limit::Filter => "filter",
        }
    }

    /// The limit of this name.
    pub fn of_name(name: &str) -> Option<Limit> {
        Limit::ALL.into_iter().find(|limit| limit.name() == name)
    }
}
