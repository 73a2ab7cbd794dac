//! What the tests of faults share: to know which runner has a call, and when a
//! runner is ready for one.

use rustix::process::{Pid, Signal, kill_process};

use super::chain::{Link, shell};
use super::network::Servers;
use super::running::Running;
use test_support::processes::HostProcess;
use test_support::{eventually, processes};

/// What a link runs while it is at work, and only then.
const WORK: &str = "/bin/sleep ";

/// A link that reads a line, works until it is told to [finish](let_finish), and
/// says what it has read.
pub(crate) fn slow() -> Link {
    shell(&format!("read x; {WORK} 600; echo \"done $x\""))
}

/// The processes that are the work of a runner's calls.
pub(crate) fn work(runner: &Running) -> Vec<HostProcess> {
    let mut processes = processes::descendants(runner.process());
    processes.retain(|seen| seen.command.starts_with(WORK));
    processes
}

/// Waits until one of the runners works on a call, and says which.
#[track_caller]
pub(crate) fn at_work(runners: &[Running]) -> usize {
    eventually("a call to be at work", || {
        runners.iter().position(|runner| !work(runner).is_empty())
    })
}

/// Waits until one of the runners works on a call, and has it finish that.
#[track_caller]
pub(crate) fn let_finish(runners: &[Running]) {
    finish_all(&runners[at_work(runners)]);
}

/// Has a runner finish all that it works on now, which may be nothing.
pub(crate) fn finish_all(runner: &Running) {
    for seen in work(runner) {
        let process = Pid::from_raw(seen.id.cast_signed()).unwrap();
        // It may have been stopped meanwhile.
        let _ = kill_process(process, Signal::TERM);
    }
}

/// Starts runners of these names, and waits until each of them serves as many
/// links.
#[track_caller]
pub(crate) fn runners(servers: &Servers, names: &[&str], links: usize) -> Vec<Running> {
    let runners = names.iter().map(|name| servers.runner(name)).collect();
    for name in names {
        servers.until_serving(name, links);
    }
    runners
}
