//! Names and what they mean: one small JSON file each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Entry, Store, StoreError, durable, files};
use crate::causes::with_causes;
use crate::digest::Digest;
use crate::reference::Reference;

/// Longest name of a file that is readable; longer ones are hashed.
const FILE_NAME_BYTES_MAX: usize = 200;

/// Damaged records that are remembered, so that each is logged once.
const TOLD_MAX: usize = 256;

/// What there is of records.
pub(super) struct Records {
    pub(super) read: Vec<Record>,
    /// Whether some could not be read now, but may be whole: what they name is not known
    /// then.
    pub(super) unread: bool,
}

/// Whether there is something that is no file, and so no record.
fn is_irregular(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { cause, .. } if cause.kind() == io::ErrorKind::InvalidInput)
}

/// What is written for one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) reference: Reference,
    pub(super) digest: Digest,
    /// The index that it was chosen from; older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<Digest>,
    bytes: u64,
    /// Seconds since 1970.
    created: u64,
}

impl Record {
    pub(super) fn into_entry(self, shared: u64) -> Entry {
        Entry {
            reference: self.reference,
            digest: self.digest,
            size: self.bytes,
            shared,
            created: UNIX_EPOCH + Duration::from_secs(self.created),
        }
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Record, StoreError> {
    serde_json::from_slice(text).map_err(|cause| StoreError::Damaged {
        path: path.to_owned(),
        problem: cause.into(),
    })
}

impl Store {
    /// The digest that a name means, and that of the index it was chosen from.
    /// Of a name with a digest, that digest, or what it chose here if it is an
    /// index's.
    pub(super) fn lookup(
        &self,
        reference: &Reference,
    ) -> Result<Option<(Digest, Option<Digest>)>, StoreError> {
        if let Some(digest) = reference.digest() {
            let alias = self.path(["aliases", &digest.file_name()]);
            let Some(text) = files::read(&alias)? else {
                return Ok(Some((digest.clone(), None)));
            };
            return Ok(Some(match String::from_utf8_lossy(&text).trim().parse() {
                Ok(target) => (target, Some(digest.clone())),
                // It names no image, and is replaced when that is got again.
                Err(_) => (digest.clone(), None),
            }));
        }
        let path = self.record_path(reference);
        match files::read(&path)? {
            Some(text) => {
                let record = parse(&path, &text)?;
                Ok(Some((record.digest, record.index)))
            }
            None => Ok(None),
        }
    }

    /// Writes what a name means from now on. Whether it meant something else, which
    /// may be needed by nobody any more: then a [`sweep`](Self::sweep) is due.
    pub(super) fn record(
        &self,
        reference: &Reference,
        digest: &Digest,
        index: Option<&Digest>,
        bytes: u64,
    ) -> Result<bool, StoreError> {
        let tmp = self.inner.folder.join("tmp");
        let sync = self.inner.options.sync;
        if let Some(index) = index {
            let alias = self.path(["aliases", &index.file_name()]);
            files::replace(&tmp, &alias, digest.as_str().as_bytes(), sync)?;
        }
        let path = self.record_path(reference);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            reference: reference.clone(),
            digest: digest.clone(),
            index: index.cloned(),
            bytes,
            created: now.as_secs(),
        };
        let text =
            serde_json::to_vec(&record).map_err(|cause| StoreError::io("write", &path, cause))?;
        // A record that cannot be read keeps no image.
        let before = files::read(&path)
            .ok()
            .flatten()
            .and_then(|text| parse(&path, &text).ok());
        files::replace(&tmp, &path, &text, sync)?;
        Ok(before.is_some_and(|before| before.digest != *digest))
    }

    /// Takes a name out; false where it was not in.
    pub(super) fn forget(&self, reference: &Reference) -> Result<bool, StoreError> {
        let path = self.record_path(reference);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(StoreError::io("remove", &path, cause)),
        }
        if self.inner.options.sync {
            // Before the root goes that it led to.
            let named = durable::names_beside(&path);
            named.map_err(|cause| StoreError::io("remove", &path, cause))?;
        }
        Ok(true)
    }

    /// All records. Those that another process removes meanwhile are left out. So are
    /// damaged ones, each of which is logged once: it loses its own name only.
    pub(super) fn records(&self) -> Result<Records, StoreError> {
        let folder = self.inner.folder.join("references");
        let fail = |cause| StoreError::io("read", &folder, cause);
        let mut records = Records {
            read: Vec::new(),
            unread: false,
        };
        for item in std::fs::read_dir(&folder).map_err(fail)? {
            let path = item.map_err(fail)?.path();
            let text = match files::read(&path) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    records.unread |= !is_irregular(&error);
                    self.tell_once(path, &error);
                    continue;
                }
            };
            match parse(&path, &text) {
                Ok(record) => records.read.push(record),
                Err(error) => self.tell_once(path, &error),
            }
        }
        Ok(records)
    }

    fn tell_once(&self, path: PathBuf, error: &StoreError) {
        let mut told = self.inner.told.lock();
        if told.len() < TOLD_MAX && told.insert(path) {
            let error = with_causes(error);
            tracing::warn!("a name in the image store is left out: failed to {error}");
        }
    }

    /// `docker.io+library+busybox:latest`: `+` is in no reference.
    fn record_path(&self, reference: &Reference) -> PathBuf {
        let name = reference.to_string().replace('/', "+");
        let name = match name.len() {
            0..=FILE_NAME_BYTES_MAX => name,
            _ => Digest::of(name.as_bytes()).file_name(),
        };
        self.path(["references", &name])
    }
}
