//! Prints results as a table, and writes them as JSON and as a plot.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::measure::Samples;
use crate::plot;

/// The results of a group.
pub(crate) struct Findings {
    /// The group, as a file name.
    pub(crate) name: &'static str,
    /// What was measured, in one line.
    pub(crate) what: String,
    /// Ratios, and other figures with bounds.
    pub(crate) rows: Vec<Row>,
    /// Absolute figures.
    pub(crate) absolute: Vec<Row>,
}

/// One figure.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) measured: f64,
    /// The least and the most of its samples, if it is a median.
    pub(crate) spread: Option<(f64, f64)>,
    pub(crate) asked: Option<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    Ratio,
    PerSecond,
    ThousandInstructions,
    Milliseconds,
    Mebibytes,
    MebibytesPerSecond,
    MillisecondsPerMebibyte,
}

/// The bound and the aim of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) at_least: f64,
    pub(crate) aim: f64,
}

impl Asked {
    /// Whether `measured` is as good as `bound`. Better is the direction from the bound to the
    /// aim.
    fn is_reached(self, measured: f64, bound: f64) -> bool {
        if self.aim >= self.at_least {
            measured >= bound
        } else {
            measured <= bound
        }
    }

    fn verdict(self, measured: f64) -> &'static str {
        match () {
            () if self.is_reached(measured, self.aim) => "aim reached",
            () if self.is_reached(measured, self.at_least) => "reached",
            () => "NOT reached",
        }
    }
}

impl Row {
    /// The median of samples, and their spread.
    pub(crate) fn new(what: impl Into<String>, unit: Unit, samples: &Samples) -> Row {
        Row {
            what: what.into(),
            unit,
            measured: samples.median(),
            spread: Some((samples.least(), samples.most())),
            asked: None,
        }
    }

    /// One figure.
    pub(crate) fn single(what: impl Into<String>, unit: Unit, measured: f64) -> Row {
        Row {
            what: what.into(),
            unit,
            measured,
            spread: None,
            asked: None,
        }
    }

    pub(crate) fn asked(mut self, at_least: f64, aim: f64) -> Row {
        self.asked = Some(Asked { at_least, aim });
        self
    }

    fn as_json(&self) -> Value {
        let mut row = Map::new();
        row.insert("what".to_owned(), json!(self.what));
        row.insert("unit".to_owned(), json!(self.unit.name()));
        row.insert("measured".to_owned(), json!(rounded(self.measured)));
        if let Some((least, most)) = self.spread {
            row.insert("least".to_owned(), json!(rounded(least)));
            row.insert("most".to_owned(), json!(rounded(most)));
        }
        if let Some(asked) = self.asked {
            row.insert("at_least".to_owned(), json!(asked.at_least));
            row.insert("aim".to_owned(), json!(asked.aim));
            row.insert("verdict".to_owned(), json!(asked.verdict(self.measured)));
        }
        Value::Object(row)
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Ratio => "",
            Unit::PerSecond => "/s",
            Unit::ThousandInstructions => "k",
            Unit::Milliseconds => "ms",
            Unit::Mebibytes => "MiB",
            Unit::MebibytesPerSecond => "MiB/s",
            Unit::MillisecondsPerMebibyte => "ms/MiB",
        }
    }

    /// A value, for people.
    pub(crate) fn show(self, value: f64) -> String {
        let digits = match value.abs() {
            value if value >= 100.0 => 0,
            value if value >= 10.0 => 1,
            value if value >= 1.0 => 2,
            _ => 3,
        };
        format!("{value:.digits$} {}", self.name())
            .trim_end()
            .to_owned()
    }
}

/// Rounds to four digits: no figure here is more accurate.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

pub(crate) fn print_machine(ran_on: &Value) {
    println!("Measured on");
    for (name, value) in ran_on.as_object().into_iter().flatten() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        println!("  {name:12} {value}");
    }
}

pub(crate) fn print(findings: &Findings) {
    println!("\n{}: {}\n", findings.name, findings.what);
    let width = |rows: &[Row]| rows.iter().map(|row| row.what.chars().count()).max();
    let width = width(&findings.rows)
        .max(width(&findings.absolute))
        .unwrap_or(0);
    let heading = ["measured", "at least", "aim"];
    let [measured, at_least, aim] = heading;
    println!("  {:width$} {measured:>11} {at_least:>11} {aim:>11}", "");
    for row in &findings.rows {
        let asked = row.asked.map(|asked| {
            let (at_least, aim) = (row.unit.show(asked.at_least), row.unit.show(asked.aim));
            format!(" {at_least:>11} {aim:>11}  {}", asked.verdict(row.measured))
        });
        println!("{}{}", line(row, width), asked.unwrap_or_default());
    }
    println!("\n  {:width$} {:>11} {:>26}", "", "median", "least to most");
    for row in &findings.absolute {
        let spread = row.spread.map(|(least, most)| {
            let spread = format!("{} to {}", row.unit.show(least), row.unit.show(most));
            format!(" {spread:>26}")
        });
        println!("{}{}", line(row, width), spread.unwrap_or_default());
    }
}

fn line(row: &Row, width: usize) -> String {
    format!("  {:width$} {:>11}", row.what, row.unit.show(row.measured))
}

/// Writes the results into the folder. Results of other groups stay there.
pub(crate) fn keep(findings: &Findings, ran_on: &Value, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("latest.json");
    let failed = || format!("failed to write {}", path.display());
    let earlier = std::fs::read(&path).unwrap_or_default();
    let mut groups: Map<String, Value> = serde_json::from_slice(&earlier).unwrap_or_default();
    let as_json = |rows: &[Row]| rows.iter().map(Row::as_json).collect::<Vec<_>>();
    let found = json!({
        "what": findings.what,
        "ran_on": ran_on,
        "rows": as_json(&findings.rows),
        "absolute": as_json(&findings.absolute),
    });
    groups.insert(findings.name.to_owned(), found);
    let text = serde_json::to_string_pretty(&groups)? + "\n";
    std::fs::create_dir_all(folder).with_context(failed)?;
    std::fs::write(&path, text).with_context(failed)?;
    let plot = folder.join(format!("{}.svg", findings.name));
    std::fs::write(&plot, plot::ratios(findings))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Asked, Unit, rounded};

    #[test]
    fn the_aim_says_which_way_is_better() {
        let throughput = Asked {
            at_least: 0.5,
            aim: 0.9,
        };
        assert_eq!(throughput.verdict(0.95), "aim reached");
        assert_eq!(throughput.verdict(0.5), "reached");
        assert_eq!(throughput.verdict(0.4), "NOT reached");
        let memory = Asked {
            at_least: 64.0,
            aim: 32.0,
        };
        assert_eq!(memory.verdict(20.0), "aim reached");
        assert_eq!(memory.verdict(64.0), "reached");
        assert_eq!(memory.verdict(65.0), "NOT reached");
        assert_eq!(memory.verdict(f64::NAN), "NOT reached");
    }

    #[test]
    fn figures_have_as_many_digits_as_they_are_worth() {
        assert_eq!(Unit::Ratio.show(0.12345), "0.123");
        assert_eq!(Unit::Milliseconds.show(12.34), "12.3 ms");
        assert_eq!(Unit::MebibytesPerSecond.show(1234.5), "1234 MiB/s");
        assert_eq!(rounded(0.123456), 0.1235);
        assert_eq!(rounded(123456.0), 123500.0);
    }
}
