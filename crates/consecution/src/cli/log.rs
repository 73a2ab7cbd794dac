//! Log lines: to standard error, in the shape of the other messages, with the time.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;

use crate::connection::TROUBLE;
use crate::text;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Our own crates. What libraries have to say is said by us, in our words, unless
/// it is asked for.
const OURS: [&str; 3] = ["consecution", "image", "sandbox"];

/// What is logged: levels, of all that is ours or of one module each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    ours: Option<LevelFilter>,
    modules: Vec<(String, LevelFilter)>,
}

impl FromStr for Filter {
    type Err = String;

    /// `debug`, `warn,crate::transport=trace`.
    fn from_str(text: &str) -> Result<Filter, String> {
        let mut filter = Filter::default();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => filter.ours = Some(level(part)?),
                Some((module, of_module)) if is_module(module) => {
                    filter.modules.push((module.to_owned(), level(of_module)?));
                }
                Some((module, _)) => return Err(format!("'{module}' is no module; {SYNTAX}")),
            }
        }
        Ok(filter)
    }
}

const SYNTAX: &str = "write a level (off, error, warn, info, debug, trace), or MODULE=LEVEL, \
                      or several of them, separated by commas";

fn level(text: &str) -> Result<LevelFilter, String> {
    // The parser also accepts 0 to 5; a name says more than a number.
    let is_word = text.chars().all(|c| c.is_ascii_alphabetic()) && !text.is_empty();
    let level = is_word.then(|| text.parse().ok()).flatten();
    level.ok_or_else(|| format!("'{text}' is no level; {SYNTAX}"))
}

/// Whether there could be a module of that name: `crate::transport`.
fn is_module(text: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.split("::").all(is_name)
}

impl Filter {
    /// All directives, of which the one with the longest matching name counts.
    fn directives(&self, unasked: Unasked) -> String {
        let ours = self.ours.unwrap_or_else(|| unasked.level().into());
        let mut directives = "off".to_owned();
        for (module, level) in OURS.map(|crate_name| (crate_name, ours)) {
            // Writing to a string cannot fail.
            let _ = write!(directives, ",{module}={level}");
        }
        if unasked == Unasked::Once && self.ours.is_none() {
            let _ = write!(directives, ",{TROUBLE}=error");
        }
        for (module, level) in &self.modules {
            let _ = write!(directives, ",{module}={level}");
        }
        directives
    }
}

/// What is logged where nothing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// By what serves others: what it does.
    Serving,
    /// By what does one thing: warnings. That it waits for servers is none, since
    /// its error says so, once.
    Once,
}

impl Unasked {
    fn level(self) -> Level {
        match self {
            Self::Serving => Level::INFO,
            Self::Once => Level::WARN,
        }
    }
}

/// Starts logging.
pub(crate) fn start(unasked: Unasked, filter: &Filter, format: Format) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter.directives(unasked)))
        .with_writer(|| Lines)
        .with_target(false);
    match format {
        Format::Text => lines.init(),
        Format::Json => lines.json().init(),
    }
}

/// Standard error, to which each log line is written whole. What strangers say is
/// part of it, and must not look like another line.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = String::from_utf8_lossy(line);
        let shown = text::line(shown.strip_suffix('\n').unwrap_or(&shown));
        io::stderr().write_all(format!("{shown}\n").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(text: &str) -> String {
        text.parse::<Filter>().unwrap().directives(Unasked::Serving)
    }

    #[test]
    fn a_level_is_for_all_that_is_ours() {
        let ours = |level| format!("off,consecution={level},image={level},sandbox={level}");
        assert_eq!(directives(""), ours("info"));
        assert_eq!(directives("debug"), ours("debug"));
        assert_eq!(directives("OFF"), ours("off"));
        assert_eq!(directives("info, debug,"), ours("debug"));
    }

    #[test]
    fn a_module_may_have_a_level_of_its_own_and_silences_nothing_else() {
        let shown = directives("crate::transport=trace,async_nats=debug");
        let wanted = "off,consecution=info,image=info,sandbox=info,\
                      crate::transport=trace,async_nats=debug";
        assert_eq!(shown, wanted);
        let both = directives("consecution=debug");
        assert!(both.ends_with("sandbox=info,consecution=debug"), "{both}");
        let once = Filter::default().directives(Unasked::Once);
        assert!(once.ends_with("sandbox=warn,crate::connection::trouble=error"));
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for text in [
            "foo",
            "3",
            "info,foo",
            "consecution=",
            "=info",
            "a b=info",
            "x=1",
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains("off, error, warn, info"), "{error}");
        }
    }
}
