//! What to do about a failure that the sandbox has caused: a line for people.
//!
//! A program says what went wrong in its own words ("Read-only file system"), and does not
//! know that a key of the chain file would help. The runner does. A hint is a guess from
//! the end of standard error, so it never decides anything.

use std::sync::Arc;
use std::time::Duration;

use chain::{Link, Network, Writable};

use super::sandboxing::Sandboxing;
use crate::transport::{Ending, Limit, Outcome};

/// What a link may have, as far as hints speak of it.
#[derive(Debug, Clone)]
pub(super) struct Means {
    writable: Writable,
    network: Network,
    memory: Option<String>,
    processes: u32,
    scratch: String,
    cpu_time: Option<Duration>,
    /// If it may have less than the runner allows.
    output: Option<String>,
}

impl Means {
    pub(super) fn new(link: &Link, sandboxing: &Sandboxing) -> Means {
        let constraints = &link.constraints;
        let scratch_bytes = constraints.scratch.unwrap_or(sandboxing.scratch_bytes_max);
        let runners = sandboxing.output_bytes_max.unwrap_or(u64::MAX);
        let output = constraints.output.filter(|bytes| *bytes < runners);
        Means {
            writable: link.writable,
            network: link.network,
            memory: constraints.memory.map(chain::units::format_memory),
            processes: constraints.processes.unwrap_or(sandbox::PROCESSES_DEFAULT),
            scratch: chain::units::format_memory(scratch_bytes),
            cpu_time: constraints.cpu_time,
            output: output.map(chain::units::format_memory),
        }
    }
}

/// What the end of standard error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    ReadOnly,
    Full,
    Watches,
    NoFamily,
    Unreachable,
    Processes,
    Memory,
    OpenFiles,
    Sandbox,
    Filter,
    CpuTime,
    Output,
}

impl Trouble {
    fn of(limit: Limit) -> Trouble {
        match limit {
            Limit::Memory => Trouble::Memory,
            Limit::CpuTime => Trouble::CpuTime,
            Limit::Output => Trouble::Output,
            Limit::Scratch => Trouble::Full,
            Limit::Processes => Trouble::Processes,
            Limit::Filter => Trouble::Filter,
        }
    }
}

/// Texts that programs write, in lower case, each with what it means: those of the C
/// library, of Go, of Node and of the JVM. If several are there, the last one in standard
/// error counts, and of those that end at one place the first one here.
const TEXTS: [(&str, Trouble); 40] = [
    ("read-only file system", Trouble::ReadOnly),
    ("erofs", Trouble::ReadOnly),
    ("file watchers reached", Trouble::Watches),
    ("inotify watch limit", Trouble::Watches),
    ("inotify: no space left on device", Trouble::Watches),
    ("no space left on device", Trouble::Full),
    ("enospc", Trouble::Full),
    ("disk quota exceeded", Trouble::Full),
    ("address family not supported", Trouble::NoFamily),
    ("eafnosupport", Trouble::NoFamily),
    ("network is unreachable", Trouble::Unreachable),
    ("network unreachable", Trouble::Unreachable),
    ("enetunreach", Trouble::Unreachable),
    ("temporary failure in name resolution", Trouble::Unreachable),
    ("temporary failure resolving", Trouble::Unreachable),
    ("name or service not known", Trouble::Unreachable),
    ("could not resolve host", Trouble::Unreachable),
    ("unable to resolve host address", Trouble::Unreachable),
    ("no such host", Trouble::Unreachable),
    ("unknownhostexception", Trouble::Unreachable),
    ("bad address '", Trouble::Unreachable),
    ("enotfound", Trouble::Unreachable),
    ("eai_again", Trouble::Unreachable),
    ("resource temporarily unavailable", Trouble::Processes),
    ("can't fork", Trouble::Processes),
    ("cannot fork", Trouble::Processes),
    ("unable to create native thread", Trouble::Processes),
    ("unable to create new native thread", Trouble::Processes),
    ("can't start new thread", Trouble::Processes),
    ("failed to create new os thread", Trouble::Processes),
    ("cannot allocate memory", Trouble::Memory),
    ("std::bad_alloc", Trouble::Memory),
    ("out of memory", Trouble::Memory),
    ("outofmemoryerror", Trouble::Memory),
    ("memoryerror", Trouble::Memory),
    ("too many open files", Trouble::OpenFiles),
    ("emfile", Trouble::OpenFiles),
    ("no usable sandbox", Trouble::Sandbox),
    ("failed to move to new namespace", Trouble::Sandbox),
    ("creating new namespace failed", Trouble::Sandbox),
];

