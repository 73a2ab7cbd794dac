//! The orders of all pools of a runner, by need and by what they can spare. They are updated
//! with every change of a pool, so that a look costs little however many pools there are.
//!
//! What a pool wants decreases with time even without a change, so a look must check that the
//! first pool still wants something.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Member, Moment, Ticket};

/// How much a pool is called, on a logarithmic scale.
pub(super) type Heat = i64;

/// The ranks of a pool in the orders; the smallest is first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Its first taker without a start under way, if there is one.
    pub(super) needs: Option<Ticket>,
    /// Its rank among pools that can give up idle pipelines, if it can.
    pub(super) spares: Option<Spare>,
    /// Its rank among pools that want more in reserve, if it does.
    pub(super) wants: Option<Want>,
    /// When one of its idle pipelines is to be looked at, if one is.
    pub(super) looks: Option<Moment>,
}

/// The order of giving up idle pipelines: first the pool that is called least; among equals,
/// the one that has most to give.
pub(super) type Spare = (Heat, Reverse<usize>);

/// The order of getting a pipeline in reserve: first pools that are owed one, see
/// [`goes_first`](super::share::Share::goes_first); then the pool that is called most; among
/// equals, the one with the smallest reserve.
pub(super) type Want = (Reverse<bool>, Reverse<Heat>, usize);

/// All pools, by their ranks.
#[derive(Debug, Default)]
pub(super) struct Orders {
    needs: BTreeSet<(Ticket, Member)>,
    spares: BTreeSet<(Spare, Member)>,
    wants: BTreeSet<(Want, Member)>,
    looks: BTreeSet<(Moment, Member)>,
}

impl Orders {
    /// Moves a pool from its old ranks to new ones.
    pub(super) fn rank(&mut self, member: Member, ranks: &mut Ranks, new: Ranks) {
        move_rank(&mut self.needs, member, &ranks.needs, &new.needs);
        move_rank(&mut self.spares, member, &ranks.spares, &new.spares);
        move_rank(&mut self.wants, member, &ranks.wants, &new.wants);
        move_rank(&mut self.looks, member, &ranks.looks, &new.looks);
        *ranks = new;
    }

    /// The pool whose taker has waited longest without a start under way for it.
    pub(super) fn neediest(&self) -> Option<Member> {
        self.needs.first().map(|(_, member)| *member)
    }

    /// All pools that have takers without a start under way.
    pub(super) fn needy(&self) -> impl Iterator<Item = Member> {
        self.needs.iter().map(|(_, member)| *member)
    }

    /// All pools with idle pipelines to give up, in that order.
    pub(super) fn rich(&self) -> impl Iterator<Item = Member> {
        self.spares.iter().map(|(_, member)| *member)
    }

    /// The pool that gets the next pipeline in reserve.
    pub(super) fn wanting(&self) -> Option<Member> {
        self.wants.first().map(|(_, member)| *member)
    }

    /// The pool with the idle pipeline to be looked at next, and when.
    pub(super) fn looking(&self) -> Option<(Moment, Member)> {
        self.looks.first().copied()
    }
}

fn move_rank<T: Ord + Clone>(
    order: &mut BTreeSet<(T, Member)>,
    member: Member,
    from: &Option<T>,
    to: &Option<T>,
) {
    if from != to {
        if let Some(from) = from {
            order.remove(&(from.clone(), member));
        }
        if let Some(to) = to {
            order.insert((to.clone(), member));
        }
    }
}
