//! When idle processes count as ready, and what follows from how long that takes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Programs that run for a time after their start, and then sleep.
struct Programs {
    run_for: Duration,
    started: BTreeMap<Number, Moment>,
    asleep: BTreeSet<Number>,
    looks: usize,
}

impl Programs {
    fn new(run_for: Duration) -> Programs {
        Programs {
            run_for,
            started: BTreeMap::new(),
            asleep: BTreeSet::new(),
            looks: 0,
        }
    }

    /// Starts all that is to be started.
    fn start(&mut self, state: &mut PoolState, now: Moment) {
        loop {
            let actions = state.actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                if let Action::Start(member) = action
                    && let Started::Idle(number) = state.started(member, 2 * MS, now)
                {
                    self.started.insert(number, now);
                }
            }
        }
    }

    /// Starts and looks at everything, from `from` to `until`.
    fn let_pass(&mut self, state: &mut PoolState, link: Member, from: Moment, until: Moment) {
        let mut now = from;
        loop {
            self.start(state, now);
            let look = state.next_look();
            let tick = state.next_tick(link, now).map(|at| at.max(now));
            let look_at = look.map(|(at, ..)| at.max(now));
            let Some(next) = [look_at, tick].into_iter().flatten().min() else {
                return;
            };
            if next > until {
                return;
            }
            now = next;
            match look {
                Some((at, member, number)) if at <= now => self.look(state, member, number, now),
                _ => state.tick(link, now),
            }
        }
    }

    fn look(&mut self, state: &mut PoolState, member: Member, number: Number, now: Moment) {
        self.looks += 1;
        let look = if now < self.started[&number] + self.run_for {
            self.asleep.remove(&number);
            Look::Awake
        } else if self.asleep.insert(number) {
            Look::Asleep
        } else {
            Look::Unchanged
        };
        state.looked(member, number, look, now);
    }
}

/// How warm what one who takes gets is.
fn take(state: &mut PoolState, link: Member, now: Moment) -> Warmth {
    match state.take(link, now) {
        Take::Idle(_, warmth) => warmth,
        Take::Wait(_) => Warmth::Cold,
        Take::Busy => panic!("there is room"),
    }
}

/// How warm what each of so many gets is, who come at once.
fn burst(state: &mut PoolState, link: Member, calls: usize, now: Moment) -> Vec<Warmth> {
    (0..calls).map(|_| take(state, link, now)).collect()
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

#[test]
fn those_that_have_settled_are_taken_first() {
    let mut state = pools(10);
    let link = state.add(config(3), 1, MS);
    let mut programs = Programs::new(HALF_A_SECOND);
    programs.let_pass(&mut state, link, MS, 2 * HALF_A_SECOND);
    let now = 2 * HALF_A_SECOND;
    assert_eq!(state.settled_counts(link, now).idle, 3);
    let Take::Idle(youngest, Warmth::Ready) = state.take(link, now) else {
        panic!("three have settled")
    };
    // Its replacement is started, and looked at once.
    let soon = now + REFILL_PAUSE;
    state.tick(link, soon);
    programs.start(&mut state, soon);
    let counts = state.settled_counts(link, soon);
    assert_eq!((counts.idle, counts.starting), (2, 1));
    let mut taken = Vec::new();
    for _ in 0..3 {
        let Take::Idle(number, warmth) = state.take(link, soon) else {
            panic!("three are there")
        };
        taken.push((number < youngest, warmth));
    }
    let (before, after) = ((true, Warmth::Ready), (false, Warmth::Starting));
    assert_eq!(taken, [before, before, after]);
}

#[test]
fn of_those_that_are_starting_the_oldest_is_taken() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    let mut programs = Programs::new(HALF_A_SECOND);
    programs.let_pass(&mut state, link, MS, 100 * MS);
    let oldest = state.shares[&link].idle[0].number;
    let taken = state.take(link, 100 * MS);
    assert_eq!(taken, Take::Idle(oldest, Warmth::Starting));
}

#[test]
fn one_that_never_settles_is_ready_in_the_end_and_is_looked_at_no_more() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    let mut programs = Programs::new(Duration::MAX / 2);
    programs.let_pass(&mut state, link, MS, SETTLES_WITHIN - MS);
    assert_eq!(state.warmth(link, SETTLES_WITHIN - MS), Warmth::Starting);
    let ready_at = MS + SETTLES_WITHIN;
    assert_eq!(state.warmth(link, ready_at), Warmth::Ready);
    programs.let_pass(&mut state, link, SETTLES_WITHIN - MS, ready_at);
    assert_eq!(state.next_look(), None);
    assert!(programs.looks < 50, "{}", programs.looks);
    // It has taught nothing: a pool of ten seconds' worth of calls would be large.
    for _ in 0..20 {
        state.take(link, ready_at);
    }
    assert_eq!(state.shares[&link].wanted(ready_at), 1);
}

#[test]
fn nothing_is_to_be_looked_at_where_everything_has_settled() {
    let mut state = pools(10);
    let link = state.add(config(3), 1, MS);
    let mut programs = Programs::new(5 * MS);
    programs.let_pass(&mut state, link, MS, 200 * MS);
    assert_eq!(state.next_look(), None);
    assert!(programs.looks <= 3 * 3, "{}", programs.looks);
}

