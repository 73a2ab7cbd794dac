//! Who gets the room that all pools share.

use super::*;

#[test]
fn a_starved_runner_has_room_for_what_it_has_and_tries_again_later_each_time() {
    let mut state = pools(100);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    let mut now = MS;
    assert!(state.take(link, now).is_idle());
    assert!(state.take(link, now).is_idle());
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
        done(&mut state).is_empty(),
        "a reserve is no reason to stop another's"
    );
    let Take::Wait(_) = state.take(poor, MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(done(&mut state), [Done::Stop(rich), Done::Start(poor)]);
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
        assert!(state.take(idle, now).is_idle());
        state.released(idle, now + MS);
        assert!(state.take(called, now).is_idle());
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
                .filter(|action| matches!(action, Action::Stop(..)))
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
                Take::Idle(..) => {}
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
