//! What this host can enforce, found out by making sandboxes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroup::{CgroupError, CgroupPlace, Cgroups};
use crate::failure::{Step, with_causes};
use crate::launcher::{LINK_PROCESSES_MAX, Launcher, OpenError, Zygote};
use crate::mounts::{MOUNT_POINT_FILES, MOUNT_POINT_FOLDERS};
use crate::process::{Event, Stdio};
use crate::rlimits;
use crate::spec::{Ids, Limits, Network, SCRATCH_BYTES_DEFAULT, SHIFTED_IDS_COUNT, Spec, Writable};
use crate::sys;

/// What this host offers, looked at without making a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facilities {
    /// The version of Landlock that the kernel has; 0 where it has none.
    pub landlock: u32,
    /// Each controller of cgroups that limits need, and where cgroups for it can
    /// be made, if they can.
    pub controllers: Vec<(&'static str, Option<CgroupPlace>)>,
}

/// Looks at what this host offers to this process.
pub fn facilities() -> Facilities {
    Facilities {
        landlock: sys::landlock_version(),
        controllers: Cgroups::new().controllers(),
    }
}

/// How far something can be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum State {
    Yes,
    Partly,
    No,
}

/// What was found out about one facility.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The facility.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// Whether no link can be run without it.
    pub is_needed: bool,
    /// What there is, or what is missing.
    pub detail: String,
    /// How to get what is missing.
    pub remedy: Option<String>,
}

/// The version of Landlock that has all that we use, and the kernel that brought it.
const LANDLOCK_WANTED: u32 = 7;
const LANDLOCK_WANTED_KERNEL: &str = "Linux 6.15";

const CGROUPS_REMEDY: &str = "run as root, or have the cgroup of the runner, alone in it, delegated \
     (systemd: Delegate=yes); in a container, run the runner outside of it";

/// How to have links in the cgroup of their runner.
pub const OWN_CGROUP_REMEDY: &str = "where the runner's own cgroup has limits for its links as well \
     (systemd: MemoryMax=), have it delegated to the runner alone (systemd: Delegate=yes)";

/// Makes sandboxes like a link's, and tells of each facility whether it works here.
pub fn check(launcher: &Launcher, ids: Ids) -> Vec<Finding> {
    let facilities = facilities();
    let root = match ScratchRoot::new() {
        Ok(root) => root,
        Err(error) => {
            let folder = std::env::temp_dir();
            let detail = format!("failed to make a root in {}: {error}", folder.display());
            return vec![needed("sandbox", Err((detail, None)), "")];
        }
    };
    let tried = root.try_out(launcher, ids, Writable::No);
    let found = tried.as_ref().map(Zygote::found).ok();
    let mut findings = vec![
        needed(
            "sandbox",
            tried.map(drop),
            "namespaces, mounts, few capabilities or none, a system call filter",
        ),
        of_ids(ids),
    ];
    let writable = root.try_out(launcher, ids, Writable::Private);
    findings.push(Finding {
        is_needed: false,
        ..needed(
            "writable roots",
            writable.map(drop),
            "an overlay for each process, which links have unless they say Writable: never",
        )
    });
    if let Some(found) = found {
        findings.push(of_image_path(found.hides_image_path));
        findings.push(of_devices(found.has_own_devices));
        findings.extend((ids != Ids::Own).then(|| of_users(found.is_bounded)));
    }
    findings.push(of_landlock(facilities.landlock));
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    findings.push(of_core_dumps(&pattern, rlimits::stops_dumps_to_programs()));
    let what = ["memory limits", "CPU limits", "process limits"];
    for (name, (controller, place)) in what.into_iter().zip(&facilities.controllers) {
        let is_memory = *controller == "memory";
        let finding = match is_memory.then(|| launcher.limits_memory()) {
            Some(Err(CgroupError::Swap)) => of_swap(name),
            _ => of_controller(name, controller, place.as_ref()),
        };
        findings.push(finding);
    }
    findings
}

type Tried = Result<(), (String, Option<String>)>;

fn needed(name: &'static str, tried: Tried, detail: &str) -> Finding {
    let (state, detail, remedy) = match tried {
        Ok(()) => (State::Yes, detail.to_owned(), None),
        Err((reason, remedy)) => (State::No, reason, remedy),
    };
    Finding {
        name,
        state,
        is_needed: true,
        detail,
        remedy,
    }
}

fn finding(name: &'static str, state: State, detail: String, remedy: &str) -> Finding {
    Finding {
        name,
        state,
        is_needed: false,
        detail,
        remedy: (state != State::Yes).then(|| remedy.to_owned()),
    }
}

