//! Spans as OTLP has them: the messages of `opentelemetry/proto/trace/v1/trace.proto` and what
//! they need, as far as we set them. Numbers of fields are what others read.
//!
//! A crate that has all of these messages would bring OpenTelemetry's whole library with it:
//! see decision 54. The tests read what is sent with that crate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Kind, Notes, Value};

/// Asks a collector to take spans.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// What a collector answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportReply {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

/// The code of a [`Status`] that is an error.
const ERROR: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 4")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Float(f64),
}

/// A request to take these spans of a process with these attributes.
pub(super) fn request(resource: &[(String, String)], spans: Vec<Notes>) -> ExportRequest {
    let attributes = resource.iter();
    let attributes = attributes.map(|(name, value)| key_value(name, Any::Text(value.clone())));
    let scope = Scope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.collect(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.into_iter().map(Span::from).collect(),
            }],
        }],
    }
}

impl From<Notes> for Span {
    fn from(notes: Notes) -> Span {
        let began = notes.began.and_then(nanoseconds).unwrap_or_default();
        let attributes = notes.attributes.into_iter();
        let status = |message| Status {
            message,
            code: ERROR,
        };
        Span {
            trace_id: notes.context.trace_id.into(),
            span_id: notes.context.span_id.into(),
            trace_state: notes
                .state
                .map_or(String::new(), |state| state.as_str().to_owned()),
            parent_span_id: notes.parent.map_or(Vec::new(), Vec::from),
            name: notes.name,
            kind: match notes.kind {
                Kind::Internal => 1,
                Kind::Server => 2,
                Kind::Client => 3,
                Kind::Consumer => 5,
            },
            start_time_unix_nano: began,
            end_time_unix_nano: began.saturating_add(whole(notes.elapsed)),
            attributes: attributes
                .map(|(name, value)| key_value(name, value.into()))
                .collect(),
            status: notes.failure.map(status),
            flags: notes.context.flags.into(),
        }
    }
}

impl From<Value> for Any {
    fn from(value: Value) -> Any {
        match value {
            Value::Text(text) => Any::Text(text.into_owned()),
            Value::Integer(number) => Any::Integer(number),
            Value::Float(number) => Any::Float(number),
            Value::Flag(flag) => Any::Flag(flag),
        }
    }
}

fn key_value(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    Some(whole(time.duration_since(UNIX_EPOCH).ok()?))
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
