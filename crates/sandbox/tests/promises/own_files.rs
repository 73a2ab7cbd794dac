//! A link's own files and secrets are where it wants them, whatever the image has there,
//! and nobody changes them for anybody else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{Network, Spec, SpecFile, Writable};

use crate::support::{Running, Setup, exited, is_root, promises};
use test_support::skip;

const BOTH: [Writable; 2] = [Writable::No, Writable::Private];

fn file(path: &str, content: &str) -> SpecFile {
    SpecFile {
        path: path.into(),
        mode: 0o644,
        content: content.as_bytes().to_vec().into(),
        of_user: false,
    }
}

fn secret(path: &str, content: &str) -> SpecFile {
    SpecFile {
        mode: 0o400,
        of_user: true,
        ..file(path, content)
    }
}

fn with(setup: &Setup, files: Vec<SpecFile>, script: &str) -> Spec {
    Spec {
        files,
        ..setup.script(script)
    }
}

promises! {
    fn they_are_where_the_link_wants_them(setup) {
        setup.write("etc/app/image.conf", "of the image\n", 0o644);
        let paths = [
            "/etc/app/link.conf", "/etc/passwd", "/models/of/mine", "/new", "/tmp/a", "/tmp/b/c/d", "/tmp/b/e",
            "/run/secrets/key", "/run/secrets/other", "/var/tmp/x", "/dev/shm/x", "/var/lib/x",
        ];
        for writable in BOTH {
            let files = paths.map(|path| file(path, &format!("{path}\n"))).into();
            let script = format!("cat {}; cat /etc/app/image.conf; ls /etc/app /run/secrets /tmp/b", paths.join(" "));
            let output = setup.run(&Spec { writable, ..with(setup, files, &script) }, b"").success();
            let expected: String = paths.map(|path| format!("{path}\n")).concat();
            let folders = "/etc/app:\nimage.conf\nlink.conf\n\n/run/secrets:\nkey\nother\n\n/tmp/b:\nc\ne\n";
            assert_eq!(output, format!("{expected}of the image\n{folders}"), "{writable:?}");
        }
    }

    fn nobody_changes_them(setup) {
        let paths = ["/etc/passwd", "/etc/app.conf", "/new", "/tmp/a", "/tmp/b/c", "/run/secrets/key"];
        let attempts = [
            "echo x > F", "echo x >> F", "rm -f F", "mv F F2", "chmod 777 F", "touch F", "ln F F2", "mv /tmp/x F",
            "chown 0 F",
        ];
        for writable in BOTH {
            let files = paths.map(|path| file(path, "it\n")).into();
            let script = paths.map(|path| {
                let attempts = attempts.map(|attempt| {
                    let attempt = attempt.replace('F', path);
                    format!("if ({attempt}) 2>/dev/null; then echo '{attempt} worked'; fi; ")
                });
                format!("touch /tmp/x; {}cat {path}; ", attempts.concat())
            });
            let script = format!("{} chmod 700 /run/secrets 2>/dev/null || echo sealed; touch /tmp/b/new 2>/dev/null || echo sealed", script.concat());
            let output = setup.run(&Spec { writable, ..with(setup, files, &script) }, b"").success();
            assert_eq!(output, format!("{}sealed\nsealed\n", "it\n".repeat(paths.len())), "{writable:?}");
        }
    }

    fn a_place_with_some_is_used_again_if_nothing_was_left(setup) {
        let paths = ["/etc/app.conf", "/tmp/a", "/tmp/b/c", "/run/secrets/key", "/dev/shm/x", "/var/tmp/x"];
        for writable in BOTH {
            let files = paths.map(|path| file(path, "it\n")).into();
            let spec = Spec { writable, ..with(setup, files, "attack place; read what; eval \"$what\"") };
            let zygote = setup.open(&spec);
            let place = |what: &str| {
                let output = Running::start(&zygote).finish(format!("{what}\n").as_bytes());
                output.stdout.lines().next().unwrap().to_owned()
            };
            let read = format!("cat {}", paths.join(" "));
            let first = place(&read);
            assert_eq!(first, place(&read), "{writable:?}");
            for change in ["touch /tmp/new", "chmod 700 /run", "touch /dev/shm/y; rm /dev/shm/y"] {
                assert_eq!(place("true"), place(change), "{change}");
                assert_ne!(place("true"), first, "{change}");
            }
        }
    }

    fn a_secret_is_for_the_links_user_only(setup) {
        for (user, told) in [("", "400 0 0"), ("www", "400 33 34")] {
            let files = vec![secret("/run/secrets/key", "s3cret\n"), secret("/etc/key", "s3cret\n")];
            let script = "stat -c '%a %u %g' /run/secrets/key /etc/key; cat /run/secrets/key /etc/key";
            let spec = Spec { user: user.into(), ..with(setup, files.clone(), script) };
            assert_eq!(setup.run(&spec, b"").success(), format!("{told}\n{told}\ns3cret\ns3cret\n"));
            assert!(!format!("{spec:?}").contains("s3cret"));
        }
        if setup.spec(&[]).ids == sandbox::Ids::Own {
            return;
        }
        let of_root = SpecFile { mode: 0o400, ..file("/etc/key", "s3cret\n") };
        let spec = Spec { user: "www".into(), ..with(setup, vec![of_root], "cat /etc/key") };
        let output = setup.run(&spec, b"");
        assert!(output.stdout.is_empty() && output.stderr.contains("ermission denied"), "{output:?}");
    }

    // What a process may see: its own arguments, environment, mounts and those of others.
    fn a_secret_is_nowhere_but_in_its_file(setup) {
        let key = "s3cret-7f3a9c";
        let files = vec![secret("/run/secrets/key", key)];
        let script = "cat /run/secrets/key; cat /proc/*/environ /proc/*/cmdline /proc/*/maps /proc/*/mountinfo /proc/*/stat 2>/dev/null; \
            grep -r s3cret-7f3a9[c] /etc /tmp /var /home /dev/shm 2>/dev/null; env; true";
        for writable in BOTH {
            let spec = Spec { writable, ..with(setup, files.clone(), script) };
            let zygote = setup.open(&spec);
            let mut running = Running::start(&zygote);
            running.tell("");
            let output = running.finish(b"");
            assert_eq!(output.stdout.matches(key).count(), 1, "{output:?}");
            // Nor in what the host shows of the zygote.
            for process in test_support::processes::descendants(std::process::id()) {
                for name in ["environ", "cmdline", "mountinfo", "maps"] {
                    let told = fs::read(format!("/proc/{}/{name}", process.id)).unwrap_or_default();
                    assert!(!String::from_utf8_lossy(&told).contains(key), "{name}");
                }
            }
        }
        let refused = Spec { files: vec![secret("/proc/key", key)], ..setup.spec(&["true"]) };
        let error = setup.launcher.open(&refused, sandbox::Limits::default()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(key));
    }

    fn links_of_the_image_are_followed_inside(setup) {
        let host = setup.folder.path().join("host");
        fs::create_dir(&host).unwrap();
        let up = "../".repeat(20);
        let links = [
            ("link", "/home".to_owned()), ("relative", "../../../home".to_owned()),
            ("out", host.display().to_string()), ("up", format!("{up}{}", host.display())),
            ("private", "/run".to_owned()), ("etc/file", "/etc/real".to_owned()),
        ];
        for (name, target) in &links {
            symlink(target, setup.root.join(name)).unwrap();
        }
        setup.write("etc/real", "", 0o644);
        for writable in BOTH {
            let paths = ["/link/a", "/relative/b", "/out/c", "/up/d/e", "/private/secrets/f", "/etc/file"];
            let files = paths.map(|path| file(path, &format!("{path}\n"))).into();
            let script = format!("cat {}; cat /home/a /home/b /run/secrets/f /etc/real", paths.join(" "));
            let output = setup.run(&Spec { writable, ..with(setup, files, &script) }, b"").success();
            let expected = paths.map(|path| format!("{path}\n")).concat();
            assert_eq!(output, format!("{expected}/link/a\n/relative/b\n/private/secrets/f\n/etc/file\n"));
        }
        assert_eq!(fs::read_dir(host).unwrap().count(), 0);
        assert!(!Path::new("/home/a").exists());
    }

    fn a_command_may_be_one(setup) {
        let script = SpecFile { mode: 0o755, ..file("/usr/local/bin/mine", "#!/bin/sh\necho mine\n") };
        let spec = Spec { files: vec![script], ..setup.spec(&["mine"]) };
        for writable in BOTH {
            assert_eq!(setup.run(&Spec { writable, ..spec.clone() }, b"").success(), "mine\n");
        }
    }

    fn folders_that_the_image_has_stay_as_they_are(setup) {
        let before = setup.prints("stat -c '%a %u %g' /etc /home /root");
        let files = vec![file("/etc/x/y", ""), file("/root/x", ""), file("/home/x", "")];
        let spec = with(setup, files, "stat -c '%a %u %g' /etc /home /root; ls -A /etc");
        let after = setup.run(&spec, b"").success();
        assert!(after.starts_with(&before), "{after}");
        assert!(after.contains("passwd\nresolv.conf\nx\n"), "{after}");
    }

    fn where_they_cannot_be_they_are_refused(setup) {
        symlink("loop", setup.root.join("loop")).unwrap();
        let refused = [
            ("/proc/x", "each process has a /proc of its own"),
            ("/dev/x", "each process has a /dev of its own"),
            ("/dev", "of its own"),
            ("/tmp", "each process has one of its own"),
            ("/var", "each process has a /var/tmp of its own, which lies in it"),
            ("/", "of its own, which lies in it"),
            ("/etc", "is a directory"),
            ("/etc/passwd/x", "not a directory"),
            ("/loop/x", "too many levels of symbolic links"),
            ("etc/x", "no absolute path"),
        ];
        for (path, reason) in refused {
            let spec = with(setup, vec![file(path, "")], "true");
            let error = setup.open_error(&spec);
            let path = path.trim_start_matches("/loop");
            assert!(error.starts_with("add the link's files \"") && error.contains(path), "{error}");
            assert!(error.contains(reason), "{path}: {error}");
        }
        for [one, other] in [["/a", "/a"], ["/a", "/a/b"], ["/tmp/a/b", "/tmp/a"]] {
            let spec = with(setup, vec![file(one, ""), file(other, "")], "true");
            let error = setup.open_error(&spec);
            assert!(error.contains("lie in each other"), "{error}");
        }
    }

    fn beside_the_hosts_network_files(setup) {
        for writable in BOTH {
            let files = vec![file("/etc/app.conf", "it\n")];
            let spec = Spec { network: Network::Host, writable, ..with(setup, files, "cat /etc/app.conf /etc/hosts") };
            let hosts = fs::read_to_string("/etc/hosts").unwrap();
            assert_eq!(setup.run(&spec, b"").success(), format!("it\n{hosts}"));
        }
    }

    fn many_and_large_ones_find_room(setup) {
        let large = "x".repeat(1 << 20);
        let mut files = vec![file("/large", &large)];
        files.extend((0..500).map(|number| file(&format!("/many/{number}"), "it\n")));
        let output = setup.run(&with(setup, files, "wc -c < /large; ls /many | wc -l"), b"");
        assert_eq!(output.last, exited(0), "{output:?}");
        assert_eq!(output.stdout, "1048576\n500\n");
    }
}

