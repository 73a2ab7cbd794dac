//! What the pools of a runner decide, as plain data.
//!
//! It starts nothing, waits for nothing and reads no clock: events come in with
//! the time at which they happen, counts change, and what is to be done comes
//! out as [`Action`]s. A start is an approval that this state gives out, and
//! that counts against the cap from then on, so that starts under way can never
//! add up to more than there is room for.
//!
//! One state holds all links, because they share one cap. Who needs a process
//! for a call that waits goes before who only wants one in reserve; among those
//! who wait, the oldest goes first, whatever its link. Where there is no room,
//! the link that is called least gives an idle process up, and where there is
//! some, the one that is called most gets it; one that is called again and again also gets
//! the reserve of one that is hardly called: so of many links, those in use are
//! warm. A call waits, or is told busy, only while every process of the runner is
//! at work or on its way to a call.
//!
//! Of idle processes the youngest is taken first, and the oldest given up first; each
//! is replaced when it has waited its time. Where starts fail for want of something
//! that the whole runner has too little of, such as open files, what there is counts
//! as all that there is room for, until it is tried again.
//!
//! Nobody starves: where waiting is bounded, room to wait goes to the link with
//! fewer who do; and a link that is told busy while it has nothing gets the next
//! room, and is left it until it has come back.

use std::collections::BTreeMap;
use std::time::Duration;

mod link;
mod orders;
mod starved;
#[cfg(test)]
mod tests;

use link::Link;
#[cfg(test)]
pub(super) use link::{COLD_MIN, IDLE_MAX, REFILL_PAUSE};
use orders::{Heat, Orders, Spare};
use starved::Starved;

/// A time, as what has passed since the pools were made.
pub type Moment = Duration;

/// How long to wait before looking again whether there is too much in reserve.
const SURPLUS_LOOK: Duration = Duration::from_secs(1);

/// How much less a link must be called, in powers of two, to give up what it has
/// in reserve for the reserve of another.
const FAR_COLDER: Heat = 3;

/// How the pool of a link is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Processes kept in reserve even where nothing is called; with 0, they are
    /// started on demand only.
    pub floor: usize,
    /// Processes kept in reserve at most, however much is called.
    pub idle_max: usize,
    /// Each process is started for somebody who waits already, and none in reserve.
    pub is_late: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            floor: 2,
            idle_max: 32,
            is_late: false,
        }
    }
}

/// What all pools of a runner may have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Processes: idle, starting and in use.
    pub processes_max: usize,
    /// Takers that wait without a start under way for them.
    pub waiting_max: usize,
    /// Starts under way, beyond which none begins that nobody waits for.
    pub refilling_max: usize,
}

/// The pool of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member(u64);

/// The place of one taker who waits. Earlier ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What is to be done; it counts as done from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process, and report it with [`PoolState::started`] or
    /// [`PoolState::start_failed`].
    Start(Member),
    /// Throw the oldest idle process away.
    Stop(Member),
    /// Tell who waits that there is no room for it any more.
    SendAway(Member, Ticket),
}

/// What becomes of who wants a process.
#[derive(Debug, PartialEq, Eq)]
pub enum Take {
    /// An idle process is theirs; report its end with [`PoolState::released`].
    Idle,
    /// They are told when there is one.
    Wait(Ticket),
    /// There is no room, neither for a process nor for waiting.
    Busy,
}

/// What becomes of a process that was started.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// It belongs to who waits; report its end with [`PoolState::released`].
    For(Ticket),
    /// It is kept in reserve.
    Idle,
    /// Nobody wants it any more: throw it away.
    Surplus,
}

/// How many processes and takers a link has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes in reserve.
    pub idle: usize,
    /// Processes on their way.
    pub starting: usize,
    /// Processes at work.
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

    /// Nobody has a process, or waits for one, and none is on its way.
    pub fn is_unused(&self) -> bool {
        self.in_use + self.waiting + self.starting == 0
    }
}

/// The pools of all links of a runner.
#[derive(Debug)]
pub struct PoolState {
    limits: Limits,
    links: BTreeMap<Member, Link>,
    orders: Orders,
    totals: Totals,
    starved: Starved,
    /// Processes that were idle so far.
    waited: u64,
    members: u64,
    tickets: u64,
    actions: Vec<Action>,
}

