//! A command may get its input as a file, and leave its output in one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Instant;

use sandbox::{
    Archiving, Event, Input, LeftOutput, Output, Spec, Stdio, WaitStatus, Writable, Zygote,
};

use crate::late::prepared;
use crate::support::{self, Running, Setup, promises};
use test_support::processes::descendants;
use test_support::{PATIENCE, until};

/// Executes the command once its input is stored.
pub(crate) fn start(zygote: &Zygote, input: &[u8]) -> Running {
    let mut prepared = prepared(zygote);
    let mut stdin = None;
    if let Some(file) = prepared.process.take_input() {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        stdin = Some(File::open(path).unwrap());
        File::from(file).write_all(input).unwrap();
    }
    Running::piped(|stdio| {
        let stdin = stdin.map_or(stdio.stdin, Into::into);
        let stdio = Stdio { stdin, ..stdio };
        let executed = prepared.process.execute(stdio, None, None);
        executed.unwrap();
        prepared.process
    })
}

fn with_input(setup: &Setup, script: &str, path: &str) -> Spec {
    Spec {
        input: Input::File(path.to_owned()),
        ..setup.script(script)
    }
}

fn with_output(setup: &Setup, script: &str, path: &str) -> Spec {
    Spec {
        output: Output::File(path.to_owned()),
        ..setup.script(script)
    }
}

/// What a script leaves as its output, with how it ends.
fn left(setup: &Setup, script: &str) -> (Event, Option<LeftOutput>) {
    let zygote = setup.open(&with_output(setup, script, "/tmp/made/out"));
    let mut running = Running::start(&zygote);
    let last = running.last_event();
    let left = running.process.take_output();
    drop(running);
    until("nothing runs any more", || {
        descendants(std::process::id()).len() == 1
    });
    (last, left)
}

fn content(left: Option<LeftOutput>) -> String {
    let Some(LeftOutput::File(file)) = left else {
        panic!("{left:?}");
    };
    let mut content = String::new();
    File::from(file).read_to_string(&mut content).unwrap();
    content
}

