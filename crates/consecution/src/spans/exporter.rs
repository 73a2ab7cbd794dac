//! Turns traces on, and sends spans from the queue to the collector.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::otlp::{self, ExportReply};
use super::queue::Queue;
use super::sender::{Sender, Unsent};
use super::settings::{SettingError, Settings, hidden};
use super::{Notes, TRACER, Tracer};
use crate::backoff::Backoff;
use crate::log_on_change::LogOnChange;
use crate::text;

/// How often a batch is sent, if the collector does not take it, before it is dropped; and
/// the shortest and the longest wait in between.
const TRIES_MAX: usize = 5;
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(16);

/// How long [`Traces::close`] waits until all spans are sent.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// How much of a collector's reason is logged.
const SAID_CHARS_MAX: usize = 200;

/// After how long the same trouble is logged again, and another one at the earliest.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(300);
const LOG_OTHER_AFTER: Duration = Duration::from_secs(30);

/// Distributed traces of this process, sent to an OpenTelemetry collector, as the standard
/// `OTEL_*` variables say.
///
/// Dropping it stops the sending; [`close`](Traces::close) sends first what is left.
#[derive(Debug)]
#[must_use = "dropping it stops the sending"]
pub struct Traces(Option<Running>);

#[derive(Debug)]
struct Running {
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Traces {
    /// Turns traces on if the variables say so. `service` is what this process is called in
    /// traces if no variable says so. Must be called within a runtime of tokio, and counts for
    /// the whole process: a second call is an error.
    ///
    /// Without an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) and without `OTEL_TRACES_EXPORTER=otlp` nothing
    /// is started, and calls cost no more than before.
    ///
    /// # Errors
    /// A variable has a value that cannot be used.
    pub fn start(service: &str) -> Result<Traces, SettingError> {
        let variable = |name: &str| {
            let value = std::env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        };
        let Some(settings) = Settings::read(variable, service)? else {
            return Ok(Traces(None));
        };
        let variable = settings.endpoint.variable;
        let sender = Sender::new(settings.endpoint)?;
        let queue = Arc::new(Queue::new(settings.queue_spans, settings.batch_spans));
        let tracer = Tracer::new(settings.sampler, Arc::clone(&queue));
        if TRACER.set(tracer).is_err() {
            return Err(hidden(variable, "traces are on already"));
        }
        let (closing, is_closing) = watch::channel(false);
        tracing::info!("sending traces to {}", sender.address());
        let exporter = Exporter {
            queue,
            sender,
            resource: settings.resource,
            delay: settings.delay,
            is_closing,
            log: LogOnChange::again_after(LOG_AGAIN_AFTER).other_after(LOG_OTHER_AFTER),
            dropped_before: 0,
        };
        let task = tokio::spawn(exporter.run());
        Ok(Traces(Some(Running { closing, task })))
    }

    /// Sends the spans that have ended so far, for at most two seconds, and stops.
    pub async fn close(mut self) {
        if let Some(mut running) = self.0.take() {
            let _ = running.closing.send(true);
            if timeout(CLOSE_WAIT_MAX, &mut running.task).await.is_err() {
                running.task.abort();
                tracing::warn!("the last spans were not sent: the collector takes too long");
            }
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(running) = &self.0 {
            running.task.abort();
        }
    }
}

/// The task that sends spans.
struct Exporter {
    queue: Arc<Queue>,
    sender: Sender,
    resource: Vec<(String, String)>,
    delay: Duration,
    is_closing: watch::Receiver<bool>,
    log: LogOnChange,
    /// How many spans had been dropped when that was looked at last.
    dropped_before: u64,
}

impl Exporter {
    async fn run(mut self) {
        loop {
            let is_closing = tokio::select! {
                biased;
                _ = self.is_closing.wait_for(|is_closing| *is_closing) => true,
                () = self.queue.until_due(self.delay) => false,
            };
            let spans = self.queue.take();
            if !spans.is_empty() {
                self.send(spans).await;
            } else if is_closing {
                return;
            }
        }
    }

    /// Sends spans, again and again if that may help, or drops them.
    async fn send(&mut self, spans: Vec<Notes>) {
        let count = spans.len() as u64;
        let request = otlp::request(&self.resource, spans);
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        for tries in 1.. {
            match self.sender.send(&request).await {
                Ok(answer) => return self.sent(count, answer),
                Err(Unsent { why, is_passing }) => {
                    let is_last = !is_passing || tries == TRIES_MAX || *self.is_closing.borrow();
                    if is_last {
                        self.queue.dropped.inc_by(count);
                    }
                    self.say(&why);
                    if is_last {
                        return;
                    }
                }
            }
            tokio::select! {
                biased;
                _ = self.is_closing.wait_for(|is_closing| *is_closing) => {}
                () = sleep(backoff.next()) => {}
            }
        }
    }

    fn sent(&mut self, count: u64, answer: ExportReply) {
        let partial = answer.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_spans)
            .unwrap_or(0)
            .min(count);
        self.queue.dropped.inc_by(rejected);
        self.queue.sent.inc_by(count - rejected);
        if rejected > 0 {
            // The collector's words can be as long as its answer; a log line must not be.
            let why = text::excerpt(&partial.error_message, SAID_CHARS_MAX);
            self.say(&format!("it has left some out: {why}"));
        } else if self.queue.dropped.get() > self.dropped_before {
            self.say("it takes fewer than there are");
        } else if self.log.forget() {
            tracing::info!("spans are sent to {} again", self.sender.address());
        }
        self.dropped_before = self.queue.dropped.get();
    }

    /// Logs why spans are not sent, now and then.
    fn say(&mut self, why: &str) {
        if self.log.lets(why) {
            let (address, why) = (self.sender.address(), text::line(why));
            let dropped = self.queue.dropped.get();
            tracing::warn!(
                "failed to send spans to {address}: {why}; {dropped} were dropped so far"
            );
        }
    }
}
