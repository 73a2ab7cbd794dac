//! What runners do at a moment, for people who look on.
//!
//! A runner in another process answers with [`RunnerFigures`] as JSON when a portal asks;
//! `docs/protocol.md` describes it. Nobody asks unless somebody looks at a portal's page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the processes of a link are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// In reserve.
    pub idle: u64,
    /// Starting.
    pub starting: u64,
    /// In use by calls.
    pub in_use: u64,
    /// Calls that wait for one.
    pub waiting: u64,
}

impl Processes {
    /// Adds those of another runner or link.
    pub fn add(&mut self, other: Processes) {
        self.idle = self.idle.saturating_add(other.idle);
        self.starting = self.starting.saturating_add(other.starting);
        self.in_use = self.in_use.saturating_add(other.in_use);
        self.waiting = self.waiting.saturating_add(other.waiting);
    }
}

/// What a runner is doing. Unknown fields are ignored, and missing ones have their defaults,
/// so that portals and runners of different versions understand each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunnerFigures {
    /// The runner's name.
    pub name: String,
    /// The processes of each link that it serves, by the link's id.
    pub links: BTreeMap<String, Processes>,
    /// It serves more links than fit into a message; the rest are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_incomplete: bool,
}

impl RunnerFigures {
    /// As JSON of at most `bytes_max` bytes. If the links do not fit, as many as fit.
    pub(crate) fn to_json(&self, bytes_max: usize) -> Vec<u8> {
        /// The most bytes of a link: its id, and four numbers with their names.
        const LINK_BYTES_MAX: usize = 200;
        let written = |figures: &RunnerFigures| serde_json::to_vec(figures).unwrap_or_default();
        let all = written(self);
        if all.len() <= bytes_max {
            return all;
        }
        let fit = bytes_max.saturating_sub(self.name.len() + LINK_BYTES_MAX) / LINK_BYTES_MAX;
        let links = self.links.iter().take(fit);
        written(&RunnerFigures {
            name: self.name.clone(),
            links: links.map(|(id, link)| (id.clone(), *link)).collect(),
            is_incomplete: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figures(links: u64) -> RunnerFigures {
        let processes = Processes {
            idle: u64::MAX,
            ..Processes::default()
        };
        RunnerFigures {
            name: "one".to_owned(),
            links: (0..links)
                .map(|at| (format!("{at:032x}"), processes))
                .collect(),
            is_incomplete: false,
        }
    }

    #[test]
    fn what_fits_is_told_whole() {
        let whole = figures(10);
        let json = whole.to_json(1 << 20);
        assert_eq!(
            serde_json::from_slice::<RunnerFigures>(&json).unwrap(),
            whole
        );
        let later = br#"{"name":"x","links":{"a":{"idle":1,"frozen":7}},"mood":"good"}"#;
        let later: RunnerFigures = serde_json::from_slice(later).unwrap();
        assert_eq!(later.links["a"].idle, 1);
    }

    proptest! {
        #[test]
        fn a_message_is_never_too_long(links in 0..300_u64, bytes_max in 512..40_000_usize) {
            let json = figures(links).to_json(bytes_max);
            prop_assert!(json.len() <= bytes_max);
            let told: RunnerFigures = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(told.is_incomplete, told.links.len() < links as usize);
        }
    }
}
