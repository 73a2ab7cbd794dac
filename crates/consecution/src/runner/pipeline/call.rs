//! A pipeline at work, to the end of all its links.
//!
//! While all goes well it is woken by the last link only: inner ones give the next one
//! its end by themselves. Once any has ended otherwise, or the last one has, it winds
//! down: it hears of each that is left, ends those behind a failed one, and reads on for
//! whoever has lost its reader.

use std::future::poll_fn;
use std::io::PipeWriter;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sandbox::Alarm;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Work;
use super::allowance::{Allowance, Excess};
use super::ending::{End, too_much};
use super::link::{Link, Links};
use super::output::{UNREAD_WAIT_MAX, Unread, swallow};
use super::stderr::{Tail, listen};
use crate::pipe::{Reader, Writer};
use crate::transport::{Body, Cut, Ending, Next, Outcome};

/// How long to wait for a killed process's last words.
pub(super) const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// A pipeline at work.
pub(super) struct Call {
    pub(super) links: Links,
    /// Raised by the init of an inner link that has not ended as it should.
    pub(super) alarm: Option<AsyncFd<Alarm>>,
    pub(super) stderrs: Vec<Reader>,
    /// The writing ends of what inner links say on standard error, until all is over: that
    /// one has ended is to wake nobody.
    pub(super) kept: Vec<PipeWriter>,
    /// Of the last link's output.
    pub(super) unread: Unread,
    /// Told when that is more than is allowed.
    pub(super) excess: Excess,
    pub(super) stderr_bytes_max: Option<u64>,
}

impl Call {
    /// Sees all processes through to their ends, whichever those are, and leaves none
    /// of them behind. The outcomes are in chain order.
    pub(super) async fn run(self, work: Work) -> Vec<Outcome> {
        let started = Instant::now();
        let Call {
            mut links,
            alarm,
            mut stderrs,
            kept,
            mut unread,
            excess,
            stderr_bytes_max,
        } = self;
        let mut tails: Vec<Tail> = stderrs.iter().map(|_| Tail::default()).collect();
        let last_words = work.stderr.clone();
        let mut listening: FuturesUnordered<_> = (stderrs.iter_mut().zip(&mut tails).enumerate())
            .map(|(at, (stderr, tail))| {
                let (allowance, _) = Allowance::new(stderr_bytes_max);
                let listening = listen(stderr, allowance, tail, work.stderr.clone());
                async move { (at, listening.await) }
            })
            .collect();
        {
            let Links { links, stdin } = &mut links;
            let mut progress = Progress {
                links,
                alarm,
                is_winding_down: false,
            };
            // Dropped as soon as the first process is gone: that tells upstream.
            let mut feeding = pin!(Some(feed(work.input, stdin)));
            let mut swallowing = FuturesUnordered::new();
            let mut unread = pin!(unread.over());
            let mut excess = pin!(excess.fuse());
            let mut deadline = pin!(until(work.deadline));
            while !progress.is_over() {
                tokio::select! {
                    biased;
                    () = progress.until_more() => {}
                    () = &mut deadline => progress.stop_all(&Ending::DeadlinePassed),
                    Ok(()) = &mut excess, if !progress.last().has_ended() => {
                        progress.last().stop(too_much("its output"));
                    }
                    () = &mut unread, if !progress.last().has_ended() => {
                        progress.last().stop(Ending::Unread.into());
                    }
                    Some(at) = swallowing.next() => progress.stop(at, Ending::Unread.into()),
                    fed = fed(feeding.as_mut()) => {
                        feeding.set(None);
                        if fed.is_err() {
                            progress.stop(0, Ending::Cut.into());
                        }
                    }
                    Some((at, within)) = listening.next() => if within.is_err() {
                        progress.stop(at, too_much("standard error"));
                    }
                }
                progress.end_behind_failures();
                if progress.last().has_ended() {
                    progress.wind_down();
                }
                if progress.links[0].has_ended() {
                    feeding.set(None);
                }
                swallowing.extend(progress.who_lost_its_reader());
            }
        }
        let ends = links
            .links
            .iter_mut()
            .map(|link| (link.end.take(), link.ended_at()));
        let ends: Vec<_> = ends.collect();
        links.end().await;
        drop(kept);
        // All writers are gone or being killed, so this ends.
        let all = async { while listening.next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, all).await;
        drop(listening);
        let mut outcomes = Vec::with_capacity(ends.len());
        for ((end, ended_at), mut tail) in ends.into_iter().zip(tails) {
            let Some(end) = end else { continue };
            if let Some(remark) = end.remark {
                say(&remark, &mut tail, last_words.as_ref()).await;
            }
            let elapsed = match ended_at {
                Some(ended) => ended.saturating_duration_since(started.into_std()),
                None => started.elapsed(),
            };
            outcomes.push(Outcome {
                stderr: tail.into_bytes(),
                elapsed,
                ..Outcome::new(end.ending)
            });
        }
        outcomes
    }
}

