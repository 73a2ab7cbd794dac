//! SIGINT and SIGTERM, which ask the program to end, and SIGHUP, which asks it to read
//! its files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGINT and SIGTERM from the moment it is created.
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

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Receives SIGHUP. Once this is created, SIGHUP no longer ends the process.
pub(crate) struct HangUps(Signal);

impl HangUps {
    pub(crate) fn listen() -> std::io::Result<HangUps> {
        Ok(HangUps(signal(SignalKind::hangup())?))
    }

    /// Waits for the next SIGHUP. Several in quick succession count as one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