promises! {
    fn an_input_is_a_file_of_the_commands_user(setup) {
        let script = "cat /tmp/a/b/in; cat; cat /dev/stdin; tail -c 2; stat -c '%u:%g %a' /tmp/a /tmp/a/b /tmp/a/b/in; pwd";
        for (user, owner) in [("", "0:0"), ("www", "33:34")] {
            let spec = Spec { user: user.into(), ..with_input(setup, script, "/tmp/a/b/in") };
            let zygote = setup.open(&spec);
            for input in ["first", "second"] {
                let said = start(&zygote, input.as_bytes()).finish(b"").success();
                let stat = format!("{owner} 755\n{owner} 755\n{owner} 644\n/\n");
                assert_eq!(said, format!("{input}{input}{input}{}{stat}", &input[input.len() - 2..]));
            }
        }
    }

    fn it_may_be_in_any_private_folder_also_with_a_writable_root(setup) {
        for folder in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
            for writable in [Writable::No, Writable::Private] {
                let path = format!("{folder}/in");
                let spec = with_input(setup, &format!("cat {path}; echo more >> {path}; cat {path}"), &path);
                let spec = Spec { user: "www".into(), writable, ..spec };
                let said = start(&setup.open(&spec), b"in\n").finish(b"").success();
                assert_eq!(said, "in\nin\nmore\n", "{path}");
            }
        }
    }

    fn an_input_may_be_no_more_than_seekable(setup) {
        let script = "ls /tmp /run /dev/shm; cat; cat /dev/stdin; tail -c 3 /dev/stdin";
        let spec = Spec { input: Input::Seekable, user: "www".into(), ..setup.script(script) };
        let zygote = setup.open(&spec);
        let said = start(&zygote, b"a line\n").finish(b"").success();
        assert_eq!(said, "/dev/shm:\n\n/run:\n\n/tmp:\na line\na line\nne\n");
    }

    fn a_program_may_be_an_input(setup) {
        let zygote = setup.open(&with_input(setup, "chmod +x /tmp/program; exec /tmp/program", "/tmp/program"));
        let said = start(&zygote, b"#!/bin/sh\necho it runs\n").finish(b"").success();
        assert_eq!(said, "it runs\n");
    }

    fn a_place_with_an_input_is_used_once(setup) {
        let zygote = setup.open(&with_input(setup, "attack place", "/tmp/in"));
        let place = || start(&zygote, b"").finish(b"").success();
        assert_ne!(place(), place());
    }

    fn an_input_that_is_too_large_finds_no_room(setup) {
        let spec = Spec { scratch_bytes: 1 << 20, ..with_input(setup, "cat", "/tmp/in") };
        let zygote = setup.open(&spec);
        let mut prepared = prepared(&zygote);
        let mut file = File::from(prepared.process.take_input().unwrap());
        let error = file.write_all(&vec![b'x'; 8 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn a_path_outside_of_the_private_folders_is_refused(setup) {
        for path in ["/etc/in", "/tmp", "/tmp/", "/tmp/../etc/in", "in", "/tmpfile"] {
            let error = setup.open_error(&with_input(setup, "", path));
            assert!(error.starts_with("make the place of its Input"), "{error}");
            assert!(error.contains(&format!("{path:?}")), "{error}");
            let error = setup.open_error(&with_output(setup, "", path));
            assert!(error.starts_with("make the place of its Output"), "{error}");
        }
    }

    fn what_a_command_leaves_is_its_output_whatever_its_code(setup) {
        for code in [0, 3] {
            let (last, left) = left(setup, &format!("echo out > /tmp/made/out; exit {code}"));
            assert_eq!(last, support::exited(code));
            assert_eq!(content(left), "out\n");
        }
        let (last, left) = left(setup, "echo out > /tmp/made/out; kill -9 $$");
        assert_eq!(last, Event::Exited(WaitStatus::Signalled(9)));
        assert_eq!(content(left), "out\n");
    }

    fn it_is_read_when_nothing_runs_any_more(setup) {
        let script = "echo out > /tmp/made/out; \
            setsid sh -c 'echo started > /tmp/made/started; while true; do :; done' > /dev/null 2>&1 & \
            until [ -e /tmp/made/started ]; do :; done; exit 0";
        let (last, left) = left(setup, script);
        assert_eq!(last, support::exited(0));
        assert_eq!(content(left), "out\n");
    }

    fn what_the_user_may_not_read_is_read_all_the_same(setup) {
        let (_, left) = left(setup, "echo out > /tmp/made/out; chmod 0 /tmp/made/out /tmp/made");
        assert_eq!(content(left), "out\n");
    }

    fn an_output_that_is_not_there_is_missing(setup) {
        for script in ["true", "rm -r /tmp/made", "rmdir /tmp/made; echo > /tmp/made"] {
            let (last, left) = left(setup, script);
            assert_eq!(last, support::exited(0));
            assert!(matches!(left, Some(LeftOutput::Missing)), "{script}: {left:?}");
        }
    }

    fn one_that_is_no_file_is_not_read(setup) {
        for script in [
            "mkdir /tmp/made/out",
            "mknod /tmp/made/out p",
            "ln -s /etc/passwd /tmp/made/out",
            "ln -s /proc/self/environ /tmp/made/out",
            "echo > /tmp/made/other; ln -s other /tmp/made/out",
            "rmdir /tmp/made; ln -s /etc /tmp/made; ln -s . /tmp/out",
            "rmdir /tmp/made; mkdir /run/made; echo > /run/made/out; ln -s /run/made /tmp/made",
        ] {
            let (last, left) = left(setup, script);
            assert_eq!(last, support::exited(0), "{script}");
            assert!(matches!(left, Some(LeftOutput::Odd)), "{script}: {left:?}");
        }
    }

    fn an_input_and_an_output_go_together(setup) {
        let script = "tr a-z A-Z < /tmp/in > /tmp/out; echo said";
        let spec = Spec { output: Output::File("/tmp/out".into()), ..with_input(setup, script, "/tmp/in") };
        let zygote = setup.open(&spec);
        let mut running = start(&zygote, b"small\n");
        assert_eq!(running.line(), "said");
        assert_eq!(running.last_event(), support::exited(0));
        assert_eq!(content(running.process.take_output()), "SMALL\n");
    }
}

/// A tar of these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What becomes of what was asked for, when it is over.
fn result(archiving: &Archiving) -> Result<(), String> {
    assert!(support::readable(archiving, Instant::now() + PATIENCE));
    archiving.result().map_err(|error| error.to_string())
}

/// Unpacks a tar in a place that is prepared.
fn unpack(prepared: &Running, tar: &[u8]) -> Result<(), String> {
    let (source, mut pipe) = std::io::pipe().unwrap();
    let archiving = prepared.process.unpack(source.into()).unwrap();
    // Who is refused reads no more.
    let _ = pipe.write_all(tar);
    drop(pipe);
    result(&archiving)
}

fn with_folder(setup: &Setup, script: &str) -> Spec {
    Spec {
        input: Input::Folder("/tmp/a/in".to_owned()),
        ..setup.script(script)
    }
}

promises! {
    fn a_tar_is_unpacked_into_a_folder_of_the_commands_user(setup) {
        let script = "cd /tmp/a/in; cat one sub/two; stat -c '%u:%g %a' . one sub sub/two; cat";
        let tar = tar_of(&[("one", b"1\n"), ("sub/two", b"2\n")]);
        for (user, owner) in [("", "0:0"), ("www", "33:34")] {
            let zygote = setup.open(&Spec { user: user.into(), ..with_folder(setup, script) });
            for _ in 0..2 {
                let prepared = prepared(&zygote);
                unpack(&prepared, &tar).unwrap();
                let said = crate::late::execute(prepared, None).finish(b"").success();
                let stat = format!("{owner} 755\n{owner} 640\n{owner} 755\n{owner} 640\n");
                assert_eq!(said, format!("1\n2\n{stat}"));
            }
        }
    }

    fn what_unpacks_may_do_no_more_than_the_command(setup) {
        let spec = Spec { user: "www".into(), ..with_folder(setup, "cat") };
        let zygote = setup.open(&spec);
        let mut prepared = prepared(&zygote);
        let before = descendants(std::process::id()).len();
        let (source, mut pipe) = std::io::pipe().unwrap();
        let archiving = prepared.process.unpack(source.into()).unwrap();
        // It is past its start once it reads.
        pipe.write_all(&vec![0; 1 << 20]).unwrap();
        let all = descendants(std::process::id());
        assert_eq!(all.len(), before + 1);
        let unpacking = all.iter().max_by_key(|process| process.id).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", unpacking.id)).unwrap();
        let fields = ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"];
        for wanted in fields {
            assert!(status.contains(wanted), "{wanted}: {status}");
        }
        // Whose table of open files root alone may see.
        if let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", unpacking.id)) {
            let open: Vec<_> = open.map(|file| std::fs::read_link(file.unwrap().path()).unwrap()).collect();
            let mut others: Vec<_> = open.iter().map(|path| path.to_str().unwrap()).collect();
            others.retain(|path| !path.starts_with("pipe:"));
            // What becomes of it is said there; and the folder.
            let is_known = |path: &&str| path.starts_with("socket:") || path.ends_with("/tmp/a/in");
            assert!(others.len() == 2 && others.iter().all(is_known), "{open:?}");
        }
        if let sandbox::Ids::Shifted { base } = spec.ids {
            let wanted = format!("Uid:\t{0}\t{0}\t{0}\t{0}", base + 33);
            assert!(status.contains(&wanted), "{status}");
        }
        // And is gone with the place.
        prepared.process.kill_and_wait();
        assert!(result(&archiving).is_err());
        unpacking.wait_until_gone();
    }

    fn a_tar_that_leads_out_or_does_not_fit_is_refused(setup) {
        let spec = Spec { scratch_bytes: 1 << 20, ..with_folder(setup, "cat") };
        let zygote = setup.open(&spec);
        let many: Vec<_> = (0..5000).map(|number| format!("{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (&**name, &b""[..])).collect();
        for (tar, wanted) in [
            (tar_of(&[("../evil", b"")]), "unpack \"../evil\": its path leads out of the folder"),
            (tar_of(&[("/tmp/evil", b"")]), "unpack \"/tmp/evil\": its path leads out of the folder"),
            (tar_of(&[("large", &vec![b'x'; 8 << 20])]), "unpack \"large\": no space left on device"),
            (tar_of(&many), ": no space left on device"),
            (b"no tar".repeat(1000), "read the tar: "),
        ] {
            let error = unpack(&prepared(&zygote), &tar).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    fn what_a_command_leaves_in_a_folder_is_packed(setup) {
        let script = "cd /tmp/b/out; echo 1 > one; mkdir sub; echo 2 > sub/two; ln -s sub/two link; \
            mknod fifo p; (while true; do echo x >> sub/more; done) > /dev/null 2>&1 &";
        let spec = Spec {
            output: Output::Folder("/tmp/b/out".into()),
            user: "www".into(),
            ..setup.script(script)
        };
        let zygote = setup.open(&spec);
        let mut running = Running::start(&zygote);
        assert_eq!(running.event(), Event::Started);
        assert_eq!(running.event(), support::exited(0));
        assert!(matches!(running.process.take_output(), Some(LeftOutput::Folder)));
        let (mut tar, target) = std::io::pipe().unwrap();
        let archiving = running.process.pack(target.into()).unwrap();
        let mut packed = Vec::new();
        tar.read_to_end(&mut packed).unwrap();
        result(&archiving).unwrap();
        let mut archive = tar::Archive::new(&packed[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        let found: Vec<_> = entries.filter(|(path, _)| path != "sub/more").collect();
        let wanted = [("link", ""), ("one", "1\n"), ("sub", ""), ("sub/two", "2\n")];
        let wanted = wanted.map(|(path, content)| (path.to_owned(), content.to_owned()));
        assert_eq!(found, wanted);
        drop(running);
        until("nothing runs any more", || descendants(std::process::id()).len() == 1);
    }

    fn a_folder_that_is_replaced_is_not_packed(setup) {
        for script in ["rm -r /tmp/out; ln -s /etc /tmp/out", "rmdir /tmp/out; echo > /tmp/out"] {
            let spec = Spec { output: Output::Folder("/tmp/out".into()), ..setup.script(script) };
            let zygote = setup.open(&spec);
            let mut running = Running::start(&zygote);
            assert_eq!(running.event(), Event::Started);
            assert_eq!(running.event(), support::exited(0));
            assert!(matches!(running.process.take_output(), Some(LeftOutput::Odd)), "{script}");
        }
    }
}
