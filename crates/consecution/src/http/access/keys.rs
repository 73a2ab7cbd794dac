//! The file with the keys, which is read again when it changes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain::{FileError, KeyFile, Proof};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::watched::Watched;
use super::Caller;

/// The keys of a file. Clones share them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Watched<KeyFile>>);

/// The keys cannot be used. The text reads well after "failed to". It shows no line of the
/// file, since what stands there may be a token by mistake.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum KeysError {
    #[error("read the keys in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("use the keys in {}", Places(.0))]
    Invalid(FileError),
}

struct Places<'a>(&'a FileError);

impl fmt::Display for Places<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.label())?;
        for (at, one) in self.0.diagnostics().iter().enumerate() {
            let separator = if at == 0 { ": " } else { "; " };
            let (line, column) = (one.line, one.column);
            write!(
                formatter,
                "{separator}line {line}, column {column}: {}",
                one.message
            )?;
        }
        Ok(())
    }
}

impl Keys {
    /// The keys in a file, which is read again whenever it changes. If it is broken then, the
    /// log says so, and the keys stay as they were. Needs a runtime of tokio.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong.
    pub fn open(path: &Path) -> Result<Keys, KeysError> {
        let (files, path) = (vec![path.to_owned()], path.to_owned());
        Watched::start(files, "the keys", move || read(&path)).map(Keys)
    }

    pub(super) fn now(&self) -> Arc<KeyFile> {
        self.0.now()
    }
}

fn read(path: &Path) -> Result<KeyFile, KeysError> {
    let mut text = Vec::new();
    // With one byte more than allowed, the parser reports that the file is too long.
    let limit = chain::limits::MAX_FILE_BYTES as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text));
    read.map_err(|source| KeysError::Read {
        path: path.to_owned(),
        source,
    })?;
    KeyFile::parse(&text, &path.display().to_string()).map_err(KeysError::Invalid)
}

/// Whose token that is. It takes the same time whoever it is, if anybody.
pub(super) fn holder_of(file: &Arc<KeyFile>, token: &[u8]) -> Option<Caller> {
    let sum: [u8; 32] = Sha256::digest(token).into();
    let mut found = None;
    for (at, key) in file.keys.iter().enumerate() {
        if let Proof::Token(other) = &key.proof
            && bool::from(other.ct_eq(&sum))
        {
            found = Some(at);
        }
    }
    found.map(|at| Caller::Holder(Arc::clone(file), at))
}

/// Whose certificate has that common name.
pub(super) fn certified(file: &Arc<KeyFile>, name: &str) -> Option<Caller> {
    let is_of = |proof: &Proof| matches!(proof, Proof::Certificate(other) if other == name);
    let at = file.keys.iter().position(|key| is_of(&key.proof))?;
    Some(Caller::Holder(Arc::clone(file), at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::with_causes;
    use data_encoding::HEXLOWER;

    #[test]
    fn a_token_is_known_by_its_sum() {
        let sum = HEXLOWER.encode(&Sha256::digest("one"));
        let text = format!(
            "Keys:\n- {{Name: a, SHA256: {sum}, May: [view]}}\n\
             - {{Certificate: CN=b, May: ['call:*']}}\n"
        );
        let file = Arc::new(KeyFile::parse(text, "keys").unwrap());
        let name = |caller: Option<Caller>| caller.and_then(|it| it.name().map(str::to_owned));
        assert_eq!(name(holder_of(&file, b"one")).as_deref(), Some("a"));
        assert!(holder_of(&file, b"two").is_none());
        assert!(holder_of(&file, sum.as_bytes()).is_none());
        assert_eq!(name(certified(&file, "b")).as_deref(), Some("b"));
        assert!(certified(&file, "a").is_none());
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        let error = || with_causes(&Keys::open(&path).unwrap_err());
        assert!(error().starts_with("read the keys in /"), "{}", error());
        let text = "Keys:\n- Name: a\n  SHA256: hidden\n";
        std::fs::write(&path, text).unwrap();
        let error = error();
        assert!(
            error.contains("keys.yaml: line 2, column 3: the key has no `May`; line 3"),
            "{error}"
        );
        assert!(!error.contains("hidden"), "{error}");
    }
}
