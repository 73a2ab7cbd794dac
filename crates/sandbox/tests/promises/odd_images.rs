//! An image may hold any symbolic link where something is mounted: it leads to
//! the image and nowhere else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Setup, exited, promises};

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
    fn private_folders_may_be_one(setup) {
        link(setup, "var/tmp", "/tmp");
        assert_eq!(setup.prints("echo it > /var/tmp/x; cat /tmp/x; ls -A /run"), "it\n");
    }

    fn a_private_folder_may_lie_in_another(setup) {
        link(setup, "tmp", "/run/a/tmp");
        link(setup, "var/tmp", "../run/a");
        fs::create_dir_all(setup.root.join("run/a/tmp")).unwrap();
        setup.give_to_sandbox();
        for writable in [false, true] {
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
        symlink("/proc/self/exe", setup.root.join("bin/self")).unwrap();
        setup.write("bin/script", "#!/proc/self/exe\n", 0o755);
        for command in ["/bin/self", "/bin/script"] {
            let output = setup.run(&setup.spec(&[command]), b"");
            assert_eq!(output.stdout, "", "{output:?}");
            assert_ne!(output.last, exited(0));
        }
    }
}
