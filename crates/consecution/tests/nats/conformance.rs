//! The transport over NATS does what every transport must do.

use crate::support::nats::{NatsServer, TwoConnections, connect};
use consecution::transport::conformance;
use consecution::transport::nats::Role;

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_between_two_connections() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&TwoConnections::connect(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_on_one_connection() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&connect(&server.options(), Role::Runner).await).await;
}

#[tokio::test]
async fn it_conforms_on_one_thread() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&connect(&server.options(), Role::Runner).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_where_messages_must_be_small() {
    let Some(server) = NatsServer::start("max_payload: 65536") else {
        cannot_run_here!("there is no nats-server");
    };
    conformance::all(&TwoConnections::connect(&server).await).await;
}
