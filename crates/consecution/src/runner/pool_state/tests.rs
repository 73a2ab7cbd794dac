//! What the pools promise, for any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::share::{COLD_MAX, COLD_MIN, IDLE_MAX, REFILL_PAUSE, REFILL_REST_MAX, REFILL_REST_MIN};
use super::starved::{STARVED_REST_MAX, STARVED_REST_MIN};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn config(floor: usize) -> Config {
    Config { floor, idle_max: 8 }
}

/// Pools with room for so many processes, three who wait, and any number of
/// starts.
fn pools(processes_max: usize) -> PoolState {
    PoolState::new(Limits {
        processes_max,
        waiting_max: 3,
        refilling_max: usize::MAX,
    })
}

/// Starts everything that is asked for, until nothing is.
fn settle(state: &mut PoolState, now: Moment) {
    loop {
        let actions = state.actions();
        if actions.is_empty() {
            return;
        }
        for action in actions {
            if let Action::Start(member) = action {
                state.started(member, 5 * MS, now);
            }
        }
    }
}

#[test]
fn who_has_a_process_already_waits_for_a_start_and_never_for_room() {
    let mut state = pools(2);
    let (one, two) = (state.add(config(0), 1, MS), state.add(config(0), 1, MS));
    assert!(matches!(state.take(one, MS), Take::Wait(_)));
    settle(&mut state, MS);
    // There is room for one more, which is started for them.
    assert!(matches!(state.take_beside(two, MS), Take::Wait(_)));
    settle(&mut state, MS);
    assert_eq!(state.take_beside(two, MS), Take::Busy);
    assert_eq!(state.counts(two).waiting, 0);
    assert!(matches!(state.take(two, MS), Take::Wait(_)));
    state.released(one, 2 * MS);
    settle(&mut state, 2 * MS);
    assert_eq!(state.counts(two).in_use, 2);
    // What is in reserve elsewhere gives way.
    state.released(two, 3 * MS);
    state.released(two, 3 * MS);
    let rich = state.add(config(2), 1, 3 * MS);
    settle(&mut state, 3 * MS);
    assert_eq!(state.counts(rich).idle, 2);
    assert!(matches!(state.take_beside(two, 4 * MS), Take::Wait(_)));
    assert_eq!(state.counts(rich).idle, 1);
}

#[test]
fn a_pool_starts_with_its_floor_and_refills_soon_after_a_take() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    assert_eq!(state.actions(), [Action::Start(link), Action::Start(link)]);
    state.started(link, MS, MS);
    state.started(link, MS, MS);
    let now = 2 * MS;
    assert_eq!(state.take(link, now), Take::Idle);
    assert_eq!(state.actions(), []);
    assert_eq!(state.next_tick(link, now), Some(now + REFILL_PAUSE));
    state.tick(link, now + REFILL_PAUSE);
    assert_eq!(state.actions(), [Action::Start(link)]);
    assert_eq!(
        state.counts(link),
        Counts {
            idle: 1,
            starting: 1,
            in_use: 1,
            waiting: 0
        }
    );
}

#[test]
fn what_has_come_due_before_anybody_asked_is_still_done() {
    let mut state = pools(2);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(link, MS), Take::Idle);
    state.released(link, 2 * MS);
    assert_eq!(state.actions(), []);
    // The pool's task was late: it asks when the moment has passed.
    let due = MS + REFILL_PAUSE;
    assert_eq!(state.next_tick(link, due + MS), Some(due));
    state.tick(link, due + MS);
    assert_eq!(state.actions(), [Action::Start(link)]);
    assert!(state.next_tick(link, due + MS) > Some(due + MS));
}

#[test]
fn where_nothing_is_left_in_reserve_a_refill_starts_at_once() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(link, MS), Take::Idle);
    assert_eq!(state.take(link, 2 * MS), Take::Idle);
    assert_eq!(state.actions(), [Action::Start(link)]);
    // The other one in its turn, though calls go on.
    state.tick(link, MS + REFILL_PAUSE);
    assert_eq!(state.actions(), [Action::Start(link)]);
}

