//! What the tests share: a root made of busybox, a way to run a command in it,
//! and every promise as two tests, one by root and one by an unprivileged user.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs, thread};

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::FdFlags;
use sandbox::{
    Event, Ids, Launcher, Limits, MOUNT_POINT_FILES, MOUNT_POINT_FOLDERS, Network, OpenError,
    Process, Spec, Stdio, Step, WaitStatus, Writable, Zygote,
};
use test_support::{PATIENCE, busybox, is_readable_within, skip};

/// Each function becomes two tests, `as_root` and `rootless`, in a module of its
/// name.
macro_rules! promises {
    ($(fn $name:ident($setup:ident) $body:block)*) => {
        $(fn $name($setup: &crate::support::Setup) $body

        mod $name {
            #[test]
            fn as_root() {
                crate::support::as_root(super::$name);
            }

            #[test]
            fn rootless() {
                crate::support::rootless(concat!(module_path!(), "::rootless"), super::$name);
            }
        })*
    };
}
pub(crate) use promises;

/// The unprivileged user of the tests, known as nobody.
const NOBODY: u32 = 65534;

/// Variables for the process that runs as nobody, with paths to what it could not reach
/// otherwise.
const ZYGOTE: &str = "SANDBOX_TEST_ZYGOTE";
const TOOLS: [(&str, &str); 2] = [
    ("probe", "SANDBOX_TEST_PROBE"),
    ("attack", "SANDBOX_TEST_ATTACK"),
];
/// Not in every root.
const LOADER: (&str, &str) = ("loader", "SANDBOX_TEST_LOADER");

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The first two numbers of the kernel's version.
pub(crate) fn kernel() -> (u32, u32) {
    let release = rustix::system::uname()
        .release()
        .to_str()
        .unwrap()
        .to_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether there are cgroups that count processes here.
pub(crate) fn counts_processes() -> bool {
    let controllers = sandbox::facilities().controllers;
    controllers
        .iter()
        .any(|(name, place)| *name == "pids" && place.is_some())
}

pub(crate) fn as_root(promise: fn(&Setup)) {
    if !is_root() {
        return skip("this test needs root");
    }
    promise(&Setup::new());
}

/// Runs the promise as an unprivileged user: this one, or a copy of this program
/// as nobody.
pub(crate) fn rootless(test: &str, promise: fn(&Setup)) {
    if is_root() {
        let status = as_nobody(test).status().unwrap();
        assert!(status.success(), "as nobody: {status}");
        return;
    }
    let setup = Setup::new();
    let tried = setup
        .launcher
        .open(&setup.spec(&["true"]), Limits::default());
    match tried.map(drop) {
        Err(OpenError::Failed(failure)) if failure.step == Step::CreateNamespaces => {
            skip(&failure.to_string());
        }
        _ => promise(&setup),
    }
}

/// One test of this program, run by nobody, whose way to it may be closed: so
/// it gets open descriptors instead of paths.
pub(crate) fn as_nobody(test: &str) -> Command {
    let open = |path: PathBuf| {
        let file = fs::File::open(path).unwrap();
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Open until this test is over.
        std::mem::forget(file);
        path
    };
    let mut command = Command::new(open(env::current_exe().unwrap()));
    command
        .args([
            "--exact",
            without_crate(test),
            "--include-ignored",
            "--nocapture",
        ])
        .current_dir("/")
        .env("TMPDIR", "/tmp")
        .env(ZYGOTE, open(zygote()))
        .envs(
            (TOOLS.into_iter().chain([LOADER]))
                .map(|(name, variable)| (variable, open(tool(name, variable)))),
        )
        .uid(NOBODY)
        .gid(NOBODY);
    command
}

/// What the attack program says on the host, where it attacks nothing.
pub(crate) fn attack_outside(arguments: &[&str]) -> String {
    let (name, variable) = TOOLS[1];
    let output = Command::new(tool(name, variable))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs one test of this program as on a kernel without Landlock; it must pass.
pub(crate) fn without_landlock(test: &str) {
    passes_where("without-landlock", test);
}

/// Runs one test of this program as in some containers, whose filter asks somebody already;
/// it must pass.
pub(crate) fn with_listener(test: &str) {
    passes_where("with-listener", test);
}

fn passes_where(condition: &str, test: &str) {
    let (name, variable) = TOOLS[1];
    let mut command = Command::new(tool(name, variable));
    command.arg(condition).arg(env::current_exe().unwrap());
    command.args(["--exact", without_crate(test), "--include-ignored"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let is_passed = output.status.success() && said.contains("1 passed");
    assert!(is_passed, "{output:?}");
}

/// A test's name as the harness knows it.
pub(crate) fn without_crate(test: &str) -> &str {
    test.split_once("::").unwrap().1
}

/// The program of zygotes, as the tests' launchers have it.
pub(crate) fn zygote() -> PathBuf {
    env::var_os(ZYGOTE).map_or_else(
        || env!("CARGO_BIN_EXE_sandbox-zygote").into(),
        PathBuf::from,
    )
}

/// An attacker's dynamic loader.
pub(crate) fn loader() -> PathBuf {
    let (name, variable) = LOADER;
    tool(name, variable)
}

/// A program that tries what busybox cannot, compiled when first wanted.
fn tool(name: &str, variable: &str) -> PathBuf {
    if let Some(tool) = env::var_os(variable) {
        return tool.into();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/promises/{name}.c"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if modified(&program) < modified(&source) {
        // Made aside, since other tests may be making it too.
        let mine = folder.join(format!("{name}-{}", std::process::id()));
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-O1", "-Wall", "-Werror"]);
        if name == LOADER.0 {
            gcc.args(["-nostdlib", "-ffreestanding", "-fno-stack-protector"]);
        }
        gcc.arg("-o");
        let status = gcc.arg(&mine).arg(&source).status().unwrap();
        assert!(status.success(), "gcc: {status}");
        fs::rename(&mine, &program).unwrap();
    }
    program
}

/// A root folder, and who may run commands in it.
pub(crate) struct Setup {
    pub(crate) root: PathBuf,
    pub(crate) launcher: Launcher,
    /// A folder of the host that nobody inside may ever see.
    pub(crate) folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new() -> Setup {
        // As a runner does: what a command has on its way is held against us, too,
        // where we are the same user.
        let files = rustix::process::Resource::Nofile;
        let mut limit = rustix::process::getrlimit(files);
        limit.current = limit.maximum;
        rustix::process::setrlimit(files, limit).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().join("root");
        build_root(&root);
        let setup = Setup {
            root,
            launcher: Launcher::with_program(zygote()),
            folder,
        };
        setup.give_to_sandbox();
        setup
    }

    pub(crate) fn spec(&self, command: &[&str]) -> Spec {
        Spec {
            root: self.root.clone(),
            command: command.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            takes_strings: false,
            working_directory: "/".into(),
            user: String::new(),
            files: Vec::new(),
            data: Vec::new(),
            writable: Writable::No,
            scratch_bytes: sandbox::SCRATCH_BYTES_DEFAULT,
            input: sandbox::Input::Pipe,
            output: sandbox::Output::Pipe,
            network: Network::Loopback,
            hostname: "inside".into(),
            ids: Ids::detect(),
        }
    }

    /// A script for the root's own shell.
    pub(crate) fn script(&self, script: &str) -> Spec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub(crate) fn open(&self, spec: &Spec) -> Zygote {
        self.open_limited(spec, Limits::default())
    }

    pub(crate) fn open_limited(&self, spec: &Spec, limits: Limits) -> Zygote {
        match self.launcher.open(spec, limits) {
            Ok(zygote) => zygote,
            Err(error) => panic!("failed to {error}"),
        }
    }

    /// Why that cannot be opened, as the user reads it.
    pub(crate) fn open_error(&self, spec: &Spec) -> String {
        match self.launcher.open(spec, Limits::default()) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    }

    /// Runs one process to its end.
    pub(crate) fn run(&self, spec: &Spec, input: &[u8]) -> Output {
        self.start(spec).finish(input)
    }

    /// Starts one process with a zygote of its own.
    pub(crate) fn start(&self, spec: &Spec) -> Running {
        let zygote = self.open(spec);
        let mut running = Running::start(&zygote);
        running.zygote = Some(zygote);
        running
    }

    /// What a script prints; it must succeed, and say nothing else.
    pub(crate) fn prints(&self, script: &str) -> String {
        self.run(&self.script(script), b"").success()
    }

    /// Writes a file into the root.
    pub(crate) fn write(&self, path: &str, content: &str, mode: u32) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self.give_to_sandbox();
    }

    /// The owners that an unpacked image has.
    pub(crate) fn give_to_sandbox(&self) {
        if let Ids::Shifted { base } = Ids::detect() {
            give(&self.root, base);
        }
    }
}

fn give(path: &Path, owner: u32) {
    let found = fs::symlink_metadata(path).unwrap();
    lchown(path, Some(owner), Some(owner)).unwrap();
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), owner);
        }
    } else if !found.is_symlink() {
        // A change of owner takes set-id bits away.
        fs::set_permissions(path, found.permissions()).unwrap();
    }
}

