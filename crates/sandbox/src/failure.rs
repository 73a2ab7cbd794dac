//! What can go wrong between a spec and a running process, step by step: which
//! step, on what, why, and how to allow it.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::MESSAGE_BYTES_MAX;

/// The steps, in the order in which they are taken, each with its text.
macro_rules! steps {
    ($($step:ident $text:literal,)*) => {
        /// A step of entering the sandbox or of starting a process in it. The
        /// numbers travel from init to the runner.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[repr(u32)]
        pub enum Step {
            $(#[doc = $text] $step,)*
        }

        impl Step {
            /// All of them, in order.
            pub(crate) const ALL: &[Step] = &[$(Step::$step,)*];
        }

        impl fmt::Display for Step {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(match self {
                    $(Step::$step => $text,)*
                })
            }
        }
    };
}

steps! {
    ReceiveOrder "receive the order",
    OpenRoot "open the image's root",
    ResolveUser "find the user",
    OpenData "open the data",
    CreateNamespaces "create the namespaces",
    MapIds "map the user and group ids",
    BecomeRoot "become the sandbox's root",
    CloneRoot "mount the image's root",
    PivotRoot "make the image's root the root",
    AddFiles "add the link's files",
    MountHostFiles "mount the host's network files",
    MountData "mount the data",
    MountDevices "mount /dev",
    MountProc "mount /proc",
    SetHostname "set the host name",
    SetLimits "set the resource limits",
    FindCommand "find the command",
    DropCapabilities "drop the capabilities",
    InstallFilter "install the system call filter",
    MakeStack "make room for a process",
    EnterNetwork "enter an empty network",
    StartInit "start a process",
    MountPrivate "mount a private folder",
    MountOverlay "mount the private writable root",
    ChangeRoot "change to its root",
    MakeInput "make the place of its Input",
    MakeOutput "make the place of its Output",
    StoreInput "store the input of the request",
    ReadStrings "read the arguments of the request",
    StartCommand "start the command's process",
    JoinCgroup "join its cgroup",
    EnterDomain "enter its Landlock domain",
    KeepDescriptors "keep its three descriptors",
    SetUser "change to the user",
    TakeLimits "take the limits of a process",
    EnterWorkingDirectory "enter the working directory",
    Execute "execute the command",
    LimitMemory "limit its memory",
}

impl Step {
    /// The step with that number, if there is one.
    pub(crate) fn from_number(number: u32) -> Option<Step> {
        Step::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// A step that failed. The text is a fragment that reads well after
/// "failed to".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// On what: a path, a name, or nothing.
    pub subject: String,
    /// Why, as the kernel's error number; or 0 where `reason` says it all.
    pub errno: i32,
    /// Why, where no error number says it; or nothing.
    pub reason: String,
}

impl Failure {
    /// The step failed on that subject, the kernel says with `errno`.
    pub(crate) fn new(step: Step, subject: impl Into<String>, errno: i32) -> Failure {
        Failure {
            step,
            subject: bounded(subject.into()),
            errno,
            reason: String::new(),
        }
    }

