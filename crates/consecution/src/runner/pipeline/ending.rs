//! Translates how a process has ended into the ending of a call.

use std::io;

use sandbox::{Event, WaitStatus};

use super::super::hints::speaks_of_processes;
use super::super::starvation::Kind;
use super::StartFailure;
use crate::transport::{Ending, Limit};

pub(super) const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// The signal that the kernel sends to a process that exceeds its file size limit.
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// The signal that ends a process whose system call a filter kills.
const SIGSYS: i32 = rustix::process::Signal::SYS.as_raw();

/// Why a call is lost whose init was killed.
const KILLED_WITH_INIT: &str =
    "its process was killed with its zygote, or by somebody else (has the host run out of memory?)";

/// How a process has ended, with a remark of ours to add to its standard error.
#[derive(Debug)]
pub(super) struct End {
    pub(super) ending: Ending,
    pub(super) remark: Option<String>,
    /// The limit that has ended it, where that is known.
    pub(super) limit: Option<Limit>,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> End {
        End {
            ending,
            remark: None,
            limit: None,
        }
    }
}

impl End {
    /// Whether the command has failed by itself, which a limit may have caused.
    pub(super) fn is_failure_of_its_own(&self) -> bool {
        match self.ending {
            Ending::Exited(code) => code != 0,
            Ending::Signalled(_) => self.limit.is_none(),
            _ => false,
        }
    }
}

/// What is known of a command that has failed, beside how it has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Its private folders have no room left.
    pub(super) has_filled_its_folders: bool,
    /// The kernel has refused it a process, or one that was in its cgroup before.
    pub(super) was_refused_a_process: bool,
}

impl Known {
    /// The limit that a command has met, if it has ended in this way and has said this.
    /// What cannot be known is none; a hint may guess it.
    pub(super) fn limit(self, end: &End, stderr: &[u8]) -> Option<Limit> {
        if end.limit.is_some() || !end.is_failure_of_its_own() {
            return end.limit;
        }
        if matches!(end.ending, Ending::Signalled(SIGSYS)) {
            Some(Limit::Filter)
        } else if self.has_filled_its_folders {
            Some(Limit::Scratch)
        } else if self.was_refused_a_process && speaks_of_processes(stderr) {
            Some(Limit::Processes)
        } else {
            None
        }
    }
}

/// The ending that an event of a process means; `None` if the process goes on.
pub(super) fn ending(event: io::Result<Event>) -> Option<Ending> {
    match event {
        Ok(Event::Prepared | Event::Started) => None,
        Ok(Event::Exited(WaitStatus::Exited(code))) => Some(Ending::Exited(code)),
        Ok(Event::Exited(WaitStatus::Signalled(signal))) => Some(Ending::Signalled(signal)),
        // A command cannot end its init. Only others can, by killing init or the zygote,
        // and the kernel if memory runs out.
        Ok(Event::Gone | Event::Failed(..)) => Some(Ending::Lost(KILLED_WITH_INIT.into())),
        Err(error) => Some(not_followed(&error)),
    }
}

/// The ending of a process whose command could not be executed once its input was stored.
pub(super) fn not_started(cause: StartFailure) -> Ending {
    let reason = format!("failed to {cause}");
    match Kind::of(&cause) {
        Kind::OfLink => Ending::CannotStart(reason.into()),
        // Elsewhere, or later, there may be what it lacks.
        Kind::Starved(_) | Kind::ZygoteGone => Ending::Lost(reason.into()),
    }
}

pub(super) fn not_followed(error: &io::Error) -> Ending {
    Ending::Lost(format!("its process could not be followed: {error}").into())
}

/// The ending of a process whose output is longer than it may be.
pub(super) fn too_much_output() -> End {
    End {
        limit: Some(Limit::Output),
        ..too_much("its output")
    }
}

/// The ending of a process that has written more than it may.
pub(super) fn too_much(what: &str) -> End {
    End {
        ending: Ending::Signalled(SIGXFSZ),
        remark: Some(format!("it wrote more to {what} than the runner allows")),
        limit: None,
    }
}

/// The ending if memory ran out and the kernel has killed a part of the command, however
/// the rest has ended: the output of the killed part is missing.
pub(super) fn out_of_memory(limit_bytes: u64, rest: &Ending) -> End {
    let limit = chain::units::format_memory(limit_bytes);
    let rest = match rest {
        Ending::Exited(code) => {
            format!("; the kernel killed a part of it, and the rest exited with code {code}")
        }
        _ => String::new(),
    };
    End {
        ending: Ending::Signalled(SIGKILL),
        remark: Some(format!(
            "it ran out of memory: its limit is {limit}, raise Memory{rest}"
        )),
        limit: Some(Limit::Memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_is_known_and_no_more() {
        let none = Known::default();
        let full = Known {
            has_filled_its_folders: true,
            ..none
        };
        let refused = Known {
            was_refused_a_process: true,
            ..none
        };
        let both = Known {
            was_refused_a_process: true,
            ..full
        };
        let cannot_fork = "sh: can't fork: Resource temporarily unavailable";
        let of_memory = out_of_memory(1 << 20, &Ending::Exited(0));
        let killed = |signal| End::from(Ending::Signalled(signal));
        let exited = |code| End::from(Ending::Exited(code));
        for (end, known, stderr, limit) in [
            (&exited(1), none, "", None),
            (&exited(1), none, cannot_fork, None),
            (&exited(1), refused, "", None),
            (&exited(1), refused, cannot_fork, Some(Limit::Processes)),
            (&exited(2), full, "", Some(Limit::Scratch)),
            (&exited(2), both, cannot_fork, Some(Limit::Scratch)),
            (&killed(6), refused, cannot_fork, Some(Limit::Processes)),
            (&killed(SIGSYS), none, "", Some(Limit::Filter)),
            (&killed(SIGSYS), both, "", Some(Limit::Filter)),
            (&killed(SIGKILL), none, "", None),
            // A shell that has survived its child.
            (&exited(128 + 31), none, "Bad system call", None),
            // What has not failed by itself has met none.
            (&exited(0), both, cannot_fork, None),
            (&Ending::Unread.into(), both, cannot_fork, None),
            (&Ending::Cut.into(), both, cannot_fork, None),
            (&Ending::DeadlinePassed.into(), both, cannot_fork, None),
            (&Ending::Lost("".into()).into(), both, cannot_fork, None),
            // What has ended it is known already.
            (&of_memory, both, cannot_fork, Some(Limit::Memory)),
            (&too_much_output(), both, cannot_fork, Some(Limit::Output)),
            (&too_much("standard error"), none, "", None),
        ] {
            assert_eq!(
                known.limit(end, stderr.as_bytes()),
                limit,
                "{end:?} {known:?}"
            );
        }
    }
}
