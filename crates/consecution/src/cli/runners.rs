//! `consecution runner list`: lists the runners that have a key in etcd, with the state
//! that each writes there.

use std::time::{Duration, SystemTime};

use crate::app;
use crate::error::FailedTo;
use crate::link_store::RunnerState;
use crate::text;
use serde::Serialize;

use super::listing::Listing;
use super::servers;
use super::table::table;

/// Lists running runners.
pub(crate) fn list(etcd: &servers::Etcd, listing: Listing) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let store = app::link_store(&etcd.options()?);
    runtime.block_on(async {
        let runners = store?.runners().await;
        let runners = runners.map_err(FailedTo)?;
        let rows: Vec<_> = runners.iter().map(Row::new).collect();
        listing.print(&rows, |rows| runners_table(rows, SystemTime::now()))?;
        Ok(0)
    })
}

/// A runner, as it says itself.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    state: &'static str,
    starved: Option<&'a str>,
    /// In seconds since 1970. Runners of earlier versions do not write it.
    started: Option<u64>,
    serving: usize,
    loading: usize,
    broken: usize,
    processes_max: usize,
    version: &'a str,
}

impl Row<'_> {
    fn new<'a>((name, state): (&'a String, &'a RunnerState)) -> Row<'a> {
        Row {
            name,
            state: match (state.draining, &state.starved) {
                (true, _) => "draining",
                (false, Some(_)) => "starved",
                (false, None) => "up",
            },
            starved: state.starved.as_deref(),
            started: Some(state.started).filter(|started| *started > 0),
            serving: state.serving,
            loading: state.loading.len(),
            broken: state.broken.len(),
            processes_max: state.processes_max,
            version: &state.version,
        }
    }
}

fn runners_table(rows: &[Row<'_>], now: SystemTime) -> String {
    let cells = |row: &Row<'_>| {
        [
            text::line(row.name).into_owned(),
            row.state.to_owned(),
            age(row.started, now),
            row.serving.to_string(),
            at_least(row.loading),
            at_least(row.broken),
            row.processes_max.to_string(),
            text::line(row.version).into_owned(),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
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

/// How long ago a runner was started.
fn age(started: Option<u64>, now: SystemTime) -> String {
    let Some(started) = started else {
        return "-".to_owned();
    };
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
    use std::collections::BTreeMap;

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
        let rows: Vec<_> = runners.iter().map(Row::new).collect();
        let text = runners_table(&rows, now);
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
