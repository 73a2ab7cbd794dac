//! One pool's share of the room: what it has, what it should have, and where that puts
//! it among the others.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::f64::consts::LOG2_E;
use std::time::Duration;

use super::orders::{Heat, Ranks};
use super::{Config, Counts, Moment, Ticket};
use crate::backoff::doubled;

/// How much of the arrivals' past counts: after this long without any, the rate
/// has fallen to 37 %.
const ARRIVALS_WINDOW: Duration = Duration::from_secs(5);

/// From how many calls a second on a pool has a right to what is in reserve for
/// those that are called far less: some eight calls in short order.
const OFTEN_PER_SECOND: f64 = 1.5;

/// How many times the arrivals of one start's time are kept in reserve, since
/// they do not come evenly.
const HEADROOM: f64 = 2.0;

/// How much a start's time changes what starts are taken to take.
const START_TIME_WEIGHT: f64 = 0.2;

/// How long refilling rests after a failed start, or after an idle pipeline was spoiled: at
/// first, since it may be for once, and at most, since it takes processors for nothing.
pub(super) const REFILL_REST_MIN: Duration = Duration::from_millis(100);
pub(super) const REFILL_REST_MAX: Duration = Duration::from_secs(30);

/// How long the replacement of a pipeline that was taken waits while another one
/// is in reserve: until the call is well on its way or over, as a short one is,
/// which needs the processors just then, and may leave a place for the next one.
pub(in super::super) const REFILL_PAUSE: Duration = Duration::from_millis(3);

/// How long a pipeline waits for its request at most, until it is replaced: what it
/// looked at when it started is getting old. Each one waits for a part of that at
/// least, and not all equally long, since those of many pools start together.
pub(in super::super) const IDLE_MAX: Duration = Duration::from_secs(60);
const IDLE_MIN_PART: f64 = 0.75;

/// For how long a pool is cold whose idle pipeline has ended or written by itself:
/// at first, and at most.
pub(in super::super) const COLD_MIN: Duration = Duration::from_secs(60);
pub(super) const COLD_MAX: Duration = Duration::from_secs(3600);

/// How long a pool that was told busy and has nothing at all goes before others: long
/// enough for its caller to come back.
const OWED_FOR: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Share {
    pub(super) config: Config,
    /// Processes of each of its pipelines.
    pub(super) weight: usize,
    /// Idle pipelines, oldest first: when each is to be replaced.
    pub(super) idle: VecDeque<Moment>,
    pub(super) starting: usize,
    pub(super) in_use: usize,
    /// Those who wait, oldest first; starts under way are for the first ones.
    pub(super) waiting: VecDeque<Waiting>,
    arrivals: Arrivals,
    /// What a start takes; `None` before the first.
    start_time: Option<Duration>,
    /// Starts that failed since one succeeded.
    failures: u32,
    refill_at: Moment,
    /// Idle pipelines that were spoiled since one was taken as good as new.
    spoiled: u32,
    /// How often it turned cold since an idle pipeline has waited its time.
    colds: u32,
    /// Until when nothing is started in reserve, since idle pipelines were spoiled.
    rests_until: Moment,
    /// Until when nothing is started that is not needed at once.
    paused_until: Option<Moment>,
    /// Until when it goes before others.
    owed_until: Moment,
    /// Until it has rested, it has nothing in reserve.
    is_cold: bool,
    /// When it was last looked at: what has come due since then is still to be done.
    pub(super) seen_at: Moment,
    pub(super) is_draining: bool,
    /// Where it stands in the orders.
    pub(super) ranks: Ranks,
}

/// Somebody who waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    since: Moment,
}

impl Share {
    pub(super) fn new(config: Config, weight: usize) -> Share {
        Share {
            config,
            weight,
            idle: VecDeque::new(),
            starting: 0,
            in_use: 0,
            waiting: VecDeque::new(),
            arrivals: Arrivals::default(),
            start_time: None,
            failures: 0,
            refill_at: Moment::ZERO,
            spoiled: 0,
            colds: 0,
            rests_until: Moment::ZERO,
            paused_until: None,
            owed_until: Moment::ZERO,
            is_cold: false,
            seen_at: Moment::ZERO,
            is_draining: false,
            ranks: Ranks::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            idle: self.idle.len(),
            starting: self.starting,
            in_use: self.in_use,
            waiting: self.waiting.len(),
        }
    }

    /// Idle, starting and in use.
    pub(super) fn pipelines(&self) -> usize {
        self.idle.len() + self.starting + self.in_use
    }