/// The applets of busybox that tests use; making a link for every one would take its
/// time.
const APPLETS: &str = "cat chmod chown chroot cut dd env find grep head hostname id insmod ip ln ls \
    mkdir mknod mount mv nc nice nsenter pivot_root pwd readlink reboot rm rmdir setsid sh sleep \
    sort stat swapon tail touch tr true umount uname unshare wc yes";

fn build_root(root: &Path) {
    for folder in MOUNT_POINT_FOLDERS
        .iter()
        .chain(&["bin", "etc", "home", "root"])
    {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in MOUNT_POINT_FILES {
        fs::write(root.join(file), "").unwrap();
    }
    busybox::install(&root.join("bin"), APPLETS.split_whitespace());
    for (name, variable) in TOOLS {
        let place = root.join("bin").join(name);
        fs::copy(tool(name, variable), &place).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\nwww:x:34:\ntape:x:26:www\nstaff:x:50:\n";
    fs::write(root.join("etc/group"), group).unwrap();
}

/// A process, and our ends of its pipes.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) stdin: Option<std::io::PipeWriter>,
    pub(crate) stdout: std::io::PipeReader,
    stderr: std::io::PipeReader,
    /// Its zygote, if nobody else needs that; dropped after the process.
    zygote: Option<Zygote>,
}

/// What a process printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) last: Event,
}