/// Over all links.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    /// Idle, starting and in use.
    processes: usize,
    starting: usize,
    /// Takers with no start under way for them.
    uncovered: usize,
    /// Room that is left to a link, beside what it has.
    promised: usize,
}

impl Totals {
    fn change(&mut self, before: Totals, after: Totals) {
        self.processes = self.processes + after.processes - before.processes;
        self.starting = self.starting + after.starting - before.starting;
        self.uncovered = self.uncovered + after.uncovered - before.uncovered;
        self.promised = self.promised + after.promised - before.promised;
    }

    fn of(link: &Link) -> Totals {
        Totals {
            processes: link.processes(),
            starting: link.starting,
            uncovered: link.uncovered(),
            promised: link.promised,
        }
    }
}

impl PoolState {
    /// Pools that keep these limits together.
    pub fn new(limits: Limits) -> PoolState {
        PoolState {
            limits,
            links: BTreeMap::new(),
            orders: Orders::default(),
            totals: Totals::default(),
            starved: Starved::default(),
            waited: 0,
            members: 0,
            tickets: 0,
            actions: Vec::new(),
        }
    }

    /// Adds the pool of a link.
    pub fn add(&mut self, config: Config, now: Moment) -> Member {
        self.members += 1;
        let member = Member(self.members);
        self.links.insert(member, Link::new(config));
        // It has its ranks from here on.
        self.change(member, now, |_| {});
        self.plan(now);
        member
    }

    /// Somebody wants a process.
    pub fn take(&mut self, member: Member, now: Moment) -> Take {
        match self.arrive(member, now) {
            Take::Wait(ticket) if !self.has_room_to_wait(member, ticket, now) => Take::Busy,
            taken => taken,
        }
    }

    /// Somebody who has a process already wants one more, of another link. They
    /// may wait for a start under way, and never for room: those who did, each
    /// with what the other needs, could wait for ever.
    pub fn take_beside(&mut self, member: Member, now: Moment) -> Take {
        let taken = self.arrive(member, now);
        // They came last, so it is they for whom no start is under way.
        let has_uncovered = |link: &Link| link.uncovered() > 0;
        if let Take::Wait(ticket) = taken
            && self.links.get(&member).is_some_and(has_uncovered)
        {
            self.gave_up(member, ticket, now);
            return Take::Busy;
        }
        taken
    }

    /// Whether there is a process for somebody; if not, they are the last of those
    /// who wait, and all is planned that can be.
    fn arrive(&mut self, member: Member, now: Moment) -> Take {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let taken = self.change(member, now, |link| {
            if link.is_draining {
                return Take::Busy;
            }
            if link.arrive(now) {
                return Take::Idle;
            }
            link.wait(ticket, now);
            Take::Wait(ticket)
        });
        self.plan(now);
        taken.unwrap_or(Take::Busy)
    }

