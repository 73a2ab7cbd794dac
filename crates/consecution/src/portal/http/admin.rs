//! What a portal offers besides calls, on an address of its own: so that who
//! looks after it needs no place among its clients, and nobody who only looks
//! can call.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;

use super::problem::Problem;
use super::route::{LOOK, NoRoute, Route, route};
use super::{Site, call_id, decline, refuse, with_call_id};
use crate::http::{self, Answer, Client};
use crate::trace::CallId;

/// Everything but the calls of a site.
pub(super) struct Admin {
    site: Arc<Site>,
    /// These connections are none of its clients', and are shown nowhere.
    connections: Gauge,
}

impl Admin {
    pub(super) fn new(site: Arc<Site>) -> Admin {
        Admin {
            site,
            connections: Gauge::default(),
        }
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        call_id: &CallId,
        client: &Client,
    ) -> Response<Answer> {
        match route(request.method(), request.uri().path()) {
            Ok(Route::Look(look)) => match self.site.look(&look, client).await {
                Some(response) => response,
                None => refuse(request, &NoRoute::Path, call_id),
            },
            Err(NoRoute::Method(LOOK)) => refuse(request, &NoRoute::Method(LOOK), call_id),
            Ok(Route::Call(_)) | Err(_) => {
                let (status, title) = (StatusCode::NOT_FOUND, "there is nothing of that name");
                let path = request.uri().path();
                let detail = format!(
                    "there is nothing at {path}: this address is for looking after the server, \
                     with /healthz, /readyz, /metrics, /chains and /chains/<name>/readyz; \
                     chains are called at another one"
                );
                decline(request, &Problem::new(status, title, detail, call_id))
            }
        }
    }
}

impl http::Site for Admin {
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> BoxFuture<'a, Response<Answer>> {
        let call_id = call_id(&request);
        Box::pin(async move {
            let response = self.dispatch(request, &call_id, client).await;
            with_call_id(response, &call_id)
        })
    }

    fn connections(&self) -> &Gauge {
        &self.connections
    }
}
