//! Tables on standard output: a heading, one line per row, columns aligned.

use std::fmt::Write as _;

/// Rows under a heading. All but the last column are as wide as their widest
/// cell.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let all = || std::iter::once(&heading).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = all().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in all() {
        for (column, cell) in row.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = match column + 1 == N {
                true => writeln!(text, "{cell}"),
                false => write!(text, "{cell:0$}  ", widths[column]),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_cell() {
        let rows = [["1".to_owned(), "é".to_owned(), "x y".to_owned()]];
        assert_eq!(
            super::table(["ID", "B", "C"], &rows),
            "ID  B  C\n1   é  x y\n"
        );
    }
}
