//! `consecution link`: the links that portals have made known, and how runners
//! fare with them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::anyhow;
use chain::{Link, LinkId};
use consecution::app;
use consecution::link_store::{LinkStoreError, RunnerState};
use consecution::text;

use super::{print, servers};

/// How many characters of a command line the list shows.
const COMMAND_CHARACTERS_MAX: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Lists the links, and how many runners serve each.
    List {
        #[command(flatten)]
        etcd: servers::Etcd,
    },
    /// Shows what a link runs, as YAML, and how each runner fares with it.
    Show {
        /// Its id, as `list` and `check` print it.
        id: LinkId,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
    /// Removes links: runners finish what they have of them, and serve them no
    /// longer.
    Remove {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<LinkId>,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
}

pub(crate) fn execute(command: Command) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(try_execute(command))?;
    Ok(0)
}

async fn try_execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            let links = store.list().await.map_err(failed_to)?;
            let runners = store.runners().await.map_err(failed_to)?;
            print(&table(&links, &runners))
        }
        Command::Show { id, etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            let links = store.list().await.map_err(failed_to)?;
            let Some(link) = links.iter().find(|link| link.id() == id) else {
                return Err(unknown(id));
            };
            let runners = store.runners().await.map_err(failed_to)?;
            print(&description(id, link, &runners))
        }
        Command::Remove { ids, etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            for id in ids {
                if !store.remove(id).await.map_err(failed_to)? {
                    return Err(unknown(id));
                }
            }
            Ok(())
        }
    }
}

fn failed_to(error: LinkStoreError) -> anyhow::Error {
    anyhow!("failed to {error}")
}

fn unknown(id: LinkId) -> anyhow::Error {
    anyhow!("failed to find link {id}: no portal has made it known; see `consecution link list`")
}

type Runners = BTreeMap<String, RunnerState>;

/// How a runner fares with a link.
enum State<'a> {
    Serving,
    Loading,
    Broken(&'a str),
    /// It takes no more calls.
    Leaving,
}

fn state<'a>(id: &str, runner: &'a RunnerState) -> State<'a> {
    if runner.draining {
        State::Leaving
    } else if let Some(reason) = runner.broken.get(id) {
        State::Broken(reason)
    } else if runner.loading.iter().any(|loading| loading == id) {
        State::Loading
    } else {
        State::Serving
    }
}

fn table(links: &[Arc<Link>], runners: &Runners) -> String {
    let rows: Vec<[String; 4]> = links
        .iter()
        .map(|link| {
            let id = link.id().to_string();
            let summary = summary(&id, runners);
            [
                id,
                text::line(&link.image).into_owned(),
                command(link),
                summary,
            ]
        })
        .collect();
    let heading = ["ID", "IMAGE", "COMMAND", "STATE"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&heading]);
        cells
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [id, image, command, state] in [&heading].into_iter().chain(&rows) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id:0$}  {image:1$}  {command:2$}  {state}",
            widths[0], widths[1], widths[2]
        );
    }
    text
}

/// A link's state over all runners, in a few words.
fn summary(id: &str, runners: &Runners) -> String {
    if runners.is_empty() {
        return "no runner".to_owned();
    }
    let (mut serving, mut loading, mut broken, mut leaving) = (0, 0, 0, 0);
    for runner in runners.values() {
        match state(id, runner) {
            State::Serving => serving += 1,
            State::Loading => loading += 1,
            State::Broken(_) => broken += 1,
            State::Leaving => leaving += 1,
        }
    }
    let mut text = format!("served by {serving} of {}", runners.len());
    for (count, what) in [
        (loading, "loading"),
        (broken, "broken"),
        (leaving, "leaving"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// The link as YAML, and the rest as comments.
fn description(id: LinkId, link: &Link, runners: &Runners) -> String {
    let mut text = format!("# {id}\n{}", link.to_yaml());
    let id = id.to_string();
    for (name, runner) in runners {
        let state = match state(&id, runner) {
            State::Serving => "serves it".to_owned(),
            State::Loading => "is loading it".to_owned(),
            State::Leaving => "is leaving".to_owned(),
            State::Broken(reason) => format!("cannot serve it: {reason}"),
        };
        let line = format!("# runner {name} {state}");
        let _ = writeln!(text, "{}", text::line(&line));
    }
    text
}

fn command(link: &Link) -> String {
    let words = link.command.iter().chain(&link.arguments);
    let line = words.cloned().collect::<Vec<_>>().join(" ");
    let line = text::line(&line);
    let mut characters = line.chars();
    let mut shown: String = characters.by_ref().take(COMMAND_CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_links_and_runners_say_stays_on_its_line() {
        let evil = "a\n\u{1b}[2J\u{202e}b";
        let shown = r"a\n\u001b[2J\u202eb";
        let link = Link {
            command: Some(evil.to_owned()),
            ..Link::new("busybox")
        };
        let id = link.id();
        let broken = RunnerState {
            broken: BTreeMap::from([(id.to_string(), evil.to_owned())]),
            ..RunnerState::default()
        };
        let runners = Runners::from([(evil.to_owned(), broken)]);
        let table = table(&[Arc::new(link.clone())], &runners);
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains(shown), "{table}");
        let description = description(id, &link, &runners);
        let last = description.lines().last().unwrap();
        assert_eq!(last, format!("# runner {shown} cannot serve it: {shown}"));
        assert!(text::lines(&description) == description, "{description}");
    }
}
