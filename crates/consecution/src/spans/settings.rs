//! The `OTEL_*` variables: whether traces are on, where they go, and which are recorded.
//!
//! A value that is not understood is an error, and not passed over as OpenTelemetry's
//! libraries do: whoever has mistyped a sampler would pay for all traces.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::sampler::{Rule, Sampler};
use crate::text::excerpt;

/// What applies where a variable is not set, as OpenTelemetry has it.
const ENDPOINT_GRPC: &str = "http://localhost:4317";
const ENDPOINT_HTTP: &str = "http://localhost:4318";
const TIMEOUT_MS: u64 = 10_000;
const EXPORT_TIMEOUT_MS: u64 = 30_000;
const DELAY_MS: u64 = 5_000;
const QUEUE_SPANS: u64 = 2048;
const BATCH_SPANS: u64 = 512;

/// The port that is registered for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// What is added to an endpoint that is not for traces alone.
const TRACES_PATH: &str = "v1/traces";

/// The most spans that may wait; a span takes about a KiB.
const QUEUE_SPANS_MAX: u64 = 1 << 20;

/// The longest time that a variable may give.
const MS_MAX: u64 = 24 * 3600 * 1000;

/// How much of a wrong value an error shows.
const SHOWN_CHARACTERS_MAX: usize = 80;

/// Variables of the standard that would change what is sent, or to whom, and that have no
/// effect here. Better an error than a collector that gets something else.
const UNKNOWN: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
];

/// What the variables say.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) endpoint: Endpoint,
    pub(super) sampler: Sampler,
    /// Attributes of this process, which all of its spans share.
    pub(super) resource: Vec<(String, String)>,
    /// How long a span waits for others before all are sent.
    pub(super) delay: Duration,
    pub(super) queue_spans: usize,
    pub(super) batch_spans: usize,
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    pub(super) uri: Uri,
    /// The variable that names it, for errors.
    pub(super) variable: &'static str,
    pub(super) protocol: Protocol,
    /// Headers of each request; they may be secret.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// How long a request may take.
    pub(super) timeout: Duration,
    /// The certificates of the authorities that may have signed the collector's; if `None`,
    /// those that the system trusts. With the variable that names the file.
    pub(super) ca_file: Option<(&'static str, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// A variable whose value cannot be used. The text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("use {variable}{}: {why}", .shown.as_ref().map_or(String::new(), |shown| format!("={shown}")))]
pub struct SettingError {
    /// The variable's name.
    pub variable: &'static str,
    /// Its value, unless that may be a secret.
    pub shown: Option<String>,
    /// What is wrong with it, and what to write instead.
    pub why: String,
}

impl Settings {
    /// The settings in these variables; `None` if traces are off. All are off unless an
    /// endpoint or the exporter is named. `service` is what this process is called if no
    /// variable says so.
    pub(super) fn read(
        get: impl Fn(&str) -> Option<String>,
        service: &str,
    ) -> Result<Option<Settings>, SettingError> {
        // The standard takes an empty variable for one that is not set.
        let variables = Variables(|name: &str| get(name).filter(|value| !value.trim().is_empty()));
        if !variables.is_on()? {
            return Ok(None);
        }
        let queue_spans =
            variables.number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS, QUEUE_SPANS_MAX)?;
        let batch = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
        let batch_spans = variables.number(batch, BATCH_SPANS.min(queue_spans), queue_spans)?;
        Ok(Some(Settings {
            endpoint: variables.endpoint()?,
            sampler: variables.sampler()?,
            resource: variables.resource(service)?,
            delay: variables.milliseconds(&["OTEL_BSP_SCHEDULE_DELAY"], DELAY_MS)?,
            queue_spans: queue_spans as usize,
            batch_spans: batch_spans as usize,
        }))
    }
}

/// The variables of this process.
struct Variables<Get>(Get);