#[test]
fn nobody_looks_at_those_that_are_known_to_start_at_once_and_are_taken_soon() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    let mut programs = Programs::new(Duration::ZERO);
    programs.let_pass(&mut state, link, MS, 200 * MS);
    let (before, mut now) = (programs.looks, 200 * MS);
    for _ in 0..100 {
        now += 8 * MS;
        assert_eq!(take(&mut state, link, now), Warmth::Ready);
        state.released(link, now);
        programs.let_pass(&mut state, link, now, now + 7 * MS);
    }
    // The one that was not taken.
    assert!(programs.looks <= before + 2, "{}", programs.looks);
}

#[test]
fn what_is_known_of_a_pool_shortens_when_its_programs_become_faster() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    let mut programs = Programs::new(HALF_A_SECOND);
    let mut now = MS;
    for run_for in [500, 20] {
        programs.run_for = run_for * MS;
        for _ in 0..12 {
            programs.let_pass(&mut state, link, now, now + 2 * HALF_A_SECOND);
            now += 2 * HALF_A_SECOND;
            assert_eq!(take(&mut state, link, now), Warmth::Ready);
            state.released(link, now);
        }
    }
    let learnt = state.shares[&link].lead_time();
    assert!(learnt < 100 * MS, "{learnt:?}");
}

#[test]
fn a_burst_of_slow_starters_finds_all_it_needs_the_next_time() {
    let mut state = PoolState::new(Limits {
        processes_max: 100,
        waiting_max: 20,
        refilling_max: usize::MAX,
    });
    let link = state.add(
        Config {
            floor: 2,
            idle_max: 32,
        },
        1,
        MS,
    );
    let mut programs = Programs::new(HALF_A_SECOND);
    let mut now = MS;
    let mut ready = Vec::new();
    for _ in 0..4 {
        programs.let_pass(&mut state, link, now, now + Duration::from_secs(20));
        now += Duration::from_secs(20);
        let found = burst(&mut state, link, 10, now);
        ready.push(
            found
                .iter()
                .filter(|warmth| **warmth == Warmth::Ready)
                .count(),
        );
        programs.start(&mut state, now);
        (0..10).for_each(|_| state.released(link, now));
    }
    assert_eq!(ready, [2, 10, 10, 10]);
    // It is forgotten after some minutes.
    let later = now + Duration::from_secs(180);
    programs.let_pass(&mut state, link, now, later);
    assert_eq!(state.counts(link).idle, 2);
}

#[test]
fn where_starts_are_quick_a_burst_is_no_reason_for_a_reserve() {
    let mut state = pools(100);
    let link = state.add(config(2), 1, MS);
    let mut programs = Programs::new(Duration::ZERO);
    programs.let_pass(&mut state, link, MS, 200 * MS);
    burst(&mut state, link, 8, 200 * MS);
    programs.start(&mut state, 200 * MS);
    assert_eq!(state.shares[&link].wanted(200 * MS), 2);
}

#[test]
fn slow_starters_are_started_a_few_at_a_time() {
    let mut state = PoolState::new(Limits {
        processes_max: 100,
        waiting_max: 0,
        refilling_max: 3,
    });
    let link = state.add(config(20), 1, MS);
    let mut programs = Programs::new(HALF_A_SECOND);
    let mut now = MS;
    let (mut most, mut asked) = (0, Vec::new());
    while state.settled_counts(link, now).idle < 20 {
        // One start after the other.
        asked.extend(state.actions());
        if let Some(Action::Start(member)) = asked.pop()
            && let Started::Idle(number) = state.started(member, 2 * MS, now)
        {
            programs.started.insert(number, now);
        }
        if let Some((at, member, number)) = state.next_look()
            && at <= now
        {
            programs.look(&mut state, member, number, now);
        }
        let counts = state.settled_counts(link, now);
        most = most.max(counts.starting);
        now += 2 * MS;
        assert!(now < Duration::from_secs(20), "{counts:?}");
    }
    // The first ones are more: nothing was known of them yet.
    assert!(most <= 8, "{most} at a time");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_noticed_soon_when_one_has_settled_and_not_before(milliseconds in 0..12_000_u32) {
        let run_for = milliseconds * MS;
        let mut state = pools(10);
        let link = state.add(config(1), 1, MS);
        let mut programs = Programs::new(run_for);
        let sleeps_at = MS + run_for.min(SETTLES_WITHIN);
        // Looks are about an eighth of its age apart.
        let noticed = (sleeps_at + run_for / 8 + 3 * QUIET).min(MS + SETTLES_WITHIN);
        if run_for > MS {
            let before = sleeps_at - MS;
            programs.let_pass(&mut state, link, MS, before);
            prop_assert_eq!(state.warmth(link, before), Warmth::Starting);
        }
        programs.let_pass(&mut state, link, MS.max(sleeps_at - MS), noticed);
        prop_assert_eq!(state.warmth(link, noticed), Warmth::Ready);
    }
}
