//! The caller's side of a call that a runner has taken: until its outcome has come,
//! and all that came before is handed over.

use tokio::sync::oneshot;

use super::duplex::Duplex;
use super::state::Broken;
use crate::transport::{Ending, Outcome};

/// See the module; the outcome is told as soon as it is known.
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
    // Nobody reads it any more.
    drop(outgoing);
    let (outcome, cut) = match ended {
        Ok(outcome) => (outcome, "its end was never said".into()),
        Err(broken) => (Outcome::new(ending_of(&broken)), broken.to_string().into()),
    };
    incoming.cut(cut);
    // Nobody may wait for it any more.
    let _ = tell.send(outcome);
    // With its inbox, so that a runner that goes on is told that we are gone.
    drop(line);
    while !incoming.is_done() || !stderr_incoming.is_empty() {
        tokio::select! {
            biased;
            _ = stderr_incoming.hand_over() => {}
            _ = incoming.hand_over() => {}
        }
    }
}

/// How a call ended whose exchange is over before its end.
pub(crate) fn ending_of(broken: &Broken) -> Ending {
    match broken {
        Broken::Overdue => Ending::DeadlinePassed,
        broken => Ending::Lost(broken.to_string().into()),
    }
}
