//! `consecution run`: runs a chain as a filter, on this machine.

use crate::app::OneShot;

use super::filter::{Call, filter, unless_stopped};
use super::{Global, progress, sandboxing, stdio};

pub(crate) fn run(
    global: &Global,
    call: &Call,
    sandboxing: &sandboxing::Sandbox,
) -> anyhow::Result<u8> {
    let chain = call.chain()?;
    let parameters = match call.parameters(&chain) {
        Ok(parameters) => parameters,
        Err(code) => return Ok(code),
    };
    stdio::check_open()?;
    let rules = sandboxing.rules(global)?;
    let images = super::images::source(global, progress::on_terminal())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(unless_stopped("consecution-run", async {
        let app = OneShot::start(chain, images, rules).await?;
        let portal = app.portal.clone();
        filter(&portal, parameters, call.stats, app).await
    }));
    // Do not wait for the thread that reads standard input: it may be blocked.
    runtime.shutdown_background();
    code
}
