//! Log lines: to standard error, in the shape of the other messages.

use std::io::{self, Write};

use consecution::text;
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// A JSON object a line, with the time.
    Json,
}

/// The variable that asks for more or less.
const VARIABLE: &str = "CONSECUTION_LOG";

/// Starts logging: from that level on, or what `CONSECUTION_LOG` asks for
/// (`info`, `consecution=debug`). What libraries have to say is said by us, in
/// our words.
pub(crate) fn start(level: Level, format: Format) {
    let filter = match std::env::var(VARIABLE) {
        Ok(asked) if !asked.is_empty() => EnvFilter::builder().parse_lossy(asked),
        _ => EnvFilter::new(format!(
            "off,consecution={level},image={level},sandbox={level}"
        )),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines)
        .with_target(false);
    match format {
        Format::Text => lines.without_time().init(),
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
