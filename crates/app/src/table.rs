//! Columns of text side by side.

use crate::output::escaped;

/// Columns as wide as their widest cell, two spaces apart; the first is flush left, the others are flush
/// right.
pub fn table(columns: &[Vec<String>]) -> String {
    let shown = |column: &Vec<String>| column.iter().map(|cell| escaped(cell).into_owned()).collect();
    let columns: Vec<Vec<String>> = columns.iter().map(shown).collect();
    let width = |column: &Vec<String>| column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(width).collect();
    let rows = columns.first().map_or(0, Vec::len);
    let line = |row: usize| {
        let cells = columns.iter().zip(&widths).enumerate().map(|(index, (column, &width))| {
            if index == 0 { format!("{:<width$}", column[row]) } else { format!("  {:>width$}", column[row]) }
        });
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    (0..rows).map(line).collect()
}

/// A column: its title, then one cell for each row.
pub fn column<'a, Row: 'a>(
    title: &str,
    rows: impl IntoIterator<Item = &'a Row>,
    cell: impl Fn(&Row) -> String,
) -> Vec<String> {
    std::iter::once(title.to_owned()).chain(rows.into_iter().map(cell)).collect()
}
