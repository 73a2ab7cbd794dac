//! What is promised of sequences, whatever is asked for.

use std::collections::{BTreeMap, BTreeSet};

use chain::Link;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(number: usize) -> LinkId {
    let link = Link {
        image: "fake".to_owned(),
        arguments: vec![number.to_string()],
        ..Link::default()
    };
    link.id()
}

fn sequence(numbers: &[usize]) -> Sequence {
    Sequence::new(numbers.iter().map(|at| Step::new(id(*at), &[0])).collect())
}

/// Those links are served.
fn serving(count: usize) -> Sequences {
    let mut sequences = Sequences::default();
    for number in 0..count {
        sequences.enter(id(number));
    }
    sequences
}

#[test]
fn rows_of_links_are_cut_where_they_cannot_be_one_pipeline() {
    let (none, host) = (Network::None, Network::Host);
    let lengths = |networks: &[Network], links_max| -> Vec<usize> {
        let borders: Vec<_> = networks.iter().map(|network| border(*network)).collect();
        let pieces = cut(&borders, links_max);
        let links: Vec<_> = pieces.iter().cloned().flatten().collect();
        assert!(links.iter().copied().eq(0..networks.len()), "{pieces:?}");
        pieces.iter().map(ExactSizeIterator::len).collect()
    };
    assert_eq!(lengths(&[none; 5], 16), [5]);
    assert_eq!(lengths(&[none; 5], 2), [2, 2, 1]);
    assert_eq!(lengths(&[none; 3], 1), [1, 1, 1]);
    assert_eq!(lengths(&[none, none, host, host, none], 16), [2, 2, 1]);
    assert_eq!(lengths(&[], 16), [0; 0]);
}

fn border(network: Network) -> Border {
    Border {
        network,
        stores_input: false,
        leaves_file: false,
        has_own_reserve: false,
    }
}

#[test]
fn rows_are_cut_at_files_and_around_reserves() {
    let plain = border(Network::None);
    let input = Border {
        stores_input: true,
        ..plain
    };
    let output = Border {
        leaves_file: true,
        ..plain
    };
    let both = Border {
        stores_input: true,
        ..output
    };
    let reserve = Border {
        has_own_reserve: true,
        ..plain
    };
    for (row, wanted) in [
        (
            &[plain, plain, reserve, plain, plain][..],
            &[0..2, 2..3, 3..5][..],
        ),
        (&[reserve, reserve], &[0..1, 1..2]),
        (&[plain, input, plain], &[0..1, 1..3]),
        (&[plain, output, plain], &[0..2, 2..3]),
        (&[input, plain, output, plain], &[0..3, 3..4]),
        (&[both, both, plain], &[0..1, 1..2, 2..3]),
        (&[output, input], &[0..1, 1..2]),
    ] {
        assert_eq!(cut(row, 16), wanted, "{row:?}");
    }
}

#[test]
fn the_same_links_with_other_codes_are_another_sequence() {
    let with = |codes: &[u8]| Sequence::new(vec![Step::new(id(1), &[]), Step::new(id(2), codes)]);
    assert_eq!(with(&[1, 0, 1]), with(&[0, 1]));
    assert_ne!(with(&[0]), with(&[0, 1]));
    // What is before the first one is nothing to it.
    let alone = Sequence::new(vec![Step::new(id(1), &[3])]);
    assert_eq!(alone, Sequence::of_one(id(1)));
}

#[test]
fn a_sequence_is_warm_when_it_is_asked_for_again_and_its_links_are_not_by_themselves() {
    let mut sequences = serving(3);
    let (chain, alone) = (sequence(&[0, 1]), |at| sequence(&[at]));
    assert!((0..3).all(|at| sequences.is_warm(&alone(at))));
    assert_eq!(sequences.asked(&chain, SECOND), []);
    assert!(!sequences.is_warm(&chain));
    let change = |sequence: &Sequence, is_warm| Change {
        sequence: sequence.clone(),
        is_warm,
    };
    assert_eq!(
        sequences.asked(&chain, 2 * SECOND),
        [
            change(&chain, true),
            change(&alone(0), false),
            change(&alone(1), false)
        ]
    );
    assert!(sequences.is_warm(&alone(2)));
    assert_eq!(sequences.asked(&chain, 3 * SECOND), []);
    // Who is called by itself as well is warm by itself as well.
    sequences.asked(&alone(0), 3 * SECOND);
    assert_eq!(
        sequences.asked(&alone(0), 4 * SECOND),
        [change(&alone(0), true)]
    );
    // And is not any more when it is not.
    assert_eq!(sequences.sweep(3 * SECOND + LATELY), []);
    assert_eq!(
        sequences.sweep(4 * SECOND + LATELY),
        [
            change(&alone(0), true),
            change(&alone(1), true),
            change(&chain, false)
        ]
    );
}

#[test]
fn asked_for_rarely_it_is_not_warm() {
    let mut sequences = serving(2);
    let chain = sequence(&[0, 1]);
    for time in 1..5 {
        sequences.asked(&chain, (LATELY + SECOND) * time);
        assert!(!sequences.is_warm(&chain));
    }
}

