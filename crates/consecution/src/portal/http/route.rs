//! Which path means what. Pure.

use hyper::Method;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// To run the chain of that name, or the first one.
    Call(Option<&'a str>),
    /// Which chains there are.
    Chains,
    /// Whether this process lives.
    Health,
    /// Whether every chain can be run.
    Ready,
    /// What has been counted.
    Metrics,
}

/// Why a request asks for nothing that there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// There is no such path.
    Path,
    /// There is, but only for these methods.
    Method(&'static str),
}

/// `PUT` as well, which is how `curl -T` uploads.
const CALL: &str = "POST, PUT";
const LOOK: &str = "GET, HEAD";

/// Reads a request's method and path.
///
/// Paths are compared byte by byte, and nothing in them is decoded: what a chain
/// may be called needs no encoding, so `%2e%2e` is a name that no chain has, and
/// not a way up.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, NoRoute> {
    let route = match path {
        "/" => Route::Call(None),
        "/chains" => Route::Chains,
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        _ => match path.strip_prefix("/chains/") {
            Some(name) if !name.is_empty() && !name.contains('/') => Route::Call(Some(name)),
            _ => return Err(NoRoute::Path),
        },
    };
    let (is_allowed, allowed) = match route {
        Route::Call(_) => (method == Method::POST || method == Method::PUT, CALL),
        _ => (method == Method::GET || method == Method::HEAD, LOOK),
    };
    if is_allowed {
        Ok(route)
    } else {
        Err(NoRoute::Method(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_methods() {
        let cases = [
            ("/", Route::Call(None)),
            ("/chains/words", Route::Call(Some("words"))),
            ("/chains/..", Route::Call(Some(".."))),
            ("/chains/%2e%2e", Route::Call(Some("%2e%2e"))),
        ];
        for (path, wanted) in cases {
            assert_eq!(route(&Method::POST, path), Ok(wanted), "{path}");
            assert!(route(&Method::PUT, path).is_ok(), "{path}");
            for other in [Method::GET, Method::HEAD, Method::DELETE] {
                let refused = Err(NoRoute::Method("POST, PUT"));
                assert_eq!(route(&other, path), refused, "{path}");
            }
        }
        for path in ["/chains", "/healthz", "/readyz", "/metrics"] {
            assert!(route(&Method::GET, path).is_ok(), "{path}");
            assert!(route(&Method::HEAD, path).is_ok(), "{path}");
            let refused = Err(NoRoute::Method("GET, HEAD"));
            assert_eq!(route(&Method::POST, path), refused, "{path}");
        }
    }

    #[test]
    fn other_paths_are_not_there_whatever_the_method() {
        let paths = [
            "",
            "*",
            "//",
            "/x",
            "/chains/",
            "/chains//",
            "/chains/a/",
            "/chains/a/b",
            "/chains/../healthz",
            "/Chains",
            "/healthz/",
            "/%68ealthz",
        ];
        for path in paths {
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                assert_eq!(route(&method, path), Err(NoRoute::Path), "{path}");
            }
        }
    }
}
