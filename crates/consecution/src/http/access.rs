//! Who may do what: keys, client certificates, and what a page in a browser may use.
//!
//! A guard stands in front of the routes of an address. It identifies the caller of each
//! request by a key or a certificate, and refuses requests that have neither. The routes then
//! check what the [`Caller`] may do. Without key file and client CA there is no guard.
//!
//! | module | for |
//! |---|---|
//! | `credentials` | reads the header `Authorization` |
//! | `common_name` | reads the name in a client's certificate |
//! | `keys` | the file with the keys |
//! | `guesses` | slows down who tries keys, and counts |
//! | `browser` | what pages of other origins may do |

pub(crate) mod browser;
mod common_name;
mod credentials;
mod guesses;
mod keys;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use chain::{Key, KeyFile, Right};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub(super) use common_name::common_name;
pub use keys::{Keys, KeysError};

use self::guesses::Guesses;
use super::{Client, Problem, discard};
use crate::trace::CallId;

/// The paths that need no key: orchestrators and load balancers have none.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// The files of the page, which asks for a key itself when it has been loaded.
const PAGE: &str = "/ui/";

/// Whether a request needs no key. `GET /` leads to the page.
fn is_open(request: &Request) -> bool {
    let (path, method) = (request.uri().path(), request.method());
    let is_look = method == Method::GET || method == Method::HEAD;
    OPEN.contains(&path) || path.starts_with(PAGE) || is_look && path == "/"
}

/// The header by which browsers say what a request is for.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Counts the requests that were refused, by why.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Family<[(&'static str, &'static str); 1], Counter>);

/// Why a request was refused, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing says who asks.
    NoKey,
    /// Nobody has that key.
    WrongKey,
    /// The key does not allow it.
    NotAllowed,
    /// A page of another origin has asked for it.
    CrossSite,
}

impl Refusals {
    /// Registers them.
    pub(crate) fn count_in(registry: &mut Registry) -> Refusals {
        let refusals = Refusals::default();
        let help = "Requests that were refused because of who asked, by why";
        registry.register("http_refusals", help, refusals.0.clone());
        refusals
    }

    pub(crate) fn count(&self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::NoKey => "no_key",
            Refusal::WrongKey => "wrong_key",
            Refusal::NotAllowed => "not_allowed",
            Refusal::CrossSite => "cross_site",
        };
        self.0.get_or_create_owned(&[("reason", reason)]).inc();
    }
}

/// Who has asked, as far as routes are concerned.
#[derive(Clone, Default)]
pub(crate) enum Caller {
    /// Everyone may do everything.
    #[default]
    Anyone,
    /// Nothing says who it is; only what is open to all gets here.
    Nobody,
    /// The holder of a certificate, where there is no file that says what each may do.
    Certified(Arc<str>),
    /// The holder of the key at that position in the file.
    Holder(Arc<KeyFile>, usize),
}

impl Caller {
    fn key(&self) -> Option<&Key> {
        match self {
            Caller::Holder(file, at) => file.keys.get(*at),
            _ => None,
        }
    }

    /// What the log calls it.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Caller::Anyone | Caller::Nobody => None,
            Caller::Certified(name) => Some(&**name).filter(|name| !name.is_empty()),
            Caller::Holder(..) => self.key().map(|key| key.name.as_str()),
        }
    }

    /// Whether it may do that; for calls see [`Caller::may_call`].
    pub(crate) fn may(&self, right: &Right) -> bool {
        match self {
            Caller::Anyone | Caller::Certified(_) => true,
            Caller::Nobody => false,
            Caller::Holder(..) => self.key().is_some_and(|key| key.may.contains(right)),
        }
    }

    /// Whether it may call the chain of that name.
    pub(crate) fn may_call(&self, chain: &str) -> bool {
        match self {
            Caller::Anyone | Caller::Certified(_) => true,
            Caller::Nobody => false,
            Caller::Holder(..) => self.key().is_some_and(|key| key.may_call(chain)),
        }
    }

    /// 403: it has not that right.
    pub(crate) fn lacks(&self, right: impl std::fmt::Display) -> Problem {
        let right = right.to_string();
        let detail = match self.name() {
            Some(name) => format!("the key '{name}' has no `{right}` among what it may do"),
            None => format!("it takes a key that has `{right}` among what it may do"),
        };
        Problem::forbidden(right, detail)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// What stands before the routes of all addresses of a server.
pub(super) struct Guard {
    /// Who may do what. Without it, everyone who has a certificate may do everything.
    keys: Option<Keys>,
    refusals: Refusals,
    guesses: Guesses,
}

impl Guard {
    pub(super) fn new(keys: Option<Keys>, refusals: Refusals) -> Guard {
        Guard {
            keys,
            refusals,
            guesses: Guesses::default(),
        }
    }

    /// The same routes, for those who may use them.
    pub(super) fn before(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::clone(self), admit))
    }

    /// Who asks; an error if that has to be known and is not.
    async fn who(&self, headers: &HeaderMap, client: &Client, is_open: bool) -> Who {
        let keys = self.keys.as_ref().map(Keys::now);
        let given = credentials::token(headers);
        let known = match (&keys, &given) {
            (Some(keys), Ok(Some(token))) => keys::holder_of(keys, token),
            (Some(keys), Ok(None)) => {
                let name = client.certificate();
                name.and_then(|name| keys::certified(keys, name))
            }
            (None, _) => client.certificate().cloned().map(Caller::Certified),
            (Some(_), Err(_)) => None,
        };
        if let Some(caller) = known {
            return Ok(caller);
        }
        let is_given = keys.is_some() && !matches!(given, Ok(None));
        if is_given {
            self.refusals.count(Refusal::WrongKey);
            let waited = self.guesses.wrong(client.address()).await;
            if !is_open {
                return Err(wrong_key(given.err(), waited));
            }
        }
        if is_open {
            return Ok(Caller::Nobody);
        }
        self.refusals.count(Refusal::NoKey);
        Err(no_key(
            keys.is_some(),
            client.certificate().map(AsRef::as_ref),
        ))
    }
}

