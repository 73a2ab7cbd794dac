//! Unpacks a large image, compared with umoci.
//!
//! The image is made of Debian's packages once, and kept beside the other images.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Rows;
use crate::measure::Samples;
use crate::place::{Place, find};
use crate::process::Process;
use crate::report::{Row, Unit};

/// 300 MB in all, in large files and in many small ones. Their names are the same
/// in every version of Debian.
const PACKAGES: [&str; 8] = [
    "git",
    "vim-runtime",
    "cmake",
    "cmake-data",
    "emacs-common",
    "valgrind",
    "iso-codes",
    "coreutils",
];

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(30);

pub(super) fn measure(place: &Place) -> anyhow::Result<Rows> {
    let umoci = find("umoci")?;
    let layout = layout(place, &umoci)?;
    let (mut ours, mut theirs) = <(Samples, Samples)>::default();
    for turn in place.turns("a large image", TURNS_TIME) {
        eprintln!("scale: {turn}");
        let home = Aside::new(place, "unpack-home");
        let mut command = place.consecution();
        command.env("CONSECUTION_HOME", &home.0);
        command.args(["image", "import", "large"]).arg(&layout);
        ours.add_milliseconds(timed(command)?);
        drop(home);
        let bundle = Aside::new(place, "unpack-bundle");
        let mut command = umoci_at(&umoci, "unpack", &layout, ":large");
        if !rustix::process::geteuid().is_root() {
            command.arg("--rootless");
        }
        command.arg(&bundle.0);
        theirs.add_milliseconds(timed(command)?);
    }
    let ratio = ours.by(&theirs);
    let rows = vec![Row::new("unpack 300 MB ÷ umoci", Unit::Ratio, &ratio).asked(0.5, 0.3)];
    let absolute = vec![
        Row::new(
            "unpack 300 MB: consecution image import",
            Unit::Milliseconds,
            &ours,
        ),
        Row::new("unpack 300 MB: umoci unpack", Unit::Milliseconds, &theirs),
    ];
    Ok((rows, absolute))
}

/// A temporary folder on the same file system as the images; removed when dropped.
struct Aside(PathBuf);

impl Aside {
    fn new(place: &Place, name: &str) -> Aside {
        Aside(place.home.join(format!("{name}-{}", std::process::id())))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && self.0.exists()
        {
            eprintln!("scale: failed to remove {}: {error}", self.0.display());
        }
    }
}

fn timed(mut command: Command) -> anyhow::Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    Process::start(command)?.succeed()?;
    Ok(begin.elapsed())
}

fn umoci_at(umoci: &Path, what: &str, layout: &Path, tag: &str) -> Command {
    let mut image = layout.as_os_str().to_owned();
    image.push(tag);
    let mut command = Command::new(umoci);
    command.arg(what).arg("--image").arg(image);
    command
}

/// The OCI layout with the image; made if it does not exist.
fn layout(place: &Place, umoci: &Path) -> anyhow::Result<PathBuf> {
    let done = place.home.join("large-image");
    if done.is_dir() {
        return Ok(done);
    }
    eprintln!("scale: making a large image, which is kept for the next time");
    let aside = Aside::new(place, "large");
    let (packages, root, made) = (
        aside.0.join("packages"),
        aside.0.join("root"),
        aside.0.join("layout"),
    );
    std::fs::create_dir_all(&packages)?;
    let mut download = Command::new("apt-get");
    // Otherwise apt-get uses a user of its own, who may not write to the folder.
    let user = "APT::Sandbox::User=root";
    download.args(["--option", user, "--quiet", "download"]);
    download.args(PACKAGES);
    download.current_dir(&packages).stdout(Stdio::null());
    let downloaded = Process::start(download)?.succeed();
    downloaded.context("failed to get Debian's packages")?;
    for package in std::fs::read_dir(&packages)? {
        run(
            "dpkg-deb",
            ["-x".as_ref(), package?.path().as_os_str(), root.as_os_str()],
        )?;
    }
    let mut init = Command::new(umoci);
    init.arg("init").arg("--layout").arg(&made);
    Process::start(init)?.succeed()?;
    Process::start(umoci_at(umoci, "new", &made, ":large"))?.succeed()?;
    let mut insert = umoci_at(umoci, "insert", &made, ":large");
    insert.arg(&root).arg("/");
    Process::start(insert)?.succeed()?;
    std::fs::rename(&made, &done)?;
    Ok(done)
}

fn run<const COUNT: usize>(program: &str, arguments: [&OsStr; COUNT]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null());
    Process::start(command)?.succeed()
}
