//! Translates how a process has ended into the ending of a call.

use std::io;

use sandbox::{Event, WaitStatus};

use super::super::starvation::Kind;
use super::StartFailure;
use crate::transport::Ending;

pub(super) const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// The signal that the kernel sends to a process that exceeds its file size limit.
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// Why a call is lost whose init was killed.
const KILLED_WITH_INIT: &str =
    "its process was killed with its zygote, or by somebody else (has the host run out of memory?)";

/// How a process has ended, with a remark of ours to add to its standard error.
#[derive(Debug)]
pub(super) struct End {
    pub(super) ending: Ending,
    pub(super) remark: Option<String>,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> End {
        End {
            ending,
            remark: None,
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

/// The ending of a process that has written more than it may.
pub(super) fn too_much(what: &str) -> End {
    End {
        ending: Ending::Signalled(SIGXFSZ),
        remark: Some(format!("it wrote more to {what} than the runner allows")),
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
    }
}
