//! The zygote: this program, executed afresh, with one thread and nothing else
//! in it. It enters the sandbox once, and then makes a process whenever the
//! runner asks. When the runner is gone, so is the zygote; and since it is PID 1
//! of its own namespace, so is everything that it ever started.

use std::io::Read;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvFlags, SendFlags};

use crate::archive;
use crate::enter::{self, Entered};
use crate::failure::{Failure, Step};
use crate::init::{Place, Plan};
use crate::network::Networks;
use crate::sys;
use crate::wire::{
    Archive, ORDER_BYTES_MAX, Opened, Order, PREPARE, Report, Start, receive, send, send_opened,
};

/// What commands inherit.
pub(crate) const UMASK: u32 = 0o022;

/// The zygote's name, which is its first argument.
pub(crate) const NAME: &str = "consecution-zygote";

/// Whether this program was executed as a zygote.
pub(crate) fn asked() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Whether this program has called [`run_zygote_if_asked`]: only then can it be executed
/// as a zygote.
static IS_CALLED: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_called() -> bool {
    IS_CALLED.load(Ordering::Relaxed)
}

/// Becomes a zygote, and never returns, if this program was executed as one; does nothing
/// otherwise.
///
/// Every program that starts sandboxed processes must call it first thing in `main`: each
/// link's processes are children of a *zygote*, which is the same program, executed once
/// more. It must still have only one thread then, so a program with a runtime of tokio
/// starts that afterwards: not with `#[tokio::main]`, but with
/// `tokio::runtime::Runtime::new()` in a plain `main`.
///
/// In a program that has not called it, no zygote can be opened; the error says so.
pub fn run_zygote_if_asked() {
    IS_CALLED.store(true, Ordering::Relaxed);
    if asked() {
        // Everything goes when the process goes; there is nothing to tidy up.
        std::process::exit(if run() == ExitCode::SUCCESS { 0 } else { 1 });
    }
}

fn run() -> ExitCode {
    let Some(socket) = take_socket() else {
        return ExitCode::FAILURE;
    };
    reset_signals();
    // The name that `ps` shows on the host; inits inherit it.
    let _ = rustix::thread::set_name(c"zygote");
    // The terminal's signals are for the runner.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let entered = receive_order(&socket)
        .and_then(|order| enter::enter(&order, &socket).map(|entered| (entered, order.spec)));
    let (Entered { plan, listener }, spec) = match entered {
        Ok(entered) => entered,
        Err(failure) => {
            send_opened(&socket, &Opened::Failed(failure), &[]);
            return ExitCode::FAILURE;
        }
    };
    let plan: &'static Plan = Box::leak(Box::new(plan));
    // Standard error was for a panic on the way in. From here on, only the runner is
    // told.
    let _ = rustix::stdio::dup2_stderr(rustix::stdio::stdin());
    let owner = plan.identity.outside(spec.ids);
    send_opened(
        &socket,
        &Opened::Ready {
            owner,
            found: plan.found,
        },
        &[],
    );
    let zygote = Zygote {
        socket,
        plan,
        networks: Networks::new(spec.network, listener, plan.token),
        places: Vec::new(),
    };
    zygote.serve()
}

/// Takes our end of the socket, which was handed to us as standard input. Closes
/// everything else of the runner's, even what it passed on by mistake, except standard
/// error, in case of a panic.
fn take_socket() -> Option<OwnedFd> {
    // First of all, while nothing here has a descriptor that would be closed with them.
    sys::in_our_memory::close_from(3).ok()?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    rustix::stdio::dup2_stdout(&null).ok()?;
    Some(socket)
}

/// Sets every signal to its default and blocks none, as a shell does: the Rust runtime
/// ignores SIGPIPE, and the runner's parent may have ignored more. Only SIGCHLD is
/// ignored, so that the kernel reaps; init sets it back.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        sys::set_signal_action(signal, signal == libc::SIGCHLD);
    }
    sys::unblock_signals();
}

fn receive_order(socket: &OwnedFd) -> Result<Order, Failure> {
    let failure = |reason: String| Failure::because(Step::ReceiveOrder, "", reason);
    let message =
        receive(socket, RecvFlags::empty()).map_err(|error| failure(error.to_string()))?;
    let file = message
        .and_then(|message| message.descriptors.into_iter().next())
        .ok_or_else(|| failure("none was sent".to_owned()))?;
    let mut json = Vec::new();
    std::fs::File::from(file)
        .take(ORDER_BYTES_MAX as u64)
        .read_to_end(&mut json)
        .map_err(|error| failure(error.to_string()))?;
    serde_json::from_slice(&json).map_err(|error| failure(error.to_string()))
}

/// What a zygote serves with.
struct Zygote {
    /// On which the runner asks for processes.
    socket: OwnedFd,
    plan: &'static Plan,
    networks: Networks,
    places: Vec<&'static Place>,
}

impl Zygote {
    /// Starts a process for each message, or an init that waits for one, until the runner
    /// closes the socket.
    fn serve(mut self) -> ExitCode {
        loop {
            (self.networks).hear_until_readable(&self.socket, &self.places);
            let Ok(Some(message)) = receive(&self.socket, RecvFlags::empty()) else {
                return ExitCode::SUCCESS;
            };
            let descriptors = message.descriptors;
            if let Some(archive) = Archive::from_bytes(&message.bytes) {
                // Where it does not start, the runner sees its socket closed.
                if !message.is_short {
                    let _ = archive::start(self.plan, archive, &descriptors);
                }
                continue;
            }
            let others = descriptors.len().checked_sub(1);
            let asked = Start::from_bytes(&message.bytes).filter(|asked| {
                message.is_short || others.is_some_and(|others| asked.comes_with(others))
            });
            if asked.is_none() && message.bytes != PREPARE {
                // Only the runner can write here, and it does not write such a message.
                return ExitCode::FAILURE;
            }
            // Without room even for the control socket, the kernel has closed it, which the
            // runner sees.
            let Some(control) = descriptors.first() else {
                continue;
            };
            let started = match message.is_short {
                // The missing descriptor may be a cgroup's, and with it a limit.
                true => Err((Step::StartInit, libc::EMFILE)),
                false => self.start(asked, &descriptors),
            };
            if let Err((step, errno)) = started {
                let report = Report::Failed(step, errno).to_bytes();
                // This fails only if the runner is gone; then nobody needs the report.
                let _ = send(control, &report, &[], SendFlags::empty());
            }
            // Our copies of the descriptors close here; init has its own.
        }
    }

    /// Starts a process, or an init that waits until it is asked for one; from then on init
    /// does all the talking.
    fn start(
        &mut self,
        asked: Option<Start>,
        descriptors: &[OwnedFd],
    ) -> Result<(), (Step, sys::Errno)> {
        let number = match self.places.iter().position(|place| place.is_free()) {
            Some(number) => number,
            None => {
                let place = Place::new(self.plan).map_err(|errno| (Step::MakeStack, errno))?;
                self.places.push(Box::leak(Box::new(place)));
                self.places.len() - 1
            }
        };
        let place = self.places[number];
        (self.networks.enter(number, place)).map_err(|errno| (Step::EnterNetwork, errno))?;
        let [control, handed @ ..] = descriptors else {
            return Err((Step::StartInit, libc::EINVAL));
        };
        place.control.store(control.as_raw_fd(), Ordering::Relaxed);
        place.hand(
            asked.unwrap_or_default(),
            handed.iter().map(AsRawFd::as_raw_fd),
        );
        let started = place.start(asked.is_some());
        started.map_err(|errno| (Step::StartInit, errno))
    }
}