#[test]
fn without_a_floor_processes_are_started_on_demand_only() {
    let mut state = pools(10);
    let link = state.add(config(0), 1, MS);
    assert!(state.actions().is_empty());
    let Take::Wait(ticket) = state.take(link, MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(state.actions(), [Action::Start(link)]);
    assert_eq!(state.started(link, MS, MS), Started::For(ticket));
    state.released(link, 2 * MS);
    assert!(state.actions().is_empty());
    assert_eq!(state.counts(link), Counts::default());
}

#[test]
fn the_reserve_follows_the_rate_and_falls_back_to_the_floor() {
    let mut state = pools(100);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let mut now = MS;
    // About 170 a second, at 5 ms a start: less than one while another starts.
    for _ in 0..20_000 {
        now += 6 * MS;
        assert_eq!(state.take(link, now), Take::Idle);
        settle(&mut state, now);
        state.released(link, now);
        state.tick(link, now + REFILL_PAUSE);
        settle(&mut state, now + REFILL_PAUSE);
    }
    assert_eq!(state.counts(link).idle, 2);
    for _ in 0..20_000 {
        now += MS;
        assert_eq!(state.take(link, now), Take::Idle);
        settle(&mut state, now);
        state.released(link, now);
    }
    assert_eq!(
        state.counts(link).idle,
        8,
        "1,000 a second want more than the most allowed"
    );

    let mut ticks = 0;
    while state.counts(link).idle > 2 {
        now = state.next_tick(link, now).unwrap();
        state.tick(link, now);
        assert!(
            !state
                .actions()
                .iter()
                .any(|action| matches!(action, Action::Start(_)))
        );
        ticks += 1;
        assert!(ticks < 100, "it never comes to rest");
    }
    assert_eq!(state.counts(link).idle, 2);
}

#[test]
fn a_failed_start_is_told_to_who_waits_and_delays_refills_only() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    state.actions();
    assert_eq!(state.start_failed(link, MS), None);
    assert!(state.actions().is_empty(), "refilling rests");
    let refill_at = state.next_tick(link, MS).unwrap();
    assert_eq!(refill_at, MS + REFILL_REST_MIN);

    let Take::Wait(ticket) = state.take(link, 2 * MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(state.actions(), [Action::Start(link)]);
    assert_eq!(state.start_failed(link, 3 * MS), Some(ticket));
    assert_eq!(
        state.next_tick(link, 3 * MS),
        Some(3 * MS + 2 * REFILL_REST_MIN)
    );

    state.tick(link, 3 * MS + 2 * REFILL_REST_MIN);
    assert_eq!(state.actions(), [Action::Start(link)]);
}

#[test]
fn refills_that_keep_failing_are_tried_rarely_but_for_ever() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    let mut now = MS;
    for _ in 0..100 {
        assert_eq!(state.actions(), [Action::Start(link)]);
        state.start_failed(link, now);
        let next = state.next_tick(link, now).unwrap();
        assert!(next - now <= REFILL_REST_MAX);
        now = next;
        state.tick(link, now);
    }
}

/// Starts and looks after everything until then.
fn let_pass(state: &mut PoolState, link: Member, from: Moment, until: Moment) {
    let mut now = from;
    loop {
        settle(state, now);
        match state.next_tick(link, now) {
            Some(tick) if tick < until => now = tick,
            _ => break,
        }
        state.tick(link, now);
    }
}

#[test]
fn a_process_that_spoils_itself_makes_its_link_cold_and_says_so_once() {
    let mut state = pools(10);
    let link = state.add(config(3), 1, MS);
    settle(&mut state, MS);
    state.spoiled(link, 1, MS);
    assert!(state.turn_cold(link, MS));
    assert_eq!(state.actions(), [Action::Stop(link), Action::Stop(link)]);
    assert!(!state.turn_cold(link, MS));
    let Take::Wait(_) = state.take(link, MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(state.actions(), [Action::Start(link)]);
}

#[test]
fn a_cold_link_is_tried_warm_again_later_each_time() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    let (mut now, mut rest) = (MS, COLD_MIN);
    for _ in 0..10 {
        settle(&mut state, now);
        assert_eq!(state.counts(link).idle, 1);
        state.spoiled(link, 0, now);
        assert!(state.turn_cold(link, now));
        assert_eq!(state.next_tick(link, now), Some(now + rest));
        now += rest;
        rest = COLD_MAX.min(rest * 2);
        state.tick(link, now);
    }
    assert_eq!(rest, COLD_MAX);
    // One that has waited its time shows that it can.
    let_pass(&mut state, link, now, now + IDLE_MAX);
    now += IDLE_MAX;
    assert_eq!(state.counts(link).idle, 1);
    state.spoiled(link, 0, now);
    assert!(state.turn_cold(link, now));
    assert_eq!(state.next_tick(link, now), Some(now + COLD_MIN));
}

