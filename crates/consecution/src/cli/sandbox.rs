//! `consecution sandbox check`: which parts of the sandbox this host can enforce.

use crate::app::{self, Finding, State};
use clap::Subcommand;

use super::{Global, print};

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
            print(&table(&findings))?;
            let is_possible = findings
                .iter()
                .all(|finding| !finding.is_needed || finding.state != State::No);
            Ok(if is_possible { 0 } else { EXIT_NONE })
        }
    }
}

/// One line per facility, and below it how to enable what is missing.
fn table(findings: &[Finding]) -> String {
    let names = findings.iter().map(|finding| finding.name.len());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let state = match finding.state {
            State::Yes => "yes",
            State::Partly => "partly",
            State::No => "no",
        };
        let (name, detail) = (finding.name, &finding.detail);
        text.push_str(&format!("{name:width$}  {state:6}  {detail}\n"));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:width$}          to get it: {remedy}\n", ""));
        }
    }
    text
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
            table(&findings),
            "one      yes     so and so\nanother  no      so and so\n                 to get it: do this\n"
        );
    }
}
