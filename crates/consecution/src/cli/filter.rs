//! One payload through a chain, as a filter: standard input in, standard output
//! out, and an exit status as the links', `timeout`'s and `env`'s.

use std::path::PathBuf;
use std::time::Duration;

use crate::chain_file::{self, ChainFileError};
use anyhow::Context;
use chain::units::format_duration;
use chain::{Chain, Deadline};
use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal};
use crate::transport::Next;
use tokio::signal::unix::{SignalKind, signal};

use super::stdio::{self, Errors, Output};
use super::{EXIT_OWN_FAILURE, complain};

/// As `timeout` has it.
const EXIT_DEADLINE: u8 = 124;

/// What a shell adds to the number of the signal that ended a command.
const EXIT_SIGNAL_BASE: i32 = 128;

/// How long to wait for the rest of what links say on standard error, once the
/// run is over: whoever still holds it may have been lost.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// What is called, and how: what `run` and `send` take.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The chain file.
    #[arg(env = "CONSECUTION_CHAIN", value_parser = file())]
    chain: PathBuf,
    /// How long the whole call may take, or none [default: what the chain file's
    /// `Deadline` says, else none].
    #[arg(long, env = "CONSECUTION_DEADLINE", value_name = "DURATION|none")]
    deadline: Option<Deadline>,
}

/// A chain file's name. There it cannot be read from standard input.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => Err("standard input is what the chain reads; name a file"),
        false => Ok(path),
    })
}

impl Call {
    /// The chain, with the deadline that counts.
    pub(crate) fn chain(&self) -> Result<Chain, ChainFileError> {
        let mut chain = chain_file::read(&self.chain)?;
        let deadline = self.deadline.unwrap_or(chain.deadline).or(None);
        chain.deadline = deadline.map_or(Deadline::None, Deadline::After);
        Ok(chain)
    }
}

/// Runs `future`, unless a signal asks to end before it does; gives the exit
/// status.
pub(crate) async fn unless_stopped(
    future: impl Future<Output = anyhow::Result<u8>>,
) -> anyhow::Result<u8> {
    tokio::select! {
        code = future => code,
        signal = stopped() => Ok(signal_code(signal?)),
    }
}

/// Sends standard input through the chain, and gives the exit status. `held` is
/// dropped as soon as the run is over.
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
                // Whoever reads us has left, also where nothing comes any more.
                () = output.pipe.until_unread() => Ok(Next::Unread),
            };
            match next {
                Ok(Next::Moved) => {}
                Ok(Next::Chunk(chunk)) if output.pipe.write_all(&chunk).await.is_ok() => {}
                // A body that is cut off belongs to a run that failed, which the
                // report says.
                Ok(Next::Chunk(_) | Next::Unread | Next::End) | Err(_) => break,
            }
        }
        drop(body);
    };
    let (report, ()) = tokio::join!(report, copying);
    drop(held);
    // Messages of ours come after all that the links had to say.
    let last_words = tokio::task::spawn_blocking(|| errors.finish());
    let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, last_words).await;
    match tokio::task::spawn_blocking(|| output.finish()).await? {
        // Whoever reads us has seen enough, and that is no failure.
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
            exit_code(&error)
        }
    })
}

/// What to do about a deadline that was too short: the chain's or the link's own,
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
        // A chain may refuse 0, but a run that failed must not look like success.
        FailureReason::Exited(code) => code.max(1),
        FailureReason::Signalled(signal) => signal_code(signal),
        FailureReason::DeadlinePassed => EXIT_DEADLINE,
        // A deadline is the link's own; that there was no room for it is ours.
        FailureReason::Busy
        | FailureReason::CannotStart(_)
        | FailureReason::NoRunner
        | FailureReason::Unreachable(_)
        | FailureReason::Lost(_)
        | FailureReason::InputCut(_) => EXIT_OWN_FAILURE,
    }
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(EXIT_SIGNAL_BASE + signal).unwrap_or(EXIT_OWN_FAILURE)
}

/// Waits for a signal that asks us to end, and gives its number.
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
