//! From key paths back to lines and columns.
//!
//! Positions are not kept while the file is read (serde has no place for them). When something is wrong, the text is
//! walked once more, for all paths at once. This costs nothing for a correct file.

use crate::config::read::key::KeyPath;
use crate::config::read::outline::{Outline, PathEnd, Position};

/// Which part at the end of a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Aim {
    /// The key itself.
    Key,
    /// The key's second occurrence in its map.
    SecondKey,
    /// The value of the key.
    Value,
}

/// Where a path leads in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct Place {
    pub(in crate::config) at: Option<Position>,
    /// The path ends here; otherwise this is the nearest thing above it.
    pub(in crate::config) is_whole: bool,
}

/// Finds the position of each path's end, or of the nearest thing above it that can be found.
pub(in crate::config) fn locate(text: &str, wanted: &[(&KeyPath, Aim)]) -> Vec<Place> {
    if wanted.is_empty() {
        return vec![];
    }
    let outline = Outline::of(text);
    wanted.iter().map(|(path, aim)| place(outline.find(path.steps()), *aim)).collect()
}

fn place(end: PathEnd, aim: Aim) -> Place {
    let at = match aim {
        // An element has no key to point at; the top has nothing at all.
        _ if end.key.is_none() => end.value,
        _ if !end.is_whole => end.key,
        Aim::Key => end.key,
        Aim::SecondKey => end.second.or(end.key),
        Aim::Value => end.value.or(end.key),
    };
    Place { at, is_whole: end.is_whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::key::KeyStep;

    #[test]
    fn many_paths_are_found_on_one_walk() {
        let text = "\
a: 1
b: &b { c: [x, { d: 2 }], c: 3 }
é: { f: *b }
g: &g { <<: *b, h: 1 }
i: { <<: [{ j: 1 }, *g, *b], k: *g }
l:
";
        let path = |steps: &[KeyStep]| KeyPath::from_steps(steps.to_vec());
        let key = |key: &str| KeyStep::Key(key.to_owned());
        let cases = [
            (path(&[key("a")]), Aim::Key, (1, 1), true),
            (path(&[key("a")]), Aim::Value, (1, 4), true),
            (path(&[key("b"), key("c")]), Aim::Key, (2, 9), true),
            (path(&[key("b"), key("c")]), Aim::SecondKey, (2, 27), true),
            (path(&[key("b"), key("c"), KeyStep::Index(1), key("d")]), Aim::Value, (2, 21), true),
            // A missing value has the position of what contains it.
            (path(&[key("b"), key("c"), KeyStep::Index(7), key("d")]), Aim::Value, (2, 9), false),
            (path(&[key("b"), key("z")]), Aim::Value, (2, 1), false),
            (path(&[key("z")]), Aim::Value, (1, 1), false),
            // What an alias repeats stands at its anchor.
            (path(&[key("é"), key("f"), key("c")]), Aim::Value, (2, 12), true),
            (path(&[key("é"), key("f")]), Aim::Value, (3, 9), true),
            (path(&[key("é"), key("f"), key("z")]), Aim::Value, (3, 6), false),
            // So does what is merged; what is written beside it comes first.
            (path(&[key("g"), key("h")]), Aim::Value, (4, 20), true),
            (path(&[key("g"), key("c"), KeyStep::Index(0)]), Aim::Value, (2, 13), true),
            (path(&[key("i"), key("j")]), Aim::Key, (5, 13), true),
            (path(&[key("i"), key("h")]), Aim::Key, (4, 17), true),
            (path(&[key("i"), key("c")]), Aim::Key, (2, 9), true),
            (path(&[key("i"), key("k"), key("c")]), Aim::Key, (2, 9), true),
            (path(&[key("i"), key("<<")]), Aim::Key, (5, 6), true),
            (path(&[key("l"), key("m")]), Aim::Value, (6, 1), false),
        ];
        let wanted: Vec<_> = cases.iter().map(|(path, aim, ..)| (path, *aim)).collect();
        let expected: Vec<_> =
            cases.iter().map(|(_, _, at, is_whole)| Place { at: Some(*at), is_whole: *is_whole }).collect();
        for ((found, expected), case) in locate(text, &wanted).iter().zip(&expected).zip(&cases) {
            assert_eq!(found, expected, "{}", case.0);
        }
    }
}
