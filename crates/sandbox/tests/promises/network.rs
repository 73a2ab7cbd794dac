//! A process has no network, a loopback of its own, or the host's where it is given that.

use sandbox::{Network, Spec, Writable};

use crate::support::{Running, promises};

fn sealed(spec: Spec) -> Spec {
    Spec {
        network: Network::Sealed,
        ..spec
    }
}

promises! {
    fn a_loopback_answers_and_nothing_else(setup) {
        let output = setup.run(&setup.spec(&["probe", "loopback"]), b"").success();
        let unreachable = "ENETUNREACH";
        let wanted = [
            ("tcp4", "ok"), ("tcp4-out", unreachable), ("udp4", "ok"), ("udp4-out", unreachable),
            ("tcp6", "ok"), ("tcp6-out", unreachable), ("udp6", "ok"), ("udp6-out", unreachable),
            ("raw", "EPROTONOSUPPORT"), ("packet", "EPERM"), ("ping", "EPROTONOSUPPORT"),
            ("mptcp", "EPROTONOSUPPORT"), ("routes", "EOPNOTSUPP"), ("audit", "EPROTONOSUPPORT"),
        ];
        let wanted = wanted.map(|(name, result)| format!("{name} {result}\n"));
        assert_eq!(output, wanted.concat());
    }

    // Two programs, as a shell would join them.
    fn one_program_talks_to_another(setup) {
        let script = "nc -l -p 4711 -e cat & until echo hello | nc 127.0.0.1 4711 2>/dev/null; do :; done; wait";
        assert_eq!(setup.prints(script), "hello\n");
    }

    fn port_80_is_for_every_user(setup) {
        let script = "nc -l -p 80 -e cat & until echo hello | nc 127.0.0.1 80 2>/dev/null; do kill -0 $! || exit; done; wait";
        let spec = Spec { user: "1000".into(), ..setup.script(script) };
        assert_eq!(setup.run(&spec, b"").success(), "hello\n");
    }

    // Each in a network of its own, in which all ports are free.
    fn two_processes_do_not_meet(setup) {
        let zygote = setup.open(&setup.script("nc -l -p 4711 -e cat & until echo here | nc 127.0.0.1 4711; do :; done; read go"));
        let mut both = [Running::start(&zygote), Running::start(&zygote)];
        for running in &mut both {
            assert_eq!(running.line(), "here");
        }
    }

    // Whoever closes a connection first leaves it behind for a minute, in its network.
    fn connections_that_linger_are_for_one_process(setup) {
        let zygote = setup.open(&setup.script("nc -ll -p 4711 -e true & n=0; until nc 127.0.0.1 4711 </dev/null 2>/dev/null; do :; done; \
             while [ $n -lt 50 ]; do nc 127.0.0.1 4711 </dev/null; n=$((n+1)); done; wc -l < /proc/net/tcp"));
        for _ in 0..3 {
            let lines: u32 = Running::start(&zygote).finish(b"").success().trim().parse().unwrap();
            assert!((2..60).contains(&lines), "{lines}");
        }
    }

    fn there_is_no_interface_but_a_loopback_that_is_down(setup) {
        let script = "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; cat /sys/class/net/lo/operstate 2>/dev/null; ip -o link show lo | grep -c ',UP' ; cat /proc/net/route | wc -l";
        let output = setup.run(&sealed(setup.script(script)), b"");
        assert_eq!(output.stdout, "lo\n0\n0\n", "{output:?}");
    }

    fn nothing_answers_not_even_oneself(setup) {
        for address in ["127.0.0.1", "::1", "192.0.2.1"] {
            let output = setup.run(&sealed(setup.script(&format!("nc -w 1 {address} 80"))), b"");
            assert!(
                output.stderr.contains("Address family not supported"),
                "{output:?}"
            );
        }
    }

    fn the_hosts_network_is_seen_where_it_is_given(setup) {
        let spec = Spec {
            network: Network::Host,
            ..setup.script("readlink /proc/self/ns/net; cat /etc/hosts; echo x >> /etc/hosts")
        };
        for writable in [Writable::No, Writable::Private] {
            let output = setup.run(&Spec { writable, ..spec.clone() }, b"");
            let host = std::fs::read_link("/proc/self/ns/net").unwrap();
            let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            assert_eq!(output.stdout, format!("{}\n{hosts}", host.display()));
            assert!(output.stderr.to_lowercase().contains("can't create /etc/hosts"), "{output:?}");
        }
    }

    // An image may have anything there.
    fn the_hosts_files_are_there_whatever_link_an_image_has(setup) {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        let file = setup.root.join("etc/hosts");
        setup.write("etc/real", "", 0o644);
        let forms = [
            "/etc/real",
            "real",
            "../etc/real",
            "/etc/../etc/real",
            "../../../etc/real",
            "/tmp/x",
            "../run/x",
            "/var/tmp/x",
            "/nowhere/x",
            "nowhere",
            "hosts",
            "/etc",
            "/proc/self/fd/0",
            "/proc/0",
        ];
        for target in forms {
            std::fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(target, &file).unwrap();
            setup.give_to_sandbox();
            for writable in [Writable::No, Writable::Private] {
                let script = "cat /etc/hosts; echo x >> /etc/hosts || echo sealed";
                let spec = Spec { network: Network::Host, writable, ..setup.script(script) };
                let output = setup.run(&spec, b"");
                assert_eq!(output.stdout, format!("{hosts}sealed\n"), "{target}, {writable:?}: {output:?}");
            }
        }
        // No link, and no file.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        for writable in [Writable::No, Writable::Private] {
            let spec = Spec { network: Network::Host, writable, ..setup.spec(&["true"]) };
            let error = setup.open_error(&spec);
            assert!(error.starts_with("mount the host's network files \"/etc/hosts\""), "{error}");
        }
    }
}
