//! Reads chain files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chain::{Chain, FileError};

use crate::error::with_causes;

/// A chain file cannot be used. The texts read well on their own, followed by those of their
/// sources.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum ChainFileError {
    #[error("failed to read chain file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("failed to read chain file {}: it is a folder; name the file in it", path.display())]
    Folder { path: PathBuf },
    #[error("failed to read the folder {} of chain files", path.display())]
    ReadFolder {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("failed to find a chain file in {}: it has no *.yaml and no *.yml", path.display())]
    NoFile { path: PathBuf },
    #[error("{0}")]
    Invalid(FileError),
    #[error(
        "failed to offer two chains named '{name}': {} and {}; give one of them a Name",
        paths.0.display(),
        paths.1.display()
    )]
    SameName {
        name: String,
        paths: Box<(PathBuf, PathBuf)>,
    },
}

/// Reads and parses a chain file.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn read(path: &Path) -> Result<Chain, ChainFileError> {
    let failed = |cause| ChainFileError::Read {
        path: path.to_owned(),
        cause,
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().is_ok_and(|found| found.is_dir()) {
        let path = path.to_owned();
        return Err(ChainFileError::Folder { path });
    }
    read_from(file, path)
}

/// Reads and parses a chain file that is already open. `path` names it in messages, and names
/// the chain if the file does not.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn read_from(file: impl Read, path: &Path) -> Result<Chain, ChainFileError> {
    let mut text = Vec::new();
    // With one byte more than allowed, the parser reports that the file is too long.
    let limit = chain::limits::MAX_FILE_BYTES as u64 + 1;
    let read = file.take(limit).read_to_end(&mut text);
    read.map_err(|cause| ChainFileError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let label = path.display().to_string();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Chain::parse_with(&text, &label, &stem, image_problem).map_err(ChainFileError::Invalid)
}

/// Reads chain files that will be offered together, so no two chains may have the same name.
/// Of a folder, reads all `*.yaml` and `*.yml`, in the order of their names; but no hidden
/// ones, and none of folders in it.
///
/// # Errors
/// The first file that is invalid, or whose chain has the name of an earlier one; or a folder
/// has no chain file.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Chain>, ChainFileError> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    for given in paths {
        for path in files(given)? {
            let chain = read(&path)?;
            if let Some(other) = by_name.insert(chain.name.clone(), path.clone()) {
                return Err(ChainFileError::SameName {
                    name: chain.name,
                    paths: Box::new((other, path)),
                });
            }
            chains.push(chain);
        }
    }
    Ok(chains)
}

/// The chain files of a folder, or the one file that is given.
fn files(given: &Path) -> Result<Vec<PathBuf>, ChainFileError> {
    if !given.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let failed = |cause| ChainFileError::ReadFolder {
        path: given.to_owned(),
        cause,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(given).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // If `is_dir` fails, the file is read, so that the error is reported.
        if is_chain_file(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let path = given.to_owned();
        return Err(ChainFileError::NoFile { path });
    }
    files.sort();
    Ok(files)
}

fn is_chain_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let is_hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = path.extension();
    !is_hidden && extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// What is wrong with an image's name: the chain's parser leaves that to us.
fn image_problem(name: &str) -> Option<String> {
    let problem = name.parse::<image::Reference>().err()?.problem;
    Some(with_causes(&problem))
}