/// Adds a remark of ours to what a link has said.
async fn say(remark: &str, tail: &mut Tail, listener: Option<&mpsc::Sender<Bytes>>) {
    let line = Bytes::from(tail.line(&format!("consecution: {remark}\n")));
    if let Some(listener) = listener {
        // Whoever does not keep up finds it in the outcome.
        let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, listener.send(line)).await;
    }
}

/// What is known of the links, and what follows from it.
struct Progress<'a> {
    /// At least one.
    links: &'a mut Vec<Link>,
    alarm: Option<AsyncFd<Alarm>>,
    /// One has ended, so that all others are listened to.
    is_winding_down: bool,
}

impl Progress<'_> {
    fn is_over(&self) -> bool {
        self.links.iter().all(Link::has_ended)
    }

    fn last(&mut self) -> &mut Link {
        let last = self.links.len() - 1;
        &mut self.links[last]
    }

    /// Resolves when more is known than before.
    async fn until_more(&mut self) {
        poll_fn(|context| self.poll_more(context)).await;
        // Inner links that have ended well have told nobody.
        self.links.iter_mut().for_each(Link::look);
    }

    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut more = Poll::Pending;
        for link in self.links.iter_mut().filter(|link| !link.has_ended()) {
            if link.poll_end(context).is_ready() {
                more = Poll::Ready(());
            }
        }
        if !self.is_winding_down
            && let Some(alarm) = &self.alarm
            && alarm.poll_read_ready(context).is_ready()
        {
            self.wind_down();
            more = Poll::Ready(());
        }
        more
    }

    fn wind_down(&mut self) {
        if !std::mem::replace(&mut self.is_winding_down, true) {
            self.links.iter_mut().for_each(Link::watch_reports);
        }
    }

    fn stop(&mut self, at: usize, end: End) {
        self.links[at].stop(end);
        self.wind_down();
    }

    fn stop_all(&mut self, ending: &Ending) {
        for link in &mut *self.links {
            link.stop(ending.clone().into());
        }
    }

    /// Links behind one that has failed never see the end of their input.
    fn end_behind_failures(&mut self) {
        for at in 1..self.links.len() {
            let (before, behind) = self.links.split_at_mut(at);
            let before = &mut before[at - 1];
            if before.has_failed()
                && let Some(reader_ended) = behind[0].ended_at()
            {
                before.was_unread_since(reader_ended);
            }
            if before.has_failed() {
                for link in behind {
                    link.stop(Ending::Cut.into());
                }
                self.wind_down();
                return;
            }
        }
    }

    /// Reads on for each link that nobody reads any more; resolves, with which one, when
    /// it has had its chance to end by itself.
    fn who_lost_its_reader(&mut self) -> Vec<impl Future<Output = usize> + use<>> {
        let mut lost = Vec::new();
        for at in 1..self.links.len() {
            if self.links[at].has_ended() && !self.links[at - 1].has_ended() {
                lost.extend(
                    self.links[at - 1]
                        .take_output()
                        .map(|output| (at - 1, output)),
                );
            }
        }
        let swallowed = lost.into_iter().map(|(at, output)| async move {
            match output {
                Ok(mut output) => swallow(&mut output).await,
                // It can still end by itself, if it has little left to write.
                Err(_) => tokio::time::sleep(UNREAD_WAIT_MAX).await,
            }
            at
        });
        swallowed.collect()
    }
}

/// Resolves at the deadline, if there is one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What comes of feeding, as long as there is somebody to feed.
async fn fed<F: Future>(feeding: Pin<&mut Option<F>>) -> F::Output {
    match feeding.as_pin_mut() {
        Some(feeding) => feeding.await,
        None => std::future::pending().await,
    }
}

/// Gives a process its input, and then the end of it, which only a complete one
/// has.
async fn feed(mut input: Body, stdin: &mut Option<Writer>) -> Result<(), Cut> {
    while let Some(pipe) = stdin {
        let next = tokio::select! {
            biased;
            next = input.next_for(pipe) => next?,
            // The process has closed its input without waiting for more.
            () = pipe.until_unread() => Next::Unread,
        };
        let is_read = match next {
            Next::Moved => true,
            Next::Chunk(chunk) => pipe.write_all(&chunk).await.is_ok(),
            Next::Unread | Next::End => false,
        };
        if !is_read {
            // The end; or it reads no more, which is its business, and its exit
            // code says whether that is right. Dropping the body tells upstream.
            *stdin = None;
        }
    }
    Ok(())
}
