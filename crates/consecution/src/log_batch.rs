//! One log line for many events of a kind that come at the same time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

/// How long to gather events after the first one.
const PAUSE: Duration = Duration::from_millis(250);

/// The most names in a line.
const NAMED_MAX: usize = 5;

/// Gathers events, and logs them together a little later.
pub(crate) struct LogBatch {
    gathered: Mutex<Batch>,
    say: fn(&Batch),
}

/// The gathered events; displays as a list of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    named: Vec<String>,
    count: usize,
}

impl LogBatch {
    /// Logs what it has gathered with `say`.
    pub(crate) fn new(say: fn(&Batch)) -> Arc<LogBatch> {
        Arc::new(LogBatch {
            gathered: Mutex::default(),
            say,
        })
    }

    /// Adds the event of `name`. Needs a tokio runtime.
    pub(crate) fn add(self: &Arc<Self>, name: String) {
        let is_first = {
            let mut gathered = self.gathered.lock();
            gathered.add(name);
            gathered.count == 1
        };
        if is_first {
            let batch = Arc::clone(self);
            tokio::spawn(async move {
                sleep(PAUSE).await;
                let gathered = std::mem::take(&mut *batch.gathered.lock());
                (batch.say)(&gathered);
            });
        }
    }
}

impl Batch {
    fn add(&mut self, name: String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(name);
        }
    }

    /// How many events there are, in words: `1 link`, `12 links`.
    pub(crate) fn links(&self) -> String {
        match self.count {
            1 => "1 link".to_owned(),
            count => format!("{count} links"),
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.named.join(", "))?;
        match self.count - self.named.len() {
            0 => Ok(()),
            more => write!(formatter, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[tokio::test(start_paused = true)]
    async fn what_happens_together_is_one_line_of_a_bounded_length() {
        let batch = LogBatch::new(|batch| {
            let line = format!("{}: {batch}", batch.links());
            SAID.lock().push(line);
        });
        for number in 0..1_000 {
            batch.add(number.to_string());
        }
        sleep(2 * PAUSE).await;
        batch.add("one".to_owned());
        sleep(2 * PAUSE).await;
        assert_eq!(
            *SAID.lock(),
            ["1000 links: 0, 1, 2, 3, 4 and 995 more", "1 link: one"]
        );
    }
}
