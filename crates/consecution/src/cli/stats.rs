//! `--stats` of `run` and `send`: what each link of a run has used, as a table on standard
//! error.

use std::io::Write as _;
use std::time::Duration;

use indicatif::HumanBytes;

use super::table::{align_right, table};
use crate::portal::{LinkReport, Report};
use crate::text;

const HEADING: [&str; 7] = ["LINK", "STATUS", "TIME", "CPU", "MEMORY", "IN", "OUT"];

/// The columns of [`HEADING`] that have numbers.
const NUMBERS: std::ops::Range<usize> = 2..7;

/// Prints the table.
pub(super) fn print(report: &Report) {
    // Standard error may be closed: then there is nowhere to print.
    let _ = std::io::stderr().write_all(of_report(report).as_bytes());
}

fn of_report(report: &Report) -> String {
    let mut rows = vec![HEADING.map(str::to_owned)];
    rows.extend(report.links.iter().map(row));
    align_right(&mut rows, NUMBERS);
    let mut rows = rows.into_iter();
    let heading = rows.next().unwrap_or_default();
    table(heading.each_ref().map(String::as_str), rows.collect())
}

fn row(link: &LinkReport) -> [String; HEADING.len()] {
    let bytes = |bytes| or_dash(bytes, |bytes| HumanBytes(bytes).to_string());
    let elapsed = link.ending.is_some().then_some(link.elapsed);
    [
        text::line(&link.name).into_owned(),
        link.status().into_owned(),
        or_dash(elapsed, time),
        or_dash(link.usage.cpu, time),
        bytes(link.usage.memory),
        bytes(link.usage.bytes_in),
        bytes(link.usage.bytes_out),
    ]
}

/// `-` stands for what was not counted.
fn or_dash<T>(value: Option<T>, shown: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), shown)
}

/// `0.71 ms`, `12.30 s`, `2m 03s`, `1h 02m`: to a hundredth as far as people compare that.
fn time(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match time.as_secs() {
        0 => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
        1..60 => format!("{:.2} s", time.as_secs_f64()),
        60..3600 => format!("{minutes}m {:02}s", time.as_secs() % 60),
        _ => format!("{}h {:02}m", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Ending, Usage};

    #[test]
    fn each_link_has_a_row_and_numbers_stand_one_above_the_other() {
        let link = |name: &str, ending, elapsed, usage| LinkReport {
            name: name.to_owned(),
            ending,
            elapsed,
            runner: None,
            is_joined: false,
            usage,
            limit: None,
        };
        let all = Usage {
            cpu: Some(Duration::from_micros(1_230)),
            memory: Some(3 << 20),
            bytes_in: Some(17),
            bytes_out: Some(12 << 30),
        };
        let exited = |code| Some(Ending::Exited(code));
        let report = Report {
            links: vec![
                link("cat", exited(0), Duration::from_millis(12), all),
                link(
                    "e\nvil",
                    exited(3),
                    Duration::from_secs(123),
                    Usage::default(),
                ),
                link("sort", None, Duration::ZERO, Usage::default()),
            ],
        };
        let wanted = "\
LINK    STATUS      TIME      CPU    MEMORY    IN        OUT
cat     0       12.00 ms  1.23 ms  3.00 MiB  17 B  12.00 GiB
e\\nvil  3         2m 03s        -         -     -          -
sort    -              -        -         -     -          -
";
        assert_eq!(of_report(&report), wanted);
    }

    #[test]
    fn times_are_as_people_read_them() {
        for (millis, wanted) in [
            (0, "0.00 ms"),
            (999, "999.00 ms"),
            (1_500, "1.50 s"),
            (59_990, "59.99 s"),
            (60_000, "1m 00s"),
            (3_720_000, "1h 02m"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), wanted);
        }
    }
}
