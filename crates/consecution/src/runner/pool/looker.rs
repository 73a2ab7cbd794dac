//! Looks at idle pipelines until they have settled; see
//! [`settling`](super::super::pool_state).
//!
//! There is one looker for all pools, so the looks of all together are bounded: it looks at
//! one pipeline at a time, on a blocking thread, and then rests for so long that looks, as a
//! rule, need no more than a fiftieth of one processor. While everything has settled, it has
//! no timer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::super::pool_state::{Look, Member, Number};
use super::{Idle, Shared, until};

/// How long the looker rests after a look, as a multiple of the time that the look took.
const REST: u32 = 49;

/// The longest such rest; so it is looks of up to 20 ms that need no more than that part. The
/// look at a pipeline with some hundred threads takes 13 ms, and must not be had every few
/// milliseconds. But a look may also have been long because its thread had to wait for a
/// processor, which says nothing about the next one, and while the looker rests, ready processes
/// count as starting: so there is a bound.
const REST_MAX: Duration = Duration::from_secs(1);

/// Looks at one idle pipeline, again and again.
pub(in super::super) trait Probe: Send {
    /// Looks at it. Blocks for a moment.
    fn look(&mut self) -> Look;
}

/// Looks at the idle pipelines of all pools, until these are gone. `earlier` tells that there
/// may be something to look at sooner than before.
pub(super) async fn look_at_idle<P: Idle>(shared: Weak<Shared<P>>, earlier: Arc<Notify>) {
    loop {
        let Some(next) = shared.upgrade().map(|shared| shared.next_look()) else {
            return;
        };
        tokio::select! {
            () = until(next) => {}
            () = earlier.notified() => continue,
        }
        let Some(Some((member, number, mut probe))) =
            shared.upgrade().map(|shared| shared.begin_look())
        else {
            continue;
        };
        let began = Instant::now();
        let looked = tokio::task::spawn_blocking(move || (probe.look(), probe));
        // An error means that the runtime is shutting down.
        let Ok((look, probe)) = looked.await else {
            return;
        };
        if let Some(shared) = shared.upgrade() {
            shared.end_look(member, number, look, probe);
        }
        sleep(rest_after(began.elapsed())).await;
    }
}

/// How long to rest after a look that took so long.
fn rest_after(look: Duration) -> Duration {
    look.saturating_mul(REST).min(REST_MAX)
}

impl<P: Idle> Shared<P> {
    /// When to look next. From now on, the looker is told if it has to be sooner.
    fn next_look(self: &Arc<Self>) -> Option<Instant> {
        self.with(|inner, _| {
            let next = inner.state.next_look_at();
            inner.looks_at = next;
            next.map(|next| self.began + next)
        })
    }

    /// Takes the probe of the idle pipeline to look at now, if there is one.
    fn begin_look(self: &Arc<Self>) -> Option<(Member, Number, Box<dyn Probe>)> {
        self.with(|inner, now| {
            let (_, member, number) = inner.state.next_look().filter(|(at, ..)| *at <= now)?;
            let entry = (inner.pools.get_mut(&member)).and_then(|pool| pool.idle.get_mut(&number));
            let probe = entry.and_then(|entry| entry.probe.take());
            if probe.is_none() {
                // It would be asked for again and again.
                inner.state.looked(member, number, Look::Unknown, now);
            }
            Some((member, number, probe?))
        })
    }

    /// Reports a look, if its pipeline is still idle.
    fn end_look(
        self: &Arc<Self>,
        member: Member,
        number: Number,
        look: Look,
        probe: Box<dyn Probe>,
    ) {
        self.with(|inner, now| {
            let pool = inner.pools.get_mut(&member);
            if let Some(entry) = pool.and_then(|pool| pool.idle.get_mut(&number)) {
                entry.probe = Some(probe);
                inner.state.looked(member, number, look, now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_fiftieth_of_a_processor_also_where_they_are_long() {
        for look in [1, 100, 13_000, 20_000].map(Duration::from_micros) {
            assert_eq!(look + rest_after(look), look * 50);
        }
        assert_eq!(rest_after(Duration::MAX), REST_MAX);
    }
}
