//! Links: portals make them known, runners serve them, whoever comes first.

use rustix::process::Signal;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::home;
use crate::support::http::listen;
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::{PATIENCE, eventually};

/// An image that can be got nowhere, and quickly not so.
const NOWHERE: &str = "127.0.0.1:9/nowhere/none";

#[test]
fn links_are_published_as_readable_yaml_and_putting_them_again_changes_nothing() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = chain([link(&["/bin/cat"]), link(&["/bin/grep", "data"])]);
    let same = chain([link(&["/bin/grep", "data"]), link(&["/bin/cat"])]);
    let _runner = servers.runner("one");
    servers.send(&words, b"data\n").expect_success();
    let links = || {
        let links = [
            "get",
            "--prefix",
            "/consecution/links/",
            "--write-out=fields",
        ];
        let fields = servers.etcd.ctl(links);
        let is_of_links = |line: &&str| {
            ![
                "\"ClusterID\"",
                "\"MemberID\"",
                "\"Revision\"",
                "\"RaftTerm\"",
            ]
            .iter()
            .any(|of_etcd| line.starts_with(of_etcd))
        };
        fields
            .lines()
            .filter(is_of_links)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let published = links();
    assert_eq!(
        servers.etcd.ctl(["get", "--prefix", "/consecution/links"]),
        "/consecution/links/188b0237c1423313d2eff0dbfb4d426a\n\
         Image: busybox\nCommand: /bin/cat\n\n\
         /consecution/links/cc396884817904193a62988904f6fea5\n\
         Image: busybox\nCommand: /bin/grep\nArguments:\n- data\n\n"
    );

    servers.send(&same, b"data\n").expect_success();
    let portal = servers.portal(&[&words]);
    until_ready(&portal);
    portal.post("/", b"data\n").expect(200);
    // With the revisions at which they were put, and how often.
    assert_eq!(links(), published);
}

#[test]
fn many_portals_share_links_and_those_stay_when_a_portal_leaves() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (cat, upper) = (link(&["/bin/cat"]), link(&["/bin/tr", "a-z", "A-Z"]));
    let first = chain([cat.clone(), upper.clone()]);
    let second = chain([upper, cat]);
    let one = servers.portal(&[&first]);
    let two = servers.portal(&[&second]);
    let _runner = servers.runner("one");
    for portal in [&one, &two] {
        until_ready(portal);
        assert_eq!(portal.post("/", b"word").expect(200).text(), "WORD");
    }
    one.signal(Signal::TERM);
    one.end().expect_success();
    let list = servers.link(&["list"]).expect_success();
    for id in first.ids() {
        assert!(list.text().contains(&id), "{}", list.text());
    }
    assert_eq!(two.post("/", b"word").expect(200).text(), "WORD");
}

#[test]
fn a_link_that_appears_is_served_without_a_restart_and_by_runners_that_come_later() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let early = servers.runner("early");
    let (cat, upper) = (chain([link(&["/bin/cat"])]), chain([shell("tr a-z A-Z")]));
    servers.send(&cat, b"word").expect_success();
    servers.until_serving("early", 1);
    servers
        .send(&upper, b"word")
        .expect_success()
        .expect_output("WORD");

    let _late = servers.runner("late");
    servers.until_serving("late", 2);
    early.signal(Signal::TERM);
    early.end().expect_success();
    servers
        .send(&upper, b"word")
        .expect_success()
        .expect_output("WORD");
}

