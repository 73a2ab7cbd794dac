//! What holds for any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What may happen, with numbers that choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    Take(usize),
    TakeBeside(usize),
    StartSucceeds(usize),
    StartFails(usize),
    StartStarves(usize),
    Spoil(usize),
    Look(Look),
    GiveUp(usize),
    Release(usize),
    Wait(u64),
    SetFloor(usize),
    Drain(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let which = any::<usize>();
    prop_oneof![
        6 => which.prop_map(Event::Take),
        4 => which.prop_map(Event::TakeBeside),
        8 => which.prop_map(Event::StartSucceeds),
        1 => which.prop_map(Event::StartFails),
        1 => which.prop_map(Event::StartStarves),
        1 => which.prop_map(Event::Spoil),
        4 => look().prop_map(Event::Look),
        2 => which.prop_map(Event::GiveUp),
        6 => which.prop_map(Event::Release),
        4 => (0..3_000_u64).prop_map(Event::Wait),
        1 => which.prop_map(Event::SetFloor),
        1 => (0..40_usize).prop_map(Event::Drain),
    ]
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        2 => Just(Look::Awake),
        3 => Just(Look::Asleep),
        6 => Just(Look::Unchanged),
        1 => Just(Look::Unknown),
    ]
}

/// The pools, and what a runner that does as it is told would have.
struct Model {
    state: PoolState,
    limits: Limits,
    now: Moment,
    members: Vec<Member>,
    starting: Vec<Member>,
    idle: Vec<(Member, Number)>,
    /// Those of the idle ones that are known to have settled.
    settled: BTreeSet<Number>,
    in_use: Vec<Member>,
    waiting: Vec<(Member, Ticket)>,
    answered: BTreeSet<Ticket>,
    configs: BTreeMap<Member, Config>,
    weights: BTreeMap<Member, usize>,
    drained: BTreeSet<Member>,
}

