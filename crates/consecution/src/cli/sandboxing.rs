//! What links may have at most, as options of those who run them.

use crate::runner::Sandboxing;
use clap::builder::FalseyValueParser;

use super::Global;

/// What `run`, `serve` and `runner` take.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct Sandbox {
    /// Run links with `Network: host`, which reaches all that listens on this
    /// host.
    #[arg(
        long,
        env = "CONSECUTION_ALLOW_HOST_NETWORK",
        value_parser = FalseyValueParser::new()
    )]
    allow_host_network: bool,
    /// Run links also where this host cannot keep their `Constraints`: those that
    /// it can keep are kept.
    #[arg(
        long,
        env = "CONSECUTION_ALLOW_UNENFORCED_LIMITS",
        value_parser = FalseyValueParser::new()
    )]
    allow_unenforced_limits: bool,
    /// How much a process may keep in `/tmp`, and as much again in `/var/tmp`, in
    /// memory: `512M`, `2G`. A bare number is in MiB.
    #[arg(
        long,
        env = "CONSECUTION_SCRATCH_MAX",
        value_name = "SIZE",
        default_value = "1G",
        value_parser = chain::units::parse_memory
    )]
    scratch_max: u64,
    /// How much a process may write to standard output before it is stopped:
    /// `64K`, `10M`. A bare number is in MiB [default: as much as it likes].
    #[arg(
        long,
        env = "CONSECUTION_OUTPUT_MAX",
        value_name = "SIZE",
        value_parser = chain::units::parse_mebibytes
    )]
    output_max: Option<u64>,
    /// How much a process may write to standard error before it is stopped:
    /// `64K`, `10M`. A bare number is in MiB [default: as much as it likes].
    #[arg(
        long,
        env = "CONSECUTION_STDERR_MAX",
        value_name = "SIZE",
        value_parser = chain::units::parse_mebibytes
    )]
    stderr_max: Option<u64>,
}

impl Sandbox {
    /// As the runner takes it.
    ///
    /// # Errors
    /// The ids that were asked for cannot be used.
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
