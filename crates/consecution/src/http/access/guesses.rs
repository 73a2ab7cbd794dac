//! Slows down who tries keys, and logs who does.
//!
//! Right keys are never made to wait: behind a proxy all clients have the same address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::counted_as;

/// How long the answer to a wrong key takes.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// How many answers to one address wait at a time, and how many altogether. Those beyond that
/// are not held back, since they would hold connections.
pub(super) const WAITING_MAX_EACH: usize = 8;
const WAITING_MAX: usize = 256;

/// How many addresses are told apart.
const ADDRESSES_MAX: usize = 1024;

/// How long the wrong keys of an address are only counted after a log line about it.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What stands for all addresses that are too many.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The wrong keys that have come.
#[derive(Default)]
pub(super) struct Guesses(Mutex<State>);

#[derive(Default)]
struct State {
    by_address: HashMap<IpAddr, Address>,
    waiting: usize,
}

#[derive(Default)]
struct Address {
    waiting: usize,
    /// The wrong keys since the last log line.
    unsaid: u64,
    said_at: Option<Instant>,
}

impl Guesses {
    /// A wrong key has come from there. Waits, if not too many do; returns whether it has.
    pub(super) async fn wrong(&self, from: IpAddr) -> bool {
        let (line, waiting) = self.begin(counted_as(from));
        // Not under the lock: who reads the log may be slow, and nobody else has to wait for it.
        match line {
            Some((OTHERS, count)) => tracing::warn!(count, "wrong keys come from many addresses"),
            Some((address, count)) => tracing::warn!(%address, count, "a wrong key has come"),
            None => {}
        }
        let Some(waiting) = waiting else {
            return false;
        };
        sleep(WAIT).await;
        drop(waiting);
        true
    }

    /// Counts a wrong key. What the log is to say of it, if anything: the address, and how
    /// many have come; and the answer, if it may wait.
    fn begin(&self, from: IpAddr) -> (Option<(IpAddr, u64)>, Option<Waiting<'_>>) {
        let mut state = self.0.lock();
        let from = state.place_for(from);
        let is_full = state.waiting >= WAITING_MAX;
        let address = state.by_address.entry(from).or_default();
        address.unsaid += 1;
        let is_due = address
            .said_at
            .is_none_or(|at| at.elapsed() >= LOG_AGAIN_AFTER);
        let line = is_due.then(|| {
            address.said_at = Some(Instant::now());
            (from, std::mem::take(&mut address.unsaid))
        });
        if is_full || address.waiting >= WAITING_MAX_EACH {
            return (line, None);
        }
        address.waiting += 1;
        state.waiting += 1;
        let waiting = Waiting {
            guesses: self,
            from,
        };
        (line, Some(waiting))
    }
}

impl State {
    /// The address under which one is counted; forgets those of which nothing is left to know.
    fn place_for(&mut self, from: IpAddr) -> IpAddr {
        if self.by_address.contains_key(&from) || self.by_address.len() < ADDRESSES_MAX {
            return from;
        }
        self.by_address.retain(|_, address| {
            let is_fresh = |at: Instant| at.elapsed() < LOG_AGAIN_AFTER;
            address.waiting > 0 || address.said_at.is_some_and(is_fresh)
        });
        match self.by_address.len() < ADDRESSES_MAX {
            true => from,
            false => OTHERS,
        }
    }
}

/// An answer that waits.
struct Waiting<'a> {
    guesses: &'a Guesses,
    from: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.guesses.0.lock();
        state.waiting -= 1;
        if let Some(address) = state.by_address.get_mut(&self.from) {
            address.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | last).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_unless_too_many_do() {
        let guesses = Guesses::default();
        let began = Instant::now();
        assert!(guesses.wrong(address(1)).await);
        assert_eq!(began.elapsed(), WAIT);
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX_EACH {
            let mut one = Box::pin(guesses.wrong(address(1)));
            assert!(one.as_mut().now_or_never().is_none());
            waiting.push(one);
        }
        assert_eq!(guesses.wrong(address(1)).now_or_never(), Some(false));
        // Others are not affected.
        assert!(guesses.wrong(address(2)).now_or_never().is_none());
        // Who has left waits no more.
        waiting.pop();
        assert!(guesses.wrong(address(1)).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_has_a_bound() {
        let guesses = Guesses::default();
        for each in 0..3 * ADDRESSES_MAX as u32 {
            let _ = guesses.wrong(address(each)).now_or_never();
        }
        let count = || guesses.0.lock().by_address.len();
        assert!(count() <= ADDRESSES_MAX + 1, "{}", count());
        assert_eq!(guesses.0.lock().waiting, 0);
        tokio::time::advance(LOG_AGAIN_AFTER).await;
        let _ = guesses.wrong(address(u32::MAX >> 8)).now_or_never();
        assert_eq!(count(), 1);
    }

    #[test]
    fn one_clients_addresses_count_as_one() {
        let counted = |text: &str| counted_as(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(counted("10.0.0.1"), "10.0.0.1");
    }
}
