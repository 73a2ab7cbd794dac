//! One payload through a chain, as a filter: standard input in, standard output
//! out, and an exit status as the links', `timeout`'s and `env`'s.

use std::time::Duration;

use consecution::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal};
use consecution::transport::Next;
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
        written => written
            .map_err(|error| anyhow::anyhow!("failed to write to standard output: {error}"))?,
    }
    Ok(match report {
        Ok(_) => 0,
        Err(error) => {
            complain(&error);
            exit_code(&error)
        }
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
