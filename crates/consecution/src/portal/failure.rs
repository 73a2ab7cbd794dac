//! The report of a chain's run, and the texts of its failures.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::units::{format_duration, format_memory};
use chain::{Chain, Constraints, Link, LinkId, ParameterError};

use crate::text::excerpt;
use crate::transport::{Cut, Ending, Limit, Usage, status_of_signal};

/// The most characters of a link's command line that a message shows.
const COMMAND_CHARS_MAX: usize = 120;

/// How each link of a chain ended, in chain order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One report for each link of the chain.
    pub links: Vec<LinkReport>,
}

/// How one link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The link's name in the chain.
    pub name: String,
    /// How the link ended; `None` if no runner accepted the call, or if the ending was
    /// not known yet when the run was over.
    pub ending: Option<Ending>,
    /// How long the link ran, if its ending is known.
    pub elapsed: Duration,
    /// The last runner that accepted the call; `None` if none did, or if it is in this
    /// process.
    pub runner: Option<Arc<str>>,
    /// Whether the runner ran this link joined to the link before it, so that the data
    /// between the two did not travel.
    pub is_joined: bool,
    /// What the link has used, as far as that was counted: of the last call of it.
    pub usage: Usage,
    /// The limit that the link has met, if it is known.
    pub limit: Option<Limit>,
}

impl LinkReport {
    /// How the link ended, in a word. A number is the process's own status, as in a shell; a
    /// word says why it was stopped; `-` means that it was never started, or that its end is
    /// unknown.
    pub fn status(&self) -> Cow<'static, str> {
        Cow::Borrowed(match &self.ending {
            Some(Ending::Exited(0)) => "0",
            Some(Ending::Exited(code)) => return code.to_string().into(),
            Some(Ending::Signalled(signal)) => return status_of_signal(*signal).to_string().into(),
            Some(Ending::Unread) => "unread",
            Some(Ending::Cut) => "cut",
            Some(Ending::DeadlinePassed) => "deadline",
            Some(Ending::Lost(_)) => "lost",
            Some(Ending::CannotStart(_)) => "cannot-start",
            None => "-",
        })
    }
}

/// A run of a chain failed. Clones are cheap; dereferences to the details.
#[derive(Debug, Clone)]
pub struct ChainError(Arc<ChainFailure>);

/// Why a run of a chain failed, with details.
#[derive(Debug)]
pub struct ChainFailure {
    /// The chain's name.
    pub chain: String,
    /// The position, from 0, of the first link in chain order that failed; 0 if the
    /// [caller is to blame](FailureReason::is_the_callers).
    pub index: usize,
    /// The failed link's name in the chain.
    pub name: String,
    /// The failed link's id.
    pub link_id: LinkId,
    /// The failed link's image, command and arguments, in one line.
    pub command: String,
    /// The runner that ran the failed link, as in the link's report.
    pub runner: Option<Arc<str>>,
    /// Why the link failed.
    pub reason: FailureReason,
    /// The limit that the failed link has met, if it is known.
    pub limit: Option<Limit>,
    /// What that limit means: a text that reads well after the reason.
    limit_text: Option<String>,
    /// The end of the failed link's standard error.
    pub stderr: Bytes,
    /// What may help, if the runner knows more than the link has said: a line for people.
    pub hint: Option<Arc<str>>,
    /// The report on all links.
    pub report: Report,
}

/// Why a run failed, divided by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureReason {
    /// The link exited with a code that the chain does not accept.
    Exited(u8),
    /// A signal ended the link.
    Signalled(i32),
    /// The link exited as it should, but there was nothing at this path, its `Output`.
    NoOutput(Arc<str>),
    /// The link exited as it should, but what was at this path, its `Output`, was not what
    /// that should be: a regular file, or, with a slash at its end, a folder.
    OddOutput(Arc<str>),
    /// The link cannot be started, for this reason.
    CannotStart(Arc<str>),
    /// No runner serves the link.
    NoRunner,
    /// All runners that serve the link were busy, until the deadline or for too long.
    Busy,
    /// No runner could be reached, for this reason, until the deadline or for too long.
    Unreachable(Arc<str>),
    /// The link's deadline, or the chain's, passed.
    DeadlinePassed,
    /// The link's runner or its output was lost. The reason also says why the call was
    /// not repeated.
    Lost(Arc<str>),
    /// The caller cut its input off, for this reason.
    InputCut(Arc<str>),
    /// The caller gave values of parameters that the chain does not have, or not those
    /// that it needs. Nothing was run.
    Parameter(ParameterError),
}

impl FailureReason {
    /// Whether no link is to blame, but the caller.
    pub fn is_the_callers(&self) -> bool {
        matches!(self, Self::InputCut(_) | Self::Parameter(_))
    }
}

