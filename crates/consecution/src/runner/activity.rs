//! Looks whether the processes of an idle pipeline sleep.

use sandbox::{Activity, Observer, Thread};

use super::pool::Probe;
use super::pool_state::Look;

/// Looks at the processes of one pipeline.
pub(super) struct ActivityProbe {
    observers: Vec<Observer>,
    /// The threads that the last look has found, if all slept.
    asleep: Option<Vec<Vec<Thread>>>,
}

impl ActivityProbe {
    /// Of these processes; `None` if there are none.
    pub(super) fn new(observers: Vec<Observer>) -> Option<ActivityProbe> {
        (!observers.is_empty()).then_some(ActivityProbe {
            observers,
            asleep: None,
        })
    }
}

impl Probe for ActivityProbe {
    fn look(&mut self) -> Look {
        let before = self.asleep.take();
        let mut threads = Vec::new();
        for observer in &self.observers {
            match observer.look() {
                Activity::Awake => return Look::Awake,
                Activity::Unknown => return Look::Unknown,
                Activity::Asleep(sleepers) => threads.push(sleepers),
            }
        }
        let is_unchanged = before.as_ref() == Some(&threads);
        self.asleep = Some(threads);
        match is_unchanged {
            true => Look::Unchanged,
            false => Look::Asleep,
        }
    }
}
