//! One pool's share of the processes: what it has, what it should have, and its ranks among
//! the other pools.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::f64::consts::LOG2_E;
use std::time::Duration;

use super::bursts::Bursts;
use super::orders::{Heat, Ranks};
use super::settling::{Look, SettleTime, Settling};
use super::{Config, Counts, Moment, Number, Ticket, Warmth};
use crate::backoff::doubled;

/// The time constant of the average rate of calls: after this long without calls, the rate
/// has fallen to 37 %.
const ARRIVALS_WINDOW: Duration = Duration::from_secs(5);

/// With at least this rate of calls a pool may take room from the reserves of pools that are
/// called far less: it is reached by some eight calls in quick succession.
const OFTEN_PER_SECOND: f64 = 1.5;

/// The reserve, as a multiple of the calls that come on average while a pipeline starts; more
/// than one, since calls do not come evenly.
const HEADROOM: f64 = 2.0;

/// The weight of the last start in the moving average of start times.
const START_TIME_WEIGHT: f64 = 0.2;

/// How long refilling pauses after a failed start, or after an idle pipeline was spoiled: at
/// first, because it may happen only once; and at most, because starts in vain cost processor
/// time.
pub(super) const REFILL_REST_MIN: Duration = Duration::from_millis(100);
pub(super) const REFILL_REST_MAX: Duration = Duration::from_secs(30);

/// How long the replacement of a taken pipeline waits while another one is in reserve. By
/// then a short call is over: it has had the processors for itself, and its room may be free
/// for the replacement.
pub(in super::super) const REFILL_PAUSE: Duration = Duration::from_millis(3);

/// The longest time that a pipeline is idle before it is replaced, because what it read when
/// it started becomes outdated. Each one is idle for at least [`IDLE_MIN_PART`] of it; the
/// times are spread, because pipelines of many pools start at the same time.
pub(in super::super) const IDLE_MAX: Duration = Duration::from_secs(60);
const IDLE_MIN_PART: f64 = 0.75;

/// How long a pool is cold after an idle pipeline has spoiled itself: at first, and at most.
pub(in super::super) const COLD_MIN: Duration = Duration::from_secs(60);
pub(super) const COLD_MAX: Duration = Duration::from_secs(3600);

/// How long a pool without any pipeline that has refused a call goes first: long enough for
/// its caller to come back.
const OWED_FOR: Duration = Duration::from_secs(1);

/// An idle pipeline.
#[derive(Debug)]
pub(super) struct IdlePipeline {
    pub(super) number: Number,
    pub(super) replace_at: Moment,
    settling: Settling,
}

#[derive(Debug)]
pub(super) struct Share {
    pub(super) config: Config,
    /// The number of processes of each of its pipelines.
    pub(super) weight: usize,
    /// The idle pipelines, oldest first.
    pub(super) idle: VecDeque<IdlePipeline>,
    pub(super) starting: usize,
    pub(super) in_use: usize,
    /// Waiting takers, oldest first; starts under way are for the first ones.
    pub(super) waiting: VecDeque<Ticket>,
    arrivals: Arrivals,
    bursts: Bursts,
    settle_time: SettleTime,
    /// With so many idle pipelines that are still starting, no more are started for the
    /// reserve: they would only slow each other down.
    settling_max: usize,
    /// The average time of a start; `None` before the first one.
    start_time: Option<Duration>,
    /// Starts that failed since one succeeded.
    failures: u32,
    /// Until then, the reserve is not refilled, because a start failed.
    refill_at: Moment,
    /// Idle pipelines that were spoiled since one was taken or grew old unspoiled.
    spoiled: u32,
    /// How many times it became cold since an idle pipeline grew old unspoiled.
    colds: u32,
    /// Until then, the reserve is not refilled, because idle pipelines were spoiled.
    rests_until: Moment,
    /// Until then, a reserve that is not empty is not refilled; see [`REFILL_PAUSE`].
    paused_until: Option<Moment>,
    /// Until then it is owed a pipeline; see [`OWED_FOR`].
    owed_until: Moment,
    /// It keeps no reserve until `rests_until`.
    is_cold: bool,
    /// When it last changed; what has become due since then must still be handled.
    pub(super) seen_at: Moment,
    pub(super) is_draining: bool,
    /// Its ranks in the orders.
    pub(super) ranks: Ranks,
}

