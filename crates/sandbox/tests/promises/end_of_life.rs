//! Nothing outlives who is responsible for it: neither a dropped process or
//! zygote, nor a killed zygote, nor a killed runner, leaves anything running.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio as Inherited;
use std::time::{Duration, Instant};

use sandbox::Event;

use crate::support::{Running, Setup, as_nobody, is_root, promises, without_crate};
use test_support::processes::{HostProcess, descendants};
use test_support::until;

/// A process that has started another, and both sleep.
const TWO_SLEEP: &str = "sleep 1000 & echo ready; wait";

fn started(zygote: &sandbox::Zygote) -> Running {
    let mut running = Running::start(zygote);
    assert_eq!(running.event(), Event::Started);
    assert_eq!(running.line(), "ready");
    running
}

/// All of this test's own processes: the zygote first.
fn family() -> Vec<HostProcess> {
    descendants(std::process::id())
}

promises! {
    fn a_dropped_process_dies_with_all_that_it_started(setup) {
        let zygote = setup.open(&setup.script(TWO_SLEEP));
        let other = started(&zygote);
        let before: Vec<u32> = family().iter().map(|process| process.id).collect();
        let dropped = started(&zygote);
        let mut its = family();
        its.retain(|process| !before.contains(&process.id));
        assert_eq!(its.len(), 3, "init, the shell, and its child");
        drop(dropped);
        its.iter().for_each(HostProcess::wait_until_gone);
        let now = family();
        assert!(before.iter().all(|id| now.iter().any(|process| process.id == *id)));
        drop(other);
    }

    fn a_process_dropped_before_it_has_started_dies_too(setup) {
        let zygote = setup.open(&setup.script(TWO_SLEEP));
        for _ in 0..50 {
            drop(Running::start(&zygote));
        }
        // The zygote alone, as soon as it has done what it was asked to.
        until("the processes are gone", || family().len() == 1);
        assert_eq!(started(&zygote).process.next_event().unwrap(), None);
    }

    fn a_killed_process_is_gone(setup) {
        let zygote = setup.open(&setup.script(TWO_SLEEP));
        let mut early = Running::start(&zygote);
        early.process.kill();
        while early.event() != Event::Gone {}
        let mut late = started(&zygote);
        late.process.kill();
        assert_eq!(late.event(), Event::Gone);
        late.process.kill();
    }

    fn a_dropped_zygote_takes_all_with_it(setup) {
        let zygote = setup.open(&setup.script(TWO_SLEEP));
        let mut running: Vec<_> = (0..3).map(|_| started(&zygote)).collect();
        let family = family();
        assert_eq!(family.len(), 1 + 3 * 3);
        drop(zygote);
        // At once, and the zygote is no zombie either.
        assert!(family.iter().all(HostProcess::is_gone));
        assert!(!std::path::Path::new(&format!("/proc/{}", family[0].id)).exists());
        for running in &mut running {
            assert_eq!(running.event(), Event::Gone);
        }
    }

    fn a_killed_zygote_takes_all_with_it(setup) {
        let zygote = setup.open(&setup.script(TWO_SLEEP));
        let mut running = started(&zygote);
        let family = family();
        family[0].kill();
        assert_eq!(running.event(), Event::Gone);
        family.iter().for_each(HostProcess::wait_until_gone);
        assert!(matches!(
            zygote.start(sandbox::Stdio {
                stdin: std::io::pipe().unwrap().0.into(),
                stdout: std::io::pipe().unwrap().1.into(),
                stderr: std::io::pipe().unwrap().1.into(),
            }),
            Err(sandbox::StartError::Zygote(_))
        ));
    }

    fn a_zygote_that_cannot_be_opened_leaves_nothing(setup) {
        for spec in [setup.spec(&["nonesuch"]), sandbox::Spec { user: "ghost".into(), ..setup.spec(&["true"]) }] {
            setup.open_error(&spec);
            assert_eq!(family().len(), 0);
        }
    }

    fn a_killed_runner_takes_all_with_it(_setup) {
        let test = concat!(module_path!(), "::a_runner").replace("::a_killed_runner_takes_all_with_it", "");
        let mut command = if is_root() && std::env::var_os("SANDBOX_TEST_ZYGOTE").is_none() {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", without_crate(&test), "--include-ignored", "--nocapture"]);
            command
        } else if is_root() {
            as_nobody(&test)
        } else {
            let mut command = std::process::Command::new("/proc/self/exe");
            command.args(["--exact", without_crate(&test), "--include-ignored", "--nocapture"]);
            command
        };
        let mut runner = command
            .stdin(Inherited::piped())
            .stdout(Inherited::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(runner.stdout.take().unwrap()).lines();
        // The harness talks too, on the same line.
        let folder = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, folder)) = line.split_once("ready in ") {
                break std::path::PathBuf::from(folder);
            }
        };
        let its = descendants(runner.id());
        assert_eq!(its.len(), 1 + 3 * 3);
        runner.kill().unwrap();
        runner.wait().unwrap();
        let killed = Instant::now();
        its.iter().for_each(HostProcess::wait_until_gone);
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(folder.to_str().unwrap()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Not a test: what is killed by one.
#[test]
#[ignore = "is started by another test"]
fn a_runner() {
    let setup = Setup::new();
    let zygote = setup.open(&setup.script(TWO_SLEEP));
    let _running: Vec<_> = (0..3).map(|_| started(&zygote)).collect();
    println!("ready in {}", setup.folder.path().display());
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}
