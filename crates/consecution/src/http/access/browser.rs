//! What pages of other origins may do.
//!
//! A browser is a confused deputy: any page that its user opens can have it send requests to
//! where the user may go and the page may not, such as to a portal on loopback. The page
//! cannot read the replies unless its origin is allowed, but a call has happened by then.
//!
//! Browsers say where such a request comes from: in `Sec-Fetch-Site`, but only towards HTTPS
//! and loopback, and in `Origin` with each `POST`. Other clients send neither.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use axum::http::uri::{Authority, Uri};
use axum::http::{Method, StatusCode};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::http::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The headers of replies that scripts of allowed origins may read.
const EXPOSED: [HeaderName; 8] = [
    HeaderName::from_static("consecution-call-id"),
    HeaderName::from_static("consecution-pipestatus"),
    HeaderName::from_static("consecution-usage"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("retry-after"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("www-authenticate"),
];

/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// An origin whose pages may use the chains, as browsers write it: `https://app.example.org`;
/// or `*` for every origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// A text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an origin as browsers do, as in `https://app.example.org`, or `*` for every one")]
pub struct OriginError;

const EVERY: &str = "*";

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Origin, OriginError> {
        if text == EVERY {
            return Ok(Origin(text.to_owned()));
        }
        let authority = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let is_host = |authority: &str| {
            let parsed = authority.parse::<Authority>();
            parsed.is_ok_and(|it| !it.host().is_empty() && !authority.contains('@'))
        };
        match authority.is_some_and(is_host) {
            true => Ok(Origin(text.to_ascii_lowercase())),
            false => Err(OriginError),
        }
    }
}

/// Which pages may call chains.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    /// The origins that may, besides that of the server itself.
    pub(crate) origins: Vec<Origin>,
    /// The names under which the server may be used, besides addresses and `localhost`.
    pub(crate) hosts: Vec<String>,
}

impl Pages {
    /// 403, if a page sends this that may not. Requests that no page sends pass.
    pub(crate) fn refuse(&self, headers: &HeaderMap, uri: &Uri) -> Option<Problem> {
        let site = headers.get(SEC_FETCH_SITE);
        let origin = headers.get(ORIGIN);
        if site.is_none() && origin.is_none() || origin.is_some_and(|it| self.allows(it)) {
            return None;
        }
        let detail = match site {
            Some(site) if site == "same-origin" || site == "none" => return None,
            Some(_) => "a page of another origin has sent it; `--cors-origin` allows origins",
            None => match (host(headers, uri), origin) {
                (Some(host), Some(origin)) if is_of(origin, host) && self.names(host) => {
                    return None;
                }
                (Some(host), Some(origin)) if is_of(origin, host) => {
                    "a page has sent it, under a name that `--host` does not list: the name may \
                     be another's that leads here"
                }
                _ => "a page of another origin has sent it; `--cors-origin` allows origins",
            },
        };
        let title = "the page may not call this";
        Some(Problem::new(StatusCode::FORBIDDEN, title, detail))
    }

    /// 403, if a page might read the reply that may not. Where nothing tells what a page sends,
    /// the name of the server does: one of the attacker's could lead here. No page can say
    /// `Sec-Fetch-Site: none`, so other clients may.
    pub(crate) fn refuse_look(&self, headers: &HeaderMap, uri: &Uri) -> Option<Problem> {
        let origin = headers.get(ORIGIN);
        if origin.is_some_and(|it| self.allows(it)) {
            return None;
        }
        let detail = match headers.get(SEC_FETCH_SITE) {
            Some(site) if site == "same-origin" || site == "none" => return None,
            Some(_) => "a page of another origin asks for it; `--cors-origin` allows origins",
            None if host(headers, uri).is_some_and(|host| self.names(host)) => return None,
            None => {
                "a page might ask for it under a name of its own: use an address, a name that \
                 `--host` lists, a key, or the header `Sec-Fetch-Site: none`"
            }
        };
        let title = "a page may not see this";
        Some(Problem::new(StatusCode::FORBIDDEN, title, detail))
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let is = |allowed: &Origin| {
            allowed.0 == EVERY || origin.as_bytes().eq_ignore_ascii_case(allowed.0.as_bytes())
        };
        self.origins.iter().any(is)
    }

    /// Whether a host, with or without a port, cannot be a name that somebody else has
    /// pointed here.
    fn names(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is = |name: &str| host.eq_ignore_ascii_case(name);
        address.parse::<IpAddr>().is_ok()
            || is("localhost")
            || self.hosts.iter().any(|name| is(name))
    }

