//! Entering the sandbox: the steps in their order, on one screen. The order *is*
//! the design; each step's why stands with its facility.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Step};
use crate::init::Plan;
use crate::spec::{Ids, Spec};
use crate::sys::{Knock, StringArray};
use crate::user::{self, Identity};
use crate::wire::Opened;
use crate::{capabilities, launcher, mounts, network, rlimits, seccomp, sys};

/// Takes this process into the sandbox of `spec`, and says what remains to be
/// done for each process there. The process that returns is another than the
/// one that called, which has exited.
pub(crate) fn enter(spec: &Spec, socket: &OwnedFd) -> Result<Plan, Failure> {
    // As the user of the host that we are: the way to the root may be his alone.
    let root = open_root(&spec.root)?;
    let identity = user::resolve(&root, &spec.user)?;

    enter_namespaces(spec, &identity, socket)?;
    become_root(spec.ids)?;

    let outside = mounts::gather(spec)?;
    mounts::furnish(outside)?;
    set_hostname(&spec.hostname)?;
    rlimits::set().map_err(|error| Failure::new(Step::SetLimits, "", error.raw_os_error()))?;

    // Inside: from here on every path is the image's.
    let knock = Knock(random()?);
    let plan = plan(spec, identity, knock)?;

    capabilities::drop_for_good()
        .map_err(|error| Failure::new(Step::DropCapabilities, "", error.raw_os_error()))?;
    seccomp::install(knock)?;
    Ok(plan)
}

/// Opens the image's root and goes there: the current folder is what survives
/// the change of namespaces, when its path may no longer be walked.
fn open_root(root: &Path) -> Result<OwnedFd, Failure> {
    let failure = |error: rustix::io::Errno| {
        Failure::new(
            Step::OpenRoot,
            root.display().to_string(),
            error.raw_os_error(),
        )
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(failure)?;
    rustix::process::fchdir(&folder).map_err(failure)?;
    Ok(folder)
}

/// Forks into new namespaces. Who forks still has the privilege to map ids into
/// the new user namespace, does so, and exits; the copy goes on.
fn enter_namespaces(spec: &Spec, identity: &Identity, socket: &OwnedFd) -> Result<(), Failure> {
    // No IPC namespace here: each process gets one of its own.
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | network::namespace(spec.network);
    let failure = |errno| Failure::new(Step::CreateNamespaces, "", errno);
    let io_failure = |error: std::io::Error| failure(error.raw_os_error().unwrap_or(libc::EIO));
    let (mut mapped, mut tell_mapped) = std::io::pipe().map_err(io_failure)?;
    match sys::fork_into_namespaces(flags.bits().cast_signed()).map_err(failure)? {
        Some(zygote) => {
            user::map_ids(zygote, spec.ids, identity)?;
            launcher::send_opened(socket, &Opened::Forked(zygote));
            tell_mapped.write_all(&[1]).map_err(io_failure)?;
            std::process::exit(0)
        }
        None => {
            drop(tell_mapped);
            // An end without a byte: the other has failed, and has said so.
            if mapped.read_exact(&mut [0]).is_err() {
                std::process::exit(1);
            }
            Ok(())
        }
    }
}

/// Becomes root inside, which is nobody outside; and no longer shows its memory
/// to anyone: it holds the knock.
fn become_root(ids: Ids) -> Result<(), Failure> {
    let failure = |errno| Failure::new(Step::BecomeRoot, "", errno);
    if let Ids::Shifted { .. } = ids {
        sys::in_our_memory::set_groups(&[]).map_err(failure)?;
        sys::in_our_memory::set_group(0).map_err(failure)?;
        sys::in_our_memory::set_user(0).map_err(failure)?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| failure(error.raw_os_error()))
}

fn set_hostname(name: &str) -> Result<(), Failure> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| Failure::new(Step::SetHostname, name, error.raw_os_error()))
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::new(Step::InstallFilter, "", error.raw_os_error()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What remains for each process, with everything looked up and allocated that
/// can be: where it is carried out, neither is possible.
fn plan(spec: &Spec, identity: Identity, knock: Knock) -> Result<Plan, Failure> {
    let environment = environment(spec, &identity);
    let path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value);
    let program = find_command(spec, path)?;
    let strings = |strings: Vec<Vec<u8>>| {
        let strings = strings
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>();
        strings.map(StringArray::new).map_err(|_| {
            let reason =
                "a NUL byte in an argument or the environment, which no program can be given";
            Failure::because(Step::Execute, spec.command[0].as_str(), reason)
        })
    };
    let folder = Path::new("/").join(&spec.working_directory);
    check_working_directory(&folder)?;
    Ok(Plan {
        program: c_path(Step::FindCommand, &program)?,
        arguments: strings(
            spec.command
                .iter()
                .map(|word| word.clone().into_bytes())
                .collect(),
        )?,
        environment: strings(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value}").into_bytes())
                .collect(),
        )?,
        working_directory: c_path(Step::EnterWorkingDirectory, &folder)?,
        set_groups: spec.ids != Ids::Own,
        identity,
        mounts: mounts::plan(spec)?,
        knock,
    })
}

/// What Docker adds to an environment that has not got it.
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

fn find_command(spec: &Spec, search: &str) -> Result<PathBuf, Failure> {
    let Some(name) = spec.command.first().filter(|name| !name.is_empty()) else {
        let reason =
            "there is none: the image has no entrypoint and no command of its own; set Command";
        return Err(Failure::because(Step::FindCommand, "", reason));
    };
    let failure = |errno| Failure::new(Step::FindCommand, name.as_str(), errno);
    let base = Path::new("/").join(&spec.working_directory);
    if name.contains('/') {
        let path = base.join(name);
        return executable(&path).map(|()| path).map_err(failure);
    }
    let mut found_but_not_executable = false;
    for folder in search.split(':') {
        let path = base.join(folder).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
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

fn executable(path: &Path) -> Result<(), i32> {
    let found =
        std::fs::metadata(path).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    if found.is_file() && found.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(libc::EACCES)
    }
}

fn check_working_directory(folder: &Path) -> Result<(), Failure> {
    let failure = |errno| {
        Failure::new(
            Step::EnterWorkingDirectory,
            folder.display().to_string(),
            errno,
        )
    };
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(failure(libc::ENOTDIR)),
        Err(error) => Err(failure(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

fn c_path(step: Step, path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Failure::new(step, path.display().to_string(), libc::EINVAL))
}

/// Makes sure that nothing of the runner's is open here but `socket`.
pub(crate) fn close_all_but(socket: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // 3 is the first that is not standard; standard error stays for a panic.
    let socket_high = rustix::io::fcntl_dupfd_cloexec(&socket, 10)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop((socket, null));
    let socket = rustix::io::fcntl_dupfd_cloexec(socket_high.as_fd(), 3)?;
    drop(socket_high);
    let _ = sys::in_our_memory::close_from(4);
    Ok(socket)
}
