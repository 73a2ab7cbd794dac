//! Runs a pipeline's call until all of its processes have ended.
//!
//! While everything goes well, only the last link wakes this task: the inits of inner
//! links pass the end of the input on by themselves. When the last link has ended, or an
//! inner link has failed, the call winds down: it listens to each process that is left,
//! kills those behind a failed one, and reads the output of those that have lost their
//! reader.

use std::future::poll_fn;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sandbox::{Alarm, LeftOutput};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::allowance::{Counted, Excess, OutputMax};
use super::ending::{End, not_followed, not_packed_in_time, too_much};
use super::link::{Link, Links};
use super::output::{OutputEnd, UNREAD_WAIT_MAX, swallow};
use super::stderr::Said;
use super::stored::{
    FileOutputEnd, HeldFile, OutputFile, Source, Storage, Tar, Unfed, pour, store,
};
use super::{Kept, Work};
use crate::pipe::{Reader, Writer, bytes_in};
use crate::transport::{Body, Ending, LAST_WORDS_WAIT_MAX, Outcome, OutputLeft, Usage};

/// A pipeline at work.
pub(super) struct Call {
    pub(super) links: Links,
    /// The init of an inner link raises this if its command has failed.
    pub(super) alarm: Option<AsyncFd<Alarm>>,
    pub(super) stderrs: Vec<Reader>,
    pub(super) kept: Kept,
    /// The other side of the last link's output.
    pub(super) output: Out,
    /// Notified when that output exceeds its limit.
    pub(super) excess: Excess,
    pub(super) output_max: OutputMax,
    pub(super) stderr_bytes_max: Option<u64>,
}

/// The other side of the last link's output.
pub(super) enum Out {
    Pipe(OutputEnd),
    File(FileOutputEnd),
}

/// The files of a pipeline that is over. They are closed when this is dropped.
#[expect(dead_code, reason = "most of it is there to be dropped")]
pub(super) struct Remains {
    links: Option<Links>,
    alarm: Option<AsyncFd<Alarm>>,
    said: Vec<Said>,
    kept: Kept,
    output: Option<HeldFile>,
}

impl Remains {
    /// Closes the files, but for one that is the output.
    pub(super) fn close(self) -> Option<HeldFile> {
        self.output
    }
}