#[test]
fn their_content_is_not_in_texts_for_developers() {
    let file = SpecFile {
        path: PathBuf::from("/key"),
        mode: 0o400,
        content: b"s3cret".to_vec().into(),
        of_user: true,
    };
    assert!(format!("{file:?}").contains("6 bytes"), "{file:?}");
}

/// A host on which there can be no overlay: its file system is a stack of them already.
#[test]
fn without_overlays_links_that_need_one_are_refused() {
    if !is_root() {
        return skip("this test needs root");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "cd \"$1\" && mount -t tmpfs none . && cd \"$1\" && mkdir a b c d e f g && \
         mount -t overlay o -o lowerdir=a,upperdir=b,workdir=c d && \
         mount -t overlay o -o lowerdir=d,upperdir=e,workdir=f g && \
         export TMPDIR=\"$1/g\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(folder.path());
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "own_files::on_a_stack_of_overlays",
        "--include-ignored",
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let is_passed = output.status.success() && said.contains("1 passed");
    assert!(is_passed, "{output:?}");
}

#[test]
#[ignore = "without_overlays_links_that_need_one_are_refused runs it"]
fn on_a_stack_of_overlays() {
    let setup = Setup::new();
    let script = "cat /etc/passwd /run/secrets/key; ls -d /sys 2>/dev/null; true";
    let known = vec![
        file("/etc/passwd", "it\n"),
        file("/run/secrets/key", "key\n"),
    ];
    let spec = with(&setup, known, script);
    assert_eq!(setup.run(&spec, b"").success(), "it\nkey\n");
    let error = setup.open_error(&with(&setup, vec![file("/new", "")], "true"));
    assert!(
        error.contains("\"/new\": the image has nothing there"),
        "{error}"
    );
    let private = Spec {
        writable: Writable::Private,
        ..setup.script("true")
    };
    let error = setup.open_error(&private);
    assert!(
        error.starts_with("mount the private writable root \"/\""),
        "{error}"
    );
    assert!(error.contains("Writable: never"), "{error}");
}
