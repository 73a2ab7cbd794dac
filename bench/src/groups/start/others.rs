//! Other sandboxes, if they are installed and work.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{COMMAND, PAUSE, TEXT};
use crate::docker::Docker;
use crate::measure::Samples;
use crate::place::{Place, find};
use crate::process::Process;

/// Another sandbox.
struct Other<'a> {
    name: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
    /// How many starts a turn has: the slow ones take a second each.
    starts: usize,
    found: Samples,
}

pub(super) struct Others<'a>(Vec<Other<'a>>);

impl<'a> Others<'a> {
    pub(super) fn prepare(place: &'a Place) -> anyhow::Result<Others<'a>> {
        let root = place.root()?;
        let mut others = Others(Vec::new());
        others.add("bwrap", 15, bubblewrap(root.clone()))?;
        others.add("runc run", 3, runc(place, root))?;
        if let Some(docker) = Docker::prepare(place)? {
            others.add("docker run", 1, Ok(move || docker.run(&[COMMAND])))?;
        }
        Ok(others)
    }

    /// Adds a sandbox if it works here; otherwise prints why not.
    fn add(
        &mut self,
        name: &'static str,
        starts: usize,
        command: anyhow::Result<impl Fn() -> Command + 'a>,
    ) -> anyhow::Result<()> {
        match command.and_then(|command| once(command()).map(|_| command)) {
            Ok(command) => self.0.push(Other {
                name,
                command: Box::new(command),
                starts,
                found: Samples::default(),
            }),
            Err(error) => eprintln!("start: {name} is not measured: {error:#}"),
        }
        Ok(())
    }

    pub(super) fn take_turn(&mut self) -> anyhow::Result<()> {
        for other in &mut self.0 {
            sleep(PAUSE);
            let mut times = Samples::default();
            for _ in 0..other.starts {
                times.add_milliseconds(once((other.command)()).context(other.name)?);
            }
            other.found.add(times.median());
        }
        Ok(())
    }

    /// The milliseconds of one start of each.
    pub(super) fn found(&self) -> impl Iterator<Item = (&'static str, &Samples)> {
        self.0.iter().map(|other| (other.name, &other.found))
    }
}

fn once(mut command: Command) -> anyhow::Result<Duration> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut process = Process::start(command)?;
    // A broken sandbox may not read it; its exit status says more.
    let _ = process.input()?.write_all(TEXT);
    let mut output = Vec::new();
    process.output()?.read_to_end(&mut output)?;
    process.succeed()?;
    let time = begin.elapsed();
    ensure!(output == TEXT, "the wrong output came out");
    Ok(time)
}

/// As sealed as a link, except for the system call filter, which bwrap takes only as a file.
fn bubblewrap(root: PathBuf) -> anyhow::Result<impl Fn() -> Command> {
    let program = find("bwrap")?;
    Ok(move || {
        let mut command = Command::new(&program);
        command.arg("--ro-bind").arg(&root).arg("/");
        command.args(["--proc", "/proc", "--dev", "/dev"]);
        for folder in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
            command.args(["--tmpfs", folder]);
        }
        command.args(["--unshare-all", "--cap-drop", "ALL", "--die-with-parent"]);
        command.arg(format!("/bin/{COMMAND}"));
        command
    })
}

/// With runc's own defaults, and without a terminal.
fn runc(place: &Place, root: PathBuf) -> anyhow::Result<impl Fn() -> Command> {
    let program = find("runc")?;
    let (bundle, state) = (place.path("runc-bundle"), place.path("runc"));
    std::fs::create_dir(&bundle)?;
    let mut spec = Command::new(&program);
    spec.arg("spec").arg("--bundle").arg(&bundle);
    if !rustix::process::geteuid().is_root() {
        spec.arg("--rootless");
    }
    Process::start(spec)?.succeed()?;
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!([format!("/bin/{COMMAND}")]);
    config["root"] = json!({ "path": root, "readonly": true });
    std::fs::write(&path, config.to_string())?;
    Ok(move || {
        let mut command = Command::new(&program);
        command.arg("--root").arg(&state).arg("run");
        command.arg("--bundle").arg(&bundle);
        command.arg(format!("consecution-bench-{}", std::process::id()));
        command
    })
}
