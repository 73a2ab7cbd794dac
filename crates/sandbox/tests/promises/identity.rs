//! A process is who its image says: user, groups, home, host name, environment,
//! folder.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use sandbox::{Ids, Spec};

use crate::support::{Setup, promises};
use test_support::processes::descendants;

fn with_user(setup: &Setup, user: &str, script: &str) -> Spec {
    Spec {
        user: user.into(),
        ..setup.script(script)
    }
}

promises! {
    fn users_are_those_of_the_image(setup) {
        for (user, ids, home) in [
            ("", "0 0 0 0 0 0", "/root"),
            ("root", "0 0 0 0 0 0", "/root"),
            ("www", "33 33 33 34 34 34", "/var/www"),
            ("33", "33 33 33 34 34 34", "/var/www"),
            ("www:staff", "33 33 33 50 50 50", "/var/www"),
            ("1000:1001", "1000 1000 1000 1001 1001 1001", "/"),
            ("1000", "1000 1000 1000 0 0 0", "/"),
            ("70000", "70000 70000 70000 0 0 0", "/"),
            ("33:70000", "33 33 33 70000 70000 70000", "/var/www"),
            ("2000000000:65536", "2000000000 2000000000 2000000000 65536 65536 65536", "/"),
        ] {
            let spec = with_user(setup, user, "probe ids; echo $HOME");
            assert_eq!(setup.run(&spec, b"").success(), format!("{ids}\n{home}\n"), "{user:?}");
        }
    }

    fn supplementary_groups_are_those_of_the_image(setup) {
        let groups = setup.run(&with_user(setup, "www", "id -G"), b"").success();
        match Ids::detect() {
            Ids::Shifted { .. } => assert_eq!(groups, "34 26\n"),
            // Where groups can be neither set nor dropped, its own is left.
            Ids::Own => assert!(groups.starts_with("34"), "{groups}"),
        }
    }

    // What was unpacked for them belongs to whom all ids above the range are outside.
    fn files_of_a_user_above_the_range_are_its_own(setup) {
        let file = setup.root.join("etc/secret");
        std::fs::write(&file, "mine\n").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        setup.give_to_sandbox();
        if let Ids::Shifted { base } = Ids::detect() {
            let owner = Some(base + 65534);
            std::os::unix::fs::lchown(&file, owner, owner).unwrap();
        }
        let script = "stat -c %u:%g /etc/secret; cat /etc/secret /dev/stdin > /tmp/new; cat /tmp/new > /dev/stdout; \
                      stat -c %u:%g /tmp/new";
        let output = setup.run(&with_user(setup, "70000:80000", script), b"input\n");
        assert_eq!(output.success(), "70000:80000\nmine\ninput\n70000:80000\n");
    }

    fn outside_its_ids_are_nobodys_or_the_runners_own(setup) {
        // As seen from outside: within, the ids are those of the namespace around it.
        let running = setup.start(&setup.spec(&["cat"]));
        let process = descendants(std::process::id()).last().unwrap().id;
        let map = std::fs::read_to_string(format!("/proc/{process}/uid_map")).unwrap();
        drop(running);
        let map: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
        match Ids::detect() {
            Ids::Shifted { base } => assert_eq!(map, [0, base, 65536]),
            Ids::Own => assert_eq!(map, [0, rustix::process::geteuid().as_raw(), 1]),
        }
    }

    fn unknown_users_are_refused(setup) {
        assert_eq!(
            setup.open_error(&with_user(setup, "ghost", "true")),
            "find the user \"ghost\": the image's /etc/passwd does not have it; use a number, or a name that it has"
        );
        assert_eq!(
            setup.open_error(&with_user(setup, "www:ghosts", "true")),
            "find the user \"www:ghosts\": the image's /etc/group does not have this group; use a number, or a name that it has"
        );
        let error = setup.open_error(&with_user(setup, "4294967295", "true"));
        assert!(error.starts_with("find the user \"4294967295\": 4294967295 is no id"), "{error}");
    }

    fn the_environment_is_the_links_and_dockers_defaults(setup) {
        let spec = Spec {
            environment: vec![("A".into(), "1 2".into()), ("EMPTY".into(), String::new())],
            ..setup.spec(&["env"])
        };
        assert_eq!(
            setup.run(&spec, b"").success(),
            "A=1 2\nEMPTY=\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\nHOSTNAME=inside\n"
        );
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let spec = Spec {
            environment: vec![own("HOME", "/h"), own("PATH", "/bin"), own("HOSTNAME", "n")],
            ..setup.spec(&["env"])
        };
        assert_eq!(setup.run(&spec, b"").success(), "HOME=/h\nPATH=/bin\nHOSTNAME=n\n");
    }

    fn the_working_directory_is_the_links(setup) {
        let spec = Spec {
            working_directory: "/etc".into(),
            ..setup.script("pwd; ls hosts")
        };
        assert_eq!(setup.run(&spec, b"").success(), "/etc\nhosts\n");
        let relative = Spec {
            working_directory: "bin".into(),
            ..setup.spec(&["./pwd"])
        };
        assert_eq!(setup.run(&relative, b"").success(), "/bin\n");
    }

    fn the_host_name_is_the_links(setup) {
        assert_eq!(setup.prints("hostname; uname -n"), "inside\ninside\n");
    }
}
