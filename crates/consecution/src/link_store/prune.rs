//! Removes links that no portal names any more.
//!
//! Running portals publish the links of their chains; nobody knows the links of portals
//! that are not running. A portal may only be restarting, or run now and then. So a link
//! that no portal names is first recorded as unnamed; a later run removes it if it is still
//! unnamed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::{Link, LinkId};

use super::{LinkStore, LinkStoreError};

/// The links that no portal names, by what was done about them.
#[derive(Debug, Default, PartialEq)]
pub struct Pruned {
    /// The removed links.
    pub removed: Vec<Arc<Link>>,
    /// Links that are not removed yet, and how long they still stay.
    pub waiting: Vec<(Arc<Link>, Duration)>,
}

/// Links cannot be pruned. The texts read well after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The store cannot be reached, or denies permission.
    #[error("prune links")]
    LinkStore(#[from] LinkStoreError),
    /// No portal has published its links.
    #[error(
        "prune links: no portal says what it offers, so no link could be told from one in use; \
         see that a portal runs, is of this version or a later one, and may write its key under \
         /consecution/portals/"
    )]
    NoPortal,
    /// A portal has too many links to publish them all.
    #[error(
        "prune links: portal '{0}' offers more links than its key can hold; \
         remove links by their ids instead"
    )]
    Incomplete(String),
}

/// Removes the links that no portal has named for `unnamed_for`, as far as that
/// was seen by this and earlier runs. A dry run changes nothing.
///
/// # Errors
/// Nothing was removed if it is not known what portals offer; if the store fails
/// later, some may have been.
pub async fn prune(
    store: &dyn LinkStore,
    unnamed_for: Duration,
    is_dry: bool,
) -> Result<Pruned, PruneError> {
    // In this order: a link that a portal puts in between is not looked at.
    let links = store.list().await?;
    let noted = store.unnamed().await?;
    let portals = store.portals().await?;
    if portals.is_empty() {
        return Err(PruneError::NoPortal);
    }
    if let Some((name, _)) = portals.iter().find(|(_, portal)| portal.is_incomplete) {
        return Err(PruneError::Incomplete(name.clone()));
    }
    let chains = portals.values().flat_map(|portal| portal.chains.values());
    let named = chains.flatten().map(|link| link.id.as_str()).collect();
    let now = SystemTime::now();
    let plan = Plan::new(links, &named, &noted, now, unnamed_for);
    if !is_dry {
        for id in plan.forgotten {
            store.note_unnamed(id, None).await?;
        }
        for id in plan.noted {
            store.note_unnamed(id, Some(now)).await?;
        }
        for link in &plan.pruned.removed {
            store.remove(link.id()).await?;
        }
    }
    Ok(plan.pruned)
}

/// What to do, as plain data.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    pruned: Pruned,
    /// Links that are found to be unnamed for the first time.
    noted: Vec<LinkId>,
    /// Links whose notes are not true any more.
    forgotten: Vec<LinkId>,
}

impl Plan {
    fn new(
        links: Vec<Arc<Link>>,
        named: &BTreeSet<&str>,
        noted: &BTreeMap<LinkId, SystemTime>,
        now: SystemTime,
        unnamed_for: Duration,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut unnamed = BTreeSet::new();
        for link in links {
            let id = link.id();
            if named.contains(id.to_string().as_str()) {
                continue;
            }
            // A note from the future is one of another clock.
            let age = noted
                .get(&id)
                .and_then(|since| now.duration_since(*since).ok());
            let left = unnamed_for.saturating_sub(age.unwrap_or_default());
            if left.is_zero() {
                plan.pruned.removed.push(link);
                continue;
            }
            unnamed.insert(id);
            if age.is_none() {
                plan.noted.push(id);
            }
            plan.pruned.waiting.push((link, left));
        }
        let is_over = |id: &&LinkId| !unnamed.contains(id);
        plan.forgotten = noted.keys().filter(is_over).copied().collect();
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn link(image: &str) -> Arc<Link> {
        Arc::new(Link::new(image))
    }

    fn plan(links: &[&str], named: &[&str], noted: &[(&str, SystemTime)]) -> Plan {
        let now = SystemTime::UNIX_EPOCH + 100 * DAY;
        let named: Vec<_> = named.iter().map(|it| link(it).id().to_string()).collect();
        let noted = noted
            .iter()
            .map(|(image, since)| (link(image).id(), *since));
        Plan::new(
            links.iter().map(|image| link(image)).collect(),
            &named.iter().map(String::as_str).collect(),
            &noted.collect(),
            now,
            DAY,
        )
    }

    fn ago(duration: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + 100 * DAY - duration
    }

    #[test]
    fn what_is_named_is_left_alone_and_its_note_forgotten() {
        assert_eq!(plan(&["a"], &["a"], &[]), Plan::default());
        let forgotten = plan(&["a"], &["a"], &[("a", ago(2 * DAY)), ("gone", ago(DAY))]);
        let mut ids = vec![link("a").id(), link("gone").id()];
        ids.sort();
        assert_eq!(
            forgotten,
            Plan {
                forgotten: ids,
                ..Plan::default()
            }
        );
    }

    #[test]
    fn what_is_unnamed_is_noted_then_waited_for_then_removed() {
        let first = plan(&["a"], &["b"], &[]);
        assert_eq!(first.noted, [link("a").id()]);
        assert_eq!(first.pruned.waiting, [(link("a"), DAY)]);

        let waiting = plan(&["a"], &[], &[("a", ago(HOUR))]);
        assert_eq!(
            (&waiting.noted[..], &waiting.forgotten[..]),
            (&[][..], &[][..])
        );
        assert_eq!(waiting.pruned.waiting, [(link("a"), DAY - HOUR)]);

        let over = plan(&["a"], &[], &[("a", ago(DAY))]);
        assert_eq!(over.pruned.removed, [link("a")]);
        assert_eq!(over.forgotten, [link("a").id()]);
    }

    #[test]
    fn a_note_from_the_future_is_written_anew() {
        let noted = plan(&["a"], &[], &[("a", ago(DAY) + 2 * DAY)]);
        assert_eq!(noted.noted, [link("a").id()]);
        assert_eq!(noted.pruned.waiting, [(link("a"), DAY)]);
    }
}
