//! Decides, as plain data, which pools of a runner start and stop pipelines.
//!
//! It starts nothing, waits for nothing and reads no clock: events go in with the time at
//! which they happen, and [`Action`]s come out. Each start is an approval that counts
//! against the limit on processes at once, so that starts under way never exceed it.
//!
//! A pool keeps pipelines of one kind. The *weight* of a pipeline is its number of
//! processes. One state holds all pools, because they share the limit. A pipeline gets room
//! for all of its processes at once, or for none.
//!
//! - **Takers come before reserves.** The taker that has waited longest comes first, whatever
//!   its pool. Takers for whom there would already be room do not overtake it; so a long
//!   pipeline, which needs much room at once, gets it as soon as enough others have ended.
//! - **Room goes to the pools that are called most.** If there is none, the pool that is
//!   called least gives up idle pipelines. A pool that is called often also takes room from
//!   the reserve of a pool that is hardly called; so of many links, those in use are warm. A
//!   call waits, or is refused as busy, only while all room is in use or starting for calls.
//! - **Young pipelines are taken, old ones stopped.** Each idle pipeline is replaced after
//!   some time. Those that have [settled](settling) are taken before those that are still
//!   starting.
//! - **A shortage lowers the limit.** If starts fail because the whole runner is short of
//!   something, such as open files, then the present number of processes is the limit for a
//!   while.
//! - **No pool starves.** If too many takers wait, the pool with the most of them sends some
//!   away. If a pool of single processes has none and refuses a call, it gets the next room
//!   and keeps it until its caller has come back.

use std::collections::BTreeMap;
use std::time::Duration;

mod bursts;
mod orders;
mod settling;
mod share;
mod starved;
#[cfg(test)]
mod tests;

use orders::{Heat, Orders};
pub(super) use settling::Look;
#[cfg(test)]
pub(super) use settling::{QUIET, SETTLES_WITHIN};
use share::Share;
#[cfg(test)]
pub(super) use share::{COLD_MIN, IDLE_MAX, REFILL_PAUSE};
pub(super) use starved::STARVED_OVER_AFTER;
use starved::Starved;

/// A time, as the duration since the pools were made.
pub(super) type Moment = Duration;

/// Interval of checks for surplus in a reserve.
const SURPLUS_LOOK: Duration = Duration::from_secs(1);

/// How much less a pool must be called than another one, in powers of two, to give up its
/// reserve for the other's: eight times.
const FAR_COLDER: Heat = 3;

/// After an idle pipeline was stopped to make room, only pools that are being called refill
/// their reserve for this time: others would take the room that each call leaves, and the
/// next call would have to take it back.
const CALM: Duration = Duration::from_secs(1);

/// The settings of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Pipelines to keep in reserve even without calls; with 0, pipelines are only started on
    /// demand.
    pub floor: usize,
    /// The most pipelines to keep in reserve, however many calls come.
    pub idle_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            floor: 2,
            idle_max: 32,
        }
    }
}

/// The limits of all pools of a runner together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// The most processes: idle, starting and in use.
    pub processes_max: usize,
    /// The most takers that wait without a start under way for them.
    pub waiting_max: usize,
    /// With so many processes starting, no more are started for reserves.
    pub refilling_max: usize,
}

/// The number of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member(u64);

/// The number of a waiting taker; earlier takers have smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The number of a pipeline that is or was idle; younger ones have larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u64);

/// How warm what a taker gets is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warmth {
    /// It has to be started first.
    Cold,
    /// It was idle, but has not settled: its programs are still starting.
    Starting,
    /// It was idle, and has settled.
    Ready,
}

/// An action for the caller to carry out; the state already counts it as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a pipeline, and report it with [`PoolState::started`] or
    /// [`PoolState::start_failed`].
    Start(Member),
    /// Stop this idle pipeline.
    Stop(Member, Number),
    /// Answer a waiting taker that there is no room.
    SendAway(Member, Ticket),
}

/// The result for a taker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// This idle pipeline is the taker's; report its end with [`PoolState::released`].
    Idle(Number, Warmth),
    /// The taker waits.
    Wait(Ticket),
    /// There is no room, neither for a pipeline nor for another taker that waits.
    Busy,
}