    /// A start succeeded, and took that long.
    pub fn started(&mut self, member: Member, took: Duration, now: Moment) -> Started {
        self.waited += 1;
        let replace_at = now + link::waits_for(self.waited);
        let started = self.change(member, now, |link| {
            link.starting -= 1;
            link.learn_start(took);
            if let Some(ticket) = link.serve(now.saturating_sub(took)) {
                Started::For(ticket)
            } else if link.idle.len() < link.wanted(now) {
                link.idle.push_back(replace_at);
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
    pub fn start_failed(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let told = self.change(member, now, |link| {
            link.starting -= 1;
            link.learn_failure(now);
            link.waiting.pop_front()
        });
        self.plan(now);
        self.replace_old(member, now);
        told?.map(|waiting| waiting.ticket)
    }

    /// A start failed for want of something that other runners may have, and this one
    /// again later; gives who is to be told. Until it is tried again there is room for
    /// as many processes as there are, whatever links they are of.
    pub fn start_starved(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let left = self.totals.processes.saturating_sub(1);
        self.starved.failed(left, now);
        self.start_failed(member, now)
    }

    /// An idle process was spoiled, and is thrown away: that of those that are idle
    /// which is `at` behind the oldest.
    pub fn spoiled(&mut self, member: Member, at: usize, now: Moment) {
        self.change(member, now, |link| {
            // One that is to be stopped may have been counted off already.
            let _ = link.idle.remove(at).or_else(|| link.idle.pop_back());
            link.rest(now);
        });
        self.plan(now);
    }

    /// A process was found spoiled when it was taken.
    pub fn taken_spoiled(&mut self, member: Member, now: Moment) {
        self.change(member, now, |link| link.rest(now));
        self.plan(now);
    }

    /// A process was spoiled by what it did itself. Those of its link are started on
    /// demand for a while. True when that is new.
    pub fn turn_cold(&mut self, member: Member, now: Moment) -> bool {
        let is_new = self.change(member, now, |link| link.turn_cold(now));
        self.stop_surplus(member, now);
        self.plan(now);
        is_new.unwrap_or(false)
    }

    /// Who waited does not any more.
    pub fn gave_up(&mut self, member: Member, ticket: Ticket, now: Moment) {
        self.change(member, now, |link| {
            link.waiting.retain(|waiting| waiting.ticket != ticket);
        });
        self.plan(now);
    }

    /// A process that was in use is gone.
    pub fn released(&mut self, member: Member, now: Moment) {
        self.change(member, now, |link| link.in_use -= 1);
        self.plan(now);
    }

    /// Time has passed; see [`next_tick`](Self::next_tick).
    pub fn tick(&mut self, member: Member, now: Moment) {
        self.stop_surplus(member, now);
        self.change(member, now, |_| {});
        self.plan(now);
        self.replace_old(member, now);
    }

    /// When to call [`tick`](Self::tick), if nothing else happens to the link.
    pub fn next_tick(&self, member: Member, now: Moment) -> Option<Moment> {
        let link = self.links.get(&member)?;
        let kept = match link.ranks.spares {
            Some(Spare::Kept(until)) => Some(until),
            _ => None,
        };
        let wants = link.reserve() < link.wanted(now);
        let refills = wants.then(|| link.refills_at());
        let surplus = (link.idle.len() > link.wanted_at_rest()).then(|| now + SURPLUS_LOOK);
        let starved = (wants || link.uncovered() > 0).then_some(self.starved.until());
        let moments = [
            kept,
            refills,
            surplus,
            starved,
            link.promised_until(),
            link.replaces_at(),
            link.cold_until(),
        ];
        moments.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Takes a link out of service: it gets no more processes and gives up what
    /// is idle, and is forgotten when the last one in use is gone. Gives those
    /// who wait, and are to be sent elsewhere.
    pub fn drain(&mut self, member: Member, now: Moment) -> Vec<Ticket> {
        // First, since a link is forgotten as soon as it is drained.
        let sent_away = self.change(member, now, |link| {
            link.waiting
                .drain(..)
                .map(|waiting| waiting.ticket)
                .collect()
        });
        while self.stop(member, now) {}
        self.change(member, now, |link| link.is_draining = true);
        self.plan(now);
        sent_away.unwrap_or_default()
    }

    /// What is to be done since this was last asked.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// How many processes and takers a link has.
    pub fn counts(&self, member: Member) -> Counts {
        self.links
            .get(&member)
            .map(Link::counts)
            .unwrap_or_default()
    }

    /// Changes a link, and what follows from it for all of them.
    fn change<T>(
        &mut self,
        member: Member,
        now: Moment,
        change: impl FnOnce(&mut Link) -> T,
    ) -> Option<T> {
        let link = self.links.get_mut(&member)?;
        let before = Totals::of(link);
        let result = change(link);
        link.look_at(now);
        self.totals.change(before, Totals::of(link));
        let ranks = link.ranked(now);
        self.orders.rank(member, &mut link.ranks, ranks);
        // Without any process it has no ranks either: it wants and needs none.
        if link.is_draining && link.processes() == 0 {
            self.links.remove(&member);
        }
        Some(result)
    }

    /// Gives out as many approvals as there is need and room for.
    fn plan(&mut self, now: Moment) {
        let processes_max = self.starved.room(self.limits.processes_max, now);
        while let Some(member) = self.orders.neediest() {
            if self.totals.processes >= processes_max {
                let Some(rich) = self.richest(now) else {
                    return;
                };
                self.stop(rich, now);
            }
            self.start(member, now);
        }
        while self.totals.starting < self.limits.refilling_max
            && let Some(member) = self.wanting(now)
        {
            // What a call has left is for its own link, soon, and not for one that
            // would have to give it back with the next call.
            if self.totals.processes + self.promised_before(member, now) >= processes_max {
                match self.richest(now) {
                    Some(rich) if self.gives_way(rich, member, now) => self.stop(rich, now),
                    _ => return,
                };
            }
            self.start(member, now);
        }
    }

    /// How much room is promised to others, and may not be this link's.
    fn promised_before(&self, member: Member, now: Moment) -> usize {
        match self.links.get(&member) {
            Some(link) if link.goes_first(now) => 0,
            Some(link) => self.totals.promised - link.promised,
            None => self.totals.promised,
        }
    }

    /// Whether what a link has in reserve is better in the reserve of another,
    /// which is called again and again, and far more; so that no two take it from
    /// each other.
    fn gives_way(&self, link: Member, to: Member, now: Moment) -> bool {
        let (Some(cold), Some(hot)) = (self.links.get(&link), self.links.get(&to)) else {
            return false;
        };
        hot.is_called_often(now)
            && hot.reserve() < hot.wanted_at_rest()
            && cold.heat().saturating_add(FAR_COLDER) <= hot.heat()
    }

    /// Whether a taker may wait, when it has come and all that can be started has
    /// been. Where there is no room, the last one of the link with most goes,
    /// which may be this one.
    fn has_room_to_wait(&mut self, member: Member, ticket: Ticket, now: Moment) -> bool {
        while self.totals.uncovered > self.limits.waiting_max {
            let uncovered = |of: &Member| self.links.get(of).map(Link::uncovered);
            let most = self.orders.needy();
            let most = most.max_by_key(|of| (uncovered(of), *of == member));
            let Some(most) = most else { break };
            let last = self.change(most, now, |link| link.waiting.pop_back());
            let last = last.map(|last| last.map(|waiting| waiting.ticket));
            if last == Some(Some(ticket)) {
                self.change(member, now, |link| link.refuse(now));
                return false;
            }
            let sent_away = last.flatten().map(|last| Action::SendAway(most, last));
            self.actions.extend(sent_away);
        }
        true
    }

    /// Who is to give up an idle process.
    fn richest(&mut self, now: Moment) -> Option<Member> {
        loop {
            let member = self.orders.richest()?;
            if self.is_ranked_rightly(member, now) {
                let spares = &self.links.get(&member)?.ranks.spares;
                let is_free = matches!(spares, Some(Spare::Free(..)));
                return is_free.then_some(member);
            }
        }
    }

    /// Who is to get a process in reserve.
    fn wanting(&mut self, now: Moment) -> Option<Member> {
        loop {
            let member = self.orders.wanting()?;
            if self.is_ranked_rightly(member, now) {
                return Some(member);
            }
        }
    }

    /// Whether a link still stands where it should; it does after that.
    fn is_ranked_rightly(&mut self, member: Member, now: Moment) -> bool {
        let Some(link) = self.links.get_mut(&member) else {
            return false;
        };
        let ranks = link.ranked(now);
        let is_right = link.ranks == ranks;
        self.orders.rank(member, &mut link.ranks, ranks);
        is_right
    }

    fn start(&mut self, member: Member, now: Moment) {
        let started = self.change(member, now, |link| link.starting += 1);
        self.actions.extend(started.map(|()| Action::Start(member)));
    }

    /// Stops the oldest idle process; false if there is none.
    fn stop(&mut self, member: Member, now: Moment) -> bool {
        let stopped = self.change(member, now, |link| link.idle.pop_front().is_some());
        let stopped = stopped.unwrap_or(false);
        if stopped {
            self.actions.push(Action::Stop(member));
        }
        stopped
    }

    /// Replaces the oldest idle process of a link, where it has waited its time.
    fn replace_old(&mut self, member: Member, now: Moment) {
        if (self.links.get(&member)).is_some_and(|link| link.has_old(now)) {
            self.change(member, now, Link::has_waited_well);
            self.stop(member, now);
            self.plan(now);
        }
    }

    fn stop_surplus(&mut self, member: Member, now: Moment) {
        while let Some(link) = self.links.get(&member)
            && link.reserve() > link.wanted(now)
            && self.stop(member, now)
        {}
    }
}
