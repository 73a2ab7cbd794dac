//! What a process reads on standard input: a body that comes from elsewhere, or
//! what another process here writes.

use std::future::pending;

use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use super::output::Output;
use super::splice::{Flow, Moved};
use crate::transport::{Body, Cut, Ending, PendingOutcome};

/// What a process is to read.
pub(in crate::runner) enum Input {
    Body(Body),
    Joint(Joint),
}

/// Where the output of one process becomes the input of the next one.
pub(in crate::runner) struct Joint {
    /// What the process before writes.
    pub(in crate::runner) output: Output,
    /// How it ends.
    pub(in crate::runner) outcome: PendingOutcome,
    /// And with which codes it has succeeded: only then is its output complete.
    pub(in crate::runner) accepted: Vec<u8>,
}

/// Gives a process its input, and then the end of it, which only a complete one
/// has.
pub(super) async fn feed(input: Input, stdin: &mut Option<pipe::Sender>) -> Result<(), Cut> {
    match input {
        Input::Body(body) => feed_body(body, stdin).await,
        Input::Joint(joint) => joint.feed(stdin).await,
    }
}

async fn feed_body(mut body: Body, stdin: &mut Option<pipe::Sender>) -> Result<(), Cut> {
    let mut flow = Flow::default();
    while let Some(pipe) = stdin {
        let chunk = tokio::select! {
            biased;
            chunk = body.next() => chunk,
            () = closed(pipe) => None,
        };
        match chunk.transpose()? {
            Some(chunk) if pipe.write_all(&chunk).await.is_ok() => flow.add(chunk.len(), pipe),
            // The end; or it reads no more, which is its business, and its exit
            // code says whether that is right. Dropping the body tells upstream.
            _ => *stdin = None,
        }
    }
    Ok(())
}

impl Joint {
    async fn feed(mut self, stdin: &mut Option<pipe::Sender>) -> Result<(), Cut> {
        let mut flow = Flow::default();
        while let Some(pipe) = stdin {
            let moved = tokio::select! {
                biased;
                moved = self.output.move_into(pipe) => moved?,
                () = closed(pipe) => Some(Moved::Unread),
            };
            match moved {
                Some(Moved::Bytes(bytes)) => flow.add(bytes, pipe),
                Some(Moved::Unread) => *stdin = None,
                None => {
                    tokio::select! {
                        biased;
                        ending = self.ending() => self.complete(&ending)?,
                        () = closed(pipe) => {}
                    }
                    *stdin = None;
                }
            }
        }
        Ok(())
    }

    async fn ending(&self) -> Ending {
        self.outcome.clone().await.ending
    }

    /// Whether all of the output that there was is all that there is to be.
    fn complete(&self, ending: &Ending) -> Result<(), Cut> {
        match ending {
            Ending::Exited(code) if self.accepted.contains(code) => Ok(()),
            _ => Err(Cut::new("the link before it failed")),
        }
    }
}

/// Resolves when the process has closed its input without waiting for more.
async fn closed(pipe: &pipe::Sender) {
    if pipe.ready(Interest::ERROR).await.is_err() {
        pending().await
    }
}
