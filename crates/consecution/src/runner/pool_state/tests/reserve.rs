//! What is kept in reserve, without calls and with them.

use super::*;

#[test]
fn a_pool_starts_with_its_floor_and_refills_soon_after_a_take() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    assert_eq!(state.actions(), [Action::Start(link), Action::Start(link)]);
    state.started(link, MS, MS);
    state.started(link, MS, MS);
    let now = 2 * MS;
    assert!(state.take(link, now).is_idle());
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
    assert!(state.take(link, MS).is_idle());
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
    assert!(state.take(link, MS).is_idle());
    assert!(state.take(link, 2 * MS).is_idle());
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
        assert!(state.take(link, now).is_idle());
        settle(&mut state, now);
        state.released(link, now);
        state.tick(link, now + REFILL_PAUSE);
        settle(&mut state, now + REFILL_PAUSE);
    }
    assert_eq!(state.counts(link).idle, 2);
    for _ in 0..20_000 {
        now += MS;
        assert!(state.take(link, now).is_idle());
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

#[test]
fn draining_gives_everything_back_and_takes_nothing_on() {
    let mut state = pools(3);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    assert!(state.take(link, MS).is_idle());
    state.tick(link, MS + REFILL_PAUSE);
    state.drain(link, MS);
    assert!(done(&mut state).contains(&Done::Stop(link)));
    assert_eq!(state.take(link, MS), Take::Busy);
    assert_eq!(state.started(link, MS, MS), Started::Surplus);
    state.released(link, MS);
    assert!(state.shares.is_empty());
    assert_eq!(state.totals.processes, 0);
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
fn a_pool_whose_floor_falls_gives_up_what_it_had_a_little_later() {
    let mut state = pools(10);
    let link = state.add(config(2), 1, MS);
    settle(&mut state, MS);
    state.set_floor(link, 0, MS);
    assert!(state.take(link, MS).is_idle(), "it is still there");
    state.released(link, MS);
    assert!(done(&mut state).is_empty());
    let later = state.next_tick(link, MS).unwrap();
    assert_eq!(later, MS + SURPLUS_LOOK);
    state.tick(link, later);
    assert_eq!(done(&mut state), [Done::Stop(link)]);
    state.set_floor(link, 1, later);
    assert_eq!(done(&mut state), [Done::Start(link)]);
}
