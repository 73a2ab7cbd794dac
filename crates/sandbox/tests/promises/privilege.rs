//! A command has no privilege, and cannot get any.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sandbox::{Event, Ids, Spec, WaitStatus, Writable};

use crate::support::{Running, counts_processes, exited, promises};
use test_support::processes::descendants;

promises! {
    fn no_capability_is_in_any_set_but_roots_over_its_own(setup) {
        for user in ["", "www", "1000:1000"] {
            let mut spec = setup.script("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
            spec.user = user.into();
            let own = match (user, spec.ids) {
                ("", Ids::Shifted { .. }) if counts_processes() => "00000000000000eb",
                ("", Ids::Shifted { .. }) => "000000000000006b",
                _ => "0000000000000000",
            };
            assert_eq!(
                setup.run(&spec, b"").success().replace('\t', " "),
                format!(
                    "CapInh: 0000000000000000\nCapPrm: {own}\nCapEff: {own}\n\
                     CapBnd: {own}\nCapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n"
                )
            );
        }
    }

    // What official images do when they start.
    fn root_does_as_it_likes_with_its_own_files_and_users(setup) {
        let secret = setup.root.join("etc/secret");
        fs::write(&secret, "of 1000\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let Ids::Shifted { base } = setup.spec(&[]).ids else {
            // One id: there is nobody else to become, and whom files are given to does not
            // matter.
            let output = setup.run(&setup.script("su -s /bin/sh www -c 'id -u'"), b"");
            assert_ne!(output.last, exited(0));
            let files = "cd /tmp; echo x > a; chown 33:1000 a; chmod 600 a; cp -p a b; tar -c a | tar -x -C /run; \
                stat -c %u:%g:%a a b /run/a; cat a; chown 0 missing 2>&1 | grep -c 'No such file'";
            assert_eq!(setup.prints(files), "0:0:600\n0:0:600\n0:0:600\nx\n1\n");
            // Nobody but root is in charge of them.
            let spec = Spec { user: "www".into(), ..setup.script("cd /tmp; touch a; chown 1000 a") };
            assert_ne!(setup.run(&spec, b"").last, exited(0));
            return;
        };
        std::os::unix::fs::chown(&secret, Some(base + 1000), Some(base + 1000)).unwrap();
        let files = "cat /etc/secret; cd /tmp; echo x > a; chown 33:1000 a; chmod 600 a; cp -p a b; \
            tar -c a | tar -x -C /run; stat -c %u:%g:%a a b /run/a; cat a; chmod 644 a";
        let expected = "of 1000\n33:1000:600\n33:1000:600\n33:1000:600\nx\n";
        for writable in [Writable::No, Writable::Private] {
            let spec = Spec { writable, ..setup.script(files) };
            assert_eq!(setup.run(&spec, b"").success(), expected);
        }
        if counts_processes() {
            let users = "su -s /bin/sh www -c 'id -u; id -g'; su -s /bin/sh www -c 'id -u; exec sleep 1000' > /tmp/said & \
                until [ -s /tmp/said ]; do :; done; cat /tmp/said; kill -9 $!; wait $! 2>/dev/null; echo $?";
            assert_eq!(setup.prints(users), "33\n34\n33\n137\n");
        }
        // Whom it has become has none of it.
        if counts_processes() {
            let output = setup.run(&setup.script("su -s /bin/sh www -c 'grep CapEff /proc/self/status; cat /etc/secret'"), b"");
            assert_eq!(output.stdout, "CapEff:\t0000000000000000\n");
        }
    }

    // Where the host's fs.suid_dumpable is 1, a change of user makes memory
    // inspectable, which is the zygote's until a command is executed.
    fn the_zygotes_memory_stays_its_own_and_a_commands_is_its_users(setup) {
        for user in ["", "www"] {
            let spec = Spec { user: user.into(), ..setup.script("stat -c %u:%g /proc/self/maps; id -u; id -g; cat") };
            let zygote = setup.open(&spec);
            let mut running = Running::start(&zygote);
            let owner = running.line();
            assert_eq!(owner, format!("{}:{}", running.line(), running.line()));
            assert_eq!(running.event(), Event::Started);
            // Those whose memory it is: their files are the host's root's, who is
            // nobody that they are.
            for process in &descendants(std::process::id())[..2] {
                let owner = fs::metadata(format!("/proc/{}/maps", process.id)).unwrap().uid();
                assert_eq!(owner, 0, "as {user:?}");
            }
        }
    }

    fn set_id_bits_do_nothing(setup) {
        let probe = setup.root.join("bin/probe");
        fs::set_permissions(&probe, fs::Permissions::from_mode(0o6755)).unwrap();
        let mut spec = setup.spec(&["probe", "ids"]);
        spec.user = "33:34".into();
        assert_eq!(setup.run(&spec, b"").success(), "33 33 33 34 34 34\n");
    }

    fn dangerous_calls_are_forbidden(setup) {
        let tried = setup.run(&setup.spec(&["probe", "forbidden"]), b"").success();
        assert!(tried.lines().count() > 40, "{tried}");
        for line in tried.lines() {
            assert!(line.ends_with(" EPERM"), "{line}");
        }
    }

    fn unknown_calls_do_not_exist(setup) {
        let tried = setup.run(&setup.spec(&["probe", "absent"]), b"").success();
        let expected = if cfg!(target_arch = "x86_64") { 3 } else { 2 };
        assert_eq!(tried.lines().count(), expected, "{tried}");
        for line in tried.lines() {
            assert!(line.ends_with(" ENOSYS"), "{line}");
        }
    }

    fn calls_of_another_architecture_are_fatal(setup) {
        if cfg!(target_arch = "x86_64") {
            let output = setup.run(&setup.spec(&["probe", "int80"]), b"");
            assert_eq!(output.last, Event::Exited(WaitStatus::Signalled(libc::SIGSYS)));
        }
    }

    fn harmless_calls_work(setup) {
        let tried = setup.run(&setup.spec(&["probe", "allowed"]), b"").success();
        assert_eq!(tried.lines().count(), 6, "{tried}");
        for line in tried.lines() {
            assert!(line.ends_with(" ok"), "{line}");
        }
    }

    fn a_leak_checker_looks_at_its_own_threads_and_no_more(setup) {
        let output = setup.run(&setup.spec(&["probe", "trace"]), b"").success();
        assert_eq!(output, "attach ok\nwait ok\nregisters ok\nmemory EPERM\nset-registers EPERM\n\
            filter EPERM\ndetach ok\nseize EPERM\ninit EPERM\nbe-traced EPERM\n");
    }

    fn the_tools_of_an_administrator_fail(setup) {
        for attempt in [
            "mount -t tmpfs none /tmp", "mount -o remount,rw /", "umount /tmp", "umount /proc",
            "unshare -r true", "unshare -m true", "chroot / true", "nsenter -t 1 -m true",
            "pivot_root /tmp /tmp", "hostname other", "swapon /etc/passwd",
            "ip link set lo down", "reboot -f", "insmod /etc/passwd", "nice -n -5 true",
        ] {
            assert_ne!(setup.run(&setup.script(attempt), b"").last, exited(0), "{attempt}");
        }
        assert_eq!(setup.prints("hostname"), "inside\n");
    }
}
