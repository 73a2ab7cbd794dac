//! A process's standard error: passed on while it comes, with its end kept.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::allowance::Allowance;
use crate::pipe::Reader;
use crate::runner::stderr_log::LoggedCall;
use crate::transport::STDERR_TAIL_BYTES_MAX;

/// More was written to standard error than is allowed.
pub(super) struct Exceeded;

/// A process's standard error.
pub(super) struct Said {
    stderr: Reader,
    allowance: Allowance,
    tail: Tail,
    listener: Option<mpsc::Sender<Bytes>>,
    log: Option<LoggedCall>,
}

impl Said {
    /// Reads `stderr` and passes everything on to `listener` and to `log`.
    pub(super) fn new(
        stderr: Reader,
        bytes_max: Option<u64>,
        listener: Option<mpsc::Sender<Bytes>>,
        log: Option<LoggedCall>,
    ) -> Said {
        Said {
            stderr,
            allowance: Allowance::new(bytes_max).0,
            tail: Tail::default(),
            listener,
            log,
        }
    }

    /// Reads until standard error is closed or exceeds its limit. Cancel-safe: nothing is
    /// lost if the future is dropped.
    pub(super) async fn listen(&mut self) -> Result<(), Exceeded> {
        loop {
            self.stderr.until_readable().await;
            let room = match &self.listener {
                Some(listener) => listener.reserve().await.ok(),
                None => None,
            };
            let next = poll_fn(|context| Poll::Ready(self.stderr.poll_chunk(context))).await;
            let chunk = match next {
                Poll::Ready(Ok(Some(chunk))) => chunk,
                Poll::Ready(Ok(None) | Err(_)) => return Ok(()),
                Poll::Pending => continue,
            };
            if self.allowance.take(chunk.len()) < chunk.len() {
                return Err(Exceeded);
            }
            self.tail.push(&chunk);
            log(&mut self.log, &chunk);
            if let Some(room) = room {
                room.send(chunk);
            }
        }
    }

    /// Reads what is left in the pipe, once nobody writes to it any more.
    pub(super) async fn listen_to_rest(&mut self) {
        while let Ok(Some(chunk)) = self.stderr.rest() {
            if self.allowance.take(chunk.len()) < chunk.len() {
                return;
            }
            self.tail.push(&chunk);
            log(&mut self.log, &chunk);
            self.pass_on(chunk).await;
        }
    }

    /// Adds a line of our own, after a line break if the last line has none.
    pub(super) async fn remark(&mut self, remark: &str) {
        let line = self.tail.line(&format!("consecution: {remark}\n"));
        log(&mut self.log, line.as_bytes());
        self.pass_on(line.into()).await;
    }

    async fn pass_on(&mut self, chunk: Bytes) {
        if let Some(listener) = &self.listener {
            // Fails only if the listener is gone.
            let _ = listener.send(chunk).await;
        }
    }

    /// The end of standard error, as far as it was read.
    pub(super) fn tail(&mut self) -> &[u8] {
        self.tail.0.make_contiguous()
    }

    /// The end of standard error, of which all has been read. Needs a tokio runtime.
    pub(super) fn take_tail(&mut self) -> Bytes {
        if let Some(log) = &mut self.log {
            log.end();
        }
        std::mem::take(&mut self.tail).into_bytes()
    }
}

fn log(log: &mut Option<LoggedCall>, bytes: &[u8]) {
    if let Some(log) = log {
        log.push(bytes);
    }
}

/// The last [`STDERR_TAIL_BYTES_MAX`] bytes of what was pushed.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES_MAX)..];
        let surplus = (self.0.len() + bytes.len()).saturating_sub(STDERR_TAIL_BYTES_MAX);
        self.0.drain(..surplus.min(self.0.len()));
        self.0.extend(bytes);
    }

    /// Adds a line of our own, after a line break if the last line has none. Returns the
    /// bytes that were added.
    fn line(&mut self, line: &str) -> String {
        let breaks = self.0.back().is_some_and(|last| *last != b'\n');
        let added = format!("{}{line}", if breaks { "\n" } else { "" });
        self.push(added.as_bytes());
        added
    }

    fn into_bytes(self) -> Bytes {
        Vec::from(self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end_and_no_more() {
        let mut tail = Tail::default();
        tail.push(b"abc");
        tail.push(&vec![b'x'; STDERR_TAIL_BYTES_MAX - 2]);
        assert_eq!(tail.0.len(), STDERR_TAIL_BYTES_MAX);
        assert_eq!(tail.0[0], b'b');
        tail.push(&vec![b'y'; 3 * STDERR_TAIL_BYTES_MAX]);
        tail.push(b"z");
        let bytes = tail.into_bytes();
        assert_eq!(bytes.len(), STDERR_TAIL_BYTES_MAX);
        assert!(bytes.ends_with(b"yz"));
    }

    #[test]
    fn a_line_of_ours_stands_by_itself() {
        let mut tail = Tail::default();
        assert_eq!(tail.line("ours\n"), "ours\n");
        tail.push(b"theirs");
        assert_eq!(tail.line("ours\n"), "\nours\n");
        assert_eq!(&tail.into_bytes()[..], b"ours\ntheirs\nours\n");
    }
}
