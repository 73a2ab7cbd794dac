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
//! the link with the most idle processes gives one up. So a link waits only
//! while every process of the runner is at work or on its way to a call, and
//! nobody starves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// A time, as what has passed since the pools were made.
pub type Moment = Duration;

/// How much of the arrivals' past counts: after this long without any, the rate
/// has fallen to 37 %.
const ARRIVALS_WINDOW: Duration = Duration::from_secs(5);

/// How many times the arrivals of one start's time are kept in reserve, since
/// they do not come evenly.
const HEADROOM: f64 = 2.0;

/// How much a start's time changes what starts are taken to take.
const START_TIME_WEIGHT: f64 = 0.2;

/// How long refilling rests after a failed start: at first, and at most.
const REFILL_BACKOFF_MIN: Duration = Duration::from_millis(100);
const REFILL_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long to wait before looking again whether there is too much in reserve.
const SURPLUS_LOOK: Duration = Duration::from_secs(1);

/// How the pool of a link is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Processes kept in reserve even where nothing is called; with 0, they are
    /// started on demand only.
    pub floor: usize,
    /// Processes kept in reserve at most, however much is called.
    pub idle_max: usize,
    /// Takers that may wait without a start under way for them.
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            floor: 2,
            idle_max: 32,
            waiting_max: 64,
        }
    }
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
    /// Throw an idle process away.
    Stop(Member),
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
    /// Nobody has a process, or waits for one.
    pub fn is_unused(&self) -> bool {
        self.in_use + self.waiting == 0
    }
}

