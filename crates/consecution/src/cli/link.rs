//! `consecution link`: lists, shows, removes and prunes the links that portals have
//! published, with the state that runners report for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::app;
use crate::error::{FailedTo, with_causes};
use crate::link_store::{LinkStore, Pruned, RunnerState, prune};
use crate::text;
use anyhow::anyhow;
use chain::units::{UnitError, parse_duration};
use chain::{Link, LinkId};
use serde::Serialize;

use super::listing::Listing;
use super::table::table;
use super::{complain, print, servers};

/// How many characters of a command line the list shows.
const COMMAND_CHARS_MAX: usize = 60;

/// How many of a link's names the list shows.
const NAMES_SHOWN_MAX: usize = 3;

/// How many matching links the error for an ambiguous id lists.
const AMBIGUOUS_SHOWN_MAX: usize = 5;

/// Digits of a link's id.
const ID_DIGITS: usize = 32;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Lists links: id, names (CHAIN/LINK, from the running portals), image, command,
    /// and how many runners serve each.
    List {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
    /// Shows a link as YAML, and for each runner whether it serves the link, or why
    /// not.
    Show {
        /// Id of the link, as `list` and `check` print it, or the beginning of an id
        /// that no other link's id shares.
        id: IdPrefix,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
    /// Removes links from etcd: runners finish calls in flight, then stop serving
    /// them.
    Remove {
        /// Ids of the links, or beginnings of ids that no other link's id shares.
        #[arg(required = true)]
        ids: Vec<IdPrefix>,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
    /// Removes links that no portal has used in its chains for a while.
    ///
    /// Each run records which links no portal names in its chains, and removes those
    /// that were recorded at least --unnamed-for ago and are still unnamed. So run it
    /// regularly, for instance once an hour.
    Prune {
        /// How long a link must have been unnamed before it is removed; 0 removes at
        /// once.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = unnamed_for)]
        unnamed_for: Duration,
        /// Only print what would be removed; change and record nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        listing: Listing,
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
        Command::List { listing, etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            let links = store.list().await.map_err(FailedTo)?;
            let runners = store.runners().await.map_err(FailedTo)?;
            let names = names(&*store).await;
            let rows = links.iter().map(|link| Row::new(link, &names, &runners));
            let rows: Vec<_> = rows.collect();
            listing.print(&rows, |rows| links_table(rows, runners.len()))
        }
        Command::Show { id, etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            let links = store.list().await.map_err(FailedTo)?;
            let link = id.find(&links)?;
            let id = link.id();
            let runners = store.runners().await.map_err(FailedTo)?;
            print(&description(id, link, &runners))
        }
        Command::Remove { ids, etcd } => {
            let store = app::link_store(&etcd.options()?)?;
            for id in whole(&*store, &ids).await? {
                if !store.remove(id).await.map_err(FailedTo)? {
                    return Err(unknown(id));
                }
            }
            Ok(())
        }
        Command::Prune {
            unnamed_for,
            dry_run,
            listing,
            etcd,
        } => {
            let store = app::link_store(&etcd.options()?)?;
            let pruned = prune(&*store, unnamed_for, dry_run).await;
            let rows = pruned_rows(&pruned.map_err(FailedTo)?);
            listing.print(&rows, |rows| pruned_table(rows, dry_run))
        }
    }
}

/// Completes abbreviated ids; fails before anything is removed if one matches no link or
/// several. A whole id is taken as it is: it may be the key of a record that is no valid
/// link, so that such records can be removed too.
async fn whole(store: &dyn LinkStore, ids: &[IdPrefix]) -> anyhow::Result<Vec<LinkId>> {
    let links = match ids.iter().all(|id| id.whole().is_some()) {
        true => Vec::new(),
        false => store.list().await.map_err(FailedTo)?,
    };
    ids.iter()
        .map(|id| match id.whole() {
            Some(id) => Ok(id),
            None => Ok(id.find(&links)?.id()),
        })
        .collect()
}

/// The names that running portals give to links, by link id. Empty, with a message, if
/// the portals' keys cannot be read.
async fn names(store: &dyn LinkStore) -> Names {
    let mut names = Names::new();
    match store.portals().await {
        Ok(portals) => {
            for (chain, links) in portals.into_values().flat_map(|portal| portal.chains) {
                for link in links {
                    let name = format!("{chain}/{}", link.name);
                    names.entry(link.id).or_default().insert(name);
                }
            }
        }
        Err(error) => complain(format_args!(
            "links are listed without their names: failed to {}",
            with_causes(&error)
        )),
    }
    names
}

/// Parses a duration that may be zero.
fn unnamed_for(text: &str) -> Result<Duration, UnitError> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => parse_duration(text),
    }
}

