//! What the pools of a runner decide, as plain data.
//!
//! It starts nothing, waits for nothing and reads no clock: events come in with
//! the time at which they happen, counts change, and what is to be done comes
//! out as [`Action`]s. A start is an approval that this state gives out, and
//! that counts against the cap from then on, so that starts under way can never
//! add up to more than there is room for.
//!
//! A pool keeps pipelines of one kind; the *weight* of a pipeline is its number of
//! processes, and it is processes that the cap counts. One state holds all pools,
//! because they share one cap. A pipeline gets all of its room at once, or none of it.
//!
//! Who needs a pipeline for a call that waits goes before who only wants one in
//! reserve; among those who wait, the oldest goes first, whatever its pool, and is not
//! overtaken by others for whom there would be room already: so a long pipeline, which
//! needs much room at once, gets it as soon as enough has ended. Where there is no room,
//! the pool that is called least gives idle pipelines up, and where there is some, the
//! one that is called most gets it; one that is called again and again also gets the
//! reserve of one that is hardly called: so of many links, those in use are warm. A call
//! waits, or is told busy, only while its room is at work or on its way to a call.
//!
//! Of idle pipelines the youngest is taken first, and the oldest given up first; each
//! is replaced when it has waited its time. Where starts fail for want of something
//! that the whole runner has too little of, such as open files, what there is counts
//! as all that there is room for, until it is tried again.
//!
//! Nobody starves: where waiting is bounded, room to wait goes to the pool with fewer
//! who do; and one of single processes that is told busy while it has nothing gets the
//! next room, and is left it until its caller has come back.

use std::collections::BTreeMap;
use std::time::Duration;

mod orders;
mod share;
mod starved;
#[cfg(test)]
mod tests;

use orders::{Heat, Orders};
use share::Share;
#[cfg(test)]
pub(super) use share::{COLD_MIN, IDLE_MAX, REFILL_PAUSE};
pub(super) use starved::STARVED_OVER_AFTER;
use starved::Starved;

/// A time, as what has passed since the pools were made.
pub(super) type Moment = Duration;

/// How long to wait before looking again whether there is too much in reserve.
const SURPLUS_LOOK: Duration = Duration::from_secs(1);

/// How much less a pool must be called, in powers of two, to give up what it has in
/// reserve for the reserve of another.
const FAR_COLDER: Heat = 3;

/// For how long, after an idle pipeline had to go for want of room, only those that are
/// called start some in reserve: others would take the room that each call leaves, and the
/// next one would have to take it back.
const CALM: Duration = Duration::from_secs(1);

/// How a pool is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Pipelines kept in reserve even where nothing is called; with 0, they are
    /// started on demand only.
    pub floor: usize,
    /// Pipelines kept in reserve at most, however much is called.
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

/// What all pools of a runner may have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Processes: idle, starting and in use.
    pub processes_max: usize,
    /// Takers that wait without a start under way for them.
    pub waiting_max: usize,
    /// Processes on their way, beyond which no start begins that nobody waits for.
    pub refilling_max: usize,
}

/// One pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member(u64);

/// The place of one taker who waits. Earlier ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What is to be done; it counts as done from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a pipeline, and report it with [`PoolState::started`] or
    /// [`PoolState::start_failed`].
    Start(Member),
    /// Throw the oldest idle pipeline away.
    Stop(Member),
    /// Tell who waits that there is no room for it any more.
    SendAway(Member, Ticket),
}

/// What becomes of who wants a pipeline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// An idle pipeline is theirs; report its end with [`PoolState::released`].
    Idle,
    /// They are told when there is one.
    Wait(Ticket),
    /// There is no room, neither for a pipeline nor for waiting.
    Busy,
}

/// What becomes of a pipeline that was started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// It belongs to who waits; report its end with [`PoolState::released`].
    For(Ticket),
    /// It is kept in reserve.
    Idle,
    /// Nobody wants it any more: throw it away.
    Surplus,
}

/// How many pipelines and takers a pool has; or, added up, how many processes a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those in reserve.
    pub idle: usize,
    /// Those on their way.
    pub starting: usize,
    /// Those at work.
    pub in_use: usize,
    /// Takers who wait.
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

    /// Nobody has a pipeline, or waits for one, and none is on its way.
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
    /// Until when pools that are not called start nothing in reserve.
    calm_until: Moment,
    /// Pipelines that were idle so far.
    waited: u64,
    members: u64,
    tickets: u64,
    actions: Vec<Action>,
}