impl<Get: Fn(&str) -> Option<String>> Variables<Get> {
    /// The first of these variables that is set.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    fn get(&self, name: &str) -> Option<String> {
        Some((self.0)(name)?.trim().to_owned())
    }

    fn is_on(&self) -> Result<bool, SettingError> {
        let name = "OTEL_SDK_DISABLED";
        match self.get(name).map(|value| value.to_ascii_lowercase()) {
            Some(value) if value == "true" => return Ok(false),
            Some(value) if value != "false" => {
                return Err(bad(name, &value, "it is `true` or `false`"));
            }
            _ => {}
        }
        let name = "OTEL_TRACES_EXPORTER";
        match self.get(name).as_deref() {
            Some("none") => Ok(false),
            Some("otlp") => Ok(true),
            Some(other) => Err(bad(name, other, "it is `otlp` or `none`")),
            None => Ok(self.first(&ENDPOINTS).is_some()),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, SettingError> {
        if let Some((name, _)) = self.first(&UNKNOWN) {
            let why = "client certificates for collectors are not supported; \
                       use headers, or a collector on this host";
            return Err(hidden(name, why));
        }
        let compressions = [
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
        ];
        if let Some((name, value)) = self.first(&compressions)
            && value != "none"
        {
            return Err(bad(
                name,
                &value,
                "spans are sent as they are: it is `none`",
            ));
        }
        let given = self.first(&ENDPOINTS);
        let given = given
            .map(|(name, value)| Ok((name, uri(name, &value)?)))
            .transpose()?;
        let protocol = self.protocol(given.as_ref().map(|(_, uri)| uri))?;
        let (variable, mut uri) = match given {
            Some(given) => given,
            None => {
                let default = match protocol {
                    Protocol::Grpc => ENDPOINT_GRPC,
                    Protocol::Http => ENDPOINT_HTTP,
                };
                (ENDPOINTS[1], uri(ENDPOINTS[1], default)?)
            }
        };
        if protocol == Protocol::Http && variable == ENDPOINTS[1] {
            let base = uri.to_string();
            let whole = format!("{}/{TRACES_PATH}", base.trim_end_matches('/'));
            uri = self::uri(variable, &whole)?;
        }
        let timeouts = [
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ];
        let of_export = self.milliseconds(&["OTEL_BSP_EXPORT_TIMEOUT"], EXPORT_TIMEOUT_MS)?;
        let files = [
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ];
        Ok(Endpoint {
            uri,
            variable,
            protocol,
            headers: self.headers()?,
            timeout: self.milliseconds(&timeouts, TIMEOUT_MS)?.min(of_export),
            ca_file: self.first(&files).map(|(name, path)| (name, path.into())),
        })
    }

    fn protocol(&self, endpoint: Option<&Uri>) -> Result<Protocol, SettingError> {
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ];
        match self.first(&names) {
            None if endpoint.and_then(Uri::port_u16) == Some(GRPC_PORT) => Ok(Protocol::Grpc),
            None => Ok(Protocol::Http),
            Some((name, value)) => match value.as_str() {
                "grpc" => Ok(Protocol::Grpc),
                "http/protobuf" => Ok(Protocol::Http),
                other => Err(bad(name, other, "it is `grpc` or `http/protobuf`")),
            },
        }
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, SettingError> {
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ];
        let Some((name, value)) = self.first(&names) else {
            return Ok(Vec::new());
        };
        let why = "it is a list such as `name=value,other=value`, \
                   with all but visible ASCII percent-encoded in values";
        let header = |(key, value): (String, String)| {
            let value = HeaderValue::from_str(&value).ok()?;
            Some((HeaderName::from_bytes(key.as_bytes()).ok()?, value))
        };
        let headers: Option<Vec<_>> =
            pairs(&value).and_then(|pairs| pairs.into_iter().map(header).collect());
        headers.ok_or_else(|| hidden(name, why))
    }

    fn sampler(&self) -> Result<Sampler, SettingError> {
        let name = "OTEL_TRACES_SAMPLER";
        let value = self.get(name);
        let value = value.as_deref().unwrap_or("parentbased_always_on");
        let (rule, follows_parent) = match value.strip_prefix("parentbased_") {
            Some(rule) => (rule, true),
            None => (value, false),
        };
        let rule = match rule {
            "always_on" => Rule::Always,
            "always_off" => Rule::Never,
            "traceidratio" => Rule::Ratio(self.ratio()?),
            _ => {
                let why = "it is `always_on`, `always_off` or `traceidratio`, \
                           or one of these with `parentbased_` in front";
                return Err(bad(name, value, why));
            }
        };
        Ok(Sampler {
            rule,
            follows_parent,
        })
    }

    fn ratio(&self) -> Result<f64, SettingError> {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(name) else {
            return Ok(1.0);
        };
        let ratio = value.parse().ok();
        let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.ok_or_else(|| bad(name, &value, "it is a number from 0 to 1, such as `0.01`"))
    }

    /// The attributes of this process. Those of the variables count before our own.
    fn resource(&self, service: &str) -> Result<Vec<(String, String)>, SettingError> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let given = self.get(name).unwrap_or_default();
        let why = "it is a list such as `name=value,other=value`, with commas and all but \
                   visible ASCII percent-encoded in values";
        let mut given = pairs(&given).ok_or_else(|| bad(name, &given, why))?;
        if let Some(service) = self.get("OTEL_SERVICE_NAME") {
            given.retain(|(name, _)| name != "service.name");
            given.push(("service.name".to_owned(), service));
        }
        let host = rustix::system::uname();
        let own = [
            ("service.name", service.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("host.name", host.nodename().to_string_lossy().into_owned()),
            ("process.pid", std::process::id().to_string()),
        ];
        for (name, value) in own {
            if given.iter().all(|(given, _)| given != name) {
                given.push((name.to_owned(), value));
            }
        }
        Ok(given)
    }

    fn milliseconds(&self, names: &[&'static str], default: u64) -> Result<Duration, SettingError> {
        let given = self.first(names);
        let name = given.map_or(names[0], |(name, _)| name);
        Ok(Duration::from_millis(self.number(name, default, MS_MAX)?))
    }

    fn number(&self, name: &'static str, default: u64, max: u64) -> Result<u64, SettingError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let number = value
            .parse()
            .ok()
            .filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| {
            bad(
                name,
                &value,
                &format!("it is a whole number from 1 to {max}"),
            )
        })
    }
}

