//! Log lines: to standard error, in the shape of the other messages.

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Starts logging: warnings, or what `CONSECUTION_LOG` asks for (`info`,
/// `consecution=debug`).
pub(crate) fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(Level::WARN.into())
        .with_env_var("CONSECUTION_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}
