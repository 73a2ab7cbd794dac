//! A process sees the image, which it cannot change, and private folders, which
//! nobody else sees. It sees nothing of the host.

use std::fs;
use std::os::unix::fs::MetadataExt;

use sandbox::Ids;

use crate::support::{Running, exited, promises};

promises! {
    fn the_root_cannot_be_changed(setup) {
        let attempts = [
            "echo x > /new", "echo x > /etc/passwd", "mkdir /new", "rm /etc/passwd", "rmdir /home",
            "chmod 777 /etc", "chown 0 /etc", "mv /etc /new", "ln -s x /new", "ln /etc/passwd /new",
            "touch /etc/passwd", "mknod /new p",
        ];
        for attempt in attempts {
            let output = setup.run(&setup.script(attempt), b"");
            assert_ne!(output.last, exited(0), "{attempt}");
            assert!(output.stderr.to_lowercase().contains("read-only file system"), "{output:?}");
        }
        assert_eq!(setup.prints("cat /etc/group | head -n 1"), "root:x:0:\n");
    }

    fn private_folders_are_writable(setup) {
        for folder in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
            let script = format!("cd {folder}; mkdir -p a/b; echo it > a/b/c; mv a d; cat d/b/c; chmod 700 d; rm -r d; ls -A");
            assert_eq!(setup.prints(&script), "it\n", "{folder}");
        }
        assert_eq!(
            setup.prints("stat -c %a /tmp /var/tmp /run /dev/shm"),
            "1777\n1777\n755\n1777\n"
        );
    }

    fn set_id_files_and_devices_can_be_made_but_not_used(setup) {
        let mounts = setup.prints("cat /proc/self/mountinfo");
        for point in ["/", "/tmp", "/var/tmp", "/run", "/dev/shm", "/proc"] {
            let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(point)).unwrap();
            assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
        }
    }

    fn what_one_process_writes_no_other_sees(setup) {
        let zygote = setup.open(&setup.script(
            "ls -A /tmp /var/tmp /run /dev/shm; for f in /tmp /var/tmp /run /dev/shm; do touch $f/mark; done; echo ready; cat",
        ));
        let empty = "/dev/shm:\n\n/run:\n\n/tmp:\n\n/var/tmp:\nready\n";
        let mut first = Running::start(&zygote);
        while first.line() != "ready" {}
        // Beside it, and after it.
        assert_eq!(Running::start(&zygote).finish(b"").success(), empty);
        drop(first);
        assert_eq!(Running::start(&zygote).finish(b"").success(), empty);
    }

    fn no_file_of_the_host_is_visible(setup) {
        let marker = setup.folder.path().join("marker");
        fs::write(&marker, "secret").unwrap();
        let marker = marker.display();
        assert_eq!(
            setup.prints(&format!("cat {marker} 2>/dev/null || ls -A /tmp /home /root")),
            "/home:\n\n/root:\n\n/tmp:\n"
        );
        assert_eq!(
            setup.prints("ls -A /; ls -A /..; find / -xdev -name marker"),
            "bin\ndev\netc\nhome\nproc\nroot\nrun\nsys\ntmp\nvar\n".repeat(2)
        );
    }

    // And not given when they are first looked for, which would tell who else has.
    fn numbers_of_folders_are_those_of_the_image(setup) {
        let number = |path: &str| fs::metadata(setup.root.join(path)).unwrap().ino();
        let script = setup.script("for f in home root var bin; do stat -c %i /$f; done");
        let shown = setup.run(&script, b"").success();
        let shown = shown.lines().map(|line| line.parse::<u64>().unwrap() & u64::from(u32::MAX));
        let expected = ["home", "root", "var", "bin"].map(number);
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    fn private_folders_have_a_size(setup) {
        // Each has what it should, at the same time; and all together no more.
        let script = "for n in 2097152 9000000; do for f in /tmp /var/tmp /run /dev/shm; do head -c $n /dev/zero 2>/dev/null >> $f/x; done; cat /tmp/x /var/tmp/x /run/x /dev/shm/x | wc -c; done; i=0; while touch /tmp/f$i 2>/dev/null; do i=$((i+1)); done; echo $i";
        let spec = sandbox::Spec { scratch_bytes: 2 << 20, ..setup.script(script) };
        let output = setup.run(&spec, b"");
        let files = "8388608\n".repeat(2);
        let made = output.stdout.strip_prefix(&files).unwrap_or_else(|| panic!("{output:?}"));
        assert!(made.trim().parse::<u32>().unwrap() < 1100, "{made}");
        let mut spec = sandbox::Spec { writable: sandbox::Writable::Private, ..setup.script("head -c 3000000 /dev/zero 2>/dev/null > /x; wc -c < /x") };
        spec.scratch_bytes = 2 << 20;
        let room: u64 = setup.run(&spec, b"").stdout.trim().parse().unwrap();
        assert_eq!(room, 3_000_000);
        spec.command[2] = "head -c 30000000 /dev/zero 2>/dev/null > /x; wc -c < /x".into();
        let room: u64 = setup.run(&spec, b"").stdout.trim().parse().unwrap();
        assert!(room <= 10 << 20, "{room}");
    }

    fn the_hosts_mounts_are_gone(setup) {
        let mounts = setup.prints("cut -d' ' -f5 /proc/self/mountinfo | grep -v ^/proc/ | sort -u");
        let devices = match setup.spec(&[]).ids {
            Ids::Shifted { .. } => "/dev/pts\n/dev/shm\n",
            Ids::Own => "/dev/full\n/dev/null\n/dev/pts\n/dev/random\n/dev/shm\n/dev/urandom\n/dev/zero\n",
        };
        assert_eq!(mounts, format!("/\n/dev\n{devices}/proc\n/run\n/tmp\n/var/tmp\n"));
    }
}
