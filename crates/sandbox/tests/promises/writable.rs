//! `writable` gives each process a root of its own to change, which is gone
//! afterwards.

use std::fs;

use sandbox::{Ids, Spec, Writable};

use crate::support::{Running, Setup, kernel, promises};

fn writable(setup: &Setup, script: &str) -> Spec {
    Spec {
        writable: Writable::Private,
        ..setup.script(script)
    }
}

promises! {
    fn the_whole_root_can_be_changed(setup) {
        let script = "echo x >> /etc/passwd; tail -n 1 /etc/passwd; rm -r /home; mkdir /new; chmod 700 /root; ls -d /home /new 2>/dev/null; true";
        assert_eq!(setup.run(&writable(setup, script), b"").success(), "x\n/new\n");
        assert!(setup.root.join("home").is_dir());
        assert!(!setup.root.join("new").exists());
        assert!(!fs::read_to_string(setup.root.join("etc/passwd")).unwrap().ends_with("x\n"));
    }

    fn its_folders_can_be_renamed_and_removed(setup) {
        if kernel() < (6, 6) {
            // Nothing can be noted on files in memory there; see docs/chain-file.md.
            return;
        }
        let script = "mv /etc /etc2; ls -d /etc /etc2/passwd 2>/dev/null; rm -r /etc2; ls -d /etc2 2>/dev/null; true";
        assert_eq!(setup.run(&writable(setup, script), b"").success(), "/etc2/passwd\n");
    }

    fn no_other_process_sees_it(setup) {
        let zygote = setup.open(&writable(setup, "ls -A /home; touch /home/mark; echo ready; cat"));
        let mut first = Running::start(&zygote);
        assert_eq!(first.line(), "ready");
        assert_eq!(Running::start(&zygote).finish(b"").success(), "ready\n");
        drop(first);
        assert_eq!(Running::start(&zygote).finish(b"").success(), "ready\n");
    }

    fn nothing_of_how_it_is_made_is_visible(setup) {
        let script = "ls -A / /tmp /var/tmp /run /dev/shm; cut -d' ' -f5 /proc/self/mountinfo | grep -v ^/proc/ | sort -u | tr '\\n' ' '";
        let devices = match setup.spec(&[]).ids {
            Ids::Shifted { .. } => "/dev/pts /dev/shm",
            Ids::Own => "/dev/full /dev/null /dev/pts /dev/random /dev/shm /dev/urandom /dev/zero",
        };
        assert_eq!(
            setup.run(&writable(setup, script), b"").success(),
            format!(
                "/:\nbin\ndev\netc\nhome\nproc\nroot\nrun\nsys\ntmp\nvar\n\n/dev/shm:\n\n/run:\n\n/tmp:\n\n/var/tmp:\n\
                 / /dev {devices} /proc /run /tmp /var/tmp "
            )
        );
    }

    fn its_dev_and_proc_are_right(setup) {
        let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; cd /proc; echo [0-9]*; echo x 2>/dev/null > /dev/new || echo denied";
        assert_eq!(setup.run(&writable(setup, script), b"").success(), "3\n2\ndenied\n");
    }

    fn private_folders_are_private_there_too(setup) {
        let zygote = setup.open(&writable(setup, "ls -A /tmp /run; touch /tmp/mark /run/mark /var/tmp/mark /dev/shm/mark"));
        for _ in 0..2 {
            assert_eq!(Running::start(&zygote).finish(b"").success(), "/run:\n\n/tmp:\n");
        }
    }
}
