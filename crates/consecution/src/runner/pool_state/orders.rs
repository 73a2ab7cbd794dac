//! Who is first in what, among all pools of a runner: kept with every change of a
//! pool, so that a look costs little however many there are.
//!
//! What a pool wants falls with time alone, so whoever looks asks it again whether it
//! is still so.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Member, Ticket};

/// How much a pool is called; more is more.
pub(super) type Heat = i64;

/// Where a pool stands; the least is first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Its first taker without a start under way, if it has any.
    pub(super) needs: Option<Ticket>,
    /// Whether its idle pipelines can be had for another pool.
    pub(super) spares: Option<Spare>,
    /// Whether it wants more in reserve.
    pub(super) wants: Option<Want>,
}

/// Who gives up an idle pipeline: the pool that is called least; among those, the one
/// that has most to give.
pub(super) type Spare = (Heat, Reverse<usize>);

/// Who gets a pipeline in reserve: a pool that was told busy and has nothing; then the
/// one that is called most; among those, the one that has least.
pub(super) type Want = (Reverse<bool>, Reverse<Heat>, usize);

/// All pools, by their ranks.
#[derive(Debug, Default)]
pub(super) struct Orders {
    needs: BTreeSet<(Ticket, Member)>,
    spares: BTreeSet<(Spare, Member)>,
    wants: BTreeSet<(Want, Member)>,
}

impl Orders {
    /// Moves a pool from where it stands to where it is to stand.
    pub(super) fn rank(&mut self, member: Member, ranks: &mut Ranks, new: Ranks) {
        move_rank(&mut self.needs, member, &ranks.needs, &new.needs);
        move_rank(&mut self.spares, member, &ranks.spares, &new.spares);
        move_rank(&mut self.wants, member, &ranks.wants, &new.wants);
        *ranks = new;
    }

    /// Whose taker has waited longest without a start under way for it.
    pub(super) fn neediest(&self) -> Option<Member> {
        self.needs.first().map(|(_, member)| *member)
    }

    /// Everybody with takers without a start under way.
    pub(super) fn needy(&self) -> impl Iterator<Item = Member> {
        self.needs.iter().map(|(_, member)| *member)
    }

    /// Everybody with idle pipelines to give up, whoever does so first before others.
    pub(super) fn rich(&self) -> impl Iterator<Item = Member> {
        self.spares.iter().map(|(_, member)| *member)
    }

    /// Who gets a pipeline in reserve first.
    pub(super) fn wanting(&self) -> Option<Member> {
        self.wants.first().map(|(_, member)| *member)
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
