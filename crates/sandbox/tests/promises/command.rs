//! A command is found as a shell in the image would find it, and where it
//! cannot be run, the error says what is wrong and what to do.

use std::os::unix::fs::symlink;

use sandbox::{Event, Spec};

use crate::support::{Running, Setup, promises};

/// What is said of a command that cannot be started.
fn start_error(setup: &Setup, spec: &Spec) -> String {
    let zygote = setup.open(spec);
    let mut running = Running::start(&zygote);
    let Event::Failed(step, errno) = running.event() else {
        panic!("started");
    };
    assert_eq!(running.event(), Event::Gone);
    zygote.explain(step, errno).to_string()
}

promises! {
    fn names_are_looked_up_in_the_path(setup) {
        setup.write("opt/a/tool", "#!/bin/sh\necho a", 0o644);
        setup.write("opt/b/tool", "#!/bin/sh\necho b $1", 0o755);
        setup.write("opt/c/tool", "#!/bin/sh\necho c", 0o755);
        let path = ("PATH".to_owned(), "/none:/opt/a:/opt/b:/opt/c:/bin".to_owned());
        let spec = Spec {
            environment: vec![path],
            ..setup.spec(&["tool", "x"])
        };
        assert_eq!(setup.run(&spec, b"").success(), "b x\n");
        let direct = Spec {
            command: vec!["/opt/c/tool".into()],
            ..spec.clone()
        };
        assert_eq!(setup.run(&direct, b"").success(), "c\n");
        let relative = Spec {
            command: vec!["opt/c/tool".into()],
            ..spec
        };
        assert_eq!(setup.run(&relative, b"").success(), "c\n");
    }

    fn a_name_that_is_nowhere_is_said_with_the_path(setup) {
        let spec = Spec {
            environment: vec![("PATH".into(), "/bin:/sbin".into())],
            ..setup.spec(&["nonesuch"])
        };
        assert_eq!(
            setup.open_error(&spec),
            "find the command \"nonesuch\": it is in no folder of the image's PATH, \"/bin:/sbin\""
        );
        let long = Spec {
            environment: vec![("PATH".into(), "/bin:".repeat(50_000))],
            ..spec
        };
        assert!(setup.open_error(&long).starts_with("find the command \"nonesuch\": it is in no"));
    }

    fn what_is_no_program_is_said(setup) {
        setup.write("bin/plain", "text", 0o644);
        for (command, error) in [
            ("/bin/nonesuch", "find the command \"/bin/nonesuch\": no such file or directory"),
            ("/bin/sh/x", "find the command \"/bin/sh/x\": not a directory"),
            ("/bin", "find the command \"/bin\": is a directory"),
            ("/bin/plain", "find the command \"/bin/plain\": permission denied (make it executable in the image: chmod +x)"),
            ("plain", "find the command \"plain\": permission denied (make it executable in the image: chmod +x)"),
            ("", "find the command: there is none: the image has no entrypoint and no command of its own; set Command"),
            ("/bin/a\0b", "find the command \"/bin/a\\0b\": a NUL byte in an argument or the environment, which no program can be given"),
        ] {
            assert_eq!(setup.open_error(&setup.spec(&[command])), error);
        }
        assert!(setup.open_error(&setup.spec(&[])).starts_with("find the command: there is none"));
        let error = setup.open_error(&setup.spec(&["cat", "a\0b"]));
        assert!(error.starts_with("find the command \"cat\": a NUL byte"), "{error}");
    }

    fn what_the_kernel_does_not_take_is_said(setup) {
        setup.write("bin/interpreted", "#!/none/sh\n", 0o755);
        setup.write("bin/text", "just text\n", 0o755);
        setup.write("bin/rooted", "#!/bin/sh\n", 0o700);
        let said = |command: &[&str]| start_error(setup, &setup.spec(command));
        assert_eq!(
            said(&["interpreted"]),
            "execute the command \"interpreted\": no such file or directory (the file is there, but what it needs to run is not: its interpreter (first line) or its dynamic loader is missing in the image)"
        );
        let error = said(&["/bin/text"]);
        assert!(error.starts_with("execute the command \"/bin/text\": exec format error (it is no program"), "{error}");
        let argument = "x".repeat(200_000);
        let error = said(&["cat", &argument]);
        assert_eq!(error, "execute the command \"cat\": argument list too long (arguments and environment together are too long for the kernel)");
        if crate::support::is_root() {
            let spec = Spec { user: "www".into(), ..setup.spec(&["rooted"]) };
            assert_eq!(start_error(setup, &spec), "execute the command \"rooted\": permission denied");
        }
    }

    fn a_folder_that_is_missing_is_said(setup) {
        let within = |folder: &str| Spec {
            working_directory: folder.into(),
            ..setup.spec(&["pwd"])
        };
        for (folder, error) in [
            ("/none", "enter the working directory \"/none\": no such file or directory (create it in the image, or set WorkingDirectory)"),
            ("/etc/passwd", "enter the working directory \"/etc/passwd\": not a directory"),
            ("/a\0b", "enter the working directory \"/a\\0b\": there is a NUL byte in it"),
        ] {
            assert_eq!(setup.open_error(&within(folder)), error);
        }
        assert_eq!(setup.run(&within("/tmp"), b"").success(), "/tmp\n");
        assert_eq!(setup.run(&within(""), b"").success(), "/\n");
    }

    fn what_a_private_folder_hides_is_said(setup) {
        setup.write("tmp/tool", "#!/bin/sh\n", 0o755);
        symlink("/tmp/tool", setup.root.join("bin/linked")).unwrap();
        let error = setup.open_error(&setup.spec(&["linked"]));
        assert_eq!(error, "find the command \"/bin/linked\": each process has a /tmp of its own, without what the image has there");
        std::fs::create_dir(setup.root.join("run/work")).unwrap();
        let spec = Spec { working_directory: "/run/work".into(), ..setup.spec(&["pwd"]) };
        assert_eq!(setup.open_error(&spec), "enter the working directory \"/run/work\": each process has a /run of its own, without what the image has there");
    }
}
