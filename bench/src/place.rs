//! The environment of all measurements: the measured program, busybox, and folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use image::{Owners, Store, StoreOptions};
use sandbox::Ids;
use tempfile::TempDir;

use crate::options::Options;
use crate::process::Process;

/// The script that makes a root file system of this machine's busybox.
const PACK_IMAGE: &str = "scripts/busybox-image";

/// Where Debian installs some servers; not in every user's PATH.
const MORE_PATH: &str = "/usr/sbin:/sbin";

/// See the module.
pub(crate) struct Place {
    /// The program `consecution`.
    pub(crate) program: PathBuf,
    /// Its home, with a busybox image.
    pub(crate) home: PathBuf,
    /// The busybox that is also in the image.
    pub(crate) busybox: PathBuf,
    pub(crate) mebibytes: u64,
    rounds: usize,
    folder: TempDir,
}

impl Place {
    pub(crate) fn prepare(options: &Options) -> anyhow::Result<Place> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("consecution"),
        };
        let place = Place {
            program,
            home: std::path::absolute(&options.home)?,
            busybox: find("busybox").context("failed to find busybox")?,
            mebibytes: options.mebibytes,
            rounds: options.rounds.max(1),
            folder: tempfile::tempdir()?,
        };
        let mut import = place.consecution();
        import.args(["image", "import", "busybox", "-"]);
        import.stdout(Stdio::null());
        place.pack_image_into(import)?;
        Ok(place)
    }

    /// Writes a root file system of busybox, as an archive, to the standard input of a command.
    pub(crate) fn pack_image_into(&self, mut command: Command) -> anyhow::Result<()> {
        let mut pack = Command::new(PACK_IMAGE);
        pack.arg(&self.busybox).stdin(Stdio::null());
        let mut pack = Process::start(pack_with_output(pack))?;
        command.stdin(pack.output()?);
        Process::start(command)?.succeed()?;
        pack.succeed()
    }

    /// The root of the busybox image, as runners use it.
    pub(crate) fn root(&self) -> anyhow::Result<PathBuf> {
        let options = StoreOptions {
            owners: match Ids::detect() {
                Ids::Shifted { base } => Owners::Shifted { base },
                Ids::Own => Owners::Mine,
            },
            ..StoreOptions::default()
        };
        let store = Store::open(&self.home, options)?;
        let image = store.get(&"busybox".parse()?)?;
        Ok(image
            .context("there is no busybox image")?
            .root()
            .to_owned())
    }

    /// A command of the program, with its home.
    pub(crate) fn consecution(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CONSECUTION_HOME", &self.home);
        command
    }

    /// A pipeline of busybox commands, in the syntax of a shell.
    pub(crate) fn pipeline(&self, stages: &[&str]) -> String {
        let busybox = self.busybox.display();
        let stages: Vec<_> = stages
            .iter()
            .map(|stage| format!("{busybox} {stage}"))
            .collect();
        stages.join(" | ")
    }

    /// Runs such a pipeline in the system's shell.
    pub(crate) fn shell(&self, stages: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.pipeline(stages));
        command
    }

    /// The turns of a long measurement, each as a text for progress. There are fewer if they are
    /// slow, so that the bench ends in time, but at least one.
    pub(crate) fn turns(&self, what: &str, time_max: Duration) -> impl Iterator<Item = String> {
        self.many_turns(what, 1, time_max)
    }

    /// The turns of a measurement that is fast enough for several in each round.
    pub(crate) fn many_turns(
        &self,
        what: &str,
        per_round: usize,
        time_max: Duration,
    ) -> impl Iterator<Item = String> {
        let (begin, rounds) = (Instant::now(), self.rounds * per_round);
        (1..=rounds)
            .take_while(move |&turn| turn == 1 || begin.elapsed() < time_max)
            .map(move |turn| format!("{what}, turn {turn} of {rounds}"))
    }

    /// The path of a temporary file or folder, removed when the bench ends.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a temporary file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let written = std::fs::write(&path, text);
        written.with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }
}

fn pack_with_output(mut pack: Command) -> Command {
    pack.stdout(Stdio::piped());
    pack
}

/// The path of an installed tool.
pub(crate) fn find(tool: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(MORE_PATH.split(':'));
    let mut places = folders.map(|folder| Path::new(folder).join(tool));
    match places.find(|place| place.is_file()) {
        Some(place) => Ok(place),
        None => bail!("{tool} is not installed; scripts/setup installs it"),
    }
}
