//! The processes of a pipeline and the pipes between them: what is waited for, and who
//! holds what until when.
//!
//! Of the pipe between two links the runner has the reading end, so that the writer never
//! gets a SIGPIPE, and the message in which the writing end is in flight, so that the
//! reader sees no end that is none. It lets go of both when all is over, and of the
//! message before that only where the reader's input is complete.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use sandbox::{Event, ExitCodes, InFlight};
use tokio::io::unix::AsyncFd;

use super::ending::{End, ending, not_followed, out_of_memory};
use super::output::UNREAD_WAIT_MAX;
use super::watch;
use crate::pipe::{Reader, Writer, is_ready};
use crate::transport::Ending;

/// All processes of a pipeline, in chain order. Dropping it kills what still runs, and
/// waits for that before it closes anything: so it blocks where something does.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    /// Of the first one. `None` once its input is complete, or nobody reads it any more.
    pub(super) stdin: Option<Writer>,
}

impl Links {
    /// Kills what is left, and waits for it where something is. Where nothing was, gives
    /// what is still open.
    pub(super) async fn end(mut self) -> Option<Links> {
        if self.links.iter().all(Link::is_gone) {
            return Some(self);
        }
        self.kill();
        // Elsewhere, since it blocks; if there is no elsewhere any more, the runtime
        // drops it here.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        None
    }

    fn kill(&mut self) {
        for link in &mut self.links {
            link.process.kill();
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.kill();
        for link in &mut self.links {
            link.process.kill_and_wait();
        }
    }
}

/// One process of a pipeline.
#[derive(Debug)]
pub(super) struct Link {
    // Before the process whose descriptors they watch, and so dropped before it.
    /// What its init says.
    reports: Option<AsyncFd<RawFd>>,
    /// Whether its init lives.
    life: Option<AsyncFd<RawFd>>,
    process: sandbox::Process,
    /// What lies between it and the next one; `None` behind the last one.
    joint: Option<Joint>,
    /// How it has ended, once that is known.
    pub(super) end: Option<End>,
}

/// The pipe between a process and the next one.
#[derive(Debug)]
pub(super) struct Joint {
    /// The codes with which the next one's input is complete.
    accepted: ExitCodes,
    /// The writing end; `None` once the next one's input is complete.
    in_flight: Option<InFlight>,
    /// The reading end. Its description is the reader's own as well: whatever is set
    /// there, such as not to block, the reader would meet.
    reading: OwnedFd,
    /// It is read in the reader's place.
    is_taken: bool,
}

impl Joint {
    pub(super) fn new(accepted: ExitCodes, in_flight: InFlight, reading: OwnedFd) -> Joint {
        Joint {
            accepted,
            in_flight: Some(in_flight),
            reading,
            is_taken: false,
        }
    }
}

impl Link {
    /// A process that was asked for, whose events are waited for.
    pub(super) fn new(process: sandbox::Process, joint: Option<Joint>) -> io::Result<Link> {
        Ok(Link {
            reports: Some(watch(process.as_raw_fd())?),
            life: None,
            process,
            joint,
            end: None,
        })
    }

    /// From here on the end of its init can be waited for as well.
    pub(super) fn watch_life(&mut self) -> io::Result<()> {
        let pidfd = self.process.lifeline().map(|pidfd| pidfd.as_raw_fd());
        self.life = pidfd.map(watch).transpose()?;
        Ok(())
    }

    pub(super) fn is_started(&self) -> bool {
        self.life.is_some()
    }

    /// While all goes well, what its init says is of no interest before the last link has
    /// ended: it must wake nobody. The alarm tells of what does not go well, and the end
    /// of init, where that can tell nothing.
    pub(super) fn ignore_reports(&mut self) {
        if self.joint.is_some() && self.life.is_some() {
            self.reports = None;
        }
    }

    /// Waits for what its init says again.
    pub(super) fn watch_reports(&mut self) {
        if self.end.is_none() && self.reports.is_none() {
            match watch(self.process.as_raw_fd()) {
                Ok(reports) => self.reports = Some(reports),
                Err(error) => self.stop(not_followed(&error).into()),
            }
        }
    }

