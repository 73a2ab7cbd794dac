//! The figures of `/stats` that a terminal shows, and what they tell of the last minute. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

/// How far rates and times look back, in seconds, and how many figures are kept of that:
/// they come once a second.
const WINDOW_S: f64 = 60.0;
const FIGURES_MAX: usize = 120;

/// Failures for which the caller is to blame.
const CALLERS: [&str; 3] = ["client_gone", "input_cut", "parameter"];

/// The part of the figures that is shown. What is missing, as with another version, is
/// nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    pub(super) version: String,
    pub(super) started: f64,
    pub(super) now: f64,
    pub(super) ready: bool,
    pub(super) reason: Option<String>,
    pub(super) missing: Vec<Missing>,
    pub(super) in_flight: i64,
    pub(super) bounds: Vec<f64>,
    pub(super) chains: Vec<Chain>,
    pub(super) runners: Vec<Runner>,
    pub(super) failures: Vec<Failure>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Missing {
    pub(super) chain: String,
    pub(super) link_index: usize,
    pub(super) link_name: String,
    pub(super) reason: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) calls: u64,
    pub(super) in_flight: i64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) times: Times,
    pub(super) links: Vec<Link>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Times {
    pub(super) buckets: Vec<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) processes: crate::figures::Processes,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Runner {
    pub(super) name: Option<String>,
    pub(super) starved: Option<String>,
    pub(super) draining: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    pub(super) at: f64,
    pub(super) chain: String,
    pub(super) link_index: usize,
    pub(super) link_name: String,
    pub(super) reason: String,
}

/// The figures of the last minute, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Figures>);

/// A chain in the last minute.
#[derive(Debug, PartialEq)]
pub(super) struct Recent {
    pub(super) calls_per_second: f64,
    /// `None` if no call has ended.
    pub(super) median: Option<f64>,
    pub(super) slow: Option<f64>,
    pub(super) failed: u64,
    /// What each link has taken of the chain's time, from 0 to 1; `None` if it took none.
    pub(super) shares: Option<Vec<f64>>,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, figures: Figures) {
        let (now, started) = (figures.now, figures.started);
        // Figures of a process before this one tell nothing.
        self.0
            .retain(|before| before.started.total_cmp(&started).is_eq());
        self.0.push_back(figures);
        let is_old = |second: &Figures| now - second.now >= WINDOW_S;
        while self.0.len() > FIGURES_MAX || (self.0.len() > 2 && is_old(&self.0[1])) {
            self.0.pop_front();
        }
    }

    /// The newest figures; `None` if there are none.
    pub(super) fn newest(&self) -> Option<&Figures> {
        self.0.back()
    }

    /// What a chain of the newest figures has done.
    pub(super) fn recent(&self, chain: &Chain) -> Recent {
        let (oldest, newest) = (self.0.front(), self.0.back());
        let nothing = Chain::default();
        let before = oldest.and_then(|it| it.chains.iter().find(|it| it.name == chain.name));
        let before = before.unwrap_or(&nothing);
        let seconds = match (oldest, newest) {
            (Some(oldest), Some(newest)) => (newest.now - oldest.now).max(f64::EPSILON),
            _ => 1.0,
        };
        let calls = chain.calls.saturating_sub(before.calls);
        let buckets = chain.times.buckets.iter().enumerate();
        let buckets: Vec<_> = buckets
            .map(|(at, count)| {
                count.saturating_sub(before.times.buckets.get(at).copied().unwrap_or(0))
            })
            .collect();
        let bounds = newest.map_or(&[][..], |it| &it.bounds);
        Recent {
            calls_per_second: calls as f64 / seconds,
            median: quantile(&buckets, bounds, 0.5),
            slow: quantile(&buckets, bounds, 0.95),
            failed: failed(chain).saturating_sub(failed(before)),
            shares: shares(chain, before),
        }
    }
}

