//! The runner's side of a call that it has accepted: sends all of the output, and then how
//! the call ended.

use tokio::time::{Instant, sleep_until};

use super::duplex::Duplex;
use super::state::Broken;
use crate::transport::{LAST_WORDS_WAIT_MAX, PendingOutcome};

/// Accepts the call together with `joined` following links; the caller may send `window`
/// bytes of its body at first. If the caller is lost, returning drops the process's output
/// and cuts its input off, which stops the process.
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
            // Only runners send outcomes, so a step on this side returns none.
            step = duplex.wait() => drop(duplex.act(step).await?),
            outcome = &mut outcome, if grace_over.is_none() => {
                ended = Some(outcome);
                grace_over = Some(Instant::now() + LAST_WORDS_WAIT_MAX);
            }
            () = passed(grace) => duplex.stderr_outgoing = None,
        }
    }
}

/// Resolves at that moment, if there is one.
async fn passed(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
