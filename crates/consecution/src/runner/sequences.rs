//! Decides which links are kept warm together. Pure.
//!
//! A *sequence* is a list of consecutive links, each with the exit codes after which the
//! output of the link before it is complete. Requests name sequences. A sequence that is
//! requested again soon is kept warm as a whole; its links then need no warm processes of
//! their own. A link of no warm sequence is kept warm alone, as a sequence of one.
//!
//! Every client that may send requests can name any sequence, so everything is bounded:
//! at most as many sequences of several links are warm as there are links; a sequence that
//! was requested only once is not warm; and a sequence that was requested in the last
//! minute is not displaced by another one.
//!
//! This module starts nothing and reads no clock: it returns [`Change`]s for the caller to
//! carry out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use chain::{LinkId, Network};

use super::pool_state::Moment;

#[cfg(test)]
mod tests;

/// A sequence becomes warm if it is requested twice within this time, and is forgotten if it
/// is not requested for as long.
const LATELY: Duration = Duration::from_secs(300);

/// A sequence that was requested so recently is not displaced by another one.
const SETTLED: Duration = Duration::from_secs(60);

/// How many sequences to remember that were requested once.
const ONCE_SEQUENCES_MAX: usize = 1024;

/// Consecutive links, at least one. Clones share them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sequence(Arc<[Step]>);

/// One link of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Step {
    pub(super) id: LinkId,
    /// The exit codes of the link before it that complete its input, sorted; empty for the
    /// first link.
    pub(super) accepted: Vec<u8>,
}

impl Step {
    pub(super) fn new(id: LinkId, accepted: &[u8]) -> Step {
        let mut accepted = accepted.to_vec();
        accepted.sort_unstable();
        accepted.dedup();
        Step { id, accepted }
    }
}

impl Sequence {
    /// A sequence of these links. The first one's exit codes concern no other link, so they
    /// are dropped.
    pub(super) fn new(mut steps: Vec<Step>) -> Sequence {
        if let Some(first) = steps.first_mut() {
            first.accepted = Vec::new();
        }
        Sequence(steps.into())
    }

    /// A link by itself.
    pub(super) fn of_one(id: LinkId) -> Sequence {
        Sequence::new(vec![Step::new(id, &[])])
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LinkId> {
        self.0.iter().map(|step| step.id)
    }

    fn is_of_several(&self) -> bool {
        self.0.len() > 1
    }
}

/// What of a link decides with which others it can be one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Border {
    pub(super) network: Network,
    /// Its input is stored before its command is executed.
    pub(super) stores_input: bool,
    /// Its output is a file.
    pub(super) leaves_file: bool,
    /// It says how many processes of it are in reserve, which are for all calls of it.
    pub(super) has_own_reserve: bool,
}

/// Where links in a row are cut into sequences of which each can be one pipeline: before
/// one whose input is stored, behind one whose output is a file, and around one with a
/// reserve of its own: if it were a part of warm pipelines, each sequence that names it would
/// have as many of its processes again. Two links of one
/// pipeline share a pipe, through which they can tell each other a little, also backwards:
/// none may reach further by that than by itself, so both have the same network.
pub(super) fn cut(links: &[Border], links_max: usize) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for (at, link) in links.iter().enumerate() {
        let is_cut = |piece: &Range<usize>| {
            let before = &links[piece.end - 1];
            link.stores_input
                || before.leaves_file
                || link.has_own_reserve
                || before.has_own_reserve
                || links[piece.start].network != link.network
        };
        match pieces.last_mut() {
            Some(piece) if piece.len() < links_max && !is_cut(piece) => {
                piece.end = at + 1;
            }
            _ => pieces.push(at..at + 1),
        }
    }
    pieces
}

/// A sequence is to be kept warm from now on, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) sequence: Sequence,
    pub(super) is_warm: bool,
}

/// The sequences that a runner knows.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// The served links, with the number of warm sequences of several links that each is in.
    links: HashMap<LinkId, usize>,
    /// The sequences that were requested again, even while one of their links is not served.
    kept: HashMap<Sequence, Kept>,
    /// How many of those have several links.
    joined: usize,
    /// The sequences that were requested once, and when.
    once: HashMap<Sequence, Moment>,
    /// Until then, no kept sequence is old enough to be displaced.
    settled_until: Moment,
}

#[derive(Debug)]
struct Kept {
    /// When it was last requested.
    asked: Moment,
    /// Whether all of its links are served.
    is_whole: bool,
}

impl Sequences {
    /// A link is served from now on. Returns what changes.
    pub(super) fn enter(&mut self, id: LinkId) -> Vec<Change> {
        self.links.insert(id, 0);
        let mut changes = vec![self.alone(id)];
        for sequence in self.naming(id) {
            self.make_whole(&sequence, &mut changes);
        }
        changes
    }

    /// A link is no longer served. Returns what changes for other sequences.
    pub(super) fn leave(&mut self, id: LinkId) -> Vec<Change> {
        let mut changes = Vec::new();
        for sequence in self.naming(id) {
            self.break_up(&sequence, &mut changes);
        }
        self.links.remove(&id);
        changes.retain(|change| change.sequence != Sequence::of_one(id));
        changes
    }

