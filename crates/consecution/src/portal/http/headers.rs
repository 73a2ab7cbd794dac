//! The headers, or trailers, that say how each link ended and how long it took. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::portal::{LinkReport, Report};
use crate::transport::{Ending, status_of_signal};

/// The header with how each link ended, as a shell's `PIPESTATUS`.
pub(super) const PIPESTATUS: HeaderName = HeaderName::from_static("consecution-pipestatus");

/// The header with how long each link ran.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Inserts both headers, unless `report` has nothing for them.
pub(super) fn insert(report: &Report, headers: &mut HeaderMap) {
    for (name, value) in [
        (PIPESTATUS, pipestatus(report)),
        (SERVER_TIMING, server_timing(report)),
    ] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
    }
}

/// `0,1,unread`: a number is the process's own status, as in a shell; a word says why we
/// stopped it; `-` means that it was never started, or that its end is unknown.
pub(super) fn pipestatus(report: &Report) -> String {
    let links: Vec<_> = report.links.iter().map(status).collect();
    links.join(",")
}

fn status(link: &LinkReport) -> String {
    let word = match &link.ending {
        Some(Ending::Exited(code)) => return code.to_string(),
        Some(Ending::Signalled(signal)) => return status_of_signal(*signal).to_string(),
        Some(Ending::Unread) => "unread",
        Some(Ending::Cut) => "cut",
        Some(Ending::DeadlinePassed) => "deadline",
        Some(Ending::Lost(_)) => "lost",
        Some(Ending::CannotStart(_)) => "cannot-start",
        None => "-",
    };
    word.to_owned()
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

    fn report(endings: &[Option<Ending>]) -> Report {
        let link = |(at, ending): (usize, &Option<Ending>)| LinkReport {
            name: format!("lïnk {at}"),
            ending: ending.clone(),
            elapsed: Duration::from_micros(1_234),
            runner: None,
            is_joined: at == 2,
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
}