impl Output {
    pub(crate) fn success(self) -> String {
        assert_eq!(self.last, exited(0), "{self:?}");
        assert_eq!(self.stderr, "", "{}", self.stdout);
        self.stdout
    }
}

pub(crate) fn exited(code: u8) -> Event {
    Event::Exited(WaitStatus::Exited(code))
}

impl Running {
    /// Asks for a process.
    pub(crate) fn start(zygote: &Zygote) -> Running {
        Running::piped(|stdio| zygote.start(stdio).unwrap())
    }

    /// A process that is started with its ends of new pipes.
    pub(crate) fn piped(start: impl FnOnce(Stdio) -> Process) -> Running {
        let (stdin_theirs, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_theirs) = std::io::pipe().unwrap();
        let (stderr, stderr_theirs) = std::io::pipe().unwrap();
        let stdio = Stdio {
            stdin: stdin_theirs.into(),
            stdout: stdout_theirs.into(),
            stderr: stderr_theirs.into(),
        };
        Running::of(start(stdio), stdin, stdout, stderr)
    }

    /// A process with these for our ends of its pipes.
    pub(crate) fn of(
        process: Process,
        stdin: std::io::PipeWriter,
        stdout: std::io::PipeReader,
        stderr: std::io::PipeReader,
    ) -> Running {
        Running {
            process,
            stdin: Some(stdin),
            stdout,
            stderr,
            zygote: None,
        }
    }

    /// Gives it a line of input.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits for the next event.
    pub(crate) fn event(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.process.next_event().unwrap() {
                return event;
            }
            assert!(readable(&self.process, deadline), "no event came");
        }
    }

    /// Waits for the last event but `Gone`, or for that.
    pub(crate) fn last_event(&mut self) -> Event {
        let mut last = Event::Gone;
        loop {
            match self.event() {
                Event::Gone => return last,
                event => last = event,
            }
        }
    }

    /// Waits for a line of its output.
    pub(crate) fn line(&mut self) -> String {
        read_line(&self.stdout)
    }

    /// Waits for a line of what it writes to standard error.
    pub(crate) fn stderr_line(&mut self) -> String {
        read_line(&self.stderr)
    }

    /// Gives the process its input and sees it through to its end.
    pub(crate) fn finish(mut self, input: &[u8]) -> Output {
        let stdin = self.stdin.take();
        let (stdout, stderr) = thread::scope(|scope| {
            scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
            let stderr = scope.spawn(|| read_to_end(&self.stderr));
            (read_to_end(&self.stdout), stderr.join().unwrap())
        });
        let last = self.last_event();
        self.wait_until_looked_through();
        Output {
            stdout,
            stderr,
            last,
        }
    }

    /// Waits, when the process is over, until init has looked for its traces: then
    /// it is certain whether its place is used again.
    pub(crate) fn wait_until_looked_through(&self) {
        let deadline = Instant::now() + PATIENCE;
        assert!(readable(&self.process, deadline), "init said nothing");
    }
}

fn read_line(mut pipe: &std::io::PipeReader) -> String {
    let mut line = Vec::new();
    loop {
        assert!(readable(pipe, Instant::now() + PATIENCE), "no line came");
        let mut byte = [0];
        match pipe.read(&mut byte).unwrap() {
            0 => panic!("output ended with {:?}", String::from_utf8_lossy(&line)),
            _ if byte == *b"\n" => return String::from_utf8(line).unwrap(),
            _ => line.extend(byte),
        }
    }
}

fn read_to_end(mut pipe: &std::io::PipeReader) -> String {
    let mut bytes = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut part = [0; 65536];
    loop {
        assert!(readable(pipe, deadline), "output did not end");
        match pipe.read(&mut part).unwrap() {
            0 => return String::from_utf8_lossy(&bytes).into_owned(),
            length => bytes.extend(&part[..length]),
        }
    }
}

/// Whether there is something to read, or an end, by then.
pub(crate) fn readable(descriptor: impl AsFd, deadline: Instant) -> bool {
    is_readable_within(
        &descriptor,
        deadline.saturating_duration_since(Instant::now()),
    )
}