impl Call {
    /// Runs all processes to their ends, however they end, and leaves none behind. Returns
    /// their outcomes in chain order, which count the time since `started`.
    pub(super) async fn run(self, work: Work, started: Instant) -> (Vec<Outcome>, Remains) {
        let Call {
            mut links,
            alarm,
            stderrs,
            mut kept,
            output,
            excess,
            output_max,
            stderr_bytes_max,
        } = self;
        let (finish, handed_back) = match output {
            Out::Pipe(end) => (Finish::Pipe(end.is_over, end.counted), end.handed_back),
            Out::File(end) => {
                let finish = Finish::File(end.source, end.held, end.counted);
                (finish, end.handed_back)
            }
        };
        let mut fed_bytes = None;
        let mut logs = work.stderr_logs.into_iter();
        let said = |stderr| {
            let (listener, log) = (work.stderr.clone(), logs.next());
            Said::new(stderr, stderr_bytes_max, listener, log)
        };
        let mut excess = pin!(excess.fuse());
        let mut said: Vec<_> = stderrs.into_iter().map(said).collect();
        {
            let Links { links, stdin } = &mut links;
            let last = links.len().saturating_sub(1);
            let mut progress = Progress {
                links,
                alarm: alarm.as_ref(),
                is_winding_down: false,
            };
            progress.links.iter_mut().for_each(Link::count_cpu_time);
            let mut look_at = progress.look_at_cpu_time();
            // Dropped as soon as the first process is gone, so that the sender of the input
            // learns that nobody reads it.
            let storage = progress.links[0].take_storage();
            let mut feeding = pin!(Some(feed(work.input, stdin, storage, &mut fed_bytes)));
            // Feed first what has arrived already: the links can work during the rest.
            let fed_at_once = fed(feeding.as_mut()).now_or_never();
            progress.links.iter_mut().for_each(Link::ignore_reports);
            if let Some(fed) = fed_at_once {
                feeding.set(None);
                progress.fed(fed);
            }
            let listening = said.iter_mut().enumerate();
            let mut listening: FuturesUnordered<_> = listening
                .map(|(at, said)| async move { (at, said.listen().await) })
                .collect();
            let mut swallowing = FuturesUnordered::new();
            let mut swallowed = Vec::new();
            let mut handed_back = pin!(handed_back.fuse());
            let mut deadline = pin!(until(work.deadline));
            loop {
                // Before the first wait too: the input that was fed at once may be cut off.
                progress.end_behind_failures();
                if progress.links[last].has_ended() {
                    progress.wind_down();
                }
                if progress.links[0].has_ended() {
                    feeding.set(None);
                }
                let lost = progress.take_unread().into_iter();
                swallowing.extend(lost.map(|(at, output)| lost_reader(at, output)));
                if progress.is_over() {
                    break;
                }
                tokio::select! {
                    biased;
                    () = progress.until_more() => {}
                    () = &mut deadline => progress.stop_all(&Ending::DeadlinePassed),
                    Ok(()) = &mut excess => progress.stop(last, output_max.exceeded()),
                    () = until(look_at) => look_at = progress.look_at_cpu_time(),
                    Ok(output) = &mut handed_back => {
                        kept.stdout = None;
                        let output = output.ok_or_else(|| io::ErrorKind::NotSeekable.into());
                        swallowing.push(lost_reader(last, output));
                    }
                    Some((at, output)) = swallowing.next() => {
                        progress.stop(at, Ending::Unread.into());
                        // Keep it open until all are gone: closing it would send SIGPIPE.
                        swallowed.push(output);
                    }
                    fed = fed(feeding.as_mut()) => {
                        feeding.set(None);
                        progress.fed(fed);
                    }
                    Some((at, within)) = listening.next() => if within.is_err() {
                        progress.stop(at, too_much("standard error"));
                    }
                }
            }
        }
        let last = links.links.len().saturating_sub(1);
        let stopped = async {
            tokio::select! {
                () = until(work.deadline) => None,
                Ok(()) = &mut excess => Some(output_max.exceeded()),
            }
        };
        let Finished {
            left,
            held,
            bytes_out,
        } = match links.links.get_mut(last) {
            Some(last) => {
                let kept = kept.stdout.as_ref();
                finish.end(last, kept, output_max, stopped).await
            }
            None => Finished::default(),
        };
        // What is in its pipe was given as well.
        let bytes_in = links.stdin.as_ref().map(Writer::bytes).or(fed_bytes);
        let ends: Vec<_> = (links.links.iter_mut())
            .map(|link| {
                let (known, usage) = (link.known(), link.usage());
                (link.end.take(), link.ended_at(), known, usage)
            })
            .collect();
        let links = links.end().await;
        let rest = join_all(said.iter_mut().map(Said::listen_to_rest));
        // A listener that is too slow for all of standard error gets its end with the
        // outcome.
        let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, rest).await;
        let mut outcomes = Vec::with_capacity(ends.len());
        for (at, (of_one, said)) in ends.into_iter().zip(&mut said).enumerate() {
            let (Some(end), ended_at, known, usage) = of_one else {
                continue;
            };
            let limit = known.limit(&end, said.tail());
            if let Some(remark) = end.remark {
                let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, said.remark(&remark)).await;
            }
            let elapsed = match ended_at {
                Some(ended) => ended.saturating_duration_since(started.into_std()),
                None => started.elapsed(),
            };
            outcomes.push(Outcome {
                stderr: said.take_tail(),
                elapsed,
                output: if at == last { left } else { OutputLeft::Given },
                usage: Usage {
                    bytes_in: bytes_in.filter(|_| at == 0),
                    bytes_out: bytes_out.filter(|_| at == last),
                    ..usage
                },
                limit,
                ..Outcome::new(end.ending)
            });
        }
        let remains = Remains {
            links,
            alarm,
            said,
            kept,
            output: held,
        };
        (outcomes, remains)
    }
}

/// How the output is ended for its reader.
enum Finish {
    /// Drop the sender when the output is over.
    Pipe(oneshot::Sender<()>, Counted),
    /// With the file, if there is one, and what resolves when nobody reads it any more.
    File(oneshot::Sender<Source>, oneshot::Receiver<()>, Counted),
}

