//! A table as aligned text and as Markdown.

pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// The first columns say what it is and read from the left; the others are figures.
const NAMES: usize = 2;

impl Table {
    pub fn new(columns: &[&str]) -> Table {
        Table { head: columns.iter().map(|&column| column.to_owned()).collect(), rows: Vec::new() }
    }

    pub fn add(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.head.len());
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn text(&self) -> String {
        let lines = self.aligned().map(|cells| cells.join("  ").trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }

    pub fn markdown(&self) -> String {
        let mut lines: Vec<String> = self.aligned().map(|cells| format!("| {} |", cells.join(" | "))).collect();
        let rule = self.widths().enumerate().map(|(column, width)| match column {
            0..NAMES => "-".repeat(width),
            _ => "-".repeat(width - 1) + ":",
        });
        lines.insert(1, format!("| {} |", rule.collect::<Vec<_>>().join(" | ")));
        lines.join("\n") + "\n"
    }

    fn aligned(&self) -> impl Iterator<Item = Vec<String>> {
        let widths: Vec<usize> = self.widths().collect();
        std::iter::once(&self.head).chain(&self.rows).map(move |row| {
            let cells = row.iter().zip(&widths).enumerate();
            cells
                .map(
                    |(column, (cell, width))| {
                        if column < NAMES { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                    },
                )
                .collect()
        })
    }

    fn widths(&self) -> impl Iterator<Item = usize> {
        let longest = |column: usize| self.rows.iter().chain([&self.head]).map(|row| row[column].chars().count()).max();
        (0..self.head.len()).map(move |column| longest(column).unwrap_or(0).max(2))
    }
}
