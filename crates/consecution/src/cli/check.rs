//! `consecution check`: is a chain file right, and what does it say?

use std::io::Write;
use std::path::{Path, PathBuf};

use chain::{Chain, ChainLink};

use consecution::chain_file;
use consecution::text;

use super::complain;

/// A file is wrong, or what it says could not be printed.
const EXIT_WRONG: u8 = 1;

/// Checks each file; fails if any of them is wrong.
pub(crate) fn check(paths: &[PathBuf]) -> u8 {
    let mut code = 0;
    let mut output = std::io::stdout().lock();
    for path in paths {
        let chain = chain_file::read(path);
        let written = match chain {
            Ok(chain) => write!(output, "{}", text::lines(&describe(path, &chain))),
            Err(error) => {
                super::report(&error.into());
                code = EXIT_WRONG;
                continue;
            }
        };
        if let Err(error) = written {
            // Nobody reads any more; what is left to check is still checked.
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                complain(format_args!("failed to write to standard output: {error}"));
                return EXIT_WRONG;
            }
        }
    }
    code
}

/// A heading for the chain and a line for each link, in columns.
fn describe(path: &Path, chain: &Chain) -> String {
    let count = chain.links.len();
    let deadline = match chain.deadline {
        Some(deadline) => format!("deadline {}", chain::units::format_duration(deadline)),
        None => "no deadline".to_owned(),
    };
    let plural = if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{}: chain '{}', {count} link{plural}, {deadline}\n",
        text::line(&path.display().to_string()),
        chain.name
    );
    let rows: Vec<[String; 4]> = chain
        .links
        .iter()
        .map(|link| {
            [
                link.name.clone(),
                link.id.to_string(),
                link.link.image.clone(),
                command(link),
            ]
        })
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (names, images) = (width(0), width(2));
    for [name, id, image, command] in &rows {
        text.push_str(&format!(
            "  {name:names$}  {id}  {image:images$}  {command}\n"
        ));
    }
    text
}

fn command(link: &ChainLink) -> String {
    let command = link
        .link
        .command
        .as_deref()
        .unwrap_or("(the image's own command)");
    let words = std::iter::once(command.to_owned())
        .chain(link.link.arguments.iter().map(|word| quote(word)));
    words.collect::<Vec<_>>().join(" ")
}

/// A word as a shell would need to see it.
fn quote(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./:=,@%+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!(
            "'{}'",
            word.escape_debug().to_string().replace('\'', "'\\''")
        )
    }
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
            describe(Path::new("x.yaml"), &chain),
            format!(
                "x.yaml: chain 'x', 2 links, deadline 30s\n  \
                 cat   {}  busybox  /bin/cat\n  grep  {}  b        grep 'a b'\n",
                id(0),
                id(1)
            )
        );
    }
}