/// How the output has been ended.
#[derive(Default)]
struct Finished {
    left: OutputLeft,
    /// If it is a file that may still be read.
    held: Option<HeldFile>,
    /// How long it is, as far as it was, or can be, given to its reader.
    bytes_out: Option<u64>,
}

impl Finish {
    /// Ends the output, of which nothing more comes from the last link, whose pipe `kept` is
    /// the other end of. Packs it first if it is a folder: until then, or until `stopped`
    /// gives the end that the link has instead, none for that of its deadline.
    async fn end(
        self,
        last: &mut Link,
        kept: Option<&PipeWriter>,
        output_max: OutputMax,
        stopped: impl Future<Output = Option<End>>,
    ) -> Finished {
        let (source, held, counted) = match self {
            Finish::Pipe(is_over, counted) => {
                let bytes_out = total(&counted, kept, output_max, last);
                drop(is_over);
                return Finished {
                    bytes_out: Some(bytes_out),
                    ..Finished::default()
                };
            }
            Finish::File(source, held, counted) => (source, held, counted),
        };
        let of_left = |left| Finished {
            left,
            ..Finished::default()
        };
        match last.take_left_output() {
            // It has not ended by itself.
            None => {}
            Some(LeftOutput::Missing) => return of_left(OutputLeft::Missing),
            Some(LeftOutput::Odd) => return of_left(OutputLeft::Odd),
            Some(LeftOutput::File(file)) => match OutputFile::new(file) {
                Ok(file) if output_max.allows(file.size()) => {
                    let bytes_out = Some(file.size());
                    let held = HeldFile::new(held, &file);
                    // Fails only if nobody wants it any more.
                    let _ = source.send(Source::File(file));
                    return Finished {
                        held: Some(held),
                        bytes_out,
                        ..Finished::default()
                    };
                }
                Ok(_) => last.end = Some(output_max.exceeded()),
                Err(error) => last.end = Some(not_followed(&error).into()),
            },
            Some(LeftOutput::Folder) => {
                let packed = pack(last, source);
                let packed = tokio::select! {
                    packed = packed => packed,
                    end = stopped => {
                        let end = end.unwrap_or_else(|| not_packed_in_time(last.end.as_ref()));
                        last.end = Some(end);
                        return Finished {
                            bytes_out: Some(*counted.lock()),
                            ..Finished::default()
                        };
                    }
                };
                match packed {
                    Ok((whole, kept)) => {
                        let bytes_out = total(&counted, Some(&kept), output_max, last);
                        let _ = whole.send(());
                        return Finished {
                            bytes_out: Some(bytes_out),
                            ..Finished::default()
                        };
                    }
                    Err(reason) => {
                        if let Some(end) = &mut last.end {
                            end.remark = Some(format!("failed to {reason}"));
                        }
                        return of_left(OutputLeft::Odd);
                    }
                }
            }
        }
        Finished::default()
    }
}

/// How much the last link has written, when it writes no more: what has been read, and what
/// is still in the pipe. If that is too much, the link has failed, whatever it has said, and
/// what is beyond the limit does not count.
fn total(
    counted: &Counted,
    pipe: Option<&PipeWriter>,
    output_max: OutputMax,
    last: &mut Link,
) -> u64 {
    let counted = counted.lock();
    let bytes = *counted + pipe.map_or(0, bytes_in);
    if !output_max.allows(bytes)
        && let Some(end) = &mut last.end
        && matches!(end.ending, Ending::Exited(_))
    {
        *end = output_max.exceeded();
    }
    bytes.min(output_max.bytes().unwrap_or(bytes))
}

/// Packs the folder that a link has left for the reader of its output, until that has
/// enough. Gives what tells the reader that it is whole, and a writing end of the tar's
/// pipe.
async fn pack(
    link: &Link,
    source: oneshot::Sender<Source>,
) -> Result<(oneshot::Sender<()>, PipeWriter), String> {
    let failed = |error: io::Error| format!("pack its output: {error}");
    let (pipe, kept, packing) = link.pack().map_err(failed)?;
    let (tell_whole, is_whole) = oneshot::channel();
    let _ = source.send(Source::Folder(Tar {
        pipe,
        is_whole,
        is_read: false,
    }));
    drop(packing.readable().await.map_err(failed)?);
    match packing.get_ref().result() {
        Err(error) if !tell_whole.is_closed() => Err(error.to_string()),
        _ => Ok((tell_whole, kept)),
    }
}

