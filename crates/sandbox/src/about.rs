//! What is the same for all processes of a link and what their runner needs to know of it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Uid};

use crate::cgroup::Cgroup;
use crate::failure::{Failure, Step};
use crate::joint::{self, Successor};
use crate::process::Stdio;
use crate::spec::{Input, Output, Spec};
use crate::strings::Strings;
use crate::wire::{DESCRIPTORS_MAX, START_BYTES, Start, StartSuccessor};

/// The file system of pipes without a name, from linux/magic.h.
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// Of a zygote and its processes, which share it.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// The user and group of the host that the processes are, if not our own.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) command: Vec<String>,
    /// How many variables each process may have instead of its link's, if it may.
    pub(crate) own_variables: Option<usize>,
    /// Input or output is a folder.
    pub(crate) has_folders: bool,
    /// Processes leave their output in a file, of which init sends a descriptor.
    pub(crate) leaves_file: bool,
    working_directory: String,
    user: String,
    /// Where input and output lie, if they have paths.
    input_path: String,
    output_path: String,
}

impl About {
    pub(crate) fn new(spec: &Spec) -> About {
        About {
            owner: None,
            command: spec.command.clone(),
            own_variables: spec.takes_strings.then_some(spec.environment.len()),
            has_folders: matches!(spec.input, Input::Folder(_))
                || matches!(spec.output, Output::Folder(_)),
            leaves_file: matches!(spec.output, Output::File(_)),
            working_directory: spec.working_directory.clone(),
            user: spec.user.clone(),
            input_path: spec.input.path().to_owned(),
            output_path: spec.output.path().to_owned(),
        }
    }

    /// What a process's failure to start was about.
    pub(crate) fn explain(&self, step: Step, errno: i32) -> Failure {
        let subject = match step {
            Step::Execute => self.command.first().map_or("", String::as_str),
            Step::EnterWorkingDirectory => &self.working_directory,
            Step::SetUser => &self.user,
            Step::MakeInput | Step::StoreInput => &self.input_path,
            Step::MakeOutput => &self.output_path,
            _ => "",
        };
        Failure::new(step, subject, errno)
    }

    /// What init is sent to start a process, and the descriptors that go with it.
    pub(crate) fn start_message<'a>(
        &self,
        stdio: &'a Stdio,
        strings: Option<&'a Strings>,
        successor: Option<Successor<'a>>,
        cgroup: Option<&'a Cgroup>,
    ) -> ([u8; START_BYTES], Vec<BorrowedFd<'a>>) {
        let mut descriptors = Vec::with_capacity(DESCRIPTORS_MAX);
        for pipe in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
            self.give(pipe);
            descriptors.push(pipe.as_fd());
        }
        descriptors.extend(strings.map(AsFd::as_fd));
        let mut start = Start {
            has_strings: strings.is_some(),
            successor: None,
        };
        if let Some(successor) = successor {
            let counts_file = cgroup.and_then(Cgroup::counts_file);
            start.successor = Some(StartSuccessor {
                accepted: successor.accepted,
                counts_kills: counts_file.is_some(),
            });
            descriptors.extend([successor.output.as_fd(), successor.alarm.as_fd()]);
            descriptors.extend(counts_file);
        }
        let joins = cgroup.map_or(&[][..], Cgroup::join_files);
        descriptors.extend(joins.iter().map(AsFd::as_fd));
        (start.to_bytes(), descriptors)
    }

    /// Gives a pipe to the user that the processes run as, as Docker does. Otherwise they
    /// could use it, but not open `/dev/stdin` or `/dev/stdout`. A pipe between two
    /// processes stays ours, since everybody may open that.
    fn give(&self, pipe: &OwnedFd) {
        let Some((user, group)) = self.owner else {
            return;
        };
        // Only a pipe without a name: no file of the host may change its owner.
        if rustix::fs::fstatfs(pipe).is_ok_and(|found| found.f_type == PIPEFS_MAGIC)
            && !joint::is_for_all(pipe)
        {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            let _ = rustix::fs::fchown(pipe, Some(user), Some(group));
        }
    }
}
