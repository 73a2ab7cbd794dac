//! Limits how much a process may write, if there is a limit. A process that writes more is
//! stopped, as the kernel does when a file becomes too large (SIGXFSZ).

use tokio::sync::oneshot;

/// The bounds of each process of a runner.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::runner) struct Bounds {
    pub(in crate::runner) output_bytes_max: Option<u64>,
    pub(in crate::runner) stderr_bytes_max: Option<u64>,
}

/// How many bytes a process may still write, if that is limited.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Option<u64>,
    tell: Option<oneshot::Sender<()>>,
}

/// Notified when the process has written more than it may.
pub(super) type Excess = oneshot::Receiver<()>;

/// More was written than is allowed.
#[derive(Debug)]
pub(super) struct Exceeded;

impl Allowance {
    pub(super) fn new(bytes_max: Option<u64>) -> (Allowance, Excess) {
        let (tell, excess) = oneshot::channel();
        let allowance = Allowance {
            left: bytes_max,
            tell: Some(tell),
        };
        (allowance, excess)
    }

    /// Subtracts `bytes`.
    ///
    /// # Errors
    /// The limit is exceeded, now or before. The task that follows the process is notified.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let Some(left) = &mut self.left else {
            return Ok(());
        };
        match left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) {
            Some(rest) if self.tell.is_some() => {
                *left = rest;
                Ok(())
            }
            _ => {
                if let Some(tell) = self.tell.take() {
                    // Fails only if the process is gone already.
                    let _ = tell.send(());
                }
                Err(Exceeded)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_to_its_last_byte() {
        let (mut allowance, mut excess) = Allowance::new(Some(5));
        assert!(allowance.take(3).is_ok());
        assert!(allowance.take(2).is_ok());
        assert!(allowance.take(0).is_ok());
        assert!(excess.try_recv().is_err());
        assert!(allowance.take(1).is_err());
        assert!(excess.try_recv().is_ok());
        assert!(allowance.take(0).is_err());
    }

    #[test]
    fn without_a_bound_there_is_never_too_much() {
        let (mut allowance, _excess) = Allowance::new(None);
        assert!(allowance.take(usize::MAX).is_ok());
        assert!(allowance.take(usize::MAX).is_ok());
    }
}
