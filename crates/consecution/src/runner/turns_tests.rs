use std::future::Future;
use std::pin::pin;

use futures_util::FutureExt as _;
use image::NoProgress;

use super::*;

const TURN: Duration = Duration::from_secs(60);

fn turns() -> Turns {
    Turns::new(Bounds {
        all_max: 3,
        of_a_registry_max: 2,
        turn: TURN,
        unpacking: 10 * TURN,
    })
}

/// What a future gives without waiting.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

/// That it is resolved within two turns, of which no more than one passes.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(2 * TURN, future).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_in_all_and_so_many_for_one_registry() {
    let turns = turns();
    let one = at_once(turns.take("a", 0)).unwrap();
    let _two = at_once(turns.take("a", 0)).unwrap();
    assert!(at_once(turns.take("a", 0)).is_none());
    let _three = at_once(turns.take("b", 0)).unwrap();
    assert!(at_once(turns.take("c", 0)).is_none());
    drop(one);
    let _four = at_once(turns.take("c", 0)).unwrap();
    assert!(at_once(turns.take("a", 0)).is_none());
    // Those who do not wait any more are in nobody's way.
    assert_eq!(turns.state.lock().waiting.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_lasts_as_long_as_nobody_waits() {
    let turns = turns();
    let one = at_once(turns.take("a", 0)).unwrap();
    let _two = at_once(turns.take("a", 0)).unwrap();
    tokio::time::advance(100 * TURN).await;
    // Room for others is no reason to leave it.
    let _three = at_once(turns.take("b", 0)).unwrap();
    assert!(at_once(one.called_back()).is_none());
}

#[tokio::test(start_paused = true)]
async fn who_has_had_it_longest_is_called_back_where_another_waits() {
    let turns = turns();
    let one = at_once(turns.take("a", 0)).unwrap();
    tokio::time::advance(TURN / 2).await;
    let two = at_once(turns.take("b", 0)).unwrap();
    let three = at_once(turns.take("c", 0)).unwrap();
    let mut waits = pin!(turns.take("d", 0));
    assert!(at_once(&mut waits).is_none());
    assert!(at_once(one.called_back()).is_none());
    tokio::select! {
        biased;
        () = soon(one.called_back()) => {}
        _ = &mut waits => panic!("there was no room"),
    }
    assert!(at_once(two.called_back()).is_none());
    assert!(at_once(three.called_back()).is_none());
    drop(one);
    soon(waits).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_registry_calls_back_its_own() {
    let turns = turns();
    let other = at_once(turns.take("b", 0)).unwrap();
    tokio::time::advance(TURN).await;
    let one = at_once(turns.take("a", 0)).unwrap();
    let two = at_once(turns.take("a", 0)).unwrap();
    let mut waits = pin!(turns.take("a", 0));
    tokio::select! {
        biased;
        () = soon(one.called_back()) => {}
        _ = &mut waits => panic!("there was no room"),
    }
    assert!(at_once(two.called_back()).is_none());
    assert!(at_once(other.called_back()).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_downloaded_is_not_called_back_as_soon() {
    let turns = turns();
    let one = at_once(turns.take("a", 0)).unwrap();
    let two = at_once(turns.take("a", 0)).unwrap();
    let (layer, other) = (Digest::of(b"1"), Digest::of(b"2"));
    let watched = Watched::new(&one, &NoProgress);
    watched.layer(&layer, 10);
    watched.layer(&other, 5);
    watched.advanced(&other, 5);
    let downloaded = || turns.state.lock().running[0].downloaded;
    assert!(!downloaded());
    watched.advanced(&layer, 10);
    assert!(downloaded());
    tokio::time::advance(TURN).await;
    let mut waits = pin!(turns.take("a", 0));
    assert!(at_once(&mut waits).is_none());
    assert!(at_once(one.called_back()).is_none());
    assert!(at_once(two.called_back()).is_some());
    // What turned out to be damaged is downloaded again.
    watched.advanced(&layer, 0);
    assert!(!downloaded());
}

#[tokio::test(start_paused = true)]
async fn what_unpacks_for_very_long_is_called_back_too() {
    let turns = turns();
    let unpacking = |turn: &Turn<'_>| Watched::new(turn, &NoProgress).layer(&Digest::of(b"1"), 0);
    let often = at_once(turns.take("a", 2)).unwrap();
    unpacking(&often);
    let one = at_once(turns.take("a", 0)).unwrap();
    unpacking(&one);
    let mut waits = pin!(turns.take("a", 0));
    tokio::time::advance(9 * TURN).await;
    assert!(at_once(&mut waits).is_none());
    assert!(at_once(one.called_back()).is_none());
    tokio::select! {
        biased;
        () = soon(one.called_back()) => {}
        _ = &mut waits => panic!("there was no room"),
    }
    // Whoever was called back before has longer.
    assert!(at_once(often.called_back()).is_none());
    drop(one);
    soon(waits).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_called_back_less_often_comes_first() {
    let turns = turns();
    let one = at_once(turns.take("a", 0)).unwrap();
    let _two = at_once(turns.take("a", 0)).unwrap();
    let mut often = pin!(turns.take("a", 2));
    let mut once = pin!(turns.take("a", 1));
    let mut never = pin!(turns.take("a", 0));
    for waits in [&mut often, &mut once, &mut never] {
        assert!(at_once(waits).is_none());
    }
    drop(one);
    assert!(at_once(&mut often).is_none() && at_once(&mut once).is_none());
    let turn = at_once(&mut never).unwrap();
    drop(turn);
    assert!(at_once(&mut often).is_none());
    let turn = at_once(&mut once).unwrap();
    drop(turn);
    at_once(&mut often).unwrap();
}

/// Images of registries that take for ever, each from another one, and more than
/// there are turns: they take turns, and whoever is quick gets one soon.
#[tokio::test(start_paused = true)]
async fn however_many_never_end_whoever_does_gets_a_turn() {
    let turns = turns();
    let drip = async |registry: usize| {
        let mut called_back = 0;
        loop {
            let turn = turns.take(&registry.to_string(), called_back).await;
            turn.called_back().await;
            called_back += 1;
        }
    };
    let drips = futures_util::future::join_all((0..20).map(drip));
    let quick = async {
        for _ in 0..10 {
            tokio::time::sleep(7 * TURN).await;
            let began = Instant::now();
            drop(turns.take("quick", 0).await);
            assert!(began.elapsed() <= 2 * TURN, "{:?}", began.elapsed());
        }
    };
    tokio::select! {
        () = quick => {}
        _ = drips => panic!("they never end"),
    }
}