#[test]
fn a_process_that_others_spoil_is_replaced_later_each_time() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let (mut now, mut rest) = (MS, REFILL_REST_MIN);
    for _ in 0..12 {
        state.spoiled(link, 0, now);
        assert_eq!(state.actions(), []);
        assert_eq!(state.counts(link).idle, 1, "the other one stays");
        now += rest;
        state.tick(link, now);
        settle(&mut state, now);
        assert_eq!(state.counts(link).idle, 2);
        rest = REFILL_REST_MAX.min(rest * 2);
    }
    assert_eq!(rest, REFILL_REST_MAX);
    // Whoever waits does not wait for that, and one that is taken was not spoiled.
    state.spoiled(link, 0, now);
    assert_eq!(state.take(link, now), Take::Idle);
    assert!(matches!(state.take(link, now), Take::Wait(_)));
    settle(&mut state, now);
    assert_eq!(state.counts(link).in_use, 2);
}

#[test]
fn idle_processes_are_replaced_in_time_and_one_after_the_other() {
    let mut state = pools(100);
    let links: Vec<Member> = (0..10).map(|_| state.add(config(3), 1, MS)).collect();
    settle(&mut state, MS);
    let (mut now, mut replaced, mut most_at_once) = (MS, 0, 0);
    while now < MS + IDLE_MAX {
        now += 100 * MS;
        let mut at_once = 0;
        for link in &links {
            state.tick(*link, now);
            loop {
                let counts = state.counts(*link);
                assert!(counts.idle >= 2, "one at a time: {counts:?}");
                if !state.actions().contains(&Action::Start(*link)) {
                    break;
                }
                at_once += 1;
                state.started(*link, 5 * MS, now);
            }
            assert!(state.shares[link].idle[0] > now, "none is too old");
        }
        replaced += at_once;
        most_at_once = most_at_once.max(at_once);
    }
    assert_eq!(replaced, 30, "each of them once");
    assert!(most_at_once <= 6, "{most_at_once} of 30 at a time");
}

#[test]
fn where_there_is_no_room_for_another_one_the_only_one_is_replaced_as_well() {
    let mut state = pools(1);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    state.tick(link, MS + IDLE_MAX);
    assert_eq!(
        state.actions(),
        [Action::Stop(link), Action::Start(link)],
        "in its own place"
    );
}

#[test]
fn an_old_process_is_kept_where_starts_fail() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let mut now = MS + IDLE_MAX;
    state.tick(link, now);
    for _ in 0..10 {
        assert_eq!(state.counts(link).idle, 1);
        for action in state.actions() {
            if action == Action::Start(link) {
                state.start_failed(link, now);
            }
        }
        now = state.next_tick(link, now).unwrap();
        state.tick(link, now);
    }
}

#[test]
fn a_starved_runner_has_room_for_what_it_has_and_tries_again_later_each_time() {
    let mut state = pools(100);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let mut now = MS;
    assert_eq!(state.take(link, now), Take::Idle);
    assert_eq!(state.take(link, now), Take::Idle);
    assert!(matches!(state.take(link, now), Take::Wait(_)));
    let mut wait = STARVED_REST_MIN;
    for _ in 0..10 {
        // Which were in reserve, or for who waits.
        let starts = state.actions().len();
        assert!(starts > 0);
        let told: Vec<_> = (0..starts)
            .filter_map(|_| state.start_starved(link, now))
            .collect();
        assert!(told.len() <= 1);
        assert_eq!(state.actions(), []);
        // There is no room, so it waits, or is told busy, and nothing is tried.
        let Take::Wait(_) = state.take(link, now) else {
            panic!("three may wait")
        };
        assert_eq!(state.actions(), []);
        assert_eq!(state.next_tick(link, now), Some(now + wait));
        now += wait;
        state.tick(link, now);
        wait = STARVED_REST_MAX.min(wait * 2);
    }
    assert_eq!(wait, STARVED_REST_MAX);
    assert_eq!(state.counts(link).in_use, 2);
    // What ends leaves its room, also to another link.
    for _ in 0..state.actions().len() {
        state.start_starved(link, now);
    }
    let other = state.add(config(0), 1, now);
    assert!(matches!(state.take(other, now), Take::Wait(_)));
    assert_eq!(state.actions(), []);
    state.released(link, now);
    assert_eq!(state.actions(), [Action::Start(other)]);
}

