//! Limits how many images are pulled at a time, in all and from one registry, by giving
//! turns to pulls.
//!
//! The registry determines how long a pull takes, up to a day, and the author of a chain
//! chooses the registry. So if other pulls wait, a turn is limited: the pull that has had
//! its turn the longest is called back. When it gets another turn, it continues from what
//! it has downloaded. Pulls that were called back less often come first. So a registry that
//! is slow but honest completes in several turns. A pull that has downloaded everything
//! only unpacks, independent of the registry, and would have to unpack from the start
//! again. So it is called back much later, and after twice as long each time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use image::{Digest, Progress};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How many turns there are at a time, and how long they take.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// The most pulls at a time. Each may download a few layers at a time.
    pub(super) all_max: usize,
    /// The most pulls at a time from one registry.
    pub(super) of_a_registry_max: usize,
    /// How long a pull keeps its turn while others wait.
    pub(super) turn: Duration,
    /// How long a pull that has downloaded everything keeps its turn while others wait;
    /// doubles each time that it is called back.
    pub(super) unpacking: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            all_max: 16,
            of_a_registry_max: 4,
            turn: Duration::from_secs(300),
            unpacking: Duration::from_secs(3600),
        }
    }
}

/// How often the time to unpack is doubled at most: then it is as long as a pull may take.
const DOUBLINGS_MAX: u32 = 5;

/// How often per turn a waiting pull checks whether another pull's turn is over.
const LOOKS_PER_TURN: u32 = 16;

pub(super) struct Turns {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The waiting pulls, in the order in which they get turns.
    waiting: Vec<Pull>,
    running: Vec<Pull>,
    next: u64,
}

/// A pull that waits for its turn, or has it.
struct Pull {
    id: u64,
    registry: String,
    called_back_before: u32,
    /// When its turn began.
    since: Instant,
    /// Everything is downloaded: the pull no longer depends on the registry.
    downloaded: bool,
    called_back: bool,
    /// Notified when its turn begins, and when it is called back.
    told: Arc<Notify>,
}

impl Pull {
    /// How long the pull keeps its turn while others wait.
    fn may_take(&self, bounds: &Bounds) -> Duration {
        match self.downloaded {
            true => bounds.unpacking * (1 << self.called_back_before.min(DOUBLINGS_MAX)),
            false => bounds.turn,
        }
    }
}

/// A turn. It ends when this is dropped.
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    id: u64,
    told: Arc<Notify>,
}

impl Turns {
    pub(super) fn new(bounds: Bounds) -> Turns {
        Turns {
            bounds,
            state: Mutex::default(),
        }
    }

    /// Waits for a turn for a pull from `registry` that was called back
    /// `called_back_before` times before.
    pub(super) async fn take(&self, registry: &str, called_back_before: u32) -> Turn<'_> {
        let told = Arc::new(Notify::new());
        let turn = {
            let mut state = self.state.lock();
            let id = state.next;
            state.next += 1;
            let place = state
                .waiting
                .partition_point(|pull| pull.called_back_before <= called_back_before);
            let pull = Pull {
                id,
                registry: registry.to_owned(),
                called_back_before,
                since: Instant::now(),
                downloaded: false,
                called_back: false,
                told: Arc::clone(&told),
            };
            state.waiting.insert(place, pull);
            Turn {
                turns: self,
                id,
                told,
            }
        };
        loop {
            self.state.lock().admit(&self.bounds, Instant::now());
            let look_again = self.bounds.turn / LOOKS_PER_TURN;
            if timeout(look_again, turn.told.notified()).await.is_ok() {
                return turn;
            }
        }
    }
}

impl Turn<'_> {
    /// Resolves when this pull is called back: others wait, and its time is over.
    pub(super) async fn called_back(&self) {
        self.told.notified().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        state.waiting.retain(|pull| pull.id != self.id);
        state.running.retain(|pull| pull.id != self.id);
        state.admit(&self.turns.bounds, Instant::now());
    }
}

impl State {
    /// Begins as many turns as there is room for. For each pull that still waits, calls one
    /// pull back whose time is over.
    fn admit(&mut self, bounds: &Bounds, now: Instant) {
        let mut leaving: Vec<u64> = Vec::new();
        for mut pull in std::mem::take(&mut self.waiting) {
            let is_of_it = |other: &Pull| other.registry == pull.registry;
            let of_it = self.running.iter().filter(|other| is_of_it(other)).count();
            let registry_is_full = of_it >= bounds.of_a_registry_max;
            if !registry_is_full && self.running.len() < bounds.all_max {
                pull.since = now;
                pull.told.notify_one();
                self.running.push(pull);
                continue;
            }
            let in_its_way = self
                .running
                .iter_mut()
                .filter(|other| !registry_is_full || is_of_it(other))
                .filter(|other| !leaving.contains(&other.id))
                .filter(|other| other.called_back || now >= other.since + other.may_take(bounds));
            // A pull that was called back before and still ends counts: it makes room too.
            if let Some(other) = in_its_way.min_by_key(|other| (!other.called_back, other.since)) {
                leaving.push(other.id);
                if !std::mem::replace(&mut other.called_back, true) {
                    other.told.notify_one();
                }
            }
            self.waiting.push(pull);
        }
    }
}

/// Passes a pull's progress on, and records when everything is downloaded.
pub(super) struct Watched<'t> {
    turn: &'t Turn<'t>,
    progress: &'t dyn Progress,
    /// For each layer, its bytes and how many of them are not downloaded yet.
    left: Mutex<HashMap<Digest, (u64, u64)>>,
}

impl<'t> Watched<'t> {
    pub(super) fn new(turn: &'t Turn<'t>, progress: &'t dyn Progress) -> Watched<'t> {
        Watched {
            turn,
            progress,
            left: Mutex::default(),
        }
    }

    fn note(&self, layer: &Digest, note: impl FnOnce(&mut (u64, u64))) {
        let mut left = self.left.lock();
        note(left.entry(layer.clone()).or_default());
        let downloaded = left.values().all(|(_, left)| *left == 0);
        let mut state = self.turn.turns.state.lock();
        let mut running = state.running.iter_mut();
        if let Some(pull) = running.find(|pull| pull.id == self.turn.id) {
            pull.downloaded = downloaded;
        }
    }
}

impl Progress for Watched<'_> {
    fn layer(&self, layer: &Digest, total_bytes: u64) {
        self.note(layer, |noted| *noted = (total_bytes, total_bytes));
        self.progress.layer(layer, total_bytes);
    }

    fn advanced(&self, layer: &Digest, bytes: u64) {
        self.note(layer, |(total, left)| *left = total.saturating_sub(bytes));
        self.progress.advanced(layer, bytes);
    }

    fn done(&self, layer: &Digest) {
        self.progress.done(layer);
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