type Who = Result<Caller, Problem>;

async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let is_open = is_open(&request);
    let extensions = request.extensions();
    let (client, id) = (
        extensions.get::<Client>().cloned(),
        extensions.get::<CallId>(),
    );
    let id = id.cloned().unwrap_or_default();
    let Some(client) = client else {
        // Each request has one.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match guard.who(request.headers(), &client, is_open).await {
        Ok(caller) => {
            // Nobody gets no further than what needs no place.
            if !matches!(caller, Caller::Nobody) {
                client.take_place();
            }
            request.extensions_mut().insert(caller);
            let response = next.run(request).await;
            if response.extensions().get::<NotAllowed>().is_some() {
                guard.refusals.count(Refusal::NotAllowed);
            }
            response
        }
        Err(problem) => {
            let is_of_script = is_of_script(request.headers());
            discard(request);
            let mut response = problem.with_call_id(&id).into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                challenge(response.headers_mut(), guard.keys.is_some(), is_of_script);
            }
            response
        }
    }
}

/// In the extensions of a response to a request that its key does not allow.
#[derive(Clone)]
pub(super) struct NotAllowed;

/// Whether a script in a browser asks.
fn is_of_script(headers: &HeaderMap) -> bool {
    let mode = headers.get(SEC_FETCH_MODE);
    mode.is_some_and(|mode| mode != "navigate")
}

/// Says how to name a key. For a script's request a browser would open a dialog of its own
/// if it could be a password.
fn challenge(headers: &mut HeaderMap, takes_keys: bool, is_of_script: bool) {
    const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"consecution\"");
    const BASIC: HeaderValue =
        HeaderValue::from_static("Basic realm=\"consecution\", charset=\"UTF-8\"");
    // A 401 has a challenge, even if a certificate is what it takes.
    headers.append(WWW_AUTHENTICATE, BEARER);
    if takes_keys && !is_of_script {
        headers.append(WWW_AUTHENTICATE, BASIC);
    }
}

fn no_key(takes_keys: bool, certificate: Option<&str>) -> Problem {
    let detail = match (takes_keys, certificate) {
        (true, None) => "it takes a key: send it as `Authorization: Bearer TOKEN`, \
                         or as the password of `Authorization: Basic`"
            .to_owned(),
        (true, Some(name)) => format!("there is no key for the certificate with the name '{name}'"),
        (false, _) => "it takes a client certificate".to_owned(),
    };
    Problem::new(StatusCode::UNAUTHORIZED, "there is no key", detail)
}

fn wrong_key(odd: Option<credentials::Odd>, waited: bool) -> Problem {
    if !waited {
        let (status, title) = (StatusCode::TOO_MANY_REQUESTS, "too many wrong keys");
        return Problem::new(status, title, "too many wrong keys come from this address");
    }
    let detail = match odd {
        Some(odd) => odd.to_string(),
        None => "nobody has this key".to_owned(),
    };
    Problem::new(StatusCode::UNAUTHORIZED, "the key is wrong", detail)
}

/// The address that wrong keys and slow handshakes are counted for: of IPv6 the first half,
/// which is what one client has.
pub(super) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}
