//! A process has no network, or the host's where it is given that.

use sandbox::{Network, Spec, Writable};

use crate::support::promises;

promises! {
    fn there_is_no_interface_but_a_loopback_that_is_down(setup) {
        let script = "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; cat /sys/class/net/lo/operstate 2>/dev/null; ip -o link show lo | grep -c ',UP' ; cat /proc/net/route | wc -l";
        let output = setup.run(&setup.script(script), b"");
        assert_eq!(output.stdout, "lo\n0\n0\n", "{output:?}");
    }

    fn nothing_answers_not_even_oneself(setup) {
        for address in ["127.0.0.1", "::1", "192.0.2.1"] {
            let output = setup.run(&setup.script(&format!("nc -w 1 {address} 80")), b"");
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
