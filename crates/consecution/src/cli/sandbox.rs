//! `consecution sandbox check`: which parts of the sandbox this host can enforce.

use crate::app::{self, Finding, State};
use clap::Subcommand;
use serde::Serialize;

use super::listing::Listing;
use super::{Global, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks which parts of the sandbox this host can enforce, and says how to enable
    /// the rest.
    ///
    /// It finds out by starting sandboxes as the current user. The exit status is 1 if
    /// no sandbox can be started, so that no link can run here.
    Check(Listing),
}

/// No sandbox can be started.
const EXIT_NONE: u8 = 1;

pub(crate) fn execute(global: &Global, command: &Command) -> anyhow::Result<u8> {
    match command {
        Command::Check(listing) => {
            let findings = app::check_sandbox(global.ids()?);
            let rows: Vec<_> = findings.iter().map(Row::new).collect();
            listing.print(&rows, describe)?;
            let is_possible = findings
                .iter()
                .all(|finding| !finding.is_needed || finding.state != State::No);
            Ok(if is_possible { 0 } else { EXIT_NONE })
        }
    }
}

/// A facility of the sandbox.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    state: &'static str,
    needed: bool,
    detail: &'a str,
    remedy: Option<&'a str>,
}

impl Row<'_> {
    fn new(finding: &Finding) -> Row<'_> {
        Row {
            name: finding.name,
            state: match finding.state {
                State::Yes => "yes",
                State::Partly => "partly",
                State::No => "no",
            },
            needed: finding.is_needed,
            detail: &finding.detail,
            remedy: finding.remedy.as_deref(),
        }
    }
}

/// One line per facility, and below it how to enable what is missing.
fn describe(rows: &[Row<'_>]) -> String {
    let rows = rows.iter().flat_map(|row| {
        let found = [row.name, row.state, row.detail].map(str::to_owned);
        let remedy = row.remedy;
        let remedy =
            remedy.map(|remedy| [String::new(), String::new(), format!("to get it: {remedy}")]);
        std::iter::once(found).chain(remedy)
    });
    table::text(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        let finding = |name, state, remedy: Option<&str>| Finding {
            name,
            state,
            is_needed: false,
            detail: "so and so".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding("one", State::Yes, None),
            finding("another", State::No, Some("do this")),
        ];
        assert_eq!(
            describe(&findings.each_ref().map(Row::new)),
            "one      yes  so and so\nanother  no   so and so\n              to get it: do this\n"
        );
    }
}
