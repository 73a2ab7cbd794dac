//! An image may hold any symbolic link where something is mounted: it leads to
//! the image and nowhere else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sandbox::{Spec, Writable};

use crate::support::{Setup, exited, promises};

/// More than a zygote ever has open while it enters.
const DESCRIPTORS_MAX: u32 = 16;

/// Puts a link in the place of a folder.
fn link(setup: &Setup, place: &str, target: &str) {
    let place = setup.root.join(place);
    fs::remove_dir_all(&place).unwrap();
    symlink(target, &place).unwrap();
    setup.give_to_sandbox();
}

/// Ways from a root to a folder of the host, if one could leave the root.
fn ways_out(folder: &Path) -> [String; 2] {
    let folder = folder.display();
    [
        folder.to_string(),
        format!("../../../../../../../../..{folder}"),
    ]
}

promises! {
    fn a_private_folder_may_be_a_link(setup) {
        link(setup, "var/tmp", "/tmp");
        assert_eq!(setup.prints("echo it > /var/tmp/x; cat /tmp/x; ls -A /run"), "it\n");
    }

    fn a_private_folder_may_lie_in_another(setup) {
        link(setup, "tmp", "/run/a/tmp");
        link(setup, "var/tmp", "../run/a");
        fs::create_dir_all(setup.root.join("run/a/tmp")).unwrap();
        setup.give_to_sandbox();
        for writable in [Writable::No, Writable::Private] {
            let mut spec = setup.script("echo it > /tmp/x; echo at > /var/tmp/y; cat /run/a/tmp/x /run/a/y");
            spec.writable = writable;
            assert_eq!(setup.run(&spec, b"").success(), "it\nat\n");
        }
    }

    fn a_private_folder_that_leads_out_leads_nowhere(setup) {
        let host = setup.folder.path().join("host");
        fs::create_dir(&host).unwrap();
        for (at, way) in ways_out(&host).into_iter().enumerate() {
            let place = ["tmp", "run"][at];
            link(setup, place, &way);
            let error = setup.open_error(&setup.spec(&["true"]));
            let expected = format!("mount a private folder \"/{place}\": ");
            assert!(error.starts_with(&expected), "{error}");
            fs::remove_file(setup.root.join(place)).unwrap();
            fs::create_dir(setup.root.join(place)).unwrap();
        }
        assert_eq!(fs::read_dir(host).unwrap().count(), 0);
    }

    fn a_dev_that_leads_out_leads_nowhere(setup) {
        let host = setup.folder.path().join("host");
        fs::create_dir(&host).unwrap();
        for way in ways_out(&host) {
            let _ = fs::remove_file(setup.root.join("dev"));
            let _ = fs::remove_dir(setup.root.join("dev"));
            symlink(way, setup.root.join("dev")).unwrap();
            let error = setup.open_error(&setup.spec(&["true"]));
            assert_eq!(error, "mount /dev \"/dev\": no such file or directory");
        }
        assert_eq!(fs::read_dir(host).unwrap().count(), 0);
    }

    fn a_dev_that_leads_elsewhere_in_the_image_is_there(setup) {
        link(setup, "dev", "../../home");
        assert_eq!(setup.prints("echo x > /dev/null; ls /home | head -n 1"), "fd\n");
        assert!(!Path::new("/home/null").exists());
    }

    fn a_root_without_its_mount_points_is_refused(setup) {
        fs::remove_dir(setup.root.join("proc")).unwrap();
        let error = setup.open_error(&setup.spec(&["true"]));
        assert_eq!(error, "mount /proc \"/proc\": no such file or directory (the root is incomplete: remove the image and fetch it again)");
    }

    fn a_root_that_is_not_there_is_refused(setup) {
        let mut spec = setup.spec(&["true"]);
        spec.root = setup.folder.path().join("none");
        let error = setup.open_error(&spec);
        assert!(error.starts_with("open the image's root \"/"), "{error}");
        assert!(error.contains("none\": no such file or directory ("), "{error}");
    }

    // A command is executed by what was the zygote a moment before. That program
    // is no part of the image: where its own loader is not in there by chance it
    // does not run, and where it does, it does nothing. See also program.rs.
    fn the_zygotes_own_program_is_of_no_use(setup) {
        setup.write("bin/script", "#!/proc/self/exe\n", 0o755);
        let output = setup.run(&setup.spec(&["/bin/script"]), b"");
        assert_eq!(output.stdout, "", "{output:?}");
        assert_ne!(output.last, exited(0));
        symlink("/proc/self/exe", setup.root.join("bin/self")).unwrap();
        for command in ["/bin/self", "/proc/self/exe", "/proc/1/exe"] {
            let error = setup.open_error(&setup.spec(&[command]));
            assert!(error.contains("is no part of an image"), "{command}: {error}");
        }
    }

    // runc's CVE-2024-21626: a folder of the host that is open where the image's
    // paths are followed, and the way from there to all of the host.
    fn no_descriptor_leads_out_by_a_path_of_the_image(setup) {
        let host = setup.folder.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::copy("/bin/busybox", host.join("pwd")).unwrap();
        let up = "../".repeat(20);
        let refused = |spec: &Spec, step: &str| {
            let error = setup.open_error(spec);
            assert!(error.starts_with(step), "{:?} in {:?}: {error}", spec.command, spec.working_directory);
            // Whether something is there must not be told either.
            for told in ["not a directory", "permission denied", "make it executable", "is a directory"] {
                assert!(!error.contains(told), "{:?} in {:?}: {error}", spec.command, spec.working_directory);
            }
        };
        for number in 0..DESCRIPTORS_MAX {
            for fd in ["/proc/self/fd", "/proc/1/fd"] {
                for way in ["", "/../..", &format!("/{up}{}", host.display())] {
                    let working_directory = format!("{fd}/{number}{way}");
                    refused(&Spec { working_directory, ..setup.spec(&["pwd"]) }, "enter the working directory ");
                }
                for way in ["/bin/pwd", &format!("/{up}{}/pwd", host.display()), &format!("/{up}bin/sh")] {
                    refused(&setup.spec(&[&format!("{fd}/{number}{way}")]), "find the command ");
                }
            }
        }
    }

    fn links_of_the_image_to_descriptors_are_refused(setup) {
        for (number, name) in (0..DESCRIPTORS_MAX).map(|number| (number, format!("home/{number}"))) {
            symlink(format!("/proc/self/fd/{number}"), setup.root.join(&name)).unwrap();
            let inside = |way: &str| Spec { working_directory: format!("/{name}{way}"), ..setup.spec(&["pwd"]) };
            for way in ["", "/..", "/../../.."] {
                let error = setup.open_error(&inside(way));
                assert!(error.starts_with("enter the working directory "), "{error}");
            }
        }
    }
}
