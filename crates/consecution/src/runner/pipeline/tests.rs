//! Pipelines of real processes, whose zygotes are the program that is built beside these
//! tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use futures_util::{FutureExt, StreamExt};
use sandbox::{
    Ids, Launcher, Limits, MOUNT_POINT_FILES, MOUNT_POINT_FOLDERS, Network, SCRATCH_BYTES_DEFAULT,
    Spec,
};
use test_support::processes::{HostProcess, descendants, parent_of};
use test_support::{PATIENCE, busybox};

use super::*;
use crate::transport::{Cut, Ending};

const APPLETS: [&str; 8] = ["cat", "echo", "head", "sh", "sleep", "true", "wc", "yes"];

/// A root with busybox and nothing else, and who may run its programs.
struct World {
    folder: tempfile::TempDir,
    launcher: Launcher,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for name in MOUNT_POINT_FOLDERS.iter().chain(&["bin", "etc"]) {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in MOUNT_POINT_FILES {
            fs::write(root.join(name), "").unwrap();
        }
        busybox::install(&root.join("bin"), APPLETS);
        fs::write(root.join("bin/broken"), "#!/bin/nonesuch\n").unwrap();
        for path in [folder.path(), &root.join("bin/broken")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let program = std::env::current_exe().unwrap();
        let program = program.ancestors().nth(2).map(|at| at.join("consecution"));
        let program = program.filter(|program| program.exists());
        World {
            folder,
            launcher: Launcher::with_program(program.expect("`cargo build` has not been run")),
        }
    }

    fn open(&self, command: &[&str], limits: Limits) -> Result<Zygote, sandbox::OpenError> {
        let spec = Spec {
            root: self.folder.path().join("root"),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
            takes_strings: false,
            working_directory: "/".to_owned(),
            user: String::new(),
            files: Vec::new(),
            data: Vec::new(),
            writable: sandbox::Writable::Private,
            scratch_bytes: SCRATCH_BYTES_DEFAULT,
            input: sandbox::Input::Pipe,
            output: sandbox::Output::Pipe,
            network: Network::Loopback,
            hostname: "inside".to_owned(),
            ids: Ids::detect(),
        };
        self.launcher.open(&spec, limits)
    }

    fn chain(&self, scripts: &[&str]) -> Chain {
        let shell = |script| self.open(&["sh", "-c", script], Limits::default());
        Chain {
            zygotes: scripts
                .iter()
                .map(|script| Some(shell(script).unwrap()))
                .collect(),
            accepted: vec![vec![0]; scripts.len()],
        }
    }
}

/// The links of a pipeline.
struct Chain {
    /// `None` where one was ended.
    zygotes: Vec<Option<Zygote>>,
    accepted: Vec<Vec<u8>>,
}

impl Chain {
    async fn start(&self) -> Result<IdlePipeline, StartError> {
        let links = self.zygotes.iter().zip(&self.accepted);
        let stages: Vec<_> = links
            .map(|(zygote, accepted)| Stage {
                zygote: zygote.as_ref().unwrap(),
                accepted,
                mode: Mode::default(),
            })
            .collect();
        soon(IdlePipeline::start(&stages)).await
    }

    async fn run(&self, input: impl Into<Body>) -> Answer {
        let pipeline = self.start().await.unwrap();
        Answer::of(serve(pipeline, input, None)).await
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it did not come soon")
}

fn serve(
    pipeline: IdlePipeline,
    input: impl Into<Body>,
    deadline: Option<Duration>,
) -> (Body, PendingOutcome) {
    let work = Work {
        input: input.into(),
        deadline: deadline.map(|deadline| Instant::now() + deadline),
        stderr: None,
        stderr_logs: Vec::new(),
    };
    pipeline.serve(work, Bounds::default(), (), |_| {})
}

/// What comes of a call.
#[derive(Debug)]
struct Answer {
    output: String,
    /// As in a pipestatus.
    endings: Vec<String>,
    stderrs: Vec<String>,
}

impl Answer {
    async fn of((body, outcome): (Body, PendingOutcome)) -> Answer {
        let output = soon(body.collect()).await.unwrap();
        Answer::with(&output, soon(outcome).await)
    }