#[test]
fn links_are_listed_shown_and_removed() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = chain([link(&["/bin/cat"]), link(&["/bin/grep", "data"])]);
    let [cat, grep] = &words.ids()[..] else {
        panic!("two links")
    };
    let list = servers.link(&["list"]).expect_success();
    let heading: Vec<_> = list.text().split_whitespace().collect();
    assert_eq!(heading, ["ID", "NAME", "IMAGE", "COMMAND", "STATE"]);

    let runner = servers.runner("north");
    servers.send(&words, b"data\n").expect_success();
    servers.until_serving("north", 2);
    let list = servers.link(&["list"]).expect_success();
    let lines: Vec<Vec<_>> = (list.text().lines().skip(1))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [
            vec![
                cat, "-", "busybox", "/bin/cat", "served", "by", "1", "of", "1"
            ],
            vec![
                grep,
                "-",
                "busybox",
                "/bin/grep",
                "data",
                "served",
                "by",
                "1",
                "of",
                "1"
            ],
        ]
    );
    let list = servers.link(&["list", "--json"]).expect_success();
    let list: serde_json::Value = serde_json::from_str(list.text()).unwrap();
    assert_eq!(
        list[1],
        serde_json::json!({
            "id": grep, "names": [], "image": "busybox", "command": "/bin/grep",
            "arguments": ["data"], "serving": 1, "loading": 0, "broken": 0, "leaving": 0,
        })
    );
    servers
        .link(&["show", &grep[..6]])
        .expect_success()
        .expect_output(format!(
            "# {grep}\nImage: busybox\nCommand: /bin/grep\nArguments:\n- data\n\
         # runner north serves it\n"
        ));

    let runners = finish(
        {
            let mut list = servers.command("runner");
            // What a runner's variables say does not matter to who looks.
            list.env("CONSECUTION_PROCESSES_MAX", "7").arg("list");
            list
        },
        b"",
        PATIENCE,
    )
    .expect_success();
    let rows: Vec<Vec<_>> = (runners.text().lines())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0][..4], ["NAME", "STATE", "STARTED", "SERVING"]);
    assert_eq!((rows.len(), &rows[1][..2]), (2, &["north", "up"][..]));
    let mut list = servers.command("runner");
    list.args(["list", "--json"]);
    let list = finish(list, b"", PATIENCE).expect_success();
    let list: serde_json::Value = serde_json::from_str(list.text()).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["state"]),
        (&"north".into(), &"up".into())
    );
    assert_eq!(
        (&list[0]["serving"], &list[0]["starved"]),
        (&2.into(), &serde_json::Value::Null)
    );
    assert!(list[0]["started"].as_u64() > Some(1_700_000_000), "{list}");

    servers.link(&["remove", &grep[..6]]).expect_success();
    servers.until_serving("north", 1);
    let list = servers.link(&["list"]).expect_success();
    assert!(!list.text().contains(grep), "{}", list.text());
    for command in ["show", "remove"] {
        servers
            .link(&[command, grep])
            .expect_code(125)
            .expect_stderr(&["consecution: failed to find link", grep, "link list"]);
        servers
            .link(&[command, "words"])
            .expect_code(2)
            .expect_stderr(&["'words'"]);
    }

    runner.signal(Signal::TERM);
    runner.end().expect_success();
    let list = servers.link(&["list"]).expect_success();
    assert!(list.text().contains("no runner"), "{}", list.text());
}

#[test]
fn links_that_no_portal_names_are_pruned() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let named = chain_with("Name: words", [link(&["/bin/cat"]).with("Name", "first")]);
    let other = chain([link(&["/bin/tr", "a-z", "A-Z"])]);
    let (named_id, other_id) = (&named.ids()[0], &other.ids()[0]);
    let runner = servers.runner("one");
    servers.send(&other, b"word").expect_success();
    servers
        .link(&["prune"])
        .expect_code(125)
        .expect_stderr(&["failed to prune links: no portal says what it offers"]);

    let portal = servers.portal(&[&named]);
    until_ready(&portal);
    servers.until_serving("one", 2);
    eventually("the link to have a name", || {
        let list = servers.link(&["list"]).expect_success();
        let name = format!("{named_id}  words/first  busybox");
        list.text().contains(&name).then_some(())
    });
    let prune = |options: &[&str]| {
        let arguments = [&["prune"], options].concat();
        let pruned = servers.link(&arguments).expect_success();
        assert!(!pruned.text().contains(named_id), "{}", pruned.text());
        pruned.text().to_owned()
    };
    let dry = prune(&["--unnamed-for", "0", "--dry-run"]);
    assert!(
        dry.contains(other_id) && dry.contains("would be removed"),
        "{dry}"
    );
    let json = prune(&["--unnamed-for", "0", "--dry-run", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "id": other_id, "image": "busybox", "command": "/bin/tr",
            "arguments": ["a-z", "A-Z"], "removed": true, "kept_seconds": null,
        }])
    );
    let unnamed = ["get", "--prefix", "--keys-only", "/consecution/unnamed/"];
    assert_eq!(servers.etcd.ctl(unnamed), "");
    let first = prune(&[]);
    assert!(first.contains("unnamed, kept for "), "{first}");
    assert!(servers.etcd.ctl(unnamed).contains(other_id));
    let now = prune(&["--unnamed-for", "0"]);
    assert!(now.contains("  removed\n"), "{now}");
    servers.until_serving("one", 1);
    assert_eq!(servers.etcd.ctl(unnamed), "");
    runner.until_said(&format!("removed, and served no longer: {other_id}"));
    assert_eq!(prune(&[]), "");
    portal.post("/", b"word").expect(200);
}