/// The use of a pipeline that was started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// It belongs to this taker; report its end with [`PoolState::released`].
    For(Ticket),
    /// It is idle, in reserve, with this number.
    Idle(Number),
    /// It is no longer wanted: drop it.
    Surplus,
}

/// How many pipelines and takers a pool has; or, added up, how many processes and takers a
/// link has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// In reserve.
    pub idle: usize,
    /// Starting.
    pub starting: usize,
    /// In use by calls.
    pub in_use: usize,
    /// Takers that wait.
    pub waiting: usize,
}

impl Counts {
    /// Adds those of another pool.
    pub(super) fn add(&mut self, other: Counts) {
        self.idle += other.idle;
        self.starting += other.starting;
        self.in_use += other.in_use;
        self.waiting += other.waiting;
    }

    /// Whether no pipeline is in use or starting, and no taker waits.
    pub fn is_unused(&self) -> bool {
        self.in_use + self.waiting + self.starting == 0
    }
}

/// All pools of a runner.
#[derive(Debug)]
pub(super) struct PoolState {
    limits: Limits,
    shares: BTreeMap<Member, Share>,
    orders: Orders,
    totals: Totals,
    starved: Starved,
    /// Until then, pools that are not being called refill no reserve.
    calm_until: Moment,
    /// How many pipelines were started so far.
    waited: u64,
    members: u64,
    tickets: u64,
    actions: Vec<Action>,
}

/// Sums over all pools.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    /// Processes: idle, starting and in use.
    processes: usize,
    /// Processes that are starting.
    starting: usize,
    /// Takers without a start under way for them.
    uncovered: usize,
}

impl Totals {
    fn change(&mut self, before: Totals, after: Totals) {
        self.processes = self.processes + after.processes - before.processes;
        self.starting = self.starting + after.starting - before.starting;
        self.uncovered = self.uncovered + after.uncovered - before.uncovered;
    }

    fn of(share: &Share) -> Totals {
        Totals {
            processes: share.pipelines() * share.weight,
            starting: share.starting * share.weight,
            uncovered: share.uncovered(),
        }
    }
}

impl PoolState {
    /// A state without pools.
    pub(super) fn new(limits: Limits) -> PoolState {
        PoolState {
            limits,
            shares: BTreeMap::new(),
            orders: Orders::default(),
            totals: Totals::default(),
            starved: Starved::default(),
            calm_until: Moment::ZERO,
            waited: 0,
            members: 0,
            tickets: 0,
            actions: Vec::new(),
        }
    }

    /// Adds a pool of pipelines of that weight.
    pub(super) fn add(&mut self, config: Config, weight: usize, now: Moment) -> Member {
        self.members += 1;
        let member = Member(self.members);
        let floor = config.floor;
        let settling_max = self.limits.refilling_max;
        let share = Share::new(config, weight, settling_max);
        self.shares.insert(member, share);
        // This also ranks it.
        self.set_floor(member, floor, now);
        member
    }

    /// Sets how many pipelines a pool keeps in reserve even without calls. A tick stops what
    /// is beyond that.
    pub(super) fn set_floor(&mut self, member: Member, floor: usize, now: Moment) {
        let processes_max = self.limits.processes_max;
        self.change(member, now, |share| {
            let fits = share.weight <= processes_max;
            share.config.floor = if fits { floor } else { 0 };
        });
        self.plan(now);
    }

    /// A taker wants a pipeline.
    pub(super) fn take(&mut self, member: Member, now: Moment) -> Take {
        match self.arrive(member, now) {
            Take::Wait(ticket) if !self.bound_waiting(Some((member, ticket)), now) => Take::Busy,
            taken => taken,
        }
    }

    /// A taker wants a pipeline that holds others already, or would take a smaller one. It may
    /// wait for a start under way, but never for room: two such takers could deadlock, each
    /// holding what the other needs.
    pub(super) fn take_beside(&mut self, member: Member, now: Moment) -> Take {
        let taken = self.arrive(member, now);
        // The taker came last, so it is the one without a start under way.
        let has_uncovered = |share: &Share| share.uncovered() > 0;
        if let Take::Wait(ticket) = taken
            && self.shares.get(&member).is_some_and(has_uncovered)
        {
            self.gave_up(member, ticket, now);
            return Take::Busy;
        }
        taken
    }

