//! From key paths back to lines and columns.
//!
//! Positions are not kept while the file is read (serde has no place for them). When something is wrong, the text is
//! walked once more (`survey::walk`), for all paths at once. This costs nothing for a correct file.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::survey::{YamlEvent, walk};

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

/// Line and column, from 1 and in characters.
type Position = (usize, usize);

/// Finds the position of each path's end, or of the nearest thing above it that can be found: the value of an alias
/// stands at its anchor, so a path through an alias ends there.
pub(in crate::config) fn locate(text: &str, wanted: &[Option<(&KeyPath, Aim)>]) -> Vec<Option<Position>> {
    let mut search = PositionSearch { points: vec![Point::default()], open: vec![] };
    let ends: Vec<Option<usize>> = wanted.iter().map(|one| one.map(|(path, _)| search.want(path))).collect();
    if ends.iter().all(Option::is_none) {
        return vec![None; wanted.len()];
    }
    let mut is_top = true;
    walk(text, |event, at| {
        search.take(event, at, std::mem::take(&mut is_top));
        // One document is all there is.
        if search.open.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let ends = wanted.iter().zip(&ends);
    ends.map(|(one, end)| one.zip(*end).and_then(|((_, aim), end)| search.place(end, aim))).collect()
}

/// A wanted path, or the beginning of one.
#[derive(Default)]
struct Point {
    above: usize,
    is_key: bool,
    below: HashMap<KeyStep, usize>,
    key: Option<Position>,
    second: Option<Position>,
    value: Option<Position>,
}

/// A map or list that is not closed yet.
struct OpenCollection {
    /// The point that it is the value of, if more is wanted of it.
    point: Option<usize>,
    /// Elements of a list so far.
    count: usize,
    is_map: bool,
    /// Of a map: the value of a key is next, and this is the key's point.
    value_of: Option<Option<usize>>,
}

struct PositionSearch {
    /// The first is the top.
    points: Vec<Point>,
    open: Vec<OpenCollection>,
}

impl PositionSearch {
    /// Returns the point at the end of `path`.
    fn want(&mut self, path: &KeyPath) -> usize {
        path.steps().iter().fold(0, |above, step| match self.points[above].below.get(step) {
            Some(point) => *point,
            None => {
                let point = self.points.len();
                self.points.push(Point { above, is_key: matches!(step, KeyStep::Key(_)), ..Point::default() });
                self.points[above].below.insert(step.clone(), point);
                point
            }
        })
    }

    fn take(&mut self, event: YamlEvent<'_>, at: Position, is_top: bool) {
        if matches!(event, YamlEvent::End) {
            self.open.pop();
            return;
        }
        let point = match self.open.last_mut() {
            None => is_top.then_some(0),
            Some(OpenCollection { is_map: true, value_of: value_of @ None, point, .. }) => {
                // A key. The parser refuses one that is not a scalar.
                let below = point.and_then(|point| match event {
                    YamlEvent::Scalar { value, .. } => {
                        let key = KeyStep::Key(String::from_utf8_lossy(value).into_owned());
                        self.points[point].below.get(&key).copied()
                    }
                    _ => None,
                });
                if let Some(key) = below.map(|key| &mut self.points[key]) {
                    match key.key {
                        None => key.key = Some(at),
                        Some(_) => key.second = key.second.or(Some(at)),
                    }
                }
                *value_of = Some(below);
                if matches!(event, YamlEvent::StartMap { .. } | YamlEvent::StartList { .. }) {
                    self.open(event, None);
                }
                return;
            }
            Some(OpenCollection { is_map: true, value_of, .. }) => value_of.take().flatten(),
            Some(OpenCollection { count, point, .. }) => {
                *count += 1;
                point.and_then(|point| self.points[point].below.get(&KeyStep::Index(*count - 1)).copied())
            }
        };
        let is_first = point.is_some_and(|point| self.points[point].value.is_none());
        if let Some(point) = point.filter(|_| is_first) {
            self.points[point].value = Some(at);
        }
        // The second value of a key does not count.
        self.open(event, point.filter(|_| is_first));
    }

    fn open(&mut self, event: YamlEvent<'_>, point: Option<usize>) {
        let is_map = match event {
            YamlEvent::StartMap { .. } => true,
            YamlEvent::StartList { .. } => false,
            _ => return,
        };
        self.open.push(OpenCollection { point, count: 0, is_map, value_of: None });
    }

    fn place(&self, end: usize, aim: Aim) -> Option<Position> {
        let (mut end, mut aim) = (end, aim);
        loop {
            let point = &self.points[end];
            let found = match aim {
                // An element has no key to point at; the top has nothing at all.
                _ if !point.is_key => point.value,
                Aim::Key => point.key,
                Aim::SecondKey => point.second,
                Aim::Value => point.value,
            };
            if found.is_some() || end == 0 {
                return found;
            }
            (end, aim) = (point.above, Aim::Key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_paths_are_found_on_one_walk() {
        let text = "a: 1\nb: &b { c: [x, { d: 2 }], c: 3 }\né: { f: *b }\n";
        let path = |steps: &[KeyStep]| KeyPath::from_steps(steps.to_vec());
        let key = |key: &str| KeyStep::Key(key.to_owned());
        let cases = [
            (path(&[key("a")]), Aim::Key, Some((1, 1))),
            (path(&[key("a")]), Aim::Value, Some((1, 4))),
            (path(&[key("b"), key("c")]), Aim::Key, Some((2, 9))),
            (path(&[key("b"), key("c")]), Aim::SecondKey, Some((2, 27))),
            (path(&[key("b"), key("c"), KeyStep::Index(1), key("d")]), Aim::Value, Some((2, 21))),
            // A missing value has the position of what contains it.
            (path(&[key("b"), key("c"), KeyStep::Index(7), key("d")]), Aim::Value, Some((2, 9))),
            (path(&[key("b"), key("z")]), Aim::Value, Some((2, 1))),
            (path(&[key("z")]), Aim::Value, Some((1, 1))),
            (path(&[key("é"), key("f"), key("c")]), Aim::Value, Some((3, 6))),
            (path(&[key("é"), key("f")]), Aim::Value, Some((3, 9))),
        ];
        let wanted: Vec<_> = cases.iter().map(|(path, aim, _)| Some((path, *aim))).chain([None]).collect();
        let expected: Vec<_> = cases.iter().map(|(_, _, place)| *place).chain([None]).collect();
        assert_eq!(locate(text, &wanted), expected);
    }
}
