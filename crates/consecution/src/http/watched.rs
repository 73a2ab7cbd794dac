//! Values made from files, which are made again when a file changes.

use std::error::Error;
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::sleep;

use crate::error::with_causes;
use crate::log_on_change::LogOnChange;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A value made from files.
#[derive(Debug)]
pub(super) struct Watched<T>(RwLock<Arc<T>>);

/// What tells a file from the one that was there before: times of its last changes, size,
/// inode and device. `None` if there is no file.
type Look = Option<[i64; 7]>;

impl<T: Send + Sync + 'static> Watched<T> {
    /// Makes a value of `files`, and makes it again whenever one of them has changed, until
    /// this is dropped. `what` names them in the log. Needs a runtime of tokio.
    ///
    /// # Errors
    /// That of `make`. Later ones are logged, the value stays as it was, and making it is tried
    /// again at each look.
    pub(super) fn start<E: Error + Send + Sync + 'static>(
        files: Vec<PathBuf>,
        what: &'static str,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Arc<Watched<T>>, E> {
        // Before they are read, so that no change is missed.
        let seen = looks(&files);
        let watched = Arc::new(Watched(RwLock::new(Arc::new(make()?))));
        let follow = follow(Arc::downgrade(&watched), files, seen, what, Arc::new(make));
        tokio::spawn(follow);
        Ok(watched)
    }

    /// The value.
    pub(super) fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }
}

/// Several files are seldom replaced at the same time, so they are read once they have not
/// changed between two looks.
async fn follow<T: Send + Sync + 'static, E: Error + Send + Sync + 'static>(
    watched: Weak<Watched<T>>,
    files: Vec<PathBuf>,
    mut used: Vec<Look>,
    what: &'static str,
    make: Arc<impl Fn() -> Result<T, E> + Send + Sync + 'static>,
) {
    let files = Arc::new(files);
    let mut before = used.clone();
    let mut log = LogOnChange::default();
    loop {
        sleep(LOOK_EVERY).await;
        if watched.strong_count() == 0 {
            return;
        }
        let looked_at = Arc::clone(&files);
        let looking = tokio::task::spawn_blocking(move || looks(&looked_at));
        let Ok(seen) = looking.await else { return };
        let is_settled = std::mem::replace(&mut before, seen) == before;
        if before == used {
            log.forget();
            continue;
        }
        if !is_settled {
            continue;
        }
        let make = Arc::clone(&make);
        let made = tokio::task::spawn_blocking(move || make()).await;
        match (made, watched.upgrade()) {
            (Ok(Ok(value)), Some(watched)) => {
                *watched.0.write() = Arc::new(value);
                // Not before: an error may pass without a further change of the files, and
                // what they take away has to be taken away then.
                used.clone_from(&before);
                log.forget();
                tracing::info!("{what} were read again");
            }
            (Ok(Err(error)), _) => {
                let trouble = with_causes(&error).to_string();
                if log.lets(&trouble) {
                    tracing::error!("{what} stay as they were: failed to {trouble}");
                }
            }
            _ => return,
        }
    }
}

fn looks(files: &[PathBuf]) -> Vec<Look> {
    let look = |path: &PathBuf| {
        let found = metadata(path).ok()?;
        Some([
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
            found.size().cast_signed(),
            found.ino().cast_signed(),
            found.dev().cast_signed(),
        ])
    };
    files.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    fn number_in(path: &Path) -> io::Result<u32> {
        let text = fs::read_to_string(path)?;
        text.trim().parse().map_err(io::Error::other)
    }

    async fn until(watched: &Watched<u32>, wanted: u32) {
        let began = Instant::now();
        while *watched.now() != wanted {
            assert!(began.elapsed() < Duration::from_secs(30));
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_change_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let start = || {
            let read = path.clone();
            Watched::start(vec![path.clone()], "numbers", move || number_in(&read))
        };
        assert!(start().is_err());
        fs::write(&path, "1").unwrap();
        let watched = start().unwrap();
        assert_eq!(*watched.now(), 1);
        let replace = |text: &str| {
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &path).unwrap();
        };
        replace("2");
        until(&watched, 2).await;
        replace("broken");
        sleep(3 * LOOK_EVERY).await;
        assert_eq!(*watched.now(), 2);
        fs::remove_file(&path).unwrap();
        sleep(3 * LOOK_EVERY).await;
        assert_eq!(*watched.now(), 2);
        replace("3");
        until(&watched, 3).await;
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_without_a_further_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let (read, tries) = (path.clone(), AtomicUsize::new(0));
        let make = move || match tries.fetch_add(1, Ordering::Relaxed) {
            1 => Err(io::Error::other("open too many files")),
            _ => number_in(&read),
        };
        let watched = Watched::start(vec![path.clone()], "numbers", make).unwrap();
        fs::write(&path, "22").unwrap();
        until(&watched, 22).await;
    }
}
