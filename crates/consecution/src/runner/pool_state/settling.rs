//! When an idle pipeline counts as ready: once it has *settled*.
//!
//! A program that has been executed may still be starting for a long time: an interpreter
//! imports its libraries, for example. The kernel does not tell when it waits for its input.
//! So idle pipelines are looked at, and one in which nothing has run for [`QUIET`] has
//! settled. One that never does so counts as ready after [`SETTLES_WITHIN`].
//!
//! A pool learns how long its pipelines take to settle. One that is older than that counts
//! as ready even if nobody has looked at it yet, unless it was seen awake. So pools that are
//! called often need no looks.

use std::time::Duration;

use super::Moment;

/// What has not run for so long has settled.
pub(in super::super) const QUIET: Duration = Duration::from_millis(20);

/// The longest time that a pipeline counts as starting.
pub(in super::super) const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// The age for the first look, as long as it is not known how long pipelines of the pool
/// take to settle.
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// A first look at this age or earlier tells how long a pipeline has taken to settle.
const EARLY: Duration = Duration::from_millis(10);

/// Pipelines that settle within this count as started when their programs are executed.
const PROMPT: Duration = Duration::from_millis(10);

/// One that is awake is looked at again after this part of its age, so that one that never
/// settles is looked at some thirty times.
const GAP_PART: u32 = 8;

/// What a look at an idle pipeline has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Look {
    /// Something runs.
    Awake,
    /// Everything sleeps, and has not been found asleep just so before.
    Asleep,
    /// Everything sleeps, and nothing has run since the last look.
    Unchanged,
    /// Nothing can be known, or there is nothing that could settle.
    Unknown,
}

/// How far a pipeline has settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settling {
    started: Moment,
    /// When to look next; `None` once it has settled.
    look_at: Option<Moment>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Nothing,
    Awake,
    /// Since then, as far as it is known.
    Asleep {
        since: Moment,
        was_awake: bool,
    },
    Settled,
}

/// How long the pipelines of a pool take to settle; `None` if that is not known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SettleTime(Option<Duration>);

impl SettleTime {
    /// What this adds to the time of a start.
    pub(super) fn beyond_start(self) -> Duration {
        self.0.filter(|time| *time > PROMPT).unwrap_or_default()
    }

    /// The age for the first look at a pipeline. Of those that are known to settle at once
    /// only those are looked at that are not taken soon.
    fn first_look(self) -> Duration {
        match self.0 {
            None => FIRST_LOOK,
            Some(time) if time <= PROMPT => QUIET,
            Some(time) => time / 2,
        }
    }

    /// A pipeline has taken at most `took`. It has not taken much less if it `was_awake`
    /// before: then this can be longer than what was known.
    fn learn(&mut self, took: Duration, was_awake: bool) {
        self.0 = match self.0 {
            None if was_awake || took <= EARLY => Some(took),
            None => None,
            Some(known) if took > known && was_awake => Some(took),
            Some(known) if took > known => Some(known),
            Some(known) => Some((known + took) / 2),
        };
    }
}

impl Settling {
    pub(super) fn new(started: Moment, usual: SettleTime) -> Settling {
        Settling {
            started,
            look_at: Some(started + usual.first_look()),
            seen: Seen::Nothing,
        }
    }

    /// Whether the pipeline counts as ready.
    pub(super) fn is_ready(&self, now: Moment, usual: SettleTime) -> bool {
        let age = now.saturating_sub(self.started);
        match self.seen {
            Seen::Settled => true,
            _ if age >= SETTLES_WITHIN => true,
            Seen::Nothing
            | Seen::Asleep {
                was_awake: false, ..
            } => usual.0.is_some_and(|usual| age >= usual),
            Seen::Awake
            | Seen::Asleep {
                was_awake: true, ..
            } => false,
        }
    }

    /// Whether it is known to be starting, or is young and others of its pool were.
    pub(super) fn is_starting(&self, usual: SettleTime) -> bool {
        match self.seen {
            Seen::Nothing => !usual.beyond_start().is_zero(),
            _ => self.was_awake(),
        }
    }

    fn was_awake(&self) -> bool {
        match self.seen {
            Seen::Awake => true,
            Seen::Asleep { was_awake, .. } => was_awake,
            Seen::Nothing | Seen::Settled => false,
        }
    }

    /// When to look at it next, if at all.
    pub(super) fn look_at(&self) -> Option<Moment> {
        self.look_at
    }

    /// It was looked at.
    pub(super) fn looked(&mut self, look: Look, now: Moment, usual: &mut SettleTime) {
        let age = now.saturating_sub(self.started);
        let was_awake = self.was_awake();
        let (seen, next) = match (look, self.seen) {
            (_, Seen::Settled) | (Look::Unknown, _) => (Seen::Settled, None),
            (Look::Unchanged, Seen::Asleep { since, was_awake }) if now >= since + QUIET => {
                usual.learn(since.saturating_sub(self.started), was_awake);
                (Seen::Settled, None)
            }
            // There is nothing to learn: perhaps it has been ready for long.
            _ if age >= SETTLES_WITHIN => (Seen::Settled, None),
            (Look::Unchanged, Seen::Asleep { since, was_awake }) => {
                (Seen::Asleep { since, was_awake }, Some(since + QUIET))
            }
            (Look::Awake, _) => (Seen::Awake, Some(now + QUIET.max(age / GAP_PART))),
            (Look::Asleep | Look::Unchanged, _) => {
                let since = now;
                (Seen::Asleep { since, was_awake }, Some(now + QUIET))
            }
        };
        self.seen = seen;
        self.look_at = next.map(|next| next.min(self.started + SETTLES_WITHIN));
    }
}
