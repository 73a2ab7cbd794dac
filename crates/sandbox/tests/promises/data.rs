//! A link reads data of the host, and nothing that it does to it reaches the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use sandbox::{Spec, SpecData, Writable};

use crate::support::{Running, Setup, promises};

const BOTH: [Writable; 2] = [Writable::No, Writable::Private];

/// A folder of the host with something in it, which all may read.
fn host_folder(setup: &Setup) -> PathBuf {
    let folder = setup.folder.path().join("srv/data");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("model"), "of the host\n").unwrap();
    fs::write(folder.join("deep/file"), "deep\n").unwrap();
    symlink("deep/file", folder.join("link")).unwrap();
    symlink("/etc/group", folder.join("absolute")).unwrap();
    for path in ["srv", "srv/data", "srv/data/deep"] {
        fs::set_permissions(
            setup.folder.path().join(path),
            Permissions::from_mode(0o755),
        )
        .unwrap();
    }
    for path in ["model", "deep/file"] {
        fs::set_permissions(folder.join(path), Permissions::from_mode(0o644)).unwrap();
    }
    folder
}

fn with(setup: &Setup, data: &[(&str, PathBuf)], script: &str) -> Spec {
    let data = data.iter().map(|(path, source)| SpecData {
        path: path.into(),
        source: source.clone(),
    });
    Spec {
        data: data.collect(),
        ..setup.script(script)
    }
}

promises! {
    fn it_is_where_the_link_wants_it(setup) {
        let folder = host_folder(setup);
        let places = ["/models", "/usr/share/data", "/tmp/data", "/run/a/b", "/home"];
        for writable in BOTH {
            for place in places {
                let script = format!("cd {place}; cat model deep/file link; head -n 1 absolute; ls");
                let spec = Spec { writable, ..with(setup, &[(place, folder.clone())], &script) };
                // A link leads into the link's root.
                let expected = "of the host\ndeep\ndeep\nroot:x:0:\nabsolute\ndeep\nlink\nmodel\n";
                assert_eq!(setup.run(&spec, b"").success(), expected, "{place} {writable:?}");
            }
        }
    }

    fn it_may_be_a_file(setup) {
        let folder = host_folder(setup);
        symlink(folder.join("model"), setup.folder.path().join("current")).unwrap();
        for writable in BOTH {
            for source in [folder.join("model"), setup.folder.path().join("current")] {
                let data = [("/models/one.bin", source.clone()), ("/tmp/one.bin", source)];
                let spec = Spec { writable, ..with(setup, &data, "cat /models/one.bin /tmp/one.bin; ls -A /models") };
                assert_eq!(setup.run(&spec, b"").success(), "of the host\nof the host\none.bin\n");
            }
        }
    }

    fn nobody_changes_it(setup) {
        let folder = host_folder(setup);
        let attempts = [
            "echo x > /d/model", "echo x >> /d/new", "rm /d/model", "mkdir /d/x", "chmod 777 /d/model", "touch /d/deep",
            "mv /d/model /d/other", "ln -s x /d/x", "rm -r /d", "mv /d /d2", "chmod 700 /d", "mount -o remount,rw /d",
        ];
        for writable in BOTH {
            let script = attempts.map(|attempt| format!("if ({attempt}) 2>/dev/null; then echo '{attempt} worked'; fi; "));
            let spec = Spec { writable, ..with(setup, &[("/d", folder.clone())], &script.concat()) };
            assert_eq!(setup.run(&spec, b"").success(), "", "{writable:?}");
        }
        assert_eq!(fs::read_to_string(folder.join("model")).unwrap(), "of the host\n");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    }

    fn a_place_with_data_is_used_again(setup) {
        let folder = host_folder(setup);
        let data = [("/d", folder.clone()), ("/run/d/e", folder)];
        for writable in BOTH {
            let spec = Spec { writable, ..with(setup, &data, "attack place; read what; $what") };
            let zygote = setup.open(&spec);
            let place = || Running::start(&zygote).finish(b"cat /d/model /run/d/e/deep/file\n").stdout;
            assert_eq!(place(), place(), "{writable:?}");
        }
    }

    // By a mount of the host's folder itself it could.
    fn a_link_does_not_lock_the_hosts_files(setup) {
        let folder = host_folder(setup);
        let spec = with(setup, &[("/d", folder.clone())], "attack lock /d/model");
        let mut running = setup.start(&spec);
        assert_eq!(running.line(), "locked");
        let file = fs::File::open(folder.join("model")).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        running.tell("");
    }

    fn set_id_and_devices_mean_nothing(setup) {
        let folder = host_folder(setup);
        let spec = with(setup, &[("/d", folder)], "grep ' /d ' /proc/self/mountinfo");
        let mount = setup.run(&spec, b"").success();
        for option in ["ro", "nosuid", "nodev", "overlay"] {
            assert!(mount.contains(option), "{mount}");
        }
        let host = setup.folder.path().display().to_string();
        assert!(!mount.contains(&host), "{mount}");
    }

    fn what_cannot_be_data_is_refused(setup) {
        let folder = host_folder(setup);
        let at = |path: &str| folder.join(path);
        let refuses = |source: PathBuf, reason: &str| {
            let error = setup.open_error(&with(setup, &[("/d", source.clone())], "true"));
            assert!(error.starts_with("open the data \"/") && error.contains(reason), "{source:?}: {error}");
        };
        refuses(at("none"), "no such file or directory");
        refuses("/dev/null".into(), "it is a device");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("deep/fifo"), rustix::fs::Mode::RUSR).unwrap();
        refuses(at("deep/fifo"), "FIFO");
        refuses(folder.clone(), "deep/fifo\": it is a device, a FIFO");
        fs::remove_file(at("deep/fifo")).unwrap();
        if setup.spec(&[]).ids == sandbox::Ids::Own {
            // What it may read itself, a link may.
            return;
        }
        fs::set_permissions(at("deep/file"), Permissions::from_mode(0o640)).unwrap();
        refuses(folder.clone(), "deep/file\": not all users can read it: chmod o+r");
        fs::set_permissions(at("deep"), Permissions::from_mode(0o700)).unwrap();
        refuses(folder.clone(), "deep\": not all users can read this folder");
        refuses(at("deep/file"), "not all users");
    }

    // As an administrator would, with a link in the end.
    fn another_folder_in_its_place_is_seen_by_those_who_come_later(setup) {
        let folder = host_folder(setup);
        let current = setup.folder.path().join("current");
        symlink(&folder, &current).unwrap();
        let spec = with(setup, &[("/d", current.clone())], "read x; cat /d/model");
        let before = setup.open(&spec);
        let other = setup.folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("model"), "another\n").unwrap();
        fs::remove_file(&current).unwrap();
        symlink(&other, &current).unwrap();
        assert_eq!(Running::start(&before).finish(b"\n").success(), "of the host\n");
        assert_eq!(setup.run(&spec, b"\n").success(), "another\n");
        // Gone while it is used: what was there stays.
        fs::rename(&folder, setup.folder.path().join("moved")).unwrap();
        assert_eq!(Running::start(&before).finish(b"\n").success(), "of the host\n");
    }

    fn what_is_taken_away_while_it_is_used_is_an_error_of_the_command(setup) {
        let folder = host_folder(setup);
        let zygote = setup.open(&with(setup, &[("/d", folder.clone())], "cat /d/model || echo gone"));
        fs::remove_dir_all(&folder).unwrap();
        let output = Running::start(&zygote).finish(b"");
        assert_eq!(output.stdout, "gone\n", "{output:?}");
    }
}
