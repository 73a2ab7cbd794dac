//! `/proc` shows a process itself and its init, `/dev` what every program
//! needs, and neither anything of the host or of the zygote.

use std::fs;

use sandbox::{Limits, Spec, Writable};

use crate::support::{Running, exited, is_root, promises};

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
            "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\n\
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

    // For the JVM, lscpu, nproc and C libraries.
    fn a_few_files_of_sys_tell_of_processors(setup) {
        let of_host = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = "/sys/devices/system/cpu";
        for writable in [Writable::No, Writable::Private] {
            let script = format!("cat {cpu}/online {cpu}/possible; ls -d {cpu}/cpu[0-9]* | wc -l; cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null; true");
            let processors = fs::read_dir(cpu).unwrap().flatten().filter(|entry| {
                let name = entry.file_name().into_string().unwrap();
                name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok())
            });
            let expected = format!(
                "{}{}{}\n{}",
                of_host("/sys/devices/system/cpu/online"), of_host("/sys/devices/system/cpu/possible"), processors.count(),
                of_host("/sys/kernel/mm/transparent_hugepage/enabled"),
            );
            assert_eq!(setup.run(&Spec { writable, ..setup.script(&script) }, b"").success(), expected);
        }
    }

    fn a_process_may_read_its_limits(setup) {
        let limits = Limits { memory_bytes: Some(64 << 20), cpu_millicores: Some(1500), ..Limits::default() };
        if !sandbox::facilities().controllers.iter().all(|(_, place)| place.is_some()) {
            // Without root that is as it should be.
            return if is_root() { test_support::skip("no cgroups") };
        }
        let script = setup.script("cd /sys/fs/cgroup; cat memory.max cpu.max memory/memory.limit_in_bytes");
        let zygote = setup.open_limited(&script, limits);
        let read = || Running::start(&zygote).finish(b"").success();
        assert_eq!(read(), "67108864\n150000 100000\n67108864\n");
        let unlimited = setup.prints("cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes; ls");
        assert_eq!(unlimited, "max\n9223372036854771712\nmemory\nmemory.high\nmemory.max\n");
    }

    // Nobody could tell through it, either.
    fn no_process_changes_what_others_see_in_sys_and_etc(setup) {
        for writable in [Writable::No, Writable::Private] {
            let script = "for f in /sys/devices/system/cpu/online /etc/hosts /etc/hostname; do echo x 2>/dev/null > $f; chmod 600 $f 2>/dev/null; done; read x; cat /etc/hostname /etc/hosts";
            let zygote = setup.open(&Spec { writable, ..setup.script(script) });
            let mut first = Running::start(&zygote);
            let spec = Spec { writable, ..setup.script("cat /etc/hostname /sys/devices/system/cpu/online; stat -c %a /etc/hosts") };
            let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
            for _ in 0..2 {
                assert_eq!(setup.run(&spec, b"").success(), format!("inside\n{online}644\n"));
            }
            first.tell("");
            let said = first.finish(b"").stdout;
            assert_eq!(said.starts_with("x\nx\n"), writable == Writable::Private, "{said}");
        }
    }

    fn a_process_finds_its_own_name(setup) {
        let said = setup.prints("cat /etc/hosts; hostname; cat /etc/hostname");
        assert!(said.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"), "{said}");
        assert!(said.ends_with("127.0.0.1\tinside\ninside\ninside\n"), "{said}");
        // Where the image has its own, too, and its links lead elsewhere.
        fs::remove_file(setup.root.join("etc/hosts")).unwrap();
        std::os::unix::fs::symlink("/run/hosts", setup.root.join("etc/hosts")).unwrap();
        setup.give_to_sandbox();
        assert_eq!(setup.prints("cat /etc/hosts 2>/dev/null; cat /etc/hostname"), "inside\n");
    }
}
