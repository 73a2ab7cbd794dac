//! What a run of a chain reports, and how its failures read.

use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, Link, LinkId};

use crate::text::excerpt;
use crate::transport::{Cut, Ending};

/// How much of a link's command line a message shows.
const COMMAND_CHARS_MAX: usize = 120;

/// What became of each link of a chain, in chain order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One for each link of the chain.
    pub links: Vec<LinkReport>,
}

/// What became of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// What the chain calls it.
    pub name: String,
    /// How it ended; `None` where nobody took the call, or where that was not
    /// known yet.
    pub ending: Option<Ending>,
    /// How long it ran, where its ending is known.
    pub elapsed: Duration,
    /// The runner that took the call, the last one if there were several; `None`
    /// where nobody did, or where it is in this process.
    pub runner: Option<Arc<str>>,
    /// The runner took it together with the link before it, and what that one
    /// wrote has not travelled.
    pub is_joined: bool,
}

/// A run of a chain failed. Clones are cheap; dereferences to the details.
#[derive(Debug, Clone)]
pub struct ChainError(Arc<ChainFailure>);

/// Why a run of a chain failed, and what there is to say about it.
#[derive(Debug)]
pub struct ChainFailure {
    /// The chain's name.
    pub chain: String,
    /// The first link, in chain order, that failed, counted from 0; where the
    /// caller cut its input off, the first one.
    pub index: usize,
    /// What the chain calls that link.
    pub name: String,
    /// The id of what that link runs.
    pub link_id: LinkId,
    /// That link's image, command and arguments, in one line.
    pub command: String,
    /// The runner that had that link's call, as in its report.
    pub runner: Option<Arc<str>>,
    /// What happened.
    pub reason: FailureReason,
    /// The end of what that link wrote to standard error.
    pub stderr: Bytes,
    /// What is known of all links.
    pub report: Report,
}

/// What made a run fail, cut by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureReason {
    /// The link exited with a code that the chain does not accept.
    Exited(u8),
    /// A signal ended the link.
    Signalled(i32),
    /// The link cannot be started, for this reason.
    CannotStart(Arc<str>),
    /// Nobody serves the link.
    NoRunner,
    /// Everybody who serves the link was busy, until the deadline or for too
    /// long.
    Busy,
    /// Nobody could be asked to run the link, for this reason, until the deadline
    /// or for too long.
    Unreachable(Arc<str>),
    /// The link's deadline, or the chain's, passed.
    DeadlinePassed,
    /// The link's runner was lost, or its output was, for this reason, which also
    /// says why the link was not called again.
    Lost(Arc<str>),
    /// The caller cut its input off, for this reason.
    InputCut(Arc<str>),
}

impl ChainError {
    pub(super) fn new(
        chain: &Chain,
        index: usize,
        reason: FailureReason,
        stderr: Bytes,
        report: Report,
    ) -> ChainError {
        let link = &chain.links[index];
        ChainError(Arc::new(ChainFailure {
            chain: chain.name.clone(),
            index,
            name: link.name.clone(),
            link_id: link.id,
            command: command_line(&link.link),
            runner: report.links.get(index).and_then(|link| link.runner.clone()),
            reason,
            stderr,
            report,
        }))
    }

    /// The reply was cut off although no link failed.
    pub(super) fn cut_off(chain: &Chain, report: Report, cut: &Cut) -> ChainError {
        let last = chain.links.len() - 1;
        let reason = FailureReason::Lost(Arc::clone(&cut.reason));
        ChainError::new(chain, last, reason, Bytes::new(), report)
    }
}

impl Deref for ChainError {
    type Target = ChainFailure;

    fn deref(&self) -> &ChainFailure {
        &self.0
    }
}

impl std::error::Error for ChainError {}

impl fmt::Display for ChainError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let FailureReason::InputCut(reason) = &self.reason {
            return write!(formatter, "the input was cut off: {reason}");
        }
        let number = self.index + 1;
        write!(
            formatter,
            "link {number} '{}' ({}) ",
            self.name, self.command
        )?;
        if let Some(runner) = &self.runner {
            write!(formatter, "on runner '{runner}' ")?;
        }
        write!(formatter, "{}", self.reason)
    }
}

/// What happened, to be read after the link's name.
impl fmt::Display for FailureReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exited with code {code}"),
            Self::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(formatter, "was ended by signal {signal} ({name})"),
                None => write!(formatter, "was ended by signal {signal}"),
            },
            Self::CannotStart(reason) => write!(formatter, "cannot be started: {reason}"),
            Self::NoRunner => formatter.write_str("is served by no runner"),
            Self::Busy => {
                formatter.write_str("found every runner busy for as long as it could wait")
            }
            Self::Unreachable(reason) => write!(formatter, "cannot be asked for: {reason}"),
            Self::DeadlinePassed => formatter.write_str("was still running at its deadline"),
            Self::Lost(reason) => write!(formatter, "was lost: {reason}"),
            Self::InputCut(reason) => write!(formatter, "had its input cut off: {reason}"),
        }
    }
}

/// What a link runs, in one line that is not too long.
fn command_line(link: &Link) -> String {
    let words = link.command.iter().chain(&link.arguments);
    let line = words.fold(link.image.clone(), |mut line, word| {
        // Writing to a string cannot fail.
        let _ = write!(line, " {word}");
        line
    });
    excerpt(&line, COMMAND_CHARS_MAX)
}

/// What Linux calls the signals that end a process and are at all common.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}
