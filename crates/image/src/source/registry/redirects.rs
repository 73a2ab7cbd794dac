//! Sending a request, and following redirects.
//!
//! The HTTP client does not do this, because it does not know what a request carries: it
//! would send a form with a refresh token to whatever host a 308 names.

use reqwest::header::{AUTHORIZATION, LOCATION};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};

use super::address::authority_with_port;
use super::endpoint::Endpoint;
use super::failure::{Failure, transport};
use super::{RegistryError, retry_after};

/// Most redirects that one request follows.
const REDIRECTS_MAX: usize = 10;

/// Which hosts within reach a request may be redirected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// All, but without credentials.
    Anywhere,
    /// Only the one that it is sent to, because the request carries credentials.
    OwnOrigin,
}

/// Sends a request and gives the first answer that is no redirect.
pub(super) async fn send(
    endpoint: &Endpoint,
    what: &str,
    request: RequestBuilder,
    follow: Follow,
) -> Result<Response, Failure> {
    let failed = |cause| transport(endpoint, cause);
    let refused = |problem: String| {
        Failure::Final(RegistryError::Protocol {
            what: what.to_owned(),
            address: endpoint.address.clone(),
            problem: problem.into(),
        })
    };
    let mut request = request.build().map_err(failed)?;
    for _ in 0..=REDIRECTS_MAX {
        if let Some(said) = retry_after::left_alone(request.url()) {
            let after = said.left();
            let error = RegistryError::NotYet {
                what: what.to_owned(),
                address: endpoint.address_of(request.url()),
                status: said.status.as_u16(),
                reason: said.reason,
                after,
            };
            return Err(Failure::Passing(error, Some(after)));
        }
        let again = request.try_clone();
        let client = endpoint.client_for(request.url());
        let answer = client.execute(request).await.map_err(failed)?;
        let (Some(again), Some(to)) = (again, target(&answer)) else {
            return Ok(answer);
        };
        // Any other redirect of a form asks for a request without the form.
        let keeps_form = matches!(
            answer.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        if again.method() != Method::GET && !keeps_form {
            return Ok(answer);
        }
        request = redirected(endpoint, again, to, follow).map_err(refused)?;
    }
    let problem = format!("it redirects more than {REDIRECTS_MAX} times");
    Err(refused(problem))
}

/// Where a redirect leads.
fn target(answer: &Response) -> Option<Url> {
    let redirects = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.headers().get(LOCATION).filter(|_| redirects)?;
    let location = String::from_utf8_lossy(location.as_bytes());
    let mut to = answer.url().join(&location).ok()?;
    // A stranger must not choose the user that we log in as.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    Some(to)
}

fn redirected(
    endpoint: &Endpoint,
    mut request: Request,
    to: Url,
    follow: Follow,
) -> Result<Request, String> {
    if request.url().origin() != to.origin() {
        if follow == Follow::OwnOrigin {
            let to = authority_with_port(&to);
            return Err(format!(
                "its token server redirects to {to}, where credentials must not go"
            ));
        }
        request.headers_mut().remove(AUTHORIZATION);
    }
    let allowed = endpoint.reach.allow(&to);
    allowed.map_err(|problem| format!("what it redirects to {problem}"))?;
    *request.url_mut() = to;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::Registries;
    use super::*;
    use crate::causes::with_causes;

    /// A server that redirects the one request that it gets.
    fn redirecting(to: String) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = "HTTP/1.1 307 X\r\nContent-Length: 0\r\n";
            write!(stream, "{head}Location: {to}\r\n\r\n").unwrap();
        });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn a_registry_elsewhere_cannot_make_us_connect_to_this_machine() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        here.set_nonblocking(true).unwrap();
        let port = here.local_addr().unwrap().port();
        for (scheme, host) in [
            ("http", "127.0.0.1"),
            ("https", "127.0.0.1"),
            ("https", "[::ffff:127.0.0.1]"),
            ("https", "localhost"),
        ] {
            let url = redirecting(format!("{scheme}://{host}:{port}/"));
            let endpoint = Endpoint::elsewhere(&url, &Registries::default())
                .await
                .unwrap();
            let request = endpoint.client.get(url);
            let sent = send(&endpoint, "it", request, Follow::Anywhere).await;
            let error = with_causes(&sent.unwrap_err().into_error());
            assert!(
                error.contains("each machine has for itself") || error.contains("without TLS"),
                "{error}"
            );
            assert!(here.accept().is_err(), "{scheme}://{host}");
        }
    }

    #[tokio::test]
    async fn its_own_name_means_this_machine_at_its_own_port_alone() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        here.set_nonblocking(true).unwrap();
        let own = redirecting("/".to_owned());
        let own: Url = own
            .as_str()
            .replace("127.0.0.1", "localhost")
            .parse()
            .unwrap();
        let mut other = own.clone();
        other
            .set_port(Some(here.local_addr().unwrap().port()))
            .unwrap();
        let endpoint = Endpoint::elsewhere(&own, &Registries::default())
            .await
            .unwrap();
        endpoint.reach.watch("localhost").unwrap();
        let ask = async |url: &Url| endpoint.client_for(url).get(url.clone()).send().await;
        assert_eq!(ask(&own).await.unwrap().status(), 307);
        let error = transport(&endpoint, ask(&other).await.unwrap_err());
        let error = with_causes(&error.into_error());
        assert!(error.contains("each machine has for itself"), "{error}");
        assert!(here.accept().is_err());
    }
}