    /// Takers with no start under way for them.
    pub(super) fn uncovered(&self) -> usize {
        self.waiting.len().saturating_sub(self.starting)
    }

    /// What is idle, or will be when all starts have succeeded.
    pub(super) fn reserve(&self) -> usize {
        self.idle.len() + self.starting.saturating_sub(self.waiting.len())
    }

    /// How much reserve there should be where nothing is called. One, if somebody was
    /// told to come back for it.
    pub(super) fn wanted_at_rest(&self, now: Moment) -> usize {
        if self.is_cold || self.is_draining {
            0
        } else {
            self.config.floor.max(usize::from(now < self.owed_until))
        }
    }

    /// How many idle ones may be given up for others.
    pub(super) fn spare(&self, now: Moment) -> usize {
        let kept = usize::from(now < self.owed_until);
        self.idle.len().saturating_sub(kept)
    }

    /// How much reserve there should be: enough for the calls that come while
    /// another pipeline is started.
    pub(super) fn wanted(&self, now: Moment) -> usize {
        let floor = self.wanted_at_rest(now);
        if floor == 0 || self.config.floor == 0 {
            return floor;
        }
        let start_time = self.start_time.unwrap_or_default().as_secs_f64();
        let arrivals = self.arrivals.rate_per_second(now) * start_time;
        // A float that is too large for an integer becomes the largest one.
        let reserve = (arrivals * HEADROOM).ceil() as usize;
        reserve.min(self.config.idle_max).max(floor)
    }

    /// Somebody wants a pipeline; true if an idle one is theirs.
    pub(super) fn arrive(&mut self, now: Moment) -> bool {
        self.arrivals.record(now);
        // The youngest: what it looked at when it started is most recent.
        if self.idle.pop_back().is_none() {
            return false;
        }
        self.spoiled = 0;
        self.take();
        // Not put off again and again by calls that come one after the other, and
        // not where calls come so fast that the reserve is for those to come.
        let is_calm = self.wanted(now) <= self.config.floor;
        if is_calm && self.paused_until.is_none() {
            self.paused_until = Some(now + REFILL_PAUSE);
        }
        true
    }

    /// Somebody for whom there is no pipeline waits for one.
    pub(super) fn wait(&mut self, ticket: Ticket, now: Moment) {
        self.waiting.push_back(Waiting { ticket, since: now });
    }

    /// Who gets a pipeline that was started: whoever has waited longest.
    pub(super) fn serve(&mut self) -> Option<Ticket> {
        let ticket = self.waiting.pop_front()?.ticket;
        self.take();
        Some(ticket)
    }

    /// A pipeline is taken.
    pub(super) fn take(&mut self) {
        self.in_use += 1;
        self.owed_until = Moment::ZERO;
    }

    /// Somebody was told busy. What is owed is one process: who wants more has asked
    /// for less before.
    pub(super) fn refuse(&mut self, now: Moment) {
        if self.pipelines() == 0 && self.weight == 1 {
            self.owed_until = now + OWED_FOR;
        }
    }

    /// Until when one is kept for whoever was told busy, if it is.
    pub(super) fn owed_until(&self) -> Moment {
        self.owed_until
    }

    /// A start has succeeded and took that long.
    pub(super) fn learn_start(&mut self, took: Duration) {
        self.failures = 0;
        self.refill_at = Moment::ZERO;
        let before = self.start_time.unwrap_or(took);
        let learnt = before.mul_f64(1.0 - START_TIME_WEIGHT) + took.mul_f64(START_TIME_WEIGHT);
        self.start_time = Some(learnt);
    }

