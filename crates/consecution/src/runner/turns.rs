//! Turns to pull images: so many at a time, and so many from one registry.
//!
//! How long a pull takes is for the registry to say, up to a day, and whoever
//! writes a chain chooses the registry. So a turn has an end where others wait:
//! then the pull that has had its turn the longest is called back, and goes on
//! from what it has downloaded when it is its turn again. Those who were called
//! back less often come first. A registry that is slow and honest gets there in
//! several turns. What is downloaded waits for us alone and begins to unpack anew,
//! so it is called back much later, and each time after twice as long as before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use image::{Digest, Progress};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How many turns there are, and how long.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Pulls at a time, each with a few layers at a time.
    pub(super) all_max: usize,
    /// Those of them from one registry.
    pub(super) of_a_registry_max: usize,
    /// How long a turn is left to a pull while others wait.
    pub(super) turn: Duration,
    /// The same once all of it is downloaded; doubles each time it is called back.
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

/// How often the time to unpack is doubled: then it is as long as a pull may take.
const DOUBLINGS_MAX: u32 = 5;

/// How often in a turn those who wait look whether one is over.
const LOOKS_PER_TURN: u32 = 16;

pub(super) struct Turns {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they are served.
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
    /// It waits for nobody but us: all of it is here.
    downloaded: bool,
    called_back: bool,
    /// Told when its turn begins, and when it is called back.
    told: Arc<Notify>,
}

impl Pull {
    /// How long its turn is left to it while others wait.
    fn may_take(&self, bounds: &Bounds) -> Duration {
        match self.downloaded {
            true => bounds.unpacking * (1 << self.called_back_before.min(DOUBLINGS_MAX)),
            false => bounds.turn,
        }
    }
}

/// A turn; over when dropped.
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

    /// Waits for a turn for a pull from that registry, which was called back so
    /// often before.
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
    /// Resolves when others wait and this one has had its time.
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
    /// Begins the turns that there is room for, and calls back whose time is over
    /// while others wait: one for each of those.
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
            // Who was called back already leaves room for one, too.
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

/// Passes on how a pull gets on, and notes when all of it is here.
pub(super) struct Watched<'t> {
    turn: &'t Turn<'t>,
    progress: &'t dyn Progress,
    /// Bytes of each layer, and how many are not here yet.
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
