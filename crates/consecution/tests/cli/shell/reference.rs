//! What the shell makes of a pipeline, and what follows for a chain.
//!
//! Each command is first run by itself, on all of what the one before it writes.
//! That knows no races: it gives what is written and each exit code. The shell's
//! own pipeline, where an early end downstream races with what happens upstream,
//! must agree as far as it can, which checks this reference.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::commands::Stage;
use crate::support::command::finish;
use crate::support::home;
use test_support::PATIENCE;

/// A link that nobody reads any more may write that much and still end by itself.
const UNREAD_BYTES: usize = 64 * 1024;

/// How much of what a link says is kept, at most.
const STDERR_BYTES: usize = 16 * 1024;

/// A pipeline on one input.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) stages: Vec<Evaluated>,
}

/// A command, and what it does with all of its input.
#[derive(Debug)]
pub(crate) struct Evaluated {
    pub(crate) words: Vec<String>,
    pub(crate) accepted: Vec<u8>,
    is_patient: bool,
    speaks_unasked: bool,
    /// It ends, or stops reading, before its input does.
    leaves_early: bool,
    output: Vec<u8>,
    /// What it says on standard error; `None` where that is not the same each time.
    pub(crate) stderr: Option<String>,
    /// 128 and the signal where one ends it.
    code: i32,
}

impl Evaluated {
    fn is_accepted(&self) -> bool {
        // A signal is none of the codes, whatever a shell makes of it.
        self.code < 128
            && self
                .accepted
                .iter()
                .any(|code| i32::from(*code) == self.code)
    }
}

impl Pipeline {
    /// Runs the commands one after the other. One that would take too long on
    /// what it is given is left out.
    pub(crate) fn evaluate(stages: &[Stage], input: &[u8]) -> Pipeline {
        let mut evaluated: Vec<Evaluated> = Vec::new();
        for stage in stages {
            let input = evaluated.last().map_or(input, |before| &before.output);
            let mut command = stage.command.clone();
            if input.len() > command.input_bytes_max {
                command.words = vec!["cat".to_owned()];
                command.is_patient = false;
                command.speaks_unasked = false;
            }
            // From a pipe, as in a chain: on a file, busybox takes short cuts.
            let ran = finish(start(&command.words), input, PATIENCE);
            let code = ran.code();
            evaluated.push(Evaluated {
                leaves_early: command.leaves.early(input, &ran.stdout, code),
                // How many records it reads, and for how long, is up to the pipe.
                stderr: (command.words[0] != "dd").then_some(ran.stderr),
                words: command.words,
                accepted: stage.accepted.clone(),
                is_patient: command.is_patient,
                speaks_unasked: command.speaks_unasked,
                output: ran.stdout,
                code,
            });
        }
        Pipeline { stages: evaluated }
    }

    /// What comes out at the end.
    pub(crate) fn output(&self) -> &[u8] {
        &self.stages[self.stages.len() - 1].output
    }

    /// The pipeline as one would type it.
    pub(crate) fn script(&self) -> String {
        let commands = self.stages.iter().map(|stage| {
            let words = stage
                .words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', "'\\''")));
            words.collect::<Vec<_>>().join(" ")
        });
        commands.collect::<Vec<_>>().join(" | ")
    }

    /// The shell's pipeline writes the same, and its commands have the same exit
    /// codes, but where somebody downstream leaves early.
    pub(crate) fn shell_agrees(&self, input: &[u8]) -> bool {
        let commands = self.script().replace(" | ", " 2>/dev/null | ");
        let script = format!("{commands} 2>/dev/null; echo \"${{PIPESTATUS[*]}}\" >&2");
        let mut shell = Command::new(find("bash"));
        shell
            .args(["-c", &script])
            .env_clear()
            .env("PATH", applets());
        let ran = finish(shell, input, PATIENCE);
        let statuses: Vec<i32> = ran
            .stderr
            .lines()
            .last()
            .unwrap_or_default()
            .split(' ')
            .filter_map(|status| status.parse().ok())
            .collect();
        let agrees = |(at, stage): (usize, &Evaluated)| {
            let somebody_leaves = self.stages[at + 1..].iter().any(|later| later.leaves_early);
            statuses[at] == stage.code || somebody_leaves
        };
        ran.stdout == self.output()
            && statuses.len() == self.stages.len()
            && self.stages.iter().enumerate().all(agrees)
    }

    /// The exit statuses that a chain of these links may have: that of the first
    /// link that failed. A failing link may not come to fail where it may be
    /// stopped before, for being unread: then it is the next one that counts.
    pub(crate) fn outcomes(&self, is_slow: bool) -> BTreeSet<i32> {
        let mut allowed = BTreeSet::new();
        for (at, stage) in self.stages.iter().enumerate() {
            if !stage.is_accepted() {
                allowed.insert(stage.code);
                if !self.may_be_stopped(at, is_slow) {
                    return allowed;
                }
            }
        }
        allowed.insert(0);
        allowed
    }

    /// Whether a link may be stopped because nobody reads it any more.
    fn may_be_stopped(&self, at: usize, is_slow: bool) -> bool {
        let Some(next) = self.stages.get(at + 1) else {
            return false;
        };
        let is_left = next.leaves_early || self.may_be_stopped(at + 1, is_slow);
        is_left && (is_slow || self.stages[at].output.len() > UNREAD_BYTES)
    }

    /// Whether that may be the end of what the link in that place has said when it was over.
    pub(crate) fn may_have_said(&self, at: usize, stderr: &str) -> bool {
        let wanted = self.stages[at].stderr.as_deref();
        wanted.is_none_or(|wanted| match wanted.len() <= STDERR_BYTES {
            true => wanted == stderr,
            false => wanted.ends_with(stderr),
        })
    }

    /// Whether it may be what that link had said when it was killed.
    pub(crate) fn may_have_begun_to_say(&self, at: usize, stderr: &str) -> bool {
        let wanted = self.stages[at].stderr.as_deref();
        wanted.is_none_or(|wanted| wanted.starts_with(stderr) || wanted.len() > STDERR_BYTES)
    }

    /// Whether nothing may come out, since one link is certain to fail, and some
    /// link behind it says nothing before an end-of-file, which it must not see.
    pub(crate) fn is_silenced(&self) -> bool {
        let mut failing = (0..self.stages.len()).filter(|at| !self.stages[*at].is_accepted());
        let (Some(failing), None) = (failing.next(), failing.next()) else {
            return false;
        };
        let behind = &self.stages[failing + 1..];
        behind.iter().any(|stage| stage.is_patient)
            && !behind
                .iter()
                .any(|stage| stage.leaves_early || stage.speaks_unasked)
    }
}

fn start(words: &[String]) -> Command {
    let mut command = Command::new(applets().join(&words[0]));
    command.args(&words[1..]).env_clear().env("PATH", applets());
    command
}

/// A folder with a name for each of busybox's commands.
fn applets() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        home::once("applets", |folder| {
            let busybox = find("busybox");
            let list = Command::new(&busybox)
                .arg("--list")
                .output()
                .unwrap()
                .stdout;
            for applet in String::from_utf8(list).unwrap().lines() {
                symlink(&busybox, folder.join(applet)).unwrap();
            }
        })
    })
}

/// Where a program of this machine is.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not here; scripts/setup test gets it"))
}
