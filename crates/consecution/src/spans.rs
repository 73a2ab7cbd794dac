//! Distributed traces: what is done for a call, as spans that are sent to an OpenTelemetry
//! collector.
//!
//! The standard `OTEL_*` variables turn them on; [`Traces::start`] reads them. Until then
//! there is no tracer, and a span costs the look at one pointer: it is not made, and nothing
//! that would be noted in it is computed.
//!
//! A [`Trace`] says which span the work for a call belongs to. [`Trace::begin`] begins a span
//! inside of that one, and from then on the trace is inside of the new span. A [`Span`] ends
//! when its last clone is dropped. It then goes into a bounded queue, from which a task sends
//! it; whatever the collector does, a call never waits for it.

// | module | for |
// |---|---|
// | `settings` | the `OTEL_*` variables |
// | `sampler` | which traces are recorded |
// | `queue` | spans that have ended and were not sent yet |
// | `exporter` | the task that sends them |
// | `sender` | one request to a collector, over gRPC or HTTP |
// | `otlp` | spans as OTLP has them |

mod exporter;
mod otlp;
mod queue;
mod sampler;
mod sender;
mod settings;

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustix::rand::{GetRandomFlags, getrandom};

pub use exporter::Traces;
pub use settings::SettingError;

use crate::trace::{
    SPAN_ID_BYTES, SpanContext, TRACE_ID_BYTES, Trace, TraceParent, TraceState, bytes,
};
use queue::Queue;
use sampler::Sampler;

/// Makes the spans of this process. Set once, by [`Traces::start`].
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// The most bytes of a text in a span; a longer one is cut.
const TEXT_BYTES_MAX: usize = 1024;

struct Tracer {
    sampler: Sampler,
    queue: Arc<Queue>,
    /// Where span ids come from: see [`Tracer::span_id`].
    seed: u64,
    spans: AtomicU64,
}

/// On which side of what a span is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Internal,
    /// A request over HTTP.
    Server,
    /// A try of a link, as the portal sees it.
    Client,
    /// A call of a link, as the runner sees it.
    Consumer,
}

/// A span that has not ended yet; nothing where traces are off or the sampler leaves it out.
/// Clones are the same span.
#[derive(Clone, Default)]
pub(crate) struct Span(Option<Arc<Recording>>);

struct Recording {
    tracer: &'static Tracer,
    began: Instant,
    notes: Mutex<Notes>,
}

