//! Two sides of an exchange, and a network between them that does its worst.

use std::collections::VecDeque;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::transport::Ending;
use crate::transport::nats::exchange::credit::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, WINDOW_BYTES, WINDOW_BYTES_MIN,
    cost, window,
};

/// The bytes from that place of a body on; no piece looks like its neighbour.
fn bytes_at(place: usize, length: usize) -> Bytes {
    static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
        (0..2 * FRAME_BYTES_MAX)
            .map(|at| (at % PERIOD) as u8)
            .collect()
    });
    let start = place % PERIOD;
    BYTES.slice(start..start + length)
}

const PERIOD: usize = 251;

fn offer(is_whole: bool) -> Offer {
    let credit = WINDOW_BYTES;
    Offer { is_whole, credit }
}

/// What one side does, or what is done to what is under way.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// The caller or the runner sends as much as this, if it may.
    Send {
        caller: bool,
        bytes: usize,
    },
    /// The caller or the runner ends its body.
    End {
        caller: bool,
    },
    /// The caller or the runner reads a piece that has come.
    Read {
        caller: bool,
    },
    /// The next frame to the caller or the runner arrives.
    Deliver {
        caller: bool,
    },
    /// And these are the network's faults.
    Lose {
        caller: bool,
    },
    Repeat {
        caller: bool,
    },
    Reorder {
        caller: bool,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = prop_oneof![1..10_usize, 1..200_000_usize];
    prop_oneof![
        6 => (any::<bool>(), bytes).prop_map(|(caller, bytes)| Act::Send { caller, bytes }),
        1 => any::<bool>().prop_map(|caller| Act::End { caller }),
        6 => any::<bool>().prop_map(|caller| Act::Read { caller }),
        12 => any::<bool>().prop_map(|caller| Act::Deliver { caller }),
    ]
}

fn fault() -> impl Strategy<Value = Act> {
    let caller = any::<bool>();
    (caller, 0..3).prop_map(|(caller, fault)| match fault {
        0 => Act::Lose { caller },
        1 => Act::Repeat { caller },
        _ => Act::Reorder { caller },
    })
}

/// One side, what is on its way to it, and what it has seen.
struct Side {
    exchange: Exchange,
    inbox: VecDeque<Numbered>,
    /// How much of its body was sent.
    sent: usize,
    has_ended: bool,
    unread: VecDeque<usize>,
    /// How much of the other's body has come, all of it right.
    received: usize,
    saw_end: bool,
    broken: Option<Broken>,
}

impl Side {
    fn new(exchange: Exchange) -> Side {
        Side {
            exchange,
            inbox: VecDeque::new(),
            sent: 0,
            has_ended: false,
            unread: VecDeque::new(),
            received: 0,
            saw_end: false,
            broken: None,
        }
    }

    fn send(&mut self, bytes: usize) -> Option<Numbered> {
        let bytes = bytes.min(self.exchange.room());
        if self.broken.is_some() || bytes == 0 {
            return None;
        }
        let chunk = bytes_at(self.sent, bytes);
        self.sent += bytes;
        Some(self.exchange.data(chunk))
    }

    fn end(&mut self) -> Option<Numbered> {
        if self.broken.is_some() || self.has_ended {
            return None;
        }
        self.has_ended = true;
        Some(self.exchange.end(Ok(())))
    }

    fn read(&mut self) -> Option<Numbered> {
        let bytes = self.unread.pop_front()?;
        self.exchange
            .consumed(bytes)
            .filter(|_| self.broken.is_none())
    }

    fn deliver(&mut self, now: Instant) {
        let Some(frame) = self.inbox.pop_front() else {
            return;
        };
        if self.broken.is_some() {
            return;
        }
        match self.exchange.receive(frame, now) {
            Ok(Event::Data(bytes)) => {
                let right = bytes_at(self.received, bytes.len());
                assert!(bytes == right, "other bytes came than were sent");
                self.received += bytes.len();
                self.unread.push_back(bytes.len());
            }
            Ok(Event::End) => self.saw_end = true,
            Ok(_) => {}
            Err(broken) => self.broken = Some(broken),
        }
    }
}

