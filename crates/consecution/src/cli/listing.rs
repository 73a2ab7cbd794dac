//! What commands that list print: a table for people, or with `--json` the same as JSON.

use std::time::SystemTime;

use clap::builder::FalseyValueParser;
use serde::{Serialize, Serializer};

use super::print;

/// The option of all commands that list.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Listing {
    /// Print JSON: an array with an object for each row of the table.
    #[arg(long, env = "CONSECUTION_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Listing {
    /// Prints `rows` as JSON, or the text that `table` makes of them.
    pub(crate) fn print<T: Serialize>(
        self,
        rows: &[T],
        table: impl FnOnce(&[T]) -> String,
    ) -> anyhow::Result<()> {
        match self.json {
            true => print(&(serde_json::to_string_pretty(rows)? + "\n")),
            false => print(&table(rows)),
        }
    }
}

/// Serializes a time as whole seconds since 1970, or null before that.
pub(crate) fn seconds_since_1970<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since
        .ok()
        .map(|since| since.as_secs())
        .serialize(serializer)
}
