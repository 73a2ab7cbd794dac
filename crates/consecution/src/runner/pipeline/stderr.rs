//! What a process writes to standard error: passed on as it comes, and its end kept.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::allowance::{Allowance, Exceeded};
use crate::pipe::Reader;
use crate::transport::STDERR_TAIL_BYTES_MAX;

/// Reads what the process writes to standard error until that is closed: keeps
/// the end of it, and passes it on to `listener`. Stops where it is too much.
pub(super) async fn listen(
    stderr: &mut Reader,
    mut allowance: Allowance,
    tail: &mut Tail,
    mut listener: Option<mpsc::Sender<Bytes>>,
) -> Result<(), Exceeded> {
    while let Ok(Some(chunk)) = stderr.chunk().await {
        allowance.take(chunk.len())?;
        tail.push(&chunk);
        if let Some(open) = &listener
            && open.send(chunk).await.is_err()
        {
            listener = None;
        }
    }
    Ok(())
}

/// The last [`STDERR_TAIL_BYTES_MAX`] bytes of what was pushed.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES_MAX)..];
        let surplus = (self.0.len() + bytes.len()).saturating_sub(STDERR_TAIL_BYTES_MAX);
        self.0.drain(..surplus.min(self.0.len()));
        self.0.extend(bytes);
    }

    /// Adds a line of ours, behind a line break if there is none; gives what was
    /// added.
    pub(super) fn line(&mut self, line: &str) -> String {
        let breaks = self.0.back().is_some_and(|last| *last != b'\n');
        let added = format!("{}{line}", if breaks { "\n" } else { "" });
        self.push(added.as_bytes());
        added
    }

    pub(super) fn into_bytes(self) -> Bytes {
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
