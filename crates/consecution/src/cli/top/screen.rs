//! The figures as text for a terminal. Pure.

use std::fmt::Write as _;

use super::super::table::{align_right, table};
use super::figures::{Chain, Figures, Recent, Window};
use crate::text;

const HEADING: [&str; 7] = [
    "CHAIN",
    "CALLS/S",
    "MEDIAN",
    "SLOW 5%",
    "IN FLIGHT",
    "FAILED",
    "LINKS",
];

/// The columns of [`HEADING`] that have numbers.
const NUMBERS: std::ops::Range<usize> = 1..6;

/// The most lines about what is wrong, and about failures.
const LINES_MAX: usize = 5;

/// The most characters of such a line.
const LINE_CHARS_MAX: usize = 160;

/// The newest figures, in at most so many rows; chains that do not fit are counted.
pub(super) fn text(window: &Window, rows: Option<usize>) -> String {
    let Some(figures) = window.newest() else {
        return String::new();
    };
    let mut text = head(figures);
    for line in wrong(figures) {
        let _ = writeln!(text, "  {}", text::excerpt(&line, LINE_CHARS_MAX));
    }
    let failures = failures(figures);
    // Two empty lines and the heading.
    let taken = text.lines().count() + failures.len() + 4;
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(taken).max(1));
    let _ = write!(text, "\n{}", chains(window, figures, room));
    if !failures.is_empty() {
        text.push('\n');
    }
    for line in failures {
        let _ = writeln!(text, "{}", text::excerpt(&line, LINE_CHARS_MAX));
    }
    text
}

fn head(figures: &Figures) -> String {
    let broken = broken(figures);
    let state = if !figures.ready {
        let reason = figures.reason.as_deref().unwrap_or("no chain can be run");
        format!("not ready: {}", text::line(reason))
    } else if broken > 0 {
        format!("{broken} of {} chains cannot be run", figures.chains.len())
    } else if figures.runners.iter().any(|it| it.starved.is_some()) {
        "some runners cannot start processes".to_owned()
    } else {
        "all is well".to_owned()
    };
    let leaving = figures.runners.iter().filter(|it| it.draining).count();
    let leaving = match leaving {
        0 => String::new(),
        leaving => format!(" ({leaving} leaving)"),
    };
    format!(
        "{state} | version {}, up {}, runners: {}{leaving}, in flight: {}\n",
        text::line(&figures.version),
        up(figures.now - figures.started),
        figures.runners.len(),
        figures.in_flight,
    )
}

fn broken(figures: &Figures) -> usize {
    let is_broken = |chain: &&Chain| is_broken(figures, chain);
    figures.chains.iter().filter(is_broken).count()
}

fn is_broken(figures: &Figures, chain: &Chain) -> bool {
    figures.missing.iter().any(|it| it.chain == chain.name)
}

/// What is wrong, a line each.
fn wrong(figures: &Figures) -> Vec<String> {
    let links = figures.missing.iter().map(|it| {
        let number = it.link_index.saturating_add(1);
        format!(
            "{}, link {number} '{}': {}",
            it.chain, it.link_name, it.reason
        )
    });
    let runners = figures.runners.iter().filter_map(|it| {
        let name = it.name.as_deref().unwrap_or("in this process");
        Some(format!("runner {name}: {}", it.starved.as_deref()?))
    });
    let mut lines: Vec<_> = links.chain(runners).collect();
    let surplus = lines.len().saturating_sub(LINES_MAX);
    lines.truncate(LINES_MAX);
    if surplus > 0 {
        lines.push(format!("and {surplus} more"));
    }
    lines
}

/// The last failures, newest first.
fn failures(figures: &Figures) -> Vec<String> {
    let newest = figures.failures.iter().rev().take(LINES_MAX);
    newest
        .map(|it| {
            let ago = up(figures.now - it.at);
            let (chain, number) = (&it.chain, it.link_index.saturating_add(1));
            format!(
                "{ago} ago: {chain}, link {number} '{}' {}",
                it.link_name, it.reason
            )
        })
        .collect()
}