    /// A start has failed.
    pub(super) fn learn_failure(&mut self, now: Moment) {
        let wait = doubled(REFILL_REST_MIN, REFILL_REST_MAX, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.refill_at = now + wait;
    }

    /// An idle pipeline was spoiled. Others are not started in its place at once: what
    /// has spoiled it may spoil them too.
    pub(super) fn rest(&mut self, now: Moment) {
        let rest = doubled(REFILL_REST_MIN, REFILL_REST_MAX, self.spoiled);
        self.spoiled = self.spoiled.saturating_add(1);
        self.rests_until = (self.rests_until).max(now + rest);
    }

    /// It was spoiled by what it did itself, and so would others be: none is kept for
    /// a while. True unless it is cold already.
    pub(super) fn turn_cold(&mut self, now: Moment) -> bool {
        if self.is_cold {
            return false;
        }
        let rest = doubled(COLD_MIN, COLD_MAX, self.colds);
        self.colds = self.colds.saturating_add(1);
        self.rests_until = now + rest;
        self.is_cold = true;
        true
    }

    /// An idle pipeline has waited its time, and was as good as new.
    pub(super) fn has_waited_well(&mut self) {
        self.spoiled = 0;
        self.colds = 0;
    }

    /// Whether its oldest idle pipeline is to be replaced now: one at a time, and none
    /// where that may fail.
    pub(super) fn has_old(&self, now: Moment) -> bool {
        let is_old = self
            .idle
            .front()
            .is_some_and(|replace_at| *replace_at <= now);
        is_old && self.starting == 0 && self.refills_at() <= now
    }

    /// When to look whether its oldest idle pipeline is to be replaced.
    pub(super) fn replaces_at(&self) -> Option<Moment> {
        let replace_at = self.idle.front()?;
        Some(self.refills_at().max(*replace_at))
    }

    /// When it is cold no more, if it is.
    pub(super) fn cold_until(&self) -> Option<Moment> {
        self.is_cold.then_some(self.rests_until)
    }

    /// How much it is called, compared with others.
    pub(super) fn heat(&self) -> Heat {
        self.arrivals.heat()
    }

    /// Was it called since then?
    pub(super) fn is_called_since(&self, since: Moment) -> bool {
        self.arrivals.rate_per_second > 0.0 && self.arrivals.at >= since
    }

    /// Is it called again and again, and not now and then?
    pub(super) fn is_called_often(&self, now: Moment) -> bool {
        self.arrivals.rate_per_second(now) >= OFTEN_PER_SECOND
    }

    /// When refilling goes on, if there is something to refill.
    pub(super) fn refills_at(&self) -> Moment {
        let refill_at = self.refill_at.max(self.rests_until);
        match self.paused_until {
            Some(until) if self.reserve() > 0 => refill_at.max(until),
            _ => refill_at,
        }
    }

    /// To be told after each change: what has an end ends whose time has come.
    pub(super) fn look_at(&mut self, now: Moment) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
        self.is_cold &= now < self.rests_until;
        self.seen_at = now;
    }

    /// Whether it goes before others: it was told busy, and has nothing.
    pub(super) fn goes_first(&self, now: Moment) -> bool {
        now < self.owed_until && self.reserve() == 0
    }

    /// Where it is to stand in the orders now.
    pub(super) fn ranked(&self, now: Moment) -> Ranks {
        let heat = self.heat();
        let reserve = self.reserve();
        let spare = self.spare(now);
        let spares = (spare > 0).then_some((heat, Reverse(spare)));
        let wants = self.refills_at() <= now && reserve < self.wanted(now);
        let wants = wants.then_some((Reverse(self.goes_first(now)), Reverse(heat), reserve));
        Ranks {
            needs: (self.waiting.get(self.starting)).map(|waiting| waiting.ticket),
            spares,
            wants,
        }
    }
}

/// How long the pipeline that is the `number`th to wait does so before it is
/// replaced: spread evenly, whatever numbers a pool's have.
pub(super) fn waits_for(number: u64) -> Duration {
    /// What the golden ratio has behind its point: its multiples are spread evenly.
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let part = (number as f64 * GOLDEN).fract();
    IDLE_MAX.mul_f64(IDLE_MIN_PART + (1.0 - IDLE_MIN_PART) * part)
}

/// How often a pool is called: an average that forgets.
#[derive(Debug, Default)]
struct Arrivals {
    rate_per_second: f64,
    /// The last one.
    at: Moment,
}

impl Arrivals {
    fn record(&mut self, now: Moment) {
        let rate_per_second = self.rate_per_second(now) + ARRIVALS_WINDOW.as_secs_f64().recip();
        *self = Arrivals {
            rate_per_second,
            at: now.max(self.at),
        };
    }

    /// How much it is called, compared with others: in powers of two, so that
    /// those which are called together are alike. All rates fall alike as time
    /// passes, so what this compares stays true.
    fn heat(&self) -> Heat {
        if self.rate_per_second == 0.0 {
            return Heat::MIN;
        }
        let windows = self.at.div_duration_f64(ARRIVALS_WINDOW);
        (self.rate_per_second.log2() + windows * LOG2_E).floor() as Heat
    }

    fn rate_per_second(&self, now: Moment) -> f64 {
        let windows = now
            .saturating_sub(self.at)
            .div_duration_f64(ARRIVALS_WINDOW);
        self.rate_per_second * (-windows).exp()
    }
}