#[test]
fn a_removed_link_finishes_what_it_has_and_is_put_again_by_who_calls_it() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = chain([shell("echo begun; cat").with("Name", "slow")]);
    let portal = servers.portal(&[&slow]);
    let runner = servers.runner("one");
    until_ready(&portal);
    let mut client = portal.begin("/");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"begun\n");

    servers.link(&["remove", &slow.ids()[0]]).expect_success();
    runner.await_line("served no longer");
    // Its portal still has it: who calls it next waits until it is served again.
    assert_eq!(portal.post("/", b"").expect(200).text(), "begun\n");

    client.send_chunk(b"late\n");
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"late\n");
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn a_broken_link_is_shown_and_hurts_no_other() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let good = chain_with("Name: good", [link(&["/bin/cat"])]);
    let no_image = chain_with("Name: no-image", [link(&["/bin/cat"]).image(NOWHERE)]);
    let no_command = chain_with("Name: no-command", [link(&["/bin/nowhere"])]);
    let portal = servers.portal(&[&no_image, &no_command, &good]);
    let _runner = servers.runner("north");
    let reply = eventually("the good link to answer", || {
        let reply = portal.post("/chains/good", b"word");
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(reply.text(), "word");

    for (name, broken, why) in [
        ("no-image", &no_image, "failed to pull the image"),
        ("no-command", &no_command, "/bin/nowhere"),
    ] {
        let id = &broken.ids()[0];
        let state = eventually("the link to be broken", || {
            let state = servers.runner_state("north");
            state["Broken"].get(id).is_some().then_some(state)
        });
        let reason = state["Broken"][id].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
        let show = servers.link(&["show", id]).expect_success();
        let told = format!("# runner north cannot serve it: {reason}\n");
        assert!(show.text().ends_with(&told), "{}", show.text());
        let problem = eventually("a call to tell why", || {
            let problem = portal.post(&format!("/chains/{name}"), b"").problem(503);
            let detail = problem["detail"].as_str().unwrap();
            let told = format!(" is served by no runner: runner 'north' cannot serve it: {reason}");
            detail.ends_with(&told).then_some(problem)
        });
        assert_eq!(problem["title"], "no runner");
    }
    let list = servers.link(&["list"]).expect_success();
    let is_broken = |line: &&str| line.contains("served by 0 of 1, 1 broken");
    assert_eq!(list.text().lines().filter(is_broken).count(), 2);
    let reply = portal.post("/chains/good", b"word").expect(200);
    assert_eq!(reply.text(), "word");
}

#[test]
fn a_broken_link_comes_up_by_itself_when_its_image_is_there() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let home = home::empty();
    let mut runner = servers.command_with("runner", home.path());
    runner.args(["--name", "north"]);
    let runner = Running::start(runner);
    let late = chain([link(&["/bin/cat"]).image(NOWHERE)]);
    let mut portal = servers.command("portal");
    portal.args(["--listen", "127.0.0.1:0"]).arg(late.path());
    let portal = listen(portal);
    runner.await_line("tried again: failed to pull the image");
    portal.post("/", b"word").problem(503);

    let mut import = servers.command_with("image", home.path());
    import.args(["import", NOWHERE]).arg(home::busybox_tar());
    finish(import, b"", PATIENCE).expect_success();
    until_ready(&portal);
    servers.until_serving("north", 1);
    assert_eq!(portal.post("/", b"word").expect(200).text(), "word");
}
