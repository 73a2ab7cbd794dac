//! Tables on standard output: a row a line, columns aligned.

use std::ops::Range;

/// A line for each row. All but the last column are as wide as their widest cell.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    rows.iter().map(move |row| {
        let cells = row.iter().zip(widths).enumerate();
        cells.fold(String::new(), |line, (column, (cell, width))| {
            match column + 1 == N {
                true => line + cell,
                false => line + &format!("{cell:width$}  "),
            }
        })
    })
}

/// Makes the cells of these columns as wide as the widest of each, with what they have at
/// their right end, as numbers are read.
pub(crate) fn align_right<const N: usize>(rows: &mut [[String; N]], columns: Range<usize>) {
    for column in columns {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let width = cells.max().unwrap_or(0);
        for row in &mut *rows {
            row[column] = format!("{:>width$}", row[column]);
        }
    }
}

/// Rows under a heading.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut all = vec![heading.map(str::to_owned)];
    all.extend(rows);
    text(&all)
}

/// Rows as they are.
pub(crate) fn text<const N: usize>(rows: &[[String; N]]) -> String {
    aligned(rows).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_cell() {
        let rows = vec![["1".to_owned(), "é".to_owned(), "x y".to_owned()]];
        assert_eq!(
            super::table(["ID", "B", "C"], rows),
            "ID  B  C\n1   é  x y\n"
        );
    }
}