#[test]
fn a_link_that_goes_breaks_its_sequences_up_and_they_are_back_when_it_is() {
    let mut sequences = serving(3);
    let (chain, alone) = (sequence(&[0, 1]), |at| sequence(&[at]));
    for _ in 0..2 {
        sequences.asked(&chain, SECOND);
    }
    let changes = sequences.leave(id(1));
    assert!(!sequences.is_warm(&chain) && sequences.is_warm(&alone(0)));
    assert!(!sequences.is_warm(&alone(1)));
    assert_eq!(changes.len(), 2, "{changes:?}");
    sequences.enter(id(1));
    assert!(sequences.is_warm(&chain) && !sequences.is_warm(&alone(0)));
    assert!(!sequences.is_warm(&alone(1)));
}

#[test]
fn made_up_sequences_do_not_take_the_place_of_one_that_is_in_use() {
    let mut sequences = serving(6);
    let chain = sequence(&[0, 1, 2]);
    let mut now = SECOND;
    for _ in 0..2 {
        sequences.asked(&chain, now);
    }
    // More than there are links, each of them again and again, for hours.
    for round in 0..200 {
        now += SETTLED / 2;
        for numbers in 0..40 {
            let made_up = [numbers % 6, round % 6, numbers % 5, numbers % 4];
            for _ in 0..2 {
                sequences.asked(&sequence(&made_up), now);
            }
        }
        sequences.sweep(now);
        assert!(sequences.is_warm(&chain));
        assert!(sequences.kept.len() <= 6);
        sequences.asked(&chain, now);
    }
}

#[test]
fn a_link_is_warm_by_itself_however_many_sequences_it_is_in() {
    let mut sequences = serving(2);
    let all = [&[0, 1][..], &[1, 0], &[0], &[1]].map(sequence);
    for _ in 0..2 {
        for asked in &all {
            sequences.asked(asked, SECOND);
        }
    }
    assert!(all.iter().all(|asked| sequences.is_warm(asked)));
}

#[test]
fn one_off_sequences_are_remembered_within_a_bound_and_change_nothing() {
    let mut sequences = serving(2);
    for number in 0..10 * u32::try_from(ONCE_SEQUENCES_MAX).unwrap() {
        let codes = number.to_le_bytes();
        let once = Sequence::new(vec![
            Step::new(id(0), &[]),
            Step::new(id(1), &codes[..2]),
            Step::new(id(0), &codes[2..]),
            Step::new(id(1), &[u8::try_from(number % 7).unwrap() + 200]),
        ]);
        if !sequences.once.contains_key(&once) {
            assert_eq!(sequences.asked(&once, SECOND), []);
        }
        assert!(sequences.once.len() <= ONCE_SEQUENCES_MAX);
    }
    assert!(sequences.kept.is_empty());
}

/// What may happen.
#[derive(Debug, Clone)]
enum Event {
    Enter(usize),
    Leave(usize),
    Ask(Vec<usize>),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let link = 0..5_usize;
    prop_oneof![
        2 => link.clone().prop_map(Event::Enter),
        1 => link.clone().prop_map(Event::Leave),
        8 => prop::collection::vec(link, 1..4).prop_map(Event::Ask),
        2 => (0..200_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_link_is_warm_in_some_way_and_who_does_as_told_knows_how(
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut sequences = Sequences::default();
        let mut now = SECOND;
        let mut served = BTreeSet::new();
        let mut told: BTreeMap<Sequence, bool> = BTreeMap::new();
        let mut asked: BTreeMap<Sequence, Vec<Moment>> = BTreeMap::new();
        for event in events {
            let changes = match event {
                Event::Enter(link) if served.insert(link) => sequences.enter(id(link)),
                Event::Leave(link) if served.remove(&link) => {
                    let changes = sequences.leave(id(link));
                    told.remove(&sequence(&[link]));
                    changes
                }
                Event::Ask(links) if links.iter().all(|link| served.contains(link)) => {
                    let sequence = sequence(&links);
                    asked.entry(sequence.clone()).or_default().push(now);
                    sequences.asked(&sequence, now)
                }
                Event::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    sequences.sweep(now)
                }
                _ => Vec::new(),
            };
            for Change { sequence, is_warm } in changes {
                told.insert(sequence, is_warm);
            }
            for (sequence, is_warm) in &told {
                prop_assert_eq!(sequences.is_warm(sequence), *is_warm);
            }
            let warm: Vec<_> = told.iter().filter(|told| *told.1).map(|told| told.0).collect();
            for link in &served {
                prop_assert!(warm.iter().any(|warm| warm.ids().any(|named| named == id(*link))));
            }
            for sequence in warm {
                prop_assert!(sequence.ids().all(|named| served.iter().any(|at| id(*at) == named)));
                if sequence.is_of_several() {
                    let asked = &asked[sequence];
                    prop_assert!(asked.windows(2).any(|pair| pair[1] - pair[0] <= LATELY));
                    prop_assert!(asked.last().is_some_and(|last| now - *last <= LATELY));
                }
            }
            prop_assert!(sequences.joined <= 5);
            let kept = sequences.kept.keys().filter(|kept| kept.is_of_several());
            prop_assert_eq!(kept.count(), sequences.joined);
        }
        for link in served {
            sequences.leave(id(link));
        }
        sequences.sweep(now + 2 * LATELY);
        prop_assert!(sequences.kept.is_empty() && sequences.once.is_empty());
        prop_assert!(sequences.links.is_empty());
    }
}