#[test]
fn a_taker_without_room_takes_the_room_of_what_is_idle_elsewhere() {
    let mut state = pools(4);
    let rich = state.add(config(4), 1, MS);
    settle(&mut state, MS);
    let poor = state.add(config(2), 1, MS);
    assert!(
        state.actions().is_empty(),
        "a reserve is no reason to stop another's"
    );
    let Take::Wait(_) = state.take(poor, MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(state.actions(), [Action::Stop(rich), Action::Start(poor)]);
}

#[test]
fn a_link_that_is_called_often_has_its_reserve_whoever_else_wants_one() {
    let mut state = pools(4);
    let idle = state.add(config(4), 1, MS);
    settle(&mut state, MS);
    let called = state.add(config(2), 1, MS);
    let mut now = MS;
    for _ in 0..10 {
        now += 100 * MS;
        state.take(called, now);
        settle(&mut state, now);
        state.released(called, now + MS);
        state.tick(called, now + 50 * MS);
        settle(&mut state, now + 50 * MS);
    }
    assert_eq!(state.counts(called).idle, 2);
    assert_eq!(state.counts(idle).idle, 2, "and no more than that");
    // Called as often, the other one keeps what it has.
    for _ in 0..20 {
        now += 100 * MS;
        assert_eq!(state.take(idle, now), Take::Idle);
        state.released(idle, now + MS);
        assert_eq!(state.take(called, now), Take::Idle);
        state.released(called, now + MS);
        for link in [idle, called] {
            state.tick(link, now + 50 * MS);
        }
        settle(&mut state, now + 50 * MS);
    }
    assert!(state.counts(idle).idle >= 2);
}

#[test]
fn a_link_that_is_called_often_keeps_the_room_that_its_calls_need() {
    let mut state = pools(8);
    let idle: Vec<_> = (0..4).map(|_| state.add(config(2), 1, MS)).collect();
    let called = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let mut now = MS;
    // Calls that overlap, so that both of its reserve are used, and replaced.
    let mut calls = |state: &mut PoolState| {
        let mut stopped = 0;
        for _ in 0..2 {
            now += MS;
            assert!(!matches!(state.take(called, now), Take::Busy));
            stopped += state
                .actions
                .iter()
                .filter(|action| matches!(action, Action::Stop(_)))
                .count();
            settle(state, now);
        }
        for _ in 0..2 {
            now += MS;
            state.released(called, now);
            settle(state, now);
        }
        (stopped, now)
    };
    for _ in 0..10 {
        calls(&mut state);
    }
    let stopped: usize = (0..20).map(|_| calls(&mut state).0).sum();
    assert_eq!(stopped, 0, "no other's process is stopped again and again");
    let (_, now) = calls(&mut state);
    let others = |state: &PoolState| -> usize {
        let idle = idle.iter().map(|link| state.counts(*link).idle);
        idle.sum()
    };
    let before = others(&state);
    // When the calls are over, the others get what is not needed any more.
    let over = idle.iter().filter_map(|link| state.next_tick(*link, now));
    let over = over.min().unwrap();
    assert!(over <= now + CALM);
    state.tick(idle[0], over);
    settle(&mut state, over);
    assert_eq!(state.totals.processes, 8);
    assert!(others(&state) > before);
}

#[test]
fn room_goes_to_who_has_waited_longest_whatever_its_link() {
    let mut state = pools(1);
    let busy = state.add(config(0), 1, MS);
    let other = state.add(config(0), 1, MS);
    let Take::Wait(_) = state.take(busy, MS) else {
        panic!("nothing is idle")
    };
    settle(&mut state, MS);
    let Take::Wait(_) = state.take(other, MS) else {
        panic!("there is room to wait")
    };
    let Take::Wait(_) = state.take(busy, MS) else {
        panic!("there is room to wait")
    };
    state.released(busy, 2 * MS);
    assert_eq!(state.actions(), [Action::Start(other)]);
}

#[test]
fn waiting_is_bounded() {
    let mut state = pools(1);
    let link = state.add(config(0), 1, MS);
    for _ in 0..4 {
        assert!(matches!(state.take(link, MS), Take::Wait(_)));
    }
    assert_eq!(state.take(link, MS), Take::Busy);
    assert_eq!(
        state.counts(link).waiting,
        4,
        "one has a start under way, three have not"
    );
}

#[test]
fn draining_gives_everything_back_and_takes_nothing_on() {
    let mut state = pools(3);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(link, MS), Take::Idle);
    state.tick(link, MS + REFILL_PAUSE);
    state.drain(link, MS);
    assert!(state.actions().contains(&Action::Stop(link)));
    assert_eq!(state.take(link, MS), Take::Busy);
    assert_eq!(state.started(link, MS, MS), Started::Surplus);
    state.released(link, MS);
    assert!(state.shares.is_empty());
    assert_eq!(state.totals.processes, 0);
}