/// The key or option that helps against a failure, if one is known that does: by the limit
/// that it has met, where that is known, and else by what it has said.
pub(super) fn hint(outcome: &Outcome, means: &Means) -> Option<Arc<str>> {
    let trouble = match (outcome.limit, &outcome.ending) {
        (Some(limit), _) => Trouble::of(limit),
        (None, Ending::Exited(0) | Ending::Unread | Ending::Cut) => return None,
        (None, Ending::CannotStart(_) | Ending::Lost(_)) => return None,
        // A shell says so of a part of it.
        (None, Ending::Exited(SIGSYS_STATUS)) => {
            trouble(&outcome.stderr).unwrap_or(Trouble::Filter)
        }
        (None, Ending::Exited(_) | Ending::Signalled(_) | Ending::DeadlinePassed) => {
            trouble(&outcome.stderr)?
        }
    };
    help(trouble, means).map(Arc::from)
}

/// The key or option that helps.
fn help(trouble: Trouble, means: &Means) -> Option<String> {
    Some(match trouble {
        Trouble::ReadOnly => match means.writable {
            Writable::Yes | Writable::No => "it can write to its root, but not to its `Files`, \
                `Data` and `Secrets`, nor below /dev, /proc and /sys"
                .to_owned(),
            Writable::Never => "its root cannot be written: leave `Writable: never` out, or let \
                it write to /tmp, /var/tmp, /run or /dev/shm"
                .to_owned(),
        },
        Trouble::Full => format!(
            "a private folder is full, or its root: each holds {}; set `Constraints: {{Scratch: …}}`, \
             which the runner's --scratch-max bounds",
            means.scratch,
        ),
        Trouble::Watches => "a link may watch 8192 files at a time; watch fewer".to_owned(),
        Trouble::NoFamily => match means.network {
            Network::Sealed => "it has no network, not even a loopback: leave `Network: sealed` \
                out if it talks to itself"
                .to_owned(),
            Network::None | Network::Loopback => {
                "it has TCP, UDP and Unix sockets alone".to_owned()
            }
            Network::Host => return None,
        },
        Trouble::Unreachable => match means.network {
            Network::Host => return None,
            Network::None | Network::Loopback | Network::Sealed => "it has no network beyond its \
                own loopback: have what it fetches in the image, or in `Data`; or set `Network: \
                host`, for which the runner needs --allow-host-network"
                .to_owned(),
        },
        Trouble::Processes => format!(
            "it may have {} processes and threads: set `Constraints: {{Processes: …}}`",
            means.processes,
        ),
        Trouble::Memory => {
            let memory = means.memory.as_deref()?;
            format!("it may have {memory} of memory: set `Constraints: {{Memory: …}}`")
        }
        Trouble::OpenFiles => "it may have 1024 open files, or 4096 after `ulimit -n`: set \
            `Constraints: {OpenFiles: …}`"
            .to_owned(),
        Trouble::Sandbox => {
            "it is in a sandbox already and cannot make another: turn its own off, \
            as with Chromium's --no-sandbox"
                .to_owned()
        }
        Trouble::Filter => "it made a system call that the sandbox does not allow; \
            docs/sandbox.md lists them"
            .to_owned(),
        Trouble::CpuTime => {
            let time = means.cpu_time?;
            format!(
                "it may use {} s of processor time: set `Constraints: {{CPUTime: …}}`",
                time.as_secs_f64(),
            )
        }
        Trouble::Output => match &means.output {
            Some(bytes) => {
                format!("its output may have {bytes}: set `Constraints: {{Output: …}}`")
            }
            None => "the runner's --output-max bounds its output".to_owned(),
        },
    })
}

