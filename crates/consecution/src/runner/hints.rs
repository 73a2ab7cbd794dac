//! What to do about a failure that the sandbox has caused: a line for people.
//!
//! A program says what went wrong in its own words ("Read-only file system"), and does not
//! know that a key of the chain file would help. The runner does. A hint is a guess from
//! the end of standard error, so it never decides anything.

use std::sync::Arc;

use chain::{Link, Network, Writable};

use crate::transport::Ending;

/// What a link may have, as far as hints speak of it.
#[derive(Debug, Clone)]
pub(super) struct Means {
    writable: Writable,
    network: Network,
    memory: Option<String>,
    processes: u32,
    scratch: String,
}

impl Means {
    pub(super) fn new(link: &Link, scratch_bytes: u64) -> Means {
        let constraints = &link.constraints;
        let scratch_bytes = constraints.scratch.unwrap_or(scratch_bytes);
        Means {
            writable: link.writable,
            network: link.network,
            memory: constraints.memory.map(chain::units::format_memory),
            processes: constraints.processes.unwrap_or(sandbox::PROCESSES_DEFAULT),
            scratch: chain::units::format_memory(scratch_bytes),
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

/// The key or option that helps against a failure, if one is known that does.
pub(super) fn hint(ending: &Ending, stderr: &[u8], means: &Means) -> Option<Arc<str>> {
    match ending {
        Ending::Signalled(SIGSYS) => {
            let text = "it made a system call that the sandbox does not allow; docs/sandbox.md \
                        lists them";
            return Some(text.into());
        }
        Ending::Exited(0)
        | Ending::Unread
        | Ending::Cut
        | Ending::CannotStart(_)
        | Ending::Lost(_) => return None,
        Ending::Exited(_) | Ending::Signalled(_) | Ending::DeadlinePassed => {}
    }
    let text = match trouble(stderr)? {
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
    };
    Some(text.into())
}

/// The signal that ends a process whose system call a filter kills.
const SIGSYS: i32 = rustix::process::Signal::SYS.as_raw();

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
        Means::new(&Link::default(), 1 << 30)
    }

    fn hint_of(link: &Link, stderr: &str) -> Option<Arc<str>> {
        hint(
            &Ending::Exited(1),
            stderr.as_bytes(),
            &Means::new(link, 1 << 30),
        )
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
    fn a_call_that_is_not_allowed_needs_no_words() {
        let hint = hint(&Ending::Signalled(31), b"", &means());
        assert!(hint.unwrap().contains("system call"));
    }

    proptest! {
        #[test]
        fn whatever_is_said_only_failures_have_a_hint_of_one_short_line(
            before: Vec<u8>, at in 0..TEXTS.len(), after: Vec<u8>,
        ) {
            let text = TEXTS[at].0.to_uppercase();
            let stderr = [&before[..], text.as_bytes(), &after[..]].concat();
            let hint_of = |ending: &Ending| hint(ending, &stderr, &means());
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
            prop_assert_eq!(hint(&Ending::Exited(1), stderr.as_bytes(), &means()), None);
        }
    }
}