    /// Gives a taker an idle pipeline, or makes it the last one that waits and starts what
    /// there is room for.
    fn arrive(&mut self, member: Member, now: Moment) -> Take {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let processes_max = self.limits.processes_max;
        let taken = self.change(member, now, |share| {
            if share.is_draining || share.weight > processes_max {
                return Take::Busy;
            }
            if let Some((number, warmth)) = share.arrive(now) {
                return Take::Idle(number, warmth);
            }
            share.wait(ticket);
            Take::Wait(ticket)
        });
        self.plan(now);
        taken.unwrap_or(Take::Busy)
    }

    /// A start succeeded, and took that long.
    pub(super) fn started(&mut self, member: Member, took: Duration, now: Moment) -> Started {
        self.waited += 1;
        let number = Number(self.waited);
        let replace_at = now + share::waits_for(self.waited);
        let started = self.change(member, now, |share| {
            share.starting -= 1;
            share.learn_start(took);
            if let Some(ticket) = share.serve() {
                Started::For(ticket)
            } else if share.idle.len() < share.wanted(now) {
                share.keep(number, replace_at, now);
                Started::Idle(number)
            } else {
                Started::Surplus
            }
        });
        self.plan(now);
        self.replace_old(member, now);
        started.unwrap_or(Started::Surplus)
    }

    /// A start failed; returns the taker to answer, if any.
    pub(super) fn start_failed(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let told = self.change(member, now, |share| {
            share.starting -= 1;
            share.learn_failure(now);
            share.waiting.pop_front()
        });
        self.plan(now);
        self.replace_old(member, now);
        told?
    }

    /// A start failed because the runner is short of something; returns the taker to answer,
    /// if any. For a while, the present number of processes is the limit for all pools.
    pub(super) fn start_starved(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let weight = self.shares.get(&member).map_or(0, |share| share.weight);
        let left = self.totals.processes.saturating_sub(weight);
        self.starved.failed(left, now);
        self.start_failed(member, now)
    }

    /// An idle pipeline was spoiled, and is dropped.
    pub(super) fn spoiled(&mut self, member: Member, number: Number, now: Moment) {
        self.change(member, now, |share| {
            share.lose(number);
            share.rest(now);
        });
        self.plan(now);
    }

    /// A pipeline was found spoiled when it was taken.
    pub(super) fn taken_spoiled(&mut self, member: Member, now: Moment) {
        self.change(member, now, |share| share.rest(now));
        self.plan(now);
    }

    /// A pipeline has spoiled itself: its pool is cold for a while, so that its pipelines are
    /// started on demand. Returns whether it was not cold before.
    pub(super) fn turn_cold(&mut self, member: Member, now: Moment) -> bool {
        let is_new = self.change(member, now, |share| share.turn_cold(now));
        self.stop_surplus(member, now);
        self.plan(now);
        is_new.unwrap_or(false)
    }

    /// A taker waits no longer.
    pub(super) fn gave_up(&mut self, member: Member, ticket: Ticket, now: Moment) {
        self.change(member, now, |share| {
            share.waiting.retain(|waiting| *waiting != ticket);
        });
        self.plan(now);
    }

    /// A pipeline that was in use is gone.
    pub(super) fn released(&mut self, member: Member, now: Moment) {
        self.change(member, now, |share| share.in_use -= 1);
        self.plan(now);
    }

    /// Time has passed; see [`next_tick`](Self::next_tick).
    pub(super) fn tick(&mut self, member: Member, now: Moment) {
        self.stop_surplus(member, now);
        self.change(member, now, |_| {});
        self.plan(now);
        self.replace_old(member, now);
    }

    /// When to call [`tick`](Self::tick), if nothing else happens to the pool before. This is
    /// in the past if something has become due since the pool last changed.
    pub(super) fn next_tick(&self, member: Member, now: Moment) -> Option<Moment> {
        let share = self.shares.get(&member)?;
        let wants = share.reserve() < share.wanted(now);
        let has_surplus = share.idle.len() > share.wanted_at_rest(now);
        let moments = [
            Some(share.owed_until()),
            wants.then(|| share.refills_at()),
            wants.then_some(self.calm_until),
            (wants || share.uncovered() > 0).then_some(self.starved.until()),
            has_surplus.then(|| now + SURPLUS_LOOK),
            share.replaces_at(),
            share.cold_until(),
        ];
        let is_due = |at: &Moment| *at > share.seen_at;
        moments.into_iter().flatten().filter(is_due).min()
    }