#[test]
fn where_nobody_may_wait_only_those_do_for_whom_a_start_is_under_way() {
    let mut state = PoolState::new(Limits {
        processes_max: 2,
        waiting_max: 0,
        refilling_max: 2,
    });
    let link = state.add(config(0), 1, MS);
    assert!(matches!(state.take(link, MS), Take::Wait(_)));
    assert!(matches!(state.take(link, MS), Take::Wait(_)));
    assert_eq!(state.take(link, MS), Take::Busy);
    settle(&mut state, MS);
    assert_eq!(state.take(link, MS), Take::Busy);
    state.released(link, MS);
    assert!(matches!(state.take(link, MS), Take::Wait(_)));
}

#[test]
fn room_to_wait_goes_to_the_link_with_fewer_who_do() {
    let mut state = pools(1);
    let crowd = state.add(config(0), 1, MS);
    let other = state.add(config(0), 1, MS);
    let tickets: Vec<_> = (0..4).map(|_| state.take(crowd, MS)).collect();
    let Take::Wait(last) = tickets[3] else {
        panic!("there is room to wait")
    };
    state.actions();
    assert!(matches!(state.take(other, MS), Take::Wait(_)));
    assert_eq!(state.actions(), [Action::SendAway(crowd, last)]);
    assert_eq!(state.take(crowd, MS), Take::Busy);
    // Not without end: one more, and it would have as many.
    assert_eq!(state.take(other, MS), Take::Busy);
    assert!(state.actions().is_empty());
}

#[test]
fn a_link_that_was_told_busy_and_has_nothing_gets_the_next_room() {
    let mut state = PoolState::new(Limits {
        processes_max: 2,
        waiting_max: 0,
        refilling_max: 2,
    });
    let hungry = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(hungry, MS), Take::Idle);
    assert_eq!(state.take(hungry, MS), Take::Idle);
    let poor = state.add(config(2), 1, MS);
    for _ in 0..2 {
        let now = 2 * MS;
        assert_eq!(state.take(poor, now), Take::Busy);
        assert_eq!(state.take(hungry, now), Take::Busy);
        state.released(hungry, now);
        assert_eq!(state.actions(), [Action::Start(poor)]);
        assert_eq!(state.started(poor, MS, now), Started::Idle);
        // It is left to it.
        assert_eq!(state.take(hungry, now), Take::Busy);
        assert_eq!(state.take(poor, now), Take::Idle);
        state.released(poor, now);
        // But not more than that.
        assert_eq!(state.actions(), [Action::Start(hungry)]);
        assert_eq!(state.started(hungry, MS, now), Started::Idle);
        assert_eq!(state.take(hungry, now), Take::Idle);
    }
    // And not for ever, if it does not come back.
    let now = 3 * MS;
    assert_eq!(state.take(poor, now), Take::Busy);
    state.released(hungry, now);
    settle(&mut state, now);
    assert_eq!(state.take(hungry, now), Take::Busy);
    let mut later = now;
    for _ in ["its pause", "what it was told to come back for"] {
        later = state.next_tick(poor, later).unwrap();
        state.tick(poor, later);
    }
    assert!(matches!(state.take(hungry, later), Take::Wait(_)));
    assert_eq!(state.actions(), [Action::Stop(poor), Action::Start(hungry)]);
}

