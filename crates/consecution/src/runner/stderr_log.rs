//! `--stderr-log`: what links write to standard error, as log lines.
//!
//! A link may write as much as it likes, so the lines of each link are limited in number and
//! length. Text is escaped where log lines are written.

use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::trace::CallId;

/// The most bytes of a line that are logged.
const LINE_BYTES_MAX: usize = 1024;

/// The most lines of a link that are logged within [`WINDOW`].
const LINES_MAX: u32 = 50;

/// Begins with a link's first line, and again with the first line after it.
const WINDOW: Duration = Duration::from_secs(5);

/// What a link writes to standard error, over all of its calls.
#[derive(Debug)]
pub(super) struct StderrLog {
    link_id: LinkId,
    allowed: Mutex<Allowed>,
}

impl StderrLog {
    pub(super) fn new(link_id: LinkId) -> Arc<StderrLog> {
        Arc::new(StderrLog {
            link_id,
            allowed: Mutex::default(),
        })
    }

    /// What one call of the link writes.
    pub(super) fn of_call(self: &Arc<Self>, call_id: &CallId) -> LoggedCall {
        LoggedCall {
            log: Arc::clone(self),
            call_id: call_id.clone(),
            line: Line::default(),
        }
    }

    /// Logs a line, or leaves it out and says so when the window is over.
    fn log(self: &Arc<Self>, call_id: &CallId, line: &str) {
        let link_id = self.link_id;
        let over = match self.allowed.lock().take(Instant::now()) {
            Verdict::Log => {
                tracing::info!(%call_id, %link_id, stderr = line, "a link writes");
                return;
            }
            Verdict::LeaveOut => return,
            Verdict::LeaveOutFirst(over) => over,
        };
        let log = Arc::clone(self);
        tokio::spawn(async move {
            sleep_until(over).await;
            let left_out = std::mem::take(&mut log.allowed.lock().left_out);
            tracing::info!(%link_id, "{left_out} lines that a link wrote are left out");
        });
    }
}

/// How many more lines may be logged.
#[derive(Debug, Default)]
struct Allowed {
    began: Option<Instant>,
    /// Logged lines since then.
    logged: u32,
    /// Lines that were left out and not mentioned yet.
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Log,
    LeaveOut,
    /// The first one that is left out: say how many when this time has come.
    LeaveOutFirst(Instant),
}

impl Allowed {
    fn take(&mut self, now: Instant) -> Verdict {
        let began = match self.began {
            Some(began) if now < began + WINDOW => began,
            _ => {
                self.logged = 0;
                *self.began.insert(now)
            }
        };
        if self.logged < LINES_MAX {
            self.logged += 1;
            return Verdict::Log;
        }
        self.left_out += 1;
        match self.left_out {
            1 => Verdict::LeaveOutFirst(began + WINDOW),
            _ => Verdict::LeaveOut,
        }
    }
}

/// What one call of a link writes to standard error.
#[derive(Debug)]
pub(super) struct LoggedCall {
    log: Arc<StderrLog>,
    call_id: CallId,
    line: Line,
}

impl LoggedCall {
    /// Logs the lines that are complete with these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let LoggedCall { log, call_id, line } = self;
        line.push(bytes, |line| log.log(call_id, line));
    }

    /// Logs what is left. Needs a tokio runtime, as [`LoggedCall::push`] does.
    pub(super) fn end(&mut self) {
        self.push(b"\n");
    }
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    /// Whether it goes on behind `bytes`.
    is_cut: bool,
}

impl Line {
    /// Gives each line that is complete with these bytes and has something in it.
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES_MAX - self.bytes.len();
            let fitting = text.len().min(room);
            self.bytes.extend_from_slice(&text[..fitting]);
            self.is_cut |= fitting < text.len();
            if text.len() < piece.len() {
                let line = String::from_utf8_lossy(self.bytes.trim_ascii_end());
                match (line.is_empty(), self.is_cut) {
                    (true, false) => {}
                    (_, false) => each(&line),
                    (_, true) => each(&format!("{line}…")),
                }
                self.bytes.clear();
                self.is_cut = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut line, mut lines) = (Line::default(), Vec::new());
        for piece in pieces {
            line.push(piece, |line| lines.push(line.to_owned()));
        }
        lines
    }

    #[test]
    fn lines_come_whole_and_empty_ones_do_not() {
        assert_eq!(
            lines(&[b"o", b"ne\r\n\n two\nth", b"ree", b"\n"]),
            ["one", " two", "three"]
        );
        let long = [&[b'x'; 3000][..], b"\nnext\n"].concat();
        let logged = lines(&[&long]);
        assert_eq!(logged[0], "x".repeat(LINE_BYTES_MAX) + "…");
        assert_eq!(logged[1], "next");
    }

    #[test]
    fn so_many_lines_are_logged_in_a_window_and_the_others_counted() {
        let (mut allowed, began) = (Allowed::default(), Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(allowed.take(began), Verdict::Log);
        }
        let over = began + WINDOW;
        assert_eq!(allowed.take(began), Verdict::LeaveOutFirst(over));
        assert_eq!(allowed.take(began), Verdict::LeaveOut);
        assert_eq!(allowed.left_out, 2);
        assert_eq!(allowed.take(over), Verdict::Log);
    }

    proptest! {
        #[test]
        fn however_it_comes_lines_are_the_same_and_bounded(
            lengths in prop::collection::vec(0..2 * LINE_BYTES_MAX, 0..5),
            byte in any::<u8>(),
            at in 0..10 * LINE_BYTES_MAX,
        ) {
            let texts: Vec<_> = lengths.iter().map(|length| vec![byte; *length]).collect();
            let bytes = texts.join(&b'\n');
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            let whole = lines(&[&bytes]);
            prop_assert_eq!(&lines(&[first, second]), &whole);
            // A byte that is no UTF-8 becomes three.
            let longest = whole.iter().map(String::len).max();
            prop_assert!(longest.unwrap_or(0) <= 3 * LINE_BYTES_MAX + "…".len());
        }
    }
}