    /// Answers preflights, and lets scripts of the allowed origins read replies; `None` if
    /// there are none.
    pub(crate) fn cors(&self) -> Option<CorsLayer> {
        let is_every = self.origins.iter().any(|origin| origin.0 == EVERY);
        let values = self.origins.iter();
        let values: Vec<_> = values
            .filter_map(|origin| HeaderValue::from_str(&origin.0).ok())
            .collect();
        let allowed = match (values.is_empty(), is_every) {
            (true, _) => return None,
            (false, true) => AllowOrigin::any(),
            (false, false) => AllowOrigin::list(values),
        };
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED)
            .max_age(PREFLIGHT_AGE);
        Some(cors)
    }
}

/// The host that a request is for: with HTTP/2 it stands in the URI.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let in_header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(Authority::as_str).or_else(in_header)
}

/// Whether an origin is that of the host. Its scheme cannot be compared, since a proxy may
/// have another one.
fn is_of(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().ok();
    let authority = origin.and_then(|origin| origin.split_once("://"));
    authority.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages() -> Pages {
        Pages {
            origins: vec!["https://app.example.org".parse().unwrap()],
            hosts: vec!["portal.example.org".to_owned()],
        }
    }

    fn is_refused(fields: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        pages().refuse(&headers, &Uri::from_static("/")).is_some()
    }

    #[test]
    fn what_no_page_sends_passes() {
        assert!(!is_refused(&[]));
        assert!(!is_refused(&[("host", "whatever.example")]));
    }

    #[test]
    fn pages_of_other_origins_may_not_call() {
        for (site, origin, expected) in [
            ("same-origin", "https://portal.example", false),
            ("none", "null", false),
            ("cross-site", "https://evil.example", true),
            ("same-site", "http://localhost:3000", true),
            ("cross-site", "null", true),
            ("odd", "https://evil.example", true),
            ("cross-site", "https://app.example.org", false),
            ("cross-site", "https://APP.example.org", false),
            ("cross-site", "https://app.example.org.evil.example", true),
            ("cross-site", "http://app.example.org", true),
        ] {
            let fields = [("sec-fetch-site", site), ("origin", origin), ("host", "x")];
            assert_eq!(is_refused(&fields), expected, "{site} {origin}");
        }
        assert!(is_refused(&[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn where_only_the_origin_is_known_it_must_be_ours_under_a_name_that_is() {
        for (origin, host, expected) in [
            ("http://10.0.0.5:8080", "10.0.0.5:8080", false),
            ("http://[::1]:8080", "[::1]:8080", false),
            ("http://localhost:8080", "localhost:8080", false),
            ("http://portal.example.org", "portal.example.org", false),
            ("https://PORTAL.example.org", "portal.example.org", false),
            // Rebinding: the name is the attacker's, and leads here.
            ("http://evil.example:8080", "evil.example:8080", true),
            ("http://evil.example", "10.0.0.5:8080", true),
            ("http://10.0.0.5:3000", "10.0.0.5:8080", true),
            ("null", "10.0.0.5:8080", true),
            ("https://app.example.org", "10.0.0.5:8080", false),
            (
                "http://localhost.evil.example",
                "localhost.evil.example",
                true,
            ),
        ] {
            let fields = [("origin", origin), ("host", host)];
            assert_eq!(is_refused(&fields), expected, "{origin} {host}");
        }
        assert!(is_refused(&[("origin", "http://10.0.0.5:8080")]));
    }

    #[test]
    fn what_a_page_shows_is_for_the_servers_own_or_for_no_page() {
        for (fields, expected) in [
            (&[("host", "10.0.0.5:8080")][..], false),
            (&[("host", "[::1]:8080")], false),
            (&[("host", "portal.example.org")], false),
            (&[("host", "evil.example")], true),
            (&[], true),
            (
                &[("host", "evil.example"), ("sec-fetch-site", "none")],
                false,
            ),
            (
                &[("host", "a.example"), ("sec-fetch-site", "same-origin")],
                false,
            ),
            (
                &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
                true,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let refused = pages().refuse_look(&headers, &Uri::from_static("/stats"));
            assert_eq!(refused.is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        for text in [
            "https://a.example",
            "http://localhost:3000",
            "http://[::1]:80",
            "*",
        ] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "",
            "a.example",
            "https://",
            "https://a/",
            "https://a b",
            "https://u@a",
            "ftp://a",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(origin in "\\PC{0,30}", host in "\\PC{0,30}", site in "\\PC{0,9}") {
            let mut headers = HeaderMap::new();
            let fields = [(ORIGIN, origin), (HOST, host), (SEC_FETCH_SITE, site)];
            for (name, value) in fields {
                headers.extend(HeaderValue::from_str(&value).map(|value| (name, value)));
            }
            pages().refuse(&headers, &Uri::from_static("/"));
        }
    }
}