/// What a shell exits with whose last command the filter has ended (SIGSYS, 31).
const SIGSYS_STATUS: u8 = 128 + 31;

/// Whether the end of standard error says that there could be no more processes or threads.
pub(super) fn speaks_of_processes(stderr: &[u8]) -> bool {
    let said = String::from_utf8_lossy(stderr).to_ascii_lowercase();
    let mut texts = TEXTS.iter();
    texts.any(|(text, trouble)| *trouble == Trouble::Processes && said.contains(text))
}

/// The trouble that standard error speaks of last.
fn trouble(stderr: &[u8]) -> Option<Trouble> {
    let said = String::from_utf8_lossy(stderr).to_ascii_lowercase();
    let found = TEXTS.iter().rev().filter_map(|(text, trouble)| {
        let end = said.rfind(text)? + text.len();
        Some((end, *trouble))
    });
    // Of several that are last, `max_by_key` takes the last one, which is the first text.
    found
        .max_by_key(|(end, _)| *end)
        .map(|(_, trouble)| trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::HINT_BYTES_MAX;
    use proptest::prelude::*;

    fn means() -> Means {
        Means::new(&Link::default(), &Sandboxing::default())
    }

    fn outcome(ending: Ending, stderr: &[u8]) -> Outcome {
        Outcome {
            stderr: stderr.to_vec().into(),
            ..Outcome::new(ending)
        }
    }

    fn hint_of(link: &Link, stderr: &str) -> Option<Arc<str>> {
        let means = Means::new(link, &Sandboxing::default());
        hint(&outcome(Ending::Exited(1), stderr.as_bytes()), &means)
    }

    #[test]
    fn each_trouble_has_the_key_that_helps() {
        let link = Link::default();
        for (stderr, key) in [
            ("touch: /sys/x: Read-only file system", "not to its `Files`"),
            (
                "Error: EROFS: read-only file system, open '/x'",
                "not to its `Files`",
            ),
            (
                "dd: error writing '/tmp/x': No space left on device",
                "Scratch",
            ),
            (
                "socket: Address family not supported by protocol",
                "sockets alone",
            ),
            (
                "curl: (6) Could not resolve host: example.org",
                "--allow-host-network",
            ),
            (
                "ping: connect: Network is unreachable",
                "--allow-host-network",
            ),
            (
                "sh: can't fork: Resource temporarily unavailable",
                "256 processes",
            ),
            ("OSError: [Errno 24] Too many open files: 'x'", "OpenFiles"),
            ("inotify_add_watch: inotify watch limit reached", "8192"),
            (
                "[1:1:FATAL] No usable sandbox! Update your kernel",
                "--no-sandbox",
            ),
        ] {
            let hint = hint_of(&link, stderr);
            assert!(
                hint.as_ref().is_some_and(|hint| hint.contains(key)),
                "{stderr}: {hint:?}"
            );
        }
    }

    #[test]
    fn what_the_link_has_already_is_not_hinted_at() {
        let never = Link {
            writable: Writable::Never,
            ..Link::default()
        };
        let hint = hint_of(&never, "Read-only file system").unwrap();
        assert!(hint.contains("`Writable: never`"), "{hint}");
        let link = Link {
            network: Network::Host,
            ..Link::default()
        };
        for stderr in ["Network is unreachable", "Address family not supported"] {
            assert_eq!(hint_of(&link, stderr), None, "{stderr}");
        }
        // A link without `Memory` has met the machine's limit, which no key raises.
        assert_eq!(hint_of(&link, "MemoryError"), None);
        let sealed = Link {
            network: Network::Sealed,
            ..Link::default()
        };
        let hint = hint_of(&sealed, "Address family not supported by protocol").unwrap();
        assert!(hint.contains("`Network: sealed`"), "{hint}");
    }

    #[test]
    fn the_last_trouble_counts() {
        let link = Link::default();
        let first = "x: Read-only file system\ny: No space left on device\n";
        assert!(hint_of(&link, first).unwrap().contains("Scratch"));
        let second = "y: No space left on device\nx: Read-only file system\n";
        assert!(hint_of(&link, second).unwrap().contains("`Files`"));
    }

    #[test]
    fn a_limit_that_is_known_needs_no_words_and_counts_before_them() {
        let mut link = Link::default();
        link.constraints.memory = Some(64 << 20);
        link.constraints.cpu_time = Some(Duration::from_millis(1500));
        link.constraints.output = Some(1 << 20);
        let means = Means::new(&link, &Sandboxing::default());
        for (limit, words) in [
            (Limit::Memory, "64M of memory"),
            (Limit::CpuTime, "1.5 s of processor time"),
            (Limit::Output, "its output may have 1M"),
            (Limit::Scratch, "`Constraints: {Scratch: …}`"),
            (Limit::Processes, "256 processes"),
            (Limit::Filter, "system call"),
        ] {
            for stderr in ["", "x: Read-only file system"] {
                let met = Outcome {
                    limit: Some(limit),
                    ..outcome(Ending::Exited(1), stderr.as_bytes())
                };
                let hint = hint(&met, &means).unwrap();
                assert!(hint.contains(words), "{limit:?}: {hint}");
            }
        }
        // The runner's own bound, which is lower.
        let runners = Sandboxing {
            output_bytes_max: Some(1000),
            ..Sandboxing::default()
        };
        let met = Outcome {
            limit: Some(Limit::Output),
            ..outcome(Ending::Signalled(25), b"")
        };
        let hint = hint(&met, &Means::new(&link, &runners)).unwrap();
        assert!(hint.contains("--output-max"), "{hint}");
    }

    #[test]
    fn what_a_shell_says_of_its_child_is_a_guess() {
        let hint_of = |code, stderr: &[u8]| hint(&outcome(Ending::Exited(code), stderr), &means());
        let text = hint_of(159, b"Bad system call").unwrap();
        assert!(text.contains("system call"), "{text}");
        let text = hint_of(159, b"x: No space left on device").unwrap();
        assert!(text.contains("Scratch"), "{text}");
        assert_eq!(hint_of(158, b""), None);
    }

    proptest! {
        #[test]
        fn whatever_is_said_only_failures_have_a_hint_of_one_short_line(
            before: Vec<u8>, at in 0..TEXTS.len(), after: Vec<u8>,
        ) {
            let text = TEXTS[at].0.to_uppercase();
            let stderr = [&before[..], text.as_bytes(), &after[..]].concat();
            let hint_of = |ending: &Ending| hint(&outcome(ending.clone(), &stderr), &means());
            for ending in [Ending::Exited(0), Ending::Unread, Ending::Cut, Ending::Lost("".into())] {
                prop_assert_eq!(hint_of(&ending), None);
            }
            for ending in [Ending::Exited(2), Ending::Signalled(9), Ending::DeadlinePassed] {
                let hint = hint_of(&ending);
                let is_line = hint.is_none_or(|hint| hint.len() < HINT_BYTES_MAX && !hint.contains('\n'));
                prop_assert!(is_line);
            }
        }

        #[test]
        fn of_what_is_not_known_nothing_is_said(stderr in "[a-d \n]{0,200}") {
            let outcome = outcome(Ending::Exited(1), stderr.as_bytes());
            prop_assert_eq!(hint(&outcome, &means()), None);
        }
    }
}
