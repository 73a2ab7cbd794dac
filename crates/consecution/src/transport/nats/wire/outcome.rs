//! How a call ended, as headers of a reply or of the last frame: one set for the called
//! link, and one for each joined link.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;

use super::header::{
    Malformed, REASON_BYTES_MAX, bad, escape_end, line, number, shortened, text_of, unescape, value,
};
use super::subject::{ENDING, ERROR, ERROR_CODE, OF_LINKS, OfLink};
use crate::transport::{
    Ending, HINT_BYTES_MAX, Limit, Outcome, OutputLeft, STDERR_TAIL_BYTES_MAX, Usage,
};

/// The most bytes of the line that describes a failure to people.
const ERROR_BYTES_MAX: usize = 1024;

/// The most bytes that each quoted line of standard error takes of that line.
const LINE_BYTES_MAX: usize = 200;

/// The most bytes of a joined link's reason. It is less than for the called link, since there
/// may be many joined links.
const JOINED_REASON_BYTES_MAX: usize = 64;

/// Reads how a call ended.
///
/// # Errors
/// The headers do not say how it ended.
pub(crate) fn read(headers: &HeaderMap) -> Result<Outcome, Malformed> {
    let mut links = Vec::new();
    for of_link in OF_LINKS.iter() {
        match value(headers, &of_link.ending) {
            Some(ending) => links.push(read_link(headers, of_link, ending)?),
            None => break,
        }
    }
    let mut links = links.into_iter();
    let first = links.next();
    let mut outcome = first.ok_or_else(|| bad(&ENDING, "", "no such ending"))?;
    outcome.joined = links.collect();
    Ok(outcome)
}

fn read_link(headers: &HeaderMap, of_link: &OfLink, ending: &str) -> Result<Outcome, Malformed> {
    let ending = ending_of(ending).ok_or_else(|| bad(&ENDING, ending, "no such ending"))?;
    let elapsed = value(headers, &of_link.elapsed_us).and_then(number);
    let elapsed = elapsed.unwrap_or(0);
    let mut stderr = unescape(value(headers, &of_link.stderr).unwrap_or_default());
    let surplus = stderr.len().saturating_sub(STDERR_TAIL_BYTES_MAX);
    stderr.drain(..surplus);
    Ok(Outcome {
        stderr: stderr.into(),
        elapsed: Duration::from_micros(elapsed),
        hint: value(headers, &of_link.hint).map(hint_of),
        output: match value(headers, &of_link.output) {
            None => OutputLeft::Given,
            Some("missing") => OutputLeft::Missing,
            // What a later version says is no output either.
            Some(_) => OutputLeft::Odd,
        },
        usage: Usage::read(value(headers, &of_link.usage).unwrap_or_default()),
        limit: value(headers, &of_link.limit).and_then(Limit::of_name),
        ..Outcome::new(ending)
    })
}

fn hint_of(escaped: &str) -> Arc<str> {
    line(&text_of(escaped), HINT_BYTES_MAX).into()
}

fn ending_of(text: &str) -> Option<Ending> {
    let (word, detail) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "exited" => Ending::Exited(u8::try_from(number(detail)?).ok()?),
        "signalled" => Ending::Signalled(i32::try_from(number(detail)?).ok()?),
        "unread" => Ending::Unread,
        "cut" => Ending::Cut,
        "deadline" => Ending::DeadlinePassed,
        "lost" => Ending::Lost(text_of(detail)),
        "cannot-start" => Ending::CannotStart(text_of(detail)),
        _ => return None,
    })
}

/// Adds how a call ended, with hints and the end of standard error: at most `room` bytes
/// of these over all links, once escaped.
pub(crate) fn write(headers: &mut HeaderMap, outcome: &Outcome, runner: &str, room: usize) {
    let share = room / (1 + outcome.joined.len());
    for (at, (link, of_link)) in outcome.links().zip(OF_LINKS.iter()).enumerate() {
        let reason_bytes_max = match at {
            0 => REASON_BYTES_MAX,
            _ => JOINED_REASON_BYTES_MAX,
        };
        write_link(headers, of_link, link, reason_bytes_max, share);
    }
    // The links behind the first failed one usually failed because of it.
    let mut links = outcome.links().enumerate();
    let failed = links
        .find(|(_, link)| link.ending != Ending::Exited(0) || link.output != OutputLeft::Given);
    if let Some((at, link)) = failed {
        let who = match at {
            0 => "the link".to_owned(),
            _ => format!("the link in place {}", at + 1),
        };
        write_failure(headers, &who, link, runner);
    }
}

