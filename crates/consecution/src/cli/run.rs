//! `consecution run`: one chain, here, as a filter.

use std::path::Path;
use std::process::ExitCode;

use consecution::app::OneShot;
use consecution::portal::{ChainError, ChainReply, ChainRequest, FailureReason};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

use super::stdio::{self, Output};
use super::{EXIT_OWN_FAILURE, Global, chain_file, complain, progress};

/// As `timeout` has it.
const EXIT_DEADLINE: u8 = 124;

/// What a shell adds to the number of the signal that ended a command.
const EXIT_SIGNAL_BASE: i32 = 128;

pub(crate) fn run(global: &Global, path: &Path) -> ExitCode {
    match try_run(global, path) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            super::report(&error);
            ExitCode::from(EXIT_OWN_FAILURE)
        }
    }
}

fn try_run(global: &Global, path: &Path) -> anyhow::Result<u8> {
    let chain = chain_file::read(path)?;
    let images = super::images::source(global, progress::on_terminal())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        tokio::select! {
            code = send(chain, images) => code,
            signal = stopped() => Ok(signal_code(signal?)),
        }
    });
    // Not to wait for the thread that reads standard input.
    runtime.shutdown_background();
    code
}

async fn send(chain: chain::Chain, images: consecution::runner::Images) -> anyhow::Result<u8> {
    let output = Output::start("stdout", std::io::stdout())?;
    let errors = Output::start("stderr", std::io::stderr())?;
    let app = OneShot::start(chain, images).await?;
    let request = ChainRequest {
        stderr: Some(errors.sender()),
        ..ChainRequest::new(stdio::input()?)
    };
    let ChainReply { mut body, report } = app.portal.stream(request);
    let to_output = output.sender();
    let copying = async move {
        // A body that is cut off belongs to a run that failed, which the report says.
        while let Some(Ok(chunk)) = body.next().await {
            if to_output.send(chunk).await.is_err() {
                break;
            }
        }
    };
    let (report, ()) = tokio::join!(report, copying);
    drop(app);
    // Messages of ours come after all that the links had to say.
    let _ = tokio::task::spawn_blocking(|| errors.finish()).await;
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
        FailureReason::DeadlinePassed | FailureReason::Busy => EXIT_DEADLINE,
        FailureReason::CannotStart(_)
        | FailureReason::NoRunner
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
