//! Images with a layer in common have its files once on the disk (hard links). What two
//! links of such images can do to each other through them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sandbox::{Spec, Writable};

use crate::support::{Running, Setup, promises};

const BOTH: [Writable; 2] = [Writable::No, Writable::Private];

/// Has all files of `from` in `to` as well, as the image store does it.
fn link_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => link_all(&entry.path(), &name),
            false => fs::hard_link(entry.path(), name).unwrap(),
        }
    }
}

/// A script in this image, and the same one in another image that shares the files.
fn both(setup: &Setup, writable: Writable, script: &str) -> [Spec; 2] {
    let other = setup.folder.path().join(format!("other-{writable:?}"));
    if !other.exists() {
        setup.write("shared", "of the image\n", 0o666);
        link_all(&setup.root, &other);
        setup.give_to_sandbox();
        if let sandbox::Ids::Shifted { base } = sandbox::Ids::detect() {
            give_folders(&other, base);
        }
    }
    let spec = Spec {
        writable,
        ..setup.script(script)
    };
    [
        spec.clone(),
        Spec {
            root: other,
            ..spec
        },
    ]
}

fn give_folders(folder: &Path, owner: u32) {
    std::os::unix::fs::lchown(folder, Some(owner), Some(owner)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give_folders(&entry.path(), owner);
        }
    }
}

promises! {
    fn a_lock_of_one_is_none_for_the_other(setup) {
        for writable in BOTH {
            let mut held = Vec::new();
            for spec in both(setup, writable, "attack lock /shared") {
                let mut running = setup.start(&spec);
                assert_eq!(running.line(), "locked", "{writable:?}");
                held.push(running);
            }
            // And none for the host.
            let file = fs::File::open(setup.root.join("shared")).unwrap();
            file.try_lock().unwrap();
            for mut running in held {
                running.tell("");
            }
        }
    }

    fn one_does_not_notice_what_the_other_reads(setup) {
        for writable in BOTH {
            let [one, other] = both(setup, writable, "exec attack notice /shared");
            let mut watching = setup.start(&one);
            assert_eq!(watching.line(), "watching");
            let reading = Spec { command: vec!["/bin/cat".into(), "/shared".into()], ..other };
            assert_eq!(setup.run(&reading, b"").success(), "of the image\n");
            watching.tell("");
            assert_eq!(watching.line(), "noticed nothing", "{writable:?}");
        }
    }

    // What it writes is its own copy, whatever it does, and no time of a file is changed
    // by reading it.
    fn nothing_that_one_does_changes_what_the_other_has(setup) {
        let attempts = [
            "echo evil > /shared", "echo evil >> /shared", "chmod 777 /shared", "touch /shared", "chown 5 /shared",
            "ln /shared /more", "mv /shared /moved", "cat /shared >/dev/null", "rm /shared", ": > /bin/attack",
        ];
        let script = attempts.map(|attempt| format!("({attempt}) 2>/dev/null; ")).concat() + "true";
        for writable in BOTH {
            let [one, other] = both(setup, writable, &script);
            let about = || {
                ["shared", "bin/attack"].map(|name| {
                    let about = fs::metadata(setup.root.join(name)).unwrap();
                    let times = (about.atime_nsec(), about.mtime_nsec(), about.ctime_nsec());
                    (about.permissions().mode(), about.uid(), about.nlink(), about.ino(), about.len(), times)
                })
            };
            let before = about();
            setup.run(&one, b"").success();
            assert_eq!(about(), before, "{writable:?}");
            let reading = Spec { command: vec!["/bin/cat".into(), "/shared".into()], ..other };
            let zygote = setup.open(&reading);
            assert_eq!(Running::start(&zygote).finish(b"").success(), "of the image\n");
        }
    }

    // Known, and told in docs/sandbox.md: it sees that there are others, and since when.
    fn the_number_of_links_tells_how_many_images_share_a_file(setup) {
        for writable in BOTH {
            let [one, _] = both(setup, writable, "stat -c %h /shared");
            let links = fs::metadata(setup.root.join("shared")).unwrap().nlink();
            assert_eq!(setup.run(&one, b"").success(), format!("{links}\n"));
        }
    }
}
