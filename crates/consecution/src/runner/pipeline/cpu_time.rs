//! When to look how much processor time a link has taken, so that it is stopped soon after it
//! has taken more than it may.
//!
//! The kernel counts it for a cgroup, and tells nobody when it is too much. So the runner
//! looks: not before the link can have taken all that it has left, with all processors.

use std::sync::LazyLock;
use std::time::Duration;

/// The shortest and the longest of the times between two looks when little is left: of a
/// link that may have much, the last part counts for little.
const LOOK_WAIT_MIN: Duration = Duration::from_millis(1);
const LOOK_WAIT_MAX: Duration = Duration::from_millis(50);

/// Which part of all that it may have that is.
const PARTS: u32 = 32;

/// How many processors can work for a link at a time.
static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, |processors| {
        u32::try_from(processors.get()).unwrap_or(u32::MAX)
    })
});

/// How long to wait until the next look at a link that has so much left of all that it may
/// have.
pub(super) fn until_next_look(left: Duration, most: Duration) -> Duration {
    until_look(left, most, *PROCESSORS)
}

fn until_look(left: Duration, most: Duration, processors: u32) -> Duration {
    let at_least = (most / PARTS).clamp(LOOK_WAIT_MIN, LOOK_WAIT_MAX);
    (left / processors.max(1)).max(at_least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However many processors work for it all the time, it is found soon.
        #[test]
        fn a_link_is_found_soon_after_it_has_taken_too_much(
            most in 1u64..10_000_000, processors in 1u32..64, busy in 1u32..64,
        ) {
            let most = Duration::from_micros(most);
            let busy = busy.min(processors);
            let (mut used, mut looks) = (Duration::ZERO, 0);
            while used <= most {
                used += busy * until_look(most - used, most, processors);
                looks += 1;
            }
            let late = busy * (most / PARTS).clamp(LOOK_WAIT_MIN, LOOK_WAIT_MAX);
            prop_assert!(used <= most + late, "{used:?} of {most:?}");
            prop_assert!(looks < 20_000);
        }
    }

    #[test]
    fn a_link_that_does_nothing_is_seldom_looked_at() {
        let most = Duration::from_secs(10);
        assert_eq!(until_look(most, most, 4), most / 4);
        assert_eq!(until_look(Duration::ZERO, most, 4), LOOK_WAIT_MAX);
        let least = Duration::from_millis(1);
        assert_eq!(until_look(least, least, 4), LOOK_WAIT_MIN);
    }
}