    fn with(output: &[u8], outcome: Outcome) -> Answer {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            output: text(output),
            endings: outcome.links().map(|link| status(&link.ending)).collect(),
            stderrs: outcome.links().map(|link| text(&link.stderr)).collect(),
        }
    }

    /// Each ending has to be one of those in its word; `|` stands between them.
    fn expect_endings(&self, wanted: &str) {
        let wanted: Vec<_> = wanted.split(' ').collect();
        let is_one =
            |(ending, wanted): (&String, &&str)| wanted.split('|').any(|one| one == ending);
        assert_eq!(self.endings.len(), wanted.len(), "{self:?}");
        let all = self.endings.iter().zip(&wanted).all(is_one);
        assert!(all, "wanted {wanted:?}: {self:?}");
    }
}

fn status(ending: &Ending) -> String {
    match ending {
        Ending::Exited(code) => code.to_string(),
        Ending::Signalled(signal) => (128 + signal).to_string(),
        Ending::Unread => "unread".to_owned(),
        Ending::Cut => "cut".to_owned(),
        Ending::DeadlinePassed => "deadline".to_owned(),
        Ending::Lost(_) => "lost".to_owned(),
        Ending::CannotStart(_) => "cannot-start".to_owned(),
    }
}

/// An input that is open until it is told otherwise.
fn open_input() -> (mpsc::Sender<Result<Bytes, Cut>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    (sender, Body::new(chunks))
}

/// The process that has this in its command line, which must be one of a kind.
fn find(marker: &str) -> Option<HostProcess> {
    let mut all = descendants(std::process::id()).into_iter();
    all.find(|process| process.command.starts_with("sh ") && process.command.contains(marker))
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Command,
    Init,
    Zygote,
}

impl Killed {
    fn kill(self, marker: &str) {
        let command = find(marker).unwrap();
        let parent = |of: &HostProcess| HostProcess::new(parent_of(of.id)?);
        let killed = match self {
            Killed::Command => Some(command),
            Killed::Init => parent(&command),
            Killed::Zygote => parent(&command).as_ref().and_then(parent),
        };
        killed.unwrap().kill();
    }
}

type Row<'a> = (&'a [&'a str], &'a [&'a [u8]], &'a str, &'a str);

const LATE: &str = "cat; echo end";

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_it_is_what_the_links_say() {
    let world = World::new();
    // Scripts, codes with which each but the last completes the next one's input, output
    // for "some\n", endings.
    let rows: [Row<'_>; 16] = [
        (&["cat"], &[], "some\n", "0"),
        (&["cat; exit 7"], &[], "some\n", "7"),
        (&["cat", "cat"], &[], "some\n", "0 0"),
        (
            &["cat", LATE, "cat", LATE, "cat"],
            &[],
            "some\nend\nend\n",
            "0 0 0 0 0",
        ),
        // One of them fails: first, in the middle, last.
        (&["cat; exit 4", LATE, LATE], &[], "", "4 cut cut"),
        (&["cat", "cat; exit 4", LATE], &[], "", "0|unread 4 cut"),
        (&["cat", "cat", "cat; exit 4"], &[], "some\n", "0 0 4"),
        (
            &["cat", "cat; kill -9 $$", LATE],
            &[],
            "",
            "0|unread 137 cut",
        ),
        // Not where that is accepted; and 0 need not be.
        (&["cat; exit 4", LATE], &[&[0, 4]], "some\nend\n", "4 0"),
        (&["cat", LATE], &[&[1]], "", "0 cut"),
        (&["cat; exit 255", LATE], &[&[255]], "some\nend\n", "255 0"),
        // Some do not read, close what they do not need, leave something behind.
        (&["yes", "head -n 1", "cat"], &[], "y\n", "unread 0 0"),
        (&["yes", "cat", "head -n 1"], &[], "y\n", "unread unread 0"),
        (&["exec >&-; cat >/dev/null", LATE], &[], "end\n", "0 0"),
        (
            &["exec >&-; cat >/dev/null; exit 3", LATE],
            &[],
            "",
            "3 cut",
        ),
        (
            &["sleep 1000 & cat", "sleep 1000 & cat; echo end"],
            &[],
            "some\nend\n",
            "0 0",
        ),
    ];
    for (scripts, accepted, output, endings) in rows {
        let mut chain = world.chain(scripts);
        for (place, codes) in chain.accepted.iter_mut().zip(accepted) {
            *place = codes.to_vec();
        }
        // Also in places that have been used before.
        for _ in 0..3 {
            let answer = chain.run("some\n").await;
            answer.expect_endings(endings);
            // What a link has written before it is cut may have gone through.
            let is_failed = endings.contains("cut");
            let is_output = answer.output == output || is_failed && answer.output == "some\n";
            assert!(is_output, "{scripts:?} {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lot_goes_through_and_nothing_is_missing() {
    let world = World::new();
    let large = vec![b'x'; 3 << 20];
    let chain = world.chain(&["cat"; 3]);
    let answer = chain.run(large.clone()).await;
    answer.expect_endings("0 0 0");
    assert!(answer.output.as_bytes() == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_nobody_sees_an_end_that_is_none() {
    let world = World::new();
    for at in 0..3 {
        for killed in [Killed::Command, Killed::Init, Killed::Zygote] {
            let marker = format!("marker-{}-{at}-{killed:?}", std::process::id());
            let scripts = [0, 1, 2].map(|number| match number == at {
                true => format!("{LATE}; : {marker}"),
                false => LATE.to_owned(),
            });
            let chain = world.chain(&scripts.each_ref().map(String::as_str));
            let pipeline = chain.start().await.unwrap();
            let (sender, input) = open_input();
            let (mut body, outcome) = serve(pipeline, input, None);
            sender.send(Ok("some\n".into())).await.unwrap();
            let first = soon(body.next()).await.unwrap().unwrap();
            assert_eq!(first, "some\n");
            killed.kill(&marker);
            let rest = soon(body.collect()).await.unwrap();
            let answer = Answer::with(&rest, soon(outcome).await);
            let end = match killed {
                Killed::Command => "137",
                Killed::Init | Killed::Zygote => "lost",
            };
            // Those before it wait for input, and are not read any more.
            let wanted = [0, 1, 2].map(|number| match number.cmp(&at) {
                std::cmp::Ordering::Less => "unread",
                std::cmp::Ordering::Equal => end,
                std::cmp::Ordering::Greater => "cut",
            });
            answer.expect_endings(&wanted.join(" "));
            assert_eq!(answer.output, "", "{at} {killed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_cut_off_and_a_deadline_end_all_that_runs() {
    let world = World::new();
    let chain = world.chain(&[LATE; 3]);
    for (deadline, wanted) in [
        (None, "cut cut cut"),
        (Some(0.3), "deadline deadline deadline"),
    ] {
        let (sender, input) = open_input();
        let pipeline = chain.start().await.unwrap();
        let (body, outcome) = serve(pipeline, input, deadline.map(Duration::from_secs_f64));
        if deadline.is_none() {
            sender.send(Err(Cut::new("on purpose"))).await.unwrap();
        }
        let answer = Answer::of((body, outcome)).await;
        answer.expect_endings(wanted);
        assert_eq!(answer.output, "");
    }
    // Also where that is known before anything is waited for.
    let cut = futures_util::stream::iter([Err(Cut::new("on purpose"))]);
    let pipeline = chain.start().await.unwrap();
    let answer = Answer::of(serve(pipeline, Body::new(cut), None)).await;
    answer.expect_endings("cut cut cut");
    // What has ended by then has.
    let chain = world.chain(&["cat", "cat >/dev/null; sleep 1000", LATE]);
    let pipeline = chain.start().await.unwrap();
    let called = serve(pipeline, "some", Some(Duration::from_secs(2)));
    Answer::of(called)
        .await
        .expect_endings("0 deadline deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_any_more_stops_all_of_them() {
    let world = World::new();
    let chain = world.chain(&["yes", "cat", "cat"]);
    let pipeline = chain.start().await.unwrap();
    let (mut body, outcome) = serve(pipeline, Body::empty(), None);
    assert!(
        soon(body.next())
            .await
            .unwrap()
            .unwrap()
            .starts_with(b"y\n")
    );
    drop(body);
    let answer = Answer::with(b"", soon(outcome).await);
    answer.expect_endings("unread unread unread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_killed_for_want_of_memory_fails_its_link() {
    let world = World::new();
    let limits = Limits {
        memory_bytes: Some(32 << 20),
        ..Limits::default()
    };
    let eat = "cat; sh -c 'x=aaaaaaaa; while :; do x=$x$x; done'; exit 0";
    let mut chain = world.chain(&["cat", "true", LATE]);
    // Not on every host.
    let Ok(zygote) = world.open(&["sh", "-c", eat], limits) else {
        return;
    };
    chain.zygotes[1] = Some(zygote);
    let answer = chain.run("some\n").await;
    answer.expect_endings("0|unread 137 cut");
    assert!(
        answer.stderrs[1].contains("ran out of memory"),
        "{answer:?}"
    );
    assert!(!answer.output.contains("end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_link_is_heard_and_none_may_say_too_much() {
    let world = World::new();
    let chain = world.chain(&["cat; echo a >&2", "echo b >&2; cat", "cat; echo c >&2"]);
    let answer = chain.run("some\n").await;
    answer.expect_endings("0 0 0");
    assert_eq!(answer.stderrs, ["a\n", "b\n", "c\n"]);

    let chain = world.chain(&["cat", "cat; yes >&2", LATE]);
    let pipeline = chain.start().await.unwrap();
    let bounds = Bounds {
        stderr_bytes_max: Some(1000),
        ..Bounds::default()
    };
    let work = Work {
        input: "some\n".into(),
        deadline: None,
        stderr: None,
        stderr_logs: Vec::new(),
    };
    let answer = Answer::of(pipeline.serve(work, bounds, (), |_| {})).await;
    answer.expect_endings("0|unread 153 cut");
    assert!(answer.stderrs[1].ends_with("standard error than the runner allows\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_leaves_nothing_of_the_others() {
    let world = World::new();
    let marker = format!("marker-{}-start", std::process::id());
    let mut chain = world.chain(&[&format!("cat; : {marker}"), "true", "cat"]);
    chain.zygotes[1] = Some(world.open(&["/bin/broken"], Limits::default()).unwrap());
    let error = chain.start().await.unwrap_err();
    assert_eq!(error.stage, 1);
    let cause = error.cause.to_string();
    assert!(cause.contains("execute"), "{cause}");
    assert!(find(&marker).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_one_is_spoiled_by_whichever_ends_and_by_the_last_that_writes() {
    let world = World::new();
    for scripts in [
        &["true", "cat"][..],
        &["cat", "true", "cat"],
        &["cat", "echo early; cat"],
        &["exit 3", "cat"],
    ] {
        let chain = world.chain(scripts);
        let mut idle = chain.start().await.unwrap();
        soon(idle.until_spoiled()).await;
        assert_eq!(idle.spoiled_by().await, SpoiledBy::Itself, "{scripts:?}");
    }
    for killed in [Killed::Command, Killed::Init, Killed::Zygote] {
        let marker = format!("marker-{}-{killed:?}", std::process::id());
        let chain = world.chain(&["cat", &format!("cat; : {marker}"), "cat"]);
        let mut idle = chain.start().await.unwrap();
        assert!(idle.until_spoiled().now_or_never().is_none());
        killed.kill(&marker);
        soon(idle.until_spoiled()).await;
        assert_eq!(idle.spoiled_by().await, SpoiledBy::Others, "{killed:?}");
    }
}
