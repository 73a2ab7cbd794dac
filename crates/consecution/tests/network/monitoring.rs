//! The dashboards and alerts in `monitoring/` name only metrics that portals and runners
//! export, and only labels that those have.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::chain::{chain_with, link};
use crate::support::home;
use crate::support::http::{Served, listen};
use crate::support::network::{Servers, until_ready};

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["job", "instance", "le"];

/// The labels of each metric, by the name that it has in a query.
type Exported = BTreeMap<String, BTreeSet<String>>;

fn exported(served: &Served) -> Exported {
    let text = served.request("GET", "/metrics", b"").expect(200);
    let mut exported = Exported::new();
    for line in text.text().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            for ending in endings {
                exported.entry(format!("{name}{ending}")).or_default();
            }
        } else if let Some((name, rest)) = line.split_once('{')
            && let Some((labels, _)) = rest.rsplit_once('}')
            && let Some(found) = exported.get_mut(name)
        {
            let labels = labels
                .split("\",")
                .filter_map(|label| label.split_once('='));
            found.extend(labels.map(|(label, _)| label.to_owned()));
        }
    }
    exported
}

/// The metrics that queries name, each with the labels that stand behind it in braces.
fn named(queries: &str) -> Vec<(&str, Vec<&str>)> {
    let starts = queries.match_indices("consecution_");
    starts
        .map(|(at, _)| {
            let rest = &queries[at..];
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let selector = rest[end..].strip_prefix('{');
            let selector = selector.and_then(|rest| rest.split_once('}'));
            let selector = selector.map_or("", |(selector, _)| selector);
            let labels = selector
                .split(',')
                .filter_map(|label| label.split_once(['=', '!']));
            (
                &rest[..end],
                labels.map(|(label, _)| label.trim()).collect(),
            )
        })
        .collect()
}

/// The labels that queries group by.
fn grouped_by(queries: &str) -> Vec<&str> {
    let groups = queries.split("by (").skip(1);
    groups
        .filter_map(|rest| rest.split_once(')'))
        .flat_map(|(labels, _)| labels.split(',').map(str::trim))
        .collect()
}

#[track_caller]
fn expect_exported(file: &str, queries: &str, exported: &Exported) {
    let named = named(queries);
    assert!(named.len() >= 10, "{file} names {} metrics", named.len());
    for (metric, labels) in named {
        let found = exported.get(metric);
        let found = found.unwrap_or_else(|| panic!("{file}: nothing exports {metric}"));
        for label in labels.iter().filter(|label| !ADDED.contains(label)) {
            // What has no series yet does not show its labels.
            let is_there = found.is_empty() || found.contains(*label);
            assert!(is_there, "{file}: {metric} has no label {label}");
        }
    }
    for label in grouped_by(queries) {
        let mut all = exported.values();
        let is_there = ADDED.contains(&label) || all.any(|labels| labels.contains(label));
        assert!(is_there, "{file}: nothing has a label {label}");
    }
}

/// The queries of a dashboard's panels and variables.
fn queries(dashboard: &serde_json::Value) -> String {
    let mut queries = Vec::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["definition"].as_str());
    }
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let targets = panel["targets"].as_array();
        assert_eq!(targets.is_none(), panel["type"] == "row", "{panel}");
        let exprs = targets.into_iter().flatten();
        queries.extend(exprs.map(|target| target["expr"].as_str().unwrap()));
    }
    queries.join("\n")
}

#[test]
fn dashboards_and_alerts_name_what_portals_and_runners_export() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let chain = chain_with("Name: words", [link(&["cat"])]);
    let portal = servers.portal(&[&chain]);
    let mut runner = servers.command("runner");
    runner.args(["--listen", "127.0.0.1:0"]);
    let runner = listen(runner);
    until_ready(&portal);
    portal.post("/", b"x").expect(200);
    let (of_portals, of_runners) = (exported(&portal), exported(&runner));
    for of_one in [&of_portals, &of_runners] {
        assert!(
            of_one["consecution_build_info"].contains("version"),
            "{of_one:?}"
        );
    }
    let file = |name: &str| {
        let path = home::workspace().join("monitoring").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    for (name, exported) in [("portals.json", &of_portals), ("runners.json", &of_runners)] {
        let dashboard = serde_json::from_str(&file(name)).unwrap();
        expect_exported(name, &queries(&dashboard), exported);
    }
    let alerts = file("alerts.yaml");
    assert_eq!(alerts.matches("- alert: ").count(), 10);
    let all = of_portals.into_iter().chain(of_runners).collect();
    expect_exported("alerts.yaml", &alerts, &all);
}
