//! What a process of the link executes: the image's program, found by the
//! image's own rules, with its arguments, environment and folder.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};

use crate::failure::{Failure, Step};
use crate::handover;
use crate::init::{Plan, Reuse};
use crate::landlock;
use crate::mounts::{self, Furnished, OwnFolders};
use crate::rlimits::ProcessLimits;
use crate::spec::{Ids, Input, Output, Spec};
use crate::sys::{MountToken, StringArray};
use crate::user::Identity;

/// Plans what remains to be done for each process. Everything is looked up and allocated
/// here, since neither is possible where the plan is carried out.
pub(crate) fn plan(
    spec: &Spec,
    identity: Identity,
    limits: ProcessLimits,
    furnished: &Furnished,
    is_bounded: bool,
    token: MountToken,
) -> Result<Plan, Failure> {
    let command = spec.command.first().map_or("", String::as_str);
    let strings = |strings: Vec<String>| {
        let strings = strings.into_iter().map(CString::new);
        let strings = strings.collect::<Result<Vec<_>, _>>();
        strings.map(StringArray::new).map_err(|_| {
            let reason =
                "a NUL byte in an argument or the environment, which no program can be given";
            Failure::because(Step::FindCommand, command, reason)
        })
    };
    let arguments = strings(spec.command.clone())?;
    let environment = environment(spec, &identity);
    let pairs = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let pairs = strings(pairs.collect())?;
    let search = environment.iter().find(|(name, _)| name == "PATH");
    let program = find_command(spec, search.map_or("", |(_, value)| value), &furnished.own)?;
    Ok(Plan {
        program: c_path(Step::FindCommand, &program)?,
        arguments,
        environment: pairs,
        own_variables: spec.takes_strings.then_some(spec.environment.len()),
        working_directory: find_working_directory(&spec.working_directory, &furnished.own)?,
        set_groups: spec.ids != Ids::Own,
        handover: handover::plan(spec, &identity, &furnished.own)?,
        identity,
        mounts: mounts::plan(spec, furnished)?,
        private_folder: c_path(Step::MountPrivate, furnished.own.shared_memory())?,
        reuse: reuse(spec, &furnished.own)?,
        limits,
        found: furnished.found(is_bounded),
        domain: landlock::plan(spec.network),
        token,
    })
}

/// How places are used again; `None` if not every trace could be found, or the last
/// process id not be reset. The latter needs a file of kernels with
/// CONFIG_CHECKPOINT_RESTORE, which those of distributions have.
fn reuse(spec: &Spec, own: &OwnFolders) -> Result<Option<Reuse>, Failure> {
    // A file that is there before the command can be changed in place, which its folder
    // does not show.
    if spec.input != Input::Pipe || spec.output != Output::Pipe {
        return Ok(None);
    }
    let Some(changeable) = mounts::changeable(spec, own) else {
        return Ok(None);
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(last_process) = open("/proc/sys/kernel/ns_last_pid", flags, Mode::empty()) else {
        return Ok(None);
    };
    let forget = mounts::forget_proc(own)?;
    Ok(Some(Reuse {
        changeable,
        last_process,
        forget,
    }))
}

/// The environment, with what Docker adds if it is missing.
fn environment(spec: &Spec, identity: &Identity) -> Vec<(String, String)> {
    let defaults = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", &identity.home),
        ("HOSTNAME", &spec.hostname),
    ];
    let mut environment = spec.environment.clone();
    for (name, value) in defaults {
        if !environment.iter().any(|(known, _)| known == name) {
            environment.push((name.to_owned(), value.to_owned()));
        }
    }
    environment
}

fn find_command(spec: &Spec, search: &str, own: &OwnFolders) -> Result<PathBuf, Failure> {
    let Some(name) = spec.command.first().filter(|name| !name.is_empty()) else {
        let reason =
            "there is none: the image has no entrypoint and no command of its own; set Command";
        return Err(Failure::because(Step::FindCommand, "", reason));
    };
    let failure = |errno| Failure::new(Step::FindCommand, name.as_str(), errno);
    let base = Path::new("/").join(&spec.working_directory);
    if name.contains('/') {
        let path = base.join(name);
        executable(&path).map_err(failure)?;
        check_visible(Step::FindCommand, &path, own)?;
        return Ok(path);
    }
    let mut found_but_not_executable = false;
    for folder in search.split(':') {
        let path = base.join(folder).join(name);
        match executable(&path) {
            Ok(()) => {
                check_visible(Step::FindCommand, &path, own)?;
                return Ok(path);
            }
            Err(libc::EACCES) => found_but_not_executable = true,
            Err(_) => {}
        }
    }
    if found_but_not_executable {
        return Err(failure(libc::EACCES));
    }
    let reason = format!("it is in no folder of the image's PATH, {search:?}");
    Err(Failure::because(Step::FindCommand, name.as_str(), reason))
}

/// Looks at what is at a path, through the image's own links. The links of `/proc` to
/// what a process has open or executes are not followed: the zygote's are not the
/// image's, and the command's process will have others.
fn look_at(path: &Path) -> Result<Metadata, i32> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let links = ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, path, flags, Mode::empty(), links);
    let found = found.map_err(rustix::io::Errno::raw_os_error)?;
    File::from(found).metadata().map_err(errno)
}

fn executable(path: &Path) -> Result<(), i32> {
    let found = look_at(path)?;
    if found.is_dir() {
        Err(libc::EISDIR)
    } else if found.is_file() && found.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(libc::EACCES)
    }
}

fn find_working_directory(path: &str, own: &OwnFolders) -> Result<CString, Failure> {
    let step = Step::EnterWorkingDirectory;
    let folder = Path::new("/").join(path);
    let c_path = c_path(step, &folder)?;
    let failure = |errno| Failure::new(step, path, errno);
    let found = look_at(&folder).map_err(failure)?;
    if !found.is_dir() {
        return Err(failure(libc::ENOTDIR));
    }
    check_visible(step, &folder, own)?;
    Ok(c_path)
}

/// Fails for a path in a folder of which each process has its own: no process sees what
/// the image has there.
fn check_visible(step: Step, path: &Path, own: &OwnFolders) -> Result<(), Failure> {
    let place = std::fs::canonicalize(path)
        .map_err(|error| Failure::new(step, path.display().to_string(), self::errno(error)))?;
    match own.hiding(&place) {
        None => Ok(()),
        Some(folder) => {
            let folder = folder.display();
            let reason =
                format!("each process has a {folder} of its own, without what the image has there");
            Err(Failure::because(step, path.display().to_string(), reason))
        }
    }
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn c_path(step: Step, path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        Failure::because(
            step,
            path.display().to_string(),
            "there is a NUL byte in it",
        )
    })
}