/// Over all pools.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    /// Processes: idle, starting and in use.
    processes: usize,
    /// Processes on their way.
    starting: usize,
    /// Takers with no start under way for them.
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
    /// Pools that keep these limits together.
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
        self.shares.insert(member, Share::new(config, weight));
        // It has its ranks from here on.
        self.set_floor(member, floor, now);
        member
    }

    /// A pool is to have that much in reserve even where nothing is called. What it has
    /// beyond that goes with the next tick.
    pub(super) fn set_floor(&mut self, member: Member, floor: usize, now: Moment) {
        let processes_max = self.limits.processes_max;
        self.change(member, now, |share| {
            let fits = share.weight <= processes_max;
            share.config.floor = if fits { floor } else { 0 };
        });
        self.plan(now);
    }

    /// Somebody wants a pipeline.
    pub(super) fn take(&mut self, member: Member, now: Moment) -> Take {
        match self.arrive(member, now) {
            Take::Wait(ticket) if !self.bound_waiting(Some((member, ticket)), now) => Take::Busy,
            taken => taken,
        }
    }

    /// Somebody wants a pipeline who has others already, or would take a smaller one.
    /// They may wait for a start under way, and never for room: those who did, each with
    /// what the other needs, could wait for ever.
    pub(super) fn take_beside(&mut self, member: Member, now: Moment) -> Take {
        let taken = self.arrive(member, now);
        // They came last, so it is they for whom no start is under way.
        let has_uncovered = |share: &Share| share.uncovered() > 0;
        if let Take::Wait(ticket) = taken
            && self.shares.get(&member).is_some_and(has_uncovered)
        {
            self.gave_up(member, ticket, now);
            return Take::Busy;
        }
        taken
    }

    /// Whether there is a pipeline for somebody; if not, they are the last of those
    /// who wait, and all is planned that can be.
    fn arrive(&mut self, member: Member, now: Moment) -> Take {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let processes_max = self.limits.processes_max;
        let taken = self.change(member, now, |share| {
            if share.is_draining || share.weight > processes_max {
                return Take::Busy;
            }
            if share.arrive(now) {
                return Take::Idle;
            }
            share.wait(ticket, now);
            Take::Wait(ticket)
        });
        self.plan(now);
        taken.unwrap_or(Take::Busy)
    }

    /// A start succeeded, and took that long.
    pub(super) fn started(&mut self, member: Member, took: Duration, now: Moment) -> Started {
        self.waited += 1;
        let replace_at = now + share::waits_for(self.waited);
        let started = self.change(member, now, |share| {
            share.starting -= 1;
            share.learn_start(took);
            if let Some(ticket) = share.serve() {
                Started::For(ticket)
            } else if share.idle.len() < share.wanted(now) {
                share.idle.push_back(replace_at);
                Started::Idle
            } else {
                Started::Surplus
            }
        });
        self.plan(now);
        self.replace_old(member, now);
        started.unwrap_or(Started::Surplus)
    }

    /// A start failed; gives who is to be told.
    pub(super) fn start_failed(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let told = self.change(member, now, |share| {
            share.starting -= 1;
            share.learn_failure(now);
            share.waiting.pop_front()
        });
        self.plan(now);
        self.replace_old(member, now);
        told?.map(|waiting| waiting.ticket)
    }

    /// A start failed for want of something that other runners may have, and this one
    /// again later; gives who is to be told. Until it is tried again there is room for
    /// as many processes as there are, whatever pools they are of.
    pub(super) fn start_starved(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let weight = self.shares.get(&member).map_or(0, |share| share.weight);
        let left = self.totals.processes.saturating_sub(weight);
        self.starved.failed(left, now);
        self.start_failed(member, now)
    }

    /// An idle pipeline was spoiled, and is thrown away: that of those that are idle
    /// which is `at` behind the oldest.
    pub(super) fn spoiled(&mut self, member: Member, at: usize, now: Moment) {
        self.change(member, now, |share| {
            // One that is to be stopped may have been counted off already.
            let _ = share.idle.remove(at).or_else(|| share.idle.pop_back());
            share.rest(now);
        });
        self.plan(now);
    }

    /// A pipeline was found spoiled when it was taken.
    pub(super) fn taken_spoiled(&mut self, member: Member, now: Moment) {
        self.change(member, now, |share| share.rest(now));
        self.plan(now);
    }

    /// A pipeline was spoiled by what it did itself. Those of its pool are started on
    /// demand for a while. True when that is new.
    pub(super) fn turn_cold(&mut self, member: Member, now: Moment) -> bool {
        let is_new = self.change(member, now, |share| share.turn_cold(now));
        self.stop_surplus(member, now);
        self.plan(now);
        is_new.unwrap_or(false)
    }

    /// Who waited does not any more.
    pub(super) fn gave_up(&mut self, member: Member, ticket: Ticket, now: Moment) {
        self.change(member, now, |share| {
            share.waiting.retain(|waiting| waiting.ticket != ticket);
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

    /// When to call [`tick`](Self::tick), if nothing else happens to the pool; a moment
    /// that is past where something has come due since it was last looked at.
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

    /// Takes a pool out of service: it gets no more pipelines and gives up what
    /// is idle, and is forgotten when the last one in use is gone. Gives those
    /// who wait, and are to be sent elsewhere.
    pub(super) fn drain(&mut self, member: Member, now: Moment) -> Vec<Ticket> {
        // First, since a pool is forgotten as soon as it is drained.
        let sent_away = self.change(member, now, |share| {
            share
                .waiting
                .drain(..)
                .map(|waiting| waiting.ticket)
                .collect()
        });
        while self.stop(member, now) {}
        self.change(member, now, |share| share.is_draining = true);
        self.plan(now);
        sent_away.unwrap_or_default()
    }

    /// What is to be done since this was last asked.
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

    /// Changes a pool, and what follows from it for all of them.
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
        // Without any pipeline it has no ranks either: it wants and needs none.
        if share.is_draining && share.pipelines() == 0 {
            self.shares.remove(&member);
        }
        Some(result)
    }

    /// Gives out as many approvals as there is need and room for.
    fn plan(&mut self, now: Moment) {
        while let Some(member) = self.orders.neediest() {
            if !self.make_room(member, now, |_| true) {
                // Nobody overtakes it.
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

    /// Whether a pool may start something in reserve, if there is room.
    fn may_refill(&self, member: Member, now: Moment) -> bool {
        let lately = now.saturating_sub(CALM);
        let is_called = |share: &Share| share.is_called_since(lately) || share.goes_first(now);
        now >= self.calm_until || self.shares.get(&member).is_some_and(is_called)
    }

    /// As [`make_room`](Self::make_room), for one in reserve. That is better in the
    /// reserve of a pool which is called again and again, and far more than another: so
    /// that no two take it from each other.
    fn make_room_for_reserve(&mut self, member: Member, now: Moment) -> bool {
        let deserving = (self.shares.get(&member))
            .filter(|hot| hot.is_called_often(now) && hot.reserve() < hot.wanted_at_rest(now));
        let heat = deserving.map(Share::heat);
        self.make_room(member, now, |cold| {
            heat.is_some_and(|heat| cold.heat().saturating_add(FAR_COLDER) <= heat)
        })
    }

    /// Makes room for one more pipeline of a pool, all of it or none: others give up as
    /// many idle ones as it takes, those first that are called least, as far as they
    /// `give_way`.
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

    /// Sends away who is too many to wait, once all is started that can be: the last ones
    /// of the pool with most who do. Whether `newcomer`, who has just come, is none of them.
    fn bound_waiting(&mut self, newcomer: Option<(Member, Ticket)>, now: Moment) -> bool {
        while self.totals.uncovered > self.limits.waiting_max {
            let uncovered = |of: &Member| self.shares.get(of).map(Share::uncovered);
            let has_come = |of: &Member| newcomer.is_some_and(|(member, _)| member == *of);
            let most = self.orders.needy();
            let most = most.max_by_key(|of| (uncovered(of), has_come(of)));
            let Some(most) = most else { break };
            let last = self.change(most, now, |share| share.waiting.pop_back());
            let Some(last) = last.flatten().map(|last| (most, last.ticket)) else {
                break;
            };
            if newcomer == Some(last) {
                self.change(most, now, |share| share.refuse(now));
                return false;
            }
            self.actions.push(Action::SendAway(last.0, last.1));
            // Who waited behind it may have room now.
            self.plan(now);
        }
        true
    }

    /// Who is to get a pipeline in reserve.
    fn wanting(&mut self, now: Moment) -> Option<Member> {
        loop {
            let member = self.orders.wanting()?;
            if self.is_ranked_rightly(member, now) {
                return Some(member);
            }
        }
    }

    /// Whether a pool still stands where it should; it does after that.
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
        let stopped = self.change(member, now, |share| share.idle.pop_front().is_some());
        let stopped = stopped.unwrap_or(false);
        if stopped {
            self.actions.push(Action::Stop(member));
        }
        stopped
    }

    /// Replaces the oldest idle pipeline of a pool, where it has waited its time.
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