#[test]
fn of_more_links_than_there_is_room_for_those_in_use_are_warm() {
    let mut state = pools(16);
    let links: Vec<Member> = (0..100).map(|_| state.add(config(2), 1, MS)).collect();
    settle(&mut state, MS);
    let mut now = MS;
    let mut misses = 0;
    for round in 0..200 {
        for link in [&links[7], &links[50], &links[99]] {
            now += 10 * MS;
            for link in &links {
                state.tick(*link, now);
            }
            settle(&mut state, now);
            match state.take(*link, now) {
                Take::Idle => {}
                Take::Wait(_) => misses += 1,
                Take::Busy => panic!("there is room"),
            }
            settle(&mut state, now);
            state.released(*link, now);
            settle(&mut state, now);
        }
        // Now and then somebody else is, and is served too.
        let other = links[round % 100];
        assert_ne!(state.take(other, now), Take::Busy);
        settle(&mut state, now);
        state.released(other, now);
        settle(&mut state, now);
    }
    assert!(misses <= 3, "{misses} calls of links in use had to wait");
}

#[test]
fn refills_begin_a_few_at_a_time_and_calls_do_not_wait_for_them() {
    let mut state = PoolState::new(Limits {
        processes_max: 100,
        waiting_max: 0,
        refilling_max: 3,
    });
    let links: Vec<Member> = (0..10).map(|_| state.add(config(2), 1, MS)).collect();
    assert_eq!(state.actions().len(), 3);
    let last = links[9];
    assert!(matches!(state.take(last, MS), Take::Wait(_)));
    assert_eq!(state.actions(), [Action::Start(last)]);
    assert_eq!(state.totals.starting, 4);
    state.started(last, MS, MS);
    assert!(state.actions().is_empty(), "there are still three");
    state.started(links[0], MS, MS);
    assert_eq!(state.actions().len(), 1);
}

#[test]
fn a_pipeline_gets_all_of_its_room_at_once_or_none_of_it() {
    let mut state = pools(4);
    let short = state.add(config(2), 1, MS);
    let long = state.add(config(0), 3, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(short, MS), Take::Idle);
    settle(&mut state, MS);
    // Two are free, and so only one is given up.
    assert!(matches!(state.take(long, MS), Take::Wait(_)));
    assert_eq!(state.actions(), [Action::Stop(short), Action::Start(long)]);
    state.started(long, MS, MS);
    assert_eq!(state.totals.processes, 4);
    // There is no room for two of them, whatever is given up.
    state.released(short, MS);
    settle(&mut state, MS);
    assert_eq!(state.take_beside(long, 2 * MS), Take::Busy);
    assert!(state.actions().is_empty());
    // Nor ever for more than there may be.
    let longer = state.add(config(1), 5, MS);
    assert_eq!(state.take(longer, 2 * MS), Take::Busy);
    assert!(state.actions().is_empty());
}

#[test]
fn a_long_pipeline_is_not_overtaken_by_short_ones_for_ever() {
    let mut state = pools(4);
    let short = state.add(config(2), 1, MS);
    let long = state.add(config(0), 3, MS);
    settle(&mut state, MS);
    for _ in 0..4 {
        assert_ne!(state.take(short, MS), Take::Busy);
        settle(&mut state, MS);
    }
    assert!(matches!(state.take(long, MS), Take::Wait(_)));
    let mut now = MS;
    for ended in 1..=3 {
        // Others come all the time, and wait behind it.
        now += MS;
        assert!(matches!(state.take(short, now), Take::Wait(_)));
        assert_eq!(state.take_beside(short, now), Take::Busy);
        state.released(short, now);
        let started = state.actions().contains(&Action::Start(long));
        assert_eq!(started, ended == 3);
        if !started {
            // Two wait, of whom one goes again.
            let Some(ticket) = state.shares[&short].waiting.back().copied() else {
                panic!("somebody waits")
            };
            state.gave_up(short, ticket, now);
        }
    }
}

