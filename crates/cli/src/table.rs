//! Columns of text, as wide as they have to be.

/// The space between columns.
const GAP: usize = 3;

/// A table with a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns can be cut by programs like `awk` too.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len(), "a cell for each column");
        self.rows.push(cells.into_iter().map(|c| if c.is_empty() { "-".to_owned() } else { c }).collect());
    }

    /// The text, with a line for the head and one for each row, without spaces at the ends of lines.
    pub(crate) fn text(&self) -> String {
        let head = self.head.iter().map(|h| (*h).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for line in lines {
            let mut shown = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                shown.push_str(cell);
                shown.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a".to_owned(), String::new()]);
        table.row(["längste".to_owned(), "12".to_owned()]);
        assert_eq!(table.text(), "NAME      N\na         -\nlängste   12\n");
    }
}