fn failed(chain: &Chain) -> u64 {
    let ours = chain.failures.iter();
    let ours = ours.filter(|(kind, _)| !CALLERS.contains(&kind.as_str()));
    ours.fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Links wait for one another, so what they have used of the processor says where the time
/// goes; where that is not counted, how long they ran.
fn shares(chain: &Chain, before: &Chain) -> Option<Vec<f64>> {
    let spent = |of: fn(&Link) -> f64| -> Vec<f64> {
        let links = chain.links.iter().enumerate();
        links
            .map(|(at, link)| of(link) - before.links.get(at).map_or(0.0, of))
            .collect()
    };
    let kinds = [spent(|link| link.cpu_seconds), spent(|link| link.seconds)];
    kinds.into_iter().find_map(|spent| {
        let all: f64 = spent.iter().sum();
        (all > 0.0).then(|| spent.iter().map(|time| time / all).collect())
    })
}

/// The time below which this share of calls stayed, in seconds, from counts in buckets.
fn quantile(buckets: &[u64], bounds: &[f64], share: f64) -> Option<f64> {
    let all: f64 = buckets.iter().map(|count| *count as f64).sum();
    let mut left = all * share;
    for (at, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if left <= count {
            let low = at.checked_sub(1).and_then(|at| bounds.get(at));
            let low = low.copied().unwrap_or(0.0);
            // The last one has no bound.
            let high = bounds.get(at).copied().unwrap_or(2.0 * low);
            return Some(low + (high - low) * left / count);
        }
        left -= count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figures(now: f64, calls: u64, buckets: [u64; 3], cpu: [f64; 2]) -> Figures {
        let link = |cpu_seconds| Link {
            seconds: 1.0,
            cpu_seconds,
            ..Link::default()
        };
        Figures {
            now,
            bounds: vec![0.001, 0.002],
            chains: vec![Chain {
                name: "one".into(),
                calls,
                failures: [("exited".into(), calls / 10), ("client_gone".into(), calls)].into(),
                times: Times {
                    buckets: buckets.into(),
                },
                links: cpu.map(link).into(),
                ..Chain::default()
            }],
            ..Figures::default()
        }
    }

    #[test]
    fn rates_and_times_are_those_of_the_last_minute() {
        let mut window = Window::default();
        for second in 0..=120 {
            let calls = second * 10;
            let cpu = second as f64;
            window.add(figures(cpu, calls, [calls, 0, 0], [cpu, 3.0 * cpu]));
        }
        let newest = window.newest().unwrap();
        let recent = window.recent(&newest.chains[0]);
        assert_eq!(recent.calls_per_second, 10.0);
        assert_eq!(recent.failed, 60);
        assert_eq!(recent.median, Some(0.0005));
        assert_eq!(recent.shares, Some(vec![0.25, 0.75]));
        // Another process counts from nothing.
        for calls in [0, 3] {
            window.add(Figures {
                started: 7.0,
                ..figures(200.0, calls, [0, 0, calls], [0.0, 0.0])
            });
        }
        let recent = window.recent(&window.newest().unwrap().chains[0]);
        assert_eq!(recent.failed, 0);
        assert_eq!(recent.slow, Some(0.002 + 0.002 * 0.95));
    }

    #[test]
    fn what_another_version_gives_is_no_trouble() {
        let figures: Figures =
            serde_json::from_str(r#"{"chains":[{"name":"x"}],"new":1}"#).unwrap();
        let mut window = Window::default();
        window.add(figures);
        let recent = window.recent(&window.newest().unwrap().chains[0]);
        assert_eq!((recent.median, recent.shares), (None, None));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_its_rank(
            buckets in prop::collection::vec(0..50_u64, 1..8),
            share in 0.01..1.0,
        ) {
            let bounds: Vec<f64> = (1..buckets.len()).map(|at| at as f64).collect();
            let all: u64 = buckets.iter().sum();
            let Some(found) = quantile(&buckets, &bounds, share) else {
                prop_assert_eq!(all, 0);
                return Ok(());
            };
            let rank = all as f64 * share;
            let mut sum = 0;
            let at = buckets.iter().position(|count| {
                sum += count;
                rank <= sum as f64 + 1e-9
            });
            let at = at.unwrap() as f64;
            // The last bucket is as wide as all before it.
            prop_assert!(at <= found && found <= (at + 1.0).max(2.0 * at), "{}", found);
        }
    }
}
