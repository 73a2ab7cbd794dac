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

/// Pipelines that settle within this count as started when their programs are executed.
const PROMPT: Duration = Duration::from_millis(10);

/// The age for the first look at a pipeline of a pool whose pipelines take long to settle, at
/// the latest: so it is soon noticed if they have become faster.
const FIRST_LOOK_MAX: Duration = Duration::from_millis(50);

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
    /// Its age when it was last seen awake, if it was.
    awake_at: Option<Duration>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    /// It was awake, or nobody has looked yet.
    NotAsleep,
    /// It sleeps, since then as far as it is known.
    Asleep(Moment),
    Settled,
}

/// How long the pipelines of a pool take to settle; `None` if that is not known. Those that
/// took longest count most: of several that start at once each takes longer than alone.
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
            Some(time) => (time / 2).min(FIRST_LOOK_MAX),
        }
    }

    /// A pipeline has settled, and was last seen awake at the age `awake_at`. If it never
    /// was, it slept at the age `asleep_at`, and may have for long: a look can be late.
    fn learn(&mut self, awake_at: Option<Duration>, asleep_at: Duration) {
        self.0 = match (self.0, awake_at) {
            (None, Some(awake_at)) => Some(awake_at),
            (None, None) => Some(asleep_at.min(PROMPT)),
            (Some(known), Some(awake_at)) if awake_at >= known => Some(awake_at),
            (Some(known), Some(awake_at)) => Some((known + awake_at) / 2),
            (Some(known), None) => Some((known + asleep_at.min(known)) / 2),
        };
    }
}

impl Settling {
    pub(super) fn new(started: Moment, usual: SettleTime) -> Settling {
        Settling {
            started,
            look_at: Some(started + usual.first_look()),
            awake_at: None,
            seen: Seen::NotAsleep,
        }
    }

    /// Whether the pipeline counts as ready.
    pub(super) fn is_ready(&self, now: Moment, usual: SettleTime) -> bool {
        let age = now.saturating_sub(self.started);
        let is_as_old_as_others = usual.0.is_some_and(|usual| age >= usual);
        match self.seen {
            Seen::Settled => true,
            _ if age >= SETTLES_WITHIN => true,
            _ => self.awake_at.is_none() && is_as_old_as_others,
        }
    }

    /// Whether it is starting: it was seen awake; or nobody has looked at it yet, and others
    /// of its pool took long.
    pub(super) fn is_starting(&self, usual: SettleTime) -> bool {
        match self.seen {
            Seen::Settled => false,
            Seen::NotAsleep if self.awake_at.is_none() => !usual.beyond_start().is_zero(),
            Seen::NotAsleep | Seen::Asleep(_) => self.awake_at.is_some(),
        }
    }

    /// When to look at it next, if at all.
    pub(super) fn look_at(&self) -> Option<Moment> {
        self.look_at
    }

    /// It was looked at.
    pub(super) fn looked(&mut self, look: Look, now: Moment, usual: &mut SettleTime) {
        let age = now.saturating_sub(self.started);
        let (seen, next) = match (look, self.seen) {
            (_, Seen::Settled) | (Look::Unknown, _) => (Seen::Settled, None),
            (Look::Unchanged, Seen::Asleep(since)) if now >= since + QUIET => {
                let asleep_at = since.saturating_sub(self.started);
                usual.learn(self.awake_at, asleep_at);
                (Seen::Settled, None)
            }
            // There is nothing to learn: perhaps it has been ready for long.
            _ if age >= SETTLES_WITHIN => (Seen::Settled, None),
            (Look::Unchanged, Seen::Asleep(since)) => (Seen::Asleep(since), Some(since + QUIET)),
            (Look::Asleep | Look::Unchanged, _) => (Seen::Asleep(now), Some(now + QUIET)),
            (Look::Awake, _) => {
                self.awake_at = Some(age);
                (Seen::NotAsleep, Some(now + QUIET.max(age / GAP_PART)))
            }
        };
        self.seen = seen;
        self.look_at = next.map(|next| next.min(self.started + SETTLES_WITHIN));
    }
}
