//! What a process and its descendants have used until now, by what `/proc` says of them.
//!
//! This is for a process that is about to be killed: nobody waits for what is killed with
//! its init, so nobody is told what it has used.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::{AsRawFd, OwnedFd, RawFd};

/// The most processes that are looked at: each takes some microseconds, and the runner
/// waits for it.
const PROCESSES_MAX: usize = 64;

/// How long a clock tick is for programs (`USER_HZ`), on all processors that we run on.
const TICK: Duration = Duration::from_millis(10);

/// The processor time of an init's descendants, with that of the children that they have
/// waited for, in steps of a clock tick. `None` if it cannot be found out, or there are more
/// of them than are looked at. What init itself has waited for is left out: it may be of
/// earlier commands in the same place.
pub(crate) fn cpu_time(init: &OwnedFd) -> Option<Duration> {
    cpu_time_below(Path::new("/proc"), id_of(init.as_raw_fd())?)
}

/// The id, as this `/proc` has it, of the process that a pidfd is for, if that is still there.
pub(crate) fn id_of(pidfd: RawFd) -> Option<u32> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    let id = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // It is -1 for a process that has ended.
    id.trim().parse().ok()
}

/// The same by the id of init, given where `/proc` is mounted.
fn cpu_time_below(proc: &Path, init: u32) -> Option<Duration> {
    let folder = |id: u32| proc.join(id.to_string());
    let mut ticks = 0;
    let mut found = children(&folder(init), init)?;
    let mut seen = 0;
    while let Some(id) = found.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            return None;
        }
        match Ticks::of(&folder(id)) {
            Some(of_one) => {
                ticks += of_one.own + of_one.of_children;
                found.extend(children(&folder(id), id).unwrap_or_default());
            }
            // One that is gone by now has been waited for by its parent. Of one that is
            // there and cannot be read, it is not known what it hides.
            None if folder(id).exists() => return None,
            None => {}
        }
    }
    Some(TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)))
}

/// What a process has used, in clock ticks.
struct Ticks {
    own: u64,
    /// Of the children that it has waited for, and of those that they have.
    of_children: u64,
}

impl Ticks {
    fn of(process: &Path) -> Option<Ticks> {
        // The name of the program in it need not be UTF-8.
        let stat = fs::read(process.join("stat")).ok()?;
        Ticks::from_stat(&String::from_utf8_lossy(&stat))
    }

    /// By a file `/proc/<pid>/stat`, where the name, which may hold anything, is in
    /// parentheses.
    fn from_stat(stat: &str) -> Option<Ticks> {
        let (_, behind_name) = stat.rsplit_once(") ")?;
        let mut times = behind_name.split(' ').skip(11).map(str::parse::<u64>);
        let mut two = || Some(times.next()?.ok()? + times.next()?.ok()?);
        Some(Ticks {
            own: two()?,
            of_children: two()?,
        })
    }
}

/// The children of all threads of a process.
fn children(process: &Path, id: u32) -> Option<Vec<u32>> {
    let threads = process.join("task");
    let read = |thread: PathBuf| fs::read_to_string(thread.join("children")).ok();
    // As a rule it has one thread, of its own id.
    let mut said = read(threads.join(id.to_string()))?;
    for thread in fs::read_dir(&threads).ok()?.flatten() {
        if thread.file_name().to_str() != Some(&id.to_string()) {
            said.push_str(&read(thread.path()).unwrap_or_default());
        }
    }
    Some(said.split_whitespace().flat_map(str::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a process into a `/proc`: its time, that of its children, and who these are.
    fn put(proc: &Path, id: u32, times: [u64; 2], children: &str) {
        let task = proc.join(format!("{id}/task/{id}"));
        fs::create_dir_all(&task).unwrap();
        let [own, of_children] = times;
        let stat = format!("{id} (a) name) S 1 2 3 4 5 6 7 8 9 10 {own} 1 {of_children} 2 20 0\n");
        fs::write(proc.join(format!("{id}/stat")), stat).unwrap();
        fs::write(task.join("children"), children).unwrap();
    }

    #[test]
    fn what_init_has_below_it_counts_and_init_itself_does_not() {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        put(proc, 7, [1000, 10], "8 9 ");
        put(proc, 8, [20, 30], "");
        put(proc, 9, [40, 50], "10");
        // One that is gone.
        let ticks = (20 + 1 + 30 + 2) + (40 + 1 + 50 + 2);
        assert_eq!(cpu_time_below(proc, 7), Some(TICK * ticks));
        assert_eq!(cpu_time_below(proc, 11), None);
    }

    #[test]
    fn a_name_hides_nothing() {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        put(proc, 1, [0, 0], "2");
        put(proc, 2, [20, 0], "");
        let stat = fs::read(proc.join("2/stat")).unwrap();
        let odd = [b"2 (\xff) S".as_slice(), &stat[b"2 (a) name) S".len()..]].concat();
        fs::write(proc.join("2/stat"), odd).unwrap();
        assert_eq!(cpu_time_below(proc, 1), Some(TICK * 23));
        // One that is there and says nothing that can be understood.
        fs::write(proc.join("2/stat"), b"?").unwrap();
        assert_eq!(cpu_time_below(proc, 1), None);
    }

    #[test]
    fn of_too_many_nothing_is_said() {
        let proc = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (2..).take(PROCESSES_MAX + 1).collect();
        let list = |ids: &[u32]| ids.iter().map(|id| format!("{id} ")).collect::<String>();
        for id in &ids {
            put(proc.path(), *id, [0, 0], "");
        }
        put(proc.path(), 1, [0, 0], &list(&ids));
        assert_eq!(cpu_time_below(proc.path(), 1), None);
        put(proc.path(), 1, [0, 0], &list(&ids[1..]));
        assert!(cpu_time_below(proc.path(), 1).is_some());
    }

    #[test]
    fn what_is_no_stat_says_nothing() {
        for stat in [
            "",
            "7 (name",
            "7 (name) S 1 2",
            "7 (n) S 1 2 3 4 5 6 7 8 9 10 x 1 2 3",
        ] {
            assert!(Ticks::from_stat(stat).is_none(), "{stat}");
        }
    }
}
