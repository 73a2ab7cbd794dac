//! Options and shutdown of an HTTP server, shared by several commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::FailedTo;
use crate::http::{self, Drained, Listen, ListenError, Server};
use crate::portal::http as portal_http;

use super::protection::{Browsers, Protection};
use super::signals::Signals;

/// Options for serving chains over HTTP.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct Http {
    /// Address to listen on: `localhost:8080`, or `:8080` for all addresses of this
    /// host. Port 0 takes a free port.
    #[arg(
        long,
        env = "CONSECUTION_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: Listen,
    /// Second address that serves only /healthz, /readyz, /metrics and /chains, no
    /// calls [default: none].
    #[arg(long, env = "CONSECUTION_ADMIN_LISTEN", value_name = "HOST:PORT")]
    admin_listen: Option<Listen>,
    /// Most connections at a time. On up to 16 more, calls get 503, while /healthz,
    /// /readyz, /metrics and /chains are answered; further ones wait to be accepted.
    #[arg(
        long,
        env = "CONSECUTION_CONNECTIONS_MAX",
        value_name = "NUMBER",
        default_value_t = http::CONNECTIONS_MAX_DEFAULT,
        value_parser = super::at_least_one
    )]
    connections_max: usize,
    /// How long a client may take to send a request's head, and how long a connection
    /// may be idle between requests.
    #[arg(
        long,
        env = "CONSECUTION_HEADER_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    header_timeout: Duration,
    /// Largest request body, in bytes or with a unit: `10M` [default: no limit].
    #[arg(
        long,
        env = "CONSECUTION_MAX_REQUEST_BYTES",
        value_name = "SIZE",
        value_parser = chain::units::parse_bytes
    )]
    max_request_bytes: Option<u64>,
    /// How long requests in flight may take to finish after SIGTERM or SIGINT.
    #[arg(
        long,
        env = "CONSECUTION_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    grace: Duration,
    /// How long a client may read nothing of its reply, or send nothing of a request
    /// that the chain waits for, before it is disconnected.
    #[arg(
        long,
        env = "CONSECUTION_STALL_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = chain::units::parse_duration
    )]
    stall_timeout: Duration,
    /// Folder for output that must wait until its reply may begin and that does not fit
    /// in 64 MiB of memory [default: `--home` for `serve`, none for `portal`].
    #[arg(long, env = "CONSECUTION_SPOOL", value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// Most output that may wait, of all calls together. With 0 a reply begins with its
    /// first byte of output.
    #[arg(
        long,
        env = "CONSECUTION_SPOOL_MAX",
        value_name = "SIZE",
        default_value = "1G",
        value_parser = chain::units::parse_bytes
    )]
    spool_max: u64,
    #[command(flatten)]
    protection: Protection,
    #[command(flatten)]
    browsers: Browsers,
}

impl Http {
    /// The server's options. `spool` is the folder to use if `--spool` is not given. Reads
    /// keys and certificates, and goes on looking at them.
    pub(crate) fn options(&self, spool: Option<PathBuf>) -> anyhow::Result<portal_http::Options> {
        let mut server = http::Options {
            connections_max: self.connections_max,
            head_wait_max: self.header_timeout,
            grace: self.grace,
            stall_wait_max: self.stall_timeout,
            ..http::Options::default()
        };
        self.protection.add_to(&mut server)?;
        self.browsers.add_to(&mut server);
        Ok(portal_http::Options {
            server,
            request_bytes_max: self.max_request_bytes,
            spool: portal_http::SpoolOptions {
                folder: self.spool.clone().or(spool),
                bytes_max: self.spool_max,
            },
            admin: self.admin_listen.clone(),
        })
    }
}

/// Logs the addresses that a server listens on: first the one for calls. Logs also what is
/// open to others than programs on this host.
pub(crate) fn say_where(server: &Server) -> anyhow::Result<()> {
    let scheme = match server.is_encrypted() {
        true => "https",
        false => "http",
    };
    let (main, admin) = (server.address()?, server.admin_address()?);
    tracing::info!("listening on {scheme}://{main}");
    if let Some(address) = admin {
        tracing::info!("looked after at {scheme}://{address}");
    }
    let is_far = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let Some(address) = [Some(main), admin].into_iter().flatten().find(is_far) else {
        return Ok(());
    };
    if server.is_open_to_all() {
        tracing::warn!(
            "everyone who can reach {scheme}://{address} may do everything there: \
             --keys says who may do what"
        );
    } else if !server.is_encrypted() {
        tracing::warn!(
            "keys travel unencrypted to http://{address}: --tls-cert encrypts them, \
             as does a proxy on this host in front of a loopback address"
        );
    }
    Ok(())
}

/// The error for an address that cannot be listened on.
pub(crate) fn cannot_listen(error: ListenError) -> anyhow::Error {
    FailedTo(error).into()
}

/// Serves until a signal comes, then drains until all requests are finished, the grace
/// period is over, or a second signal comes.
pub(crate) async fn until_told(server: Server, mut signals: Signals) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve(async {
        let _ = stopped.await;
    });
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        () = signals.next() => {}
    }
    tracing::info!("finishing what is in flight; a second signal leaves at once");
    let _ = stop.send(());
    tokio::select! {
        drained = serving => match drained {
            Drained::All => tracing::info!("everything in flight is finished"),
            Drained::CutOff => tracing::warn!("the grace period is over: requests were cut off"),
        },
        () = signals.next() => tracing::warn!("leaving at once"),
    }
}