struct Pair {
    now: Instant,
    caller: Side,
    runner: Side,
}

impl Pair {
    fn new() -> Pair {
        let now = Instant::now();
        let mut pair = Pair {
            now,
            caller: Side::new(Exchange::of_caller(now, offer(false), None)),
            runner: Side::new(Exchange::of_runner(now, WINDOW_BYTES)),
        };
        let accept = pair.runner.exchange.accept(WINDOW_BYTES, 0, now);
        pair.caller.inbox.push_back(accept);
        pair
    }

    fn sides(&mut self, caller: bool) -> (&mut Side, &mut Side) {
        match caller {
            true => (&mut self.caller, &mut self.runner),
            false => (&mut self.runner, &mut self.caller),
        }
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Send { caller, bytes } => {
                let (own, other) = self.sides(caller);
                other.inbox.extend(own.send(bytes));
            }
            Act::End { caller } => {
                let (own, other) = self.sides(caller);
                other.inbox.extend(own.end());
            }
            Act::Read { caller } => {
                let (own, other) = self.sides(caller);
                other.inbox.extend(own.read());
            }
            Act::Deliver { caller } => self.sides(caller).0.deliver(now),
            Act::Lose { caller } => drop(self.sides(caller).0.inbox.pop_front()),
            Act::Repeat { caller } => {
                let inbox = &mut self.sides(caller).0.inbox;
                let first = inbox.front().cloned();
                first.into_iter().for_each(|frame| inbox.push_front(frame));
            }
            Act::Reorder { caller } => {
                let inbox = &mut self.sides(caller).0.inbox;
                if inbox.len() > 1 {
                    inbox.swap(0, 1);
                }
            }
        }
        for caller in [true, false] {
            let (own, other) = self.sides(caller);
            assert!(own.received <= other.sent, "more came than was sent");
            if own.saw_end {
                assert!(other.has_ended, "an end that nobody sent");
                assert_eq!(own.received, other.sent, "a false end");
            }
            let waiting: u64 = own.unread.iter().map(|bytes| cost(*bytes)).sum();
            assert!(waiting <= WINDOW_BYTES, "{waiting} bytes wait");
        }
    }

    /// Sends, reads and delivers all that there is.
    fn settle(&mut self) {
        let is_busy = |side: &Side| !side.inbox.is_empty() || !side.unread.is_empty();
        while is_busy(&self.caller) || is_busy(&self.runner) {
            for caller in [true, false] {
                self.act(Act::Deliver { caller });
                self.act(Act::Read { caller });
            }
        }
    }
}

proptest! {
    #[test]
    fn what_comes_is_what_was_sent_as_far_as_it_comes(
        acts in proptest::collection::vec(prop_oneof![40 => act(), 1 => fault()], 0..300),
    ) {
        let mut pair = Pair::new();
        for act in acts {
            pair.act(act);
        }
    }

    #[test]
    fn where_nothing_is_lost_all_comes(
        acts in proptest::collection::vec(act(), 0..300),
    ) {
        let mut pair = Pair::new();
        for act in acts {
            pair.act(act);
        }
        pair.act(Act::End { caller: true });
        pair.act(Act::End { caller: false });
        pair.settle();
        for caller in [true, false] {
            let (own, other) = pair.sides(caller);
            prop_assert!(own.broken.is_none(), "{:?}", own.broken);
            prop_assert!(own.saw_end);
            prop_assert_eq!(own.received, other.sent);
        }
    }

    #[test]
    fn a_body_of_any_size_comes_through_the_window(
        bytes in 0..4_000_000_usize,
        piece in 1..200_000_usize,
    ) {
        let mut pair = Pair::new();
        pair.act(Act::Deliver { caller: true });
        let mut rounds = 0;
        while pair.caller.sent < bytes {
            let sent = pair.caller.sent;
            let left = bytes - sent;
            pair.act(Act::Send { caller: true, bytes: piece.max(4096).min(left) });
            if pair.caller.sent == sent {
                // Without credit: the other side has to read.
                pair.settle();
            }
            rounds += 1;
            prop_assert!(rounds < 5_000, "stuck");
        }
        pair.act(Act::End { caller: true });
        pair.settle();
        prop_assert!(pair.runner.saw_end);
        prop_assert_eq!(pair.runner.received, bytes);
    }
}