    /// The step failed on that subject with an I/O error.
    pub(crate) fn io(step: Step, subject: impl Into<String>, error: &std::io::Error) -> Failure {
        Failure::new(step, subject, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The step failed on that subject for a reason of ours.
    pub(crate) fn because(
        step: Step,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Failure {
        Failure {
            step,
            subject: bounded(subject.into()),
            errno: 0,
            reason: bounded(reason.into()),
        }
    }

    /// What to do about it, where there is something to do.
    pub fn advice(&self) -> Option<&'static str> {
        match (self.step, self.errno) {
            (Step::CreateNamespaces | Step::EnterNetwork, libc::ENOSPC) => Some(
                "raise the limits in /proc/sys/user, e.g. `sysctl user.max_user_namespaces=10000`",
            ),
            (
                Step::CreateNamespaces | Step::BecomeRoot | Step::CloneRoot,
                libc::EPERM | libc::EACCES,
            ) => Some(
                "allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu also \
                 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, one with a \
                 seccomp and AppArmor profile that permits them",
            ),
            (Step::CreateNamespaces, libc::EINVAL) => Some(
                "this kernel lacks a namespace: it needs 5.12 or newer with user, PID, network, IPC, UTS and cgroup namespaces",
            ),
            (Step::MountProc, libc::EPERM) => Some(
                "the /proc of this host is partly masked, as in a container: run that container with \
                 `--security-opt systempaths=unconfined`",
            ),
            (Step::MountOverlay, libc::EPERM | libc::ENODEV | libc::EINVAL) => Some(
                "a root that can be written to needs overlay file systems in user namespaces, over the \
                 file system of the images: Linux 5.11 or newer, and no stack of overlays; or set \
                 Writable: never",
            ),
            (Step::MountHostFiles, libc::ENOENT | libc::ELOOP | libc::ENOTDIR | libc::EISDIR) => {
                Some(
                    "a link on the host's network needs a file there, or a link that leads to one: have it in the image",
                )
            }
            (Step::OpenRoot | Step::MountPrivate | Step::MountProc, libc::ENOENT) => {
                Some("the root is incomplete: remove the image and fetch it again")
            }
            (Step::EnterWorkingDirectory, libc::ENOENT) => {
                Some("create it in the image, or set WorkingDirectory")
            }
            (Step::FindCommand | Step::EnterWorkingDirectory, libc::ELOOP) => Some(
                "what a process has open or executes, as in /proc/self/fd, is no part of an image: name the file itself",
            ),
            (Step::FindCommand, libc::EACCES) => Some("make it executable in the image: chmod +x"),
            (Step::StoreInput, libc::ENOSPC) => Some(SCRATCH_IS_FULL),
            (Step::LimitMemory, libc::ENOMEM) => Some(
                "raise Memory: the command, with its arguments and environment, takes more before it has read anything",
            ),
            (_, libc::EMFILE | libc::ENFILE) => {
                Some("raise the limit on open files (ulimit -n), or have fewer links or processes")
            }
            (Step::Execute, libc::ENOENT) => Some(
                "the file is there, but what it needs to run is not: its interpreter (first line) or its \
                 dynamic loader is missing in the image",
            ),
            (Step::Execute, libc::ENOEXEC) => Some(
                "it is no program for this machine: a script needs a first line such as `#!/bin/sh`, and a binary this architecture",
            ),
            (Step::Execute, libc::E2BIG) => {
                Some("arguments and environment together are too long for the kernel")
            }
            _ => None,
        }
    }
}

/// An error, and after it each of its causes, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Cuts a text, since a failure must fit into one message, however long the names in an
/// image are.
fn bounded(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    format!("{}…", &text[..end])
}

/// What to do where there is no room left in private folders.
pub(crate) const SCRATCH_IS_FULL: &str = "its scratch space is full: the link needs more";

/// The longest subject or reason. Long enough for most paths, and so short that two of
/// them fit into one message even if JSON writes each byte as six.
const TEXT_BYTES_MAX: usize = 1024;

const _: () = assert!(2 * 6 * TEXT_BYTES_MAX + 1024 <= MESSAGE_BYTES_MAX);

impl Failure {
    /// The failure as text, for callers that show the advice elsewhere.
    pub(crate) fn without_advice(&self) -> String {
        let mut text = self.step.to_string();
        if !self.subject.is_empty() {
            text.push_str(&format!(" {:?}", self.subject));
        }
        if !self.reason.is_empty() {
            text.push_str(&format!(": {}", self.reason));
        }
        if self.errno != 0 {
            // Without Rust's "(os error N)", which says nothing to a reader.
            let error = std::io::Error::from_raw_os_error(self.errno).to_string();
            let error = error.split(" (os error").next().unwrap_or_default();
            text.push_str(&format!(": {}", error.to_lowercase()));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.without_advice())?;
        match self.advice() {
            Some(advice) => write!(formatter, " ({advice})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_numbers_that_lead_back() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(*step as u32), Some(*step));
        }
        assert_eq!(Step::from_number(Step::ALL.len() as u32), None);
    }

    #[test]
    fn the_document_has_the_same_steps_in_the_same_order() {
        let document = include_str!("../../../docs/sandbox.md");
        let documented = document.lines().filter_map(|line| {
            let (number, text) = line.split_once(". **")?;
            number.parse::<usize>().ok()?;
            Some(text.split_once("**")?.0.to_owned())
        });
        let steps = Step::ALL.iter().map(Step::to_string);
        assert_eq!(documented.collect::<Vec<_>>(), steps.collect::<Vec<_>>());
    }

    /// The body of a function.
    fn body<'a>(source: &'a str, signature: &str) -> &'a str {
        let (_, rest) = source.split_once(signature).unwrap();
        rest.split_once("\n}\n").unwrap().0
    }

    /// The steps that a function names, in order.
    fn named(body: &str) -> Vec<Step> {
        let names = body.split("Step::").skip(1);
        let names = names.map(|rest| rest.split(|letter: char| !letter.is_alphanumeric()).next());
        let step =
            |name: &str| *(Step::ALL.iter().find(|step| format!("{step:?}") == name)).unwrap();
        let mut steps: Vec<Step> = names.map(|name| step(name.unwrap())).collect();
        steps.dedup();
        steps
    }

    #[test]
    fn the_program_takes_the_steps_in_that_order() {
        // In one function, each step is another one.
        let entering = [
            ("open_root(", &[Step::OpenRoot][..]),
            ("user::resolve(", &[Step::ResolveUser]),
            ("mounts::open_data(", &[Step::OpenData]),
            ("enter_namespaces(", &[Step::CreateNamespaces, Step::MapIds]),
            ("become_root(", &[Step::BecomeRoot]),
            ("mounts::gather(", &[Step::CloneRoot]),
            ("mounts::change_root(", &[Step::PivotRoot]),
            (
                "mounts::furnish(",
                &[
                    Step::AddFiles,
                    Step::MountHostFiles,
                    Step::MountData,
                    Step::MountDevices,
                    Step::MountProc,
                ],
            ),
            ("set_hostname(", &[Step::SetHostname]),
            ("rlimits::set(", &[Step::SetLimits]),
            ("command::plan(", &[Step::FindCommand]),
            ("capabilities::drop_for_good(", &[Step::DropCapabilities]),
            ("seccomp::install(", &[Step::InstallFilter]),
        ];
        let enter = body(include_str!("enter.rs"), "fn enter(");
        let places = entering.map(|(call, _)| enter.find(call).unwrap());
        assert!(places.is_sorted(), "{places:?}");

        let mut steps = vec![Step::ReceiveOrder];
        steps.extend(entering.iter().flat_map(|(_, steps)| *steps));
        steps.extend(named(body(include_str!("zygote.rs"), "\n    fn start(")));
        let plan = body(include_str!("mounts.rs"), "fn plan(");
        let mounts = [
            "Step::MountPrivate",
            "plan_overlay(",
            "proc(",
            "private::plan_mounts(",
        ];
        assert!(mounts.map(|made| plan.find(made).unwrap()).is_sorted());
        steps.extend([Step::MountPrivate, Step::MountOverlay, Step::ChangeRoot]);
        let handover = include_str!("handover.rs");
        let (_, made) = handover.split_once("pub(crate) fn make(").unwrap();
        steps.extend(named(made.split_once("\n    }\n").unwrap().0));
        steps.extend([Step::StoreInput, Step::ReadStrings, Step::StartCommand]);
        steps.extend(named(body(include_str!("init.rs"), "\nfn execute(")));
        let process = include_str!("process.rs");
        steps.extend(named(body(process, "fn limit_memory(")));
        assert_eq!(steps, Step::ALL);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let failure = Failure::new(Step::Execute, "ä".repeat(5000), 0);
        assert!(failure.subject.len() <= TEXT_BYTES_MAX + "…".len());
        assert!(failure.subject.ends_with("ä…"));
    }

    #[test]
    fn a_failure_reads_as_a_fragment() {
        let failure = Failure::new(Step::FindCommand, "/bin/nonesuch", libc::ENOENT);
        assert_eq!(
            failure.to_string(),
            "find the command \"/bin/nonesuch\": no such file or directory"
        );
    }
}
