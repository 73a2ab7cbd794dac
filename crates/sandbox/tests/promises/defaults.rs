//! A command starts as a shell would start it: signals at their defaults,
//! nothing open but its three descriptors, bounded resources.

use rustix::io::FdFlags;

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
        let script = "umask; ulimit -c; ulimit -n; ulimit -H -c";
        assert_eq!(setup.prints(script), "0022\n0\n1024\n0\n");
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