impl Share {
    pub(super) fn new(config: Config, weight: usize, settling_max: usize) -> Share {
        Share {
            config,
            weight,
            idle: VecDeque::new(),
            starting: 0,
            in_use: 0,
            waiting: VecDeque::new(),
            arrivals: Arrivals::default(),
            bursts: Bursts::default(),
            settle_time: SettleTime::default(),
            settling_max,
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

    /// How many pipelines are idle, starting or in use.
    pub(super) fn pipelines(&self) -> usize {
        self.idle.len() + self.starting + self.in_use
    }

    /// How many takers have no start under way for them.
    pub(super) fn uncovered(&self) -> usize {
        self.waiting.len().saturating_sub(self.starting)
    }

    /// How many pipelines are idle, or will be if all starts under way succeed.
    pub(super) fn reserve(&self) -> usize {
        self.idle.len() + self.starting.saturating_sub(self.waiting.len())
    }

    /// How many pipelines there should be in reserve without calls: at least one if the pool is
    /// owed one.
    pub(super) fn wanted_at_rest(&self, now: Moment) -> usize {
        if self.is_cold || self.is_draining {
            0
        } else {
            self.config.floor.max(usize::from(now < self.owed_until))
        }
    }

    /// How many idle pipelines may be given up for other pools.
    pub(super) fn spare(&self, now: Moment) -> usize {
        let kept = usize::from(now < self.owed_until);
        self.idle.len().saturating_sub(kept)
    }

    /// How long it takes from the beginning of a start until the pipeline has settled.
    pub(super) fn lead_time(&self) -> Duration {
        self.start_time.unwrap_or_default() + self.settle_time.beyond_start()
    }

    /// How many pipelines there should be in reserve: enough for the calls that come while
    /// another pipeline starts and settles, by their rate, or by the last bursts.
    pub(super) fn wanted(&self, now: Moment) -> usize {
        let floor = self.wanted_at_rest(now);
        if floor == 0 || self.config.floor == 0 {
            return floor;
        }
        let lead_time = self.lead_time().as_secs_f64();
        let arrivals = self.arrivals.rate_per_second(now) * lead_time;
        // The cast saturates.
        let reserve = (arrivals * HEADROOM).ceil() as usize;
        let reserve = reserve.max(self.bursts.largest(now));
        reserve.min(self.config.idle_max).max(floor)
    }

    /// A taker wants a pipeline; returns the idle one that it gets, if any, and whether that
    /// is ready.
    pub(super) fn arrive(&mut self, now: Moment) -> Option<(Number, Warmth)> {
        self.arrivals.record(now);
        self.bursts.record(self.settle_time.beyond_start(), now);
        let (at, warmth) = self.best(now)?;
        let taken = self.idle.remove(at)?;
        self.spoiled = 0;
        self.take();
        // Calls that follow one another do not extend the pause. There is none if calls come
        // so fast that the whole reserve is needed.
        let is_calm = self.wanted(now) <= self.config.floor;
        if is_calm && self.paused_until.is_none() {
            self.paused_until = Some(now + REFILL_PAUSE);
        }
        Some((taken.number, warmth))
    }

    /// The position of the idle pipeline for the next taker: of those that are ready the
    /// youngest, because what it read when it started is most recent; else the oldest, which
    /// is ready soonest.
    fn best(&self, now: Moment) -> Option<(usize, Warmth)> {
        let is_ready = |idle: &IdlePipeline| idle.settling.is_ready(now, self.settle_time);
        match self.idle.iter().rposition(is_ready) {
            Some(at) => Some((at, Warmth::Ready)),
            None => (!self.idle.is_empty()).then_some((0, Warmth::Starting)),
        }
    }

    /// What a taker would get now.
    pub(super) fn warmth(&self, now: Moment) -> Warmth {
        self.best(now).map_or(Warmth::Cold, |(_, warmth)| warmth)
    }

    /// How many idle pipelines are not ready.
    pub(super) fn settling(&self, now: Moment) -> usize {
        let is_ready = |idle: &&IdlePipeline| idle.settling.is_ready(now, self.settle_time);
        self.idle.len() - self.idle.iter().filter(is_ready).count()
    }

    /// A pipeline is idle from now on.
    pub(super) fn keep(&mut self, number: Number, replace_at: Moment, now: Moment) {
        self.idle.push_back(IdlePipeline {
            number,
            replace_at,
            settling: Settling::new(now, self.settle_time),
        });
    }

    /// The idle pipeline to look at next, and when.
    pub(super) fn next_look(&self) -> Option<(Moment, Number)> {
        let looks = self.idle.iter();
        let looks = looks.filter_map(|idle| Some((idle.settling.look_at()?, idle.number)));
        looks.min()
    }

    /// An idle pipeline was looked at.
    pub(super) fn looked(&mut self, number: Number, look: Look, now: Moment) {
        if let Some(idle) = self.idle.iter_mut().find(|idle| idle.number == number) {
            idle.settling.looked(look, now, &mut self.settle_time);
        }
    }

    /// An idle pipeline is gone.
    pub(super) fn lose(&mut self, number: Number) {
        self.idle.retain(|idle| idle.number != number);
    }

    /// A taker waits for a pipeline.
    pub(super) fn wait(&mut self, ticket: Ticket) {
        self.waiting.push_back(ticket);
    }

    /// Gives a pipeline that was started to the call that has waited longest.
    pub(super) fn serve(&mut self) -> Option<Ticket> {
        let ticket = self.waiting.pop_front()?;
        self.take();
        Some(ticket)
    }

    /// A pipeline is in use from now on.
    pub(super) fn take(&mut self) {
        self.in_use += 1;
        self.owed_until = Moment::ZERO;
    }

    /// A taker was refused. Only pools of single processes are owed one: a taker of a longer
    /// pipeline tries a shorter one next.
    pub(super) fn refuse(&mut self, now: Moment) {
        if self.pipelines() == 0 && self.weight == 1 {
            self.owed_until = now + OWED_FOR;
        }
    }

    /// Until when the pool is owed a pipeline, if it is.
    pub(super) fn owed_until(&self) -> Moment {
        self.owed_until
    }

    /// A start has succeeded, and took that long.
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

    /// An idle pipeline was spoiled. Pauses refilling: what has spoiled it may spoil others
    /// too.
    pub(super) fn rest(&mut self, now: Moment) {
        let rest = doubled(REFILL_REST_MIN, REFILL_REST_MAX, self.spoiled);
        self.spoiled = self.spoiled.saturating_add(1);
        self.rests_until = (self.rests_until).max(now + rest);
    }

    /// An idle pipeline has spoiled itself, as others would: keeps none for a while. Returns
    /// whether the pool was not cold before.
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

    /// An idle pipeline has grown old unspoiled.
    pub(super) fn has_waited_well(&mut self) {
        self.spoiled = 0;
        self.colds = 0;
    }

    /// Whether to replace the oldest idle pipeline now: one at a time, and none while refilling
    /// pauses.
    pub(super) fn has_old(&self, now: Moment) -> bool {
        let is_old = self.idle.front().is_some_and(|idle| idle.replace_at <= now);
        is_old && self.starting == 0 && self.refills_at() <= now
    }

    /// When to check whether to replace the oldest idle pipeline.
    pub(super) fn replaces_at(&self) -> Option<Moment> {
        let oldest = self.idle.front()?;
        Some(self.refills_at().max(oldest.replace_at))
    }

    /// Until when it is cold, if it is.
    pub(super) fn cold_until(&self) -> Option<Moment> {
        self.is_cold.then_some(self.rests_until)
    }

    /// How much the pool is called, to compare it with others.
    pub(super) fn heat(&self) -> Heat {
        self.arrivals.heat()
    }

    /// Whether it was called since then.
    pub(super) fn is_called_since(&self, since: Moment) -> bool {
        self.arrivals.rate_per_second > 0.0 && self.arrivals.at >= since
    }

    /// Whether it is called often; see [`OFTEN_PER_SECOND`].
    pub(super) fn is_called_often(&self, now: Moment) -> bool {
        self.arrivals.rate_per_second(now) >= OFTEN_PER_SECOND
    }

    /// When refilling may go on.
    pub(super) fn refills_at(&self) -> Moment {
        let refill_at = self.refill_at.max(self.rests_until);
        match self.paused_until {
            Some(until) if self.reserve() > 0 => refill_at.max(until),
            _ => refill_at,
        }
    }

    /// Ends pauses that are over. Call this after each change.
    pub(super) fn look_at(&mut self, now: Moment) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
        self.is_cold &= now < self.rests_until;
        self.seen_at = now;
    }

    /// Whether it goes before other pools: it is owed a pipeline and has none in reserve.
    pub(super) fn goes_first(&self, now: Moment) -> bool {
        now < self.owed_until && self.reserve() == 0
    }

    /// The ranks that it should have now.
    pub(super) fn ranked(&self, now: Moment) -> Ranks {
        let heat = self.heat();
        let reserve = self.reserve();
        let spare = self.spare(now);
        let spares = (spare > 0).then_some((heat, Reverse(spare)));
        let is_starting = |idle: &&IdlePipeline| idle.settling.is_starting(self.settle_time);
        let has_room = self.idle.iter().filter(is_starting).count() < self.settling_max;
        let wants = has_room && self.refills_at() <= now && reserve < self.wanted(now);
        let wants = wants.then_some((Reverse(self.goes_first(now)), Reverse(heat), reserve));
        Ranks {
            needs: self.waiting.get(self.starting).copied(),
            spares,
            wants,
            looks: self.next_look().map(|(at, _)| at),
        }
    }
}

/// How long the pipeline with this number is idle before it is replaced. Consecutive numbers
/// get times that are spread evenly.
pub(super) fn waits_for(number: u64) -> Duration {
    /// The fractional part of the golden ratio: those of its multiples are spread evenly.
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let part = (number as f64 * GOLDEN).fract();
    IDLE_MAX.mul_f64(IDLE_MIN_PART + (1.0 - IDLE_MIN_PART) * part)
}

/// The rate of calls of a pool: an average that decays exponentially.
#[derive(Debug, Default)]
struct Arrivals {
    /// The rate when the last call came.
    rate_per_second: f64,
    /// When the last call came.
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

    /// The binary logarithm of the rate, extrapolated back to time zero and rounded, so that
    /// pools that are called together compare as equal. All rates decay alike, so comparisons
    /// stay valid as time passes.
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
