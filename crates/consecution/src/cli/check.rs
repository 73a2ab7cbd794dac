//! `consecution check`: validates chain files and prints what their links run.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{chain_file, text};
use chain::units::format_duration;
use chain::{Chain, ChainLink, DEFAULT_DEADLINE, Deadline};

use super::quote::quote;
use super::table::aligned;
use super::{print, report, stdio};

/// A file has errors, or its description could not be printed.
const EXIT_WRONG: u8 = 1;

/// The name of standard input in messages.
const STANDARD_INPUT: &str = "standard input";

/// Checks each file and returns the exit status: 0 if all are valid.
pub(crate) fn check(paths: &[PathBuf]) -> u8 {
    let mut code = 0;
    for path in paths {
        let description = match read(path) {
            Ok(description) => description,
            Err(error) => {
                report(&error);
                code = EXIT_WRONG;
                continue;
            }
        };
        // If standard output is closed, still check the remaining files.
        if let Err(error) = print(&description) {
            report(&error);
            return EXIT_WRONG;
        }
    }
    code
}

/// Reads a file and describes its chain; `-` is standard input.
fn read(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() != "-" {
        return Ok(describe(&path.to_string_lossy(), &chain_file::read(path)?));
    }
    let input = File::from(stdio::standard_input()?);
    let chain = chain_file::read_from(input, STANDARD_INPUT.as_ref())?;
    Ok(describe(STANDARD_INPUT, &chain))
}

/// A heading for the chain with its settings, then one line per link in columns, with
/// its command line quoted for a shell. Below each link, its other settings. Settings are
/// as in a chain file.
fn describe(file: &str, chain: &Chain) -> String {
    let count = chain.links.len();
    let plural = if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{}: chain '{}', {count} link{plural}, {}\n",
        text::line(file),
        chain.name,
        deadline(chain.deadline)
    );
    for line in chain.settings_yaml().lines() {
        text.push_str(&format!("  {line}\n"));
    }
    let rows: Vec<[String; 4]> = chain
        .links
        .iter()
        .map(|link| {
            [
                quote(&link.name).into_owned(),
                link.id.to_string(),
                quote(&link.link.image).into_owned(),
                command(link),
            ]
        })
        .collect();
    for (line, link) in aligned(&rows).zip(&chain.links) {
        text.push_str(&format!("  {line}\n"));
        for line in link.settings_yaml().lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// The deadline over HTTP and, if it differs, that of `run` and `send`.
fn deadline(deadline: Deadline) -> String {
    match deadline {
        Deadline::Unset => format!(
            "deadline {} (none with run and send)",
            format_duration(DEFAULT_DEADLINE)
        ),
        Deadline::None => "no deadline".to_owned(),
        Deadline::After(deadline) => format!("deadline {}", format_duration(deadline)),
    }
}

fn command(link: &ChainLink) -> String {
    let command = match &link.link.command {
        Some(command) => quote(command).into_owned(),
        None => "(the image's own command)".to_owned(),
    };
    let arguments = link
        .link
        .arguments
        .iter()
        .map(|word| quote(word).into_owned());
    let words = std::iter::once(command).chain(arguments);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_described_in_columns() {
        let text = "Chain:\n- Image: busybox\n  Command: /bin/cat\n- Image: b\n  Command: grep\n  Arguments: [a b]\n";
        let chain = Chain::parse(text, "x.yaml", "x").unwrap();
        let id = |at: usize| chain.links[at].id;
        assert_eq!(
            describe("x.yaml", &chain),
            format!(
                "x.yaml: chain 'x', 2 links, deadline 30s (none with run and send)\n  \
                 cat   {}  busybox  /bin/cat\n  grep  {}  b        grep 'a b'\n",
                id(0),
                id(1)
            )
        );
    }

    #[test]
    fn all_that_a_link_may_do_is_shown_as_a_chain_file_has_it() {
        let settings = "Environment:
  KEY: 'a secret'
  SCRIPT: |
    one
    two
WorkingDirectory: /srv
User: '1000:1000'
Writable: never
Network: loopback
Warm: 8
Input: /tmp/in.docx
Output: /tmp/out/
Files:
  /etc/app.conf: 'a line'
  /usr/local/bin/x:
    Text: |
      #!/bin/sh
      exit
    Mode: 0755
Data:
  /models: whisper
  /srv/tool: image:tool:1
Secrets:
  /run/secrets/key: stripe
Constraints:
  Memory: 20M
  CPU: 0.5
  Processes: 8
  CPUTime: 10s
  Output: 1M
  Scratch: 10G
  OpenFiles: 64
Deadline: 500ms
Retries: 2
AcceptedExitCodes: [0, 1]
";
        let indented = |by: &str| -> String {
            let lines = settings.lines();
            lines.map(|line| format!("{by}{line}\n")).collect()
        };
        let text = format!("Deadline: none\nChain:\n- Image: b\n{}", indented("  "));
        let chain = Chain::parse(&text, "x.yaml", "x").unwrap();
        let described = describe("x.yaml", &chain);
        let (heading, rest) = described.split_once('\n').unwrap();
        assert_eq!(heading, "x.yaml: chain 'x', 1 link, no deadline");
        let (line, rest) = rest.split_once('\n').unwrap();
        assert!(line.ends_with("  b  (the image's own command)"), "{line}");
        assert_eq!(rest, indented("    "));
    }

    #[test]
    fn what_a_call_may_say_and_gets_is_shown_above_the_links() {
        let text = "ContentType: image/png
Parameters:
  width:
    Pattern: '[1-9][0-9]{0,3}'
    Default: '200'
Chain:
- Image: b
  Command: resize
  Arguments: ['${width}', '$${width}']
- Image: b
  Command: echo
  Arguments: ['$${width}']
";
        let chain = Chain::parse(text, "x.yaml", "x").unwrap();
        let described = describe("x.yaml", &chain);
        let lines: Vec<_> = described.lines().collect();
        assert_eq!(
            lines[1..5],
            [
                "  ContentType: image/png",
                "  Parameters:",
                "    width:",
                "      Pattern: '[1-9][0-9]{0,3}'",
            ]
        );
        assert_eq!(lines[5], "      Default: '200'");
        // The templates of a link that uses parameters, the texts of another one.
        assert!(
            lines[6].ends_with("resize '${width}' '$${width}'"),
            "{described}"
        );
        assert!(lines[7].ends_with("echo '${width}'"), "{described}");
    }
}
