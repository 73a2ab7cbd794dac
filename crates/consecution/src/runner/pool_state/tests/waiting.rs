//! Who waits for a process, and for how long.

use super::*;

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
    assert!(state.take(hungry, MS).is_idle());
    assert!(state.take(hungry, MS).is_idle());
    let poor = state.add(config(2), 1, MS);
    for _ in 0..2 {
        let now = 2 * MS;
        assert_eq!(state.take(poor, now), Take::Busy);
        assert_eq!(state.take(hungry, now), Take::Busy);
        state.released(hungry, now);
        assert_eq!(done(&mut state), [Done::Start(poor)]);
        assert!(matches!(state.started(poor, MS, now), Started::Idle(_)));
        // It is left to it.
        assert_eq!(state.take(hungry, now), Take::Busy);
        assert!(state.take(poor, now).is_idle());
        state.released(poor, now);
        // But not more than that.
        assert_eq!(done(&mut state), [Done::Start(hungry)]);
        assert!(matches!(state.started(hungry, MS, now), Started::Idle(_)));
        assert!(state.take(hungry, now).is_idle());
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
    assert_eq!(done(&mut state), [Done::Stop(poor), Done::Start(hungry)]);
}

#[test]
fn a_pipeline_gets_all_of_its_room_at_once_or_none_of_it() {
    let mut state = pools(4);
    let short = state.add(config(2), 1, MS);
    let long = state.add(config(0), 3, MS);
    settle(&mut state, MS);
    assert!(state.take(short, MS).is_idle());
    settle(&mut state, MS);
    // Two are free, and so only one is given up.
    assert!(matches!(state.take(long, MS), Take::Wait(_)));
    assert_eq!(done(&mut state), [Done::Stop(short), Done::Start(long)]);
    state.started(long, MS, MS);
    assert_eq!(state.totals.processes, 4);
    // There is no room for two of them, whatever is given up.
    state.released(short, MS);
    settle(&mut state, MS);
    assert_eq!(state.take_beside(long, 2 * MS), Take::Busy);
    assert!(done(&mut state).is_empty());
    // Nor ever for more than there may be.
    let longer = state.add(config(1), 5, MS);
    assert_eq!(state.take(longer, 2 * MS), Take::Busy);
    assert!(done(&mut state).is_empty());
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
fn who_was_told_busy_has_one_to_come_back_for_though_none_is_kept_at_rest() {
    let mut state = PoolState::new(Limits {
        processes_max: 1,
        waiting_max: 0,
        refilling_max: 2,
    });
    let (hungry, poor) = (state.add(config(1), 1, MS), state.add(config(0), 1, MS));
    settle(&mut state, MS);
    assert!(state.take(hungry, MS).is_idle());
    assert_eq!(state.take(poor, MS), Take::Busy);
    assert_eq!(state.take(hungry, MS), Take::Busy);
    state.released(hungry, MS);
    settle(&mut state, MS);
    assert_eq!(state.take(hungry, MS), Take::Busy);
    assert!(state.take(poor, MS).is_idle());
}
