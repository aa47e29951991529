//! What comes out of an import: the text, and how much was understood.

use std::fmt;

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, as YAML.
    pub yaml: String,
    /// How much was understood.
    pub summary: Summary,
}

/// How much was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The directives that were read.
    pub directives: usize,
    /// Those that were not, or only in part: place, name, and why.
    pub lost: Vec<Lost>,
}

/// Something that was not understood, or only in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// File and line.
    pub place: String,
    /// What is written there, shortened.
    pub what: String,
    /// Why, and what happens instead.
    pub why: String,
    /// Whether it kept somebody out.
    pub is_guard: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.place, self.what, self.why)
    }
}

impl Summary {
    /// The sentence with the numbers.
    pub fn sentence(&self) -> String {
        let (all, lost) = (self.directives, self.lost.len());
        format!("{} of {all} directives understood", all.saturating_sub(lost))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.sentence())?;
        let (guards, others): (Vec<&Lost>, Vec<&Lost>) = self.lost.iter().partition(|lost| lost.is_guard);
        for (title, list) in [("\nwho may come in, look at these first:", guards), ("\nnot, or only in part:", others)]
        {
            if !list.is_empty() {
                write!(out, "{title}")?;
            }
            for lost in list {
                write!(out, "\n  {lost}")?;
            }
        }
        Ok(())
    }
}
