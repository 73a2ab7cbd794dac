//! Natively sandboxed processes, started by a zygote per link.
//!
//! The runner holds a [`Launcher`]. From a [`Spec`], which is plain data, it
//! opens a [`Zygote`]: this same program, executed afresh, that enters the
//! sandbox once ([`enter`](self) is one screen) and from then on makes one
//! process per request with as little as possible left to do. Everything here
//! is synchronous and knows nothing of images, chains or networks of runners.
//!
//! A program that uses this crate must call [`run_zygote_if_asked`] first thing
//! in `main`, before it starts a thread.
#![deny(unsafe_code)]

mod capabilities;
mod cgroup;
mod command;
mod completion;
mod enter;
mod facilities;
mod failure;
mod init;
mod joint;
mod landlock;
mod launcher;
mod mounts;
mod network;
mod place;
mod process;
mod program;
mod rlimits;
mod seccomp;
mod spec;
#[expect(unsafe_code, reason = "the one place where it is allowed")]
mod sys;
mod traces;
mod user;
mod wire;
mod zygote;

pub use cgroup::{CgroupError, CgroupPlace};
pub use facilities::{Facilities, Finding, OWN_CGROUP_REMEDY, State, check, facilities};
pub use failure::{Failure, Step};
pub use joint::{Alarm, ExitCodes, InFlight, Successor};
pub use launcher::{Launcher, OpenError, StartError, Zygote};
pub use mounts::{MOUNT_POINT_FILES, MOUNT_POINT_FOLDERS};
pub use process::{Event, Process, Stdio, WaitStatus};
pub use spec::{
    Ids, IdsError, Limits, Network, PROCESSES_DEFAULT, SCRATCH_BYTES_DEFAULT, SHIFTED_IDS, Spec,
};
pub use sys::standard_streams::{standard_input_was_closed, standard_output_was_closed};
pub use zygote::run_zygote_if_asked;
