//! Small files that programs look for and no image has: what they want to know of the
//! machine in `/sys`, and of their own name in `/etc`. They are copies that are made when
//! the link is loaded: through the host's own files a link could leave marks for others.

use std::path::{Path, PathBuf};

use crate::spec::Network;
use crate::wire::Order;

/// How many processors there are, and whether memory comes in large pages: for `lscpu`,
/// the JVM, `nproc` and C libraries.
const OF_MACHINE: [&str; 7] = [
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/kernel_max",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
];

/// Has a folder for each processor, which old C libraries count.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// As large as a page, as all files of `/sys`.
const BYTES_MAX: u64 = 4096;

/// The files, each with its content.
pub(super) fn files(order: &Order) -> Vec<(PathBuf, Vec<u8>)> {
    let spec = &order.spec;
    let of_machine = OF_MACHINE.iter().filter_map(|path| {
        let content = read(Path::new(path))?;
        Some((PathBuf::from(path), content))
    });
    let mut files: Vec<_> = of_machine.collect();
    files.extend(of_limits(order.memory_bytes, order.cpu_millicores));
    if spec.network != Network::Host {
        files.push(("/etc/hosts".into(), hosts(&spec.hostname).into_bytes()));
        let name = format!("{}\n", spec.hostname);
        files.push(("/etc/hostname".into(), name.into_bytes()));
    }
    files
}

/// The period in which the kernel counts processor time, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// The memory of a cgroup of version 1 that has no limit.
const UNLIMITED: u64 = i64::MAX as u64 / 4096 * 4096;

/// The limits of a process, as files that Node.js (libuv) and the Rust library read to size
/// themselves: as cgroups of version 2 have them, and of version 1. Where Node.js finds a
/// cgroup for memory and no such file, it has a heap of 48 MiB. A cgroup itself could only
/// be mounted by a process that has joined it, in a place that is not used again.
fn of_limits(
    memory_bytes: Option<u64>,
    cpu_millicores: Option<u64>,
) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let bytes = memory_bytes.unwrap_or(UNLIMITED).to_string();
    let most = memory_bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
    let memory = [
        ("memory.max", most),
        ("memory.high", "max".to_owned()),
        ("memory/memory.limit_in_bytes", bytes.clone()),
        ("memory/memory.soft_limit_in_bytes", bytes),
    ];
    let cpu = cpu_millicores.into_iter().flat_map(|millicores| {
        let quota = millicores.saturating_mul(CPU_PERIOD) / 1000;
        [
            ("cpu.max", format!("{quota} {CPU_PERIOD}")),
            ("cpu/cpu.cfs_quota_us", quota.to_string()),
            ("cpu/cpu.cfs_period_us", CPU_PERIOD.to_string()),
        ]
    });
    memory.into_iter().chain(cpu).map(|(name, value)| {
        let path = Path::new("/sys/fs/cgroup").join(name);
        (path, format!("{value}\n").into_bytes())
    })
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The folders of processors, which have nothing in them.
pub(super) fn folders() -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(PROCESSORS) else {
        return Vec::new();
    };
    let found = found.flatten().map(|entry| entry.path());
    found.filter(|path| is_processor(path)).collect()
}

fn is_processor(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix("cpu"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// As Docker writes it for a container without a network, with the container's own name.
fn hosts(name: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n\
         127.0.0.1\t{name}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_numbers() {
        assert!(is_processor(Path::new("/sys/devices/system/cpu/cpu12")));
        for other in ["cpufreq", "cpu", "online", "cpu1x"] {
            assert!(!is_processor(&Path::new(PROCESSORS).join(other)), "{other}");
        }
    }
}
