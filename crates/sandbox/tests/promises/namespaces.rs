//! A process has namespaces of its own: none is the host's, and those through
//! which processes could meet differ for each process.

use crate::support::{Running, promises};

const ALL: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

const SHOW: &str =
    "cd /proc/self/ns; for n in cgroup ipc mnt net pid user uts; do readlink $n; done; echo; cat";

fn shown(running: &mut Running) -> Vec<String> {
    ALL.iter().map(|_| running.line()).collect()
}

promises! {
    fn none_is_the_hosts(setup) {
        let inside = shown(&mut setup.start(&setup.script(SHOW)));
        for (name, inside) in ALL.iter().zip(inside) {
            let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert!(inside.starts_with(&format!("{name}:[")), "{inside}");
            assert_ne!(host.to_str().unwrap(), inside);
        }
    }

    fn where_processes_could_meet_each_has_its_own(setup) {
        let zygote = setup.open(&setup.script(SHOW));
        // At the same time: a number is used again when its namespace is gone.
        let mut processes = [Running::start(&zygote), Running::start(&zygote)];
        let [one, other] = [0, 1].map(|at| shown(&mut processes[at]));
        for (at, name) in ALL.iter().enumerate() {
            // A cgroup namespace comes with a cgroup, where there are cgroups.
            if *name == "cgroup" {
                continue;
            }
            let own = ["ipc", "mnt", "net", "pid"].contains(name);
            assert_eq!(one[at] != other[at], own, "{name}");
        }
    }
}
