//! The signals that ask to end, and the one that asks to read files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, from when this is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// SIGHUP, which ends nobody from when this is made.
pub(crate) struct HangUps(Signal);

impl HangUps {
    pub(crate) fn listen() -> std::io::Result<HangUps> {
        Ok(HangUps(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one. Several that come at once are one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