/// The table of chains: first those that cannot be run, then the busiest.
fn chains(window: &Window, figures: &Figures, room: usize) -> String {
    let mut chains: Vec<_> = figures
        .chains
        .iter()
        .map(|chain| (is_broken(figures, chain), window.recent(chain), chain))
        .collect();
    chains.sort_by(|(broken, recent, _), (other_broken, other, _)| {
        let busier = other.calls_per_second.total_cmp(&recent.calls_per_second);
        other_broken.cmp(broken).then(busier)
    });
    let left_out = chains.len().saturating_sub(room);
    let mut rows = vec![HEADING.map(str::to_owned)];
    let shown = chains.iter().take(room);
    rows.extend(shown.map(|(broken, recent, chain)| row(*broken, recent, chain)));
    align_right(&mut rows, NUMBERS);
    let mut rows = rows.into_iter();
    let heading = rows.next().unwrap_or_default();
    let mut text = table(heading.each_ref().map(String::as_str), rows.collect());
    if left_out > 0 {
        let _ = writeln!(text, "and {left_out} chains more");
    }
    text
}

fn row(is_broken: bool, recent: &Recent, chain: &Chain) -> [String; HEADING.len()] {
    let links = match is_broken {
        true => "cannot be run".to_owned(),
        false => {
            let links = chain.links.iter().enumerate().map(|(at, link)| {
                let share = recent.shares.as_ref().and_then(|shares| shares.get(at));
                let share =
                    share.map_or_else(String::new, |share| format!(" {:.0}%", 100.0 * share));
                let waiting = match link.processes.waiting {
                    0 => String::new(),
                    waiting => format!(" ({waiting} wait)"),
                };
                format!("{}{share}{waiting}", text::line(&link.name))
            });
            text::excerpt(&links.collect::<Vec<_>>().join(" | "), LINE_CHARS_MAX)
        }
    };
    [
        text::line(&chain.name).into_owned(),
        format!("{:.1}", recent.calls_per_second),
        milliseconds(recent.median),
        milliseconds(recent.slow),
        chain.in_flight.to_string(),
        recent.failed.to_string(),
        links,
    ]
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.1 => format!("{:.2} ms", seconds * 1000.0),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// A time in the largest unit that it has at least two of.
fn up(seconds: f64) -> String {
    for (unit, name) in [(86_400.0, "d"), (3600.0, "h"), (60.0, "min")] {
        if seconds >= 2.0 * unit {
            return format!("{:.0} {name}", (seconds / unit).floor());
        }
    }
    format!("{:.0} s", seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Failure, Link, Missing, Runner};
    use super::*;

    fn chain(name: &str, calls: u64) -> Chain {
        Chain {
            name: name.into(),
            calls,
            links: vec![Link {
                name: "c\u{1b}at".into(),
                seconds: 1.0,
                ..Link::default()
            }],
            ..Chain::default()
        }
    }

    fn window(chains: usize) -> Window {
        let figures = |now, calls| Figures {
            version: "1.2.3".into(),
            now,
            ready: true,
            chains: (0..chains)
                .map(|at| chain(&format!("chain-{at}"), calls * at as u64))
                .collect(),
            runners: vec![Runner::default()],
            missing: vec![Missing {
                chain: "chain-0".into(),
                link_name: "cat".into(),
                reason: "no runner serves the link".into(),
                ..Missing::default()
            }],
            failures: vec![Failure {
                at: 90.0,
                chain: "chain-1".into(),
                link_name: "cat".into(),
                reason: "exited with code 3".into(),
                ..Failure::default()
            }],
            ..Figures::default()
        };
        let mut window = Window::default();
        window.add(figures(90.0, 0));
        window.add(figures(100.0, 10));
        window
    }

    #[test]
    fn what_is_broken_comes_first_and_then_what_is_busy() {
        let wanted = "\
1 of 3 chains cannot be run | version 1.2.3, up 100 s, runners: 1, in flight: 0
  chain-0, link 1 'cat': no runner serves the link

CHAIN    CALLS/S  MEDIAN  SLOW 5%  IN FLIGHT  FAILED  LINKS
chain-0      0.0       -        -          0       0  cannot be run
chain-2      2.0       -        -          0       0  c\\u001bat
chain-1      1.0       -        -          0       0  c\\u001bat

10 s ago: chain-1, link 1 'cat' exited with code 3
";
        assert_eq!(text(&window(3), None), wanted);
    }

    #[test]
    fn it_fits_the_terminal() {
        for rows in [10, 24, 50] {
            let shown = text(&window(200), Some(rows));
            assert!(shown.lines().count() <= rows, "{shown}");
            assert!(shown.contains("chains more"));
        }
    }
}
