//! What a URL says of the server that it is of. Pure.

use std::net::IpAddr;

use reqwest::Url;

use super::Registries;

/// Whether a URL is of this machine by its looks.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.domain() == Some("localhost")
        || address_of(url).is_some_and(|address| address.is_loopback())
}

/// The address that stands in a URL in place of a name.
pub(super) fn address_of(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether this URL may be spoken to without TLS.
pub(super) fn may_be_plain(url: &Url, options: &Registries) -> bool {
    let host = url.host_str().unwrap_or_default();
    is_loopback(url)
        || options.plain_http.contains(host)
        || options.plain_http.contains(&authority(url))
}

/// Whether a registry of this name may be.
pub(super) fn is_plain_allowed(registry: &str, options: &Registries) -> bool {
    format!("http://{registry}")
        .parse()
        .is_ok_and(|url| may_be_plain(&url, options))
}

/// `host` or `host:port`, as the URL has it.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// `host:port`, also where the URL leaves the port to its scheme.
pub(super) fn authority_with_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_may_be_plain_and_others_only_where_allowed() {
        let mut options = Registries::default();
        options.plain_http.insert("in.house:5000".into());
        let plain = |registry| is_plain_allowed(registry, &options);
        for registry in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "in.house:5000",
        ] {
            assert!(plain(registry), "{registry}");
        }
        for registry in [
            "docker.io",
            "in.house",
            "localhost.example.com",
            "10.0.0.1",
            "127.0.0.1.example.com",
        ] {
            assert!(!plain(registry), "{registry}");
        }
    }
}
