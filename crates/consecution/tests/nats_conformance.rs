//! The transport over NATS does what every transport must do.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;

use chain::LinkId;
use consecution::transport::nats::{Connection, Nats, Role};
use consecution::transport::{
    Refusal, RefusalReason, Registration, Reply, Request, Service, Transport, conformance,
};
use futures_util::future::BoxFuture;
use support::nats::NatsServer;

/// Calls over one connection, and answers over another.
struct Two {
    portal: Nats,
    runner: Nats,
}

impl Transport for Two {
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        self.portal.call(id, request)
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        self.runner.serve(id, service)
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        self.portal.probe(id)
    }
}

async fn connect(server: &NatsServer, role: Role) -> Nats {
    let nats = Nats::new(&server.options(), role, "conformance").unwrap();
    let mut connection = nats.connection();
    let connected = connection.wait_for(|connection| *connection == Connection::Connected);
    connected.await.unwrap();
    nats
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_between_two_connections() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    let two = Two {
        portal: connect(&server, Role::Portal).await,
        runner: connect(&server, Role::Runner).await,
    };
    conformance::all(&two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_on_one_connection() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&connect(&server, Role::Runner).await).await;
}

#[tokio::test]
async fn it_conforms_on_one_thread() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&connect(&server, Role::Runner).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_where_messages_must_be_small() {
    let Some(server) = NatsServer::start("max_payload: 65536") else {
        cannot_run_here!("there is no nats-server");
    };
    let two = Two {
        portal: connect(&server, Role::Portal).await,
        runner: connect(&server, Role::Runner).await,
    };
    conformance::all(&two).await;
}