/// The state of the links during a call.
struct Progress<'a> {
    /// The links in chain order; at least one.
    links: &'a mut Vec<Link>,
    alarm: Option<&'a AsyncFd<Alarm>>,
    /// A link has ended, so all others are listened to.
    is_winding_down: bool,
}

impl Progress<'_> {
    fn is_over(&self) -> bool {
        self.links.iter().all(Link::has_ended)
    }

    /// The input has been fed or stored completely, or was cut off.
    fn fed(&mut self, fed: Result<Option<OwnedFd>, Unfed>) {
        let executed = match fed {
            // A command that has waited for this.
            Ok(stored) => self.links[0].execute(stored, self.alarm),
            Err(unfed) => {
                self.links[0].has_no_input(unfed);
                return self.wind_down();
            }
        };
        if let Err(error) = executed {
            self.stop(0, not_followed(&error).into());
        }
    }

    /// Resolves when a link's state has changed.
    async fn until_more(&mut self) {
        poll_fn(|context| self.poll_more(context)).await;
        // Inner links that have succeeded wake nobody, so look at all of them.
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
            && let Some(alarm) = self.alarm
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

    /// Stops the links that have taken more processor time than they may. Says when to look
    /// again, if any other has such a limit.
    fn look_at_cpu_time(&mut self) -> Option<Instant> {
        let ended = |links: &[Link]| links.iter().filter(|link| link.has_ended()).count();
        let before = ended(self.links);
        let waits = self.links.iter_mut().filter_map(Link::look_at_cpu_time);
        let wait = waits.min();
        if ended(self.links) > before {
            self.wind_down();
        }
        wait.map(|wait| Instant::now() + wait)
    }

    fn stop_all(&mut self, ending: &Ending) {
        for link in &mut *self.links {
            link.stop(ending.clone().into());
        }
    }

    /// Stops all links behind a failed link, so that they never see an end of their input.
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

    /// The outputs of links whose reader is gone; each is returned once.
    fn take_unread(&mut self) -> Vec<(usize, io::Result<Reader>)> {
        let mut unread = Vec::new();
        for at in 1..self.links.len() {
            if self.links[at].has_ended() && !self.links[at - 1].has_ended() {
                let output = self.links[at - 1].take_output();
                unread.extend(output.map(|output| (at - 1, output)));
            }
        }
        unread
    }
}

/// Reads the output of link `at`, which has lost its reader. Resolves, with `at` and the
/// output, when the link has had its chance to exit by itself.
async fn lost_reader(at: usize, mut output: io::Result<Reader>) -> (usize, io::Result<Reader>) {
    match &mut output {
        Ok(output) => swallow(output).await,
        // The link may still exit by itself, if it has little left to write.
        Err(_) => tokio::time::sleep(UNREAD_WAIT_MAX).await,
    }
    (at, output)
}

/// Resolves at the deadline, if there is one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The result of feeding; never resolves once there is no process to feed.
async fn fed<F: Future>(feeding: Pin<&mut Option<F>>) -> F::Output {
    match feeding.as_pin_mut() {
        Some(feeding) => feeding.await,
        None => std::future::pending().await,
    }
}

/// Stores the input before the command is executed, if there is a storage, and returns the
/// command's standard input. Otherwise writes the input to a process's pipe, and closes the
/// pipe only if the input is complete. Counts the bytes of an input that is stored or of
/// which the pipe is closed.
async fn feed(
    input: Body,
    stdin: &mut Option<Writer>,
    storage: io::Result<Option<Storage>>,
    bytes: &mut Option<u64>,
) -> Result<Option<OwnedFd>, Unfed> {
    if let Some(storage) = storage? {
        return store(input, storage, bytes).await.map(Some);
    }
    if let Some(pipe) = stdin {
        pour(input, pipe).await?;
        *bytes = Some(pipe.bytes());
    }
    *stdin = None;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_not_read_any_more_gets_no_sigpipe_before_it_is_stopped() {
        for bytes in [1, 65_000] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(&vec![b'x'; bytes]).unwrap();
            let (at, kept) = lost_reader(7, Reader::new(reader)).await;
            // It is stopped now. Until then it may write, as long as its pipe is kept.
            assert_eq!(at, 7);
            writer.write_all(b"more").unwrap();
            drop(kept);
            let error = writer.write_all(b"more").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
