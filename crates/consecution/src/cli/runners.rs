//! `consecution runner list`: lists the runners that have a key in etcd, with the state
//! that each writes there.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::app;
use crate::error::FailedTo;
use crate::link_store::RunnerState;
use crate::text;

use super::table::table;
use super::{print, servers};

/// Prints the table of running runners.
pub(crate) fn list(etcd: &servers::Etcd) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let store = app::link_store(&etcd.options()?);
    runtime.block_on(async {
        let runners = store?.runners().await;
        let runners = runners.map_err(FailedTo)?;
        print(&runners_table(&runners, SystemTime::now()))?;
        Ok(0)
    })
}

fn runners_table(runners: &BTreeMap<String, RunnerState>, now: SystemTime) -> String {
    let row = |(name, state): (&String, &RunnerState)| {
        [
            text::line(name).into_owned(),
            match (state.draining, &state.starved) {
                (true, _) => "draining",
                (false, Some(_)) => "starved",
                (false, None) => "up",
            }
            .to_owned(),
            age(state.started, now),
            state.serving.to_string(),
            at_least(state.loading.len()),
            at_least(state.broken.len()),
            state.processes_max.to_string(),
            text::line(&state.version).into_owned(),
        ]
    };
    let rows: Vec<_> = runners.iter().map(row).collect();
    let heading = [
        "NAME",
        "STATE",
        "STARTED",
        "SERVING",
        "LOADING",
        "BROKEN",
        "PROCESSES",
        "VERSION",
    ];
    table(heading, rows)
}

/// How long ago a runner was started. Runners of earlier versions do not write that (0).
fn age(started: u64, now: SystemTime) -> String {
    if started == 0 {
        return "-".to_owned();
    }
    let started = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(started));
    let age = started.and_then(|started| now.duration_since(started).ok());
    match age.map_or(0, |age| age.as_secs()) {
        0 => "just now".to_owned(),
        seconds => {
            let age = indicatif::HumanDuration(Duration::from_secs(seconds));
            format!("{age} ago")
        }
    }
}

/// The length of a list of links, with "or more" if the runner cut the list there.
fn at_least(links: usize) -> String {
    match links {
        RunnerState::LINKS_LISTED_MAX.. => format!("{links} or more"),
        _ => links.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_are_listed_as_they_say_themselves() {
        let many = (0..RunnerState::LINKS_LISTED_MAX).map(|number| number.to_string());
        let runners = BTreeMap::from([
            (
                "evil\n\u{1b}[2J".to_owned(),
                RunnerState {
                    started: u64::MAX,
                    draining: true,
                    ..RunnerState::default()
                },
            ),
            (
                "north".to_owned(),
                RunnerState {
                    version: "1.2.3".to_owned(),
                    started: 940,
                    serving: 7,
                    loading: many.collect(),
                    processes_max: 256,
                    ..RunnerState::default()
                },
            ),
            (
                "south".to_owned(),
                RunnerState {
                    starved: Some("too many open files".to_owned()),
                    ..RunnerState::default()
                },
            ),
        ]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let text = runners_table(&runners, now);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|it| !it.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[1..],
            [
                vec![
                    r"evil\n\u001b[2J",
                    "draining",
                    "just now",
                    "0",
                    "0",
                    "0",
                    "0"
                ],
                vec![
                    "north",
                    "up",
                    "60 seconds ago",
                    "7",
                    "100 or more",
                    "0",
                    "256",
                    "1.2.3"
                ],
                vec!["south", "starved", "-", "0", "0", "0", "0"],
            ]
        );
    }
}
