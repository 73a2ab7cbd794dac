//! The routes of a portal, and the answers to all other methods and paths.
//!
//! Paths are compared byte by byte, and names in them are not decoded: no chain's name needs
//! encoding, so `%2e%2e` is a name that no chain has, and not a way up.

use std::sync::Arc;

use axum::extract::rejection::ExtensionRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, HeaderValue, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use chain::Right;
use prometheus_client::registry::Registry;

use super::chains::Offered;
use super::{Site, call, stats, ui};
use crate::http::access::{Caller, Refusal};
use crate::http::{self, Client, LOOK, Problem};
use crate::trace::CallId;

/// The methods of calls, as `Allow` has them; `PUT` is how `curl -T` uploads.
const CALL: &str = "POST, PUT";

/// The routes for calls and for monitoring.
pub(super) fn main(site: Arc<Site>, registry: Arc<Registry>) -> Router {
    let calls = Router::new()
        .route("/", post(call_first).put(call_first).get(front))
        .route("/chains/{name}", post(call_named).put(call_named))
        .method_not_allowed_fallback(async |request: PortalRequest| request.refuse_method(CALL));
    let page = Router::new()
        .route("/ui/", get(ui::page))
        .route("/ui/page.css", get(ui::style))
        .route("/ui/page.js", get(ui::script));
    looks(registry, PortalRequest::refuse_path)
        .method_not_allowed_fallback(async |request: PortalRequest| request.refuse_method(LOOK))
        .merge(calls)
        .merge(page)
        .with_state(site)
}

/// The routes for monitoring alone, for an address of its own, where clients take no places
/// away.
pub(super) fn admin(site: Arc<Site>, registry: Arc<Registry>) -> Router {
    looks(registry, not_here)
        .method_not_allowed_fallback(http::only_looks)
        .with_state(site)
}

/// The routes for monitoring, and the answer to all other paths.
fn looks<T: 'static>(
    registry: Arc<Registry>,
    not_found: impl Handler<T, Arc<Site>>,
) -> Router<Arc<Site>> {
    Router::new()
        .route("/chains", get(list))
        .route("/chains/{name}/readyz", get(chain_ready))
        .route("/readyz", get(ready))
        .route("/stats", get(stats::stats))
        .merge(http::health_and_metrics(registry))
        // An empty `{name}` is no name, whatever the method.
        .route("/chains//readyz", any(not_found.clone()))
        .fallback(not_found)
}

async fn call_first(request: PortalRequest) -> Response {
    let chains = request.site.chains();
    let chain = chains.first();
    let name = chain.map_or("", Offered::name);
    request.call(name, chain).await
}

/// Leads browsers to the page; nothing else is there to get.
async fn front(request: PortalRequest) -> Response {
    let accepted = request.inner.headers().get(ACCEPT);
    let accepted = accepted.and_then(|accepted| accepted.to_str().ok());
    if !accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        return request.refuse_method(CALL).into_response();
    }
    let mut response = StatusCode::SEE_OTHER.into_response();
    // Relative, since a proxy may offer this below a path of its own.
    let page = HeaderValue::from_static("ui/");
    response.headers_mut().insert(LOCATION, page);
    response
}

async fn call_named(request: PortalRequest) -> Response {
    let chains = request.site.chains();
    let name = request.chain_name().to_owned();
    request.call(&name, chains.find(&name)).await
}

/// All chains, or those that the caller may call. A caller who may see none lacks a right.
async fn list(request: PortalRequest) -> Response {
    let (chains, caller) = (request.site.chains(), &request.caller);
    let listed = super::list(chains.all(), caller);
    if listed.is_empty() && !caller.may(&Right::View) {
        let problem = caller.lacks(Right::View);
        return request.answer(problem).into_response();
    }
    http::json(StatusCode::OK, &listed)
}

async fn ready(request: PortalRequest) -> Response {
    let (site, is_draining) = (&request.site, request.client.is_draining());
    let chains = site.chains();
    let ready = site.readiness.of_all(chains.all(), is_draining);
    ready.await.answer(&request.caller)
}

async fn chain_ready(request: PortalRequest) -> Result<Response, Problem> {
    let (chains, caller) = (request.site.chains(), &request.caller);
    if !caller.may(&Right::View) && !caller.may_call(request.chain_name()) {
        let problem = caller.lacks(Right::View);
        return Err(request.answer(problem));
    }
    let Some(chain) = chains.find(request.chain_name()) else {
        let problem = request.not_found();
        return Err(request.answer(problem));
    };
    let (readiness, is_draining) = (&request.site.readiness, request.client.is_draining());
    let ready = readiness.of_one(chain, is_draining).await;
    Ok(ready.answer(caller))
}

/// The answer of [`admin`] to all other paths.
async fn not_here(request: PortalRequest) -> Problem {
    let path = request.path();
    let problem = Problem::not_found(format!(
        "there is nothing at {path}: this address is for looking after the server, \
         with /healthz, /readyz, /metrics, /stats, /chains and /chains/<name>/readyz; \
         chains are called at another one"
    ));
    request.answer(problem)
}

/// A request, with its id and its connection.
struct PortalRequest {
    site: Arc<Site>,
    client: Client,
    caller: Caller,
    call_id: CallId,
    inner: Request,
}

impl FromRequest<Arc<Site>> for PortalRequest {
    type Rejection = ExtensionRejection;

    async fn from_request(
        request: Request,
        site: &Arc<Site>,
    ) -> Result<PortalRequest, ExtensionRejection> {
        let (mut parts, body) = request.into_parts();
        let Extension(client) = Extension::from_request_parts(&mut parts, site).await?;
        let Extension(call_id) = Extension::from_request_parts(&mut parts, site).await?;
        let caller = parts.extensions.remove().unwrap_or_default();
        Ok(PortalRequest {
            site: Arc::clone(site),
            client,
            caller,
            call_id,
            inner: Request::from_parts(parts, body),
        })
    }
}

impl PortalRequest {
    fn path(&self) -> &str {
        self.inner.uri().path()
    }

    /// The name in `/chains/{name}`, not decoded, unlike by axum's own extractor.
    fn chain_name(&self) -> &str {
        self.path().split('/').nth(2).unwrap_or_default()
    }

    /// Runs `chain`, which is called `name`, if there is one, the caller may call it, and the
    /// connection may call. Who may not call it does not learn whether there is one.
    async fn call(self, name: &str, chain: Option<&Offered>) -> Response {
        if !self.caller.may_call(name) {
            let problem = self.caller.lacks(format_args!("call:{name}"));
            return self.answer(problem).into_response();
        }
        let pages = &self.site.pages;
        if let Some(problem) = pages.refuse(self.inner.headers(), self.inner.uri()) {
            self.site.refusals.count(Refusal::CrossSite);
            return self.answer(problem).into_response();
        }
        let Some(chain) = chain.filter(|_| !self.client.is_extra()) else {
            return self.refuse_path().await.into_response();
        };
        let PortalRequest {
            site,
            client,
            caller,
            call_id,
            inner,
        } = self;
        call::call(&site, chain, inner, &call_id, &client, &caller).await
    }

    async fn refuse_path(self) -> Problem {
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

    /// Answers with `problem`; or that there are too many connections, if this one is only for
    /// monitoring.
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
        http::discard(self.inner);
        problem.with_call_id(&self.call_id)
    }
}