/// The endpoint for traces alone, and the one for all that OpenTelemetry knows.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

fn uri(name: &'static str, value: &str) -> Result<Uri, SettingError> {
    if value.contains('@') {
        let why = "a user and password do not belong there; use OTEL_EXPORTER_OTLP_HEADERS";
        return Err(hidden(name, why));
    }
    let uri = value.parse().ok().filter(|uri: &Uri| {
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        is_http && uri.host().is_some_and(|host| !host.is_empty())
    });
    uri.ok_or_else(|| bad(name, value, "it is a URL such as `http://localhost:4317`"))
}

/// A list `name=value,other=value` whose values are percent-encoded.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    let parts = list.split(',').map(str::trim);
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
    };
    parts.filter(|part| !part.is_empty()).map(pair).collect()
}

fn bad(variable: &'static str, value: &str, why: &str) -> SettingError {
    SettingError {
        variable,
        shown: Some(excerpt(value, SHOWN_CHARACTERS_MAX)),
        why: why.to_owned(),
    }
}

/// As [`bad`], for a value that may be a secret.
pub(super) fn hidden(variable: &'static str, why: &str) -> SettingError {
    SettingError {
        variable,
        shown: None,
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingError> {
        let get = |name: &str| {
            let found = variables.iter().find(|(each, _)| *each == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(get, "consecution-portal")
    }

    fn on(variables: &[(&str, &str)]) -> Settings {
        read(variables).unwrap().expect("traces are on")
    }

    #[test]
    fn traces_are_off_unless_an_endpoint_or_the_exporter_is_named() {
        let here = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        for off in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "words"), ("OTEL_TRACES_SAMPLER", "?")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[
                here,
                ("OTEL_SDK_DISABLED", "TRUE"),
                ("OTEL_TRACES_SAMPLER", "?"),
            ],
            &[here, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(read(off).unwrap(), None, "{off:?}");
        }
        let by_exporter = on(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(by_exporter.endpoint.uri, "http://localhost:4318/v1/traces");
        let by_endpoint = on(&[here, ("OTEL_SDK_DISABLED", "false")]);
        assert_eq!(by_endpoint.endpoint.uri, "http://localhost:4317/");
        assert_eq!(by_endpoint.endpoint.protocol, Protocol::Grpc);
        assert_eq!(by_endpoint.endpoint.timeout, Duration::from_secs(10));
        let by_default = Sampler {
            rule: Rule::Always,
            follows_parent: true,
        };
        assert_eq!(by_endpoint.sampler, by_default);
        assert_eq!(
            (by_endpoint.queue_spans, by_endpoint.batch_spans),
            (2048, 512)
        );
    }

    #[test]
    fn what_is_for_traces_alone_counts_before_what_is_for_all() {
        let settings = on(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b:1/own"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "all=1"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "key = a%20b , Other=c=d",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"),
        ]);
        let endpoint = settings.endpoint;
        assert_eq!(endpoint.uri, "https://b:1/own");
        assert_eq!(endpoint.protocol, Protocol::Http);
        assert_eq!(endpoint.timeout, Duration::from_millis(1500));
        let headers = endpoint.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(headers, [("key", "a b"), ("other", "c=d")]);
        let both = on(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a/base/")]);
        assert_eq!(both.endpoint.uri, "http://a/base/v1/traces");
    }

    #[test]
    fn the_service_has_the_name_that_the_variables_give_it() {
        let name = |more: &[(&str, &str)]| {
            let on = [("OTEL_TRACES_EXPORTER", "otlp")];
            let resource = self::on(&[&on, more].concat()).resource;
            let names = resource.iter().filter(|(name, _)| name == "service.name");
            let names: Vec<_> = names.map(|(_, value)| value.clone()).collect();
            assert_eq!(names.len(), 1);
            names[0].clone()
        };
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a%2Cb,zone=1");
        assert_eq!(name(&[]), "consecution-portal");
        assert_eq!(name(&[attributes]), "a,b");
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "own")]), "own");
    }

    #[test]
    fn a_sampler_is_read_with_its_argument() {
        for (sampler, argument, rule, follows_parent) in [
            ("always_off", "", Rule::Never, false),
            ("traceidratio", "0.01", Rule::Ratio(0.01), false),
            ("traceidratio", "", Rule::Ratio(1.0), false),
            ("parentbased_traceidratio", "1", Rule::Ratio(1.0), true),
            ("parentbased_always_off", "?", Rule::Never, true),
        ] {
            let settings = on(&[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            let wanted = Sampler {
                rule,
                follows_parent,
            };
            assert_eq!(settings.sampler, wanted);
        }
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_its_variable() {
        for (variable, value, part) in [
            ("OTEL_SDK_DISABLED", "yes", "=yes: it is `true` or `false`"),
            (
                "OTEL_TRACES_EXPORTER",
                "zipkin",
                "=zipkin: it is `otlp` or `none`",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "localhost:4317",
                "http://localhost:4317",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "unix:///x",
                "=unix:///x: it is a URL",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://u:hidden@a",
                "HEADERS",
            ),
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "http/json",
                "`grpc` or `http/protobuf`",
            ),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hidden", "it is a list"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hidden", "it is a list"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hidden%0A", "it is a list"),
            (
                "OTEL_EXPORTER_OTLP_TIMEOUT",
                "10s",
                "=10s: it is a whole number",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "from 1 to"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "it is `none`"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/hidden", "not supported"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "`traceidratio`"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a", "it is a list"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "it is a list"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1", "whole number"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "x", "whole number"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999", "from 1 to 1048576"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049", "from 1 to 2048"),
        ] {
            let here = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost");
            let error = read(&[(variable, value), here]);
            let error = match error {
                Ok(_) => read(&[(variable, value)]).unwrap_err(),
                Err(error) => error,
            };
            let text = error.to_string();
            assert!(text.starts_with(&format!("use {variable}")), "{text}");
            assert!(text.contains(part) && !text.contains("hidden"), "{text}");
        }
        for value in ["1.5", "-0.1", "NaN", "x"] {
            let error = read(&[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", value),
            ]);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("from 0 to 1"), "{error}");
        }
    }
}
