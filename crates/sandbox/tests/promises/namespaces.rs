//! A process has namespaces of its own: none is the host's, and those through
//! which processes could meet differ for each process.

use sandbox::Ids;

use crate::support::{Running, promises};

const ALL: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

const SHOW: &str =
    "cd /proc/self/ns; for n in cgroup ipc mnt net pid user uts; do readlink $n; done; echo; cat";

fn shown(running: &mut Running) -> Vec<String> {
    ALL.iter().map(|_| running.line()).collect()
}

promises! {
    fn no_namespace_is_the_hosts(setup) {
        let inside = shown(&mut setup.start(&setup.script(SHOW)));
        for (name, inside) in ALL.iter().zip(inside) {
            let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert!(inside.starts_with(&format!("{name}:[")), "{inside}");
            assert_ne!(host.to_str().unwrap(), inside);
        }
    }

    // The clocks of a link are the host's, and not the file by which they are known.
    fn the_clocks_are_each_links_own_where_ids_are_shifted(setup) {
        let spec = setup.script("readlink /proc/self/ns/time; cat /proc/uptime");
        let mut seen: Vec<_> = (0..2).map(|_| setup.open(&spec)).collect::<Vec<_>>()
            .iter().map(|zygote| Running::start(zygote).finish(b"").success()).collect();
        let Ok(host) = std::fs::read_link("/proc/self/ns/time") else {
            // A kernel that knows none.
            return;
        };
        seen.push(format!("{}\n", host.display()));
        let mut clocks: Vec<_> = seen.iter().map(|text| text.lines().next().unwrap()).collect();
        clocks.sort_unstable();
        clocks.dedup();
        assert_eq!(clocks.len(), if setup.spec(&[]).ids == Ids::Own { 1 } else { 3 }, "{seen:?}");
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
