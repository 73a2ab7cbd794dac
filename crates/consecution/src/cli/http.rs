//! Serving HTTP until it is told to end, as several commands do.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::FailedTo;
use crate::http::{self, Drained, Listen, ListenError, Server};
use crate::portal::http as portal_http;

use super::signals::Signals;

/// How to serve chains over HTTP.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct Http {
    /// Where to listen: `localhost:8080`, or `:8080` for all addresses of this
    /// host. Port 0 takes a free one.
    #[arg(
        long,
        env = "CONSECUTION_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: Listen,
    /// Where, besides, to offer /healthz, /readyz, /metrics and /chains, and no
    /// calls [default: nowhere].
    #[arg(long, env = "CONSECUTION_ADMIN_LISTEN", value_name = "HOST:PORT")]
    admin_listen: Option<Listen>,
    /// Connections at a time. Of 16 more, calls are answered with 503, and
    /// /healthz, /readyz, /metrics and /chains as ever; more wait to be taken.
    #[arg(
        long,
        env = "CONSECUTION_CONNECTIONS_MAX",
        value_name = "NUMBER",
        default_value_t = http::CONNECTIONS_MAX_DEFAULT,
        value_parser = super::at_least_one
    )]
    connections_max: usize,
    /// How long a client may take for a request's head, and for the next one.
    #[arg(
        long,
        env = "CONSECUTION_HEADER_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    header_timeout: Duration,
    /// How large a request's body may be, in bytes or with a unit: `10M`
    /// [default: no limit].
    #[arg(
        long,
        env = "CONSECUTION_MAX_REQUEST_BYTES",
        value_name = "SIZE",
        value_parser = chain::units::parse_bytes
    )]
    max_request_bytes: Option<u64>,
    /// How long requests in flight may take to finish when it is told to end.
    #[arg(
        long,
        env = "CONSECUTION_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    grace: Duration,
    /// How long a client may take nothing of its reply, or send nothing of its
    /// request while that is waited for, until it is cut off.
    #[arg(
        long,
        env = "CONSECUTION_STALL_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = chain::units::parse_duration
    )]
    stall_timeout: Duration,
    /// Where output waits that comes before its reply may begin and does not fit in
    /// 64 MiB of memory [default: for `serve` the home folder, else none].
    #[arg(long, env = "CONSECUTION_SPOOL", value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// How much of it may wait, of all calls together; with 0 a reply begins with
    /// its first byte.
    #[arg(
        long,
        env = "CONSECUTION_SPOOL_MAX",
        value_name = "SIZE",
        default_value = "1G",
        value_parser = chain::units::parse_bytes
    )]
    spool_max: u64,
}

impl Http {
    /// `spool` is the folder of what has to wait, unless it is given.
    pub(crate) fn options(&self, spool: Option<PathBuf>) -> portal_http::Options {
        portal_http::Options {
            server: http::Options {
                connections_max: self.connections_max,
                head_wait_max: self.header_timeout,
                grace: self.grace,
                stall_wait_max: self.stall_timeout,
            },
            request_bytes_max: self.max_request_bytes,
            spool: portal_http::SpoolOptions {
                folder: self.spool.clone().or(spool),
                bytes_max: self.spool_max,
            },
            admin: self.admin_listen.clone(),
        }
    }
}

/// Says where a server listens; that where chains are called first.
pub(crate) fn say_where(server: &Server) -> anyhow::Result<()> {
    tracing::info!("listening on http://{}", server.address()?);
    if let Some(address) = server.admin_address()? {
        tracing::info!("looked after at http://{address}");
    }
    Ok(())
}

/// An address cannot be had.
pub(crate) fn cannot_listen(error: ListenError) -> anyhow::Error {
    FailedTo(error).into()
}

/// Serves until a signal comes, and then until everything in flight is
/// finished, the grace period is over, or another signal comes.
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