/// The pools of all links of a runner.
#[derive(Debug)]
pub struct PoolState {
    processes_max: usize,
    /// Idle, starting and in use, over all links.
    processes: usize,
    links: BTreeMap<Member, Link>,
    members: u64,
    tickets: u64,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Link {
    config: Config,
    idle: usize,
    starting: usize,
    in_use: usize,
    /// Those who wait, oldest first; starts under way are for the first ones.
    waiting: VecDeque<Ticket>,
    arrivals: Arrivals,
    /// What a start takes; `None` before the first.
    start_time: Option<Duration>,
    /// Starts that failed since one succeeded.
    failures: u32,
    refill_at: Moment,
    is_cold: bool,
    is_draining: bool,
}

impl PoolState {
    /// Pools that hold no more than this many processes together.
    pub fn new(processes_max: usize) -> PoolState {
        PoolState {
            processes_max,
            processes: 0,
            links: BTreeMap::new(),
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
        self.plan(now);
        member
    }

    /// Somebody wants a process.
    pub fn take(&mut self, member: Member, now: Moment) -> Take {
        let Some(link) = self.links.get_mut(&member).filter(|link| !link.is_draining) else {
            return Take::Busy;
        };
        link.arrivals.record(now);
        if link.idle > 0 {
            link.idle -= 1;
            link.in_use += 1;
            self.plan(now);
            return Take::Idle;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        link.waiting.push_back(ticket);
        self.plan(now);
        let Some(link) = self.links.get_mut(&member) else {
            return Take::Busy;
        };
        if link.uncovered() > link.config.waiting_max {
            link.waiting.pop_back();
            return Take::Busy;
        }
        Take::Wait(ticket)
    }

    /// A start succeeded, and took that long.
    pub fn started(&mut self, member: Member, took: Duration, now: Moment) -> Started {
        let Some(link) = self.links.get_mut(&member) else {
            return Started::Surplus;
        };
        link.starting -= 1;
        link.failures = 0;
        link.refill_at = Moment::ZERO;
        link.learn_start_time(took);
        let started = if let Some(ticket) = link.waiting.pop_front() {
            link.in_use += 1;
            Started::For(ticket)
        } else if link.idle < link.wanted(now) {
            link.idle += 1;
            Started::Idle
        } else {
            self.processes -= 1;
            Started::Surplus
        };
        self.plan(now);
        started
    }

    /// A start failed; gives who is to be told.
    pub fn start_failed(&mut self, member: Member, now: Moment) -> Option<Ticket> {
        let link = self.links.get_mut(&member)?;
        link.starting -= 1;
        self.processes -= 1;
        let backoff = REFILL_BACKOFF_MIN.saturating_mul(1 << link.failures.min(16));
        link.failures = link.failures.saturating_add(1);
        link.refill_at = now + backoff.min(REFILL_BACKOFF_MAX);
        let told = link.waiting.pop_front();
        self.plan(now);
        told
    }

    /// An idle process ended, or wrote, before it had its request, and was
    /// thrown away. True when the link turns cold for it.
    pub fn spoiled(&mut self, member: Member, now: Moment) -> bool {
        if let Some(link) = self.links.get_mut(&member).filter(|link| link.idle > 0) {
            link.idle -= 1;
            self.processes -= 1;
        }
        self.turn_cold(member, now)
    }

    /// A process was found spoiled when it was taken. From now on those of its
    /// link are started on demand only. True when that is new.
    pub fn turn_cold(&mut self, member: Member, now: Moment) -> bool {
        let Some(link) = self.links.get_mut(&member) else {
            return false;
        };
        let is_new = !std::mem::replace(&mut link.is_cold, true);
        self.stop_surplus(member, now);
        self.plan(now);
        is_new
    }

    /// Who waited does not any more.
    pub fn gave_up(&mut self, member: Member, ticket: Ticket, now: Moment) {
        if let Some(link) = self.links.get_mut(&member) {
            link.waiting.retain(|waiting| *waiting != ticket);
        }
        self.plan(now);
    }

    /// A process that was in use is gone.
    pub fn released(&mut self, member: Member, now: Moment) {
        if let Some(link) = self.links.get_mut(&member) {
            link.in_use -= 1;
            self.processes -= 1;
        }
        self.plan(now);
    }

    /// Time has passed; see [`next_tick`](Self::next_tick).
    pub fn tick(&mut self, member: Member, now: Moment) {
        self.stop_surplus(member, now);
        self.plan(now);
    }

    /// When to call [`tick`](Self::tick), if nothing else happens to the link.
    pub fn next_tick(&self, member: Member, now: Moment) -> Option<Moment> {
        let link = self.links.get(&member)?;
        if link.refill_at > now && link.reserve() < link.wanted(now) {
            return Some(link.refill_at);
        }
        (link.idle > link.wanted_at_rest()).then(|| now + SURPLUS_LOOK)
    }

    /// Takes a link out of service: it gets no more processes and gives up what
    /// is idle, and is forgotten when the last one in use is gone. Gives those
    /// who wait, and are to be sent elsewhere.
    pub fn drain(&mut self, member: Member, now: Moment) -> Vec<Ticket> {
        let Some(link) = self.links.get_mut(&member) else {
            return Vec::new();
        };
        link.is_draining = true;
        let sent_away = link.waiting.drain(..).collect();
        self.stop_surplus(member, now);
        self.plan(now);
        sent_away
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

    /// Gives out as many approvals as there is need and room for.
    fn plan(&mut self, now: Moment) {
        self.links
            .retain(|_, link| !link.is_draining || link.processes() > 0);
        while let Some(member) = self.needs_most() {
            if self.processes >= self.processes_max {
                let Some(rich) = self.has_most_idle() else {
                    return;
                };
                self.stop(rich);
            }
            self.start(member);
        }
        while self.processes < self.processes_max
            && let Some(member) = self.wants_most(now)
        {
            self.start(member);
        }
    }

    /// Whose taker has waited longest without a start under way for it.
    fn needs_most(&self) -> Option<Member> {
        let needs = self.links.iter().filter_map(|(member, link)| {
            let ticket = link.waiting.get(link.starting)?;
            Some((*ticket, *member))
        });
        Some(needs.min()?.1)
    }

    fn has_most_idle(&self) -> Option<Member> {
        let idle = self.links.iter().filter(|(_, link)| link.idle > 0);
        Some(*idle.min_by_key(|(_, link)| Reverse(link.idle))?.0)
    }

    /// Who has least in reserve of those who want more.
    fn wants_most(&self, now: Moment) -> Option<Member> {
        let wants = self
            .links
            .iter()
            .filter(|(_, link)| link.refill_at <= now && link.reserve() < link.wanted(now));
        Some(*wants.min_by_key(|(_, link)| link.reserve())?.0)
    }

    fn start(&mut self, member: Member) {
        if let Some(link) = self.links.get_mut(&member) {
            link.starting += 1;
            self.processes += 1;
            self.actions.push(Action::Start(member));
        }
    }

    fn stop(&mut self, member: Member) {
        if let Some(link) = self.links.get_mut(&member).filter(|link| link.idle > 0) {
            link.idle -= 1;
            self.processes -= 1;
            self.actions.push(Action::Stop(member));
        }
    }

    fn stop_surplus(&mut self, member: Member, now: Moment) {
        while let Some(link) = self.links.get(&member)
            && link.idle > 0
            && link.reserve() > link.wanted(now)
        {
            self.stop(member);
        }
    }
}

impl Link {
    fn new(config: Config) -> Link {
        Link {
            config,
            idle: 0,
            starting: 0,
            in_use: 0,
            waiting: VecDeque::new(),
            arrivals: Arrivals::default(),
            start_time: None,
            failures: 0,
            refill_at: Moment::ZERO,
            is_cold: false,
            is_draining: false,
        }
    }

    fn counts(&self) -> Counts {
        let Link {
            idle,
            starting,
            in_use,
            ..
        } = *self;
        Counts {
            idle,
            starting,
            in_use,
            waiting: self.waiting.len(),
        }
    }

    fn processes(&self) -> usize {
        self.idle + self.starting + self.in_use
    }

    /// Takers with no start under way for them.
    fn uncovered(&self) -> usize {
        self.waiting.len().saturating_sub(self.starting)
    }

    /// What is idle, or will be when all starts have succeeded.
    fn reserve(&self) -> usize {
        self.idle + self.starting.saturating_sub(self.waiting.len())
    }

    /// How much reserve there should be where nothing is called.
    fn wanted_at_rest(&self) -> usize {
        if self.is_cold || self.is_draining {
            0
        } else {
            self.config.floor
        }
    }

    /// How much reserve there should be: enough for the calls that come while
    /// another process is started.
    fn wanted(&self, now: Moment) -> usize {
        let floor = self.wanted_at_rest();
        if floor == 0 {
            return 0;
        }
        let start_time = self.start_time.unwrap_or_default().as_secs_f64();
        let arrivals = self.arrivals.rate_per_second(now) * start_time;
        // A float that is too large for an integer becomes the largest one.
        let reserve = (arrivals * HEADROOM).ceil() as usize;
        reserve.min(self.config.idle_max).max(floor)
    }

    fn learn_start_time(&mut self, took: Duration) {
        let before = self.start_time.unwrap_or(took);
        let learnt = before.mul_f64(1.0 - START_TIME_WEIGHT) + took.mul_f64(START_TIME_WEIGHT);
        self.start_time = Some(learnt);
    }
}

/// How often a link is called: an average that forgets.
#[derive(Debug, Default)]
struct Arrivals {
    rate_per_second: f64,
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

    fn rate_per_second(&self, now: Moment) -> f64 {
        let windows = now
            .saturating_sub(self.at)
            .div_duration_f64(ARRIVALS_WINDOW);
        self.rate_per_second * (-windows).exp()
    }
}
