//! `consecution sandbox check`: which parts of the sandbox this host can enforce.

use crate::app::{self, Finding, State};
use clap::Subcommand;

use super::{Global, print, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks which parts of the sandbox this host can enforce, and says how to enable
    /// the rest.
    ///
    /// It finds out by starting sandboxes as the current user. The exit status is 1 if
    /// no sandbox can be started, so that no link can run here.
    Check,
}

/// No sandbox can be started.
const EXIT_NONE: u8 = 1;

pub(crate) fn execute(global: &Global, command: &Command) -> anyhow::Result<u8> {
    match command {
        Command::Check => {
            let findings = app::check_sandbox(global.ids()?);
            print(&describe(&findings))?;
            let is_possible = findings
                .iter()
                .all(|finding| !finding.is_needed || finding.state != State::No);
            Ok(if is_possible { 0 } else { EXIT_NONE })
        }
    }
}

/// One line per facility, and below it how to enable what is missing.
fn describe(findings: &[Finding]) -> String {
    let rows = findings.iter().flat_map(|finding| {
        let state = match finding.state {
            State::Yes => "yes",
            State::Partly => "partly",
            State::No => "no",
        };
        let found = [
            finding.name.to_owned(),
            state.to_owned(),
            finding.detail.clone(),
        ];
        let remedy = finding.remedy.as_ref();
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
            describe(&findings),
            "one      yes  so and so\nanother  no   so and so\n              to get it: do this\n"
        );
    }
}
