//! Which proxy requests go through, so that errors can name it.
//!
//! reqwest finds it by the variables that curl uses (`https_proxy`, `no_proxy` and
//! so on), with the matcher that is asked here, and does not tell.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// Host and port of the proxy for a URL, if there is one. Not the user and password
/// that it may be given.
fn of(url: &Url) -> Option<String> {
    let proxy = Matcher::from_system().intercept(&url.as_str().parse().ok()?)?;
    let uri = proxy.uri();
    let host = uri.host()?;
    Some(match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// An address with the proxy that it is reached through.
pub(super) fn named(address: String, url: &Url) -> String {
    match of(url) {
        Some(proxy) => format!("{address} through proxy {proxy}"),
        None => address,
    }
}