    /// Is there an event, which can only be its end? Only for one that has been started.
    pub(super) fn poll_report(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(reports) = &self.reports else {
            return Poll::Pending;
        };
        loop {
            let Ok(mut ready) = ready!(reports.poll_read_ready(context)) else {
                return Poll::Ready(());
            };
            // The runtime may still remember the event that said it has started.
            if is_ready(&self.process, PollFlags::IN) {
                return Poll::Ready(());
            }
            ready.clear_ready();
        }
    }

    pub(super) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        let Some(reports) = &self.reports else {
            return Poll::Pending;
        };
        loop {
            let mut ready = ready!(reports.poll_read_ready(context))?;
            match self.process.next_event()? {
                Some(event) => return Poll::Ready(Ok(event)),
                None => ready.clear_ready(),
            }
        }
    }

    /// Resolves when it has ended; where what its init says is of no interest, only when
    /// that is gone.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.end.is_none() && self.reports.is_some() {
            let event = ready!(self.poll_event(context));
            self.take(event);
        }
        if self.end.is_none() {
            // Where it cannot be waited for, the last one's end is.
            let Some(life) = &self.life else {
                return Poll::Pending;
            };
            let _ = ready!(life.poll_read_ready(context));
            self.look();
        }
        Poll::Ready(())
    }

    /// Learns whether it has ended, without waiting for that.
    pub(super) fn look(&mut self) {
        while self.end.is_none() {
            match self.process.next_event().transpose() {
                Some(event) => self.take(event),
                None => return,
            }
        }
    }

    fn take(&mut self, event: io::Result<Event>) {
        let Some(ending) = ending(event) else { return };
        if self.process.has_completed() {
            // Init lets go of it as well, or has.
            self.let_go();
            self.end = Some(ending.into());
            return;
        }
        let limit = match ending {
            Ending::Lost(_) => None,
            _ => self.process.ran_out_of_memory(),
        };
        if let Some(limit_bytes) = limit {
            self.end = Some(out_of_memory(limit_bytes, &ending));
            return;
        }
        let accepted = self.joint.as_ref().map(|joint| joint.accepted);
        if let (Ending::Exited(code), Some(accepted)) = (&ending, accepted)
            && accepted.contains(*code)
        {
            // Init could not tell whether the kernel has killed a part of it.
            self.let_go();
        }
        self.end = Some(ending.into());
    }

    fn let_go(&mut self) {
        if let Some(joint) = &mut self.joint {
            joint.in_flight = None;
        }
    }

    /// Has it ended, so that the input of the next one will never be complete? Nothing of
    /// it is missing where the next one has stopped to read.
    pub(super) fn has_failed(&self) -> bool {
        let is_incomplete = (self.joint.as_ref()).is_some_and(|joint| joint.in_flight.is_some());
        let end = self.end.as_ref();
        is_incomplete && end.is_some_and(|end| end.ending != Ending::Unread)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// When its command was gone, where its init has said so.
    pub(super) fn ended_at(&self) -> Option<std::time::Instant> {
        self.process.ended_at()
    }

    /// Nothing of it runs any more.
    fn is_gone(&self) -> bool {
        self.process.is_over()
    }

    /// Kills it, for that reason, unless it has ended by itself: what its init has said
    /// is how it has.
    pub(super) fn stop(&mut self, end: End) {
        self.look();
        if self.end.is_none() {
            self.process.kill();
            self.end = Some(end);
        }
    }

    /// It has ended when the next one no longer read what it wrote. Where that was longer
    /// ago than it may take to end by itself, it counts as stopped: nobody was there to do
    /// it, since while all goes well nobody is told that a link has ended.
    pub(super) fn was_unread_since(&mut self, reader_ended: std::time::Instant) {
        let late = (self.process.ended_at())
            .and_then(|ended| ended.checked_duration_since(reader_ended))
            .is_some_and(|late| late > UNREAD_WAIT_MAX);
        if late && let Some(end) = &mut self.end {
            *end = Ending::Unread.into();
        }
    }

    /// The pipe behind it, once, to be read in place of a reader that is gone: opened once
    /// more, since our description of it is the reader's as well, of which something may
    /// still be dying.
    pub(super) fn take_output(&mut self) -> Option<io::Result<Reader>> {
        let joint = self.joint.as_mut()?;
        if std::mem::replace(&mut joint.is_taken, true) {
            return None;
        }
        let path = format!("/proc/self/fd/{}", joint.reading.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        Some(opened.map_err(io::Error::from).and_then(Reader::new))
    }
}
