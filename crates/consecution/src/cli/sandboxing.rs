//! Options of the commands that run links: what a link may do and use at most.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::runner::{Provisions, Sandboxing};
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
    /// Most that a process may store in `/tmp`, again in `/var/tmp`, and again in the rest
    /// of its root; all of it is in memory: `512M`, `2G`. A bare number is in MiB.
    #[arg(
        long,
        env = "CONSECUTION_SCRATCH_MAX",
        value_name = "SIZE",
        default_value = "1G",
        value_parser = chain::units::parse_memory
    )]
    scratch_max: u64,
    /// A file or folder that links may have as data by a name: `whisper=/srv/whisper`.
    /// All users must be able to read it. May be given several times, or several separated
    /// by commas.
    #[arg(
        long,
        env = "CONSECUTION_DATA",
        value_name = "NAME=PATH",
        value_delimiter = ',',
        value_parser = parse_named
    )]
    data: Vec<(String, PathBuf)>,
    /// A file that links may have as a secret by a name: `stripe=/etc/consecution/stripe`.
    /// It is read when a link is loaded, and again when it changes. May be given several
    /// times, or several separated by commas.
    #[arg(
        long,
        env = "CONSECUTION_SECRET",
        value_name = "NAME=FILE",
        value_delimiter = ',',
        value_parser = parse_named
    )]
    secret: Vec<(String, PathBuf)>,
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

/// The option of those that serve.
#[derive(Debug, clap::Args)]
pub(crate) struct StderrLog {
    /// Log what links write to standard error, a line of it a log line; of each link at
    /// most 50 lines within 5 s.
    #[arg(
        long,
        env = "CONSECUTION_STDERR_LOG",
        value_parser = FalseyValueParser::new()
    )]
    stderr_log: bool,
}

impl StderrLog {
    pub(crate) fn is_on(&self) -> bool {
        self.stderr_log
    }
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
            stderr_log: false,
            ids: global.ids()?,
            provisions: Provisions {
                data: by_name("--data", &self.data)?,
                secrets: by_name("--secret", &self.secret)?,
            },
        })
    }
}

/// `NAME=PATH`, with the path as it is seen from this folder.
fn parse_named(text: &str) -> Result<(String, PathBuf), String> {
    let Some((name, path)) = text.split_once('=') else {
        return Err("write a name and a path, as in `whisper=/srv/whisper`".into());
    };
    if !chain::is_name(name) {
        return Err(format!(
            "{name:?} is no name: use 1 to 64 of A-Z a-z 0-9 _ -, the first a letter or _"
        ));
    }
    // Zygotes open it from another folder than ours.
    let path =
        std::path::absolute(Path::new(path)).map_err(|error| format!("{path:?}: {error}"))?;
    Ok((name.to_owned(), path))
}

fn by_name(option: &str, named: &[(String, PathBuf)]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut paths = BTreeMap::new();
    for (name, path) in named {
        if let Some(other) = paths.insert(name.clone(), path.clone()) {
            anyhow::bail!(
                "take {option} {name:?} for both {} and {}: give each name once",
                other.display(),
                path.display()
            );
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_path() {
        let parsed = parse_named("whisper=/srv/a=b").unwrap();
        assert_eq!(parsed, ("whisper".into(), "/srv/a=b".into()));
        assert!(parse_named("whisper=models").unwrap().1.is_absolute());
        for wrong in ["whisper", "=/srv", "a b=/srv", "9=/srv", "a=", "a/b=/srv"] {
            assert!(parse_named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let named = |name: &str, path: &str| (name.to_owned(), PathBuf::from(path));
        let once = [named("a", "/x"), named("b", "/x")];
        assert_eq!(by_name("--data", &once).unwrap().len(), 2);
        let twice = [named("a", "/x"), named("a", "/y")];
        let error = by_name("--data", &twice).unwrap_err().to_string();
        assert!(
            error.contains("--data \"a\"") && error.contains("/y"),
            "{error}"
        );
    }
}
