//! The routes of a portal: which method and path lead where, and what all others
//! are answered.
//!
//! Paths are compared byte by byte, and names in them are not decoded: what a chain
//! may be called needs no encoding, so `%2e%2e` is a name that no chain has, and
//! not a way up.

use std::sync::Arc;

use axum::extract::rejection::ExtensionRejection;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use prometheus_client::registry::Registry;

use super::chains::Offered;
use super::readiness::Ready;
use super::{Site, call};
use crate::http::{self, Client, LOOK, Problem};
use crate::trace::CallId;

/// The header that carries a call's id, both ways.
const CALL_ID: HeaderName = HeaderName::from_static("consecution-call-id");

/// The methods of calls, as `Allow` has them; `PUT` is how `curl -T` uploads.
const CALL: &str = "POST, PUT";

/// Calls, and everything that can be looked at.
pub(super) fn main(site: Arc<Site>, registry: Arc<Registry>) -> Router {
    let calls = Router::new()
        .route("/", post(call_first).put(call_first))
        .route("/chains/{name}", post(call_named).put(call_named))
        .method_not_allowed_fallback(async |asked: Asked| asked.refuse_method(CALL));
    looks(registry, async |asked: Asked| asked.refuse_path())
        .method_not_allowed_fallback(async |asked: Asked| asked.refuse_method(LOOK))
        .merge(calls)
        .layer(middleware::from_fn(with_call_id))
        .with_state(site)
}

/// The same but calls, for an address of its own: who looks after a portal needs no
/// place among its clients, and nobody can call there.
pub(super) fn admin(site: Arc<Site>, registry: Arc<Registry>) -> Router {
    looks(registry, not_here)
        .method_not_allowed_fallback(async |asked: Asked| {
            let problem = Problem::not_allowed(asked.path(), LOOK);
            asked.answer(problem)
        })
        .layer(middleware::from_fn(with_call_id))
        .with_state(site)
}

/// What can be looked at, and what answers where there is no route.
fn looks<T: 'static>(
    registry: Arc<Registry>,
    not_found: impl Handler<T, Arc<Site>>,
) -> Router<Arc<Site>> {
    Router::new()
        .route("/chains", get(list))
        .route("/chains/{name}/readyz", get(chain_ready))
        .route("/readyz", get(ready))
        .merge(http::health_and_metrics(registry))
        // `{name}` would match nothing there, and other methods than `GET` get 405.
        .route("/chains//readyz", any(not_found.clone()))
        .fallback(not_found)
}

/// Gives a request its id, for the routes as an extension, and its response the
/// same.
async fn with_call_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&CALL_ID);
    let call_id = CallId::new(given.map(HeaderValue::as_bytes));
    // Visible ASCII, which any header can carry.
    let header = HeaderValue::from_str(call_id.as_str());
    request.extensions_mut().insert(call_id);
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .extend(header.map(|id| (CALL_ID, id)));
    response
}

async fn call_first(asked: Asked) -> Response {
    let chains = asked.site.chains();
    asked.call(chains.first()).await
}

async fn call_named(asked: Asked) -> Response {
    let chains = asked.site.chains();
    let chain = chains.find(asked.chain_name());
    asked.call(chain).await
}

async fn list(State(site): State<Arc<Site>>) -> Response {
    http::json(StatusCode::OK, &super::list(site.chains().all()))
}

async fn ready(State(site): State<Arc<Site>>, Extension(client): Extension<Client>) -> Ready {
    let readiness = &site.readiness;
    readiness
        .of_all(site.chains().all(), client.is_draining())
        .await
}

async fn chain_ready(asked: Asked) -> Result<Ready, Problem> {
    let chains = asked.site.chains();
    let Some(chain) = chains.find(asked.chain_name()) else {
        let problem = asked.not_found();
        return Err(asked.answer(problem));
    };
    let readiness = &asked.site.readiness;
    Ok(readiness.of_one(chain, asked.client.is_draining()).await)
}

/// What [`admin`] answers where it has no route.
async fn not_here(asked: Asked) -> Problem {
    let path = asked.path();
    let problem = Problem::not_found(format!(
        "there is nothing at {path}: this address is for looking after the server, \
         with /healthz, /readyz, /metrics, /chains and /chains/<name>/readyz; \
         chains are called at another one"
    ));
    asked.answer(problem)
}

/// A request, with its id and its connection.
struct Asked {
    site: Arc<Site>,
    client: Client,
    call_id: CallId,
    request: Request,
}

impl FromRequest<Arc<Site>> for Asked {
    type Rejection = ExtensionRejection;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Asked, ExtensionRejection> {
        let (mut parts, body) = request.into_parts();
        let Extension(client) = Extension::from_request_parts(&mut parts, site).await?;
        let Extension(call_id) = Extension::from_request_parts(&mut parts, site).await?;
        Ok(Asked {
            site: Arc::clone(site),
            client,
            call_id,
            request: Request::from_parts(parts, body),
        })
    }
}

impl Asked {
    fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The name in `/chains/{name}`, as it is written. axum's own extractor would
    /// decode it.
    fn chain_name(&self) -> &str {
        self.path().split('/').nth(2).unwrap_or_default()
    }

    /// Runs `chain`, if there is one, and a place for calls.
    async fn call(self, chain: Option<&Offered>) -> Response {
        let Some(chain) = chain.filter(|_| !self.client.is_extra()) else {
            return self.refuse_path().into_response();
        };
        let Asked {
            site,
            client,
            call_id,
            request,
        } = self;
        call::call(&site, chain, request, &call_id, &client).await
    }

    fn refuse_path(self) -> Problem {
        let problem = self.not_found();
        self.refuse(problem)
    }

    fn refuse_method(self, allow: &'static str) -> Problem {
        let problem = Problem::not_allowed(self.path(), allow);
        self.refuse(problem)
    }

    fn not_found(&self) -> Problem {
        let path = self.path();
        Problem::not_found(match path.starts_with("/chains/") {
            true => format!("no chain is offered at {path}"),
            false => format!("there is nothing at {path}"),
        })
    }

    /// Answers with `problem`, or that there are too many connections, where this
    /// one is only for who looks after the server.
    fn refuse(self, problem: Problem) -> Problem {
        if !self.client.is_extra() {
            return self.answer(problem);
        }
        self.site.turned_away.inc();
        let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "too many connections");
        let detail = "as many connections are open as there may be at a time";
        self.answer(Problem::new(status, title, detail))
    }

    fn answer(self, problem: Problem) -> Problem {
        http::discard(self.request);
        problem.with_call_id(self.call_id)
    }
}