#[test]
fn a_pool_whose_floor_falls_gives_up_what_it_had_a_little_later() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    state.set_floor(link, 0, MS);
    assert_eq!(state.take(link, MS), Take::Idle, "it is still there");
    state.released(link, MS);
    assert!(state.actions().is_empty());
    let later = state.next_tick(link, MS).unwrap();
    assert_eq!(later, MS + SURPLUS_LOOK);
    state.tick(link, later);
    assert_eq!(state.actions(), [Action::Stop(link)]);
    state.set_floor(link, 1, later);
    assert_eq!(state.actions(), [Action::Start(link)]);
}

#[test]
fn who_was_told_busy_has_one_to_come_back_for_though_none_is_kept_at_rest() {
    let mut state = PoolState::new(Limits {
        processes_max: 1,
        waiting_max: 0,
        refilling_max: 2,
    });
    let (hungry, poor) = (state.add(config(1), 1, MS), state.add(config(0), 1, MS));
    settle(&mut state, MS);
    assert_eq!(state.take(hungry, MS), Take::Idle);
    assert_eq!(state.take(poor, MS), Take::Busy);
    assert_eq!(state.take(hungry, MS), Take::Busy);
    state.released(hungry, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(hungry, MS), Take::Busy);
    assert_eq!(state.take(poor, MS), Take::Idle);
}

/// What may happen, with numbers that choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    Take(usize),
    TakeBeside(usize),
    StartSucceeds(usize),
    StartFails(usize),
    StartStarves(usize),
    Spoil(usize),
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
        2 => which.prop_map(Event::GiveUp),
        6 => which.prop_map(Event::Release),
        4 => (0..3_000_u64).prop_map(Event::Wait),
        1 => which.prop_map(Event::SetFloor),
        1 => (0..40_usize).prop_map(Event::Drain),
    ]
}

/// The pools, and what a runner that does as it is told would have.
struct Model {
    state: PoolState,
    limits: Limits,
    now: Moment,
    members: Vec<Member>,
    starting: Vec<Member>,
    idle: Vec<Member>,
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
                        Started::Idle => self.idle.push(member),
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
                if let Some(member) = pick(&mut self.idle, which) {
                    self.state.spoiled(member, which % 3, self.now);
                    if which % 2 == 0 {
                        self.state.turn_cold(member, self.now);
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
                Action::Stop(member) => self.remove_idle(member),
                Action::SendAway(_, ticket) => self.answer(ticket),
            }
        }
    }

    fn take(&mut self, which: usize, take: fn(&mut PoolState, Member, Moment) -> Take) {
        let member = self.members[which % self.members.len()];
        match take(&mut self.state, member, self.now) {
            Take::Idle => {
                self.remove_idle(member);
                self.in_use.push(member);
            }
            Take::Wait(ticket) => self.waiting.push((member, ticket)),
            Take::Busy => {}
        }
    }

    fn remove_idle(&mut self, member: Member) {
        let position = self.idle.iter().position(|idle| *idle == member);
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
        let processes = [&self.starting, &self.idle, &self.in_use].map(|of| self.weight(of));
        let processes = processes.iter().sum::<usize>();
        assert_eq!(self.state.totals.processes, processes);
        assert_eq!(self.state.totals.starting, self.weight(&self.starting));
        assert!(processes <= self.limits.processes_max, "over the cap");
        let mut uncovered = 0;
        for member in &self.members {
            let count = |of: &[Member]| of.iter().filter(|of| *of == member).count();
            let expected = Counts {
                idle: count(&self.idle),
                starting: count(&self.starting),
                in_use: count(&self.in_use),
                waiting: self.waiting.iter().filter(|(of, _)| of == member).count(),
            };
            let counts = self.state.counts(*member);
            assert_eq!(counts, expected);
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
