//! Runs a chain as a filter, from standard input to standard output, for `run` and
//! `send`. The exit status is the failed link's, or one that `timeout` and `env` use.

use std::path::PathBuf;

use crate::chain_file::{self, ChainFileError};
use anyhow::Context;
use chain::units::format_duration;
use chain::{Chain, Deadline};
use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal};
use crate::transport::{LAST_WORDS_WAIT_MAX, Next, status_of_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::stdio::{self, Errors, Output};
use super::{EXIT_OWN_FAILURE, complain};

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
}

/// Runs `future` until it ends or a signal asks the program to end; returns the exit
/// status.
pub(crate) async fn unless_stopped(
    future: impl Future<Output = anyhow::Result<u8>>,
) -> anyhow::Result<u8> {
    tokio::select! {
        code = future => code,
        signal = stopped() => Ok(signal_code(signal?)),
    }
}

/// Sends standard input through the chain and returns the exit status. Drops `held` as
/// soon as the run is over.
pub(crate) async fn filter(portal: &Portal, held: impl Send) -> anyhow::Result<u8> {
    let output = Output::start()?;
    let errors = Errors::start()?;
    let request = ChainRequest {
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
    match tokio::task::spawn_blocking(|| output.finish()).await? {
        // Our reader closed the pipe early, as `head` does: no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context(stdio::WRITING)?,
    }
    Ok(match report {
        Ok(_) => 0,
        Err(error) => {
            match remedy(&error, portal.chain()) {
                Some(remedy) => complain(format_args!("{error}; {remedy}")),
                None => complain(&error),
            }
            if let Some(hint) = &error.hint {
                complain(format_args!("hint: {hint}"));
            }
            exit_code(&error)
        }
    })
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
            let chain = Call { chain, deadline }.chain().unwrap();
            assert_eq!(chain.deadline, wanted, "{said} {deadline:?}");
        }
    }
}
