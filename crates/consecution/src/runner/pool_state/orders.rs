//! Who is first in what, among all links of a runner: kept with every change of
//! a link, so that a look costs little however many links there are.
//!
//! Some ranks change with time alone. They only get worse by that, so whoever
//! looks asks the link again whether it is still so.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Member, Moment, Ticket};

/// How much a link is called; more is more.
pub(super) type Heat = i64;

/// Where a link stands; the least is first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Its first taker without a start under way, if it has any.
    pub(super) needs: Option<Ticket>,
    /// Whether its idle processes can be had for another link.
    pub(super) spares: Option<Spare>,
    /// Whether it wants more in reserve.
    pub(super) wants: Option<Want>,
}

/// Who gives up an idle process: the link that is called least; among those, the
/// one that has most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spare {
    /// How much it is called, and what it has.
    Free(Heat, Reverse<usize>),
    /// Not before then: it was told busy, and this is what it is to come back for.
    Kept(Moment),
}

/// Who gets a process in reserve: a link that was told busy and has nothing; then
/// the one that is called most; among those, the one that has least.
pub(super) type Want = (Reverse<bool>, Reverse<Heat>, usize);

/// All links, by their ranks.
#[derive(Debug, Default)]
pub(super) struct Orders {
    needs: BTreeSet<(Ticket, Member)>,
    spares: BTreeSet<(Spare, Member)>,
    wants: BTreeSet<(Want, Member)>,
}

impl Orders {
    /// Moves a link from where it stands to where it is to stand.
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

    /// Who gives up an idle process first.
    pub(super) fn richest(&self) -> Option<Member> {
        self.spares.first().map(|(_, member)| *member)
    }

    /// Who gets a process in reserve first.
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
