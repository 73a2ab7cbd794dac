//! Which path means what. Pure.

use hyper::Method;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// To run the chain of that name, or the first one.
    Call(Option<&'a str>),
    /// To see how it is.
    Look(Look<'a>),
}

/// What there is to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look<'a> {
    /// Which chains there are.
    Chains,
    /// Whether this process lives.
    Health,
    /// Whether it is to get calls.
    Ready,
    /// Whether it is to get calls of the chain of that name.
    ChainReady(&'a str),
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

/// The methods of calls; `PUT` as well, which is how `curl -T` uploads.
const CALL: &str = "POST, PUT";

/// The methods of what is there to be seen.
pub(super) const LOOK: &str = "GET, HEAD";

/// Reads a request's method and path.
///
/// Paths are compared byte by byte, and nothing in them is decoded: what a chain
/// may be called needs no encoding, so `%2e%2e` is a name that no chain has, and
/// not a way up.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, NoRoute> {
    let route = match path {
        "/" => Route::Call(None),
        "/chains" => Route::Look(Look::Chains),
        "/healthz" => Route::Look(Look::Health),
        "/readyz" => Route::Look(Look::Ready),
        "/metrics" => Route::Look(Look::Metrics),
        _ => of_chain(path).ok_or(NoRoute::Path)?,
    };
    let (is_allowed, allowed) = match route {
        Route::Call(_) => (method == Method::POST || method == Method::PUT, CALL),
        Route::Look(_) => (method == Method::GET || method == Method::HEAD, LOOK),
    };
    if is_allowed {
        Ok(route)
    } else {
        Err(NoRoute::Method(allowed))
    }
}

fn of_chain(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/chains/")?;
    let (name, route): (_, fn(&str) -> Route<'_>) = match rest.strip_suffix("/readyz") {
        Some(name) => (name, |name| Route::Look(Look::ChainReady(name))),
        None => (rest, |name| Route::Call(Some(name))),
    };
    let is_name = !name.is_empty() && !name.contains('/');
    is_name.then(|| route(name))
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
        for path in [
            "/chains",
            "/healthz",
            "/readyz",
            "/metrics",
            "/chains/words/readyz",
        ] {
            assert!(route(&Method::GET, path).is_ok(), "{path}");
            assert!(route(&Method::HEAD, path).is_ok(), "{path}");
            let refused = Err(NoRoute::Method("GET, HEAD"));
            assert_eq!(route(&Method::POST, path), refused, "{path}");
        }
    }

    #[test]
    fn a_chain_may_be_called_as_anything_else() {
        let name = Route::Call(Some("readyz"));
        assert_eq!(route(&Method::POST, "/chains/readyz"), Ok(name));
        let look = Route::Look(Look::ChainReady("readyz"));
        assert_eq!(route(&Method::GET, "/chains/readyz/readyz"), Ok(look));
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
            "/chains//readyz",
            "/chains/a/b/readyz",
            "/chains/a/readyz/",
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
