//! Roots that earlier versions of this program unpacked, or a power failure spoiled.
//!
//! They may have what no root has today: FIFOs, which are taken out; or a digest
//! that is that of a manifest, while their files are not that manifest's, since
//! an archive could have it as its config. Such a root has no files at all: no
//! manifest names layers where a config does. It is thrown away, for nothing can
//! be run in it, and what it was in the way of is fetched again.
//!
//! Done once for each root, before it is used, even while others use it or do the same:
//! nobody misses what is removed but processes that talk through it.

use std::fs::File;
use std::io;
use std::path::Path;

use super::image::{DESCRIPTION, Description, ROOT};
use super::{Store, StoreError, durable, files, lock};
use crate::causes::with_causes;
use crate::layer::{delete_tree, remove_pipes};

/// The version of roots as they are made today. Descriptions of earlier ones have none.
pub(super) const VERSION: u32 = 1;

impl Store {
    /// The description of a root that may be used, `None` where it may not and is
    /// no longer there. `folder` is its folder `path`, locked.
    pub(super) fn adopt(
        &self,
        path: &Path,
        folder: &File,
        mut description: Description,
    ) -> Result<Option<Description>, StoreError> {
        if description.version >= VERSION {
            return Ok(Some(description));
        }
        if description.bytes == 0 {
            let discarded = self.discard(path, folder);
            discarded.map_err(|cause| StoreError::io("throw away", path, cause))?;
            return Ok(None);
        }
        let root = path.join(ROOT);
        let cleared = remove_pipes(&root).and_then(|removed| {
            // The new version is written only when the removal would outlast a power
            // failure.
            if removed > 0 && self.inner.options.sync {
                durable::file_system(folder)?;
            }
            Ok(())
        });
        cleared.map_err(|cause| StoreError::io("take FIFOs out of", &root, cause))?;
        description.version = VERSION;
        if let Err(error) = self.describe_anew(path, &description) {
            // For example on a read-only file system. It is done again next time.
            tracing::debug!(
                error = with_causes(&error),
                "an image of an earlier version stays one"
            );
        }
        Ok(Some(description))
    }

    fn describe_anew(&self, path: &Path, description: &Description) -> Result<(), StoreError> {
        let file = path.join(DESCRIPTION);
        let text = serde_json::to_vec(description)
            .map_err(|cause| StoreError::io("write", &file, cause))?;
        let tmp = self.inner.folder.join("tmp");
        files::replace(&tmp, &file, &text, self.inner.options.sync)
    }

    pub(super) fn discard(&self, path: &Path, folder: &File) -> io::Result<()> {
        let aside = self.unused();
        match std::fs::rename(path, &aside) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved?,
        }
        // Another process may have put a good one in its place just now.
        if !lock::is_still_at(folder, &aside)? {
            return std::fs::rename(&aside, path);
        }
        delete_tree(&aside)
    }
}
