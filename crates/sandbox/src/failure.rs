//! What can go wrong between a spec and a running process, step by step: which
//! step, on what, why, and how to allow it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A step of entering the sandbox or of starting a process in it. The numbers
/// travel from init to the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
#[expect(missing_docs, reason = "each name says it; the texts are in Display")]
pub enum Step {
    OpenRoot,
    ResolveUser,
    CreateNamespaces,
    MapIds,
    BecomeRoot,
    CloneRoot,
    PivotRoot,
    MountDevices,
    MountProc,
    MountPrivate,
    MountOverlay,
    SetHostname,
    SetLimits,
    DropCapabilities,
    FindCommand,
    InstallFilter,
    MakeStack,
    StartInit,
    JoinCgroup,
    ForkCommand,
    SetUser,
    EnterWorkingDirectory,
    Execute,
}

impl Step {
    const ALL: [Step; 23] = [
        Step::OpenRoot,
        Step::ResolveUser,
        Step::CreateNamespaces,
        Step::MapIds,
        Step::BecomeRoot,
        Step::CloneRoot,
        Step::PivotRoot,
        Step::MountDevices,
        Step::MountProc,
        Step::MountPrivate,
        Step::MountOverlay,
        Step::SetHostname,
        Step::SetLimits,
        Step::DropCapabilities,
        Step::FindCommand,
        Step::InstallFilter,
        Step::MakeStack,
        Step::StartInit,
        Step::JoinCgroup,
        Step::ForkCommand,
        Step::SetUser,
        Step::EnterWorkingDirectory,
        Step::Execute,
    ];

    /// The step with that number, if there is one.
    pub(crate) fn from_number(number: u32) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Step::OpenRoot => "open the image's root",
            Step::ResolveUser => "find the user",
            Step::CreateNamespaces => "create the namespaces",
            Step::MapIds => "map the user and group ids",
            Step::BecomeRoot => "become the sandbox's root",
            Step::CloneRoot => "mount the image's root",
            Step::PivotRoot => "make the image's root the root",
            Step::MountDevices => "mount /dev",
            Step::MountProc => "mount /proc",
            Step::MountPrivate => "mount a private folder",
            Step::MountOverlay => "mount the private writable root",
            Step::SetHostname => "set the host name",
            Step::SetLimits => "set the resource limits",
            Step::DropCapabilities => "drop the capabilities",
            Step::FindCommand => "find the command",
            Step::InstallFilter => "install the system call filter",
            Step::MakeStack => "make room for a process",
            Step::StartInit => "start a process",
            Step::JoinCgroup => "join its cgroup",
            Step::ForkCommand => "start the command's process",
            Step::SetUser => "change to the user",
            Step::EnterWorkingDirectory => "enter the working directory",
            Step::Execute => "execute the command",
        })
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
            subject: subject.into(),
            errno,
            reason: String::new(),
        }
    }

    /// The step failed on that subject for a reason of ours.
    pub(crate) fn because(
        step: Step,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Failure {
        Failure {
            step,
            subject: subject.into(),
            errno: 0,
            reason: reason.into(),
        }
    }

    /// What to do about it, where there is something to do.
    pub fn advice(&self) -> Option<&'static str> {
        match (self.step, self.errno) {
            (Step::CreateNamespaces, libc::ENOSPC) => Some(
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
                "`Writable` needs overlay file systems in user namespaces: Linux 5.11 or newer",
            ),
            (Step::OpenRoot | Step::MountPrivate, libc::ENOENT) => {
                Some("the root is incomplete: remove the image and fetch it again")
            }
            (Step::EnterWorkingDirectory, libc::ENOENT) => {
                Some("create it in the image, or set WorkingDirectory")
            }
            (Step::SetUser, libc::EINVAL) => {
                Some("without root only one id can be used: run as root, or choose another User")
            }
            (Step::FindCommand, libc::EACCES) => Some("make it executable in the image: chmod +x"),
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

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.step)?;
        if !self.subject.is_empty() {
            write!(formatter, " {:?}", self.subject)?;
        }
        if !self.reason.is_empty() {
            write!(formatter, ": {}", self.reason)?;
        }
        if self.errno != 0 {
            // Without Rust's "(os error N)", which says nothing to a reader.
            let text = std::io::Error::from_raw_os_error(self.errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            write!(formatter, ": {}", text.to_lowercase())?;
        }
        if let Some(advice) = self.advice() {
            write!(formatter, " ({advice})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_numbers_that_lead_back() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u32), Some(step));
        }
        assert_eq!(Step::from_number(Step::ALL.len() as u32), None);
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