#[test]
fn a_fault_ends_the_exchange_whatever_comes_then() {
    for fault in [
        Act::Lose { caller: false },
        Act::Repeat { caller: false },
        Act::Reorder { caller: false },
    ] {
        let mut pair = Pair::new();
        pair.act(Act::Deliver { caller: true });
        for _ in 0..3 {
            pair.act(Act::Send {
                caller: true,
                bytes: 10,
            });
        }
        pair.act(fault);
        pair.act(Act::End { caller: true });
        pair.settle();
        assert!(!pair.runner.saw_end, "{fault:?}");
        assert!(
            matches!(pair.runner.broken, Some(Broken::Numbers { .. })),
            "{fault:?}"
        );
    }
}

#[test]
fn tiny_frames_are_bounded_too() {
    let mut pair = Pair::new();
    pair.act(Act::Deliver { caller: true });
    for _ in 0..10_000 {
        pair.act(Act::Send {
            caller: true,
            bytes: 1,
        });
    }
    assert!(pair.runner.inbox.len() <= 1 + (WINDOW_BYTES / FRAME_OVERHEAD_BYTES) as usize);
}

#[test]
fn more_than_was_allowed_ends_the_exchange() {
    let now = Instant::now();
    let mut runner = Exchange::of_runner(now, 0);
    runner.accept(WINDOW_BYTES, 0, now);
    let mut violation = None;
    for number in 0..=WINDOW_BYTES / FRAME_BYTES_MAX as u64 {
        let frame = Frame::Data(vec![0; FRAME_BYTES_MAX].into());
        violation = runner.receive(Numbered { number, frame }, now).err();
        if violation.is_some() {
            break;
        }
    }
    assert!(matches!(violation, Some(Broken::Violation(_))));
    // To a request that is whole nothing may be added.
    let mut runner = Exchange::of_runner(now, 0);
    runner.accept(0, 0, now);
    for frame in [Frame::End, Frame::Data("x".into())] {
        let mut runner = Exchange::of_runner(now, 0);
        runner.accept(0, 0, now);
        assert!(runner.receive(Numbered { number: 0, frame }, now).is_err());
    }
    // Nor is a caller sent what it has given no credit for.
    assert_eq!(runner.room(), 0);
}

#[test]
fn little_credit_is_left_until_there_is_more() {
    for window in [WINDOW_BYTES_MIN, WINDOW_BYTES] {
        let now = Instant::now();
        let mut runner = Exchange::of_runner(now, window);
        let mut sent = 0;
        while runner.room() > 0 {
            let room = runner.room();
            assert!(cost(room) >= (window / 4).min(cost(FRAME_BYTES_MAX)));
            sent += cost(room);
            runner.data(vec![0; room].into());
        }
        assert!(sent <= window && sent > window / 2, "{sent} of {window}");
        // What is read of it is given back, and there is room again.
        let frame = Frame::Credit(window / 4);
        runner.receive(Numbered { number: 0, frame }, now).unwrap();
        assert!(runner.room() > 0);
    }
}

#[test]
fn many_calls_share_what_a_connection_may_have_under_way() {
    assert_eq!(window(0), WINDOW_BYTES);
    assert_eq!(window(1), WINDOW_BYTES);
    for calls in [100, 500, 1_000] {
        assert!(window(calls) * calls as u64 <= CONNECTION_WINDOW_BYTES);
    }
    assert_eq!(window(1_000_000), WINDOW_BYTES_MIN);
}

#[test]
fn nothing_comes_after_an_end() {
    let now = Instant::now();
    for frame in [
        Frame::Data("x".into()),
        Frame::End,
        Frame::Cut("because".into()),
    ] {
        let mut caller = Exchange::of_caller(now, offer(false), None);
        let end = Numbered {
            number: 0,
            frame: Frame::End,
        };
        assert!(matches!(caller.receive(end, now), Ok(Event::End)));
        assert!(caller.receive(Numbered { number: 1, frame }, now).is_err());
    }
}

