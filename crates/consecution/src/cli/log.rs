//! Log lines: to standard error, in the shape of the other messages.

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

/// Starts logging: from that level on, or what `CONSECUTION_LOG` asks for
/// (`info`, `consecution=debug`).
pub(crate) fn start(level: Level, format: Format) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("CONSECUTION_LOG")
        .from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        Format::Text => lines.without_time().init(),
        Format::Json => lines.json().init(),
    }
}
