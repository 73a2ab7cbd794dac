//! What links get of this runner's by name: data and secrets.
//!
//! Both are looked up when a link is loaded. A name that then leads to something else
//! (a secret that was rotated, a link that was switched to another folder) is noticed
//! within seconds, and the link gets a new zygote.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chain::{DataSource, Link};
use sandbox::{SpecData, SpecFile};

use super::worker::LoadError;

/// How often files are looked at for changes: soon enough for a secret that was
/// replaced, and hardly any work.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// The largest secret. Keys and certificates take some KiB, and each link keeps its own
/// copy in memory.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// The permissions of a secret: its user may read it.
const SECRET_MODE: u32 = 0o400;

/// The data and the secrets of a runner, by name, as paths of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisions {
    /// Files and folders. Links can only read them, and only if all users can.
    pub data: BTreeMap<String, PathBuf>,
    /// Files, of which only the user of the link's command gets to see a copy.
    pub secrets: BTreeMap<String, PathBuf>,
}

/// What a link gets, and how it was found.
#[derive(Default)]
pub(super) struct Provided {
    pub(super) files: Vec<SpecFile>,
    pub(super) data: Vec<SpecData>,
    pub(super) found: Found,
}

/// How files and folders looked when a link was loaded.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<(PathBuf, Option<Look>)>);

/// What tells a file from another one, and from itself when it was changed. Of a folder
/// only the former: links see what changes in it, if perhaps not at once.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    content: Option<(u64, [i64; 4])>,
}

impl Look {
    fn of(found: &Metadata) -> Look {
        let times = || {
            [
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ]
        };
        Look {
            device: found.dev(),
            inode: found.ino(),
            content: (!found.is_dir()).then(|| (found.size(), times())),
        }
    }
}

impl Provisions {
    /// Fails if a link names something that this runner does not have.
    pub(super) fn check(&self, link: &Link) -> Result<(), LoadError> {
        for source in link.data.values() {
            match source {
                DataSource::Name(name) if !self.data.contains_key(name) => {
                    return Err(LoadError::NoData { name: name.clone() });
                }
                DataSource::Name(_) | DataSource::Image(_) => {}
            }
        }
        match (link.secrets.values()).find(|name| !self.secrets.contains_key(*name)) {
            Some(name) => Err(LoadError::NoSecret { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Looks up all that a link names, and reads its secrets. Blocks.
    pub(super) fn provide(&self, link: &Link) -> Result<Provided, LoadError> {
        self.check(link)?;
        let mut provided = Provided::default();
        for (path, file) in &link.files {
            provided.files.push(SpecFile {
                path: path.into(),
                mode: file.mode,
                content: file.content.clone().into(),
                of_user: false,
            });
        }
        for (path, name) in &link.secrets {
            let Some(from) = self.secrets.get(name) else {
                continue;
            };
            let (content, look) = read_secret(from).map_err(|cause| LoadError::Secret {
                name: name.clone(),
                cause,
            })?;
            provided.files.push(SpecFile {
                path: path.into(),
                mode: SECRET_MODE,
                content: content.into(),
                of_user: true,
            });
            provided.found.0.push((from.clone(), Some(look)));
        }
        for (path, source) in &link.data {
            let DataSource::Name(name) = source else {
                continue;
            };
            let Some(from) = self.data.get(name) else {
                continue;
            };
            // A path that cannot be looked at is an error of the sandbox, which says more.
            provided.found.0.push((from.clone(), look_at(from)));
            provided.data.push(SpecData {
                path: path.into(),
                source: from.clone(),
            });
        }
        Ok(provided)
    }
}

impl Found {
    /// Resolves when something has changed; never if there is nothing that could.
    pub(super) async fn until_changed(self: &std::sync::Arc<Self>) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let found = std::sync::Arc::clone(self);
            let looking = tokio::task::spawn_blocking(move || found.has_changed());
            if let Ok(true) = looking.await {
                return;
            }
        }
    }

    fn has_changed(&self) -> bool {
        let mut found = self.0.iter();
        found.any(|(path, before)| look_at(path) != *before)
    }
}

fn look_at(path: &Path) -> Option<Look> {
    fs::metadata(path).ok().map(|found| Look::of(&found))
}

/// Reads a secret, and how its file looked: as it was before it was read, so that a
/// change meanwhile is noticed later.
fn read_secret(path: &Path) -> io::Result<(Vec<u8>, Look)> {
    // If there is a FIFO, that does not wait for somebody to write to it.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let found = file.metadata()?;
    let refused = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    if !found.is_file() {
        return refused("it is no file");
    }
    let mut content = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > SECRET_BYTES_MAX {
        return refused("it has more than 1 MiB");
    }
    Ok((content, Look::of(&found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(secret: &str) -> Link {
        let mut link = Link::new("busybox");
        (link.secrets).insert("/run/secrets/key".into(), secret.into());
        link
    }

    fn with_secret(path: &Path) -> Provisions {
        Provisions {
            secrets: BTreeMap::from([("key".into(), path.into())]),
            ..Provisions::default()
        }
    }

    #[test]
    fn what_a_runner_does_not_have_is_named() {
        let provisions = Provisions::default();
        let error = provisions.check(&link("stripe")).unwrap_err();
        assert!(error.to_string().contains("\"stripe\""), "{error}");
        let mut link = Link::new("busybox");
        link.data
            .insert("/models".into(), DataSource::Name("whisper".into()));
        let error = provisions.check(&link).unwrap_err();
        assert!(error.to_string().contains("\"whisper\""), "{error}");
        link.data
            .insert("/models".into(), DataSource::Image("busybox".into()));
        provisions.check(&link).unwrap();
    }

    #[test]
    fn a_change_of_a_secret_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "one").unwrap();
        let provided = with_secret(&path).provide(&link("key")).unwrap();
        assert_eq!(provided.files[0].content.as_ref(), b"one");
        assert!(!provided.found.has_changed());
        let other = folder.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(provided.found.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(provided.found.has_changed());
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR).unwrap();
        fs::write(at("large"), vec![b'x'; (SECRET_BYTES_MAX + 1) as usize]).unwrap();
        for (name, reason) in [
            ("folder", "no file"),
            ("fifo", "no file"),
            ("large", "more than 1 MiB"),
            ("none", "No such file"),
        ] {
            let provided = with_secret(&at(name)).provide(&link("key"));
            let error = provided.map(drop).unwrap_err();
            let text = crate::error::with_causes(&error);
            assert!(text.contains(reason), "{name}: {text}");
        }
    }
}
