//! `/proc` shows a process itself and its init, `/dev` what every program
//! needs, and neither anything of the host or of the zygote.

use crate::support::{exited, promises};

promises! {
    fn proc_shows_its_own_processes_only(setup) {
        assert_eq!(setup.prints("cd /proc; echo [0-9]*; echo $$"), "2\n2\n");
        // Also those of other programs, which a user may look at.
        assert_eq!(setup.prints("sleep 9 & read name rest < /proc/$!/stat; echo $((name == $!))"), "1\n");
    }

    fn proc_cannot_be_written(setup) {
        for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/self/comm", "/proc/sys/kernel/core_pattern"] {
            let output = setup.run(&setup.script(&format!("echo 1 > {file}")), b"");
            assert_ne!(output.last, exited(0), "{file}");
        }
        // What the descriptors there lead to is another matter.
        assert_eq!(setup.prints("echo it > /proc/self/fd/1; echo it > /dev/stdout"), "it\nit\n");
    }

    fn init_shows_nothing_of_the_zygote(setup) {
        for file in ["environ", "maps", "mem", "auxv", "stack", "syscall", "cgroup", "stat", "status", "comm", "cmdline"] {
            let output = setup.run(&setup.script(&format!("cat /proc/1/{file}")), b"");
            assert_ne!(output.last, exited(0), "{file}");
            assert_eq!(output.stdout, "", "{file}");
        }
        for script in ["ls -A /proc/1/fd/", "ls -A /proc/1/root/", "ls -A /proc/1/cwd/", "readlink /proc/1/exe", "ls -A /proc/1/map_files/", "readlink /proc/1/ns/net"] {
            let output = setup.run(&setup.script(script), b"");
            assert_ne!(output.last, exited(0), "{script}");
            assert_eq!(output.stdout, "", "{script}");
        }
    }

    fn dev_has_what_every_program_needs_and_no_more(setup) {
        assert_eq!(
            setup.prints("ls -A /dev; cd /dev; for f in fd ptmx stdin stdout stderr; do readlink $f; done"),
            "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
             /proc/self/fd\npts/ptmx\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n"
        );
    }

    fn devices_work(setup) {
        let script = "echo lost > /dev/null; cat /dev/null; head -c 5 /dev/zero | wc -c; head -c 7 /dev/urandom | wc -c; head -c 6 /dev/random | wc -c; echo x 2>/dev/null > /dev/full || echo full; cat /dev/stdin; cat /dev/fd/0; echo x 2>/dev/null > /dev/tty || echo no terminal";
        assert_eq!(setup.run(&setup.script(script), b"in\n").success(), "5\n7\n6\nfull\nin\nno terminal\n");
    }

    fn dev_cannot_be_changed(setup) {
        for attempt in ["touch /dev/new", "rm /dev/null", "chmod 777 /dev", "mknod /dev/shm/null c 1 3", "mknod /tmp/sda b 8 0", "chmod 600 /dev/null"] {
            assert_ne!(setup.run(&setup.script(attempt), b"").last, exited(0), "{attempt}");
        }
    }

    fn no_path_of_the_zygote_is_visible(setup) {
        let shown = setup.prints("cat /proc/self/cgroup /proc/self/environ /proc/self/mountinfo | tr '\\0' '\\n'");
        let folder = setup.folder.path().to_str().unwrap();
        for line in shown.lines() {
            assert!(!line.contains(folder), "{line}");
        }
    }
}
