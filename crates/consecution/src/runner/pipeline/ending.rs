//! How a process has ended, in the words of a call's outcome.

use std::io;

use sandbox::{Event, WaitStatus};

use crate::transport::Ending;

pub(super) const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What the kernel sends to who makes a file larger than it may be.
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// How a call is lost whose process did not end by itself.
const KILLED_WITH_INIT: &str =
    "its process was killed with its zygote, or by somebody else (has the host run out of memory?)";

/// How a process has ended, and what is to be said of it beside what it has said itself.
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

/// The ending that an event of the process means, if it means one.
pub(super) fn ending(event: io::Result<Event>) -> Option<Ending> {
    match event {
        Ok(Event::Started) => None,
        Ok(Event::Exited(WaitStatus::Exited(code))) => Some(Ending::Exited(code)),
        Ok(Event::Exited(WaitStatus::Signalled(signal))) => Some(Ending::Signalled(signal)),
        // Of what a command can do, nothing ends its init: that is what happens to it
        // where its zygote is killed, or memory runs out.
        Ok(Event::Gone | Event::Failed(..)) => Some(Ending::Lost(KILLED_WITH_INIT.into())),
        Err(error) => Some(not_followed(&error)),
    }
}

pub(super) fn not_followed(error: &io::Error) -> Ending {
    Ending::Lost(format!("its process could not be followed: {error}").into())
}

/// How one ends that has written more than it may.
pub(super) fn too_much(what: &str) -> End {
    End {
        ending: Ending::Signalled(SIGXFSZ),
        remark: Some(format!("it wrote more to {what} than the runner allows")),
    }
}

/// How one has ended of which the kernel has killed a part, however the rest of it has
/// ended: what that has written lacks what was killed.
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
