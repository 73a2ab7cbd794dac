//! A command starts as a shell would start it: signals at their defaults,
//! nothing open but its three descriptors, bounded resources.

use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::promises;

promises! {
    fn signals_are_at_their_defaults(setup) {
        // Rust's runtime ignores SIGPIPE, here and in the runner.
        assert_eq!(
            setup.run(&setup.spec(&["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]), b"").success(),
            "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"
        );
    }

    fn a_closed_output_kills_who_writes_to_it(setup) {
        let mut running = setup.start(&setup.spec(&["yes"]));
        let (reader, writer) = std::io::pipe().unwrap();
        drop((std::mem::replace(&mut running.stdout, reader), writer));
        let sigpipe = sandbox::Event::Exited(sandbox::WaitStatus::Signalled(libc::SIGPIPE));
        assert_eq!(running.last_event(), sigpipe);
    }

    fn nothing_else_is_open(setup) {
        // As a careless library in the runner might leave it.
        let file = std::fs::File::open("/etc/passwd").unwrap();
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        // 3 is the folder that is being listed.
        assert_eq!(setup.run(&setup.spec(&["ls", "/proc/self/fd"]), b"").success(), "0\n1\n2\n3\n");
    }

    fn a_mask_and_limits_are_set(setup) {
        let plenty = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
        let _ = setrlimit(Resource::Nofile, plenty);
        assert_eq!(setup.prints("umask"), "0022\n");
        let limits = setup.prints("cat /proc/self/limits");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let mut numbers = line.split_whitespace().map(str::to_owned);
            (numbers.next().unwrap(), numbers.next().unwrap())
        };
        let shown = |limit| match limit {
            u64::MAX => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let both = |soft: u64, hard: u64| (shown(soft), shown(hard));
        const MIB: u64 = 1 << 20;
        assert_eq!(limit("Max core file size"), both(1, 1));
        assert_eq!(limit("Max realtime priority"), both(0, 0));
        assert_eq!(limit("Max nice priority"), both(0, 0));
        // Nobody may have more than the runner.
        let most = |resource, most: u64| getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        let stack = most(Resource::Stack, u64::MAX);
        assert_eq!(limit("Max stack size"), both(stack.min(8 * MIB), stack));
        let locked = most(Resource::Memlock, 8 * MIB);
        assert_eq!(limit("Max locked memory"), both(locked, locked));
        // Inits have four times as many: as many as they like, where they may.
        let files = 4096.min(most(Resource::Nofile, 1 << 20) / 4);
        assert_eq!(limit("Max open files"), both(files.min(1024), files));
    }

    fn it_leads_a_session_and_has_no_terminal(setup) {
        // Process, group and session are the same.
        let stat = setup.run(&setup.spec(&["cut", "-d ", "-f", "1,5,6,7", "/proc/self/stat"]), b"");
        assert_eq!(stat.success(), "2 2 2 0\n");
    }

    fn bytes_pass_unchanged(setup) {
        let input: Vec<u8> = (0..=127).cycle().take(1 << 20).collect();
        let output = setup.run(&setup.spec(&["cat"]), &input);
        assert!(output.success().into_bytes() == input);
    }
}
