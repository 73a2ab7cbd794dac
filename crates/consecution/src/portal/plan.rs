//! Decides which links of a chain one runner may run together. Pure.
//!
//! Links that run together are one call: they share a deadline, and if their runner is
//! lost the call is repeated as a whole. So only links are combined whose calls would be
//! treated alike if they were made one by one.

use std::sync::Arc;

use chain::{Chain, ChainLink};

use super::attempt::retries_max;
use crate::transport::{FOLLOWING_MAX, Following};

/// For each link of a chain, the links behind it that the same runner may run too.
pub(super) fn following(chain: &Chain) -> Vec<Arc<[Following]>> {
    (0..chain.links.len())
        .map(|index| {
            let links = chain.links[index..].windows(2);
            let together = links.take_while(|pair| go_together(&pair[0], &pair[1]));
            let following = together.map(|pair| Following {
                id: pair[1].id,
                accepted: pair[0].accepted_exit_codes.clone(),
            });
            following.take(FOLLOWING_MAX).collect()
        })
        .collect()
}

fn go_together(before: &ChainLink, link: &ChainLink) -> bool {
    let have_deadlines = before.deadline.is_some() || link.deadline.is_some();
    !have_deadlines && retries_max(before) == retries_max(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{Deadline, Link, Network};
    use std::time::Duration;

    /// How many links may be taken together with each one.
    fn lengths(change: impl FnOnce(&mut Chain)) -> Vec<usize> {
        let link = |at: usize| Link {
            image: "fake".to_owned(),
            arguments: vec![at.to_string()],
            ..Link::default()
        };
        let mut chain = Chain {
            deadline: Deadline::None,
            ..Chain::new("test", (0..4).map(|at| ChainLink::new(link(at))))
        };
        change(&mut chain);
        following(&chain).iter().map(|links| links.len()).collect()
    }

    #[test]
    fn links_that_are_alike_go_together() {
        assert_eq!(lengths(|_| {}), [3, 2, 1, 0]);
    }

    #[test]
    fn a_link_with_a_deadline_of_its_own_goes_alone() {
        let deadline = |chain: &mut Chain| {
            chain.links[1].deadline = Some(Duration::from_secs(1));
        };
        assert_eq!(lengths(deadline), [0, 0, 1, 0]);
    }

    #[test]
    fn links_that_are_retried_otherwise_do_not_go_together() {
        let retries = |chain: &mut Chain| chain.links[3].retries = Some(1);
        assert_eq!(lengths(retries), [2, 1, 0, 0]);
        let network = |chain: &mut Chain| {
            let link = Link {
                network: Network::Host,
                ..(*chain.links[0].link).clone()
            };
            chain.links[0] = ChainLink::new(link);
        };
        assert_eq!(lengths(network), [0, 2, 1, 0]);
    }

    #[test]
    fn each_one_comes_with_the_codes_of_the_one_before() {
        let mut chain = Chain {
            deadline: Deadline::None,
            ..Chain::new("test", (0..3).map(|_| ChainLink::new(Link::default())))
        };
        chain.links[0].accepted_exit_codes = vec![0, 1];
        let following = following(&chain);
        let codes: Vec<_> = following[0].iter().map(|link| &link.accepted[..]).collect();
        assert_eq!(codes, [&[0, 1][..], &[0]]);
    }

    #[test]
    fn no_more_go_together_than_a_request_may_name() {
        let chain = Chain {
            deadline: Deadline::None,
            ..Chain::new("test", (0..40).map(|_| ChainLink::new(Link::default())))
        };
        assert_eq!(following(&chain)[0].len(), FOLLOWING_MAX);
    }
}
