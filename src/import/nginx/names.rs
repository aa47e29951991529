//! Names for listeners, routes and upstreams: what wsluice allows, and each once.

use std::collections::{HashMap, HashSet};

/// The names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// The next number behind a name.
    next: HashMap<String, usize>,
}

impl Names {
    /// Returns the name, or one with a number behind it that nobody has, and takes it.
    pub(super) fn take(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let next = self.next.entry(name.clone()).or_insert(2);
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}-{next}");
            *next += 1;
        }
        name
    }
}

/// Returns a text fit for a name of wsluice.
pub(super) fn slug(text: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let mut slug = String::new();
    for c in text.chars().map(good).take(60) {
        if c != '-' || !slug.ends_with('-') {
            slug.push(c);
        }
    }
    let slug = slug.trim_matches(['-', '.']);
    if slug.is_empty() { "root".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_one_of_wsluice_and_given_once() {
        for (text, right) in [("/api/(.*)", "api-.-"), ("~ é", "root"), ("a b", "a-b"), ("10.0.0.1:80", "10.0.0.1-80")]
        {
            assert_eq!(slug(text), right.trim_matches(['-', '.']), "{text}");
        }
        let mut names = Names::default();
        assert_eq!(["a", "a", "a-2", "a"].map(|name| names.take(name)), ["a", "a-2", "a-2-2", "a-3"]);
    }
}