fn of_ids(ids: Ids) -> Finding {
    let remedy = "run as root, and not in a container that has fewer ids; an image's command then may \
         have any user, who is nobody on the host";
    match ids {
        Ids::Shifted { base } => {
            let detail = format!(
                "{SHIFTED_IDS_COUNT} of this host, from {base} on, which should be nobody's"
            );
            finding("ids of their own", State::Yes, detail, remedy)
        }
        Ids::Own if rustix::process::geteuid().is_root() => {
            let detail = "processes are root on this host, if without any capability".to_owned();
            finding("ids of their own", State::No, detail, remedy)
        }
        Ids::Own => {
            let user = rustix::process::geteuid().as_raw();
            let detail = format!("processes are user {user}, whoever they are inside");
            finding("ids of their own", State::Partly, detail, remedy)
        }
    }
}

fn of_image_path(hides_image_path: bool) -> Finding {
    let (state, detail) = match hides_image_path {
        true => (State::Yes, "processes do not see where an image is stored"),
        false => (State::No, "processes see where an image is stored"),
    };
    let remedy = "keep the images on a file system that is no overlay of overlays, with overlay file \
         systems in the kernel (modprobe overlay)";
    finding("hidden paths", state, detail.to_owned(), remedy)
}

fn of_devices(are_own: bool) -> Finding {
    let (state, detail) = match are_own {
        true => (State::Yes, "no link shares the files of its devices"),
        false => (
            State::Partly,
            "the files of devices are this host's: links can lock them and watch their use",
        ),
    };
    let remedy = "run as root with CAP_MKNOD, outside of containers";
    finding("devices of their own", state, detail.to_owned(), remedy)
}

fn of_users(is_bounded: bool) -> Finding {
    let (state, detail) = match is_bounded {
        true => (
            State::Yes,
            "an image's root may become other users of the image",
        ),
        false => (
            State::No,
            "an image's root stays root: what is counted by user cannot be bounded",
        ),
    };
    let remedy = "let the runner write to /proc/sys/user: run it outside of containers";
    finding("changes of user", state, detail.to_owned(), remedy)
}

fn of_landlock(version: u32) -> Finding {
    let state = match version {
        0 | 1 => State::No,
        2..LANDLOCK_WANTED => State::Partly,
        _ => State::Yes,
    };
    let parts = [
        (2, "files"),
        (4, "TCP"),
        (6, "abstract sockets and signals"),
        (7, "no noise in the log"),
    ];
    let known: Vec<&str> = (parts.into_iter())
        .filter_map(|(from, part)| (version >= from).then_some(part))
        .collect();
    let detail = match version {
        0 => "the kernel has none".to_owned(),
        1 => "version 1, which forbids too much to be of use".to_owned(),
        _ => format!("version {version}: {}", known.join(", ")),
    };
    let remedy = format!(
        "{LANDLOCK_WANTED_KERNEL} or newer, with landlock among its security modules (lsm=landlock,…)"
    );
    finding("Landlock", state, detail, &remedy)
}

/// Whether core dumps are stopped, where the host has this `core_pattern`.
fn of_core_dumps(pattern: &str, stops_dumps_to_programs: bool) -> Finding {
    let (state, detail) = match pattern.as_bytes().first() {
        Some(b'@') => (
            State::No,
            "a process that crashes is dumped to a socket of the host, whatever its limits",
        ),
        Some(b'|') if !stops_dumps_to_programs => (
            State::No,
            "a process that crashes is dumped to a program of the host, since our own limit is 0",
        ),
        _ => (State::Yes, "a process that crashes is not dumped"),
    };
    let remedy = "sysctl kernel.core_pattern=core; for a program as the pattern, `ulimit -Hc 1` or more \
         (systemd: LimitCORE=1) is enough";
    finding("no core dumps", state, detail.to_owned(), remedy)
}

fn of_controller(name: &'static str, controller: &str, place: Option<&CgroupPlace>) -> Finding {
    match place {
        Some(CgroupPlace { folder, is_in_own }) => {
            let (state, outside) = match is_in_own {
                true => (State::Yes, ""),
                false => (
                    State::Partly,
                    ", which is outside of our own cgroup and its limits",
                ),
            };
            let detail = format!("{}{outside}", folder.display());
            finding(name, state, detail, OWN_CGROUP_REMEDY)
        }
        None => {
            let detail = match controller {
                "pids" => {
                    format!("no cgroups: {LINK_PROCESSES_MAX} processes for a link as a whole")
                }
                _ => "no cgroups: links with such a limit are refused".to_owned(),
            };
            finding(name, State::No, detail, CGROUPS_REMEDY)
        }
    }
}

