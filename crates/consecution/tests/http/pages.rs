//! Pages in browsers: those of other origins may not call, unless they are named.

use crate::support::chain::{chain, link};
use crate::support::http::{Client, Served, serve_with};

fn serve_for(options: &[&str]) -> Served {
    serve_with(&[&chain([link(&["cat"])])], options)
}

/// The status of a call with these fields, `Host` among them.
fn status(served: &Served, fields: &str) -> u16 {
    let mut client = Client::to(served.address).unwrap();
    client.send(format!(
        "POST / HTTP/1.1\r\n{fields}Content-Length: 4\r\n\r\nsome"
    ));
    client.reply().status
}

#[test]
fn a_page_calls_only_where_it_comes_from() {
    let served = serve_for(&["--host", "Portal.example"]);
    for (fields, wanted) in [
        // Other clients, and proxies, name the server as they like.
        ("Host: whatever.example\r\n", 200),
        // A form on another page.
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n",
            403,
        ),
        (
            "Host: localhost\r\nSec-Fetch-Site: same-site\r\nOrigin: http://localhost:1\r\n",
            403,
        ),
        (
            "Host: localhost\r\nSec-Fetch-Site: same-origin\r\nOrigin: http://localhost\r\n",
            200,
        ),
        ("Host: localhost\r\nSec-Fetch-Site: none\r\n", 200),
        // Where browsers send nothing but the origin.
        ("Host: 10.0.0.5\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: 10.0.0.5\r\nOrigin: null\r\n", 403),
        ("Host: 10.0.0.5:80\r\nOrigin: http://10.0.0.5:80\r\n", 200),
        // A name that its owner has pointed to this address.
        ("Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
        (
            "Host: portal.example\r\nOrigin: http://portal.example\r\n",
            200,
        ),
    ] {
        assert_eq!(status(&served, fields), wanted, "{fields}");
    }
    let mut client = served.connect();
    let fields = ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"];
    client.send_request("POST", "/", &fields, &vec![b'x'; 4 << 20]);
    let problem = client.reply().problem(403);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("--cors-origin"), "{detail}");
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let count = "consecution_http_refusals_total{reason=\"cross_site\"} 6";
    assert!(metrics.text().contains(count), "{}", metrics.text());
}

#[test]
fn pages_of_named_origins_call_and_read_whatever_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!("Keys:\n- {{Name: page, SHA256: {sum}, May: ['call:*']}}\n");
    std::fs::write(&keys, text).unwrap();
    let (keys, app) = (keys.display().to_string(), "https://app.example");
    let served = serve_for(&["--cors-origin", app, "--keys", &keys]);
    let ask = |method: &str, fields: &[&str]| {
        let mut client = served.connect();
        client.send_request(method, "/", fields, b"");
        client.reply()
    };
    let (origin, site) = ("Origin: https://app.example", "Sec-Fetch-Site: cross-site");
    let asks = [
        origin,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,prefer",
    ];
    let preflight = ask("OPTIONS", &asks);
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some(app));
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        Some("GET,HEAD,POST,PUT")
    );
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        Some("authorization,prefer")
    );
    assert_eq!(preflight.header("access-control-max-age"), Some("600"));
    // It may read that it has no key, and what a call says of its links.
    let refused = ask("POST", &[origin, site]);
    assert_eq!(refused.header("access-control-allow-origin"), Some(app));
    refused.problem(401);
    let called = ask("POST", &[origin, site, "Authorization: Bearer test"]);
    assert_eq!(called.header("access-control-allow-origin"), Some(app));
    let exposed = called.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("consecution-pipestatus"), "{exposed}");
    called.expect(200);
    let evil = [
        "Origin: https://evil.example",
        site,
        "Authorization: Bearer test",
    ];
    let refused = ask("POST", &evil);
    assert_eq!(refused.header("access-control-allow-origin"), None);
    refused.problem(403);
}

#[test]
fn what_is_no_origin_is_refused_at_the_start() {
    let chain = chain([link(&["cat"])]);
    let options = ["--cors-origin", "app.example"];
    let command = crate::support::http::serving(&[&chain], &options);
    let finished = crate::support::command::finish(command, b"", test_support::PATIENCE);
    finished
        .expect_code(2)
        .expect_stderr(&["write an origin as browsers do"]);
}