impl Model {
    /// Pools of those floors and weights.
    fn new(limits: Limits, pools: &[(usize, usize)]) -> Model {
        let mut state = PoolState::new(limits.clone());
        let members: Vec<Member> = pools
            .iter()
            .map(|(floor, weight)| state.add(config(*floor), *weight, Moment::ZERO))
            .collect();
        let floors = pools.iter().map(|(floor, _)| config(*floor));
        let configs = members.iter().copied().zip(floors);
        let weights = members.iter().copied().zip(pools.iter().map(|pool| pool.1));
        Model {
            state,
            limits,
            now: Moment::ZERO,
            configs: configs.collect(),
            weights: weights.collect(),
            members,
            starting: Vec::new(),
            idle: Vec::new(),
            settled: BTreeSet::new(),
            in_use: Vec::new(),
            waiting: Vec::new(),
            answered: BTreeSet::new(),
            drained: BTreeSet::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Take(which) => self.take(which, PoolState::take),
            Event::TakeBeside(which) => self.take(which, PoolState::take_beside),
            Event::StartSucceeds(which) => {
                if let Some(member) = pick(&mut self.starting, which) {
                    match self.state.started(member, 5 * MS, self.now) {
                        Started::For(ticket) => {
                            self.answer(ticket);
                            self.in_use.push(member);
                        }
                        Started::Idle(number) => self.idle.push((member, number)),
                        Started::Surplus => {}
                    }
                }
            }
            Event::StartFails(which) => {
                if let Some(member) = pick(&mut self.starting, which)
                    && let Some(ticket) = self.state.start_failed(member, self.now)
                {
                    self.answer(ticket);
                }
            }
            Event::StartStarves(which) => {
                if let Some(member) = pick(&mut self.starting, which)
                    && let Some(ticket) = self.state.start_starved(member, self.now)
                {
                    self.answer(ticket);
                }
            }
            Event::Spoil(which) => {
                if let Some((member, number)) = pick(&mut self.idle, which) {
                    self.state.spoiled(member, number, self.now);
                    if which % 2 == 0 {
                        self.state.turn_cold(member, self.now);
                    }
                }
            }
            Event::Look(look) => {
                if let Some((at, member, number)) = self.state.next_look() {
                    assert!(self.idle.contains(&(member, number)), "it is gone");
                    self.now = self.now.max(at);
                    self.state.looked(member, number, look, self.now);
                    if look == Look::Unknown {
                        self.settled.insert(number);
                    }
                }
            }
            Event::GiveUp(which) => {
                if let Some((member, ticket)) = pick(&mut self.waiting, which) {
                    self.state.gave_up(member, ticket, self.now);
                }
            }
            Event::Release(which) => {
                if let Some(member) = pick(&mut self.in_use, which) {
                    self.state.released(member, self.now);
                }
            }
            Event::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                for member in &self.members {
                    self.state.tick(*member, self.now);
                }
            }
            Event::SetFloor(which) => {
                let member = self.members[which % self.members.len()];
                let config = self.configs.get_mut(&member).unwrap();
                config.floor = which % 3;
                self.state.set_floor(member, which % 3, self.now);
            }
            Event::Drain(which) => {
                if let Some(member) = self.members.get(which) {
                    self.drained.insert(*member);
                    for ticket in self.state.drain(*member, self.now) {
                        self.answer(ticket);
                    }
                }
            }
        }
        for action in self.state.actions() {
            match action {
                Action::Start(member) => self.starting.push(member),
                Action::Stop(member, number) => self.remove_idle(member, number),
                Action::SendAway(_, ticket) => self.answer(ticket),
            }
        }
    }

    fn take(&mut self, which: usize, take: fn(&mut PoolState, Member, Moment) -> Take) {
        let member = self.members[which % self.members.len()];
        match take(&mut self.state, member, self.now) {
            Take::Idle(number, warmth) => {
                self.remove_idle(member, number);
                self.in_use.push(member);
                let mut others = self.idle.iter().filter(|(of, _)| *of == member);
                let is_settled = |number| self.settled.contains(number);
                match warmth {
                    Warmth::Cold => panic!("it was idle"),
                    Warmth::Starting => {
                        assert!(!is_settled(&number));
                        assert!(!others.any(|(_, other)| is_settled(other)));
                    }
                    Warmth::Ready => {}
                }
            }
            Take::Wait(ticket) => self.waiting.push((member, ticket)),
            Take::Busy => {}
        }
    }

    fn remove_idle(&mut self, member: Member, number: Number) {
        let removed = (member, number);
        let position = self.idle.iter().position(|idle| *idle == removed);
        self.idle.remove(position.expect("an idle process"));
    }

    fn answer(&mut self, answered: Ticket) {
        let position = self
            .waiting
            .iter()
            .position(|(_, ticket)| *ticket == answered);
        self.waiting.remove(position.expect("somebody who waits"));
        assert!(self.answered.insert(answered), "answered twice");
    }

    fn weight(&self, of: &[Member]) -> usize {
        of.iter().map(|member| self.weights[member]).sum()
    }

    fn check(&self) {
        let idle: Vec<_> = self.idle.iter().map(|(member, _)| *member).collect();
        let processes = [&self.starting, &idle, &self.in_use].map(|of| self.weight(of));
        let processes = processes.iter().sum::<usize>();
        assert_eq!(self.state.totals.processes, processes);
        assert_eq!(self.state.totals.starting, self.weight(&self.starting));
        assert!(processes <= self.limits.processes_max, "over the cap");
        let mut uncovered = 0;
        for member in &self.members {
            let count = |of: &[Member]| of.iter().filter(|of| *of == member).count();
            let expected = Counts {
                idle: count(&idle),
                starting: count(&self.starting),
                in_use: count(&self.in_use),
                waiting: self.waiting.iter().filter(|(of, _)| of == member).count(),
            };
            let counts = self.state.counts(*member);
            assert_eq!(counts, expected);
            let settled = self.state.settled_counts(*member, self.now);
            assert_eq!(
                settled.idle + settled.starting,
                counts.idle + counts.starting
            );
            assert!(
                counts.idle == 0 || counts.waiting == 0,
                "idle while somebody waits"
            );
            assert!(counts.idle <= self.configs[member].idle_max);
            if self.drained.contains(member) {
                assert_eq!(counts.idle, 0);
            }
            uncovered += counts.waiting.saturating_sub(counts.starting);
        }
        assert!(uncovered <= self.limits.waiting_max, "more wait than may");
        if let Some(first) = self.state.orders.neediest() {
            let all = self.state.starved.room(self.limits.processes_max, self.now);
            let room = (all + self.spare()).saturating_sub(processes);
            assert!(
                room < self.weights[&first],
                "there is room for who has waited longest, or there would be"
            );
        }
    }

    /// How much could be made of what is idle.
    fn spare(&self) -> usize {
        let shares = self.state.shares.values();
        shares
            .map(|share| share.spare(self.now) * share.weight)
            .sum()
    }

    /// At most this much is kept at rest.
    fn floor(&self, member: Member) -> usize {
        self.configs[&member].floor
    }
}

fn pick<T>(of: &mut Vec<T>, which: usize) -> Option<T> {
    (!of.is_empty()).then(|| of.swap_remove(which % of.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_counts_hold_and_everything_comes_back(
        processes_max in 1..12_usize,
        waiting_max in 0..5_usize,
        refilling_max in 1..5_usize,
        pools in prop::collection::vec((0..4_usize, 1..5_usize), 1..5),
        events in prop::collection::vec(event(), 0..300),
    ) {
        let limits = Limits { processes_max, waiting_max, refilling_max };
        let mut model = Model::new(limits, &pools);
        for event in events {
            model.apply(event);
            model.check();
        }

        // At rest, whoever waits is served, and what is kept is what is wanted.
        while !(model.waiting.is_empty() && model.starting.is_empty() && model.in_use.is_empty()) {
            model.apply(Event::Release(0));
            model.apply(Event::StartSucceeds(0));
            model.apply(Event::Wait(1_000));
            model.check();
        }
        // Who was told to come back has had time to, and then it is given up again.
        for _ in 0..2 {
            model.apply(Event::Wait(600_000));
        }
        for member in &model.members {
            prop_assert!(model.state.counts(*member).idle <= model.floor(*member));
        }
        while !model.starting.is_empty() {
            model.apply(Event::StartSucceeds(0));
        }
        for which in 0..model.members.len() {
            model.apply(Event::Drain(which));
            while !model.starting.is_empty() {
                model.apply(Event::StartSucceeds(0));
            }
            model.check();
        }
        prop_assert_eq!(model.state.totals.processes, 0);
        prop_assert!(model.state.shares.is_empty());
        prop_assert!(model.idle.is_empty() && model.waiting.is_empty());
    }
}
