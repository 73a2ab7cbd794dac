//! An OpenTelemetry collector of our own, over gRPC or HTTP, which keeps the spans that it is
//! sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use test_support::eventually;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A collector, which goes on until the test is over.
pub(crate) struct Collector {
    address: SocketAddr,
    protocol: &'static str,
    spans: Spans,
}

type Spans = Arc<Mutex<Vec<Found>>>;

/// A span that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) service: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    /// Empty if there is none.
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// Numbers as text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// What its status says, if that is an error.
    pub(crate) error: Option<String>,
}

impl Found {
    /// An attribute; empty if it is not set.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    pub(crate) fn overlaps(&self, other: &Found) -> bool {
        self.began < other.ended && other.began < self.ended
    }
}

impl Collector {
    /// One that is spoken to over gRPC.
    pub(crate) fn start() -> Collector {
        let spans = Spans::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = TraceServiceServer::new(Taker(Arc::clone(&spans)));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let server = Server::builder().add_service(service);
                let incoming = TcpIncoming::from(listener);
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        Collector {
            address,
            protocol: "grpc",
            spans,
        }
    }

    /// One that is spoken to over HTTP.
    pub(crate) fn over_http() -> Collector {
        let spans = Spans::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || answer(stream.unwrap(), &kept));
            }
        });
        Collector {
            address,
            protocol: "http/protobuf",
            spans,
        }
    }

    /// Has a command send its spans here, at once.
    pub(crate) fn tell(&self, command: &mut Command, service: &str) {
        let url = format!("http://{}", self.address);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url);
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", self.protocol);
        command.env("OTEL_SERVICE_NAME", service);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "10");
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Found> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits until `pick` has picked something out of the spans.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, pick: impl Fn(&[Found]) -> Option<T>) -> T {
        eventually(what, || {
            let spans = self.spans();
            let picked = pick(&spans);
            if picked.is_none() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            picked
        })
    }
}

struct Taker(Spans);

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        keep(&self.0, request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Answers requests over HTTP until the connection ends.
fn answer(stream: TcpStream, spans: &Spans) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
            head += &std::mem::take(&mut line).to_ascii_lowercase();
        }
        let Some(length) = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
        else {
            return;
        };
        assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        assert!(
            head.contains("content-type: application/x-protobuf"),
            "{head}"
        );
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        keep(spans, ExportTraceServiceRequest::decode(&*body).unwrap());
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(reply).unwrap();
    }
}

fn keep(spans: &Spans, request: ExportTraceServiceRequest) {
    let found = request.resource_spans.into_iter().flat_map(of_resource);
    spans.lock().unwrap().extend(found);
}

fn of_resource(spans: ResourceSpans) -> impl Iterator<Item = Found> {
    let resource = texts(spans.resource.unwrap().attributes);
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    let service = resource["service.name"].clone();
    let spans = spans.scope_spans.into_iter().flat_map(|scope| {
        assert_eq!(scope.scope.unwrap().name, "consecution");
        scope.spans
    });
    spans.map(move |span| found(span, &service))
}

fn found(span: Span, service: &str) -> Found {
    let status = span.status.clone().unwrap_or_default();
    Found {
        service: service.to_owned(),
        trace_id: HEXLOWER.encode(&span.trace_id),
        id: HEXLOWER.encode(&span.span_id),
        parent: HEXLOWER.encode(&span.parent_span_id),
        state: span.trace_state.clone(),
        kind: span.kind(),
        error: (status.code() == StatusCode::Error).then_some(status.message),
        name: span.name,
        began: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        attributes: texts(span.attributes),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("an attribute has {other:?}"),
    };
    let attributes = attributes.into_iter();
    let pair = |pair: KeyValue| (pair.key, text(pair.value.unwrap().value.unwrap()));
    let count = attributes.len();
    let all: BTreeMap<_, _> = attributes.map(pair).collect();
    assert_eq!(all.len(), count, "an attribute is there twice: {all:?}");
    all
}