    /// Takes a pool out of service: stops its idle pipelines and starts no more. It is
    /// forgotten when the last pipeline in use is gone. Returns the waiting takers, to be
    /// answered as busy.
    pub(super) fn drain(&mut self, member: Member, now: Moment) -> Vec<Ticket> {
        // First, since a pool is forgotten as soon as it is drained.
        let sent_away = self.change(member, now, |share| share.waiting.drain(..).collect());
        while self.stop(member, now) {}
        self.change(member, now, |share| share.is_draining = true);
        self.plan(now);
        sent_away.unwrap_or_default()
    }

    /// When to look at an idle pipeline next: see [`settling`]. There is nothing to look at
    /// if all have settled.
    pub(super) fn next_look_at(&self) -> Option<Moment> {
        self.orders.looking().map(|(at, _)| at)
    }

    /// The idle pipeline to look at next, and when.
    pub(super) fn next_look(&self) -> Option<(Moment, Member, Number)> {
        let (_, member) = self.orders.looking()?;
        let (at, number) = self.shares.get(&member)?.next_look()?;
        Some((at, member, number))
    }

    /// An idle pipeline was looked at; it may be gone meanwhile.
    pub(super) fn looked(&mut self, member: Member, number: Number, look: Look, now: Moment) {
        self.change(member, now, |share| share.looked(number, look, now));
        self.plan(now);
    }

    /// What a taker would get from a pool.
    pub(super) fn warmth(&self, member: Member, now: Moment) -> Warmth {
        let share = self.shares.get(&member);
        share.map_or(Warmth::Cold, |share| share.warmth(now))
    }

    /// The actions since the last call.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// How many pipelines and takers a pool has.
    pub(super) fn counts(&self, member: Member) -> Counts {
        self.shares
            .get(&member)
            .map(Share::counts)
            .unwrap_or_default()
    }

    /// Like [`counts`](Self::counts), but idle pipelines that have not settled count as
    /// starting.
    pub(super) fn settled_counts(&self, member: Member, now: Moment) -> Counts {
        let share = self.shares.get(&member);
        let settling = share.map_or(0, |share| share.settling(now));
        let counts = self.counts(member);
        Counts {
            idle: counts.idle - settling,
            starting: counts.starting + settling,
            ..counts
        }
    }

    /// Changes a pool, and updates the totals and ranks.
    fn change<T>(
        &mut self,
        member: Member,
        now: Moment,
        change: impl FnOnce(&mut Share) -> T,
    ) -> Option<T> {
        let share = self.shares.get_mut(&member)?;
        let before = Totals::of(share);
        let result = change(share);
        share.look_at(now);
        self.totals.change(before, Totals::of(share));
        let ranks = share.ranked(now);
        self.orders.rank(member, &mut share.ranks, ranks);
        // A draining pool without pipelines has no ranks, so nothing else refers to it.
        if share.is_draining && share.pipelines() == 0 {
            self.shares.remove(&member);
        }
        Some(result)
    }

    /// Approves as many starts as are needed and have room.
    fn plan(&mut self, now: Moment) {
        while let Some(member) = self.orders.neediest() {
            if !self.make_room(member, now, |_| true) {
                // Others do not overtake it.
                return;
            }
            self.start(member, now);
        }
        while self.totals.starting < self.limits.refilling_max
            && let Some(member) = self.wanting(now)
        {
            if !self.may_refill(member, now) || !self.make_room_for_reserve(member, now) {
                return;
            }
            self.start(member, now);
        }
    }

    /// Whether a pool may refill its reserve, if there is room.
    fn may_refill(&self, member: Member, now: Moment) -> bool {
        let lately = now.saturating_sub(CALM);
        let is_called = |share: &Share| share.is_called_since(lately) || share.goes_first(now);
        now >= self.calm_until || self.shares.get(&member).is_some_and(is_called)
    }

    /// Like [`make_room`](Self::make_room), for a pipeline in reserve. Only a pool that is
    /// called often takes room from other reserves, and only from pools that are called far
    /// less, so that no two pools take it from each other in turns.
    fn make_room_for_reserve(&mut self, member: Member, now: Moment) -> bool {
        let deserving = (self.shares.get(&member))
            .filter(|hot| hot.is_called_often(now) && hot.reserve() < hot.wanted_at_rest(now));
        let heat = deserving.map(Share::heat);
        self.make_room(member, now, |cold| {
            heat.is_some_and(|heat| cold.heat().saturating_add(FAR_COLDER) <= heat)
        })
    }