/// What is known of a span.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    context: SpanContext,
    parent: Option<[u8; SPAN_ID_BYTES]>,
    state: Option<TraceState>,
    kind: Kind,
    name: String,
    began: Option<SystemTime>,
    elapsed: Duration,
    attributes: Vec<(&'static str, Value)>,
    /// Why what the span stands for has failed, if it has.
    failure: Option<String>,
    is_left_out: bool,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(Cow<'static, str>),
    Integer(i64),
    Float(f64),
    Flag(bool),
}

impl Trace {
    /// Begins a span inside of the one that this trace is in, with this name. From then on the
    /// trace is inside of the new span. Changes nothing where traces are off.
    pub(crate) fn begin(&mut self, kind: Kind, name: impl FnOnce() -> String) -> Span {
        match TRACER.get() {
            None => Span(None),
            Some(tracer) => tracer.begin(self, kind, name),
        }
    }
}

impl Tracer {
    fn new(sampler: Sampler, queue: Arc<Queue>) -> Tracer {
        Tracer {
            sampler,
            queue,
            seed: RandomState::new().hash_one(()),
            spans: AtomicU64::new(0),
        }
    }

    fn begin(&'static self, trace: &mut Trace, kind: Kind, name: impl FnOnce() -> String) -> Span {
        let parent = trace.parent.as_ref().and_then(TraceParent::context);
        let base = parent.unwrap_or_else(|| SpanContext {
            trace_id: trace_id(trace),
            ..SpanContext::default()
        });
        let is_sampled = self.sampler.samples(parent.as_ref(), &base.trace_id);
        if parent.is_some_and(|parent| !is_sampled && !parent.is_sampled()) {
            return Span(None);
        }
        let context = base.with(self.span_id(), is_sampled);
        trace.parent = Some(TraceParent::of(&context));
        if parent.is_none() {
            trace.state = None;
        }
        if !is_sampled {
            return Span(None);
        }
        let notes = Notes {
            context,
            parent: parent.map(|parent| parent.span_id),
            state: trace.state.clone(),
            kind,
            name: name(),
            began: Some(SystemTime::now()),
            ..Notes::default()
        };
        Span(Some(Arc::new(Recording {
            tracer: self,
            began: Instant::now(),
            notes: Mutex::new(notes),
        })))
    }

    /// An id that no other span of this process has, and none of another process but by an
    /// unlikely chance. A number is counted up and mixed (SplitMix64), which costs no system
    /// call; both steps are one-to-one.
    fn span_id(&self) -> [u8; SPAN_ID_BYTES] {
        loop {
            let number = self.spans.fetch_add(1, Ordering::Relaxed);
            let id = mixed(self.seed.wrapping_add(number.wrapping_mul(GOLDEN_GAMMA)));
            // 0 is no id.
            if id != 0 {
                return id.to_be_bytes();
            }
        }
    }
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The id of a new trace: the call's id if it has the form of one, as ours have. Then a call
/// is found by one number in logs and traces. Otherwise a random one.
fn trace_id(trace: &Trace) -> [u8; TRACE_ID_BYTES] {
    let given = bytes(trace.call_id.as_str().as_bytes());
    given.filter(|id| *id != [0; _]).unwrap_or_else(|| {
        let mut id = [1; TRACE_ID_BYTES];
        // See `name::random_digits`.
        let _ = getrandom(&mut id, GetRandomFlags::empty());
        id
    })
}

impl Span {
    /// Whether anything that is noted is kept.
    pub(crate) fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// The id of its trace, if it is recorded.
    pub(crate) fn trace_id(&self) -> Option<String> {
        let recording = self.0.as_ref()?;
        Some(HEXLOWER.encode(&recording.notes.lock().context.trace_id))
    }

    /// Notes something about it, if it is recorded.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Notes)) {
        if let Some(recording) = &self.0 {
            note(&mut recording.notes.lock());
        }
    }

    /// Adds a span inside of this one that is over already, if this one is recorded.
    pub(crate) fn add(
        &self,
        name: impl FnOnce() -> String,
        (began, elapsed): (SystemTime, Duration),
        note: impl FnOnce(&mut Notes),
    ) {
        let Some(recording) = &self.0 else {
            return;
        };
        let tracer = recording.tracer;
        let mut notes = {
            let parent = recording.notes.lock();
            Notes {
                context: parent.context.with(tracer.span_id(), true),
                parent: Some(parent.context.span_id),
                state: parent.state.clone(),
                ..Notes::default()
            }
        };
        notes.name = name();
        (notes.began, notes.elapsed) = (Some(began), elapsed);
        note(&mut notes);
        tracer.queue.push(notes);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut notes = std::mem::take(self.notes.get_mut());
        notes.elapsed = self.began.elapsed();
        if !notes.is_left_out {
            self.tracer.queue.push(notes);
        }
    }
}

impl Notes {
    /// Sets an attribute. Each is set once, as nobody looks whether it is there.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }

    /// What the span stands for has failed, for this reason.
    pub(crate) fn fail(&mut self, reason: impl ToString) {
        let mut reason = reason.to_string();
        cut(&mut reason);
        self.failure = Some(reason);
    }

    /// The span is not sent.
    pub(crate) fn leave_out(&mut self) {
        self.is_left_out = true;
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(mut text: String) -> Value {
        cut(&mut text);
        Value::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        (number as u64).into()
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Flag(flag)
    }
}

/// Whether any spans may be recorded in this process.
pub(crate) fn are_on() -> bool {
    TRACER.get().is_some()
}

/// Registers the metrics of traces, where they are on.
pub(crate) fn register(registry: &mut Registry) {
    if let Some(tracer) = TRACER.get() {
        tracer.queue.register(registry);
    }
}

#[cfg(test)]
mod tests;
