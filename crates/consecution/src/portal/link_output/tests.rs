use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use futures_util::{FutureExt, stream};
use proptest::prelude::*;

use super::super::kept::KEPT_BYTES_MAX;
use super::*;
use crate::transport::conformance::fake;

fn chunks(chunks: &[&'static str]) -> Body {
    let chunks: Vec<_> = chunks.iter().map(|chunk| Ok((*chunk).into())).collect();
    Body::new(stream::iter(chunks))
}

fn next(body: &mut Body) -> Option<Result<Bytes, Cut>> {
    body.next().now_or_never().expect("it is there")
}

fn read(body: &mut Body) -> Bytes {
    next(body).expect("no end").expect("no cut")
}

/// Nothing more comes for now.
fn waits(body: &mut Body) -> bool {
    body.next().now_or_never().is_none()
}

fn of_caller(body: Body, is_for_reader: bool) -> LinkOutput {
    LinkOutput::of_caller(body, is_for_reader, &Arc::default())
}

/// What a link writes that may be called again, as it is written first.
fn of_link(body: Body) -> (LinkOutput, LinkOutput) {
    let input = of_caller(Body::empty(), true);
    let output = LinkOutput::new(false, &Arc::default());
    output.write(body, Some(&input));
    (input, output)
}

#[test]
fn a_reader_gets_all_that_those_before_it_had_and_then_the_rest() {
    let input = of_caller(chunks(&["one", "two", "three"]), true);
    let mut first = input.reader();
    assert_eq!([read(&mut first), read(&mut first)], ["one", "two"]);
    let mut second = input.reader();
    assert_eq!(read(&mut second), "onetwo");
    assert!(next(&mut first).unwrap().is_err());
    let mut third = input.reader();
    drop((first, second));
    assert_eq!([read(&mut third), read(&mut third)], ["onetwo", "three"]);
    assert!(next(&mut third).is_none());
    let all = input.reader().collect().now_or_never();
    assert_eq!(all.unwrap().unwrap(), "onetwothree");
}

#[test]
fn a_reader_that_is_no_longer_wanted_is_woken() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let input = of_caller(fake::watched().0, true);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Arc::clone(&woken).into();
    let mut first = input.reader();
    let mut context = Context::from_waker(&waker);
    assert!(first.poll_next_unpin(&mut context).is_pending());
    let _second = input.reader();
    assert!(woken.0.load(Ordering::SeqCst));
}

#[test]
fn what_is_kept_outlives_its_need_only_until_it_is_given() {
    let input = of_caller(chunks(&["one", "two", "three"]), true);
    let mut first = input.reader();
    assert_eq!([read(&mut first), read(&mut first)], ["one", "two"]);
    let mut second = input.reader();
    input.settle_reader();
    assert!(!input.can_be_read_again());
    assert_eq!([read(&mut second), read(&mut second)], ["onetwo", "three"]);
    assert_eq!(input.0.lock().kept.memory_bytes(), 0);
    assert!(next(&mut second).is_none());
}

#[test]
fn what_is_kept_holds_no_more_memory_than_its_bound_however_small_the_chunks() {
    for (length, number) in [(KEPT_BYTES_MAX / 4, 4), (1, 100_000), (33_000, 30)] {
        let mut buffers = Vec::new();
        let chunks: Vec<_> = (0..number)
            .map(|_| {
                let buffer = Bytes::from(vec![7; length + 1]);
                let chunk = buffer.slice(..length);
                buffers.push(buffer);
                Ok(chunk)
            })
            .collect();
        let input = of_caller(Body::new(stream::iter(chunks)), true);
        let mut reader = input.reader();
        for _ in 0..number {
            read(&mut reader);
        }
        assert!(input.can_be_read_again());
        // Nobody has the larger buffers any more that chunks were parts of.
        assert!(buffers.iter().all(Bytes::is_unique));
        assert!(input.0.lock().kept.memory_bytes() <= KEPT_BYTES_MAX);
    }
}

#[test]
fn what_is_too_large_is_not_kept_at_all() {
    let chunk = || Ok(Bytes::from(vec![0; KEPT_BYTES_MAX / 4]));
    let input = of_caller(Body::new(stream::repeat_with(chunk)), true);
    let mut reader = input.reader();
    for _ in 0..4 {
        read(&mut reader);
        assert!(input.can_be_read_again());
    }
    read(&mut reader);
    assert!(!input.can_be_read_again());
    assert_eq!(input.0.lock().kept.memory_bytes(), 0);
}

#[test]
fn output_that_is_too_large_to_be_compared_frees_the_input_as_well() {
    let chunk = || Ok(Bytes::from(vec![0; KEPT_BYTES_MAX / 2]));
    let (input, output) = of_link(Body::new(stream::repeat_with(chunk)));
    let mut reader = output.reader();
    for _ in 0..2 {
        read(&mut reader);
        assert!(input.can_be_read_again() && !output.is_too_large());
    }
    read(&mut reader);
    assert!(!input.can_be_read_again() && output.is_too_large());
    assert_eq!(output.0.lock().kept.memory_bytes(), 0);
}

