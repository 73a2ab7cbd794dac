//! Two processes with a pipe between them: the one that reads sees the end of its input
//! when the other one has ended as it should, and at no other moment, whoever dies.

use std::io::Read;
use std::iter;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::{Alarm, Event, Ids, InFlight, Limits, Spec, Stdio, Successor, WaitStatus, Zygote};

use crate::support::{Running, counts_processes, exited, is_root, promises, readable};
use test_support::PATIENCE;
use test_support::processes::{HostProcess, descendants};

/// A process whose output is somebody's input; we are that somebody, and the runner.
struct Joined {
    running: Running,
    alarm: Alarm,
    /// The runner's hold on the writing end, unless it has let go.
    in_flight: Option<InFlight>,
}

impl Joined {
    fn start(zygote: &Zygote, accepted: &[u8]) -> Joined {
        let (stdin_theirs, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_theirs) = std::io::pipe().unwrap();
        let (stderr, stderr_theirs) = std::io::pipe().unwrap();
        let alarm = Alarm::new().unwrap();
        let in_flight = InFlight::send(&stdout_theirs).unwrap();
        let stdio = Stdio {
            stdin: stdin_theirs.into(),
            stdout: stdout_theirs.into(),
            stderr: stderr_theirs.into(),
        };
        let successor = Successor {
            accepted: accepted.iter().collect(),
            output: &in_flight,
            alarm: &alarm,
        };
        let process = zygote.start_before(stdio, successor).unwrap();
        let mut running = Running::of(process, stdin, stdout, stderr);
        assert_eq!(running.event(), Event::Started);
        Joined {
            running,
            alarm,
            in_flight: Some(in_flight),
        }
    }

    /// Whether the reader has been given the end of its input. To be asked when it has
    /// read all that was written.
    fn is_at_end(&self) -> bool {
        let mut wanted = [PollFd::new(&self.running.stdout, PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec::default())).unwrap();
        let found = wanted[0].revents();
        assert!(!found.contains(PollFlags::IN), "there is more to read");
        found.contains(PollFlags::HUP)
    }

    fn until_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        assert!(readable(&self.running.stdout, deadline), "no end came");
        assert_eq!(self.running.stdout.read(&mut [0]).unwrap(), 0);
    }

    fn is_alarmed(&self) -> bool {
        readable(&self.alarm, Instant::now())
    }

    /// Waits until the process has said its last, or is known to say nothing any more.
    fn last_event(&mut self) -> Event {
        loop {
            let event = self.running.event();
            if matches!(event, Event::Exited(_) | Event::Gone) {
                return event;
            }
        }
    }

    /// Waits until its init is gone.
    fn until_gone(&self) {
        let lifeline = self.running.process.lifeline().unwrap();
        assert!(
            readable(lifeline, Instant::now() + PATIENCE),
            "init lives on"
        );
    }
}

/// What the reader sees when the process has ended, all holders but the runner are gone,
/// and the runner has done nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// The end of its input: it is complete.
    End,
    /// That there is more to come; and so for as long as the runner wants.
    NoEnd,
}

