//! Runs a chain as a filter, from standard input to standard output, for `run` and
//! `send`. The exit status is the failed link's, or one that `timeout` and `env` use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::chain_file::{self, ChainFileError};
use anyhow::Context;
use chain::units::format_duration;
use chain::{Chain, Deadline, ParameterError};
use clap::builder::{FalseyValueParser, PathBufValueParser, TypedValueParser};

use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal};
use crate::spans::Kind;
use crate::trace::{Trace, TraceParent, TraceState};
use crate::transport::{LAST_WORDS_WAIT_MAX, Next, status_of_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::stdio::{self, Errors, Output};
use super::{EXIT_OWN_FAILURE, EXIT_USAGE, complain, stats};
use crate::text;

/// A deadline passed: the same status as that of `timeout`.
const EXIT_DEADLINE: u8 = 124;

/// The arguments that `run` and `send` share.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// Chain file.
    #[arg(env = "CONSECUTION_CHAIN", value_parser = file())]
    chain: PathBuf,
    /// Deadline for the whole run, or `none` [default: the chain file's `Deadline`,
    /// else none].
    #[arg(long, env = "CONSECUTION_DEADLINE", value_name = "DURATION|none")]
    deadline: Option<Deadline>,
    /// Value of a parameter that the chain file declares. Repeat the option for several.
    #[arg(
        long = "set",
        env = "CONSECUTION_SET",
        value_name = "NAME=VALUE",
        value_parser = name_and_value
    )]
    parameters: Vec<(String, String)>,
    /// Print what each link has used to standard error when the run is over: time, processor
    /// time, memory, bytes in and out.
    #[arg(long, env = "CONSECUTION_STATS", value_parser = FalseyValueParser::new())]
    pub(super) stats: bool,
}

/// Parses the value of `--set`.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("there is no `=`; write it as in `--set width=300`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The values of parameters on the command line are wrong. The texts read well after "failed
/// to".
#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error("set the parameter `{}` twice: give `--set {}=` once", text::line(.0), text::line(.0))]
    Twice(String),
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

/// Parses a chain file's name. It cannot be `-`: standard input is the chain's input.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => Err("standard input is what the chain reads; name a file"),
        false => Ok(path),
    })
}

impl Call {
    /// Reads the chain. Its deadline is `--deadline` if given, else the file's.
    pub(crate) fn chain(&self) -> Result<Chain, ChainFileError> {
        let mut chain = chain_file::read(&self.chain)?;
        let deadline = self.deadline.unwrap_or(chain.deadline).or(None);
        chain.deadline = deadline.map_or(Deadline::None, Deadline::After);
        Ok(chain)
    }

    /// The values of the chain's parameters; or the exit status, if they are wrong, which is
    /// printed.
    pub(crate) fn parameters(&self, chain: &Chain) -> Result<BTreeMap<String, String>, u8> {
        self.values(chain).map_err(|error| {
            complain(format_args!("failed to {error}"));
            EXIT_USAGE
        })
    }

    fn values(&self, chain: &Chain) -> Result<BTreeMap<String, String>, SetError> {
        let mut values = BTreeMap::new();
        for (name, value) in &self.parameters {
            if values.insert(name.clone(), value.clone()).is_some() {
                return Err(SetError::Twice(name.clone()));
            }
        }
        Ok(chain.values(&values)?)
    }
}

/// Runs `future` until it ends or a signal asks the program to end; returns the exit
/// status. Sends traces of it if they are on, in the name of this service.
pub(crate) async fn unless_stopped(
    service: &str,
    future: impl Future<Output = anyhow::Result<u8>>,
) -> anyhow::Result<u8> {
    let running = async {
        tokio::select! {
            code = future => code,
            signal = stopped() => Ok(signal_code(signal?)),
        }
    };
    super::traced(service, running).await
}

/// A new call. If this program was started within a trace (`TRACEPARENT` in its
/// environment), the call belongs to that trace.
fn trace() -> Trace {
    let value = |name| std::env::var(name).ok();
    let parent = value("TRACEPARENT").and_then(|parent| TraceParent::new(parent.as_bytes()));
    let state = || value("TRACESTATE").and_then(|state| TraceState::new(state.as_bytes()));
    Trace {
        state: parent.as_ref().and_then(|_| state()),
        parent,
        ..Trace::default()
    }
}

/// Sends standard input through the chain, with these values of its parameters, and returns
/// the exit status. Drops `held` as soon as the run is over. Prints what links have used, if
/// `stats` says so, as the last thing but errors in writing.
pub(crate) async fn filter(
    portal: &Portal,
    parameters: BTreeMap<String, String>,
    stats: bool,
    held: impl Send,
) -> anyhow::Result<u8> {
    let output = Output::start()?;
    let errors = Errors::start()?;
    let mut trace = trace();
    let span = trace.begin(Kind::Internal, || portal.chain().name.clone());
    let request = ChainRequest {
        parameters,
        trace,
        stderr: Some(errors.sender()),
        ..ChainRequest::new(stdio::input()?)
    };
    let ChainReply { mut body, report } = portal.stream(request);
    let copying = async {
        loop {
            let next = tokio::select! {
                biased;
                next = body.next_for(&output.pipe) => next,
                // Our reader has closed the pipe. This must be noticed also while there
                // is no output to write.
                () = output.pipe.until_unread() => Ok(Next::Unread),
            };
            match next {
                Ok(Next::Moved) => {}
                Ok(Next::Chunk(chunk)) if output.pipe.write_all(&chunk).await.is_ok() => {}
                // If the body breaks off, the run has failed, and its report says why.
                Ok(Next::Chunk(_) | Next::Unread | Next::End) | Err(_) => break,
            }
        }
        drop(body);
    };
    let (report, ()) = tokio::join!(report, copying);
    drop(held);
    // Print our own messages only after the links' standard error.
    let last_words = tokio::task::spawn_blocking(|| errors.finish());
    let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, last_words).await;
    let written = match tokio::task::spawn_blocking(|| output.finish()).await? {
        // Our reader closed the pipe early, as `head` does: no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(stdio::WRITING),
    };
    let code = written.map(|()| match &report {
        Ok(_) => 0,
        Err(error) => {
            complain_of(error, portal.chain());
            exit_code(error)
        }
    });
    span.note(|notes| {
        if let Ok(code) = &code {
            notes.set("process.exit.code", u64::from(*code));
        }
        if let Err(error) = &report {
            notes.fail(error);
        }
    });
    if stats {
        stats::print(match &report {
            Ok(report) => report,
            Err(error) => &error.report,
        });
    }
    code
}

