//! runc's CVE-2019-5736: the program outside, through the one inside. A command is
//! executed by a process that executes the runner's own program until then, so an
//! image can have that program for a script's interpreter, and its own dynamic
//! loader in it. It must not be able to change it, now or later, nor to see where
//! on the host it is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::io::Errno;
use sandbox::{Event, Ids, Launcher, Limits, OpenError, Spec, Step, Writable};

use crate::support::{self, Running, loader, promises, zygote};

/// Where an ELF program of 64 bits says that its dynamic loader is, if it has one.
fn dynamic_loader(program: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| {
        let bytes = program[at..at + length].iter().rev();
        bytes.fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
    };
    let place = |at, length| usize::try_from(number(at, length)).unwrap();
    let (table, size, count) = (place(32, 8), place(54, 2), place(56, 2));
    let headers = (0..count).map(|at| table + at * size);
    let header = headers.into_iter().find(|at| number(*at, 4) == PT_INTERP)?;
    let (start, length) = (place(header + 8, 8), place(header + 32, 8));
    let path = std::str::from_utf8(&program[start..start + length - 1]);
    Some(PathBuf::from(path.unwrap()))
}

/// The copies in memory that this process has for its zygotes.
fn copies() -> Vec<PathBuf> {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_copy = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.starts_with("/memfd:zygote (deleted)"))
    };
    open.map(|entry| entry.path()).filter(is_copy).collect()
}

promises! {
    fn it_can_be_neither_changed_nor_located(setup) {
        // Anybody may write to it, as far as its mode goes.
        let program = setup.folder.path().join("program-of-the-runner");
        fs::copy(zygote(), &program).unwrap();
        let anybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&program, anybody.clone()).unwrap();
        let content = fs::read(&program).unwrap();

        // A static program has none, and runs nothing of the image's.
        let dynamic_loader = dynamic_loader(&content);
        if let Some(path) = &dynamic_loader {
            let place = setup.root.join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(loader(), &place).unwrap();
            fs::set_permissions(&place, anybody.clone()).unwrap();
        }
        setup.write("bin/script", "#!/proc/self/exe\n", 0o755);
        let launcher = Launcher::with_program(&program);
        for (user, writable) in [("", Writable::No), ("", Writable::Private), ("www", Writable::No)] {
            let spec = Spec { user: user.into(), writable, ..setup.spec(&["/bin/script"]) };
            let zygote = launcher.open(&spec, Limits::default()).unwrap();
            for _ in 0..2 {
                let output = Running::start(&zygote).finish(b"");
                // Landlock lets nobody execute what has no place below his root.
                let is_denied = output.last == Event::Failed(Step::Execute, libc::EACCES);
                if is_denied && sandbox::facilities().landlock > 0 {
                    continue;
                }
                if dynamic_loader.is_some() {
                    let said = output.success();
                    assert!(said.contains("\nmaps "), "{said}");
                    let shown = setup.folder.path().to_str().unwrap();
                    assert!(!said.contains(shown) && !said.contains("program-of"), "{said}");
                    assert_eq!(said.matches(" held\n").count(), 5, "{said}");
                    assert!(!said.contains("BROKEN"), "{said}");
                }
            }
            drop(zygote);
            assert!(fs::read(&program).unwrap() == content);
            let mode = fs::metadata(&program).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, anybody.mode());
        }

        // When nobody executes it any more, only its seals protect the copy.
        let copies = copies();
        assert_eq!(copies.is_empty(), Ids::detect() != Ids::Own, "{copies:?}");
        for copy in copies {
            assert!(fs::read(&copy).unwrap() == content);
            for truncated in [false, true] {
                let opened = fs::OpenOptions::new().write(true).truncate(truncated).open(&copy);
                let error = opened.and_then(|mut file| file.write_all(b"x")).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
            }
        }
    }
}

/// As this test program: its zygotes would run the tests once more.
#[test]
fn without_the_call_in_main_no_zygote_is_opened() {
    support::as_root(|setup| {
        let opened = Launcher::new().open(&setup.spec(&["/bin/true"]), Limits::default());
        let error = opened.unwrap_err();
        assert!(matches!(error, OpenError::NoZygote), "{error}");
        assert!(error.to_string().contains("run_zygote_if_asked"), "{error}");
    });
}

/// Landlock is a second wall, so the first one is tried without it.
mod without_landlock_it_is_as_safe {
    use super::*;

    fn tests() -> Vec<String> {
        let own = concat!(module_path!(), "::it_can_be_neither_changed_nor_located");
        let own = own.replace("without_landlock_it_is_as_safe::", "");
        vec![own, "promises::attack::nothing_gives_way".to_owned()]
    }

    #[test]
    fn as_root() {
        support::as_root(|_| {
            for test in tests() {
                support::without_landlock(&format!("{test}::as_root"));
            }
        });
    }

    #[test]
    fn rootless() {
        // The unprivileged user of each is another one where this is root.
        for test in tests() {
            support::without_landlock(&format!("{test}::rootless"));
        }
    }
}