/// Who ends a process, and how.
enum Death {
    /// It is told this by its input, and ends as it says.
    Command(&'static str),
    /// The runner kills it.
    Runner,
    Init,
    Zygote,
}

/// A row: who dies, with which codes accepted, what the runner is told, whether it is
/// woken, and what the reader sees.
type Row = (Death, &'static [u8], Event, bool, Sees);

const SIGKILL: Event = Event::Exited(WaitStatus::Signalled(libc::SIGKILL));
const SIGTERM: Event = Event::Exited(WaitStatus::Signalled(libc::SIGTERM));

fn rows() -> Vec<Row> {
    use Death::{Command, Init, Runner, Zygote};
    use Sees::{End, NoEnd};
    vec![
        (Command("exit 0"), &[0], exited(0), false, End),
        (Command("exit 4"), &[0, 4], exited(4), false, End),
        (Command("exit 255"), &[255], exited(255), false, End),
        (Command("exit 3"), &[0, 4], exited(3), true, NoEnd),
        (Command("exit 0"), &[1], exited(0), true, NoEnd),
        (Command("exit 0"), &[], exited(0), true, NoEnd),
        // As a number, the signal is an accepted code.
        (Command("kill -KILL $$"), &[0, 9, 137], SIGKILL, true, NoEnd),
        (
            Command("kill -TERM $$"),
            &[0, 15, 143],
            SIGTERM,
            true,
            NoEnd,
        ),
        // It closes its output early, or replaces it.
        (Command("exec >&-; exit 0"), &[0], exited(0), false, End),
        (Command("exec >&-; exit 3"), &[0], exited(3), true, NoEnd),
        (
            Command("exec >/dev/null; exit 0"),
            &[0],
            exited(0),
            false,
            End,
        ),
        // It leaves somebody behind who holds it.
        (Command("sleep 1000 & exit 0"), &[0], exited(0), false, End),
        (
            Command("setsid sleep 1000 & exit 3"),
            &[0],
            exited(3),
            true,
            NoEnd,
        ),
        (
            Command("setsid sleep 1000 & kill -KILL $$"),
            &[0],
            SIGKILL,
            true,
            NoEnd,
        ),
        (Runner, &[0], Event::Gone, false, NoEnd),
        (Init, &[0], Event::Gone, false, NoEnd),
        (Zygote, &[0], Event::Gone, false, NoEnd),
    ]
}

/// Says which place it is in, on standard error, then what it is told.
const ON_REQUEST: &str = "echo some; attack place >&2; read what; eval \"$what\"";

/// The inits of processes that run, and their zygote before them.
fn family() -> Vec<HostProcess> {
    descendants(std::process::id())
}

promises! {
    fn the_reader_sees_an_end_only_behind_a_good_one(setup) {
        for (number, (death, accepted, event, alarmed, sees)) in rows().into_iter().enumerate() {
            let zygote = setup.open(&setup.script(ON_REQUEST));
            let mut joined = Joined::start(&zygote, accepted);
            assert_eq!(joined.running.line(), "some", "row {number}");
            assert!(!joined.is_at_end() && !joined.is_alarmed(), "row {number}");
            match death {
                Death::Command(word) => joined.running.tell(word),
                Death::Runner => joined.running.process.kill(),
                Death::Init => family()[1].kill(),
                Death::Zygote => family()[0].kill(),
            }
            assert_eq!(joined.last_event(), event, "row {number}");
            // What init says, it does next.
            if sees == Sees::End {
                joined.until_end();
            } else if alarmed {
                assert!(readable(&joined.alarm, Instant::now() + PATIENCE), "row {number}");
            }
            // From here on nobody has anything but the runner.
            drop(zygote);
            joined.until_gone();
            assert_eq!(joined.is_alarmed(), alarmed, "row {number}");
            assert_eq!(joined.is_at_end(), sees == Sees::End, "row {number}");
            assert_eq!(joined.running.process.has_completed(), sees == Sees::End, "row {number}");
            drop(joined.in_flight.take());
            joined.until_end();
        }
    }

    // The report is there before the end that it explains.
    fn whoever_sees_the_end_finds_how_it_came(setup) {
        let zygote = setup.open(&setup.spec(&["cat"]));
        for _ in 0..50 {
            let before = Instant::now();
            let mut joined = Joined::start(&zygote, &[0]);
            drop(joined.running.stdin.take());
            joined.until_end();
            let seen = Instant::now();
            assert_eq!(joined.running.process.next_event().unwrap(), Some(exited(0)));
            assert!(joined.running.process.has_completed());
            let ended = joined.running.process.ended_at().unwrap();
            // To within what it takes to read two clocks one after the other.
            assert!(ended >= before && ended <= seen + Duration::from_millis(100));
            assert!(!joined.is_alarmed());
        }
    }

    // Also without the runner's hand on it, init's own keeps it from the reader.
    fn what_the_runner_lets_go_of_init_still_holds(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        for word in ["exit 0", "exit 3"] {
            let mut joined = Joined::start(&zygote, &[0]);
            assert_eq!(joined.running.line(), "some");
            drop(joined.in_flight.take());
            joined.running.tell("exec >&-; echo closed >&2; read word; eval \"$word\"");
            joined.running.stderr_line();
            assert_eq!(joined.running.stderr_line(), "closed");
            assert!(!joined.is_at_end());
            joined.running.tell(word);
            joined.until_end();
        }
    }

    fn a_part_that_was_killed_for_want_of_memory_completes_nothing(setup) {
        let limits = Limits { memory_bytes: Some(32 << 20), ..Limits::default() };
        let opened = setup.launcher.open(&setup.script(ON_REQUEST), limits);
        let zygote = match opened {
            Ok(zygote) => zygote,
            // Without root that is as it should be.
            Err(_) if !is_root() => return,
            Err(error) => return test_support::skip(&format!("memory cannot be limited here: {error}")),
        };
        let eat = "sh -c 'x=aaaaaaaa; while :; do x=$x$x; done'; exit 0";
        for (word, is_complete) in [("exit 0", true), (eat, false), ("exit 0", true)] {
            let mut joined = Joined::start(&zygote, &[0]);
            assert_eq!(joined.running.line(), "some");
            joined.running.tell(word);
            assert_eq!(joined.last_event(), exited(0), "{word}");
            let ran_out = joined.running.process.ran_out_of_memory();
            assert_eq!(ran_out.is_none(), is_complete, "{word}");
            assert_eq!(joined.running.process.has_completed(), is_complete, "{word}");
            if is_complete {
                joined.until_end();
            } else {
                assert!(readable(&joined.alarm, Instant::now() + PATIENCE));
            }
            assert_eq!(joined.is_alarmed(), !is_complete, "{word}");
            assert_eq!(joined.is_at_end(), is_complete, "{word}");
        }
    }

    // In one place, with and without somebody behind them, in every order.
    fn places_are_used_again_and_nothing_of_the_last_one_is_there(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        let mut first = None;
        for turn in ["alone", "good", "bad", "good", "alone", "bad", "bad", "good"] {
            let place = if turn == "alone" {
                let output = Running::start(&zygote).finish(b"exit 0\n");
                assert_eq!(output.last, exited(0));
                output.stderr.lines().next().unwrap().to_owned()
            } else {
                let mut joined = Joined::start(&zygote, &[0]);
                assert_eq!(joined.running.line(), "some");
                let place = joined.running.stderr_line();
                let is_good = turn == "good";
                joined.running.tell(if is_good { "exit 0" } else { "exit 3" });
                assert_eq!(joined.last_event(), exited(if is_good { 0 } else { 3 }));
                joined.running.wait_until_looked_through();
                assert_eq!(joined.is_alarmed(), !is_good);
                assert_eq!(joined.is_at_end(), is_good);
                // Init waits for the next one, and has let go of all of this one's.
                drop(joined.in_flight.take());
                assert!(joined.is_at_end());
                place
            };
            assert_eq!(&place, first.get_or_insert_with(|| place.clone()), "{turn}");
        }
        // As many descriptors as at first, whatever came and went.
        let init = &family()[1];
        let open = || std::fs::read_dir(format!("/proc/{}/fd", init.id)).unwrap().count();
        if counts_processes() {
            let before = open();
            for _ in 0..3 {
                let mut joined = Joined::start(&zygote, &[0]);
                joined.running.tell("exit 0");
                assert_eq!(joined.last_event(), exited(0));
                joined.running.wait_until_looked_through();
                assert_eq!(open(), before);
            }
        }
    }

    // The command's user is another one on each side, and both can open what they have.
    fn either_side_can_open_the_pipe_by_its_name(setup) {
        let www = |script| Spec { user: "www".into(), ..setup.script(script) };
        let writer = setup.open(&www("echo by name >/dev/stdout; cat >/proc/self/fd/1"));
        let reader = setup.open(&setup.script("cat /dev/stdin"));
        let (mut first, second) = pair(&writer, &reader);
        first.running.tell("more");
        drop(first.running.stdin.take());
        assert_eq!(second.finish(b"").success(), "by name\nmore\n");
        assert_eq!(first.last_event(), exited(0));
    }

    // Within one call they can talk, backwards as well. Nothing of it lasts.
    fn two_that_share_a_pipe_leave_nothing_on_it(setup) {
        let script = |side: &str| setup.script(&format!("attack place >&2; exec attack joint {side}"));
        let (writer, reader) = (setup.open(&script("first")), setup.open(&script("second")));
        // Without root, the pipe's owner on the host is who they are.
        let owned: &[&str] = if Ids::detect() == Ids::Own { &["mode-of-the-pipe"] } else { &[] };
        let mut places = None;
        for _ in 0..3 {
            let (mut first, mut second) = pair(&writer, &reader);
            let place = (first.running.stderr_line(), second.stderr_line());
            let mut said = broken(iter::from_fn(|| Some(second.stderr_line())).take_while(|line| line != "done"));
            assert_eq!(said, [owned, &["size-of-the-pipe", "lock-on-the-pipe", "write-backwards"]].concat());
            first.running.tell("");
            assert_eq!(first.last_event(), exited(0));
            // It had no signal, and its init is alive.
            let end = second.finish(b"");
            assert_eq!(end.last, exited(0));
            assert_eq!(end.stderr, "signal-from-another held\n");
            said = broken(iter::from_fn(|| Some(first.running.stderr_line())).take(12));
            assert_eq!(said, [owned, &["read-backwards"]].concat());
            first.running.wait_until_looked_through();
            assert_eq!(places.get_or_insert_with(|| place.clone()), &place);
        }
    }
}

/// The attempts that worked.
fn broken(lines: impl Iterator<Item = String>) -> Vec<String> {
    let broken = lines.filter_map(|line| line.strip_suffix(" BROKEN").map(str::to_owned));
    broken.collect()
}

/// Two processes, of which the second one reads what the first one writes.
fn pair(writer: &Zygote, reader: &Zygote) -> (Joined, Running) {
    let mut first = Joined::start(writer, &[0]);
    let (nothing, _) = std::io::pipe().unwrap();
    let input = std::mem::replace(&mut first.running.stdout, nothing);
    let (stdout, stdout_theirs) = std::io::pipe().unwrap();
    let (stderr, stderr_theirs) = std::io::pipe().unwrap();
    let stdio = Stdio {
        stdin: input.into(),
        stdout: stdout_theirs.into(),
        stderr: stderr_theirs.into(),
    };
    let process = reader.start(stdio).unwrap();
    // Its input is not ours to write.
    let (_, unread) = std::io::pipe().unwrap();
    (first, Running::of(process, unread, stdout, stderr))
}
