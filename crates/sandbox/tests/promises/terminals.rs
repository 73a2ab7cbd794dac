//! A process can make terminals, which are its own.

use sandbox::{Ids, Spec, Writable};

use crate::support::{Running, promises};

promises! {
    fn a_process_has_eight_terminals_and_changes_nothing_of_them(setup) {
        let wanted = "ptmx ok\ngrantpt ok\nunlockpt ok\nptsname ok\nchild ok\n\
            change-its-mode EROFS\nchange-its-owner EROFS\nchange-the-multiplexer EROFS\n\
            other-discipline EPERM\ntype-into-it EPERM\n8 ENOSPC\n";
        for writable in [Writable::No, Writable::Private] {
            let spec = Spec { writable, ..setup.spec(&["probe", "terminal"]) };
            assert_eq!(setup.run(&spec, b"").success(), wanted, "{writable:?}");
        }
    }

    // With ids of its own, every user can; else the link's root.
    fn so_has_another_user(setup) {
        let spec = Spec { user: "www".into(), ..setup.spec(&["probe", "terminal"]) };
        let output = setup.run(&spec, b"");
        let is_there = spec.ids != Ids::Own;
        assert_eq!(output.stdout.starts_with("ptmx ok\n"), is_there, "{output:?}");
    }

    fn two_processes_have_terminals_of_their_own(setup) {
        let zygote = setup.open(&setup.script("exec 3<>/dev/ptmx; ls /dev/pts | sort; echo done; read go"));
        let mut both = [Running::start(&zygote), Running::start(&zygote)];
        for running in &mut both {
            assert_eq!([running.line(), running.line(), running.line()], ["0", "ptmx", "done"]);
        }
    }
}
