//! Chain files in folders, and files that are read again while calls are under
//! way.
use std::path::Path;

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::command::{consecution, finish};
use crate::support::home;
use crate::support::http::{Served, listen};
use rustix::process::Signal;
use tempfile::TempDir;
use test_support::processes::{HostProcess, descendants};
use test_support::{PATIENCE, eventually};

/// A folder with chain files.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, chain: &ChainFile) {
        self.write(name, &std::fs::read_to_string(chain.path()).unwrap());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    fn serve(&self) -> Served {
        let mut serve = consecution(home::shared());
        serve.args(["serve", "--listen", "127.0.0.1:0"]);
        let served = listen({
            serve.arg(self.path());
            serve
        });
        served.await_line(" INFO ready");
        served
    }
}

fn cat(name: &str) -> ChainFile {
    chain_with(&format!("Name: {name}"), [link(&["/bin/cat"])])
}

fn saying(name: &str, word: &str) -> ChainFile {
    chain_with(
        &format!("Name: {name}"),
        [shell(&format!("cat; echo {word}"))],
    )
}

/// Has the files read again, and waits for what is said of that.
fn reload(served: &Served, said: &str) {
    served.signal(Signal::HUP);
    served.await_line(said);
}

fn names(served: &Served) -> Vec<String> {
    let chains = served.request("GET", "/chains", b"").expect(200);
    let chains: serde_json::Value = serde_json::from_slice(&chains.body).unwrap();
    let chains = chains.as_array().unwrap().iter();
    let names = chains.map(|chain| chain["name"].as_str().unwrap().to_owned());
    names.collect()
}

/// How many links the runner serves.
fn serving(served: &Served) -> String {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let line = metrics
        .text()
        .lines()
        .find(|line| line.starts_with("consecution_runner_links{") && line.contains("serving"));
    line.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn of_a_folder_all_chain_files_are_offered_by_name() {
    let folder = Folder::new();
    folder.put("b.yaml", &cat("second"));
    folder.put("a.yml", &cat("first"));
    folder.put(".hidden.yaml", &cat("hidden"));
    folder.write("notes.txt", "no chain");
    std::fs::create_dir(folder.path().join("deeper.yaml")).unwrap();
    let served = folder.serve();
    assert_eq!(names(&served), ["first", "second"]);

    let empty = Folder::new();
    let mut serve = consecution(home::shared());
    serve.arg("serve").arg(empty.path());
    finish(serve, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["failed to find a chain file in ", "no *.yaml and no *.yml"]);
}

#[test]
fn files_are_read_again_and_calls_under_way_go_on_with_what_there_was() {
    let folder = Folder::new();
    folder.put("1-kept.yaml", &cat("kept"));
    folder.put("2-changed.yaml", &saying("changed", "old"));
    folder.put("3-removed.yaml", &saying("removed", "gone"));
    let served = folder.serve();
    served.post("/chains/kept", b"x").expect(200);
    let warm = descendants(served.process());
    let mut calls = ["/chains/changed", "/chains/removed"].map(|path| {
        let mut call = served.begin(path);
        call.send_chunk(b"early ");
        call.head();
        assert_eq!(call.chunk().unwrap(), b"early ");
        call
    });

    folder.put("2-changed.yaml", &saying("changed", "new"));
    folder.put("4-added.yaml", &saying("added", "too"));
    folder.remove("3-removed.yaml");
    reload(
        &served,
        "added 'added'; changed 'changed'; removed 'removed'; 1 as before",
    );
    assert_eq!(names(&served), ["kept", "changed", "added"]);
    for (path, wanted) in [("changed", "xnew\n"), ("added", "xtoo\n"), ("kept", "x")] {
        let reply = served.post(&format!("/chains/{path}"), b"x").expect(200);
        assert_eq!(reply.text(), wanted);
    }
    served.post("/chains/removed", b"x").problem(404);
    // Two that are used, two that calls still use, and one that never changed.
    assert_eq!(serving(&served), "5");
    for (call, word) in calls.iter_mut().zip(["old\n", "gone\n"]) {
        call.send_chunk(b"late ");
        call.end_chunks();
        let mut rest = Vec::new();
        loop {
            match call.chunk().unwrap() {
                chunk if chunk.is_empty() => break,
                chunk => rest.extend(chunk),
            }
        }
        assert_eq!(String::from_utf8_lossy(&rest), format!("late {word}"));
    }
    drop(calls);
    eventually("unused links to be let go", || {
        (serving(&served) == "3").then_some(())
    });
    // The link that did not change is the same, with its zygote.
    let now = descendants(served.process());
    let was_there = |now: &HostProcess| warm.iter().any(|warm| warm.id == now.id);
    assert!(now.iter().any(was_there));
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let calls = r#"consecution_calls_total{chain="kept"} 2"#;
    assert!(metrics.text().contains(calls), "{}", metrics.text());
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_said_with_its_line() {
    let folder = Folder::new();
    folder.put("a.yaml", &cat("a"));
    let served = folder.serve();
    folder.put("b.yaml", &cat("b"));
    folder.write("c.yaml", "Chain:\n- Image: busybox\n  Comand: cat\n");
    served.signal(Signal::HUP);
    let line = served.await_line("c.yaml:3:");
    assert!(line.contains("ERROR"), "{line}");
    served.await_line("all chains stay as they were: ");
    assert_eq!(names(&served), ["a"]);
    served.post("/", b"x").expect(200);

    folder.put("c.yaml", &cat("a"));
    reload(&served, "failed to offer two chains named 'a'");
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        folder.remove(name);
    }
    reload(&served, "failed to find a chain file in ");
    assert_eq!(names(&served), ["a"]);
    folder.put("b.yaml", &cat("b"));
    reload(&served, "added 'b'; removed 'a'; 0 as before");
    assert_eq!(names(&served), ["b"]);
    served.signal(Signal::TERM);
    served.end().expect_success();
}

/// How many processes a runner has in reserve that are ready, and how many are starting.
fn in_reserve(served: &Served) -> [usize; 2] {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    ["idle", "starting"].map(|state| {
        let state = format!("state=\"{state}\"");
        let lines = metrics.text().lines();
        let lines = lines.filter(|line| {
            line.starts_with("consecution_pool_processes{") && line.contains(&state)
        });
        let counts = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>());
        counts.sum::<Result<_, _>>().unwrap()
    })
}

#[test]
fn a_reserve_that_changes_is_that_of_another_link() {
    let folder = Folder::new();
    let with = |warm: &str| chain_with("Name: cat", [link(&["/bin/cat"]).with("Warm", warm)]);
    folder.put("cat.yaml", &with("5"));
    let served = folder.serve();
    for (warm, reserve) in [("5", 5), ("3", 3), ("true", 2), ("4", 4)] {
        folder.put("cat.yaml", &with(warm));
        served.signal(Signal::HUP);
        eventually("the reserve", || {
            (in_reserve(&served) == [reserve, 0]).then_some(())
        });
        assert_eq!(served.post("/chains/cat", b"x").expect(200).text(), "x");
    }
}