fn write_link(
    headers: &mut HeaderMap,
    of_link: &OfLink,
    link: &Outcome,
    reason_bytes_max: usize,
    room: usize,
) {
    let ending = match &link.ending {
        Ending::Exited(code) => format!("exited {code}"),
        Ending::Signalled(signal) => format!("signalled {signal}"),
        Ending::Unread => "unread".to_owned(),
        Ending::Cut => "cut".to_owned(),
        Ending::DeadlinePassed => "deadline".to_owned(),
        Ending::Lost(reason) => format!("lost {}", shortened(reason, reason_bytes_max)),
        Ending::CannotStart(reason) => {
            format!("cannot-start {}", shortened(reason, reason_bytes_max))
        }
    };
    headers.insert(of_link.ending.clone(), ending);
    match link.output {
        OutputLeft::Given => {}
        OutputLeft::Missing => headers.insert(of_link.output.clone(), "missing"),
        OutputLeft::Odd => headers.insert(of_link.output.clone(), "odd"),
    }
    let elapsed = u64::try_from(link.elapsed.as_micros()).unwrap_or(u64::MAX);
    headers.insert(of_link.elapsed_us.clone(), elapsed.to_string());
    if !link.usage.is_unknown() {
        headers.insert(of_link.usage.clone(), link.usage.to_string());
    }
    if let Some(limit) = link.limit {
        headers.insert(of_link.limit.clone(), limit.name());
    }
    let hint = link.hint.as_deref();
    let hint = hint.map(|hint| shortened(hint, HINT_BYTES_MAX));
    // A part of a hint is no use.
    let hint = hint.filter(|hint| hint.len() <= room);
    let room = room - hint.as_ref().map_or(0, String::len);
    if let Some(hint) = hint {
        headers.insert(of_link.hint.clone(), hint);
    }
    if !link.stderr.is_empty() {
        headers.insert(of_link.stderr.clone(), escape_end(&link.stderr, room));
    }
}

fn write_failure(headers: &mut HeaderMap, who: &str, link: &Outcome, runner: &str) {
    let (code, what) = match &link.ending {
        Ending::Exited(0) => (502, format!("{who} left no output")),
        Ending::CannotStart(reason) => (502, format!("{who} cannot be started: {reason}")),
        Ending::Exited(code) => (502, format!("{who} exited with code {code}")),
        Ending::Signalled(signal) => (502, format!("signal {signal} ended {who}")),
        Ending::Unread => (502, format!("{who} was stopped: nobody read its output")),
        Ending::Cut => (502, format!("{who} was stopped: its input was cut off")),
        Ending::DeadlinePassed => (504, format!("{who} was stopped at its deadline")),
        Ending::Lost(reason) => (502, format!("{who} was lost: {reason}")),
    };
    let met = link
        .limit
        .map(|limit| format!(" at its limit {}", limit.name()));
    let (met, said) = (met.unwrap_or_default(), said(&link.stderr));
    let error = format!("{what}{met}{said}, on runner {runner}");
    write_error(headers, code, &error);
}

/// Adds what went wrong, as a number and as a line for people.
pub(crate) fn write_error(headers: &mut HeaderMap, code: u16, error: &str) {
    headers.insert(ERROR_CODE.clone(), code.to_string());
    headers.insert(ERROR.clone(), line(error, ERROR_BYTES_MAX));
}

