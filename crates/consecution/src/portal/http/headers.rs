//! The headers, or trailers, that say how each link ended, how long it took and what it
//! used. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::portal::{LinkReport, Report};

/// The header with how each link ended, as a shell's `PIPESTATUS`.
pub(super) const PIPESTATUS: HeaderName = HeaderName::from_static("consecution-pipestatus");

/// The header with how long each link ran.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The header with what each link has used.
pub(super) const USAGE: HeaderName = HeaderName::from_static("consecution-usage");

/// The names of all of these headers, as `Trailer` announces them.
pub(super) const TRAILERS: HeaderValue =
    HeaderValue::from_static("Consecution-Pipestatus, Server-Timing, Consecution-Usage");

/// Inserts the headers for which `report` has something.
pub(super) fn insert(report: &Report, headers: &mut HeaderMap) {
    for (name, value) in [
        (PIPESTATUS, pipestatus(report)),
        (SERVER_TIMING, server_timing(report)),
        (USAGE, usage(report)),
    ] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
    }
}

/// `0,1,unread`: see [`LinkReport::status`].
pub(super) fn pipestatus(report: &Report) -> String {
    let links: Vec<_> = report.links.iter().map(LinkReport::status).collect();
    links.join(",")
}

/// `cat;dur=0.71, grep;dur=1.2;desc="joined"`: the times are in milliseconds. A joined link
/// was run together with the one before it. Links that never ran are left out.
fn server_timing(report: &Report) -> String {
    let mut text = String::new();
    for link in report.links.iter().filter(|link| link.ending.is_some()) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{};dur={}",
            token(&link.name),
            milliseconds(link.elapsed)
        );
        if link.is_joined {
            text.push_str(";desc=\"joined\"");
        }
    }
    text
}

/// `cat;cpu=0.0012;mem=1048576;in=17;out=17, grep;cpu=0.0007`: seconds and bytes. Links that
/// never ran, or of which nothing was counted, are left out.
fn usage(report: &Report) -> String {
    let mut text = String::new();
    for link in report.links.iter().filter(|link| !link.usage.is_unknown()) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{};{}", token(&link.name), link.usage);
    }
    text
}

/// A name as the header allows it: other characters become `_`.
fn token(name: &str) -> String {
    let is_token = |character: char| {
        character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
    };
    name.chars()
        .map(|character| if is_token(character) { character } else { '_' })
        .collect()
}

/// With two digits behind the point.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Ending, Usage};

    fn report(endings: &[Option<Ending>]) -> Report {
        let link = |(at, ending): (usize, &Option<Ending>)| LinkReport {
            name: format!("lïnk {at}"),
            ending: ending.clone(),
            elapsed: Duration::from_micros(1_234),
            runner: None,
            is_joined: at == 2,
            usage: Usage::default(),
            limit: None,
        };
        Report {
            links: endings.iter().enumerate().map(link).collect(),
        }
    }

    #[test]
    fn numbers_are_the_process_s_own_and_words_are_ours() {
        let report = report(&[
            Some(Ending::Exited(0)),
            Some(Ending::Exited(255)),
            Some(Ending::Signalled(9)),
            Some(Ending::Unread),
            Some(Ending::Cut),
            Some(Ending::DeadlinePassed),
            Some(Ending::Lost("gone".into())),
            None,
        ]);
        assert_eq!(pipestatus(&report), "0,255,137,unread,cut,deadline,lost,-");
    }

    #[test]
    fn times_stand_behind_names_that_a_header_takes() {
        let report = report(&[Some(Ending::Exited(0)), None, Some(Ending::Unread)]);
        assert_eq!(
            server_timing(&report),
            "l_nk_0;dur=1.23, l_nk_2;dur=1.23;desc=\"joined\""
        );
        let mut headers = HeaderMap::new();
        insert(&report, &mut headers);
        assert_eq!(headers[PIPESTATUS], "0,-,unread");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn what_was_used_stands_behind_names_as_far_as_it_was_counted() {
        let ended = Some(Ending::Exited(0));
        let mut report = report(&[ended.clone(), ended.clone(), None, ended]);
        report.links[0].usage = Usage {
            cpu: Some(Duration::from_micros(1_234)),
            memory: Some(1 << 20),
            bytes_in: Some(17),
            bytes_out: Some(5),
        };
        report.links[3].usage.bytes_out = Some(3);
        let mut headers = HeaderMap::new();
        insert(&report, &mut headers);
        assert_eq!(
            headers[USAGE],
            "l_nk_0;cpu=0.001234;mem=1048576;in=17;out=5, l_nk_3;out=3"
        );
        for name in headers.keys() {
            let named = TRAILERS.to_str().unwrap().to_lowercase();
            assert!(named.split(", ").any(|trailer| name == trailer), "{name}");
        }
    }
}
