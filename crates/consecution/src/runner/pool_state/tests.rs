//! What the pools promise.

use super::settling::{QUIET, SETTLES_WITHIN};
use super::share::{COLD_MAX, COLD_MIN, IDLE_MAX, REFILL_PAUSE, REFILL_REST_MAX, REFILL_REST_MIN};
use super::starved::{STARVED_REST_MAX, STARVED_REST_MIN};
use super::*;

mod idle;
mod model;
mod reserve;
mod room;
mod settling;
mod waiting;

const MS: Duration = Duration::from_millis(1);

fn config(floor: usize) -> Config {
    Config { floor, idle_max: 8 }
}

/// Pools with room for so many processes, three who wait, and any number of
/// starts.
fn pools(processes_max: usize) -> PoolState {
    PoolState::new(Limits {
        processes_max,
        waiting_max: 3,
        refilling_max: usize::MAX,
    })
}

/// Starts everything that is asked for, until nothing is.
fn settle(state: &mut PoolState, now: Moment) {
    loop {
        let actions = state.actions();
        if actions.is_empty() {
            return;
        }
        for action in actions {
            if let Action::Start(member) = action {
                state.started(member, 5 * MS, now);
            }
        }
    }
}

/// An action, without the number of the pipeline that is stopped.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Start(Member),
    Stop(Member),
    SendAway(Member, Ticket),
}

/// The actions since the last call.
fn done(state: &mut PoolState) -> Vec<Done> {
    let done = state.actions().into_iter().map(|action| match action {
        Action::Start(member) => Done::Start(member),
        Action::Stop(member, _) => Done::Stop(member),
        Action::SendAway(member, ticket) => Done::SendAway(member, ticket),
    });
    done.collect()
}

/// The idle pipeline at that position, from the oldest, is spoiled.
fn spoil(state: &mut PoolState, link: Member, at: usize, now: Moment) {
    let number = state.shares[&link].idle[at].number;
    state.spoiled(link, number, now);
}

impl Take {
    fn is_idle(&self) -> bool {
        matches!(self, Take::Idle(..))
    }
}
