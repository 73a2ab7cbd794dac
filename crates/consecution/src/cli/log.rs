//! Logging: one line per event on standard error, with the time, as text or JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;

use crate::connection::TROUBLE;
use crate::text;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Our own crates. Libraries' events are logged only if a MODULE=LEVEL asks for them: we
/// report their errors ourselves.
const OURS: [&str; 3] = ["consecution", "image", "sandbox"];

/// The value of `--log`: a level for all of our crates, and levels for single modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    ours: Option<LevelFilter>,
    modules: Vec<(String, LevelFilter)>,
}

impl FromStr for Filter {
    type Err = String;

    /// Parses `debug` or `warn,consecution::transport=trace`.
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

/// Whether the text has the form of a module's path, such as `consecution::transport`.
fn is_module(text: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.split("::").all(is_name)
}

impl Filter {
    /// The directives for `tracing_subscriber`. For each event the directive with the
    /// longest matching name decides.
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

/// What is logged without `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// By servers (`serve`, `portal`, `runner`): `info`.
    Serving,
    /// By all other commands: `warn`, but without warnings that a server is not
    /// reachable yet: the command's error says that once.
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

/// Writes each log line to standard error in one piece. It may contain text from outside,
/// so control characters are escaped: such text must not look like another log line.
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
        assert!(once.ends_with("sandbox=warn,consecution::connection::trouble=error"));
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