fn complain_of(error: &ChainError, chain: &Chain) {
    match remedy(error, chain) {
        Some(remedy) => complain(format_args!("{error}; {remedy}")),
        None => complain(error),
    }
    if let Some(hint) = &error.hint {
        complain(format_args!("hint: {hint}"));
    }
}

/// For a deadline that has passed, how to change it: the chain's or the link's,
/// whichever is shorter.
fn remedy(error: &ChainError, chain: &Chain) -> Option<String> {
    if error.reason != FailureReason::DeadlinePassed {
        return None;
    }
    let own = chain.links.get(error.index)?.deadline;
    let whole = chain.deadline.or(None);
    let is_own = own.is_some_and(|own| whole.is_none_or(|whole| own <= whole));
    let shown = format_duration(if is_own { own } else { whole }?);
    Some(match is_own {
        true => format!("it has {shown}: change the link's `Deadline` in the chain file"),
        false => format!(
            "the chain has {shown}: change `Deadline` in the chain file, or give --deadline"
        ),
    })
}

fn exit_code(error: &ChainError) -> u8 {
    match error.reason {
        // `AcceptedExitCodes` may exclude 0, but a failed run must not exit with 0.
        FailureReason::Exited(code) => code.max(1),
        FailureReason::Signalled(signal) => signal_code(signal),
        FailureReason::NoOutput(_) | FailureReason::OddOutput(_) => 1,
        FailureReason::DeadlinePassed => EXIT_DEADLINE,
        FailureReason::Parameter(_) => EXIT_USAGE,
        // Not the link's fault but ours: it never ran, or we lost it.
        FailureReason::Busy
        | FailureReason::CannotStart(_)
        | FailureReason::NoRunner
        | FailureReason::Unreachable(_)
        | FailureReason::Lost(_)
        | FailureReason::InputCut(_) => EXIT_OWN_FAILURE,
    }
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(status_of_signal(signal)).unwrap_or(EXIT_OWN_FAILURE)
}

/// Waits for SIGINT, SIGTERM or SIGHUP and returns its number.
async fn stopped() -> anyhow::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
    }
    .as_raw_value())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_option_counts_before_the_file_and_without_both_there_is_no_deadline() {
        let second = |seconds| Deadline::After(Duration::from_secs(seconds));
        for (said, deadline, wanted) in [
            ("", None, Deadline::None),
            ("Deadline: none", None, Deadline::None),
            ("Deadline: 2s", None, second(2)),
            ("", Some(second(3)), second(3)),
            ("Deadline: 2s", Some(second(3)), second(3)),
            ("Deadline: 2s", Some(Deadline::None), Deadline::None),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = format!("{said}\nChain: [{{Image: busybox, Command: cat}}]\n");
            std::fs::write(&file, text).unwrap();
            let chain = file.path().to_owned();
            let parameters = Vec::new();
            let call = Call {
                chain,
                deadline,
                parameters,
                stats: false,
            };
            let chain = call.chain().unwrap();
            assert_eq!(chain.deadline, wanted, "{said} {deadline:?}");
        }
    }

    #[test]
    fn values_of_parameters_are_given_once_and_are_those_of_the_chain() {
        let text = "Parameters:\n  width: {Pattern: '[0-9]+'}\n  title: {Pattern: .*, Default: ''}\n\
                    Chain: [{Image: b, Command: c, Arguments: ['${width}', '${title}']}]";
        let chain = Chain::parse(text, "", "x").unwrap();
        let values = |given: &[&str]| {
            let given = given.iter().map(|text| name_and_value(text).unwrap());
            let call = Call {
                chain: PathBuf::new(),
                deadline: None,
                parameters: given.collect(),
                stats: false,
            };
            call.values(&chain).map_err(|error| error.to_string())
        };
        let good = values(&["width=3", "title=a=-b"]).unwrap();
        assert_eq!((&*good["width"], &*good["title"]), ("3", "a=-b"));
        assert_eq!(values(&["width=3"]).unwrap()["title"], "");
        for (given, part) in [
            (&["width=3", "width=3"][..], "twice"),
            (
                &["width=x"],
                "`width` to `x`, which does not match `[0-9]+`",
            ),
            (&[], "`width`: give one that matches `[0-9]+`"),
            (&["width=3", "witdh=4"], "did you mean `width`?"),
            (&["width=3", "zoom=4"], "there are title, width"),
        ] {
            let error = values(given).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(name_and_value("width").is_err());
    }
}