fn unknown(id: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("failed to find link {id}: no portal has made it known; see `consecution link list`")
}

/// A link's id, or the beginning of one.
#[derive(Debug, Clone)]
pub(crate) struct IdPrefix(String);

impl FromStr for IdPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<IdPrefix, String> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if (1..=ID_DIGITS).contains(&text.len()) && text.bytes().all(is_digit) {
            Ok(IdPrefix(text.to_owned()))
        } else {
            Err(format!(
                "a link's id has {ID_DIGITS} hex digits in lower case; give them all, or the first of them"
            ))
        }
    }
}

impl IdPrefix {
    /// The id, if all of its digits were given.
    fn whole(&self) -> Option<LinkId> {
        self.0.parse().ok()
    }

    /// The one link whose id begins with these digits.
    fn find<'a>(&self, links: &'a [Arc<Link>]) -> anyhow::Result<&'a Arc<Link>> {
        let begins = |link: &&Arc<Link>| link.id().to_string().starts_with(&self.0);
        let found: Vec<_> = links.iter().filter(begins).collect();
        match found[..] {
            [] => Err(unknown(&self.0)),
            [link] => Ok(link),
            _ => {
                let shown = found.iter().take(AMBIGUOUS_SHOWN_MAX);
                let shown: Vec<_> = shown.map(|link| link.id().to_string()).collect();
                Err(anyhow!(
                    "failed to find link {}: the ids of {} links begin so: {}{}; give more of it",
                    self.0,
                    found.len(),
                    shown.join(", "),
                    if found.len() > shown.len() {
                        ", …"
                    } else {
                        ""
                    }
                ))
            }
        }
    }
}

type Runners = BTreeMap<String, RunnerState>;

/// The names of links, by link id.
type Names = BTreeMap<String, BTreeSet<String>>;

/// What a runner does with a link.
enum State<'a> {
    Serving,
    Loading,
    Broken(&'a str),
    /// The runner is draining and takes no more calls.
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

/// What a link runs, in a list.
#[derive(Debug, Serialize)]
struct Runs {
    image: String,
    command: Option<String>,
    arguments: Vec<String>,
}

impl Runs {
    fn new(link: &Link) -> Runs {
        Runs {
            image: link.image.clone(),
            command: link.command.clone(),
            arguments: link.arguments.clone(),
        }
    }

    fn shown_image(&self) -> String {
        text::line(&self.image).into_owned()
    }

    fn shown_command(&self) -> String {
        let words = self.command.iter().chain(&self.arguments);
        let line = words.cloned().collect::<Vec<_>>().join(" ");
        text::excerpt(&line, COMMAND_CHARS_MAX)
    }
}

/// A link in the list: its names, and how many runners do what with it.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    names: BTreeSet<String>,
    #[serde(flatten)]
    runs: Runs,
    serving: usize,
    loading: usize,
    broken: usize,
    leaving: usize,
}

impl Row {
    fn new(link: &Link, names: &Names, runners: &Runners) -> Row {
        let id = link.id().to_string();
        let mut row = Row {
            names: names.get(&id).cloned().unwrap_or_default(),
            runs: Runs::new(link),
            serving: 0,
            loading: 0,
            broken: 0,
            leaving: 0,
            id,
        };
        for runner in runners.values() {
            match state(&row.id, runner) {
                State::Serving => row.serving += 1,
                State::Loading => row.loading += 1,
                State::Broken(_) => row.broken += 1,
                State::Leaving => row.leaving += 1,
            }
        }
        row
    }

