//! Counts how much a process writes, and limits it if there is a limit. A process that writes
//! more is stopped, as the kernel does when a file becomes too large (SIGXFSZ).

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// The bounds of the processes of a pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::runner) struct Bounds {
    /// Of what the last process may write to its output.
    pub(in crate::runner) output_bytes_max: Option<u64>,
    /// Of what each may write to standard error.
    pub(in crate::runner) stderr_bytes_max: Option<u64>,
}

/// What has been read of what a process writes. Whoever reads holds the lock meanwhile: so
/// whoever else holds it finds each byte either counted or still in the pipe.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted(Arc<Mutex<u64>>);

impl Counted {
    pub(super) fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock()
    }
}

/// How many bytes a process may still write, if that is limited.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Option<u64>,
    tell: Option<oneshot::Sender<()>>,
}

/// Notified when the process has written more than it may.
pub(super) type Excess = oneshot::Receiver<()>;

impl Allowance {
    pub(super) fn new(bytes_max: Option<u64>) -> (Allowance, Excess) {
        let (tell, excess) = oneshot::channel();
        let allowance = Allowance {
            left: bytes_max,
            tell: Some(tell),
        };
        (allowance, excess)
    }

    /// How many bytes are allowed at once now, of so many.
    pub(super) fn of(&self, bytes: usize) -> usize {
        let left = self.left.map(|left| usize::try_from(left).unwrap_or(bytes));
        left.map_or(bytes, |left| left.min(bytes))
    }

    /// Takes `bytes`, and says how many of them are allowed. If they are fewer, the task that
    /// follows the process is notified, and nothing more is allowed.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        let allowed = self.of(bytes);
        if let Some(left) = &mut self.left {
            *left -= allowed as u64;
        }
        if allowed < bytes
            && let Some(tell) = self.tell.take()
        {
            // Fails only if the process is gone already.
            let _ = tell.send(());
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_much_is_allowed_as_there_is_and_one_byte_more_is_told(
            limit in 0u64..50, chunks in proptest::collection::vec(0usize..20, 0..20),
        ) {
            let (mut allowance, mut excess) = Allowance::new(Some(limit));
            let mut written = 0;
            let mut allowed = 0;
            for chunk in chunks {
                written += chunk as u64;
                allowed += allowance.take(chunk) as u64;
                prop_assert_eq!(allowed, written.min(limit));
            }
            prop_assert_eq!(excess.try_recv().is_ok(), written > limit);
        }
    }

    #[test]
    fn without_a_bound_there_is_never_too_much() {
        let (mut allowance, mut excess) = Allowance::new(None);
        assert_eq!(allowance.take(usize::MAX), usize::MAX);
        assert_eq!(allowance.take(usize::MAX), usize::MAX);
        assert!(excess.try_recv().is_err());
    }
}
