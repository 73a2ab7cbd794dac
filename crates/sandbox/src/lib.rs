//! Natively sandboxed processes, started by a zygote per link.
//!
//! A [`Spec`] describes, as plain data, which command is run in which root folder, and
//! what it is allowed. From it a [`Launcher`] opens a [`Zygote`]: this same program,
//! executed anew, which enters the sandbox once and then starts one process per request,
//! with as little as possible left to do. A [`Process`] reads and writes the pipes that it
//! was given, and reports its start and end as [`Event`]s.
//!
//! ```no_run
//! use std::io::{Read as _, Write as _};
//!
//! use sandbox::{Ids, Launcher, Limits, Network, Spec, Stdio, Writable};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // First of all: a zygote is this same program.
//!     sandbox::run_zygote_if_asked();
//!     let spec = Spec {
//!         // With the folders of `sandbox::MOUNT_POINT_FOLDERS` in it.
//!         root: "/srv/busybox".into(),
//!         command: vec!["grep".into(), "data".into()],
//!         environment: Vec::new(),
//!         takes_strings: false,
//!         working_directory: "/".into(),
//!         user: "nobody".into(),
//!         files: Vec::new(),
//!         data: Vec::new(),
//!         writable: Writable::Private,
//!         scratch_bytes: sandbox::SCRATCH_BYTES_DEFAULT,
//!         input: sandbox::Input::Pipe,
//!         output: sandbox::Output::Pipe,
//!         network: Network::Loopback,
//!         hostname: "example".into(),
//!         ids: Ids::detect(),
//!     };
//!     let zygote = Launcher::new().open(&spec, Limits::default())?;
//!
//!     let (stdin, mut input) = std::io::pipe()?;
//!     let (mut output, stdout) = std::io::pipe()?;
//!     let (_errors, stderr) = std::io::pipe()?;
//!     let _process = zygote.start(Stdio {
//!         stdin: stdin.into(),
//!         stdout: stdout.into(),
//!         stderr: stderr.into(),
//!     })?;
//!     input.write_all(b"raw data\n")?;
//!     drop(input);
//!     let mut lines = String::new();
//!     output.read_to_string(&mut lines)?;
//!     println!("{lines}");
//!     Ok(())
//! }
//! ```
//!
//! `examples/start.rs` also waits for the process's end. The host determines how much is
//! enforced: [`check`] reports what it supports, and why not the rest.
//!
//! Everything here is synchronous and knows nothing of images, chains or networks of
//! runners. All `unsafe` code is in one module.
#![deny(unsafe_code)]

mod about;
mod activity;
mod archive;
mod capabilities;
mod cgroup;
mod command;
mod completion;
mod enter;
mod facilities;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handover;
mod idle_places;
mod init;
mod joint;
mod landlock;
mod launcher;
mod mounts;
mod network;
mod process;
mod process_tree;
mod program;
mod rlimits;
mod seccomp;
mod spec;
mod strings;
#[expect(unsafe_code, reason = "the one place where it is allowed")]
mod sys;
mod traces;
mod user;
mod wire;
mod zygote;

pub use activity::{Activity, Observer, Thread};
pub use cgroup::{CgroupError, CgroupPlace};
pub use facilities::{Facilities, Finding, OWN_CGROUP_REMEDY, State, check, facilities};
pub use failure::{Failure, Step};
pub use joint::{Alarm, ExitCodes, InFlight, Successor};
pub use launcher::{Launcher, OpenError, StartError, Zygote};
pub use mounts::{MOUNT_POINT_FILES, MOUNT_POINT_FOLDERS};
pub use process::{Archiving, Event, LeftOutput, Process, Stdio, WaitStatus};
pub use spec::{
    Content, Ids, IdsError, Input, Limits, Network, Output, PROCESSES_DEFAULT,
    SCRATCH_BYTES_DEFAULT, SHIFTED_IDS, Spec, SpecData, SpecFile, Writable,
};
pub use strings::{STRING_BYTES_MAX, STRINGS_BYTES_MAX, Strings, StringsError};
pub use sys::standard_streams::{standard_input_was_closed, standard_output_was_closed};
pub use zygote::run_zygote_if_asked;
