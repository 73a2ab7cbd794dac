//! Which requests lead where, however oddly they are written.

use crate::support::chain::{chain_with, link};
use crate::support::http::{Served, serve};

const LOOK: Option<&str> = Some("GET, HEAD");
const CALL: Option<&str> = Some("POST, PUT");

/// Requests, the status of their replies, and what `Allow` says there.
const REQUESTS: &[(&str, u16, Option<&str>)] = &[
    ("POST /", 200, None),
    ("PUT /", 200, None),
    ("POST /?x=1", 200, None),
    ("POST http://other.example/", 200, None),
    ("POST http://other.example", 200, None),
    ("GET /", 405, CALL),
    ("HEAD /", 405, CALL),
    ("OPTIONS /", 405, CALL),
    ("BREW /", 405, CALL),
    ("POST /chains/one", 200, None),
    ("PUT /chains/one", 200, None),
    ("POST /chains/one?name=two", 200, None),
    ("POST http://other.example/chains/one", 200, None),
    ("POST /chains/readyz", 200, None),
    ("GET /chains/one", 405, CALL),
    ("HEAD /chains/one", 405, CALL),
    ("DELETE /chains/two", 405, CALL),
    ("POST /chains/two", 404, None),
    ("POST /chains/One", 404, None),
    ("POST /chains/one/", 404, None),
    ("POST /chains/one/x", 404, None),
    ("POST /chains//one", 404, None),
    ("POST //chains/one", 404, None),
    ("POST /chains/%6fne", 404, None),
    ("POST /chains/one%2F", 404, None),
    ("POST /chains/%ff", 404, None),
    ("POST /chains/%", 404, None),
    ("POST /chains/..", 404, None),
    ("POST /chains/{name}", 404, None),
    ("POST /chains/*", 404, None),
    ("GET /chains", 200, None),
    ("HEAD /chains", 200, None),
    ("POST /chains", 405, LOOK),
    ("GET /chains/", 404, None),
    ("POST /chains/", 404, None),
    ("GET /chains/one/readyz", 200, None),
    ("HEAD /chains/one/readyz", 200, None),
    ("GET /chains/readyz/readyz", 200, None),
    ("POST /chains/one/readyz", 405, LOOK),
    ("POST /chains/two/readyz", 405, LOOK),
    ("GET /chains/two/readyz", 404, None),
    ("HEAD /chains/two/readyz", 404, None),
    ("GET /chains//readyz", 404, None),
    ("POST /chains//readyz", 404, None),
    ("GET /chains/one/readyz/", 404, None),
    ("GET /chains/one%2Freadyz", 405, CALL),
    ("GET /chains/%6fne/readyz", 404, None),
    ("GET /healthz", 200, None),
    ("HEAD /healthz", 200, None),
    ("GET /healthz?verbose", 200, None),
    ("GET http://other.example/healthz", 200, None),
    ("POST /healthz", 405, LOOK),
    ("OPTIONS /healthz", 405, LOOK),
    ("TRACE /healthz", 405, LOOK),
    ("GET /healthz/", 404, None),
    ("GET /Healthz", 404, None),
    ("GET /%68ealthz", 404, None),
    ("GET /chains/../healthz", 404, None),
    ("GET /readyz", 200, None),
    ("HEAD /readyz", 200, None),
    ("DELETE /readyz", 405, LOOK),
    ("GET /metrics", 200, None),
    ("HEAD /metrics", 200, None),
    ("PATCH /metrics", 405, LOOK),
    ("GET //", 404, None),
    ("GET //healthz", 404, None),
    ("GET /%2F", 404, None),
    ("POST /nothing", 404, None),
    ("HEAD /nothing", 404, None),
    ("OPTIONS *", 404, None),
    ("CONNECT other.example:80", 404, None),
    ("BREW /pot", 404, None),
];

#[test]
fn each_request_leads_where_it_should() {
    let one = chain_with("Name: one", [link(&["cat"])]);
    let readyz = chain_with("Name: readyz", [link(&["cat"])]);
    let served = serve(&[&one, &readyz]);
    for &(request, status, allow) in REQUESTS {
        let (method, target) = request.split_once(' ').unwrap();
        let mut client = served.connect();
        let body: &[u8] = if status == 200 && allow.is_none() && method.starts_with('P') {
            b"x"
        } else {
            b""
        };
        client.send_request(method, target, &["Consecution-Call-Id: seven"], body);
        let reply = match method {
            "HEAD" => client.reply_to_head(),
            _ => client.reply(),
        };
        assert_eq!(reply.status, status, "{request}");
        assert_eq!(reply.header("allow"), allow, "{request}");
        assert_eq!(
            reply.header("consecution-call-id"),
            Some("seven"),
            "{request}"
        );
        if method == "HEAD" {
            let length = reply.header("content-length").unwrap();
            assert_ne!(length, "0", "{request}");
            assert_eq!(reply.body, b"", "{request}");
        } else if status >= 400 {
            let problem = reply.problem(status);
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(allow.unwrap_or("at ")),
                "{request}: {detail}"
            );
        }
        // Nothing of the request or its reply is left on the connection.
        client.send_request("GET", "/healthz", &[], b"");
        assert_eq!(client.reply().expect(200).text(), "ok\n", "{request}");
    }
    long_paths(&served);
    refused_uploads(&served);
}

fn long_paths(served: &Served) {
    let path = format!("/chains/{}", "y".repeat(60_000));
    let problem = served.post(&path, b"x").problem(404);
    assert_eq!(problem["detail"], format!("no chain is offered at {path}"));
}

/// Large bodies, so that a connection that is closed too early is noticed.
fn refused_uploads(served: &Served) {
    let body = vec![b'x'; 8 * 1024 * 1024];
    for (method, path, status) in [
        ("POST", "/nothing", 404),
        ("POST", "/chains/two", 404),
        ("PUT", "/healthz", 405),
        ("DELETE", "/", 405),
        ("GET", "/chains/two/readyz", 404),
    ] {
        served.request(method, path, &body).problem(status);
    }
}
