//! Waiting, with a bound: for states that nothing announces, and for descriptors.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;

/// How long anything may take that is expected to take a moment: long, since the machine
/// may be busy, but not for ever. Longer on a machine that is emulated (`make test-vm`).
pub const PATIENCE: Duration = match option_env!("SANDBOX_TEST_PATIENT") {
    None => Duration::from_secs(60),
    Some(_) => Duration::from_secs(300),
};

/// How long [`eventually`] rests between two attempts, at least and at most.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(50);

/// Tries again until it gives something, for [`PATIENCE`] at most.
///
/// Between two attempts it rests for a tenth of the time that it has waited so far: without
/// that it would take the processor from what it waits for.
///
/// # Panics
/// It has not come true in time.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        let waited = begun.elapsed();
        assert!(waited < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep((waited / 10).clamp(REST_MIN, REST_MAX));
    }
}

/// As [`eventually`], for what is true or not.
///
/// # Panics
/// It has not come true in time.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// Whether a descriptor has something to read, or an end, within that time; for a pidfd
/// that is the end of its process.
///
/// # Panics
/// The descriptor cannot be polled.
pub fn is_readable_within(fd: &impl AsFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