    /// A request has named this sequence.
    pub(super) fn asked(&mut self, sequence: &Sequence, now: Moment) -> Vec<Change> {
        if let Some(kept) = self.kept.get_mut(sequence) {
            kept.asked = now;
            return Vec::new();
        }
        let before = self.once.get(sequence);
        if before.is_some_and(|before| now.saturating_sub(*before) <= LATELY) {
            return self.keep(sequence, now);
        }
        if self.once.len() >= ONCE_SEQUENCES_MAX {
            self.once.clear();
        }
        self.once.insert(sequence.clone(), now);
        Vec::new()
    }

    /// Time has passed: forgets sequences that were not requested lately.
    pub(super) fn sweep(&mut self, now: Moment) -> Vec<Change> {
        let is_old = |asked: Moment| now.saturating_sub(asked) > LATELY;
        self.once.retain(|_, asked| !is_old(*asked));
        let mut changes = Vec::new();
        let kept = self.kept.iter();
        let old: Vec<_> = kept
            .filter(|(_, kept)| is_old(kept.asked))
            .map(|(sequence, _)| sequence.clone())
            .collect();
        for sequence in old {
            self.forget(&sequence, &mut changes);
        }
        while self.joined > self.links.len()
            && let Some((oldest, _)) = self.oldest()
        {
            self.forget(&oldest, &mut changes);
        }
        changes
    }

    /// How many sequences of several links are kept.
    pub(super) fn joined(&self) -> usize {
        self.joined
    }

    /// Whether a sequence is to be kept warm.
    pub(super) fn is_warm(&self, sequence: &Sequence) -> bool {
        let is_kept = self.kept.get(sequence).is_some_and(|kept| kept.is_whole);
        match sequence.steps() {
            [alone] => is_kept || self.links.get(&alone.id) == Some(&0),
            _ => is_kept,
        }
    }

    /// Keeps a sequence if there is room, or if another one can be displaced.
    fn keep(&mut self, sequence: &Sequence, now: Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        if sequence.is_of_several() && self.joined >= self.links.len() {
            if now < self.settled_until {
                return changes;
            }
            let Some((oldest, asked)) = self.oldest() else {
                return changes;
            };
            if now.saturating_sub(asked) < SETTLED {
                self.settled_until = asked + SETTLED;
                return changes;
            }
            self.forget(&oldest, &mut changes);
        }
        self.once.remove(sequence);
        let kept = Kept {
            asked: now,
            is_whole: false,
        };
        self.kept.insert(sequence.clone(), kept);
        self.joined += usize::from(sequence.is_of_several());
        self.make_whole(sequence, &mut changes);
        changes
    }

    /// The sequence of several links whose last request is oldest, and when that was.
    fn oldest(&self) -> Option<(Sequence, Moment)> {
        let kept = self
            .kept
            .iter()
            .filter(|(sequence, _)| sequence.is_of_several())
            .map(|(sequence, kept)| (kept.asked, sequence));
        kept.min()
            .map(|(asked, sequence)| (sequence.clone(), asked))
    }

    /// The kept sequences that a link is in.
    fn naming(&self, id: LinkId) -> Vec<Sequence> {
        let kept = self.kept.keys();
        kept.filter(|sequence| sequence.ids().any(|named| named == id))
            .cloned()
            .collect()
    }

    /// Makes a kept sequence warm, if all of its links are served.
    fn make_whole(&mut self, sequence: &Sequence, changes: &mut Vec<Change>) {
        let is_served = sequence.ids().all(|id| self.links.contains_key(&id));
        match self.kept.get_mut(sequence) {
            Some(kept) if is_served && !kept.is_whole => kept.is_whole = true,
            _ => return,
        }
        changes.push(Change {
            sequence: sequence.clone(),
            is_warm: true,
        });
        if sequence.is_of_several() {
            for id in sequence.ids() {
                self.links.entry(id).and_modify(|count| *count += 1);
                changes.push(self.alone(id));
            }
        }
    }

    /// Keeps a sequence warm no longer.
    fn break_up(&mut self, sequence: &Sequence, changes: &mut Vec<Change>) {
        match self.kept.get_mut(sequence) {
            Some(kept) if kept.is_whole => kept.is_whole = false,
            _ => return,
        }
        if sequence.is_of_several() {
            for id in sequence.ids() {
                self.links.entry(id).and_modify(|count| *count -= 1);
                changes.push(self.alone(id));
            }
        }
        changes.push(Change {
            sequence: sequence.clone(),
            is_warm: self.is_warm(sequence),
        });
    }

    fn forget(&mut self, sequence: &Sequence, changes: &mut Vec<Change>) {
        self.break_up(sequence, changes);
        if self.kept.remove(sequence).is_some() {
            self.joined -= usize::from(sequence.is_of_several());
        }
    }

    /// Whether a link is to be kept warm by itself.
    fn alone(&self, id: LinkId) -> Change {
        let sequence = Sequence::of_one(id);
        let is_warm = self.is_warm(&sequence);
        Change { sequence, is_warm }
    }
}
