//! Draws ratios as bars, with marks for their bounds and aims, as SVG.

use std::fmt::Write as _;

use crate::report::{Findings, Row, Unit};

const WIDTH: f64 = 860.0;
const LABELS_WIDTH: f64 = 430.0;
const VALUES_WIDTH: f64 = 60.0;
const HEADING_HEIGHT: f64 = 48.0;
const ROW_HEIGHT: f64 = 30.0;
const BAR_HEIGHT: f64 = 16.0;

/// For light and dark pages alike.
const STYLE: &str = "text{font:13px sans-serif;fill:#24292f}\
.title{font-weight:600}\
.bar{fill:#4a7bb7}.asked{stroke:#b7563f;stroke-width:2}.aim{stroke:#3f8f4f;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#d0d7de}}";

/// A bar for each ratio, with marks for its bound and aim.
pub(crate) fn ratios(findings: &Findings) -> String {
    let is_ratio = |row: &&Row| row.unit == Unit::Ratio && row.measured.is_finite();
    let rows: Vec<&Row> = findings.rows.iter().filter(is_ratio).collect();
    let asked = |row: &Row| row.asked.map_or(0.0, |asked| asked.at_least.max(asked.aim));
    let most = rows.iter().map(|row| row.measured.max(asked(row)));
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS_WIDTH - VALUES_WIDTH) / most;
    let height = HEADING_HEIGHT + ROW_HEIGHT * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"18\">{}</text>\n\
         <text x=\"8\" y=\"36\">marks: at least (red), aim (green)</text>\n",
        escaped(&findings.what)
    );
    for (place, row) in rows.iter().enumerate() {
        let top = HEADING_HEIGHT + ROW_HEIGHT * place as f64;
        bar(&mut svg, row, top, scale);
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, row: &Row, top: f64, scale: f64) {
    let (baseline, bar_top) = (top + 17.0, top + (ROW_HEIGHT - BAR_HEIGHT) / 2.0 - 3.0);
    let length = row.measured * scale;
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<text x=\"{:.0}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\n\
         <rect class=\"bar\" x=\"{LABELS_WIDTH}\" y=\"{bar_top}\" width=\"{length:.1}\" \
         height=\"{BAR_HEIGHT}\"/>\n",
        LABELS_WIDTH - 8.0,
        escaped(&row.what),
    );
    let mut end = length;
    let marks = row
        .asked
        .map(|asked| [("asked", asked.at_least), ("aim", asked.aim)]);
    for (class, value) in marks.into_iter().flatten() {
        let x = LABELS_WIDTH + value * scale;
        end = end.max(value * scale);
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"/>",
            bar_top - 3.0,
            bar_top + BAR_HEIGHT + 3.0,
        );
    }
    let value = Unit::Ratio.show(row.measured);
    let x = LABELS_WIDTH + end + 6.0;
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{baseline}\">{value}</text>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
