//! Parameters of a chain over HTTP: the query; and the type of what comes back.

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::http::{Served, serve};

/// A chain that shows the values of its two parameters.
fn shows() -> ChainFile {
    let top = "Name: shows\nContentType: text/plain; charset=utf-8\nParameters:\n  \
               width: {Pattern: '[1-9][0-9]{0,3}', Default: '200'}\n  title: {Pattern: '(?s).*'}";
    let link = link(&["/bin/printf", "<%s>", "${width}", "${title}"]);
    chain_with(top, [link])
}

#[track_caller]
fn shown(served: &Served, query: &str) -> String {
    let reply = served.post(&format!("/chains/shows?{query}"), b"");
    let reply = reply.expect(200);
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    reply.text().to_owned()
}

#[test]
fn a_query_gives_values_and_the_file_the_type_of_the_reply() {
    let served = serve(&[&shows()]);
    assert_eq!(shown(&served, "title="), "<200><>");
    assert_eq!(shown(&served, "title"), "<200><>");
    assert_eq!(shown(&served, "width=300&title=a+b"), "<300><a b>");
    assert_eq!(shown(&served, "&title=a%20b%2Bc%26%3d&&"), "<200><a b+c&=>");
    assert_eq!(shown(&served, "%74itle=-n"), "<200><-n>");
    assert_eq!(shown(&served, "title=${width}"), "<200><${width}>");
    assert_eq!(shown(&served, "title=%0a%27%22%5c"), "<200><\n'\"\\>");
    assert_eq!(shown(&served, "title=gr%C3%BC%C3%9Fe"), "<200><grüße>");
    let long = "x".repeat(60_000);
    assert_eq!(
        shown(&served, &format!("title={long}")),
        format!("<200><{long}>")
    );
    // The first chain is at `/`, too.
    let reply = served.post("/?title=a&width=9", b"").expect(200);
    assert_eq!(reply.text(), "<9><a>");
}

#[test]
fn what_is_wrong_with_a_query_is_said_before_the_body_is_there() {
    let served = serve(&[&shows()]);
    for (query, parameter, value, pattern, part) in [
        ("", Some("title"), None, Some("(?s).*"), "find a value"),
        (
            "title=a&width=0",
            Some("width"),
            Some("0"),
            Some("[1-9][0-9]{0,3}"),
            "match",
        ),
        (
            "title=a&width=9%0a",
            Some("width"),
            Some("9\\n"),
            Some("[1-9][0-9]{0,3}"),
            "match",
        ),
        (
            "title=a&wdith=1",
            Some("wdith"),
            None,
            None,
            "did you mean `width`?",
        ),
        ("title=a&title=a", Some("title"), None, None, "twice"),
        ("title=a%00b", Some("title"), None, None, "NUL"),
        ("title=%f", Some("title"), None, None, "hexadecimal"),
        ("title=%ff", Some("title"), None, None, "UTF-8"),
        ("=", Some(""), None, None, "none of that name"),
    ] {
        let mut client = served.connect();
        // Its body never comes.
        let head = format!("POST /?{query} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
        client.send(head);
        let problem = client.reply().problem(400);
        assert_eq!(problem["title"], "the parameters are wrong", "{query}");
        assert_eq!(problem["chain"], "shows");
        assert_eq!(problem["parameter"].as_str(), parameter, "{problem}");
        assert_eq!(problem["value"].as_str(), value, "{problem}");
        assert_eq!(problem["pattern"].as_str(), pattern, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("failed to ") && detail.contains(part),
            "{problem}"
        );
        // No link is to blame.
        assert!(problem.get("link_name").is_none(), "{problem}");
    }
    let long = format!("/?title=a&width={}", "9".repeat(50_000));
    let problem = served.post(&long, b"").problem(400);
    assert!(problem.to_string().len() < 2000, "{problem}");
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let counted = "consecution_call_failures_total{chain=\"shows\",kind=\"parameter\"} 10";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

#[test]
fn a_chain_without_parameters_ignores_its_query_as_ever() {
    let plain = chain_with("Name: plain", [link(&["/bin/cat"])]);
    let served = serve(&[&plain]);
    for query in ["a=b", "a=b&a=b", "%zz", "%ff"] {
        let reply = served.post(&format!("/?{query}"), b"word").expect(200);
        assert_eq!(reply.text(), "word");
        assert_eq!(
            reply.header("content-type"),
            Some("application/octet-stream")
        );
    }
}

#[test]
fn chains_are_listed_with_what_they_take_and_give() {
    let plain = chain_with("Name: plain", [link(&["/bin/cat"])]);
    let served = serve(&[&shows(), &plain]);
    let listed = served.request("GET", "/chains", b"").expect(200);
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(listed[0]["content_type"], "text/plain; charset=utf-8");
    assert_eq!(
        listed[0]["parameters"],
        serde_json::json!({
            "title": {"pattern": "(?s).*"},
            "width": {"pattern": "[1-9][0-9]{0,3}", "default": "200"},
        })
    );
    assert!(listed[1].get("parameters").is_none() && listed[1].get("content_type").is_none());
}

#[test]
fn a_failure_is_a_problem_whatever_the_chains_type() {
    let fails = chain_with("ContentType: image/png", [shell("exit 3")]);
    let served = serve(&[&fails]);
    served.post("/", b"").problem(502);
}
