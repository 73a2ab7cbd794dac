//! What becomes of processes that are idle for long, or that are spoiled.

use super::*;

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
    spoil(&mut state, link, 1, MS);
    assert!(state.turn_cold(link, MS));
    assert_eq!(done(&mut state), [Done::Stop(link), Done::Stop(link)]);
    assert!(!state.turn_cold(link, MS));
    let Take::Wait(_) = state.take(link, MS) else {
        panic!("nothing is idle")
    };
    assert_eq!(done(&mut state), [Done::Start(link)]);
}

#[test]
fn a_cold_link_is_tried_warm_again_later_each_time() {
    let mut state = pools(10);
    let link = state.add(config(1), 1, MS);
    let (mut now, mut rest) = (MS, COLD_MIN);
    for _ in 0..10 {
        settle(&mut state, now);
        assert_eq!(state.counts(link).idle, 1);
        spoil(&mut state, link, 0, now);
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
    spoil(&mut state, link, 0, now);
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
        spoil(&mut state, link, 0, now);
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
    spoil(&mut state, link, 0, now);
    assert!(state.take(link, now).is_idle());
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
            assert!(
                state.shares[link].idle[0].replace_at > now,
                "none is too old"
            );
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
        done(&mut state),
        [Done::Stop(link), Done::Start(link)],
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
