//! One request to a collector, over gRPC or HTTP.

use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint as GrpcEndpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::otlp::{ExportReply, ExportRequest};
use super::settings::{Endpoint, Protocol, SettingError, hidden};

/// The method of a collector that takes spans.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const PROTOBUF: &str = "application/x-protobuf";

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const USER_AGENT: &str = concat!("consecution/", env!("CARGO_PKG_VERSION"));

/// Sends spans to one collector.
pub(super) struct Sender {
    endpoint: Endpoint,
    connection: Connection,
}

enum Connection {
    Grpc(Channel),
    Http(reqwest::Client),
}

/// Spans were not taken. The text reads well after "failed to send spans: ".
pub(super) struct Unsent {
    pub(super) why: String,
    /// Whether sending them again may help.
    pub(super) is_passing: bool,
}

impl Sender {
    /// Connects when there is something to send. Must be called within a runtime of tokio.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub(super) fn new(endpoint: Endpoint) -> Result<Sender, SettingError> {
        let file = endpoint.ca_file.as_ref();
        let certificates = file.map(|(variable, path)| {
            std::fs::read(path).map_err(|error| {
                let why = format!("failed to read {}: {error}", path.display());
                hidden(variable, &why)
            })
        });
        let certificates = certificates.transpose()?;
        let connection = match endpoint.protocol {
            Protocol::Grpc => channel(&endpoint.uri, certificates).map(Connection::Grpc),
            Protocol::Http => client(&endpoint.uri, certificates).map(Connection::Http),
        };
        let connection = connection.map_err(|error| {
            let variable = file.map_or(endpoint.variable, |(variable, _)| variable);
            hidden(variable, &text_of(&*error))
        })?;
        Ok(Sender {
            endpoint,
            connection,
        })
    }

    /// Where spans go, for logs.
    pub(super) fn address(&self) -> &Uri {
        &self.endpoint.uri
    }

    /// Sends spans once. Returns what the collector says of spans that it has left out.
    pub(super) async fn send(&self, request: &ExportRequest) -> Result<ExportReply, Unsent> {
        let sent = async {
            match &self.connection {
                Connection::Grpc(channel) => self.over_grpc(channel, request).await,
                Connection::Http(client) => self.over_http(client, request).await,
            }
        };
        let timeout = self.endpoint.timeout;
        let sent = tokio::time::timeout(timeout, sent).await;
        sent.unwrap_or_else(|_| Err(passing(format!("no answer within {timeout:?}"))))
    }

    async fn over_grpc(
        &self,
        channel: &Channel,
        request: &ExportRequest,
    ) -> Result<ExportReply, Unsent> {
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        grpc.ready()
            .await
            .map_err(|error| passing(text_of(&error)))?;
        let mut asked = tonic::Request::new(request.clone());
        *asked.metadata_mut() = MetadataMap::from_headers(self.headers());
        let codec = ProstCodec::<ExportRequest, ExportReply>::default();
        let answer = grpc.unary(asked, PathAndQuery::from_static(EXPORT), codec);
        Ok(answer.await.map_err(refused)?.into_inner())
    }

    async fn over_http(
        &self,
        client: &reqwest::Client,
        request: &ExportRequest,
    ) -> Result<ExportReply, Unsent> {
        let asked = client
            .post(self.endpoint.uri.to_string())
            .header(CONTENT_TYPE, PROTOBUF)
            .headers(self.headers())
            .body(request.encode_to_vec());
        let broken = |error: reqwest::Error| passing(text_of(&error.without_url()));
        let mut answer = asked.send().await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Unsent {
                why: format!("it answers {status}"),
                is_passing: matches!(status.as_u16(), 429 | 502 | 503 | 504),
            });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                break;
            }
            bytes.extend_from_slice(&chunk);
        }
        // Whatever it says, it has taken the spans.
        Ok(ExportReply::decode(&*bytes).unwrap_or_default())
    }

    fn headers(&self) -> HeaderMap {
        self.endpoint.headers.iter().cloned().collect()
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn channel(uri: &Uri, certificates: Option<Vec<u8>>) -> Result<Channel, Cause> {
    let mut endpoint = GrpcEndpoint::from(uri.clone())
        .user_agent(USER_AGENT)?
        .connect_timeout(CONNECT_WAIT_MAX);
    if uri.scheme_str() == Some("https") {
        let tls = ClientTlsConfig::new();
        endpoint = endpoint.tls_config(match certificates {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        })?;
    }
    Ok(endpoint.connect_lazy())
}

fn client(uri: &Uri, certificates: Option<Vec<u8>>) -> Result<reqwest::Client, Cause> {
    // This fails if another part of the program has done it already, which is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_WAIT_MAX)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = certificates {
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
    } else if uri.scheme_str() == Some("http") {
        // Then no certificates of the system are needed, which may be missing.
        client = client.tls_certs_only([]);
    }
    Ok(client.build()?)
}

/// How long to wait for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

fn refused(status: Status) -> Unsent {
    let is_passing = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    );
    let why = match status.code() {
        Code::Unavailable => text_of(&status),
        code => format!("it answers {code:?}: {}", status.message()),
    };
    Unsent { why, is_passing }
}

fn passing(why: String) -> Unsent {
    Unsent {
        why,
        is_passing: true,
    }
}

fn text_of(error: &dyn std::error::Error) -> String {
    // Some libraries repeat the text of the cause.
    let causes = std::iter::successors(error.source(), |error| error.source());
    match causes.last() {
        Some(first) => first.to_string(),
        None => error.to_string(),
    }
}
