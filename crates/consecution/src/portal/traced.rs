//! The spans of calls, as the portal sees them: one for each time that a runner is asked.

use chain::Chain;

use crate::spans::{Kind, Span};
use crate::trace::Trace;
use crate::transport::{Ending, Outcome, OutputLeft, RefusalReason, Reply};

/// The most refusals of one attempt that have a span each: while all runners are busy, they
/// are asked ten times a second.
const REFUSALS_MAX: usize = 16;

/// Begins the span of a try of link `index`, which was called so often before, and in this
/// attempt refused so often. The trace is inside of it then.
pub(super) fn begin(
    trace: &mut Trace,
    chain: &Chain,
    index: usize,
    (retries, refusals): (u32, usize),
) -> Span {
    let link = &chain.links[index];
    let span = trace.begin(Kind::Client, || format!("call {}", link.name));
    span.note(|notes| {
        notes.set("consecution.chain", chain.name.clone());
        notes.set("consecution.link", link.name.clone());
        notes.set("consecution.link_id", link.id.to_string());
        notes.set("consecution.link_index", index);
        if retries > 0 {
            notes.set("consecution.retries", u64::from(retries));
        }
        if refusals > 0 {
            notes.set("consecution.refusals", refusals);
        }
    });
    span
}

/// A runner has accepted the call.
pub(super) fn accepted(span: &Span, reply: &Reply) {
    span.note(|notes| {
        if let Some(runner) = &reply.runner {
            notes.set("consecution.runner", runner.to_string());
        }
        notes.set("consecution.joined", reply.joined);
    });
}

/// The call was refused, after so many earlier refusals.
pub(super) fn refused(span: &Span, reason: &RefusalReason, refusals: usize) {
    span.note(|notes| {
        notes.set("error.type", kind_of(reason));
        notes.fail(reason);
        if refusals >= REFUSALS_MAX {
            notes.leave_out();
        }
    });
}

/// The words that failures of calls have in the metrics.
fn kind_of(reason: &RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NoRunner => "no_runner",
        RefusalReason::Busy => "busy",
        RefusalReason::Unreachable(_) => "unreachable",
        RefusalReason::CannotStart(_) => "cannot_start",
        RefusalReason::Malformed(_) => "malformed",
    }
}

/// Ends the span of an accepted call of link `index`, which has ended so.
pub(super) fn end(span: &mut Span, chain: &Chain, index: usize, outcome: &Outcome) {
    let span = std::mem::take(span);
    span.note(|notes| {
        let links = chain.links[index..].iter().zip(outcome.links());
        for (link, outcome) in links {
            let failure = match &outcome.ending {
                Ending::Exited(code) if !link.accepts(*code) => {
                    Some(("exited", format!("exited with code {code}")))
                }
                Ending::Exited(_) if outcome.output != OutputLeft::Given => {
                    Some(("no_output", "has not written its output".to_owned()))
                }
                Ending::Exited(_) | Ending::Unread | Ending::Cut => None,
                Ending::Signalled(signal) => {
                    Some(("signalled", format!("was ended by signal {signal}")))
                }
                Ending::DeadlinePassed => {
                    Some(("deadline", "was not done by its deadline".to_owned()))
                }
                Ending::Lost(reason) => Some(("lost", format!("was lost: {reason}"))),
                Ending::CannotStart(reason) => {
                    Some(("cannot_start", format!("cannot be started: {reason}")))
                }
            };
            if let Some((kind, what)) = failure {
                notes.set("error.type", kind);
                notes.fail(format!("link '{}' {what}", link.name));
                return;
            }
        }
    });
}