/// The first and the last line of standard error, for people.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next_back()) {
        (None, _) => String::new(),
        (Some(only), None) => format!(": {}", line(only, LINE_BYTES_MAX)),
        (Some(first), Some(last)) => format!(
            ": {} … {}",
            line(first, LINE_BYTES_MAX),
            line(last, LINE_BYTES_MAX)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::CallId;
    use crate::transport::FOLLOWING_MAX;
    use crate::transport::nats::wire::{header, header_block, reply, subject};

    fn exited(code: u8, stderr: &'static str) -> Outcome {
        Outcome {
            stderr: stderr.into(),
            elapsed: Duration::from_micros(u64::from(code) + 7),
            hint: (code > 1).then(|| "100 % of it is ä mystery".into()),
            ..Outcome::new(Ending::Exited(code))
        }
    }

    fn used() -> Usage {
        Usage {
            cpu: Some(Duration::from_micros(1_000_001)),
            memory: Some(1 << 20),
            bytes_in: Some(17),
            bytes_out: Some(0),
        }
    }

    fn written(outcome: &Outcome, room: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        write(&mut headers, outcome, "runner", room);
        headers
    }

    #[test]
    fn the_outcomes_of_several_links_read_back_as_written() {
        let several = Outcome {
            joined: vec![
                exited(3, "second"),
                Outcome::new(Ending::Cut),
                Outcome::new(Ending::Lost("gone".into())),
                Outcome::new(Ending::CannotStart("no room".into())),
                Outcome {
                    output: OutputLeft::Missing,
                    ..exited(0, "")
                },
                Outcome {
                    output: OutputLeft::Odd,
                    usage: used(),
                    limit: Some(Limit::Scratch),
                    ..exited(1, "")
                },
            ],
            usage: Usage {
                memory: None,
                ..used()
            },
            ..exited(0, "first")
        };
        assert_eq!(read(&written(&several, 1000)), Ok(several.clone()));
        let alone = exited(1, "");
        assert_eq!(read(&written(&alone, 1000)), Ok(alone.clone()));
    }

    #[test]
    fn the_first_link_that_failed_is_named() {
        let several = Outcome {
            joined: vec![exited(3, "no such thing"), Outcome::new(Ending::Cut)],
            ..exited(0, "")
        };
        let headers = written(&several, 1000);
        let error = value(&headers, &subject::ERROR);
        assert_eq!(
            error,
            Some("the link in place 2 exited with code 3: no such thing, on runner runner")
        );
        let headers = written(
            &Outcome {
                output: OutputLeft::Missing,
                ..exited(0, "")
            },
            1000,
        );
        let error = value(&headers, &subject::ERROR);
        assert_eq!(error, Some("the link left no output, on runner runner"));
        let headers = written(&exited(0, "says something"), 1000);
        assert_eq!(value(&headers, &subject::ERROR), None);
    }

    #[test]
    fn a_limit_is_named_and_one_that_is_unknown_does_no_harm() {
        let killed = Outcome {
            limit: Some(Limit::Memory),
            stderr: "no".into(),
            ..Outcome::new(Ending::Signalled(9))
        };
        let mut headers = written(&killed, 1000);
        let error = value(&headers, &subject::ERROR);
        assert_eq!(
            error,
            Some("signal 9 ended the link at its limit memory: no, on runner runner")
        );
        headers.insert(subject::LIMIT.clone(), "patience");
        headers.insert(subject::USAGE.clone(), "watts=3;cpu=?");
        let unknown = Outcome {
            limit: None,
            ..killed
        };
        assert_eq!(read(&headers), Ok(unknown));
    }

    #[test]
    fn a_hint_takes_its_room_from_standard_error_and_is_not_cut() {
        let hinted = exited(3, "as much as fits");
        let hint = hinted.hint.as_deref().unwrap().len();
        let read = |room| read(&written(&hinted, room)).unwrap();
        // Its percent sign and its letter are escaped.
        assert_eq!(read(hint + 6 - 1).hint, None);
        assert_eq!(read(hint + 6).hint, hinted.hint);
        assert_eq!(read(hint + 6).stderr, "");
        assert_eq!(read(1000), hinted);
    }

    #[test]
    fn a_hint_of_a_stranger_is_one_line_of_bounded_length() {
        let mut headers = written(&exited(1, ""), 1000);
        headers.insert(subject::HINT.clone(), format!("a%0Ab{}", "c".repeat(3000)));
        let hint = read(&headers).unwrap().hint.unwrap();
        assert!(
            hint.starts_with("a bcc") && hint.len() == HINT_BYTES_MAX,
            "{hint}"
        );
    }

    #[test]
    fn headers_stay_within_their_bound() {
        let lost = Outcome {
            elapsed: Duration::MAX,
            output: OutputLeft::Missing,
            usage: Usage {
                cpu: Some(Duration::MAX),
                memory: Some(u64::MAX),
                bytes_in: Some(u64::MAX),
                bytes_out: Some(u64::MAX),
            },
            limit: Some(Limit::Processes),
            ..Outcome::new(Ending::Lost("\n".repeat(2000).into()))
        };
        let several = Outcome {
            joined: vec![lost.clone(); FOLLOWING_MAX],
            ..lost
        };
        let headers = written(&several, 0);
        let lines = headers.iter().map(|(name, values)| {
            let name: &str = name.as_ref();
            let values = values
                .iter()
                .map(|value| value.as_str().len() + name.len() + 4);
            values.sum::<usize>()
        });
        let bytes: usize = lines.sum();
        let others = reply::about(&CallId::new(None), &"r".repeat(128));
        let others = header_block::write(&others).len();
        let bytes = bytes + others;
        assert!(bytes < header::HEADERS_BYTES_MAX, "{bytes} bytes");
    }
}
