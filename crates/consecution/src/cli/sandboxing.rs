//! Options of the commands that run links: what a link may do and use at most.

use crate::runner::Sandboxing;
use clap::builder::FalseyValueParser;

use super::Global;

/// The options of `run`, `serve` and `runner` for the sandbox.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct Sandbox {
    /// Allow links with `Network: host`, which can reach every service that listens on
    /// this host. Without this option such links are refused.
    #[arg(
        long,
        env = "CONSECUTION_ALLOW_HOST_NETWORK",
        value_parser = FalseyValueParser::new()
    )]
    allow_host_network: bool,
    /// Run links even if this host cannot enforce all of their `Constraints`; those
    /// that it can enforce still hold. Without this option such links are refused.
    #[arg(
        long,
        env = "CONSECUTION_ALLOW_UNENFORCED_LIMITS",
        value_parser = FalseyValueParser::new()
    )]
    allow_unenforced_limits: bool,
    /// Most that a process may store in `/tmp`, and the same again in `/var/tmp`; both
    /// are in memory: `512M`, `2G`. A bare number is in MiB.
    #[arg(
        long,
        env = "CONSECUTION_SCRATCH_MAX",
        value_name = "SIZE",
        default_value = "1G",
        value_parser = chain::units::parse_memory
    )]
    scratch_max: u64,
    /// Most that a process may write to standard output before it is stopped: `64K`,
    /// `10M`. A bare number is in MiB [default: no limit].
    #[arg(
        long,
        env = "CONSECUTION_OUTPUT_MAX",
        value_name = "SIZE",
        value_parser = chain::units::parse_mebibytes
    )]
    output_max: Option<u64>,
    /// Most that a process may write to standard error before it is stopped: `64K`,
    /// `10M`. A bare number is in MiB [default: no limit].
    #[arg(
        long,
        env = "CONSECUTION_STDERR_MAX",
        value_name = "SIZE",
        value_parser = chain::units::parse_mebibytes
    )]
    stderr_max: Option<u64>,
}

impl Sandbox {
    /// The settings for the runner.
    ///
    /// # Errors
    /// The ids that `--first-id` asks for cannot be used.
    pub(crate) fn rules(&self, global: &Global) -> anyhow::Result<Sandboxing> {
        Ok(Sandboxing {
            host_network: self.allow_host_network,
            unenforced_limits: self.allow_unenforced_limits,
            scratch_bytes_max: self.scratch_max,
            output_bytes_max: self.output_max,
            stderr_bytes_max: self.stderr_max,
            ids: global.ids()?,
        })
    }
}