    /// Makes room for all processes of one more pipeline of a pool, or changes nothing: pools
    /// for which `gives_way` holds give up idle pipelines, those first that are called least.
    fn make_room(
        &mut self,
        member: Member,
        now: Moment,
        gives_way: impl Fn(&Share) -> bool,
    ) -> bool {
        let processes_max = self.starved.room(self.limits.processes_max, now);
        let weight = self.shares.get(&member).map_or(0, |share| share.weight);
        let mut missing = (self.totals.processes + weight).saturating_sub(processes_max);
        let mut stops = Vec::new();
        for rich in self.orders.rich() {
            let share = self.shares.get(&rich).filter(|share| gives_way(share));
            let Some(share) = share.filter(|_| missing > 0) else {
                break;
            };
            let count = missing.div_ceil(share.weight).min(share.spare(now));
            missing = missing.saturating_sub(count * share.weight);
            stops.push((rich, count));
        }
        if missing > 0 {
            return false;
        }
        for (rich, count) in stops {
            self.calm_until = now + CALM;
            for _ in 0..count {
                self.stop(rich, now);
            }
        }
        true
    }

    /// Sends takers away if too many wait, once everything is started that can be: the last
    /// ones of the pool with most of them. Returns false if `newcomer`, the taker that has
    /// just come, was one of them.
    fn bound_waiting(&mut self, newcomer: Option<(Member, Ticket)>, now: Moment) -> bool {
        while self.totals.uncovered > self.limits.waiting_max {
            let uncovered = |of: &Member| self.shares.get(of).map(Share::uncovered);
            let has_come = |of: &Member| newcomer.is_some_and(|(member, _)| member == *of);
            let most = self.orders.needy();
            let most = most.max_by_key(|of| (uncovered(of), has_come(of)));
            let Some(most) = most else { break };
            let last = self.change(most, now, |share| share.waiting.pop_back());
            let Some(last) = last.flatten().map(|last| (most, last)) else {
                break;
            };
            if newcomer == Some(last) {
                self.change(most, now, |share| share.refuse(now));
                return false;
            }
            self.actions.push(Action::SendAway(last.0, last.1));
            // A taker behind it may have room now.
            self.plan(now);
        }
        true
    }

    /// The pool that gets the next pipeline in reserve.
    fn wanting(&mut self, now: Moment) -> Option<Member> {
        loop {
            let member = self.orders.wanting()?;
            if self.is_ranked_rightly(member, now) {
                return Some(member);
            }
        }
    }

    /// Whether a pool's ranks are still right; corrects them.
    fn is_ranked_rightly(&mut self, member: Member, now: Moment) -> bool {
        let Some(share) = self.shares.get_mut(&member) else {
            return false;
        };
        let ranks = share.ranked(now);
        let is_right = share.ranks == ranks;
        self.orders.rank(member, &mut share.ranks, ranks);
        is_right
    }

    fn start(&mut self, member: Member, now: Moment) {
        let started = self.change(member, now, |share| share.starting += 1);
        self.actions.extend(started.map(|()| Action::Start(member)));
    }

    /// Stops the oldest idle pipeline; false if there is none.
    fn stop(&mut self, member: Member, now: Moment) -> bool {
        let stopped = self.change(member, now, |share| share.idle.pop_front());
        let stopped = stopped
            .flatten()
            .map(|idle| Action::Stop(member, idle.number));
        self.actions.extend(stopped);
        stopped.is_some()
    }

    /// Replaces the oldest idle pipeline of a pool, if its time is over.
    fn replace_old(&mut self, member: Member, now: Moment) {
        if (self.shares.get(&member)).is_some_and(|share| share.has_old(now)) {
            self.change(member, now, Share::has_waited_well);
            self.stop(member, now);
            self.plan(now);
        }
    }

    fn stop_surplus(&mut self, member: Member, now: Moment) {
        while let Some(share) = self.shares.get(&member)
            && share.reserve() > share.wanted(now)
            && self.stop(member, now)
        {}
    }
}
