//! The caller's side of a call that a runner has accepted: runs until the outcome has come,
//! and everything that came before it has been handed over.

use tokio::sync::oneshot;

use super::duplex::Duplex;
use super::state::Broken;
use crate::transport::{Ending, Outcome};

/// See the module. The outcome goes to `tell` as soon as it is known.
pub(crate) async fn run(mut duplex: Duplex, tell: oneshot::Sender<Outcome>) {
    let ended = loop {
        let step = duplex.wait().await;
        match duplex.act(step).await {
            Ok(None) => {}
            Ok(Some(outcome)) => break Ok(outcome),
            Err(broken) => break Err(broken),
        }
    };
    let Duplex {
        line,
        outgoing,
        mut incoming,
        mut stderr_incoming,
        ..
    } = duplex;
    // The runner reads no more of it.
    drop(outgoing);
    let (outcome, cut) = match ended {
        Ok(outcome) => (outcome, "the runner did not send its end".into()),
        Err(broken) => (Outcome::new(ending_of(&broken)), broken.to_string().into()),
    };
    incoming.cut(cut);
    // Nobody may wait for it any more.
    let _ = tell.send(outcome);
    // This closes the inbox, so a runner that still sends is told that we are gone.
    drop(line);
    while !incoming.is_done() || !stderr_incoming.is_empty() {
        tokio::select! {
            biased;
            _ = stderr_incoming.hand_over() => {}
            _ = incoming.hand_over() => {}
        }
    }
}

/// The ending of a call whose exchange broke.
pub(crate) fn ending_of(broken: &Broken) -> Ending {
    match broken {
        Broken::Overdue => Ending::DeadlinePassed,
        broken => Ending::Lost(broken.to_string().into()),
    }
}
