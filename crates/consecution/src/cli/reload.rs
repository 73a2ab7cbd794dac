//! Reads the chain files again on SIGHUP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::chain_file::{self, ChainFileError};
use crate::error::with_causes;
use chain::Chain;

use super::signals::HangUps;

/// How long the old chains stay in use while the new ones become ready. After that the
/// new ones are used even if they are not ready.
pub(crate) const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// How many chains (added, changed, removed) the log line names of each kind.
const NAMED_MAX: usize = 10;

/// On each SIGHUP, reads `files` again and passes their chains to `offer`. `chains` are
/// those of the first reading. If one file has an error, all chains stay as they are.
pub(crate) async fn on_hang_up(
    mut hang_ups: HangUps,
    files: Vec<PathBuf>,
    mut chains: Vec<Chain>,
    mut offer: impl AsyncFnMut(Vec<Chain>) -> anyhow::Result<()>,
) -> Infallible {
    loop {
        hang_ups.next().await;
        tracing::info!("reading the chain files again");
        let paths = files.clone();
        let reading = tokio::task::spawn_blocking(move || chain_file::read_all(&paths));
        let read = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                refuse(&error);
                continue;
            }
            // The process is ending, or the task panicked, which was printed.
            Err(_) => continue,
        };
        match offer(read.clone()).await {
            Ok(()) => {
                tracing::info!(
                    "the chain files were read again: {}",
                    Changes::new(&chains, &read)
                );
                chains = read;
            }
            Err(error) => tracing::error!("all chains stay as they were: {error:#}"),
        }
    }
}

/// Logs the errors in a chain file, with their lines.
fn refuse(error: &ChainFileError) {
    let ChainFileError::Invalid(invalid) = error else {
        tracing::error!("all chains stay as they were: {}", with_causes(error));
        return;
    };
    for problem in invalid.diagnostics() {
        let (line, column) = (problem.line, problem.column);
        tracing::error!("{}:{line}:{column}: {}", invalid.label(), problem.message);
    }
    tracing::error!("all chains stay as they were: {} is wrong", invalid.label());
}

/// How the chains differ from those before, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes<'a> {
    added: Vec<&'a str>,
    changed: Vec<&'a str>,
    removed: Vec<&'a str>,
    as_before: usize,
}

impl<'a> Changes<'a> {
    fn new(before: &'a [Chain], now: &'a [Chain]) -> Changes<'a> {
        let mut changes = Changes::default();
        let by_name = before.iter().map(|chain| (chain.name.as_str(), chain));
        let mut before: BTreeMap<_, _> = by_name.collect();
        for chain in now {
            match before.remove(chain.name.as_str()) {
                None => changes.added.push(&chain.name),
                Some(old) if old == chain => changes.as_before += 1,
                Some(_) => changes.changed.push(&chain.name),
            }
        }
        changes.removed = before.into_keys().collect();
        changes
    }
}

impl fmt::Display for Changes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, names) in [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ] {
            if names.is_empty() {
                continue;
            }
            let named = names.iter().take(NAMED_MAX);
            let named: Vec<_> = named.map(|name| format!("'{name}'")).collect();
            write!(formatter, "{what} {}", named.join(", "))?;
            match names.len() - named.len() {
                0 => formatter.write_str("; ")?,
                more => write!(formatter, " and {more} more; ")?,
            }
        }
        write!(formatter, "{} as before", self.as_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, image: &str) -> Chain {
        let text = format!("Name: {name}\nChain:\n- Image: {image}\n");
        Chain::parse(&text, "x.yaml", "x").unwrap()
    }

    #[test]
    fn what_has_changed_is_said_by_name() {
        let before = [chain("a", "1"), chain("b", "1"), chain("c", "1")];
        let now = [chain("d", "1"), chain("b", "2"), chain("a", "1")];
        assert_eq!(
            Changes::new(&before, &now).to_string(),
            "added 'd'; changed 'b'; removed 'c'; 1 as before"
        );
        assert_eq!(Changes::new(&now, &now).to_string(), "3 as before");
        let many: Vec<_> = (0..12)
            .map(|number| chain(&format!("n{number:02}"), "1"))
            .collect();
        let said = Changes::new(&[], &many).to_string();
        assert!(said.ends_with(" 'n09' and 2 more; 0 as before"), "{said}");
    }
}