#[test]
fn whoever_writes_it_is_told_once_nobody_will_read_it() {
    // While another reader may come, it is held.
    let (body, mut dropped) = fake::watched();
    let input = of_caller(body, true);
    drop(input.reader());
    assert!((&mut dropped).now_or_never().is_none());
    let reader = input.reader();
    input.settle_reader();
    assert!((&mut dropped).now_or_never().is_none());
    drop(reader);
    assert!(dropped.now_or_never().is_some());

    let (body, dropped) = fake::watched();
    let input = of_caller(body, true);
    drop(input.reader());
    input.settle_reader();
    assert!(dropped.now_or_never().is_some());

    let (body, dropped) = fake::watched();
    let input = of_caller(body, false);
    drop(input.reader());
    assert!(dropped.now_or_never().is_some());
    assert!(input.is_unread() && input.is_drained());
}

#[test]
fn a_closed_stream_never_seems_to_end() {
    let input = of_caller(chunks(&["one"]), true);
    let mut first = input.reader();
    read(&mut first);
    assert!(next(&mut first).is_none());
    let mut second = input.reader();
    input.close(Cut::new("the call is over"));
    assert!(next(&mut second).unwrap().is_err());
    assert!(next(&mut second).unwrap().is_err());
    assert!(input.is_cut());
}

#[test]
fn an_end_is_held_back_until_it_is_known_to_be_one() {
    let failed = || End::Failed(Cut::new("it failed"));
    for (end, is_complete) in [(End::Complete, true), (failed(), false)] {
        for is_known_early in [true, false] {
            let (_input, output) = of_link(chunks(&["one"]));
            let mut reader = output.reader();
            if is_known_early {
                output.end(end.clone());
                assert_eq!(read(&mut reader), "one");
            } else {
                assert_eq!(read(&mut reader), "one");
                assert!(waits(&mut reader) && output.is_drained());
                output.end(end.clone());
            }
            assert_eq!(next(&mut reader).is_none(), is_complete);
            assert!(output.broken().is_none());
        }
    }
}

#[test]
fn what_breaks_off_is_no_end_whatever_became_of_the_link() {
    let (_input, output) = of_link(fake::cut_off(["one"], "the wire broke"));
    let mut reader = output.reader();
    assert_eq!(read(&mut reader), "one");
    assert!(waits(&mut reader) && output.broken().is_none());
    output.end(End::Complete);
    assert!(next(&mut reader).unwrap().is_err());
    assert_eq!(&*output.broken().unwrap().reason, "the wire broke");
}

#[test]
fn nothing_more_is_given_on_of_a_call_that_was_lost() {
    let (input, output) = of_link(chunks(&["one", "two"]));
    let mut reader = output.reader();
    assert_eq!(read(&mut reader), "one");
    output.await_writer();
    assert!(waits(&mut reader));
    output.write(chunks(&["o", "nethree"]), Some(&input));
    assert_eq!(read(&mut reader), "three");
}

#[test]
fn what_is_written_again_must_be_the_same_and_as_much() {
    for again in [&["two"][..], &["onex"], &["on"], &[]] {
        let (input, output) = of_link(chunks(&["one", "two"]));
        let mut reader = output.reader();
        assert_eq!([read(&mut reader), read(&mut reader)], ["one", "two"]);
        output.await_writer();
        output.write(chunks(again), Some(&input));
        output.end(End::Complete);
        assert!(next(&mut reader).unwrap().is_err(), "{again:?}");
        assert!(output.differs());
    }
}

#[test]
fn a_call_that_nobody_takes_again_ends_what_it_had_written() {
    let (input, output) = of_link(chunks(&["one", "two"]));
    let mut reader = output.reader();
    assert_eq!([read(&mut reader), read(&mut reader)], ["one", "two"]);
    output.await_writer();
    // Lost again, before it has written all of that.
    output.write(chunks(&["on"]), Some(&input));
    assert!(waits(&mut reader));
    output.await_writer();
    output.end(End::Failed(Cut::new("it was lost")));
    assert!(next(&mut reader).unwrap().is_err());
    assert!(!output.differs() && output.broken().is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Read,
    /// The call that reads it is made again.
    ReadAgain,
    /// The call that writes it is made again, and cut into pieces of this length.
    WriteAgain(usize),
}

proptest! {
    #[test]
    fn readers_get_the_same_whoever_writes_and_reads_it_again(
        length in 0..2000_usize,
        pieces in 1..100_usize,
        steps in prop::collection::vec(prop_oneof![
            5 => Just(Step::Read),
            1 => Just(Step::ReadAgain),
            1 => (1..100_usize).prop_map(Step::WriteAgain),
        ], 0..200),
    ) {
        let all: Bytes = (0..length).map(|at| (at / 3) as u8).collect::<Vec<_>>().into();
        let written = |pieces: usize| {
            let chunks = all.chunks(pieces).map(Bytes::copy_from_slice).map(Ok);
            Body::new(stream::iter(chunks.collect::<Vec<_>>()))
        };
        let input = of_caller(Body::empty(), true);
        let output = LinkOutput::new(true, &Arc::default());
        output.write(written(pieces), Some(&input));
        let (mut reader, mut had) = (output.reader(), Vec::new());
        for step in steps {
            match step {
                Step::Read => {
                    if let Some(chunk) = reader.next().now_or_never() {
                        had.extend(chunk.unwrap().unwrap());
                    }
                }
                Step::ReadAgain => {
                    reader = output.reader();
                    had.clear();
                }
                Step::WriteAgain(pieces) => {
                    output.await_writer();
                    output.write(written(pieces), Some(&input));
                }
            }
            prop_assert_eq!(&had[..], &all[..had.len()]);
        }
        output.end(End::Complete);
        had.extend(reader.collect().now_or_never().unwrap().unwrap());
        prop_assert_eq!(had, all);
    }
}
