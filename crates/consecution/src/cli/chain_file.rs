//! Chain files from the disk.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use chain::Chain;

/// A chain file is wrong; the text shows where, as it is to be printed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

/// Reads and parses a chain file.
///
/// # Errors
/// What is wrong with it, to be printed as it is.
pub(crate) fn read(path: &Path) -> anyhow::Result<Chain> {
    let label = path.display().to_string();
    let mut file =
        File::open(path).with_context(|| format!("failed to open chain file {label}"))?;
    if file.metadata().is_ok_and(|found| found.is_dir()) {
        bail!("failed to read chain file {label}: it is a folder; name the file in it");
    }
    let mut text = Vec::new();
    // One byte more than is allowed shows the parser that it is too long.
    let limit = chain::limits::MAX_FILE_BYTES as u64 + 1;
    Read::by_ref(&mut file)
        .take(limit)
        .read_to_end(&mut text)
        .with_context(|| format!("failed to read chain file {label}"))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Chain::parse_with(&text, &label, &stem, image_problem)
        .map_err(|error| Invalid(error.render(coloured)).into())
}

/// The chain file leaves the syntax of image names to whoever fetches them.
fn image_problem(name: &str) -> Option<String> {
    let problem = name.parse::<image::Reference>().err()?.problem;
    Some(problem.to_string())
}