/// What is left of a failed link.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    /// The end of its standard error.
    pub(super) stderr: Bytes,
    pub(super) hint: Option<Arc<str>>,
}

impl ChainError {
    pub(super) fn new(
        chain: &Chain,
        index: usize,
        reason: FailureReason,
        said: LastWords,
        report: Report,
    ) -> ChainError {
        let link = &chain.links[index];
        let limit = report.links.get(index).and_then(|link| link.limit);
        let limit = limit.filter(|_| !reason.is_the_callers());
        ChainError(Arc::new(ChainFailure {
            chain: chain.name.clone(),
            index,
            name: link.name.clone(),
            link_id: link.id,
            command: command_line(&link.link),
            runner: report.links.get(index).and_then(|link| link.runner.clone()),
            reason,
            limit,
            limit_text: limit.map(|limit| limit_text(limit, &link.link.constraints)),
            stderr: said.stderr,
            hint: said.hint,
            report,
        }))
    }

    /// The error for a reply that was cut off although no link failed.
    pub(super) fn cut_off(chain: &Chain, report: Report, cut: &Cut) -> ChainError {
        let last = chain.links.len() - 1;
        let reason = FailureReason::Lost(Arc::clone(&cut.reason));
        ChainError::new(chain, last, reason, LastWords::default(), report)
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
        match &self.reason {
            FailureReason::InputCut(reason) => {
                return write!(formatter, "the input was cut off: {reason}");
            }
            FailureReason::Parameter(error) => return write!(formatter, "failed to {error}"),
            _ => {}
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
        write!(formatter, "{}", self.reason)?;
        match &self.limit_text {
            Some(text) => write!(formatter, ": {text}"),
            None => Ok(()),
        }
    }
}

/// What it means that a link with these constraints has met a limit, and the key that raises
/// it.
fn limit_text(limit: Limit, constraints: &Constraints) -> String {
    let memory = |bytes: Option<u64>| bytes.map(format_memory);
    let (what, key, allowed) = match limit {
        Limit::Memory => {
            let allowed = memory(constraints.memory);
            ("needed more memory", "Memory", allowed)
        }
        Limit::CpuTime => {
            let allowed = constraints.cpu_time.map(format_duration);
            ("took more processor time", "CPUTime", allowed)
        }
        Limit::Output => ("wrote more", "Output", memory(constraints.output)),
        Limit::Scratch => {
            let allowed = memory(constraints.scratch);
            ("stored more in its own folders", "Scratch", allowed)
        }
        Limit::Processes => {
            let allowed = constraints.processes.map(|count| count.to_string());
            ("needed more processes and threads", "Processes", allowed)
        }
        Limit::Filter => {
            return "it made a system call that is not allowed in the sandbox".to_owned();
        }
    };
    let allowed = allowed.as_deref().unwrap_or("…");
    format!("it {what} than `Constraints: {{{key}: {allowed}}}` allows")
}

/// A text that reads well after the link's name.
impl fmt::Display for FailureReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exited with code {code}"),
            Self::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(formatter, "was ended by signal {signal} ({name})"),
                None => write!(formatter, "was ended by signal {signal}"),
            },
            Self::NoOutput(path) => {
                write!(formatter, "has not written its output: there is no {path}")
            }
            Self::OddOutput(path) => {
                let wanted = match path.ends_with('/') {
                    true => "folder",
                    false => "regular file",
                };
                write!(
                    formatter,
                    "has not written its output: what is at {path} is no {wanted}"
                )
            }
            Self::CannotStart(reason) => write!(formatter, "cannot be started: {reason}"),
            Self::NoRunner => formatter.write_str("is served by no runner"),
            Self::Busy => {
                formatter.write_str("found every runner busy for as long as it could wait")
            }
            Self::Unreachable(reason) => write!(formatter, "cannot be asked for: {reason}"),
            Self::DeadlinePassed => formatter.write_str("was still running at its deadline"),
            Self::Lost(reason) => write!(formatter, "was lost: {reason}"),
            Self::InputCut(reason) => write!(formatter, "had its input cut off: {reason}"),
            Self::Parameter(error) => write!(formatter, "was not called: failed to {error}"),
        }
    }
}

/// A link's image, command and arguments in one line, shortened if it is too long.
pub(crate) fn command_line(link: &Link) -> String {
    let words = link.command.iter().chain(&link.arguments);
    let line = words.fold(link.image.clone(), |mut line, word| {
        // Writing to a string cannot fail.
        let _ = write!(line, " {word}");
        line
    });
    excerpt(&line, COMMAND_CHARS_MAX)
}

/// The names of common signals that end a process.
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