#[test]
fn a_body_that_is_not_read_any_more_is_neither_sent_nor_kept() {
    let mut pair = Pair::new();
    pair.act(Act::Deliver { caller: true });
    let close = pair.runner.exchange.close().expect("something to tell");
    assert!(pair.runner.exchange.close().is_none(), "it is told once");
    pair.act(Act::Send {
        caller: true,
        bytes: 10,
    });
    pair.act(Act::Deliver { caller: false });
    assert!(pair.runner.broken.is_none() && pair.runner.received == 0);
    pair.caller.inbox.push_back(close);
    pair.act(Act::Deliver { caller: true });
    assert_eq!(pair.caller.exchange.room(), 0);
    assert!(pair.caller.exchange.has_sent_all());
}

#[test]
fn each_side_shows_that_it_lives_and_notices_when_the_other_does_not() {
    let start = Instant::now();
    let mut exchange = Exchange::of_caller(start, offer(false), None);
    let mut signs = 0;
    let (lost, now) = loop {
        let now = exchange.due();
        match exchange.tick(now) {
            Ok(true) => signs += 1,
            Ok(false) => {}
            Err(broken) => break (broken, now),
        }
    };
    assert_eq!(lost, Broken::Silent);
    assert_eq!(now, start + SILENCE_MAX);
    assert_eq!(signs, SILENCE_MAX.as_millis() / ALIVE_EVERY.as_millis());
    // Whatever comes is a sign of life.
    let mut exchange = Exchange::of_caller(start, offer(false), None);
    let later = start + SILENCE_MAX - ALIVE_EVERY;
    let alive = Numbered {
        number: 0,
        frame: Frame::Alive,
    };
    exchange.receive(alive, later).expect("a frame in order");
    assert!(exchange.tick(start + SILENCE_MAX).is_ok());
}

#[test]
fn a_caller_does_not_wait_beyond_its_deadline() {
    let now = Instant::now();
    let give_up = now + Duration::from_secs(1);
    let mut exchange = Exchange::of_caller(now, offer(false), Some(give_up));
    assert!(exchange.due() <= give_up);
    assert!(exchange.tick(give_up - Duration::from_millis(1)).is_ok());
    assert_eq!(exchange.tick(give_up), Err(Broken::Overdue));
}

#[test]
fn an_outcome_comes_through() {
    let now = Instant::now();
    let (mut caller, mut runner) = (
        Exchange::of_caller(now, offer(true), None),
        Exchange::of_runner(now, WINDOW_BYTES),
    );
    let outcome = Outcome::lost("it fell over");
    let frames = [
        runner.accept(0, 0, now),
        runner.end(Ok(())),
        runner.outcome(outcome),
    ];
    let events = frames.map(|frame| caller.receive(frame, now).expect("in order"));
    let [_, _, Event::Outcome(outcome)] = events else {
        panic!("{events:?}")
    };
    assert_eq!(outcome.ending, Ending::Lost("it fell over".into()));
}

#[test]
fn each_side_is_sent_only_what_the_other_may_send() {
    let now = Instant::now();
    let accept = |joined| Frame::Accept { credit: 0, joined };
    let outcome = || Frame::Outcome(Outcome::lost("gone"));
    for frame in [accept(0), Frame::Stderr("x".into()), outcome()] {
        let mut runner = Exchange::of_runner(now, 0);
        let came = runner.receive(Numbered { number: 0, frame }, now);
        assert!(matches!(came, Err(Broken::Violation(_))), "{came:?}");
    }
    // A call is taken once, ends after that, and then says how each of its links did.
    for frames in [
        vec![Frame::StderrCredit(1)],
        vec![accept(0), accept(0)],
        vec![outcome()],
        vec![accept(1), outcome()],
    ] {
        let mut caller = Exchange::of_caller(now, offer(true), None);
        let came = (0..).zip(frames).map(|(number, frame)| {
            let came = caller.receive(Numbered { number, frame }, now);
            came.map(drop)
        });
        let last = came.last().expect("a frame");
        assert!(matches!(last, Err(Broken::Violation(_))), "{last:?}");
    }
}
