//! Detects that a runner is *starved*: it cannot start processes because it is short of
//! something that all of its links share, such as open files, processes or memory. A call is
//! then refused as busy: it was not run, and other runners may have room.
//!
//! This is logged once when it begins and once when it is over. This module must not decide
//! what is started.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use sandbox::{CgroupError, Step};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pipeline::StartFailure;
use super::pool_state::STARVED_OVER_AFTER;
use super::states::States;

/// The kernel's errors that mean a shortage, and what to do about each.
const MISSING: [(Errno, &str); 8] = [
    (
        Errno::MFILE,
        "raise the limit on open files (ulimit -n, systemd's LimitNOFILE)",
    ),
    (Errno::NFILE, "raise fs.file-max, of all of this host"),
    (
        Errno::AGAIN,
        "raise the limits on processes (ulimit -u, pids.max, systemd's TasksMax)",
    ),
    (Errno::NOMEM, "it needs more memory"),
    (Errno::NOBUFS, "it needs more memory"),
    (
        Errno::NOSPC,
        "raise the limits in /proc/sys/user and fs.mount-max",
    ),
    (
        Errno::TOOMANYREFS,
        "raise the limit on open files (ulimit -n, systemd's LimitNOFILE)",
    ),
    (Errno::USERS, "raise the limits in /proc/sys/user"),
];

/// Failures of starts, cut by what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The runner is short of something; with what to do about it.
    Starved(&'static str),
    /// The zygote is gone, or about to be: another one is opened.
    ZygoteGone,
    /// The link itself cannot be started; it would fail on other runners as well.
    OfLink,
}

impl Kind {
    pub(super) fn of(error: &StartFailure) -> Kind {
        let errno = match error {
            StartFailure::Io(error) | StartFailure::Sandbox(sandbox::StartError::Zygote(error)) => {
                errno(error)
            }
            StartFailure::Sandbox(sandbox::StartError::Cgroup(CgroupError::Refused {
                source,
                ..
            })) => errno(source),
            // The link's own limit is too low, not the runner's memory.
            StartFailure::Failed(failure) if failure.step == Step::LimitMemory => None,
            StartFailure::Failed(failure) => Some(Errno::from_raw_os_error(failure.errno)),
            StartFailure::Killed | StartFailure::TooSlow => {
                return Kind::Starved("is memory short, or the processor?");
            }
            _ => None,
        };
        match errno {
            Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Kind::ZygoteGone,
            Some(errno) => MISSING
                .iter()
                .find(|(missing, _)| *missing == errno)
                .map_or(Kind::OfLink, |(_, advice)| Kind::Starved(advice)),
            None => Kind::OfLink,
        }
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// Whether a runner is starved.
pub(super) struct Starvation {
    states: watch::Sender<States>,
    /// Whether it is starved, readable without the lock.
    is_starved: AtomicBool,
    /// The failed starts; `None` while it is not starved.
    failures: Mutex<Option<Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u64,
    last: Instant,
}

impl Starvation {
    /// Not starved. Reports changes to `states`.
    pub(super) fn new(states: &watch::Sender<States>) -> Starvation {
        Starvation {
            states: states.clone(),
            is_starved: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    /// Whether it is starved.
    pub(super) fn is_on(&self) -> bool {
        self.is_starved.load(Ordering::Relaxed)
    }

    /// A start has failed because the runner is short of something.
    pub(super) fn failed(&self, reason: &Arc<str>) {
        let count = {
            let mut failures = self.failures.lock();
            let count = failures.map_or(0, |failures| failures.count) + 1;
            let last = Instant::now();
            *failures = Some(Failures { count, last });
            count
        };
        self.is_starved.store(true, Ordering::Relaxed);
        if count == 1 {
            tracing::warn!("processes cannot be started, and calls are refused as busy: {reason}");
            self.tell(Some(Arc::clone(reason)));
        }
    }

    /// A start has succeeded.
    pub(super) fn succeeded(&self) {
        if !self.is_on() {
            return;
        }
        let over = {
            let mut failures = self.failures.lock();
            failures.take_if(|failures| failures.last.elapsed() >= STARVED_OVER_AFTER)
        };
        if let Some(Failures { count, .. }) = over {
            self.is_starved.store(false, Ordering::Relaxed);
            tracing::info!("processes can be started again; {count} starts had failed");
            self.tell(None);
        }
    }

    fn tell(&self, starved: Option<Arc<str>>) {
        self.states.send_modify(|states| states.starved = starved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_told_from_what_is_wrong_with_the_link() {
        let io = |errno: Errno| StartFailure::Io(errno.into());
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::AGAIN,
            Errno::NOMEM,
            Errno::NOSPC,
        ] {
            assert!(matches!(Kind::of(&io(errno)), Kind::Starved(_)), "{errno}");
            let asked = StartFailure::Sandbox(sandbox::StartError::Zygote(errno.into()));
            assert!(matches!(Kind::of(&asked), Kind::Starved(_)), "{errno}");
            let cgroup = CgroupError::Refused {
                what: "memory",
                path: "/sys/fs/cgroup/x".into(),
                source: errno.into(),
            };
            let cgroup = StartFailure::Sandbox(sandbox::StartError::Cgroup(cgroup));
            assert!(matches!(Kind::of(&cgroup), Kind::Starved(_)), "{errno}");
            let failed = |step| {
                StartFailure::Failed(sandbox::Failure {
                    step,
                    subject: String::new(),
                    errno: errno.raw_os_error(),
                    reason: String::new(),
                })
            };
            let kind = Kind::of(&failed(Step::StartInit));
            assert!(matches!(kind, Kind::Starved(_)), "{errno}");
            assert_eq!(Kind::of(&failed(Step::LimitMemory)), Kind::OfLink);
        }
        assert_eq!(Kind::of(&io(Errno::NOENT)), Kind::OfLink);
        assert_eq!(Kind::of(&io(Errno::PIPE)), Kind::ZygoteGone);
        assert!(matches!(Kind::of(&StartFailure::Killed), Kind::Starved(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_starts_have_not_failed_for_a_while() {
        let states = watch::Sender::new(States::default());
        let starvation = Starvation::new(&states);
        let told = || states.borrow().starved.clone();
        starvation.succeeded();
        assert_eq!((starvation.is_on(), told()), (false, None));
        let (first, second) = (Arc::from("too many open files"), Arc::from("no memory"));
        starvation.failed(&first);
        starvation.failed(&second);
        // Some succeed while others fail.
        tokio::time::advance(STARVED_OVER_AFTER / 2).await;
        starvation.succeeded();
        assert_eq!((starvation.is_on(), told()), (true, Some(first)));
        tokio::time::advance(STARVED_OVER_AFTER).await;
        starvation.succeeded();
        assert_eq!((starvation.is_on(), told()), (false, None));
    }
}