    /// `served by 2 of 3, 1 loading`
    fn summary(&self, runners: usize) -> String {
        if runners == 0 {
            return "no runner".to_owned();
        }
        let mut text = format!("served by {} of {runners}", self.serving);
        for (count, what) in [
            (self.loading, "loading"),
            (self.broken, "broken"),
            (self.leaving, "leaving"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }
}

fn links_table(rows: &[Row], runners: usize) -> String {
    let cells = |row: &Row| {
        [
            row.id.clone(),
            name(&row.names),
            row.runs.shown_image(),
            row.runs.shown_command(),
            row.summary(runners),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    table(["ID", "NAME", "IMAGE", "COMMAND", "STATE"], rows)
}

/// A link that is removed, or will be.
#[derive(Debug, Serialize)]
struct PrunedRow {
    id: String,
    #[serde(flatten)]
    runs: Runs,
    removed: bool,
    /// How long it is still kept, if it is not removed.
    kept_seconds: Option<u64>,
}

fn pruned_rows(pruned: &Pruned) -> Vec<PrunedRow> {
    let row = |link: &Link, left: Option<Duration>| PrunedRow {
        id: link.id().to_string(),
        runs: Runs::new(link),
        removed: left.is_none(),
        kept_seconds: left.map(|left| left.as_secs()),
    };
    let removed = pruned.removed.iter().map(|link| row(link, None));
    let waiting = pruned.waiting.iter();
    let waiting = waiting.map(|(link, left)| row(link, Some(*left)));
    removed.chain(waiting).collect()
}

fn pruned_table(rows: &[PrunedRow], is_dry: bool) -> String {
    let cells = |row: &PrunedRow| {
        let state = match row.kept_seconds {
            None if is_dry => "would be removed".to_owned(),
            None => "removed".to_owned(),
            Some(seconds) => {
                let left = indicatif::HumanDuration(Duration::from_secs(seconds));
                format!("unnamed, kept for {left} more")
            }
        };
        let (image, command) = (row.runs.shown_image(), row.runs.shown_command());
        [row.id.clone(), image, command, state]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    match rows.is_empty() {
        true => String::new(),
        false => table(["ID", "IMAGE", "COMMAND", "STATE"], rows),
    }
}

/// A link's names in one text: the first few, and how many more there are.
fn name(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "-".to_owned();
    }
    let shown = names.iter().take(NAMES_SHOWN_MAX);
    let shown: Vec<_> = shown.map(|name| text::line(name)).collect();
    let more = match names.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// The link as YAML, with its id and the state at each runner as comments.
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
        let names = Names::from([(id.to_string(), BTreeSet::from([evil.to_owned()]))]);
        let table = links_table(&[Row::new(&link, &names, &runners)], runners.len());
        assert_eq!(table.lines().count(), 2);
        // Its name, its command.
        assert_eq!(table.matches(shown).count(), 2, "{table}");
        let description = description(id, &link, &runners);
        let last = description.lines().last().unwrap();
        assert_eq!(last, format!("# runner {shown} cannot serve it: {shown}"));
        assert!(text::lines(&description) == description, "{description}");
    }
    #[test]
    fn an_id_may_be_given_by_its_beginning_where_that_is_one_link_s() {
        let links: Vec<_> = (0..40)
            .map(|number| Arc::new(Link::new(number.to_string())))
            .collect();
        let find = |text: &str| text.parse::<IdPrefix>().unwrap().find(&links).cloned();
        let id = links[7].id().to_string();
        assert_eq!(find(&id).unwrap(), links[7]);
        assert_eq!(find(&id[..8]).unwrap(), links[7]);
        // There are more links than digits.
        let digit = "0123456789abcdef".chars().find(|digit| {
            let begins = |link: &&Arc<Link>| link.id().to_string().starts_with(*digit);
            links.iter().filter(begins).count() > 1
        });
        let error = find(&digit.unwrap().to_string()).unwrap_err().to_string();
        assert!(error.contains("links begin so: "), "{error}");
        let error = find(&"0".repeat(32)).unwrap_err().to_string();
        assert!(error.contains("no portal has made it known"), "{error}");
        for wrong in ["", "x", "ABC", &"0".repeat(33), "é"] {
            assert!(wrong.parse::<IdPrefix>().is_err(), "{wrong}");
        }
    }
}
