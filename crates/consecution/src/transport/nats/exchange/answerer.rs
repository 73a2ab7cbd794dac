//! The runner's side of a call that it has taken: until all of the output is sent,
//! and then how the call ended.

use tokio::time::{Instant, sleep_until};

use super::duplex::Duplex;
use super::state::Broken;
use crate::transport::{LAST_WORDS_WAIT_MAX, PendingOutcome};

/// See the module. Takes the call, with so many links that follow; the caller may
/// send so much of its body at first. Where the caller is lost the process is stopped
/// by that this drops its output and cuts its input.
///
/// # Errors
/// The caller is lost.
pub(crate) async fn run(
    mut duplex: Duplex,
    mut outcome: PendingOutcome,
    (window, joined): (u64, usize),
) -> Result<(), Broken> {
    let accept = duplex.line.exchange.accept(window, joined, Instant::now());
    duplex.line.send(accept).await?;
    let mut ended = None;
    let mut grace_over: Option<Instant> = None;
    loop {
        let has_sent_all = duplex.line.exchange.has_sent_all() && duplex.stderr_outgoing.is_none();
        if has_sent_all && let Some(outcome) = ended.take() {
            let outcome = duplex.line.exchange.outcome(outcome);
            return duplex.line.send(outcome).await;
        }
        let grace = grace_over.filter(|_| duplex.stderr_outgoing.is_some());
        tokio::select! {
            biased;
            // A caller sends no outcome.
            step = duplex.wait() => drop(duplex.act(step).await?),
            outcome = &mut outcome, if grace_over.is_none() => {
                ended = Some(outcome);
                grace_over = Some(Instant::now() + LAST_WORDS_WAIT_MAX);
            }
            () = passed(grace) => duplex.stderr_outgoing = None,
        }
    }
}

async fn passed(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