/// Memory limits on a host where memory in swap space would not count.
fn of_swap(name: &'static str) -> Finding {
    let detail = "the host has swap space that its kernel does not limit: links with such a limit are refused";
    let remedy =
        "swapoff -a; or with cgroups of version 1, swapaccount=1 on the kernel's command line";
    finding(name, State::No, detail.to_owned(), remedy)
}

/// A root with what every root must have, and a file `none` that cannot be executed.
struct ScratchRoot(PathBuf);

impl ScratchRoot {
    fn new() -> io::Result<ScratchRoot> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("consecution-check-{:016x}", u64::from_ne_bytes(random));
        let root = ScratchRoot(std::env::temp_dir().join(name));
        fs::create_dir(&root.0)?;
        for folder in MOUNT_POINT_FOLDERS.iter().chain(&["etc"]) {
            fs::create_dir_all(root.0.join(folder))?;
        }
        for file in MOUNT_POINT_FILES.iter().chain(&["none"]) {
            fs::write(root.0.join(file), "")?;
        }
        for path in ["", "none"] {
            fs::set_permissions(root.0.join(path), fs::Permissions::from_mode(0o755))?;
        }
        Ok(root)
    }

    /// Opens a zygote and starts a process whose command cannot be executed: if that is
    /// what fails, everything before it works.
    fn try_out(
        &self,
        launcher: &Launcher,
        ids: Ids,
        writable: Writable,
    ) -> Result<Zygote, (String, Option<String>)> {
        let spec = Spec {
            root: self.0.clone(),
            command: vec!["/none".to_owned()],
            environment: Vec::new(),
            takes_strings: false,
            working_directory: "/".to_owned(),
            user: String::new(),
            files: Vec::new(),
            data: Vec::new(),
            writable,
            scratch_bytes: SCRATCH_BYTES_DEFAULT,
            input: crate::Input::Pipe,
            output: crate::Output::Pipe,
            network: Network::Loopback,
            hostname: "check".to_owned(),
            ids,
        };
        let zygote = launcher
            .open(&spec, Limits::default())
            .map_err(|error| match error {
                OpenError::Failed(failure) => {
                    let remedy = failure.advice().map(str::to_owned);
                    (format!("failed to {}", failure.without_advice()), remedy)
                }
                error => (format!("failed to {}", with_causes(&error)), None),
            })?;
        match first_event(&zygote) {
            Ok(Event::Failed(Step::Execute, _)) => Ok(zygote),
            Ok(Event::Failed(step, errno)) => {
                let failure = zygote.explain(step, errno);
                let remedy = failure.advice().map(str::to_owned);
                Err((format!("failed to {}", failure.without_advice()), remedy))
            }
            Ok(event) => Err((format!("failed to start a process: {event:?}"), None)),
            Err(error) => Err((format!("failed to start a process: {error}"), None)),
        }
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn first_event(zygote: &Zygote) -> io::Result<Event> {
    const WAIT_MAX: Timespec = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let stdio = Stdio {
        stdin: io::pipe()?.0.into(),
        stdout: io::pipe()?.1.into(),
        stderr: io::pipe()?.1.into(),
    };
    let mut process = zygote.start(stdio).map_err(io::Error::other)?;
    loop {
        if let Some(event) = process.next_event()? {
            return Ok(event);
        }
        let mut wanted = [PollFd::new(&process, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&WAIT_MAX)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landlock_is_as_much_as_the_kernel_knows() {
        assert_eq!(of_landlock(0).state, State::No);
        assert_eq!(of_landlock(1).state, State::No);
        let fourth = of_landlock(4);
        assert_eq!(fourth.state, State::Partly);
        assert_eq!(fourth.detail, "version 4: files, TCP");
        assert!(fourth.remedy.is_some());
        assert_eq!(of_landlock(8).state, State::Yes);
        assert_eq!(of_landlock(8).remedy, None);
    }

    #[test]
    fn dumps_that_no_limit_stops_are_reported() {
        let state = |pattern, stops| of_core_dumps(pattern, stops).state;
        assert_eq!(state("core\n", false), State::Yes);
        assert_eq!(
            state("|/usr/lib/systemd/systemd-coredump %P\n", true),
            State::Yes
        );
        assert_eq!(
            state("|/usr/lib/systemd/systemd-coredump %P\n", false),
            State::No
        );
        assert_eq!(state("@/run/dumps.socket\n", true), State::No);
        assert!(of_core_dumps("@/run/dumps.socket", true).remedy.is_some());
    }

    #[test]
    fn a_scratch_root_goes_when_it_is_dropped() {
        let root = ScratchRoot::new().unwrap();
        let path = root.0.clone();
        assert!(path.join("proc").is_dir());
        drop(root);
        assert!(!path.exists());
    }
}
